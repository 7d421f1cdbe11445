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

#include "nodes/nodes.h"
#include "utils/relcache.h"

/*
 * Parses a rule's filter over the columns of a relation, ready to execute, in
 * the current context.  ERROR 42601, 42703 or 42804 when it is no boolean
 * expression over them.
 */
extern Node *mlc_trigger_parse_filter(const char *filter, Relation relation);

#endif							/* MLC_CAPTURE_TRIGGER_H */
