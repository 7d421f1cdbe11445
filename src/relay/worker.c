/*-------------------------------------------------------------------------
 *
 * relay/worker.c
 *	  The relay: decodes the commits of one database in order and applies
 *	  their events to every Redis.
 *
 * The loop: decode what WAL has into the current batch; when the batch before
 * is answered, wait until the transactions of the current one are visible to
 * new snapshots, and send it.  So Redis works on one batch while the next is
 * decoded.  With nothing left to decode the relay sleeps on its latch, which
 * committing backends set, and on the sockets.
 *
 * "position" is the one promise shared by all targets: every commit up to it
 * has been decoded and is visible.  A target that comes back is caught up by
 * decoding again from the slot's confirmed position, which is therefore kept a
 * window behind; targets that are ahead skip by version.
 *
 * Sinks are called under a historic snapshot and only queue.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/wal.h"
#include "catalog/pg_foreign_server.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "redis/server.h"
#include "relay/batch.h"
#include "relay/refresh.h"
#include "relay/slot.h"
#include "relay/target.h"
#include "relay/worker.h"
#include "shm/segment.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#define RECORDS_A_TURN 50000	/* WAL records before housekeeping */
#define HEARTBEAT 1000			/* ms */
#define PUBLISH_PAUSE 20		/* ms between publications of mere progress */
#define IDLE_TIMEOUT 200		/* ms; commits wake us earlier */

/* One second of the past: what could be confirmed once it is old enough. */
typedef struct Mark
{
	TimestampTz at;
	XLogRecPtr	lsn;
} Mark;

typedef struct Relay
{
	MlcSink		sink;			/* first: the sink is the relay */
	MlcRelayShared *shared;
	MemoryContext context;
	MemoryContext scratch;		/* reset every turn */
	HTAB	   *rules;			/* MlcRelayRule by id */
	uint32		rules_generation;	/* bumped when targets come and go */
	MlcTarget  *targets[MLC_MAX_TARGETS];
	int			ntargets;

	/* decoding */
	MlcBatch   *current;
	MlcBatch   *weak;			/* changes of weak rules, held back */
	TimestampTz weak_since;
	MlcVersion	weak_before;	/* nothing past it is applied while they wait */
	MlcSpool   *spool;			/* of the transaction at hand, if large */
	bool		in_transaction;
	TransactionId xid;
	MlcVersion	version;		/* of the transaction at hand */
	TimestampTz committed;
	bool		had_events;
	MlcVersion	position;		/* decoded and visible */
	XLogRecPtr	caught_up;		/* all flushed WAL up to here was decoded */
	bool		rewind;			/* decode again from the confirmed position */

	/* in flight */
	bool		in_flight;
	MlcVersion	flight_end;		/* applied once all replies are good */
	TimestampTz flight_committed;

	/* housekeeping */
	Mark	   *marks;
	int			nmarks;
	int			marks_size;
	TimestampTz last_second;
	TimestampTz last_publish;
	uint32		generation;
	uint64		rule_changes;
	int64		transactions;
	int64		spilled;
} Relay;

static Relay *relay = NULL;
static volatile bool catalogs_changed = true;

/* ---- sink: called while decoding ---- */

static MlcRelayRule *
relay_rule(const MlcRule *rule)
{
	MlcRelayRule *entry;
	bool		found;
	MemoryContext old;
	StringInfoData glob;
	MlcKeyError error;

	entry = hash_search(relay->rules, &rule->id, HASH_FIND, NULL);
	if (entry)
		return entry;

	old = MemoryContextSwitchTo(relay->context);
	entry = hash_search(relay->rules, &rule->id, HASH_ENTER, &found);
	memset((char *) entry + sizeof(entry->id), 0,
		   sizeof(*entry) - sizeof(entry->id));
	entry->template = mlc_key_parse(rule->key, &error);
	initStringInfo(&glob);
	mlc_key_glob(entry->template, &glob);
	entry->glob = glob.data;
	initStringInfo(&glob);
	mlc_key_guard_glob(entry->template, &glob);
	entry->guard_glob = glob.data;
	entry->ttl = rule->ttl;
	entry->consistency = rule->consistency;
	entry->refresh = rule->action == MLC_OP_REFRESH;
	entry->nservers = rule->nservers;
	if (rule->nservers > 0)
	{
		entry->servers = palloc(sizeof(char *) * rule->nservers);
		for (int i = 0; i < rule->nservers; i++)
			entry->servers[i] = pstrdup(rule->servers[i]);
	}
	MemoryContextSwitchTo(old);
	return entry;
}

