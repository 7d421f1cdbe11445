/*-------------------------------------------------------------------------
 *
 * relay/launcher.c
 *	  Starts a relay in every database that needs one, and again when it dies.
 *
 * After a start of the server nobody knows which databases have rules, so the
 * launcher sends a relay into each that accepts connections; a relay that
 * finds no rules says so and leaves.  Later attach() asks by raising "wanted".
 * A relay that dies is started again after a pause that grows.
 *
 * On a standby there is neither launcher nor relay.  A primary that has become
 * one still has its relays' slots, which would hold WAL and rows for ever, and
 * keep the standby from synchronizing those of the new primary: a worker drops
 * them when the standby starts.  Nothing is lost: what is promoted purges.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "audit/auditor.h"
#include "audit/monitor.h"
#include "base/fault.h"
#include "base/guc.h"
#include "catalog/pg_database.h"
#include "lock/keeper.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "read/warm.h"
#include "relay/launcher.h"
#include "relay/slot.h"
#include "shm/heat.h"
#include "shm/segment.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define RESTART_MIN 100			/* ms */
#define RESTART_MAX 10000
#define SAVE_HEAT (5 * 60 * 1000)	/* ms */

/* What the launcher knows of a relay it started; same index as in shm. */
typedef struct Child
{
	BackgroundWorkerHandle *handle;
	TimestampTz started_at;
	TimestampTz retry_at;
	int			pause;			/* ms */
} Child;

static Child children[MLC_MAX_RELAYS];

void
mlc_launcher_register(void)
{
	BackgroundWorker worker;

	/* pg_upgrade wants no WAL but its own, and no slot */
	if (IsBinaryUpgrade)
		return;
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strcpy(worker.bgw_library_name, "mlcache");
	strcpy(worker.bgw_function_name, "mlc_launcher_main");
	strcpy(worker.bgw_name, "mlcache launcher");
	strcpy(worker.bgw_type, "mlcache launcher");
	RegisterBackgroundWorker(&worker);

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strcpy(worker.bgw_function_name, "mlc_standby_main");
	strcpy(worker.bgw_name, "mlcache standby");
	strcpy(worker.bgw_type, "mlcache standby");
	RegisterBackgroundWorker(&worker);
}

void
mlc_launcher_want(Oid dbid)
{
	MlcRelayShared *relay = mlc_segment_relay(dbid, true);

	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	relay->wanted = true;
	LWLockRelease(mlc_shared->lock);
	pg_atomic_fetch_add_u32(&relay->generation, 1);
}

static void
forget_me(int code, Datum arg)
{
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	mlc_shared->launcher = NULL;
	mlc_shared->launcher_pid = 0;
	LWLockRelease(mlc_shared->lock);
}

/* Wants a relay in every database; each finds out whether it is needed. */
static void
look_everywhere(void)
{
	List	   *databases = NIL;
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;
	MemoryContext context = CurrentMemoryContext;
	ListCell   *lc;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!form->datallowconn || form->datistemplate)
			continue;
		old = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();

	foreach(lc, databases)
	{
		if (pg_atomic_read_u32(&mlc_shared->nrelays) >= MLC_MAX_RELAYS)
		{
			ereport(WARNING,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("mlcache looks for rules in the first %d databases only",
							MLC_MAX_RELAYS)));
			break;
		}
		mlc_launcher_want(lfirst_oid(lc));
	}
	list_free(databases);
}

static void
start_child(Child *child, MlcRelayShared *relay)
{
	BackgroundWorker worker;
	MemoryContext old;
	bool		started;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strcpy(worker.bgw_library_name, "mlcache");
	strcpy(worker.bgw_function_name, "mlc_relay_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "mlcache relay for database %u",
			 relay->dbid);
	strcpy(worker.bgw_type, "mlcache relay");
	worker.bgw_main_arg = Int32GetDatum((int32) (relay - mlc_shared->relays));
	worker.bgw_notify_pid = MyProcPid;

	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	relay->retired = false;
	LWLockRelease(mlc_shared->lock);
	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, &child->handle);
	MemoryContextSwitchTo(old);
	child->started_at = GetCurrentTimestamp();
	if (!started)
	{
		child->handle = NULL;
		child->pause = RESTART_MAX;
		child->retry_at = TimestampTzPlusMilliseconds(child->started_at,
													  child->pause);
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no free worker slot for the mlcache relay of database %u",
						relay->dbid),
				 errhint("Increase max_worker_processes and restart the server.")));
	}
}

/*
 * Does a relay still find out whether its database has rules?  One at a time,
 * so that a server with many databases is not short of worker slots.
 */
