/*
 * model.h
 *		The coherence protocol as a state machine: what a state is, which
 *		safeguards can be taken out, what a scenario chooses.
 *
 * One key, at most three transactions that change it, two readers, the relay,
 * the last words of a relay that died, one Redis and what its replica holds.
 * A version is the position of a commit record in WAL, counted from 1; the
 * content of a copy is the set of transactions it shows.  Everything is kept
 * in 32 bytes, so that millions of states fit in memory.
 *
 * redis.c holds what Redis executes atomically; transactions.c, readers.c,
 * relay.c, ghost.c and faults.c who does what when; laws.c what must hold;
 * scenarios.c what is explored; explore.c the search, trace.c the words.
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stdint.h>

#define MAX_TX 3
#define READERS 2
#define NOBODY 0				/* no lease, no placeholder */

/* How far a transaction has come. */
typedef enum TxPhase
{
	TX_IDLE,
	TX_STATEMENT,				/* row changed and locked, xid assigned */
	TX_L1_CLOSED,				/* PRE_COMMIT: line of L1 quarantined */
	TX_MARKED,					/* PRE_COMMIT: quarantine acknowledged */
	TX_PREPARED,				/* PREPARE TRANSACTION has returned */
	TX_IN_WAL,					/* commit record written, not yet visible */
	TX_VISIBLE,					/* new snapshots see it */
	TX_DONE,					/* COMMIT has returned */
	TX_ABORTED
} TxPhase;

/* A release on its way to Redis. */
typedef enum Release
{
	RELEASE_NONE,
	RELEASE_COMMIT,
	RELEASE_ABORT,
	RELEASE_OLD					/* committed on the old primary */
} Release;

typedef enum ReaderPhase
{
	READER_IDLE,
	READER_LEASED,				/* lease granted, no snapshot yet */
	READER_SNAPPED,				/* row read */
	READER_READY,				/* insert position read */
	READER_OLD_SNAPSHOT,		/* an old snapshot, no lease yet */
	READER_PLACED,				/* placeholder in L1, Redis not asked yet */
	READER_HAS					/* a value in hand, to be put into L1 */
} ReaderPhase;

typedef enum RelayPhase
{
	RELAY_DOWN,					/* (re)started, has to adopt the target */
	RELAY_IDLE,
	RELAY_CHOSEN,				/* batch chosen, L1 closed */
	RELAY_SENDING,				/* applying published, commands go out */
	RELAY_REPLIED,				/* every reply was good */
	RELAY_OPENED,				/* L1 open again */
	RELAY_PURGING,				/* adopted, entries not removed yet */
	RELAY_LISTING,				/* about to list the live commits */
	RELAY_WAITING,				/* until those are over */
	RELAY_LOOKING,				/* about to read the insert position */
	RELAY_SETTING				/* purge: about to set applied */
} RelayPhase;

typedef enum GhostPhase
{
	GHOST_NONE,
	GHOST_ADOPT,
	GHOST_BEGIN,				/* a new history after a purge */
	GHOST_APPLYING,				/* one publication of applying, then commands */
	GHOST_SENDING,				/* commands */
	GHOST_APPLIED,				/* one publication of applied */
	GHOST_ARM
} GhostPhase;

typedef enum LinePhase
{
	LINE_EMPTY,
	LINE_PLACED,
	LINE_VALID
} LinePhase;

/* The data of one Redis server: what its replica copies. */
typedef struct Redis
{
	uint32_t	entry:1;		/* the user's key exists */
	uint32_t	content:3;		/* transactions it shows */
	uint32_t	guard:1;		/* the guard exists */
	uint32_t	lo:2;
	uint32_t	hi:2;
	uint32_t	floor:2;
	uint32_t	taint:1;
	uint32_t	lease:2;		/* 1 + reader, or NOBODY */
	uint32_t	lease_current:1;	/* granted under the nonce of now */
	uint32_t	marks:3;		/* owners */
	uint32_t	known:1;		/* `applied` exists */
	uint32_t	applied:2;
	uint32_t	applying:2;
	uint32_t	nonce:3;		/* of the relay that owns the target */
	uint32_t	armed:1;
	uint32_t	timeline:1;		/* of applied */
	uint32_t	entry_timeline:1;	/* of lo and hi */
	uint32_t	closes:2;		/* how often writers have closed it */
	uint32_t	cached:1;		/* the guard has the nonce of a lease, or of the
								 * first mark, if an entry was there then */
} Redis;