/* The targets a rule fans out to, kept until targets change. */
static void
resolve_mask(MlcRelayRule *rule)
{
	rule->mask = 0;
	for (int i = 0; i < relay->ntargets; i++)
	{
		MlcTarget  *target = relay->targets[i];
		bool		named = rule->nservers == 0;

		for (int j = 0; j < rule->nservers && !named; j++)
			named = strcmp(rule->servers[j], target->name) == 0;
		if (named)
			rule->mask |= 1U << target->number;
	}
	rule->mask_generation = relay->rules_generation;
}

static void
sink_begin(MlcSink *sink, TransactionId xid, MlcVersion version,
		   TimestampTz committed)
{
	relay->in_transaction = true;
	relay->xid = xid;
	relay->version = version;
	relay->committed = committed;
	relay->had_events = false;
	relay->transactions++;
	mlc_batch_add_xid(relay->current, xid);
}

static void
move_to_spool(MlcBatch *batch)
{
	for (int i = 0; i < batch->nevents; i++)
	{
		MlcBatchEvent *event = &batch->events[i];

		if (event->dead ||
			mlc_version_compare(event->version, relay->version) != 0)
			continue;
		mlc_spool_put(relay->spool, event->rule, event->op, event->key,
					  event->keylen, event->payload, event->payloadlen);
		event->dead = true;
	}
}

/*
 * The transaction at hand is too large: what it has queued so far goes to the
 * spool, since a version may have one value a key only.
 */
static void
begin_spool(void)
{
	ResourceOwner owner = CurrentResourceOwner;

	CurrentResourceOwner = AuxProcessResourceOwner;
	relay->spool = mlc_spool_begin(relay->context);
	CurrentResourceOwner = owner;
	move_to_spool(relay->current);
	move_to_spool(relay->weak);
	relay->spilled++;
}

static void
sink_event(MlcSink *sink, const MlcEvent *event, const MlcRule *rule)
{
	MlcRelayRule *target_rule = relay_rule(rule);
	MlcBatch   *batch = relay->current;

	if (target_rule->mask_generation != relay->rules_generation)
		resolve_mask(target_rule);
	relay->had_events = true;

	if (event->op == MLC_OP_TRUNCATE)
	{
		mlc_batch_purge(relay->current, target_rule, relay->version);
		mlc_batch_purge(relay->weak, target_rule, relay->version);
		list_free_deep(relay->weak->purges);
		relay->weak->purges = NIL;
		if (relay->spool)
			mlc_spool_purge(relay->spool, target_rule);
		return;
	}

	if (relay->spool)
	{
		mlc_spool_put(relay->spool, target_rule, event->op, event->key,
					  event->keylen, event->payload, event->payloadlen);
		return;
	}

	if (target_rule->consistency == MLC_WEAK && mlc_weak_window > 0)
	{
		batch = relay->weak;
		if (batch->nevents == 0)
		{
			relay->weak_since = GetCurrentTimestamp();
			relay->weak_before = relay->position;
		}
	}
	mlc_batch_add(batch, target_rule, event->op, event->key, event->keylen,
				  event->payload, event->payloadlen, relay->version);
	batch->committed = relay->committed;

	if (relay->current->bytes + relay->weak->bytes >
		(Size) mlc_relay_work_mem * 1024)
		begin_spool();
}

