/*-------------------------------------------------------------------------
 *
 * lock/keeper.c
 *	  The worker "mlcache lock keeper" of one database.
 *
 * Started by the first lock, it leaves when none has been held for a while.
 * It renews each lock when a third of its ttl is over; one that Redis no
 * longer knows, or that could not be renewed until its ttl was over, is lost,
 * and its session is told at its next use: it is never taken again silently.
 * It releases what sessions hand to it: the locks of transactions that have
 * ended, and those of sessions that are gone.
 *
 * Locks: MlcLockShared.lock for the moment in which a slot is changed; never
 * while Redis is asked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/fault.h"
#include "lock/keeper.h"
#include "lock/remote.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "shm/segment.h"
#include "storage/ipc.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

#define IDLE_MAX 2000			/* ms without a lock until it leaves; DROP
								 * DATABASE waits for 5 s */
#define RETRY 200				/* ms until Redis is asked again */

static MlcKeeper *me = NULL;

bool
mlc_keeper_start(MlcKeeper *keeper)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strcpy(worker.bgw_library_name, "mlcache");
	strcpy(worker.bgw_function_name, "mlc_keeper_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "mlcache lock keeper for database %u",
			 keeper->dbid);
	strcpy(worker.bgw_type, "mlcache lock keeper");
	worker.bgw_main_arg = Int32GetDatum((int32) (keeper - mlc_lock_shared->keepers));
	if (RegisterDynamicBackgroundWorker(&worker, &handle))
		return true;

	LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
	keeper->wanted = false;
	LWLockRelease(mlc_lock_shared->lock);
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no free worker slot for the mlcache lock keeper"),
			 errdetail("It renews the locks of this database."),
			 errhint("Increase max_worker_processes and restart the server.")));
	return false;
}

/* False: somebody else has asked for it. */
static bool
want(MlcKeeper *keeper)
{
	bool		mine;

	LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
	mine = !keeper->wanted;
	keeper->wanted = true;
	LWLockRelease(mlc_lock_shared->lock);
	return mine;
}

/* Of a database that is gone: nobody can tell Redis, where the ttl ends them. */
static void
forget_releases(Oid dbid)
{
	for (int i = 0; i < mlc_lock_shared->nslots; i++)
	{
		MlcLockSlot *slot = &mlc_lock_shared->slots[i];

		if (slot->dbid == dbid &&
			pg_atomic_read_u32(&slot->state) == MLC_LOCK_RELEASE)
			mlc_registry_free(slot);
	}
}

void
mlc_keeper_revive(bool (*database_exists) (Oid dbid))
{
	uint32		n = pg_atomic_read_u32(&mlc_lock_shared->nkeepers);

	for (uint32 i = 0; i < n; i++)
	{
		MlcKeeper  *keeper = &mlc_lock_shared->keepers[i];
		bool		held = false;
		bool		released = false;

		LWLockAcquire(mlc_lock_shared->lock, LW_SHARED);
		for (int j = 0; j < mlc_lock_shared->nslots && !keeper->wanted; j++)
		{
			MlcLockSlot *slot = &mlc_lock_shared->slots[j];
			uint32		state = pg_atomic_read_u32(&slot->state);

			if (slot->dbid != keeper->dbid)
				continue;
			held |= state == MLC_LOCK_HELD;
			released |= state == MLC_LOCK_RELEASE;
		}
		LWLockRelease(mlc_lock_shared->lock);

		/* a held lock means a live session, and so a database that exists */
		if (released && !held && !database_exists(keeper->dbid))
			forget_releases(keeper->dbid);
		else if ((held || released) && want(keeper))
			(void) mlc_keeper_start(keeper);
	}
}

static void
forget_me(int code, Datum arg)
{
	LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
	me->latch = NULL;
	me->pid = 0;
	me->wanted = false;
	LWLockRelease(mlc_lock_shared->lock);
	mlc_segment_wake_launcher();
}

/* What is to be done about a slot now? */
typedef enum Task
{
	TASK_NONE,
	TASK_RENEW,
	TASK_RELEASE,
	TASK_LOSE
} Task;

static Task
task_of(MlcLockSlot *slot, TimestampTz now)
{
	TimestampTz deadline = pg_atomic_read_u64(&slot->deadline);

	switch ((MlcLockState) pg_atomic_read_u32(&slot->state))
	{
		case MLC_LOCK_RELEASE:
			return TASK_RELEASE;
		case MLC_LOCK_HELD:
			if (now >= deadline)
				return TASK_LOSE;
			if (now >= deadline - slot->ttl * 1000 / 3 * 2)
				return TASK_RENEW;
			return TASK_NONE;
		default:
			return TASK_NONE;
	}
}

