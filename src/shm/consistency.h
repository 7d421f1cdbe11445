/*-------------------------------------------------------------------------
 *
 * shm/consistency.h
 *	  How coherent the caches were: copies compared with rows, those found
 *	  wrong, and how long commits took to arrive.
 *
 * By database, over windows of a minute, an hour and a day; of fixed size.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_SHM_CONSISTENCY_H
#define MLC_SHM_CONSISTENCY_H

#include "postgres.h"

#include "datatype/timestamp.h"

typedef enum MlcWindowKind
{
	MLC_LAST_MINUTE,
	MLC_LAST_HOUR,
	MLC_LAST_DAY
} MlcWindowKind;

#define MLC_WINDOWS (MLC_LAST_DAY + 1)

/* What a window saw; times in ms, -1 where no probe arrived. */
typedef struct MlcCoherence
{
	int64		checked;		/* copies that were compared */
	int64		violations;		/* of those, proven wrong */
	int64		probes;
	int64		overdue;		/* probes that did not arrive in time */
	double		p50;
	double		p99;
	double		p999;
	double		max;
} MlcCoherence;

/* Hooks for shared memory.  From _PG_init only. */
extern void mlc_consistency_init(void);

/* Counts for this database; forgets what is older than a day. */
extern void mlc_consistency_checked(int64 checked, int64 violations);

/* A probe arrived after so many microseconds; -1: not in time. */
extern void mlc_consistency_probe(int64 us);

/* Of this database; all zero where nothing has been counted. */
extern void mlc_consistency_read(MlcWindowKind kind, MlcCoherence *result);

/* Sums of this database since the server started, for counters. */
extern void mlc_consistency_totals(uint64 *checked, uint64 *violations);

/* This database begins anew. */
extern void mlc_consistency_reset(void);

#endif							/* MLC_SHM_CONSISTENCY_H */