typedef struct Reader
{
	uint16_t	phase:3;
	uint16_t	lo:2;			/* `applied` as the lease said */
	uint16_t	past:2;			/* max(applied, applying) likewise */
	uint16_t	hi:2;
	uint16_t	content:3;
	uint16_t	timeline:1;		/* of `applied`, as the lease said */
	uint16_t	unused:3;
} Reader;

typedef struct Relay
{
	uint32_t	phase:4;
	uint32_t	nonce:3;
	uint32_t	pos:2;			/* delivered and published up to here */
	uint32_t	to:2;			/* end of the batch */
	uint32_t	next:2;			/* commands sent up to here */
	uint32_t	applying:2;		/* as published last */
	uint32_t	slot:2;			/* redelivery is possible from here */
	uint32_t	arming:1;
	uint32_t	goal:2;			/* arm once delivered up to here */
	uint32_t	live:3;			/* commits that were live when listed */
	uint32_t	purge:1;
	uint32_t	closes:2;		/* as they were when listed */
	uint32_t	unused:6;
} Relay;

/* What a dead relay left in the network. */
typedef struct Ghost
{
	uint16_t	phase:3;
	uint16_t	nonce:3;
	uint16_t	expected:3;		/* what its compare-and-set expects */
	uint16_t	pos:2;			/* GHOST_ARM: the closes it expects */
	uint16_t	to:2;
	uint16_t	next:2;
	uint16_t	timeline:1;
} Ghost;

typedef struct Line
{
	uint16_t	phase:2;
	uint16_t	token:2;		/* 1 + reader */
	uint16_t	content:3;
	uint16_t	closed:1;		/* by the relay */
	uint16_t	marks:3;		/* by strong writers; a prepared one's stay
								 * until the relay is past it */
	uint16_t	unused:5;
} Line;

typedef struct Database
{
	uint32_t	len:2;			/* commit records in WAL */
	uint32_t	flushed:2;
	uint32_t	wal0:2;			/* transaction at each position */
	uint32_t	wal1:2;
	uint32_t	wal2:2;
	uint32_t	phase0:4;
	uint32_t	phase1:4;
	uint32_t	phase2:4;
	uint32_t	release0:2;
	uint32_t	release1:2;
	uint32_t	release2:2;
	uint32_t	replayed:2;		/* by the standby */
	uint32_t	unused:2;
} Database;

/* What may still go wrong, and what the network of Redis knows. */
typedef struct Rest
{
	uint32_t	memory_nonce:3; /* in the library's own memory */
	uint32_t	replica_set:1;	/* replication has stopped; replica holds */
	uint32_t	crashes:2;
	uint32_t	failovers:2;
	uint32_t	flushes:1;
	uint32_t	last_nonce:3;
	uint32_t	promotions:1;
	uint32_t	timeline:1;		/* of the primary; 1 once one was promoted */
	uint32_t	old_row:3;		/* what the old primary shows since */
	uint32_t	old_len:2;		/* its WAL */
	uint32_t	old_wal0:2;
	uint32_t	old_wal1:2;
	uint32_t	old_wal2:2;
	uint32_t	taken_over:1;	/* the target has been the new one's once */
	uint32_t	promised:1;		/* redis.cached: it is the nonce of now */
	uint32_t	late:3;			/* quarantines under way whose owner is gone */
} Rest;

typedef union State
{
	struct
	{
		Redis		redis;
		Redis		replica;
		Database	db;
		Relay		relay;
		Rest		rest;
		Reader		reader[READERS];
		Ghost		ghost;
		Line		line;
		uint32_t	pad;
	};
	uint64_t	word[4];
} State;

_Static_assert(sizeof(State) == 32, "a state has 32 bytes");

/*
 * The safeguards.  Each can be taken out; X(name, words).
 */
