/*-------------------------------------------------------------------------
 *
 * shm/stats.c
 *	  Counters and latency histograms in shared memory.
 *
 * A histogram is log-linear, as in HdrHistogram (Gil Tene, hdrhistogram.org):
 * each octave is cut into SUB equal buckets, so a bucket is never wider than
 * 1/SUB of its value, a percentile is off by half of that at most, and the
 * bucket is found by a shift.  The size is fixed, and covers 1 ns to 18 minutes.
 *
 * Locks: none.  All fields are atomic, added to without order; a reader beside
 * writers may see a count without its bucket, which does not matter.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "access/xact.h"
#include "base/area.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "shm/stats.h"
#include "utils/timestamp.h"

#define SUB_BITS 3
#define SUB (1 << SUB_BITS)		/* buckets an octave */
#define MAX_BITS 40				/* longer ones count as 2^40 ns */
#define BUCKETS ((MAX_BITS - SUB_BITS + 1) * SUB)

StaticAssertDecl(BUCKETS == MLC_STATS_BUCKETS, "the header knows the number");

typedef struct Histogram
{
	pg_atomic_uint64 count;		/* of operations, timed or not */
	pg_atomic_uint64 sum;		/* ns, of those that were timed */
	pg_atomic_uint64 max;		/* ns */
	pg_atomic_uint64 buckets[BUCKETS];
} Histogram;

/* One database; same index as its relay. */
typedef struct Stats
{
	pg_atomic_uint64 began;		/* TimestampTz */
	Histogram	histograms[MLC_OPERATIONS];
} Stats;

static const char *const names[MLC_OPERATIONS] = {
	"get L1", "get L2", "get load", "get row", "fetch L1", "fetch L2",
	"fetch load", "fetch row", "fill", "quarantine", "release", "apply", "lock"
};

static Stats *stats = NULL;

/* What this process has not reported yet. */
MlcLocalHits mlc_stats_hits[MLC_LOCAL_RULES] = {{.rule = MLC_NO_RULE}};
uint32		mlc_stats_turn = 0;
static uint32 local_calls = 0;

/* ---- layout ---- */

static Size
stats_size(void)
{
	return mul_size(sizeof(Stats), MLC_MAX_RELAYS);
}

static void
clear(Histogram *histogram)
{
	pg_atomic_write_u64(&histogram->count, 0);
	pg_atomic_write_u64(&histogram->sum, 0);
	pg_atomic_write_u64(&histogram->max, 0);
	for (int i = 0; i < BUCKETS; i++)
		pg_atomic_write_u64(&histogram->buckets[i], 0);
}

static void
init(Stats *database)
{
	pg_atomic_init_u64(&database->began, GetCurrentTimestamp());
	for (int i = 0; i < MLC_OPERATIONS; i++)
	{
		Histogram  *histogram = &database->histograms[i];

		pg_atomic_init_u64(&histogram->count, 0);
		pg_atomic_init_u64(&histogram->sum, 0);
		pg_atomic_init_u64(&histogram->max, 0);
		for (int j = 0; j < BUCKETS; j++)
			pg_atomic_init_u64(&histogram->buckets[j], 0);
	}
}

static void
attach(void *memory, bool found, LWLockPadded *locks)
{
	stats = memory;
	for (int i = 0; i < MLC_MAX_RELAYS && !found; i++)
		init(&stats[i]);
}

static const MlcArea area = {
	.name = "mlcache stats",
	.size = stats_size,
	.attach = attach
};

void
mlc_stats_init(void)
{
	mlc_area_want(&area);
}

static inline Stats *
stats_of(MlcRelayShared *relay)
{
	if (stats == NULL || relay == NULL)
		return NULL;
	return &stats[relay - mlc_shared->relays];
}

static inline Histogram *
my_histogram(MlcOperation operation)
{
	Stats	   *database = stats_of(mlc_segment_my_relay());

	return database ? &database->histograms[operation] : NULL;
}