static void
sink_commit(MlcSink *sink)
{
	relay->in_transaction = false;
	if (relay->had_events)
	{
		relay->current->transactions++;
		relay->current->committed = relay->committed;
		relay->current->applying = relay->version;
	}
}

/* ---- configuration ---- */

static void
syscache_changed(Datum arg, int cacheid, uint32 hash)
{
	catalogs_changed = true;
}

static void
drop_target(int i)
{
	MlcTarget  *target = relay->targets[i];

	mlc_target_destroy(target);
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	memset(&relay->shared->targets[target->number], 0, sizeof(MlcTargetStat));
	LWLockRelease(mlc_shared->lock);
	relay->targets[i] = relay->targets[--relay->ntargets];
	relay->rules_generation++;
}

static int
free_number(void)
{
	for (int number = 0; number < MLC_MAX_TARGETS; number++)
	{
		bool		used = false;

		for (int i = 0; i < relay->ntargets; i++)
			used |= relay->targets[i]->number == number;
		if (!used)
			return number;
	}
	return -1;
}

/* Makes the list of targets what the catalogs say.  In a transaction. */
static void
load_targets(void)
{
	List	   *servers = mlc_server_all();
	ListCell   *lc;

	for (int i = relay->ntargets - 1; i >= 0; i--)
	{
		MlcTarget  *target = relay->targets[i];
		bool		keep = false;

		foreach(lc, servers)
			if (lfirst_oid(lc) == target->serverid)
			keep = strcmp(mlc_server_load(target->serverid)->fingerprint,
						  target->fingerprint) == 0;
		if (!keep)
			drop_target(i);
	}
	foreach(lc, servers)
	{
		Oid			serverid = lfirst_oid(lc);
		bool		known = false;
		int			number;

		for (int i = 0; i < relay->ntargets; i++)
			known |= relay->targets[i]->serverid == serverid;
		if (known)
			continue;
		number = free_number();
		if (number < 0)
		{
			ereport(WARNING,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("mlcache serves the first %d servers only",
							MLC_MAX_TARGETS)));
			break;
		}
		LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
		memset(&relay->shared->targets[number], 0, sizeof(MlcTargetStat));
		relay->shared->targets[number].serverid = serverid;
		relay->shared->targets[number].state = MLC_TARGET_DOWN;
		LWLockRelease(mlc_shared->lock);
		relay->targets[relay->ntargets++] =
			mlc_target_create(relay->context, serverid, number,
							  &relay->shared->targets[number]);
		relay->rules_generation++;
	}

	for (int i = 0; i < relay->ntargets; i++)
	{
		MlcTarget  *target = relay->targets[i];
		bool		paused = mlc_server_load(target->serverid)->paused;

		if (paused == target->paused)
			continue;
		target->paused = paused;
		if (paused)
		{
			mlc_conn_close(target->conn);
			target->state = MLC_TARGET_PAUSED;
		}
		else
		{
			target->state = MLC_TARGET_DOWN;
			target->retry_at = 0;
		}
		LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
		target->stat->state = target->state;
		LWLockRelease(mlc_shared->lock);
	}
}

/*
 * Reads rules and servers.  False if this database needs no relay: no
 * extension, or no rules (which must stay true while we look, see attach).
 */
static bool
load_catalogs(void)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext old;
	List	   *rules;
	ListCell   *lc;

	catalogs_changed = false;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	rules = OidIsValid(get_extension_oid("mlcache", true)) ? mlc_rule_all() : NIL;
	if (rules != NIL)
	{
		foreach(lc, rules)
			resolve_mask(relay_rule(lfirst(lc)));
		old = CurrentMemoryContext;
		load_targets();
		MemoryContextSwitchTo(old);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	CurrentResourceOwner = owner;
	return rules != NIL;
}

/* ---- visibility ---- */

