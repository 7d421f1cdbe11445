/*-------------------------------------------------------------------------
 *
 * shm/stats.h
 *	  How often and how fast: counters and latency histograms, by database.
 *
 * Everything here is cheap and never throws, so it may be called anywhere, in
 * the callbacks of a commit too.  Without shared memory, or in a database that
 * has no relay, nothing is counted.
 *
 * What costs a round trip is timed each time.  A hit in L1 is counted in this
 * process and timed once in MLC_STATS_SAMPLE, since two looks at the clock cost
 * about a third of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_SHM_STATS_H
#define MLC_SHM_STATS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "shm/segment.h"

/* Rows of the view "stat", in this order. */
typedef enum MlcOperation
{
	MLC_TIME_GET_L1,			/* a call of get or mget that L1 answered */
	MLC_TIME_GET_L2,			/* that Redis answered */
	MLC_TIME_GET_LOAD,			/* that loaded a row and filled Redis */
	MLC_TIME_GET_ROW,			/* that loaded a row and cached nothing */
	MLC_TIME_FETCH_L1,			/* a call of fetch that L1 answered */
	MLC_TIME_FETCH_L2,			/* that Redis answered */
	MLC_TIME_FETCH_LOAD,		/* that ran the query and filled Redis */
	MLC_TIME_FETCH_ROW,			/* that ran the query and cached nothing */
	MLC_TIME_FILL,				/* the fills of a call, to one server */
	MLC_TIME_QUARANTINE,		/* of a strong commit: before it */
	MLC_TIME_RELEASE,			/* of a strong commit: after it */
	MLC_TIME_APPLY,				/* a batch: its oldest commit to applied */
	MLC_TIME_LOCK				/* a lock that was given */
} MlcOperation;

#define MLC_OPERATIONS (MLC_TIME_LOCK + 1)
#define MLC_STATS_SAMPLE 64		/* a power of two */

/* One operation; times in ns, 0 where nothing was timed. */
typedef struct MlcTiming
{
	const char *name;
	uint64		count;
	uint64		timed;
	double		p50;
	double		p99;
	double		p999;
	double		max;
	double		mean;
} MlcTiming;

/* Hits of one rule that this process has not reported yet. */
typedef struct MlcLocalHits
{
	int32		rule;
	uint32		hits;
	MlcRuleStat *stat;			/* NULL: the table of rules is full */
} MlcLocalHits;

#define MLC_LOCAL_RULES 64		/* a power of two */
#define MLC_LOCAL_HITS 4096		/* reported at the latest then */

/* Has the place of rule 0, until that comes. */
#define MLC_NO_RULE PG_INT32_MIN

extern MlcLocalHits mlc_stats_hits[MLC_LOCAL_RULES];
extern uint32 mlc_stats_turn;

/* Hooks for shared memory.  From _PG_init only. */
extern void mlc_stats_init(void);

/* ns of a clock that nobody sets; never 0. */
extern uint64 mlc_stats_now(void);

/* Counts an operation and how long it took, ns. */
extern void mlc_stats_add(MlcOperation operation, uint64 ns);

/* The same, since start; start 0: it was not timed. */
extern void mlc_stats_since(MlcOperation operation, uint64 start);

/* For what is timed once in a while: mlc_stats_now() then, else 0. */
static inline uint64
mlc_stats_sample(void)
{
	if (likely((++mlc_stats_turn & (MLC_STATS_SAMPLE - 1)) != 0))
		return 0;
	return mlc_stats_now();
}

/* Counts one hit in L1; reported when the transaction ends. */
extern void mlc_stats_report_hit(MlcLocalHits *local, int32 rule);

static inline void
mlc_stats_hit(int32 rule)
{
	MlcLocalHits *local = &mlc_stats_hits[rule & (MLC_LOCAL_RULES - 1)];

	if (likely(local->rule == rule && local->hits < MLC_LOCAL_HITS))
		local->hits++;
	else
		mlc_stats_report_hit(local, rule);
}

/* A call that L1 answered; start as of mlc_stats_sample(). */
extern void mlc_stats_hit_call(uint64 start);

/* Counts for a rule of this database.  In a transaction. */
extern void mlc_stats_rule(int32 rule, MlcRuleCounter counter, uint64 n);

/* What an observer saw last, to tell what has come since. */
#define MLC_STATS_BUCKETS 304
typedef struct MlcWindow
{
	uint64		counts[MLC_STATS_BUCKETS];
} MlcWindow;

/*
 * What was timed in this database since the last call; all zero before the
 * first one.  count is that of all, timed or not.
 */
extern void mlc_stats_window(MlcOperation operation, MlcWindow *window,
							 MlcTiming *timing);

/* Of a database; false: nothing is kept for it. */
extern bool mlc_stats_read(MlcRelayShared *relay, MlcOperation operation,
						   MlcTiming *timing);

/* When the counters of the database began; 0: never. */
extern TimestampTz mlc_stats_began(MlcRelayShared *relay);

/* Operations and rules of this database begin anew. */
extern void mlc_stats_reset(void);

#endif							/* MLC_SHM_STATS_H */