/* ---- adding ---- */

uint64
mlc_stats_now(void)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	return ((uint64) now.tv_sec * 1000000000 + now.tv_nsec) | 1;
}

static inline int
bucket_of(uint64 ns)
{
	int			octave;

	if (ns < SUB)
		return (int) ns;
	if (ns >= UINT64CONST(1) << MAX_BITS)
		return BUCKETS - 1;
	octave = pg_leftmost_one_pos64(ns);
	return (octave - SUB_BITS + 1) * SUB +
		(int) ((ns >> (octave - SUB_BITS)) & (SUB - 1));
}

/* The middle of a bucket, ns. */
static double
middle_of(int bucket)
{
	int			shift;

	if (bucket < SUB)
		return bucket;
	shift = bucket / SUB - 1;
	return (double) ((uint64) (SUB + bucket % SUB) << shift) +
		(double) (UINT64CONST(1) << shift) / 2;
}

/* How long one took, which has been counted already. */
static void
time_one(Histogram *histogram, uint64 ns)
{
	uint64		max = pg_atomic_read_u64(&histogram->max);

	pg_atomic_fetch_add_u64(&histogram->sum, ns);
	pg_atomic_fetch_add_u64(&histogram->buckets[bucket_of(ns)], 1);
	while (ns > max &&
		   !pg_atomic_compare_exchange_u64(&histogram->max, &max, ns))
		;
}

void
mlc_stats_add(MlcOperation operation, uint64 ns)
{
	Histogram  *histogram = my_histogram(operation);

	if (histogram == NULL)
		return;
	pg_atomic_fetch_add_u64(&histogram->count, 1);
	time_one(histogram, ns);
}

void
mlc_stats_since(MlcOperation operation, uint64 start)
{
	Histogram  *histogram = my_histogram(operation);

	if (histogram == NULL)
		return;
	pg_atomic_fetch_add_u64(&histogram->count, 1);
	if (start != 0)
		time_one(histogram, mlc_stats_now() - start);
}

/* ---- hits in L1, kept in this process for a while ---- */

static void
report_rule(MlcLocalHits *local)
{
	if (local->hits > 0 && local->stat)
		pg_atomic_fetch_add_u64(&local->stat->counters[MLC_RULE_HITS_L1],
								local->hits);
	local->hits = 0;
}

/* Any event will do: what is reported once is not reported again. */
static void
report_all(XactEvent event, void *arg)
{
	Histogram  *histogram;

	if (local_calls == 0)
		return;
	for (int i = 0; i < MLC_LOCAL_RULES; i++)
		report_rule(&mlc_stats_hits[i]);
	histogram = my_histogram(MLC_TIME_GET_L1);
	if (histogram)
		pg_atomic_fetch_add_u64(&histogram->count, local_calls);
	local_calls = 0;
}

static void
listen_for_ends(void)
{
	static bool done = false;

	if (done)
		return;
	done = true;
	RegisterXactCallback(report_all, NULL);

	/* lest short sessions all time their first read, or none */
	mlc_stats_turn += MyProcPid;
}

/* Gives the place to a rule. */
static void
take_place(MlcLocalHits *local, int32 rule)
{
	report_rule(local);
	if (local->rule == rule)
		return;
	listen_for_ends();
	local->stat = mlc_segment_rule_stat(MyDatabaseId, rule);
	local->rule = rule;
}

void
mlc_stats_report_hit(MlcLocalHits *local, int32 rule)
{
	take_place(local, rule);
	local->hits++;
}

void
mlc_stats_hit_call(uint64 start)
{
	local_calls++;
	if (unlikely(start != 0))
	{
		Histogram  *histogram = my_histogram(MLC_TIME_GET_L1);

		if (histogram)
			time_one(histogram, mlc_stats_now() - start);
	}
}

/* ---- rules ---- */

