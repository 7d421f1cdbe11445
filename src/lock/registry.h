/*-------------------------------------------------------------------------
 *
 * lock/registry.h
 *	  The locks that sessions of this server hold, in shared memory: where the
 *	  keeper finds what to renew and what to release.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_LOCK_REGISTRY_H
#define MLC_LOCK_REGISTRY_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#define MLC_LOCK_NAME_LEN 256	/* with the terminator */
#define MLC_LOCK_OWNER_LEN 48
#define MLC_MAX_KEEPERS 64		/* databases with locks */

typedef enum MlcLockState
{
	MLC_LOCK_FREE,				/* in the free list */
	MLC_LOCK_PENDING,			/* its session is asking for it */
	MLC_LOCK_HELD,
	MLC_LOCK_LOST,				/* held by its session, but not in Redis */
	MLC_LOCK_RELEASE			/* the keeper is to release it in Redis */
} MlcLockState;

/*
 * One lock of one session.  Its session writes everything while the state is
 * PENDING; then deadline and ttl (under the lock).  State: the session, but
 * from HELD to LOST and from RELEASE to FREE, which the keeper does.
 */
typedef struct MlcLockSlot
{
	pg_atomic_uint32 state;
	int			next_free;		/* lock; -1: none */
	Oid			dbid;
	int			pid;
	char		name[MLC_LOCK_NAME_LEN];
	char		owner[MLC_LOCK_OWNER_LEN];	/* in Redis */
	int64		serial;			/* of this acquisition, in Redis */
	bool		shared;
	bool		xact;			/* ends with the transaction */
	int64		ttl;			/* ms */
	pg_atomic_uint64 token;		/* 0: not drawn yet */
	pg_atomic_uint64 deadline;	/* TimestampTz; Redis forgets it no sooner */
} MlcLockSlot;

/* The keeper of one database, and its range of fencing tokens. */
typedef struct MlcKeeper
{
	Oid			dbid;			/* claimed once, under the lock */
	bool		wanted;			/* lock: started, or being started */
	pid_t		pid;			/* lock */
	Latch	   *latch;			/* lock; read without */
	pg_atomic_uint64 next_look; /* keeper: TimestampTz, when it wakes */
	int64		token_next;		/* lock */
	int64		token_end;		/* lock; none left at token_next */
} MlcKeeper;

typedef struct MlcLockShared
{
	LWLock	   *lock;			/* a leaf */
	int			nslots;
	int			first_free;		/* lock; -1: none */
	pg_atomic_uint32 nkeepers;
	MlcKeeper	keepers[MLC_MAX_KEEPERS];
	MlcLockSlot slots[FLEXIBLE_ARRAY_MEMBER];
} MlcLockShared;

extern MlcLockShared *mlc_lock_shared;

/* Hooks for shared memory.  From _PG_init only. */
extern void mlc_registry_init(void);

/*
 * This database's keeper entry, claimed if need be.  ERROR 53400 when there
 * are too many.
 */
extern MlcKeeper *mlc_registry_keeper(void);

/*
 * A slot in state PENDING.  ERROR 53400 when all are taken.  *start: nobody
 * has started a keeper; the caller is to.
 */
extern MlcLockSlot *mlc_registry_claim(MlcKeeper *keeper, bool *start);

/* Back to the free list. */
extern void mlc_registry_free(MlcLockSlot *slot);

/* Hands it to the keeper, which releases it in Redis.  Never throws. */
extern void mlc_registry_abandon(MlcLockSlot *slot);

/* Wakes the keeper of this database.  Never throws; callable at commit. */
extern void mlc_registry_wake(void);

/* Is it lost, by what the keeper says or by the clock? */
extern bool mlc_registry_is_lost(MlcLockSlot *slot);

#endif							/* MLC_LOCK_REGISTRY_H */
