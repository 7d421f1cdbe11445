/*-------------------------------------------------------------------------
 *
 * audit/alert.h
 *	  Findings become alerts: one when a condition begins, one when it ends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_ALERT_H
#define MLC_AUDIT_ALERT_H

#include "postgres.h"

#include "audit/health.h"

/* Is this alert of the history raised? */
extern bool mlc_alert_is_raised(MlcHistory *history, MlcFindingKind kind,
								const char *subject);

/*
 * Takes in what a look has found.  For each alert that begins or ends: a line
 * in the server log, and the same as a notification on channel mlcache_alert,
 * sent when the transaction commits.  For the monitor, in a transaction.
 */
extern void mlc_alert_update(MlcHistory *history, List *findings);

#endif							/* MLC_AUDIT_ALERT_H */