static bool
someone_scouts(void)
{
	uint32		n = pg_atomic_read_u32(&mlc_shared->nrelays);
	bool		scouts = false;

	LWLockAcquire(mlc_shared->lock, LW_SHARED);
	for (uint32 i = 0; i < n; i++)
		scouts |= children[i].handle != NULL && !mlc_shared->relays[i].settled;
	LWLockRelease(mlc_shared->lock);
	return scouts;
}

/* A database may have been dropped since somebody wanted its relay. */
static bool
database_exists(Oid dbid)
{
	bool		exists;

	StartTransactionCommand();
	exists = SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(dbid));
	CommitTransactionCommand();
	return exists;
}

/* ---- hot keys ---- */

static void
save_heat(int code, Datum arg)
{
	mlc_heat_save();
}

/* What was hot before the server stopped. */
static void
remember_heat(void)
{
	Oid		   *dbids;
	int			n;

	mlc_heat_load();
	before_shmem_exit(save_heat, (Datum) 0);
	if (!mlc_warm_on_start)
		return;
	n = mlc_heat_databases(&dbids);
	for (int i = 0; i < n; i++)
		if (database_exists(dbids[i]))
			mlc_warm_start(dbids[i]);
}

/* Saves it once in a while; returns ms until the next time. */
static long
tend_heat(void)
{
	static TimestampTz saved_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (saved_at == 0)
		saved_at = now;
	if (TimestampDifferenceExceeds(saved_at, now, SAVE_HEAT))
	{
		mlc_heat_save();
		saved_at = now;
	}
	return SAVE_HEAT - TimestampDifferenceMilliseconds(saved_at, now) + 1;
}

/* ---- relays ---- */

/* Looks after one relay; returns ms until it has to be looked at again. */
static long
tend(Child *child, MlcRelayShared *relay)
{
	TimestampTz now = GetCurrentTimestamp();
	pid_t		pid;
	bool		wanted;
	bool		retired;

	if (child->handle &&
		GetBackgroundWorkerPid(child->handle, &pid) != BGWH_STOPPED)
		return RESTART_MAX;

	LWLockAcquire(mlc_shared->lock, LW_SHARED);
	wanted = relay->wanted;
	retired = relay->retired;
	LWLockRelease(mlc_shared->lock);

	if (child->handle)
	{
		pfree(child->handle);
		child->handle = NULL;

		/* one that ran for a while failed for a new reason */
		if (TimestampDifferenceExceeds(child->started_at, now, RESTART_MAX))
			child->pause = 0;
		/* and one that left of its own accord has not failed */
		if (retired)
			child->pause = 0;
		else
			child->pause = child->pause == 0 ? RESTART_MIN :
				Min(child->pause * 2, RESTART_MAX);
		child->retry_at = TimestampTzPlusMilliseconds(now, child->pause);
	}

	if (wanted)
		mlc_slot_give_up(relay->dbid);
	if (!wanted || !mlc_relay_enabled)
	{
		child->pause = 0;
		child->retry_at = 0;
		return RESTART_MAX;
	}
	if (now < child->retry_at)
		return TimestampDifferenceMilliseconds(now, child->retry_at) + 1;
	if (someone_scouts())
		return RESTART_MAX;
	if (!database_exists(relay->dbid))
	{
		LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
		relay->wanted = false;
		LWLockRelease(mlc_shared->lock);
		return RESTART_MAX;
	}
	start_child(child, relay);
	return RESTART_MAX;
}

void
mlc_standby_main(Datum arg)
{
	BackgroundWorkerUnblockSignals();
	if (!MLC_FAULT_SKIP("standby-slots"))
		mlc_slot_drop_left_behind();
}

void
mlc_launcher_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGUSR1, procsignal_sigusr1_handler);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	mlc_shared->launcher = MyLatch;
	mlc_shared->launcher_pid = MyProcPid;
	LWLockRelease(mlc_shared->lock);
	on_shmem_exit(forget_me, (Datum) 0);

	remember_heat();
	if (XLogLogicalInfoActive())
		look_everywhere();
	else
		ereport(LOG,
				(errmsg("mlcache needs wal_level = logical"),
				 errhint("Set wal_level = logical in postgresql.conf and restart the server.")));

	for (;;)
	{
		long		timeout = RESTART_MAX;
		uint32		n = pg_atomic_read_u32(&mlc_shared->nrelays);

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		for (uint32 i = 0; i < n; i++)
			timeout = Min(timeout, tend(&children[i], &mlc_shared->relays[i]));
		mlc_keeper_revive(database_exists);
		timeout = Min(timeout, mlc_monitor_tend());
		timeout = Min(timeout, mlc_auditor_tend());
		timeout = Min(timeout, tend_heat());

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