/* Waits until every transaction of the batch is seen by new snapshots. */
static void
wait_visible(MlcBatch *batch)
{
	ResourceOwner owner = CurrentResourceOwner;
	Snapshot	snapshot;

	if (batch->nxids == 0 || MLC_FAULT_SKIP("relay-visibility"))
		return;
	StartTransactionCommand();
	snapshot = GetTransactionSnapshot();
	for (int i = 0; i < batch->nxids; i++)
	{
		if (!XidInMVCCSnapshot(batch->xids[i], snapshot))
			continue;

		/*
		 * Its lock goes after it has left the array of running transactions,
		 * so whoever gets past it finds the transaction in no new snapshot.
		 */
		XactLockTableWait(batch->xids[i], NULL, NULL, XLTW_None);
		while (TransactionIdIsInProgress(batch->xids[i]))
		{
			CHECK_FOR_INTERRUPTS();
			pg_usleep(100L);
		}
	}
	CommitTransactionCommand();
	CurrentResourceOwner = owner;
}

/* ---- targets ---- */

static bool
all_idle(void)
{
	for (int i = 0; i < relay->ntargets; i++)
		if (mlc_target_is_live(relay->targets[i]) &&
			!mlc_target_is_idle(relay->targets[i]))
			return false;
	return true;
}

static bool
any_live(void)
{
	for (int i = 0; i < relay->ntargets; i++)
		if (mlc_target_is_live(relay->targets[i]))
			return true;
	return false;
}

/* What may be called applied now: held back by weak changes that wait. */
static MlcVersion
safe_end(MlcVersion end)
{
	if (relay->weak->nevents > 0 &&
		mlc_version_compare(relay->weak_before, end) < 0)
		return relay->weak_before;
	return end;
}

/* Tells waiters in shared memory how far all live targets are. */
static void
show_progress(void)
{
	uint64		lowest = PG_UINT64_MAX;
	uint64		before = pg_atomic_read_u64(&relay->shared->applied_lsn);

	for (int i = 0; i < relay->ntargets; i++)
	{
		MlcTarget  *target = relay->targets[i];

		if (target->state == MLC_TARGET_GIVEN_UP)
			continue;
		if (!mlc_target_is_live(target))
			return;
		lowest = Min(lowest, target->applied.lsn);
	}
	pg_atomic_write_u64(&relay->shared->decoded_lsn, relay->position.lsn);
	if (lowest != PG_UINT64_MAX && lowest > before)
	{
		pg_atomic_write_u64(&relay->shared->applied_lsn, lowest);
		ConditionVariableBroadcast(&relay->shared->progress);
	}
}

/* Collects replies; when all are in, the batch in flight is applied. */
static void
poll_targets(void)
{
	for (int i = 0; i < relay->ntargets; i++)
		if (mlc_target_is_live(relay->targets[i]))
			(void) mlc_target_poll(relay->targets[i]);

	if (!relay->in_flight || !all_idle())
		return;
	relay->in_flight = false;
	for (int i = 0; i < relay->ntargets; i++)
		if (mlc_target_is_live(relay->targets[i]))
			mlc_target_advance(relay->targets[i], relay->flight_end,
							   relay->flight_committed);
	MLC_FAULT("relay-before-applied");
	show_progress();
}

/* Waits for the batch in flight. */
static void
finish_flight(void)
{
	while (relay->in_flight)
	{
		poll_targets();
		for (int i = 0; i < relay->ntargets && relay->in_flight; i++)
			if (mlc_target_is_live(relay->targets[i]) &&
				!mlc_target_is_idle(relay->targets[i]))
			{
				(void) mlc_conn_wait(relay->targets[i]->conn);
				break;
			}
	}
}

/* Sends a batch to all live targets; end is applied when they answered. */
static void
send_batch(MlcBatch *batch, MlcVersion end)
{
	finish_flight();
	for (int i = 0; i < relay->ntargets; i++)
		if (mlc_target_is_live(relay->targets[i]))
			(void) mlc_target_send(relay->targets[i], batch);
	relay->flight_end = end;
	relay->flight_committed = batch->committed;
	relay->in_flight = true;
	mlc_refresh_queue(batch);
	MemoryContextSwitchTo(relay->scratch);
	mlc_batch_reset(batch);
}

