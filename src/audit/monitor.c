/*-------------------------------------------------------------------------
 *
 * audit/monitor.c
 *	  The worker "mlcache monitor" of one database.
 *
 * A process of its own, since it is there to tell when the relay hangs or is
 * gone.  Once a second, in a transaction without an xid: a sample for the
 * history, then the checks of health(), then alerts.  Every few seconds it asks
 * each Redis how it is.  It starts with the first relay of its database and
 * leaves, within a second, when none is wanted any more.
 *
 * Locks: none across a wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "audit/alert.h"
#include "audit/health.h"
#include "audit/look.h"
#include "audit/monitor.h"
#include "audit/worker.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/wal.h"
#include "miscadmin.h"
#include "model/rule.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "shm/consistency.h"
#include "shm/history.h"
#include "shm/l1.h"
#include "shm/stats.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define TICK 1000				/* ms */
#define LOOK_EVERY 5			/* ticks from look to look at Redis */
#define MB (1024.0 * 1024.0)

static MlcWorkerKind kind = {
	.name = "mlcache monitor",
	.function = "mlc_monitor_main",
	.lack = "Nobody raises alerts there.",
	.enabled = &mlc_monitor_enabled
};

long
mlc_monitor_tend(void)
{
	return mlc_worker_tend(&kind);
}

/* ---- the worker ---- */

static MlcRelayShared *relay;
static MlcHistory *history;

/* Totals as of the last tick. */
typedef struct Totals
{
	uint64		hits;
	uint64		misses;
	uint64		events;
	uint64		evictions;
	uint64		checked;
	uint64		violations;
} Totals;

static void
read_totals(Totals *totals)
{
	uint32		n = pg_atomic_read_u32(&mlc_shared->nrule_stats);
	MlcL1Stat	l1;

	memset(totals, 0, sizeof(*totals));
	for (uint32 i = 0; i < n; i++)
	{
		MlcRuleStat *stat = &mlc_shared->rule_stats[i];

		if (stat->dbid != MyDatabaseId)
			continue;
		if (stat->rule != MLC_RULE_FETCHED)
			totals->events += pg_atomic_read_u64(&stat->events);
		if (stat->rule == MLC_RULE_FREE)
			continue;			/* that nothing is there is an answer */
		totals->hits += pg_atomic_read_u64(&stat->counters[MLC_RULE_HITS_L1]) +
			pg_atomic_read_u64(&stat->counters[MLC_RULE_HITS_L2]);
		totals->misses += pg_atomic_read_u64(&stat->counters[MLC_RULE_MISSES]);
	}
	mlc_l1_stat(&l1);
	totals->evictions = l1.evictions;
	mlc_consistency_totals(&totals->checked, &totals->violations);
}

/* What has come since; after reset_stats() there is less than before. */
static uint32
since(uint64 now, uint64 before)
{
	return (uint32) Min(now >= before ? now - before : now, PG_UINT32_MAX);
}

static void
sample_servers(MlcSample *sample)
{
	MlcTargetStat stats[MLC_MAX_TARGETS];

	mlc_segment_read_servers(relay, stats);
	for (int i = 0; i < MLC_MAX_TARGETS; i++)
	{
		MlcTargetStat *stat = &stats[i];

		if (stat->state == MLC_TARGET_UNUSED)
			continue;
		sample->down += stat->state != MLC_TARGET_ARMED;
		if (stat->applied_lsn == InvalidXLogRecPtr)
			continue;			/* it has never been reached */
		sample->lag_ms = Max(sample->lag_ms,
							 mlc_history_behind(history, stat->applied_lsn,
												sample->at));
		if (sample->insert_lsn > stat->applied_lsn)
			sample->lag_mb = Max(sample->lag_mb,
								 (sample->insert_lsn - stat->applied_lsn) / MB);
	}
}

static void
take_sample(void)
{
	static Totals before;
	static MlcWindow window;
	static bool first = true;
	MlcSample	sample = {0};
	MlcTiming	apply;
	Totals		totals;
	MlcSlotLook slot;

	sample.at = GetCurrentTimestamp();
	sample.insert_lsn = mlc_wal_insert_end();
	sample_servers(&sample);
	mlc_health_look_at_slot(&slot);
	sample.retained_mb = slot.retained < 0 ? -1 : slot.retained / MB;
	mlc_stats_window(MLC_TIME_APPLY, &window, &apply);
	sample.apply_p50 = apply.timed > 0 && !first ? apply.p50 / 1e6 : -1;
	sample.apply_p99 = apply.timed > 0 && !first ? apply.p99 / 1e6 : -1;
	read_totals(&totals);
	if (!first)
	{
		sample.hits = since(totals.hits, before.hits);
		sample.misses = since(totals.misses, before.misses);
		sample.events = since(totals.events, before.events);
		sample.evictions = since(totals.evictions, before.evictions);
		sample.checked = since(totals.checked, before.checked);
		sample.violations = since(totals.violations, before.violations);
	}
	before = totals;
	first = false;
	mlc_history_add(history, &sample);
}

/* What is not known now is not alarming; what is away is told of. */
static void
look_at_redis(void)
{
	MlcRedisLook *looks = palloc(sizeof(MlcRedisLook) * MLC_MAX_TARGETS);
	int			n = mlc_look_at_all(relay, history->looks, history->nlooks,
									looks);

	LWLockAcquire(&history->lock, LW_EXCLUSIVE);
	memcpy(history->looks, looks, sizeof(MlcRedisLook) * n);
	history->nlooks = n;
	LWLockRelease(&history->lock);
}

static bool
is_raised(MlcFindingKind kind, const char *subject)
{
	return mlc_alert_is_raised(history, kind, subject);
}

/* Tests have no time: a tenth of a second then. */
static int
tick_ms(void)
{
	return MLC_FAULT_SKIP("monitor-second") ? TICK / 10 : TICK;
}

static void
tick(bool look)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	take_sample();
	if (look)
		look_at_redis();
	mlc_alert_update(history, mlc_health_check(relay, history, history->looks,
											   history->nlooks, is_raised));
	PopActiveSnapshot();
	MLC_FAULT("monitor-before-commit");
	CommitTransactionCommand();
	pgstat_report_stat(true);
}

void
mlc_monitor_main(Datum arg)
{
	TimestampTz next = GetCurrentTimestamp();
	uint32		ticks = 0;

	relay = mlc_worker_begin(arg);
	history = mlc_history_mine(true);
	if (history == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("mlcache watches over the first %d databases only",
						MLC_MAX_HISTORIES)));

	while (mlc_worker_is_wanted(&kind, relay))
	{
		TimestampTz now = GetCurrentTimestamp();

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (now >= next)
		{
			if (history)
				tick(ticks++ % LOOK_EVERY == 0);
			next = TimestampTzPlusMilliseconds(now, tick_ms());
		}
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next) + 1,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
