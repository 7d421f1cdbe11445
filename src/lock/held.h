/*-------------------------------------------------------------------------
 *
 * lock/held.h
 *	  Which locks this session holds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_LOCK_HELD_H
#define MLC_LOCK_HELD_H

#include "postgres.h"

#include "lock/registry.h"
#include "utils/hsearch.h"

typedef struct MlcHeld
{
	char		name[MLC_LOCK_NAME_LEN];	/* hash key */
	MlcLockSlot *slot;
	bool		shared;
	int			sessions;		/* how often for the session */
	int			level;			/* nest level of the transaction's; 0: none */
} MlcHeld;

/* All of them, to walk over; NULL before mlc_held_begin(). */
extern HTAB *mlc_held;

/* What Redis knows this session by. */
extern char mlc_held_owner[MLC_LOCK_OWNER_LEN];

/* Transaction callbacks.  From _PG_init only. */
extern void mlc_held_init(void);

/* Before a session's first lock; more than once is fine. */
extern void mlc_held_begin(void);

/* NULL: it holds none of this name. */
extern MlcHeld *mlc_held_find(const char *name);

/* The lock on a path above name that holds it, too; NULL: none. */
extern MlcHeld *mlc_held_cover(const char *name);

/* A new one, not yet anybody's: see mlc_held_enter(). */
extern MlcHeld *mlc_held_add(MlcLockSlot *slot, const char *name, bool shared);

/* Once more for the session, or for the transaction if it is not its yet. */
extern void mlc_held_enter(MlcHeld *lock, bool xact);

/* Forgets it; the slot is the caller's. */
extern void mlc_held_remove(const char *name);

/* Forgets it and hands the slot to the keeper.  Callable at commit. */
extern void mlc_held_drop(MlcHeld *lock);

/* ERROR ML001. */
extern void mlc_held_report_lost(const char *name);

/* ERROR ML001 if it has been lost. */
extern void mlc_held_check(MlcHeld *lock);

#endif							/* MLC_LOCK_HELD_H */
