/*-------------------------------------------------------------------------
 *
 * relay/relay.h
 *	  The state of this process, the relay: shared by the files of the room.
 *
 * intake.c queues what decoding finds; flow.c sends it and collects replies;
 * upkeep.c reads the catalogs, confirms the slot, tells progress; worker.c is
 * the loop and the life of the process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_RELAY_H
#define MLC_RELAY_RELAY_H

#include "postgres.h"

#include "capture/decode.h"
#include "relay/batch.h"
#include "relay/target.h"
#include "shm/segment.h"
#include "utils/hsearch.h"

#define MLC_BUSY 8				/* transactions in a batch, from which on
								 * commits come faster than batches should */
#define MLC_PUBLISH_PAUSE 20	/* ms between publications of mere progress */

/* One second of the past: what could be confirmed once it is old enough. */
typedef struct MlcMark
{
	TimestampTz at;
	XLogRecPtr	lsn;
} MlcMark;

typedef struct MlcRelay
{
	MlcSink		sink;			/* first: the sink is the relay */
	MlcRelayShared *shared;
	MemoryContext context;
	MemoryContext scratch;		/* reset every turn */
	HTAB	   *rules;			/* MlcRelayRule by id */
	uint32		rules_generation;	/* bumped when targets come and go */
	MlcTarget  *targets[MLC_MAX_TARGETS];
	int			ntargets;
	List	   *groups;			/* of MlcGroup: Redis Clusters */

	/* decoding */
	MlcBatch   *current;
	MlcBatch   *flight;			/* what is in flight, or empty */
	MlcBatch   *kept;			/* what servers that are set aside have missed */
	MlcBatch   *weak;			/* changes of weak rules, held back */
	TimestampTz weak_since;
	MlcVersion	weak_before;	/* nothing past it is applied while they wait */
	MlcSpool   *spool;			/* of the transaction at hand, if large */
	bool		in_transaction;
	TransactionId xid;
	MlcVersion	version;		/* of the transaction at hand */
	TimestampTz committed;
	bool		had_events;
	bool		once;			/* its values are the last of their rows */
	bool		must_wait;		/* it has events of which the last of a key
								 * counts, and they are not in a spool */
	MlcVersion	position;		/* decoded and visible */
	XLogRecPtr	caught_up;		/* all flushed WAL up to here was decoded */
	bool		rewind;			/* decode again from the confirmed position */

	/* in flight */
	bool		in_flight;
	MlcVersion	flight_end;		/* applied once all replies are good */
	TimestampTz flight_committed;
	TimestampTz flight_oldest;
	TimestampTz sent_at;		/* when the last batch was sent */
	bool		busy;			/* it was of many transactions */

	bool		needed;			/* there are rules */
	bool		strong;			/* there are strong rules */

	/* what readers of this server may use */
	bool		l1_open;
	TimestampTz age_at;			/* what was visible then lies before age_lsn */
	XLogRecPtr	age_lsn;		/* invalid: none is waited for */

	/* housekeeping */
	MlcMark    *marks;
	int			nmarks;
	int			marks_size;
	TimestampTz last_second;
	TimestampTz last_publish;
	uint32		generation;
	int64		transactions;
	int64		spilled;
} MlcRelay;


/* The one relay of this process. */
extern MlcRelay *mlc_relay;

/* ---- intake.c ---- */

/* Fills in the sink; called once. */
extern void mlc_intake_init(void);

/* The relay's copy of a rule, with its targets resolved. */
extern MlcRelayRule *mlc_intake_rule(const MlcRule *rule);

/* Targets came or went: the rules' masks are made anew. */
extern void mlc_intake_resolve_all(void);

/* ---- flow.c ---- */

#define MLC_PATIENCE 50			/* ms that a server may keep the others
								 * waiting */

/* Collects replies; when all are in, the batch in flight is applied. */
extern void mlc_flow_poll(void);

/* Has it said nothing for so long that the others go on without it? */
extern bool mlc_flow_is_silent(MlcTarget *target);
extern void mlc_flow_set_aside(MlcTarget *target);

/* Is one of this cluster set aside?  NULL: any at all. */
extern bool mlc_flow_any_aside(MlcGroup *group);

/*
 * Closes the connections of those that are set aside: what they miss is to be
 * delivered from WAL.  Of one cluster; NULL: all.
 */
extern void mlc_flow_drop_aside(MlcGroup *group);

/* Waits for the batch in flight. */
extern void mlc_flow_finish(void);

/* Sends what has been decoded, once its transactions are visible. */
extern void mlc_flow_dispatch(void);

/*
 * Sends the current batch in the middle of a transaction, of which it holds
 * what need not wait.  Called while decoding; waits for the transaction to be
 * visible and for Redis, as a walsender waits for its socket there.
 */
extern void mlc_flow_stream(void);

/* Publishes progress that no batch has carried, and the heartbeat. */
extern void mlc_flow_publish(void);
extern bool mlc_flow_any_live(void);

/* Begins to measure how old what is applied may be. */
extern void mlc_flow_sample_age(void);

/* A server came: what L1 and the age took for granted no longer holds. */
extern void mlc_flow_forget_l1(void);

/* L1 serves while there is a server to keep it coherent with. */
extern void mlc_flow_serve_l1(void);

/* ---- upkeep.c ---- */

/* Registers for changes of servers and mappings; called once. */
extern void mlc_upkeep_init(void);

/* Has a rule, server or mapping changed since the last load? */
extern bool mlc_upkeep_is_stale(void);

/* Empties the catalog caches: from the past to the present, or back. */
extern void mlc_upkeep_forget_catalogs(void);

/* Another target for a cluster; NULL: there are too many. */
extern MlcTarget *mlc_upkeep_add_member(MlcGroup *group);
extern void mlc_upkeep_drop_target(int i);

/* Is any server being caught up, and not armed yet? */
extern bool mlc_upkeep_is_catching_up(void);

/*
 * Reads rules and servers.  False if this database needs no relay: no
 * extension, or no rules.
 */
extern bool mlc_upkeep_load(void);

/* Tries those targets that are away and due. */
extern void mlc_upkeep_connect(void);

/* Arms those that have been caught up. */
extern void mlc_upkeep_arm(void);

/*
 * The lowest applied of the targets that the slot is held for;
 * InvalidXLogRecPtr while one of them is away.
 */
extern XLogRecPtr mlc_upkeep_lowest_applied(void);

/* Confirms, looks for closed connections, shows counters; once a second. */
extern void mlc_upkeep_every_second(void);

#endif							/* MLC_RELAY_RELAY_H */
