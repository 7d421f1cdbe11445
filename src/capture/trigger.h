/*-------------------------------------------------------------------------
 *
 * capture/trigger.h
 *	  Trigger capture's expressions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_TRIGGER_H
#define MLC_CAPTURE_TRIGGER_H

#include "postgres.h"

#include "utils/relcache.h"

/*
 * ERROR 42601, 42703 or 42804 when a rule's filter is no boolean expression over
 * the columns of its relation.
 */
extern void mlc_trigger_check_filter(const char *filter, Relation relation);

#endif							/* MLC_CAPTURE_TRIGGER_H */