/* The rest of a large transaction, chunk by chunk. */
static void
send_spool(MlcVersion before, MlcVersion end, TimestampTz committed)
{
	bool		more = true;

	mlc_spool_sort(relay->spool);
	while (more)
	{
		CHECK_FOR_INTERRUPTS();
		more = mlc_spool_fill(relay->spool, relay->current, relay->version);
		relay->current->applying = relay->version;
		relay->current->committed = committed;
		send_batch(relay->current, more ? before : end);
		if (!any_live())
			break;
	}
	mlc_spool_end(relay->spool);
	relay->spool = NULL;
}

static bool
weak_is_due(void)
{
	return relay->weak->nevents > 0 &&
		(pg_atomic_read_u32(&relay->shared->hurry) > 0 ||
		 relay->weak->nevents >= MLC_BATCH_EVENTS ||
		 relay->weak->bytes >= MLC_BATCH_BYTES ||
		 TimestampDifferenceExceeds(relay->weak_since, GetCurrentTimestamp(),
									mlc_weak_window));
}

/* Sends what has been decoded, once its transactions are visible. */
static void
dispatch(void)
{
	MlcBatch   *batch = relay->current;
	MlcVersion	before = relay->position;
	MlcVersion	end;

	wait_visible(batch);
	end.lsn = mlc_slot_position();
	end.tli = mlc_decode_timeline(end.lsn);
	if (mlc_version_compare(end, relay->position) > 0)
		relay->position = end;
	end = relay->position;

	if (weak_is_due())
		mlc_batch_merge(batch, relay->weak);

	if (relay->spool)
	{
		TimestampTz committed = relay->committed;

		if (!mlc_batch_is_empty(batch))
			send_batch(batch, safe_end(before));
		send_spool(safe_end(before), safe_end(end), committed);
	}
	else if (!mlc_batch_is_empty(batch))
		send_batch(batch, safe_end(end));
	else
	{
		/* only progress: nothing to apply */
		mlc_batch_reset(batch);
		if (!relay->in_flight)
		{
			for (int i = 0; i < relay->ntargets; i++)
				if (mlc_target_is_live(relay->targets[i]))
					mlc_target_advance(relay->targets[i], safe_end(end), 0);
			show_progress();
		}
		else if (mlc_version_compare(safe_end(end), relay->flight_end) > 0)
			relay->flight_end = safe_end(end);
	}
}

static void
connect_targets(void)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < relay->ntargets; i++)
	{
		MlcTarget  *target = relay->targets[i];

		if ((target->state != MLC_TARGET_DOWN &&
			 target->state != MLC_TARGET_GIVEN_UP) ||
			target->paused || now < target->retry_at)
			continue;

		/* a purge takes time; what others have in flight comes first */
		finish_flight();
		if (mlc_target_connect(target, relay->position, mlc_slot_confirmed(),
							   relay->rules) &&
			mlc_version_compare(target->applied, relay->position) < 0)
			relay->rewind = true;
		MemoryContextSwitchTo(relay->scratch);
	}
}

static void
arm_targets(void)
{
	for (int i = 0; i < relay->ntargets; i++)
	{
		MlcTarget  *target = relay->targets[i];

		if (target->state == MLC_TARGET_CATCHUP && !relay->in_flight &&
			mlc_target_is_idle(target) &&
			!relay->rewind && mlc_batch_is_empty(relay->current) &&
			relay->weak->nevents == 0 && relay->caught_up >= target->arm_at)
			(void) mlc_target_arm(target);
		else if (target->state == MLC_TARGET_ARMED && target->backoff > 0 &&
				 relay->caught_up >= target->arm_at)
			target->backoff = 0;
	}
}

