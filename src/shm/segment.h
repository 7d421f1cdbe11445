/*-------------------------------------------------------------------------
 *
 * shm/segment.h
 *	  The shared memory of mlcache: one fixed structure, made at start-up.
 *
 * Lock order: MlcShared.lock is a leaf; nothing else is taken under it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_SHM_SEGMENT_H
#define MLC_SHM_SEGMENT_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#define MLC_MAX_RELAYS 64		/* databases with rules */
#define MLC_MAX_TARGETS 64		/* servers a database, masters of clusters
								 * each */
#define MLC_MAX_RULE_STATS 4096 /* rules with counters, all databases */
#define MLC_ERROR_LEN 256
#define MLC_NODE_LEN 72			/* "host:port" of a master of a cluster */

typedef enum MlcTargetState
{
	MLC_TARGET_UNUSED,
	MLC_TARGET_DOWN,			/* not reached; retried with backoff */
	MLC_TARGET_CATCHUP,			/* delivering, not armed yet */
	MLC_TARGET_ARMED,
	MLC_TARGET_PAUSED,
	MLC_TARGET_GIVEN_UP			/* held too much WAL; purged on return */
} MlcTargetState;

/* One server of one database.  Written by its relay only, under the lock. */
typedef struct MlcTargetStat
{
	Oid			serverid;
	MlcTargetState state;
	char		node[MLC_NODE_LEN]; /* "": no cluster, or not known yet */
	TimeLineID	applied_tli;
	XLogRecPtr	applied_lsn;
	TimestampTz applied_commit; /* commit time of the last applied change */
	int64		events;			/* applied, after coalescing */
	int64		invalidated;
	int64		updated;		/* set by a versioned update or replicate */
	int64		skipped;		/* versioned and not newer, or already there */
	int64		batches;
	int64		purges;
	int64		errors;
	int64		reconnects;
	XLogRecPtr	catch_up_from;	/* where it stood when it was reached again */
	TimestampTz catch_up_at;	/* ... or since when it is to be reached */
	double		lag_ms;			/* oldest commit of a batch to applied */
	double		lag_ms_max;
	char		error[MLC_ERROR_LEN];	/* the last, without secrets */
	TimestampTz error_at;
} MlcTargetStat;

typedef enum MlcSleep
{
	MLC_SLEEP_NONE,
	MLC_SLEEP_IDLE,				/* until there is something to do */
	MLC_SLEEP_NAP				/* collects what is in no hurry */
} MlcSleep;

/* One relay, that is one database with rules. */
typedef struct MlcRelayShared
{
	Oid			dbid;			/* claimed once, under the lock, never freed */
	bool		wanted;			/* asks the launcher to start it; lock */
	bool		settled;		/* the relay found that it is needed; lock */
	bool		ready;			/* the relay has its slot: later commits are
								 * delivered; lock */
	bool		retired;		/* the last relay left of its own accord; lock */
	pg_atomic_uint32 holds;		/* transactions that are about to attach */
	pid_t		pid;			/* the relay itself; lock */
	TimestampTz began_at;		/* the same */
	Latch	   *latch;			/* the relay itself; lock; read without */
	pg_atomic_uint32 sleeping;	/* relay sets to an MlcSleep, whoever wakes it
								 * clears */
	pg_atomic_uint64 want_lsn;	/* highest commit end of any backend */
	pg_atomic_uint64 hurry_lsn; /* the same, but for commits that have done
								 * themselves what the relay is to do */
	pg_atomic_uint64 decoded_lsn;	/* relay: visible-waited position */
	pg_atomic_uint64 applied_lsn;	/* relay: minimum over its targets */
	pg_atomic_uint64 safe_lsn;	/* relay: every server without exception has
								 * applied all before; 0: unknown */
	pg_atomic_uint64 fresh_at;	/* relay: the same for all commits visible at
								 * this time; 0: unknown */
	pg_atomic_uint32 generation;	/* bumped to make the relay reload */
	pg_atomic_uint32 hurry;		/* waiters want weak changes now */
	pg_atomic_uint32 reloads;	/* relay: replicas that are to be loaded again */
	pg_atomic_uint64 reloaded;	/* relay: how often there were none left */
	pg_atomic_uint64 decoding;	/* relay: start of the record that it decodes
								 * just now; 0: none */
	XLogRecPtr	died_at;		/* relay: where its predecessors died, */
	int			deaths;			/* and how often in a row */
	pg_atomic_uint64 sweeps;	/* anybody: marks may have lost their owner */
	pg_atomic_uint64 prepared;	/* strong transactions that began to PREPARE */
	pg_atomic_uint64 resolved;	/* relay: those of them that are over */
	TimeLineID	tli;			/* relay; lock */
	int64		transactions;	/* relay; lock */
	int64		spilled;		/* transactions over the memory budget; lock */
	ConditionVariable progress; /* broadcast when applied_lsn moves */
	MlcTargetStat targets[MLC_MAX_TARGETS];
} MlcRelayShared;

