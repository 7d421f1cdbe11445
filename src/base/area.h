/*-------------------------------------------------------------------------
 *
 * base/area.h
 *	  Areas of shared memory, each with its locks, as a module asks for them
 *	  while the server starts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_BASE_AREA_H
#define MLC_BASE_AREA_H

#include "postgres.h"

#include "storage/lwlock.h"

typedef struct MlcArea
{
	const char *name;			/* in pg_shmem_allocations */
	Size		(*size) (void); /* in bytes; 0: not wanted */
	const char *tranche;		/* of its locks, or NULL */
	int			(*count_locks) (void);	/* NULL: one, where there is a tranche */

	/*
	 * Called at every start of the server, under AddinShmemInitLock.  Not
	 * found: sets up what is in there, which may be anything.
	 */
	void		(*attach) (void *memory, bool found, LWLockPadded *locks);
} MlcArea;

/* From _PG_init only; the area itself must stay. */
extern void mlc_area_want(const MlcArea *area);

#endif							/* MLC_BASE_AREA_H */