#define SAFEGUARDS(X) \
	X(VISIBILITY_WAIT, "the visibility wait") \
	X(LEASE_CHECK, "the lease check at the fill") \
	X(LEASE_DIES, "the death of the lease at a quarantine or an event") \
	X(QUARANTINE, "the quarantine") \
	X(FRESH_SNAPSHOT, "the fresh snapshot after the lease") \
	X(NO_XID_FILL, "the rule that a transaction with an xid fills nothing") \
	X(APPLIED_KNOWN, "the rule that no lease is given while applied is missing") \
	X(PUBLISH_CAS, "the compare-and-set of the publications") \
	X(PUBLISH_MEMORY, "the check of the memory nonce in publications") \
	X(ARM_MEMORY, "the check of the memory nonce when arming") \
	X(BEGIN_MEMORY, "the check of the memory nonce where a history begins after a purge") \
	X(ADOPT_CAS, "the compare-and-set of the nonce when adopting") \
	X(RESUME, "the rule that a history is resumed where the target stands then") \
	X(NEW_NONCE, "the new nonce of a relay that adopts") \
	X(OTHER_MARKS, "other owners' marks surviving") \
	X(UPDATE_LO, "lo/hi in update: what a fill may have seen is not set again") \
	X(UPDATE_HI, "lo/hi in update: between them is deleted, not skipped") \
	X(UPDATE_MARKS, "no payload of update under a standing mark") \
	X(REPLICATE_APPLIED, "replicate creates only above applied") \
	X(REPLICATE_NONCE, "replicate creates only under the relay's own nonce") \
	X(OWN_MARK, "the release's condition that its own mark stands") \
	X(LAST_MARK, "the release's condition that its mark is the last") \
	X(FLOOR, "the floor") \
	X(RELEASE_ARMING, "the release's condition that its arming still holds") \
	X(RELEASE_FLUSHED, "no payload of a commit that a crash may undo") \
	X(TAINT, "the taint") \
	X(RELEASED_LO, "the rule that the relay leaves alone what is no older, not what may be newer") \
	X(L1_CLOSED, "L1 closed around Redis") \
	X(L1_TOKEN, "the placeholder's token") \
	X(L1_QUARANTINE, "the quarantine of L1") \
	X(ARMING, "the arming") \
	X(LEASE_NONCE, "the lease's arming at the fill") \
	X(WAIT_COMMITS, "the wait for the commits under way before arming") \
	X(ARM_POSITION, "delivery up to the insert position before arming") \
	X(PURGE, "the purge where the gap is too long") \
	X(TIMELINE_PURGE, "the purge at a new timeline") \
	X(TIMELINE_FIRST, "the timeline in the comparison of versions") \
	X(FILL_TIMELINE, "the comparison of timelines at the fill") \
	X(WRITER_TIMELINE, "the comparison of timelines at the quarantine") \
	X(RELAY_TIMELINE, "the rule that a relay leaves a target of a later timeline alone") \
	X(APPLYING_FIRST, "applying published before the first command") \
	X(REPLIES_FIRST, "applied published only after every reply") \
	X(STANDBY_CHECK, "the standby's check") \
	X(STANDBY_APPLYING, "applying in the standby's check") \
	X(FLUSH_FIRST, "WAL flushed up to hi before the fill") \
	X(POSITION_AFTER, "hi read after the snapshot") \
	X(GUARDED_ENTRY, "an entry without its guard is a miss") \
	X(MARKS_STAY, "a guard with a mark is never evicted") \
	X(SWEEP_PROGRESS, "the sweep's question whether a mark's owner is in progress") \
	X(SWEEP_PREPARED, "the rule that a prepared transaction is in progress") \
	X(L1_PREPARED, "L1 bypassed for prepared transactions") \
	X(CLOSE, "the closing of the server for a rule as a whole") \
	X(CLOSE_COUNT, "the count of closings compared when arming")

typedef enum Safeguard
{
#define X(name, words) name,
	SAFEGUARDS(X)
#undef X
	SAFEGUARD_COUNT
} Safeguard;