/* What readers count for a rule. */
typedef enum MlcRuleCounter
{
	MLC_RULE_HITS_L1,
	MLC_RULE_HITS_L2,
	MLC_RULE_MISSES,			/* the cache was asked, the row was read */
	MLC_RULE_BYPASSED,			/* the cache was not to be asked */
	MLC_RULE_FILLS,				/* that a Redis took */
	MLC_RULE_REFUSED			/* or did not take */
} MlcRuleCounter;

#define MLC_RULE_COUNTERS (MLC_RULE_REFUSED + 1)

/* Counters of one rule; slots are claimed under the lock, never freed. */
typedef struct MlcRuleStat
{
	Oid			dbid;
	int32		rule;
	pg_atomic_uint64 events;	/* relay: decoded */
	pg_atomic_uint64 null_keys; /* changes skipped for a NULL in the key */
	pg_atomic_uint64 purges;
	pg_atomic_uint64 counters[MLC_RULE_COUNTERS];	/* readers; shm/stats.h */
} MlcRuleStat;

/* Which failover made the master that Sentinel names; see redis/sentinel.c. */
#define MLC_MAX_SENTINELS 64
typedef struct MlcSentinelEpoch
{
	pg_atomic_uint64 name;		/* a hash; 0: free; claimed once */
	pg_atomic_uint64 epoch;		/* anybody who asks a sentinel; grows */
} MlcSentinelEpoch;

typedef struct MlcShared
{
	LWLock	   *lock;
	Latch	   *launcher;		/* the launcher itself; lock */
	pid_t		launcher_pid;
	pg_atomic_uint32 nrelays;	/* claimed entries; raised under the lock */
	MlcRelayShared relays[MLC_MAX_RELAYS];
	MlcSentinelEpoch sentinels[MLC_MAX_SENTINELS];
	pg_atomic_uint32 nrule_stats;
	MlcRuleStat rule_stats[MLC_MAX_RULE_STATS];
} MlcShared;

/* NULL when the library was not preloaded. */
extern MlcShared *mlc_shared;

/* Hooks for the request and start-up of shared memory.  From _PG_init only. */
extern void mlc_segment_init(void);

/* ERROR 55000 with the line to type when the library was not preloaded. */
extern void mlc_segment_require(void);

/* The relay of a database, NULL if it has none and create is false. */
extern MlcRelayShared *mlc_segment_relay(Oid dbid, bool create);

/* The relay of this database, cached; cheap enough for a commit callback. */
extern MlcRelayShared *mlc_segment_my_relay(void);

/* Wakes the relay if it sleeps.  Never throws; callable at commit. */
extern void mlc_segment_wake(MlcRelayShared *relay);

/* The same, but lets it nap. */
extern void mlc_segment_wake_idle(MlcRelayShared *relay);

/*
 * Has this database's relay started, or made to read the catalogs again.
 * Never throws; callable at commit.  Its entry must have been claimed.
 */
extern void mlc_segment_want_relay(void);

/*
 * Has the relay started where it does not run, and waits up to timeout ms until
 * it has its slot.  Its entry must have been claimed.  False: it has none yet.
 */
extern bool mlc_segment_await_slot(MlcRelayShared *relay, int timeout);

/* Wakes the launcher.  Never throws. */
extern void mlc_segment_wake_launcher(void);

/*
 * May a prepared transaction hold strong keys of this database?  Its COMMIT
 * PREPARED has no callback that could close their lines in L1, so nobody uses
 * L1 for strong keys meanwhile.
 */
static inline bool
mlc_segment_is_prepared(MlcRelayShared *relay)
{
	return pg_atomic_read_u64(&relay->prepared) !=
		pg_atomic_read_u64(&relay->resolved);
}

/* Counters of a rule of this database; NULL when the table is full. */
extern MlcRuleStat *mlc_segment_rule_stat(Oid dbid, int32 rule);

/*
 * Copies MLC_MAX_TARGETS entries, one a server: of the masters of a cluster
 * the worst and the sums.  State UNUSED: none.
 */
extern void mlc_segment_read_servers(MlcRelayShared *relay,
									 MlcTargetStat *servers);

#endif							/* MLC_SHM_SEGMENT_H */
