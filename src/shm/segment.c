/*-------------------------------------------------------------------------
 *
 * shm/segment.c
 *	  Layout and life of the shared memory.
 *
 * Everything is of fixed size and made when the postmaster starts; nothing
 * grows.  A crash restart makes it anew, so nothing here may be needed for
 * correctness after one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/area.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shm/segment.h"

MlcShared  *mlc_shared = NULL;

static Size
shared_size(void)
{
	return sizeof(MlcShared);
}

static void
attach(void *memory, bool found, LWLockPadded *locks)
{
	mlc_shared = memory;
	if (found)
		return;
	memset(mlc_shared, 0, sizeof(MlcShared));
	mlc_shared->lock = &locks->lock;
	pg_atomic_init_u32(&mlc_shared->nrelays, 0);
	pg_atomic_init_u32(&mlc_shared->nrule_stats, 0);
	for (int i = 0; i < MLC_MAX_SENTINELS; i++)
	{
		pg_atomic_init_u64(&mlc_shared->sentinels[i].name, 0);
		pg_atomic_init_u64(&mlc_shared->sentinels[i].epoch, 0);
	}
	for (int i = 0; i < MLC_MAX_RELAYS; i++)
	{
		MlcRelayShared *relay = &mlc_shared->relays[i];

		pg_atomic_init_u32(&relay->sleeping, 0);
		pg_atomic_init_u64(&relay->want_lsn, 0);
		pg_atomic_init_u64(&relay->hurry_lsn, 0);
		pg_atomic_init_u64(&relay->decoded_lsn, 0);
		pg_atomic_init_u64(&relay->applied_lsn, 0);
		pg_atomic_init_u64(&relay->safe_lsn, 0);
		pg_atomic_init_u64(&relay->fresh_at, 0);
		pg_atomic_init_u32(&relay->generation, 0);
		pg_atomic_init_u32(&relay->hurry, 0);
		pg_atomic_init_u32(&relay->reloads, 0);
		pg_atomic_init_u64(&relay->reloaded, 0);
		pg_atomic_init_u32(&relay->holds, 0);
		pg_atomic_init_u64(&relay->decoding, 0);
		pg_atomic_init_u64(&relay->sweeps, 1);

		/* what was prepared before a crash may still be there */
		pg_atomic_init_u64(&relay->prepared, 1);
		pg_atomic_init_u64(&relay->resolved, 0);
		ConditionVariableInit(&relay->progress);
	}
}

static const MlcArea area = {
	.name = "mlcache",
	.size = shared_size,
	.tranche = "mlcache",
	.attach = attach
};

void
mlc_segment_init(void)
{
	mlc_area_want(&area);
}

void
mlc_segment_require(void)
{
	if (mlc_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("mlcache must be loaded via shared_preload_libraries"),
				 errdetail("The relay and its shared memory start with the server."),
				 errhint("Add shared_preload_libraries = 'mlcache' to postgresql.conf and restart the server.")));
}

MlcRelayShared *
mlc_segment_relay(Oid dbid, bool create)
{
	MlcRelayShared *found = NULL;
	uint32		n;

	LWLockAcquire(mlc_shared->lock, create ? LW_EXCLUSIVE : LW_SHARED);
	n = pg_atomic_read_u32(&mlc_shared->nrelays);
	for (uint32 i = 0; i < n && !found; i++)
		if (mlc_shared->relays[i].dbid == dbid)
			found = &mlc_shared->relays[i];
	if (!found && create && n < MLC_MAX_RELAYS)
	{
		found = &mlc_shared->relays[n];
		found->dbid = dbid;
		pg_write_barrier();
		pg_atomic_write_u32(&mlc_shared->nrelays, n + 1);
	}
	LWLockRelease(mlc_shared->lock);

	if (!found && create)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases with cache rules"),
				 errdetail("At most %d databases of a server can have rules.",
						   MLC_MAX_RELAYS)));
	return found;
}

MlcRelayShared *
mlc_segment_my_relay(void)
{
	static MlcRelayShared *mine = NULL;
	static uint32 seen = 0;
	uint32		n;

	if (mine != NULL || mlc_shared == NULL)
		return mine;

	/*
	 * Entries are claimed once and keep their database, so an unlocked look
	 * is enough; a database without rules looks again when one was claimed.
	 */
	n = pg_atomic_read_u32(&mlc_shared->nrelays);
	if (n == seen)
		return NULL;
	seen = n;
	pg_read_barrier();
	for (uint32 i = 0; i < n; i++)
	{
		if (mlc_shared->relays[i].dbid == MyDatabaseId)
		{
			mine = &mlc_shared->relays[i];
			break;
		}
	}
	return mine;
}

static void
wake_from(MlcRelayShared *relay, uint32 least_deep)
{
	uint32		sleep;

	/* pairs with the barrier of the relay's atomic exchange before it sleeps */
	pg_memory_barrier();
	sleep = pg_atomic_read_u32(&relay->sleeping);
	if (sleep != MLC_SLEEP_NONE && sleep <= least_deep &&
		pg_atomic_exchange_u32(&relay->sleeping, MLC_SLEEP_NONE) != MLC_SLEEP_NONE)
	{
		Latch	   *latch = relay->latch;

		if (latch)
			SetLatch(latch);
	}
}

void
mlc_segment_wake(MlcRelayShared *relay)
{
	wake_from(relay, MLC_SLEEP_NAP);
}

void
mlc_segment_wake_idle(MlcRelayShared *relay)
{
	wake_from(relay, MLC_SLEEP_IDLE);
}

void
mlc_segment_wake_launcher(void)
{
	Latch	   *latch = mlc_shared ? mlc_shared->launcher : NULL;

	if (latch)
		SetLatch(latch);
}