/* Every step somebody can take; %d is the transaction or the reader. */
#define STEPS(X) \
	X(STEP_START, "the beginning") \
	X(STEP_STATEMENT, "T%d changes the row") \
	X(STEP_OWN_FILL, "T%d reads its own change and fills") \
	X(STEP_L1_MARK, "T%d quarantines the line of L1") \
	X(STEP_MARK, "T%d quarantines the key in Redis") \
	X(STEP_COMMIT, "T%d: its commit record is in WAL") \
	X(STEP_PREPARE, "T%d is prepared") \
	X(STEP_VISIBLE, "T%d becomes visible") \
	X(STEP_RETURN, "T%d: release sent, COMMIT returns") \
	X(STEP_ABORT, "T%d aborts") \
	X(STEP_RELEASE, "the release of T%d arrives") \
	X(STEP_RELEASE_LOST, "the release of T%d is lost") \
	X(STEP_CLOSE, "T%d closes the server") \
	X(STEP_MARK_CUT, "T%d sends its quarantine and is gone") \
	X(STEP_MARK_LATE, "the quarantine of T%d arrives late") \
	X(STEP_MARK_LOST, "the quarantine of T%d is lost") \
	X(STEP_SWEEP, "relay: sweeps the mark of T%d") \
	X(STEP_FLUSH, "WAL is flushed") \
	X(STEP_OLD_SNAPSHOT, "R%d takes a snapshot it will keep") \
	X(STEP_PLACE, "R%d puts a placeholder into L1") \
	X(STEP_LEASE, "R%d gets the lease") \
	X(STEP_HIT, "R%d hits Redis") \
	X(STEP_ROW, "R%d gets no lease and reads the row") \
	X(STEP_SNAPSHOT, "R%d takes a snapshot and reads the row") \
	X(STEP_POSITION, "R%d reads the insert position") \
	X(STEP_FILL, "R%d fills") \
	X(STEP_FILL_REFUSED, "R%d: its fill is refused") \
	X(STEP_FILL_LINE, "R%d fills the line of L1") \
	X(STEP_GIVE_UP, "R%d is gone") \
	X(STEP_LEASE_EXPIRES, "the lease expires") \
	X(STEP_EVICT_ENTRY, "Redis evicts the entry") \
	X(STEP_EVICT_GUARD, "Redis evicts the guard") \
	X(STEP_EVICT_LINE, "L1 evicts the line") \
	X(STEP_REPLAY, "the standby replays a commit") \
	X(STEP_ADOPT, "relay: adopts the target") \
	X(STEP_BATCH, "relay: takes a batch, closes L1") \
	X(STEP_APPLYING, "relay: publishes applying") \
	X(STEP_COMMAND, "relay: one command") \
	X(STEP_COALESCED, "relay: one command for the whole batch") \
	X(STEP_OPEN, "relay: opens L1") \
	X(STEP_APPLIED, "relay: publishes applied") \
	X(STEP_REFUSED, "relay: a publication is refused") \
	X(STEP_CONFIRM, "relay: confirms the slot") \
	X(STEP_NOTICE, "relay: sees that the target is not its own any more") \
	X(STEP_CLOSED, "relay: sees that the server has been closed") \
	X(STEP_PURGE, "relay: removes every entry and lease") \
	X(STEP_PURGE_MARKS, "relay: removes every entry, lease and mark") \
	X(STEP_LIST, "relay: lists the live commits") \
	X(STEP_OVER, "relay: the commits it has listed are over") \
	X(STEP_LOOK, "relay: reads the insert position") \
	X(STEP_SET, "relay: sets applied after the purge") \
	X(STEP_ARM, "relay: arms") \
	X(STEP_RELAY_DIES, "the relay dies") \
	X(STEP_GHOST_ADOPT, "late, of a dead relay: adopts the target") \
	X(STEP_GHOST_BEGIN, "late, of a dead relay: begins a history") \
	X(STEP_GHOST_ARM, "late, of a dead relay: arms") \
	X(STEP_GHOST_APPLYING, "late, of a dead relay: publishes applying") \
	X(STEP_GHOST_COMMAND, "late, of a dead relay: one command") \
	X(STEP_GHOST_APPLIED, "late, of a dead relay: publishes applied") \
	X(STEP_GHOST_LOST, "what the dead relay sent is lost") \
	X(STEP_CRASH, "PostgreSQL crashes and recovers") \
	X(STEP_REPLICA, "the replica of Redis falls behind from here on") \
	X(STEP_FAILOVER, "the replica of Redis is promoted") \
	X(STEP_PROMOTE, "a standby of PostgreSQL is promoted, the old primary goes on") \
	X(STEP_OLD_WRITER, "T%d quarantines and commits on the old primary") \
	X(STEP_OLD_RELAY, "the old primary's relay takes the target over, purges and arms") \
	X(STEP_FLUSHALL, "Redis is flushed")

typedef enum Step
{
#define X(name, words) name,
	STEPS(X)
#undef X
	STEP_COUNT
} Step;

typedef enum Action
{
	INVALIDATE,
	UPDATE,
	REPLICATE
} Action;

typedef struct Scenario
{
	const char *name;
	const char *words;
	int			transactions;
	int			strong;
	int			action;			/* an Action */
	int			two_rows;		/* transactions do not lock each other out */
	int			statement;		/* the statement is a step of its own */
	int			positions;		/* reading hi is a step of its own */
	int			evict;
	int			l1;
	int			prepare;		/* this transaction is a prepared one */
	int			close;			/* this one changes the rule as a whole */
	int			standby;		/* the second reader loads there */
	int			fresh;			/* Redis is empty at first */
	int			async;			/* synchronous_commit = off */
	int			confirm;		/* the slot moves on: gaps can be too long */
	int			readers;
	int			crashes;		/* of the relay ... */
	int			server;			/* ... or of PostgreSQL as a whole */
	int			failovers;
	int			flushes;
	int			promotions;		/* of PostgreSQL; R2 stays with the old
								 * primary */
} Scenario;