void
mlc_stats_rule(int32 rule, MlcRuleCounter counter, uint64 n)
{
	MlcLocalHits *local = &mlc_stats_hits[rule & (MLC_LOCAL_RULES - 1)];

	if (local->rule != rule)
		take_place(local, rule);
	if (local->stat)
		pg_atomic_fetch_add_u64(&local->stat->counters[counter], n);
}

/* ---- reading ---- */

/* The value that this share of what was timed does not exceed. */
static double
percentile(const uint64 *counts, const MlcTiming *timing, double share)
{
	uint64		seen = 0;

	for (int i = 0; i < BUCKETS; i++)
	{
		seen += counts[i];
		if (seen > 0 && seen >= timing->timed * share)
			return Min(middle_of(i), timing->max);
	}
	return timing->max;
}

static void
describe(Histogram *histogram, const uint64 *counts, MlcTiming *timing)
{
	timing->count = pg_atomic_read_u64(&histogram->count);
	for (int i = 0; i < BUCKETS; i++)
		timing->timed += counts[i];
	if (timing->timed == 0)
		return;
	timing->max = pg_atomic_read_u64(&histogram->max);
	timing->p50 = percentile(counts, timing, 0.5);
	timing->p99 = percentile(counts, timing, 0.99);
	timing->p999 = percentile(counts, timing, 0.999);
}

bool
mlc_stats_read(MlcRelayShared *relay, MlcOperation operation,
			   MlcTiming *timing)
{
	Stats	   *database = stats_of(relay);
	Histogram  *histogram;
	uint64		counts[BUCKETS];

	memset(timing, 0, sizeof(*timing));
	timing->name = names[operation];
	if (database == NULL)
		return false;
	histogram = &database->histograms[operation];
	for (int i = 0; i < BUCKETS; i++)
		counts[i] = pg_atomic_read_u64(&histogram->buckets[i]);
	describe(histogram, counts, timing);
	if (timing->timed > 0)
		timing->mean = (double) pg_atomic_read_u64(&histogram->sum) / timing->timed;
	return true;
}

void
mlc_stats_window(MlcOperation operation, MlcWindow *window, MlcTiming *timing)
{
	Histogram  *histogram = my_histogram(operation);
	uint64		counts[BUCKETS];

	memset(timing, 0, sizeof(*timing));
	timing->name = names[operation];
	if (histogram == NULL)
		return;
	for (int i = 0; i < BUCKETS; i++)
	{
		uint64		now = pg_atomic_read_u64(&histogram->buckets[i]);

		/* fewer than before: they have begun anew */
		counts[i] = now >= window->counts[i] ? now - window->counts[i] : now;
		window->counts[i] = now;
	}
	describe(histogram, counts, timing);
}

TimestampTz
mlc_stats_began(MlcRelayShared *relay)
{
	Stats	   *database = stats_of(relay);

	return database ? (TimestampTz) pg_atomic_read_u64(&database->began) : 0;
}

void
mlc_stats_reset(void)
{
	Stats	   *database = stats_of(mlc_segment_my_relay());
	uint32		n;

	if (database)
	{
		for (int i = 0; i < MLC_OPERATIONS; i++)
			clear(&database->histograms[i]);
		pg_atomic_write_u64(&database->began, GetCurrentTimestamp());
	}
	n = pg_atomic_read_u32(&mlc_shared->nrule_stats);
	for (uint32 i = 0; i < n; i++)
	{
		MlcRuleStat *stat = &mlc_shared->rule_stats[i];

		if (stat->dbid != MyDatabaseId)
			continue;
		pg_atomic_write_u64(&stat->events, 0);
		pg_atomic_write_u64(&stat->null_keys, 0);
		pg_atomic_write_u64(&stat->purges, 0);
		for (int j = 0; j < MLC_RULE_COUNTERS; j++)
			pg_atomic_write_u64(&stat->counters[j], 0);
	}
}
