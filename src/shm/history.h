/*-------------------------------------------------------------------------
 *
 * shm/history.h
 *	  What the monitor of a database remembers: samples, one a second for ten
 *	  minutes and one a minute for a day; what it saw on each Redis; which
 *	  alerts are raised.
 *
 * The monitor is the only writer.  It writes under the lock of the history, and
 * whoever reads takes it in share mode: a leaf.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_SHM_HISTORY_H
#define MLC_SHM_HISTORY_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "shm/segment.h"

#define MLC_MAX_HISTORIES 16	/* databases that are remembered */
#define MLC_SECONDS 600			/* samples of a second */
#define MLC_MINUTES 1440		/* samples of a minute */
#define MLC_MAX_ALERTS 64		/* of a database, at a time */
#define MLC_SUBJECT_LEN 128

/* One second, or one minute: sums of it, or the worst in it. */
typedef struct MlcSample
{
	TimestampTz at;				/* its end */
	XLogRecPtr	insert_lsn;		/* end of WAL then */
	float		lag_ms;			/* age of the oldest change not applied */
	float		lag_mb;			/* of WAL not applied */
	float		retained_mb;	/* of WAL that the slot holds; -1: unknown */
	float		apply_p50;		/* ms from commit to applied; -1: no commit */
	float		apply_p99;
	uint32		hits;			/* keys, L1 and Redis */
	uint32		misses;
	uint32		events;			/* decoded for rules */
	uint32		evictions;		/* of L1, all databases */
	uint32		checked;		/* entries that were compared with rows */
	uint32		violations;		/* of those, found wrong */
	int32		down;			/* servers that were not armed */
} MlcSample;

/* What the monitor saw on one Redis; of a cluster, on one of its masters. */
typedef struct MlcRedisLook
{
	Oid			serverid;
	char		host[256];		/* of a master that a cluster, or Sentinel,
								 * named; else "" */
	int			port;
	int			seeds;			/* of a cluster: nodes that its url names, */
	int			seeds_left;		/* and through how many it is found */
	TimestampTz at;
	char		policy[24];		/* maxmemory-policy */
	int64		used;			/* bytes */
	int64		max;			/* bytes; 0: no limit */
	int64		rss;			/* bytes */
	int64		evicted;		/* keys, since it started */
	char		run_id[44];
	double		clock_ms;		/* its clock minus ours */
	TimestampTz jumped_at;		/* its clock and ours moved apart; 0: never */
	double		jumped_ms;		/* by how much */
} MlcRedisLook;

/* A condition that the monitor knows; written by it alone. */
typedef struct MlcAlertState
{
	int			kind;			/* MlcFindingKind */
	char		subject[MLC_SUBJECT_LEN];
	int			looks;			/* in a row that it was there, or was not */
	bool		raised;
	TimestampTz since;			/* raised, or over; 0: never raised */
} MlcAlertState;

typedef struct MlcHistory
{
	LWLock		lock;
	Oid			dbid;			/* claimed once, never freed; 0: free */
	pid_t		pid;			/* the monitor */
	uint32		nseconds;		/* ever; the last is (n - 1) % MLC_SECONDS */
	uint32		nminutes;
	MlcSample	seconds[MLC_SECONDS];
	MlcSample	minutes[MLC_MINUTES];
	int			nlooks;
	MlcRedisLook looks[MLC_MAX_TARGETS];
	int			nalerts;
	MlcAlertState alerts[MLC_MAX_ALERTS];
} MlcHistory;

/* Hooks for shared memory.  From _PG_init only. */
extern void mlc_history_init(void);

/*
 * The history of this database.  NULL: there is none, or with create, there
 * are too many databases.
 */
extern MlcHistory *mlc_history_mine(bool create);

/* Adds a sample of a second; every minute, one of a minute, too. */
extern void mlc_history_add(MlcHistory *history, const MlcSample *sample);

/*
 * How long what lies behind a position has been waiting, ms: since the oldest
 * sample that was taken past it.  0: nothing has.
 */
extern double mlc_history_behind(MlcHistory *history, XLogRecPtr lsn,
								 TimestampTz now);

/* Sums up the last so many seconds; returns how many of them there are. */
extern int	mlc_history_sum(MlcHistory *history, int seconds, MlcSample *sum);

#endif							/* MLC_SHM_HISTORY_H */
