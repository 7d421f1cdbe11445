/*-------------------------------------------------------------------------
 *
 * audit/worker.c
 *	  Workers that stand beside the relay of a database: how they are started.
 *
 * The launcher starts them with the first relay of their database, and again
 * when they die; they leave when no relay is wanted any more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "audit/worker.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

static bool
is_enabled(const MlcWorkerKind *kind)
{
	return *kind->enabled && (kind->rate == NULL || *kind->rate > 0);
}

static BackgroundWorkerHandle *
start(const MlcWorkerKind *kind, MlcRelayShared *relay)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;
	MemoryContext old;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strcpy(worker.bgw_library_name, "mlcache");
	strlcpy(worker.bgw_function_name, kind->function, BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s for database %u", kind->name,
			 relay->dbid);
	strlcpy(worker.bgw_type, kind->name, BGW_MAXLEN);
	worker.bgw_main_arg = Int32GetDatum((int32) (relay - mlc_shared->relays));
	worker.bgw_notify_pid = MyProcPid;

	old = MemoryContextSwitchTo(TopMemoryContext);
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		handle = NULL;
	MemoryContextSwitchTo(old);
	if (handle == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no free worker slot for the %s of database %u",
						kind->name, relay->dbid),
				 errdetail("%s", kind->lack),
				 errhint("Increase max_worker_processes and restart the server.")));
	return handle;
}

long
mlc_worker_tend(MlcWorkerKind *kind)
{
	uint32		n = pg_atomic_read_u32(&mlc_shared->nrelays);
	long		timeout = MLC_WORKER_RESTART;

	for (uint32 i = 0; i < n; i++)
	{
		MlcRelayShared *relay = &mlc_shared->relays[i];
		TimestampTz started = kind->children[i].started_at;
		TimestampTz now = GetCurrentTimestamp();
		bool		needed;
		pid_t		pid;

		if (kind->children[i].handle)
		{
			if (GetBackgroundWorkerPid(kind->children[i].handle, &pid) != BGWH_STOPPED)
				continue;
			pfree(kind->children[i].handle);
			kind->children[i].handle = NULL;
		}
		LWLockAcquire(mlc_shared->lock, LW_SHARED);
		needed = relay->wanted && relay->settled;
		LWLockRelease(mlc_shared->lock);
		if (!needed || !is_enabled(kind))
			continue;
		if (started != 0 &&
			!TimestampDifferenceExceeds(started, now, MLC_WORKER_RESTART))
			timeout = Min(timeout, MLC_WORKER_RESTART -
						  TimestampDifferenceMilliseconds(started, now) + 1);
		else
		{
			kind->children[i].started_at = now;
			kind->children[i].handle = start(kind, relay);
		}
	}
	return timeout;
}

bool
mlc_worker_is_wanted(const MlcWorkerKind *kind, MlcRelayShared *relay)
{
	bool		wanted;

	LWLockAcquire(mlc_shared->lock, LW_SHARED);
	wanted = relay->wanted;
	LWLockRelease(mlc_shared->lock);
	return wanted && is_enabled(kind);
}

MlcRelayShared *
mlc_worker_begin(Datum arg)
{
	MlcRelayShared *relay = &mlc_shared->relays[DatumGetInt32(arg)];

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(relay->dbid, InvalidOid, 0);
	return relay;
}