/* Publishes progress that no batch has carried, and the heartbeat. */
static void
publish_progress(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		pulse;

	if (relay->in_flight)
		return;
	pulse = TimestampDifferenceExceeds(relay->last_publish, now, HEARTBEAT);
	for (int i = 0; i < relay->ntargets; i++)
	{
		MlcTarget  *target = relay->targets[i];

		if (!mlc_target_is_idle(target))
			continue;
		if (pulse ||
			(mlc_version_compare(target->applied, target->published) > 0 &&
			 (mlc_version_compare(target->applying, target->published) > 0 ||
			  TimestampDifferenceExceeds(relay->last_publish, now,
										 PUBLISH_PAUSE))))
		{
			(void) mlc_target_publish(target);
			relay->last_publish = now;
		}
	}
}

/* ---- housekeeping ---- */

/* The lowest applied of the targets that the slot is held for. */
static XLogRecPtr
lowest_applied(void)
{
	XLogRecPtr	lowest = relay->position.lsn;
	uint64		limit = (uint64) mlc_slot_max_retained * 1024 * 1024;

	for (int i = 0; i < relay->ntargets; i++)
	{
		MlcTarget  *target = relay->targets[i];

		if (!mlc_target_is_live(target))
		{
			if (target->state == MLC_TARGET_GIVEN_UP)
				continue;
			if (mlc_slot_max_retained >= 0 && mlc_slot_retained() > limit)
			{
				ereport(WARNING,
						(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						 errmsg("mlcache: server \"%s\" is given up", target->name),
						 errdetail("The slot holds more than %d MB of WAL for it (mlcache.slot_max_retained). It is purged when it returns.",
								   mlc_slot_max_retained)));
				target->state = MLC_TARGET_GIVEN_UP;
				LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
				target->stat->state = MLC_TARGET_GIVEN_UP;
				LWLockRelease(mlc_shared->lock);
				continue;
			}
			return InvalidXLogRecPtr;
		}
		lowest = Min(lowest, target->applied.lsn);
	}
	return lowest;
}

/* Once a second: remembers what is applied, confirms what is old enough. */
static void
confirm(TimestampTz now)
{
	XLogRecPtr	lowest = lowest_applied();
	int			old = 0;

	if (XLogRecPtrIsInvalid(lowest))
		return;
	if (relay->nmarks == relay->marks_size)
	{
		relay->marks_size = Max(64, relay->marks_size * 2);
		if (relay->marks == NULL)
			relay->marks = MemoryContextAlloc(relay->context,
											  sizeof(Mark) * relay->marks_size);
		else
			relay->marks = repalloc(relay->marks,
									sizeof(Mark) * relay->marks_size);
	}
	if (relay->nmarks == 0 || relay->marks[relay->nmarks - 1].lsn < lowest)
	{
		relay->marks[relay->nmarks].at = now;
		relay->marks[relay->nmarks++].lsn = lowest;
	}

	while (old < relay->nmarks &&
		   TimestampDifferenceExceeds(relay->marks[old].at, now,
									  mlc_redelivery_window))
		old++;
	if (old > 0)
	{
		XLogRecPtr	lsn = Min(relay->marks[old - 1].lsn, lowest);

		MLC_FAULT("relay-before-confirm");
		mlc_slot_confirm(lsn);
		memmove(relay->marks, relay->marks + old,
				sizeof(Mark) * (relay->nmarks - old));
		relay->nmarks -= old;
	}
}

static void
every_second(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(relay->last_second, now, 1000))
		return;
	relay->last_second = now;
	confirm(now);
	for (int i = 0; i < relay->ntargets; i++)
	{
		MlcTarget  *target = relay->targets[i];

		if (mlc_target_is_idle(target) && mlc_conn_check_closed(target->conn))
			mlc_target_fail(target, mlc_conn_error(target->conn));
	}
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	relay->shared->transactions += relay->transactions;
	relay->shared->spilled += relay->spilled;
	relay->shared->tli = relay->position.tli;
	LWLockRelease(mlc_shared->lock);
	relay->transactions = relay->spilled = 0;
}