void
mlc_segment_want_relay(void)
{
	MlcRelayShared *relay = mlc_segment_my_relay();
	Latch	   *latch;

	if (relay == NULL)
		return;
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	relay->wanted = true;
	pg_atomic_fetch_add_u32(&relay->generation, 1);
	latch = relay->latch;
	LWLockRelease(mlc_shared->lock);

	/* it may sleep without waiting for commits, as with every server paused */
	if (latch)
		SetLatch(latch);
	mlc_segment_wake_launcher();
}

static bool
is_ready(MlcRelayShared *relay)
{
	bool		ready;

	LWLockAcquire(mlc_shared->lock, LW_SHARED);
	ready = relay->ready;
	LWLockRelease(mlc_shared->lock);
	return ready;
}

bool
mlc_segment_await_slot(MlcRelayShared *relay, int timeout)
{
	TimestampTz start = GetCurrentTimestamp();
	bool		ready;

	if (is_ready(relay))
		return true;
	mlc_segment_want_relay();
	ConditionVariablePrepareToSleep(&relay->progress);
	while (!(ready = is_ready(relay)))
	{
		long		left = timeout -
		TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());

		if (left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&relay->progress, left,
										   PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return ready;
}

MlcRuleStat *
mlc_segment_rule_stat(Oid dbid, int32 rule)
{
	MlcRuleStat *found = NULL;
	uint32		n;

	if (mlc_shared == NULL)
		return NULL;

	n = pg_atomic_read_u32(&mlc_shared->nrule_stats);
	for (uint32 i = 0; i < n; i++)
		if (mlc_shared->rule_stats[i].dbid == dbid &&
			mlc_shared->rule_stats[i].rule == rule)
			return &mlc_shared->rule_stats[i];

	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	n = pg_atomic_read_u32(&mlc_shared->nrule_stats);
	for (uint32 i = 0; i < n && !found; i++)
		if (mlc_shared->rule_stats[i].dbid == dbid &&
			mlc_shared->rule_stats[i].rule == rule)
			found = &mlc_shared->rule_stats[i];
	if (!found && n < MLC_MAX_RULE_STATS)
	{
		found = &mlc_shared->rule_stats[n];
		found->dbid = dbid;
		found->rule = rule;
		pg_atomic_init_u64(&found->events, 0);
		pg_atomic_init_u64(&found->null_keys, 0);
		pg_atomic_init_u64(&found->purges, 0);
		for (int i = 0; i < MLC_RULE_COUNTERS; i++)
			pg_atomic_init_u64(&found->counters[i], 0);
		pg_write_barrier();
		pg_atomic_write_u32(&mlc_shared->nrule_stats, n + 1);
	}
	LWLockRelease(mlc_shared->lock);
	return found;
}

/* ---- servers ---- */

/* Of several masters of a cluster, the state that needs looking at. */
static MlcTargetState
worse_state(MlcTargetState a, MlcTargetState b)
{
	static const MlcTargetState order[] = {
		MLC_TARGET_GIVEN_UP, MLC_TARGET_DOWN, MLC_TARGET_PAUSED,
		MLC_TARGET_CATCHUP, MLC_TARGET_ARMED
	};

	for (int i = 0; i < (int) lengthof(order); i++)
		if (a == order[i] || b == order[i])
			return order[i];
	return a;
}

/* Adds up what belongs to one server; the others become unused. */
static void
fold_nodes(MlcTargetStat *stats, int i)
{
	MlcTargetStat *sum = &stats[i];

	for (int k = i + 1; k < MLC_MAX_TARGETS; k++)
	{
		MlcTargetStat *stat = &stats[k];

		if (stat->state == MLC_TARGET_UNUSED || stat->serverid != sum->serverid)
			continue;
		sum->state = worse_state(sum->state, stat->state);
		if (stat->applied_tli < sum->applied_tli ||
			(stat->applied_tli == sum->applied_tli &&
			 stat->applied_lsn < sum->applied_lsn))
		{
			sum->applied_tli = stat->applied_tli;
			sum->applied_lsn = stat->applied_lsn;
		}
		if (stat->applied_commit > sum->applied_commit)
		{
			sum->applied_commit = stat->applied_commit;
			sum->lag_ms = stat->lag_ms;
		}
		sum->lag_ms_max = Max(sum->lag_ms_max, stat->lag_ms_max);
		sum->batches = Max(sum->batches, stat->batches);
		sum->invalidated += stat->invalidated;
		sum->updated += stat->updated;
		sum->skipped += stat->skipped;
		sum->purges += stat->purges;
		sum->errors += stat->errors;
		sum->reconnects += stat->reconnects;
		if (stat->catch_up_from < sum->catch_up_from)
		{
			sum->catch_up_from = stat->catch_up_from;
			sum->catch_up_at = stat->catch_up_at;
		}
		if (stat->error[0] != '\0' &&
			(sum->error[0] == '\0' || stat->error_at > sum->error_at))
			strlcpy(sum->error, stat->error, sizeof(sum->error));
		sum->error_at = Max(sum->error_at, stat->error_at);
		stat->state = MLC_TARGET_UNUSED;
	}
}

void
mlc_segment_read_servers(MlcRelayShared *relay, MlcTargetStat *servers)
{
	LWLockAcquire(mlc_shared->lock, LW_SHARED);
	memcpy(servers, relay->targets, sizeof(relay->targets));
	LWLockRelease(mlc_shared->lock);
	for (int i = 0; i < MLC_MAX_TARGETS; i++)
		if (servers[i].state != MLC_TARGET_UNUSED)
			fold_nodes(servers, i);
}
