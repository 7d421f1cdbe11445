/*-------------------------------------------------------------------------
 *
 * lock/registry.c
 *	  The locks that sessions of this server hold, in shared memory.
 *
 * A fixed number of slots (mlcache.max_locks) and a free list.  A slot's
 * state is atomic, so that a commit callback hands a lock to the keeper
 * without taking anything.  A crash restart empties it all: what then stands
 * in Redis goes when its ttl has passed.
 *
 * Locks: MlcLockShared.lock is a leaf.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/area.h"
#include "base/guc.h"
#include "lock/registry.h"
#include "miscadmin.h"

MlcLockShared *mlc_lock_shared = NULL;

static MlcKeeper *my_keeper = NULL;

static Size
shared_size(void)
{
	return add_size(offsetof(MlcLockShared, slots),
					mul_size(mlc_max_locks, sizeof(MlcLockSlot)));
}

static void
attach(void *memory, bool found, LWLockPadded *locks)
{
	mlc_lock_shared = memory;
	if (found)
		return;
	memset(mlc_lock_shared, 0, shared_size());
	mlc_lock_shared->lock = &locks->lock;
	mlc_lock_shared->nslots = mlc_max_locks;
	pg_atomic_init_u32(&mlc_lock_shared->nkeepers, 0);
	for (int i = 0; i < MLC_MAX_KEEPERS; i++)
		pg_atomic_init_u64(&mlc_lock_shared->keepers[i].next_look, 0);
	for (int i = 0; i < mlc_max_locks; i++)
	{
		MlcLockSlot *slot = &mlc_lock_shared->slots[i];

		pg_atomic_init_u32(&slot->state, MLC_LOCK_FREE);
		pg_atomic_init_u64(&slot->token, 0);
		pg_atomic_init_u64(&slot->deadline, 0);
		slot->next_free = i + 1 < mlc_max_locks ? i + 1 : -1;
	}
}

static const MlcArea area = {
	.name = "mlcache locks",
	.size = shared_size,
	.tranche = "mlcache_locks",
	.attach = attach
};

void
mlc_registry_init(void)
{
	mlc_area_want(&area);
}

MlcKeeper *
mlc_registry_keeper(void)
{
	uint32		n;

	if (my_keeper)
		return my_keeper;
	LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
	n = pg_atomic_read_u32(&mlc_lock_shared->nkeepers);
	for (uint32 i = 0; i < n && !my_keeper; i++)
		if (mlc_lock_shared->keepers[i].dbid == MyDatabaseId)
			my_keeper = &mlc_lock_shared->keepers[i];
	if (!my_keeper && n < MLC_MAX_KEEPERS)
	{
		my_keeper = &mlc_lock_shared->keepers[n];
		my_keeper->dbid = MyDatabaseId;
		pg_atomic_write_u32(&mlc_lock_shared->nkeepers, n + 1);
	}
	LWLockRelease(mlc_lock_shared->lock);
	if (!my_keeper)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases with locks"),
				 errdetail("At most %d databases of a server can have locks.",
						   MLC_MAX_KEEPERS)));
	return my_keeper;
}

MlcLockSlot *
mlc_registry_claim(MlcKeeper *keeper, bool *start)
{
	MlcLockSlot *slot = NULL;

	LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
	if (mlc_lock_shared->first_free >= 0)
	{
		slot = &mlc_lock_shared->slots[mlc_lock_shared->first_free];
		mlc_lock_shared->first_free = slot->next_free;
		slot->dbid = MyDatabaseId;
		slot->pid = MyProcPid;
		pg_atomic_write_u64(&slot->token, 0);
		pg_atomic_write_u64(&slot->deadline, 0);
		pg_atomic_write_u32(&slot->state, MLC_LOCK_PENDING);
		*start = !keeper->wanted;
		keeper->wanted = true;
	}
	LWLockRelease(mlc_lock_shared->lock);
	if (slot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many locks are held"),
				 errdetail("The sessions of this server can hold %d locks at a time.",
						   mlc_lock_shared->nslots),
				 errhint("Increase mlcache.max_locks and restart the server.")));
	return slot;
}

void
mlc_registry_free(MlcLockSlot *slot)
{
	LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
	pg_atomic_write_u32(&slot->state, MLC_LOCK_FREE);
	slot->next_free = mlc_lock_shared->first_free;
	mlc_lock_shared->first_free = slot - mlc_lock_shared->slots;
	LWLockRelease(mlc_lock_shared->lock);
}

void
mlc_registry_abandon(MlcLockSlot *slot)
{
	pg_atomic_write_u32(&slot->state, MLC_LOCK_RELEASE);
	mlc_registry_wake();
}

void
mlc_registry_wake(void)
{
	Latch	   *latch = my_keeper ? my_keeper->latch : NULL;

	if (latch)
		SetLatch(latch);
}

bool
mlc_registry_is_lost(MlcLockSlot *slot)
{
	return pg_atomic_read_u32(&slot->state) == MLC_LOCK_LOST ||
		GetCurrentTimestamp() >= (TimestampTz) pg_atomic_read_u64(&slot->deadline);
}
