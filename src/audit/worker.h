/*-------------------------------------------------------------------------
 *
 * audit/worker.h
 *	  Workers that stand beside the relay of a database: how they are started.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_WORKER_H
#define MLC_AUDIT_WORKER_H

#include "postgres.h"

#include "postmaster/bgworker.h"
#include "shm/segment.h"
#include "utils/timestamp.h"

#define MLC_WORKER_RESTART 10000	/* ms until one that died is started again */

/* One kind of worker; the launcher's memory of those that it started. */
typedef struct MlcWorkerKind
{
	const char *name;			/* backend_type */
	const char *function;		/* gets the relay's number */
	const char *lack;			/* what nobody does where it cannot start: a
								 * sentence */
	const bool *enabled;
	const int  *rate;			/* NULL, or not needed while it is 0 */
	struct
	{
		BackgroundWorkerHandle *handle;
		TimestampTz started_at;
	}			children[MLC_MAX_RELAYS];
} MlcWorkerKind;

/*
 * Starts one in every database that has a relay and none of the kind.  For the
 * launcher, which is woken when one ends; returns ms until the next call.
 */
extern long mlc_worker_tend(MlcWorkerKind *kind);

/* For the worker itself: is it still needed? */
extern bool mlc_worker_is_wanted(const MlcWorkerKind *kind,
								 MlcRelayShared *relay);

/* The start of a worker's main function: signals, database.  Its relay. */
extern MlcRelayShared *mlc_worker_begin(Datum arg);

#endif							/* MLC_AUDIT_WORKER_H */