/* The session is told at its next use. */
static void
lose(MlcLockSlot *slot, int64 serial)
{
	uint32		held = MLC_LOCK_HELD;
	bool		lost = false;

	LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
	if (slot->serial == serial)
		lost = pg_atomic_compare_exchange_u32(&slot->state, &held,
											  MLC_LOCK_LOST);
	LWLockRelease(mlc_lock_shared->lock);
	if (lost)
		ereport(LOG,
				(errmsg("mlcache lock \"%s\" of process %d is lost",
						slot->name, slot->pid)));
}

/* Does what a slot needs; true: try again soon. */
static bool
tend(MlcLockSlot *slot, Task task)
{
	char		name[MLC_LOCK_NAME_LEN];
	char		owner[MLC_LOCK_OWNER_LEN];
	int64		serial = slot->serial;
	int64		ttl = slot->ttl;
	TimestampTz start = GetCurrentTimestamp();
	int			answer;

	strlcpy(name, slot->name, sizeof(name));
	strlcpy(owner, slot->owner, sizeof(owner));
	if (task == TASK_LOSE)
	{
		lose(slot, serial);
		return false;
	}
	answer = mlc_remote_try(name, owner, task == TASK_RENEW ? ttl : 0, serial);
	if (task == TASK_RELEASE)
	{
		if (answer < 0 &&
			start < (TimestampTz) pg_atomic_read_u64(&slot->deadline))
			return true;
		mlc_registry_free(slot);
		return false;
	}
	if (answer == 0)
		lose(slot, serial);
	else if (answer > 0)
	{
		LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
		if (slot->serial == serial && slot->ttl == ttl &&
			pg_atomic_read_u32(&slot->state) == MLC_LOCK_HELD)
			pg_atomic_write_u64(&slot->deadline, start + ttl * 1000);
		LWLockRelease(mlc_lock_shared->lock);
	}
	return answer < 0;
}

/*
 * Looks at all slots of the database.  Returns ms until the next look;
 * *used: is there any lock?
 */
static long
look(bool *used)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = TimestampTzPlusMilliseconds(now, IDLE_MAX);
	bool		in_transaction = false;

	*used = false;
	for (int i = 0; i < mlc_lock_shared->nslots; i++)
	{
		MlcLockSlot *slot = &mlc_lock_shared->slots[i];
		Task		task;
		uint32		state = pg_atomic_read_u32(&slot->state);

		if (state == MLC_LOCK_FREE || slot->dbid != MyDatabaseId)
			continue;
		*used = true;
		task = task_of(slot, now);
		if (task != TASK_NONE)
		{
			if (!in_transaction)
				StartTransactionCommand();
			in_transaction = true;
			MLC_FAULT("keeper-before-redis");
			if (!MLC_FAULT_SKIP("keeper-renews") && tend(slot, task))
				next = Min(next, TimestampTzPlusMilliseconds(now, RETRY));
		}
		if (pg_atomic_read_u32(&slot->state) == MLC_LOCK_HELD)
			next = Min(next, Max(now + 10000,
								 (TimestampTz) pg_atomic_read_u64(&slot->deadline) -
								 slot->ttl * 1000 / 3 * 2));
	}
	if (in_transaction)
		CommitTransactionCommand();
	pg_atomic_write_u64(&me->next_look, next);
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next);
}

/* May it leave?  Not when somebody has claimed a slot since it looked. */
static bool
leave(void)
{
	bool		used = false;

	LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < mlc_lock_shared->nslots && !used; i++)
	{
		MlcLockSlot *slot = &mlc_lock_shared->slots[i];

		used = pg_atomic_read_u32(&slot->state) != MLC_LOCK_FREE &&
			slot->dbid == MyDatabaseId;
	}
	if (!used)
		me->wanted = false;
	LWLockRelease(mlc_lock_shared->lock);
	return !used;
}

void
mlc_keeper_main(Datum arg)
{
	TimestampTz busy_at = GetCurrentTimestamp();

	me = &mlc_lock_shared->keepers[DatumGetInt32(arg)];
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	on_shmem_exit(forget_me, (Datum) 0);
	BackgroundWorkerInitializeConnectionByOid(me->dbid, InvalidOid, 0);

	LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
	me->latch = MyLatch;
	me->pid = MyProcPid;
	LWLockRelease(mlc_lock_shared->lock);

	for (;;)
	{
		bool		used;
		long		timeout;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		/* who takes a lock while we look must wake us */
		pg_atomic_write_u64(&me->next_look, PG_INT64_MAX);
		pg_memory_barrier();
		timeout = look(&used);
		if (used)
			busy_at = GetCurrentTimestamp();
		else if (TimestampDifferenceExceeds(busy_at, GetCurrentTimestamp(),
											IDLE_MAX) && leave())
			proc_exit(0);

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Max(timeout, 1), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
