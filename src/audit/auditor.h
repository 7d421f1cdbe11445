/*-------------------------------------------------------------------------
 *
 * audit/auditor.h
 *	  The worker "mlcache auditor" of one database: compares cached copies with
 *	  rows all the time, at a set rate, and measures how long commits take.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_AUDITOR_H
#define MLC_AUDIT_AUDITOR_H

#include "postgres.h"

/* For the launcher: see mlc_worker_tend(). */
extern long mlc_auditor_tend(void);

extern PGDLLEXPORT void mlc_auditor_main(Datum arg);

#endif							/* MLC_AUDIT_AUDITOR_H */
