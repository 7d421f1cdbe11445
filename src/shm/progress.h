/*-------------------------------------------------------------------------
 *
 * shm/progress.h
 *	  What long-running calls have done so far, for the view stat_progress.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_SHM_PROGRESS_H
#define MLC_SHM_PROGRESS_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* One call, under way or broken off, as others see it. */
typedef struct MlcProgressRow
{
	int			pid;
	TimestampTz failed;			/* when it broke off; 0: it is under way */
	const char *activity;		/* a constant: "audit", "warm" */
	Oid			relid;
	int64		done;
	int64		total;			/* 0: not known */
	double		rate;			/* done a second */
} MlcProgressRow;

/* Hooks for shared memory.  From _PG_init only. */
extern void mlc_progress_init(void);

/*
 * This process begins to work on a relation; shown until mlc_progress_end(),
 * or the end of the process.  Where the transaction, or savepoint, that it began
 * in is rolled back before, it has failed, and is shown as that for an hour, or
 * until the next one of this process or of a process in its place.  activity is
 * a constant.  One at a time: a second one takes the place of the first.
 */
extern void mlc_progress_begin(const char *activity, Oid relid, int64 total);
extern void mlc_progress_add(int64 done);
extern void mlc_progress_total(int64 total);
extern void mlc_progress_end(void);

/* Those of this database, allocated in the current context. */
extern int	mlc_progress_list(MlcProgressRow **rows);

#endif							/* MLC_SHM_PROGRESS_H */
