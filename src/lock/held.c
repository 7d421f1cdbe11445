/*-------------------------------------------------------------------------
 *
 * lock/held.c
 *	  Which locks this session holds, and how they end with its transactions,
 *	  its savepoints and itself.
 *
 * A lock that ends so is handed to the keeper through its slot's state: no
 * waiting, no allocation, no error in a callback.  PostgreSQL's part ends by
 * itself.
 *
 * Locks: none of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/fault.h"
#include "lock/held.h"
#include "lock/lock.h"
#include "lock/manager.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

HTAB	   *mlc_held = NULL;
char		mlc_held_owner[MLC_LOCK_OWNER_LEN];

static void
leave_all(int code, Datum arg)
{
	HASH_SEQ_STATUS status;
	MlcHeld    *lock;

	hash_seq_init(&status, mlc_held);
	while ((lock = hash_seq_search(&status)) != NULL)
	{
		mlc_registry_abandon(lock->slot);
		mlc_held_remove(lock->name);
	}
}

void
mlc_held_begin(void)
{
	HASHCTL		ctl;

	if (mlc_held)
		return;
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = MLC_LOCK_NAME_LEN;
	ctl.entrysize = sizeof(MlcHeld);
	ctl.hcxt = TopMemoryContext;
	snprintf(mlc_held_owner, sizeof(mlc_held_owner), "pg-%d-%llx", MyProcPid,
			 (unsigned long long) MyStartTimestamp);
	mlc_held = hash_create("mlcache locks", 16, &ctl,
						   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	before_shmem_exit(leave_all, (Datum) 0);
}

MlcHeld *
mlc_held_find(const char *name)
{
	return mlc_held ? hash_search(mlc_held, name, HASH_FIND, NULL) : NULL;
}

void
mlc_held_drop(MlcHeld *lock)
{
	mlc_registry_abandon(lock->slot);
	mlc_held_remove(lock->name);
}

void
mlc_held_report_lost(const char *name)
{
	ereport(ERROR,
			(errcode(MLC_ERRCODE_LOCK_LOST),
			 errmsg("lock \"%s\" has been lost", name),
			 errdetail("Redis does not know it any more, or could not be asked before its time to live was over. Somebody else may have held it since."),
			 errhint("Release it, and do the work it guarded again; mlcache.fence_check() keeps late writes out.")));
}

void
mlc_held_check(MlcHeld *lock)
{
	if (mlc_registry_is_lost(lock->slot))
		mlc_held_report_lost(lock->name);
}

MlcHeld *
mlc_held_cover(const char *name)
{
	char		path[MLC_LOCK_NAME_LEN];

	for (const char *p = strchr(name, ':'); p; p = strchr(p + 1, ':'))
	{
		MlcHeld    *lock;

		strlcpy(path, name, p - name + 1);
		lock = mlc_held_find(path);
		if (lock)
			return lock;
	}
	return NULL;
}

MlcHeld *
mlc_held_add(MlcLockSlot *slot, const char *name, bool shared)
{
	MlcHeld    *lock = hash_search(mlc_held, name, HASH_ENTER, NULL);

	lock->slot = slot;
	lock->shared = shared;
	lock->sessions = lock->level = 0;
	return lock;
}

void
mlc_held_remove(const char *name)
{
	(void) hash_search(mlc_held, name, HASH_REMOVE, NULL);
}

void
mlc_held_enter(MlcHeld *lock, bool xact)
{
	if (!xact)
		lock->sessions++;
	else if (lock->level == 0)
		lock->level = GetCurrentTransactionNestLevel();
}

/* ---------- transactions ---------- */

/* The transaction must not commit what a lost lock has guarded. */
static void
check_all(void)
{
	HASH_SEQ_STATUS status;
	MlcHeld    *lock;

	hash_seq_init(&status, mlc_held);
	while ((lock = hash_seq_search(&status)) != NULL)
	{
		if (lock->level == 0 || !mlc_registry_is_lost(lock->slot) ||
			MLC_FAULT_SKIP("lock-check-at-commit"))
			continue;
		hash_seq_term(&status);
		mlc_held_report_lost(lock->name);
	}
}

static void
refuse_prepare(void)
{
	HASH_SEQ_STATUS status;
	MlcHeld    *lock;

	hash_seq_init(&status, mlc_held);
	while ((lock = hash_seq_search(&status)) != NULL)
	{
		if (lock->level == 0)
			continue;
		hash_seq_term(&status);
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has taken mlcache locks"),
				 errdetail("Nobody would renew them.")));
	}
}

/* What was taken at this nest level or below has ended. */
static void
end_level(int level)
{
	HASH_SEQ_STATUS status;
	MlcHeld    *lock;

	hash_seq_init(&status, mlc_held);
	while ((lock = hash_seq_search(&status)) != NULL)
	{
		if (lock->level >= level)
			lock->level = 0;

		/* DISCARD ALL takes the lock manager's part away */
		if (lock->level == 0 &&
			(lock->sessions == 0 ||
			 (level == 1 && !mlc_manager_holds(lock->name, lock->shared))))
			mlc_held_drop(lock);
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (mlc_held == NULL || hash_get_num_entries(mlc_held) == 0)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			check_all();
			break;
		case XACT_EVENT_PRE_PREPARE:
			refuse_prepare();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			end_level(1);
			break;
		default:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid,
				 SubTransactionId parentSubid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	HASH_SEQ_STATUS status;
	MlcHeld    *lock;

	if (mlc_held == NULL || hash_get_num_entries(mlc_held) == 0)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		end_level(level);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		hash_seq_init(&status, mlc_held);
		while ((lock = hash_seq_search(&status)) != NULL)
			if (lock->level == level)
				lock->level = level - 1;
	}
}

void
mlc_held_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}