/* Goes back to the confirmed position for a target that lacks changes. */
static void
rewind_now(void)
{
	finish_flight();
	mlc_batch_reset(relay->current);
	mlc_batch_reset(relay->weak);
	if (relay->spool)
	{
		mlc_spool_end(relay->spool);
		relay->spool = NULL;
	}
	relay->in_transaction = false;
	relay->position.lsn = mlc_slot_confirmed();
	relay->position.tli = mlc_decode_timeline(relay->position.lsn);
	relay->caught_up = InvalidXLogRecPtr;
	mlc_slot_rewind(&relay->sink);
	relay->rewind = false;
}

/* Decodes until the batch is full or WAL ends; true if it ended. */
static bool
decode(void)
{
	XLogRecPtr	flushed;

	for (int i = 0; i < RECORDS_A_TURN; i++)
	{
		if (mlc_batch_is_full(relay->current) || relay->spool ||
			mlc_batch_is_full(relay->weak))
			return false;
		if ((i & 1023) == 0)
			poll_targets();
		flushed = GetFlushRecPtr(NULL);
		if (!mlc_slot_read())
		{
			relay->caught_up = flushed;
			return true;
		}
	}
	return false;
}

/* Asks for the flush of commits that did not wait for one. */
static bool
flush_async_commits(void)
{
	XLogRecPtr	want = pg_atomic_read_u64(&relay->shared->want_lsn);

	for (int i = 0; i < relay->ntargets; i++)
		if (relay->targets[i]->state == MLC_TARGET_CATCHUP)
			want = Max(want, relay->targets[i]->arm_at);
	if (want <= GetFlushRecPtr(NULL))
		return false;
	XLogFlush(want);
	return true;
}

static void
sleep_a_while(bool for_wal)
{
	WaitEventSet *set;
	WaitEvent	event;
	long		timeout = IDLE_TIMEOUT;
	TimestampTz now = GetCurrentTimestamp();

	/* from here on a commit sets our latch; look once more before we sleep */
	if (for_wal)
		(void) pg_atomic_exchange_u32(&relay->shared->sleeping, 1);
	if (for_wal &&
		(relay->caught_up < GetFlushRecPtr(NULL) ||
		 relay->caught_up < pg_atomic_read_u64(&relay->shared->want_lsn)))
	{
		pg_atomic_write_u32(&relay->shared->sleeping, 0);
		return;
	}

	set = CreateWaitEventSet(relay->scratch, MLC_MAX_TARGETS + 2);
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < relay->ntargets; i++)
	{
		MlcTarget  *target = relay->targets[i];

		if (mlc_target_is_live(target))
		{
			if (mlc_conn_is_open(target->conn))
				AddWaitEventToSet(set, WL_SOCKET_READABLE,
								  mlc_conn_socket(target->conn), NULL, NULL);
			if (mlc_version_compare(target->applied, target->published) > 0)
				timeout = Min(timeout, PUBLISH_PAUSE);
		}
		else if (target->state == MLC_TARGET_DOWN ||
				 target->state == MLC_TARGET_GIVEN_UP)
			timeout = Min(timeout,
						  TimestampDifferenceMilliseconds(now, target->retry_at) + 1);
	}
	if (relay->weak->nevents > 0)
		timeout = Min(timeout, 10);
	(void) WaitEventSetWait(set, timeout, &event, 1, PG_WAIT_EXTENSION);
	FreeWaitEventSet(set);
	pg_atomic_write_u32(&relay->shared->sleeping, 0);
}

/* ---- life ---- */

static void
forget_me(int code, Datum arg)
{
	MlcRelayShared *shared = &mlc_shared->relays[DatumGetInt32(arg)];

	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	shared->pid = 0;
	shared->latch = NULL;
	shared->settled = false;
	for (int i = 0; i < MLC_MAX_TARGETS; i++)
		if (shared->targets[i].state != MLC_TARGET_UNUSED)
			shared->targets[i].state = MLC_TARGET_DOWN;
	LWLockRelease(mlc_shared->lock);
}

