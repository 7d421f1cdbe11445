/*-------------------------------------------------------------------------
 *
 * audit/monitor.h
 *	  The worker "mlcache monitor" of one database: remembers how things went,
 *	  and raises alerts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_MONITOR_H
#define MLC_AUDIT_MONITOR_H

#include "postgres.h"

/*
 * Starts a monitor in every database that has a relay and no monitor.  For
 * the launcher, which is woken when one ends; returns ms until the next call.
 */
extern long mlc_monitor_tend(void);

extern PGDLLEXPORT void mlc_monitor_main(Datum arg);

#endif							/* MLC_AUDIT_MONITOR_H */