/* A safeguard, and where it is missed. */
typedef struct Mutation
{
	Safeguard	safeguard;
	const char *scenario;
} Mutation;

extern Scenario scenarios[];	/* the last has no name */
extern const Mutation mutations[];	/* the last has no scenario */
extern const Mutation spares[]; /* likewise */

extern const Scenario *scenario;
extern uint64_t taken_out;		/* bit set of Safeguard */

/* True while the safeguard is in place. */
#define KEEPS(safeguard) ((taken_out & (UINT64_C(1) << (safeguard))) == 0)

/*
 * explore.c: search() returns NULL or the law that is broken; restless() the
 * number of states that can never come to rest, and one of them.
 */
extern const char *search(const Scenario *s, uint64_t without);
extern uint32_t restless(uint32_t *example);
extern uint32_t states_found(void);
extern uint64_t transitions_found(void);
extern bool was_taken(Step step);
extern int	steps_to_broken(void);
extern void print_broken(void);
extern int	print_path(uint32_t last);
extern void emit(const State *s, Step step, int who);
extern void fail(const char *what);
extern void out_of(const char *what);

/* scenario.c: successors() emits everything that can happen next. */
extern State first_state(void);
extern void successors(const State *s);
extern bool settled(const State *s);

extern const Redis empty_redis;
extern const Reader idle_reader;
extern const Relay new_relay;
extern const Ghost no_ghost;

/* database.c; positions in WAL count from 1 */
extern TxPhase tx_phase(const State *s, int tx);
extern void set_tx_phase(State *s, int tx, TxPhase phase);
extern Release tx_release(const State *s, int tx);
extern void set_tx_release(State *s, int tx, Release release);
extern int	wal_at(const State *s, int position);
extern void set_wal(State *s, int position, int tx);
extern int	wal_position(const State *s, int tx);
extern unsigned wal_prefix(const State *s, int position);
extern unsigned old_prefix(const State *s, int position);
extern unsigned visible(const State *s);
extern unsigned live_commits(const State *s);
extern bool is_prepared(int tx);
extern bool closes_server(int tx);
extern void cut_wal(State *s, int len);

/* What each can do next. */
extern void transaction_steps(const State *s, int tx);
extern bool may_start(const State *s, int tx);
extern void reader_steps(const State *s, int r);
extern void leave_line(State *s);
extern void relay_steps(const State *s);
extern bool can_resume(const State *s);
extern int	new_nonce(State *s);
extern void relay_is_down(State *s);
extern void bury_relay(State *s);
extern void ghost_steps(const State *s);
extern void fault_steps(const State *s);

/* redis.c: each is atomic. */
typedef enum Answer
{
	ANSWER_HIT,
	ANSWER_LEASE,
	ANSWER_BUSY,
	ANSWER_QUARANTINED,
	ANSWER_UNARMED
} Answer;

extern Answer redis_get(State *s, int token);
extern bool redis_fill(State *s, int token, unsigned content, int lo, int hi,
					   int lo_timeline, int hi_timeline);
extern void redis_quarantine(State *s, int tx);
extern void redis_close(State *s);
extern void redis_release(State *s, int tx, Release release);
extern void redis_sweep(State *s, int tx);
extern void redis_expire_lease(State *s);
extern void redis_purge(State *s, bool marks);
extern void redis_evict(State *s, bool entry, bool guard);
extern void redis_apply(State *s, unsigned txs, int version, int timeline, int nonce);
extern bool redis_publish_applying(State *s, int nonce, int previous, int next);
extern bool redis_publish_applied(State *s, int nonce, int previous, int next);
extern void redis_set_nonce(State *s, int nonce);
extern bool redis_adopt(State *s, int expected, int nonce, int seen);
extern void redis_disarm(State *s, int nonce);
extern bool redis_begin(State *s, int nonce, int applied, int timeline);
extern bool redis_arm(State *s, int nonce, int closes);
extern bool redis_ready(const State *s);

/* laws.c: NULL, or the law that is broken. */
extern const char *broken_law(const State *before, const State *after,
							  Step step);

/* trace.c */
extern const char *step_words(Step step, int who);
extern void print_step(int number, Step step, int who, const State *before,
					   const State *after);

#endif							/* MODEL_H */
