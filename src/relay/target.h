/*-------------------------------------------------------------------------
 *
 * relay/target.h
 *	  One Redis that a relay keeps coherent: its connection, its state on the
 *	  server (applied, applying, nonce), the batch in flight, arming, purging.
 *
 * Nothing here throws on network trouble: a target that fails is DOWN and is
 * tried again later; the relay then decodes again from what it still holds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_TARGET_H
#define MLC_RELAY_TARGET_H

#include "postgres.h"

#include "redis/conn.h"
#include "relay/batch.h"
#include "shm/commits.h"
#include "shm/segment.h"
#include "utils/hsearch.h"

#define MLC_NONCE_LEN 32

/* What a reply in flight answers. */
typedef enum MlcExpect
{
	MLC_EXPECT_PUBLISH,
	MLC_EXPECT_UNLINK,
	MLC_EXPECT_APPLY,
	MLC_EXPECT_STREAM
} MlcExpect;

typedef struct MlcTarget
{
	/* who it is */
	Oid			serverid;
	int			number;			/* its bit in rule masks, its slot in shm */
	char	   *name;
	MlcRedisOptions options;
	char	   *fingerprint;	/* of all options, to see changes */
	char	   *ns;				/* namespace of the state key */
	int64		stream;			/* cap of mlc:events; 0: none */
	bool		paused;
	MlcTargetStat *stat;
	MemoryContext context;

	/* the connection */
	MlcConn    *conn;
	MlcTargetState state;
	TimestampTz retry_at;
	int			backoff;		/* ms */
	TimestampTz oom_until;		/* Redis was full: no values until then */

	/* what the server knows; valid while state is CATCHUP or ARMED */
	char		nonce[MLC_NONCE_LEN + 1];
	MlcVersion	applied;		/* applied, replies checked */
	MlcVersion	published;		/* applied, as the server was told */
	MlcVersion	applying;		/* as the server was told */
	XLogRecPtr	arm_at;			/* arm when all before it was delivered */
	MlcCommits *commits;		/* strong ones whose marks may be lost; NULL:
								 * they are over, arm_at counts */

	/* in flight */
	int			nexpect;
	int			expect_size;
	int			expect_next;
	MlcExpect  *expect;
	TimestampTz sent_at;
} MlcTarget;

/* Moves whenever a connection of any target was made or closed. */
extern uint64 mlc_target_connections;

/* Creates from a foreign server, which must exist; in a transaction. */
extern MlcTarget *mlc_target_create(MemoryContext parent, Oid serverid,
									int number, MlcTargetStat *stat);
extern void mlc_target_destroy(MlcTarget *target);

/*
 * Connects and finds out what the server knows.  On true the target is in
 * CATCHUP or ARMED with applied set; *rewind tells whether changes after
 * applied must be decoded again.  position: what all targets may take for
 * granted (decoded and visible).  rules: of MlcRelayRule, for a purge.
 */
extern bool mlc_target_connect(MlcTarget *target, MlcVersion position,
							   XLogRecPtr confirmed, HTAB *rules);

/* Connected, and nothing in flight? */
extern bool mlc_target_is_idle(MlcTarget *target);
extern bool mlc_target_is_live(MlcTarget *target);

/* One more reply of this kind is to come. */
extern void mlc_target_expect(MlcTarget *target, MlcExpect what);

/*
 * Sends a batch; its replies are collected by mlc_target_poll().  Purges are
 * carried out here and now.  False: the target is down.
 */
extern bool mlc_target_send(MlcTarget *target, MlcBatch *batch);

/*
 * Reads what has come.  True once everything in flight is answered; false
 * while something is, or when the target went down.
 */
extern bool mlc_target_poll(MlcTarget *target);

/*
 * Everything up to version is applied there (nothing in flight).  committed,
 * oldest: of the last and the first transaction of a batch; 0: no batch.
 */
extern void mlc_target_advance(MlcTarget *target, MlcVersion version,
							   TimestampTz committed, TimestampTz oldest);

/* Tells the server applied; also its heartbeat.  Replies as of a batch. */
extern bool mlc_target_publish(MlcTarget *target);

/* Arms it: readers may hit, lease and fill from now on.  Waits. */
extern bool mlc_target_arm(MlcTarget *target);

/*
 * Is the reply there, and no error?  Otherwise fails the target, saying what
 * was asked, and returns false.
 */
extern bool mlc_target_good(MlcTarget *target, MlcReply *reply,
							const char *what);

/* Disarms it and removes every entry, since no relay will follow.  Waits. */
extern void mlc_target_retire(MlcTarget *target, HTAB *rules);

/* Fails an idle target whose connection the server has closed. */
extern void mlc_target_check_closed(MlcTarget *target);

/* Closes it with a reason; retried with backoff. */
extern void mlc_target_fail(MlcTarget *target, const char *reason);

#endif							/* MLC_RELAY_TARGET_H */