/* Nothing to do in this database: says so, unless somebody asked anew. */
static bool
retire(uint32 generation)
{
	bool		done = false;

	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&relay->shared->generation) == generation)
	{
		relay->shared->wanted = false;
		done = true;
	}
	LWLockRelease(mlc_shared->lock);
	if (done)
		mlc_slot_drop();
	return done;
}

static void
init_relay(int number)
{
	HASHCTL		ctl;

	relay = MemoryContextAllocZero(TopMemoryContext, sizeof(Relay));
	relay->sink.begin = sink_begin;
	relay->sink.event = sink_event;
	relay->sink.commit = sink_commit;
	relay->shared = &mlc_shared->relays[number];
	relay->context = AllocSetContextCreate(TopMemoryContext, "mlcache relay",
										   ALLOCSET_DEFAULT_SIZES);
	relay->scratch = AllocSetContextCreate(TopMemoryContext, "mlcache turn",
										   ALLOCSET_DEFAULT_SIZES);
	relay->rules_generation = 1;
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(MlcRelayRule);
	ctl.hcxt = relay->context;
	relay->rules = hash_create("mlcache relay rules", 64, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	relay->current = mlc_batch_create(relay->context, "current");
	relay->weak = mlc_batch_create(relay->context, "weak");

	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, syscache_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, syscache_changed, (Datum) 0);

	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	relay->shared->pid = MyProcPid;
	relay->shared->latch = MyLatch;
	LWLockRelease(mlc_shared->lock);
	on_shmem_exit(forget_me, Int32GetDatum(number));
}

/* One turn of the loop. */
static void
turn(void)
{
	bool		ended;

	connect_targets();
	if (relay->rewind)
		rewind_now();

	if (!any_live())
	{
		every_second();

		/* given up: WAL must go, so it is read and thrown away */
		if (lowest_applied() == InvalidXLogRecPtr)
		{
			sleep_a_while(false);
			return;
		}
	}

	ended = decode();
	poll_targets();
	if (!relay->in_flight || mlc_batch_is_full(relay->current) || relay->spool)
		dispatch();
	poll_targets();
	mlc_refresh_run(relay->targets, relay->ntargets, relay->in_flight);
	arm_targets();
	publish_progress();
	every_second();

	if (ended && !flush_async_commits())
		sleep_a_while(true);
}

void
mlc_relay_main(Datum arg)
{
	int			number = DatumGetInt32(arg);
	uint32		generation;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGUSR1, procsignal_sigusr1_handler);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(mlc_shared->relays[number].dbid,
											  InvalidOid, 0);

	/* decoding and spools want an owner outside any transaction */
	CreateAuxProcessResourceOwner();
	init_relay(number);
	mlc_rule_pin_format_for_process();

	generation = pg_atomic_read_u32(&relay->shared->generation);
	if (!load_catalogs() && retire(generation))
		return;
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	relay->shared->settled = true;
	LWLockRelease(mlc_shared->lock);
	mlc_segment_wake_launcher();

	if (mlc_slot_acquire())
		mlc_slot_wait_visible();
	rewind_now();

	for (;;)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			if (!mlc_relay_enabled)
				return;
		}
		AcceptInvalidationMessages();
		generation = pg_atomic_read_u32(&relay->shared->generation);
		if (catalogs_changed || generation != relay->generation ||
			mlc_rule_changes != relay->rule_changes)
		{
			relay->rule_changes = mlc_rule_changes;
			relay->generation = generation;
			if (!load_catalogs())
			{
				/* the last rule went: its purge is still to be delivered */
				if (relay->caught_up >= mlc_wal_insert_end() &&
					!relay->in_flight && retire(generation))
					return;
				catalogs_changed = true;
			}
		}
		MemoryContextSwitchTo(relay->scratch);
		MemoryContextReset(relay->scratch);
		turn();
		CurrentResourceOwner = AuxProcessResourceOwner;
	}
}
