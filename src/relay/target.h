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

#include "nodes/pg_list.h"
#include "redis/cluster.h"
#include "redis/conn.h"
#include "redis/server.h"
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
	MLC_EXPECT_DELIVER,
	MLC_EXPECT_STREAM,
	MLC_EXPECT_FREE,
	MLC_EXPECT_SWEEP,
	MLC_EXPECT_TIDY,
	MLC_EXPECT_ASKING,
	MLC_EXPECT_NEWS,
	MLC_EXPECT_LEASE,			/* these two: relay/refresh.c */
	MLC_EXPECT_FILL
} MlcExpect;

/* A reply in flight, and the events whose command it answers. */
typedef struct MlcExpected
{
	MlcExpect	what;
	int			nevents;		/* of a cluster only */
	uint32		number;			/* of a lease or a fill */
} MlcExpected;

typedef struct MlcGroup MlcGroup;

/* A removal of many keys that is under way. */
typedef struct MlcSweep
{
	MlcOp		op;				/* MLC_OP_TAG: through an index; or
								 * MLC_OP_PATTERN: by a glob of guards */
	char	   *name;			/* of the index; the glob; in a cluster, what
								 * indexes have behind the namespace */
	char		version[MLC_VERSION_LEN + 1];

	/* through the slots of a master: those of the step under way */
	int			slot;			/* the first */
	int			nslots;
	int			next_slot;		/* behind the last */
	int			skip;			/* so many of them are done */
} MlcSweep;

typedef struct MlcTarget
{
	/* who it is */
	Oid			serverid;
	int			number;			/* its bit in rule masks, its slot in shm */
	char	   *name;
	char	   *label;			/* for messages: the name, and the node */
	MlcRedisOptions options;
	char	   *fingerprint;	/* of all options, to see changes */
	char	   *ns;				/* namespace of the state key */
	int64		stream;			/* cap of mlc:events; 0: none */
	bool		paused;
	MlcTargetStat *stat;
	MemoryContext context;

	/* a master of a Redis Cluster */
	MlcGroup   *group;			/* NULL: it is none */
	int			node;			/* in the group's map; -1: not known yet */
	MlcNode		place;
	char		tag[12];		/* the state key's; "": not known */
	int			place_tries;
	bool		fresh;			/* purged, and nothing sent since */

	/* the connection */
	MlcConn    *conn;
	MlcTargetState state;
	TimestampTz retry_at;
	int			backoff;		/* ms */
	uint32		awaits;			/* what opening waits for; 0: not opening */
	pgsocket	awaits_socket;	/* on this one */
	TimestampTz oom_until;		/* Redis was full: no values until then */

	/* what the server knows; valid while state is CATCHUP or ARMED */
	char		nonce[MLC_NONCE_LEN + 1];
	MlcVersion	applied;		/* applied, replies checked */
	MlcVersion	published;		/* applied, as the server was told */
	MlcVersion	known;			/* the same, and it has answered */
	MlcVersion	applying;		/* as the server was told */
	XLogRecPtr	arm_at;			/* arm when all before it was delivered */
	MlcCommits *commits;		/* strong ones whose marks may be lost; NULL:
								 * they are over, arm_at counts */

	/* in flight */
	int			nexpect;
	int			expect_size;
	int			expect_next;
	MlcExpected *expect;
	int			nsent;			/* events sent to a cluster, in order */
	int			sent_size;
	int			sent_next;		/* the first whose reply is not in */
	MlcBatchEvent **sent;		/* the batch in flight has them */
	List	   *sweeps;			/* of MlcSweep, in the order of their replies */
	char		tidy_cursor[24];	/* of the scan for indexes; "": none yet */
	TimestampTz sent_at;
	int			told_at;		/* so many replies, and it knows what the
								 * batch at hand applies */
	bool		held;			/* what is laid out may not go out yet */

	/* it has kept the others waiting; see relay/flow.c */
	bool		aside;
	MlcVersion	aside_end;		/* applied once what is in flight is answered */
	bool		behind;			/* it is to get what it has missed */
} MlcTarget;

/* Moves whenever a connection of any target was made or closed. */
extern uint64 mlc_target_connections;

/* Moves whenever one that is being made waits for something else. */
extern uint64 mlc_target_openings;

/* A new nonce, of MLC_NONCE_LEN digits and a NUL. */
extern void mlc_target_new_nonce(char *nonce);

/* Creates from a foreign server, which must exist; in a transaction. */
extern MlcTarget *mlc_target_create(MemoryContext parent, Oid serverid,
									int number, MlcTargetStat *stat);
extern void mlc_target_destroy(MlcTarget *target);

/* Creates a master of a cluster, whose node is told before it is used. */
extern MlcTarget *mlc_target_create_member(MlcGroup *group, MlcServer *server,
										   MemoryContext parent, int number,
										   MlcTargetStat *stat);
extern void mlc_target_set_node(MlcTarget *target, const MlcNode *node);

/*
 * Begins to open its connection, or goes on, without waiting, since one that
 * is away must not hold up the others.  True once it is open.
 */
extern bool mlc_target_open(MlcTarget *target);

/*
 * Finds out what the server knows, over an open connection.  On true the target is in
 * CATCHUP or ARMED with applied set; *rewind tells whether changes after
 * applied must be decoded again.  position: what all targets may take for
 * granted (decoded and visible).  rules: of MlcRelayRule, for a purge.
 */
extern bool mlc_target_connect(MlcTarget *target, MlcVersion position,
							   XLogRecPtr confirmed, HTAB *rules);

/*
 * A live and idle target serves nobody until everything after applied has been
 * delivered to it again; from scratch: until it has been purged, too.
 */
extern bool mlc_target_take_back(MlcTarget *target, MlcVersion applied);
extern bool mlc_target_start_over(MlcTarget *target, MlcVersion position,
								  HTAB *rules, const char *reason);

/* Connected, and nothing in flight? */
extern bool mlc_target_is_idle(MlcTarget *target);
extern bool mlc_target_is_live(MlcTarget *target);

/* Waits: the answer to a heartbeat may be on its way.  False: it is down. */
extern bool mlc_target_is_at_rest(MlcTarget *target);

/* Live, and not set aside: it gets what there is. */
extern bool mlc_target_is_reached(MlcTarget *target);

/*
 * Is the event for this target, and has it not been applied there?  Of a
 * cluster all masters say yes, whatever the slot.
 */
extern bool mlc_target_concerns(MlcTarget *target, MlcRelayRule *rule,
								MlcVersion version);

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

/* Sends applying ahead, and tells applied.  Replies as of a batch. */
extern void mlc_target_announce(MlcTarget *target, MlcVersion applying);

/* Asks it, a master, for the map of its cluster.  Replies as of a batch. */
extern void mlc_target_ask_for_map(MlcTarget *target);

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

/* Closes it until it is not paused any more. */
extern void mlc_target_pause(MlcTarget *target, bool paused);

/* Closes it with a reason; retried with backoff. */
extern void mlc_target_fail(MlcTarget *target, const char *reason);

#endif							/* MLC_RELAY_TARGET_H */
