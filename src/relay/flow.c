/*-------------------------------------------------------------------------
 *
 * relay/flow.c
 *	  From decoded batches to applied ones: visibility, sending, replies.
 *
 * One batch is in flight while the next is decoded.  `applied` moves when all
 * replies to a batch were good, and is held back while changes of weak rules
 * wait.
 *
 * A server, or a master of a cluster, that keeps the others waiting is set
 * aside: they go on, and what it misses is kept as one batch, sent when it has
 * answered.  Where it does not answer in time, or misses too much, it is down
 * like any other.  Of a cluster nothing is called applied meanwhile, as while a
 * master is away; and what is kept goes to all of its masters, as all of WAL
 * would when it came back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/wal.h"
#include "miscadmin.h"
#include "read/free.h"
#include "relay/group.h"
#include "relay/refresh.h"
#include "relay/relay.h"
#include "relay/slot.h"
#include "shm/l1.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#define HEARTBEAT 1000			/* ms */

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

/*
 * The same while decoding, with no snapshot to be had: a transaction that has
 * left the array of running ones is in no new snapshot.
 */
static void
wait_visible_now(MlcBatch *batch)
{
	if (MLC_FAULT_SKIP("relay-visibility"))
		return;
	for (int i = 0; i < batch->nxids; i++)
		while (TransactionIdIsInProgress(batch->xids[i]))
		{
			CHECK_FOR_INTERRUPTS();
			pg_usleep(100L);
		}
}

/* Does the batch in flight wait for it? */
static bool
is_awaited(MlcTarget *target)
{
	return mlc_target_is_live(target) && !mlc_target_is_idle(target) &&
		!target->aside;
}

static bool
all_idle(void)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (is_awaited(mlc_relay->targets[i]))
			return false;
	return true;
}

bool
mlc_flow_any_live(void)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_target_is_live(mlc_relay->targets[i]))
			return true;
	return false;
}

/* What may be called applied now: held back by weak changes that wait. */
static MlcVersion
safe_end(MlcVersion end)
{
	if (mlc_relay->weak->nevents > 0 &&
		mlc_version_compare(mlc_relay->weak_before, end) < 0)
		return mlc_relay->weak_before;
	return end;
}

/* ---- what readers of this server may use ---- */

void
mlc_flow_sample_age(void)
{
	if (mlc_relay->age_lsn != InvalidXLogRecPtr)
		return;
	mlc_relay->age_at = GetCurrentTimestamp();

	/* what is visible by now has its commit record before this */
	mlc_relay->age_lsn = mlc_wal_insert_end();
}

/*
 * Tells readers what every server has applied: unlike applied_lsn, of servers
 * that were given up, too, since readers may still reach them.
 */
static void
tell_readers(void)
{
	XLogRecPtr	lowest = mlc_relay->position.lsn;

	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		if (!mlc_target_is_live(mlc_relay->targets[i]))
			return;
		lowest = Min(lowest, mlc_relay->targets[i]->applied.lsn);
	}
	pg_atomic_write_u64(&mlc_relay->shared->safe_lsn, lowest);
	if (mlc_relay->age_lsn != InvalidXLogRecPtr && lowest >= mlc_relay->age_lsn)
	{
		pg_atomic_write_u64(&mlc_relay->shared->fresh_at,
							(uint64) mlc_relay->age_at);
		mlc_relay->age_lsn = InvalidXLogRecPtr;
	}
}

void
mlc_flow_forget_l1(void)
{
	mlc_l1_shut(mlc_relay->shared);
	mlc_relay->l1_open = false;
	pg_atomic_write_u64(&mlc_relay->shared->safe_lsn, 0);
	pg_atomic_write_u64(&mlc_relay->shared->fresh_at, 0);
	mlc_relay->age_lsn = InvalidXLogRecPtr;
}

void
mlc_flow_serve_l1(void)
{
	bool		live = mlc_flow_any_live();

	if (mlc_relay->l1_open && !live)
	{
		mlc_l1_shut(mlc_relay->shared);
		mlc_relay->l1_open = false;
	}
	else if (!mlc_relay->l1_open && live && !mlc_relay->in_flight)
	{
		mlc_l1_open(mlc_relay->shared);
		mlc_relay->l1_open = true;
	}
}

/* What a tag, pattern or touch may concern; true: any key. */
static bool
close_sweep(MlcBatchEvent *event)
{
	MlcRelayShared *shared = mlc_relay->shared;
	uint32		len;
	const char *text = mlc_batch_text(event, &len);

	switch (event->op)
	{
		case MLC_OP_TAG:
			mlc_l1_close_tag(shared, mlc_l1_tag(MLC_INDEX_TAG, text, len));
			if (!MLC_FAULT_SKIP("l1-close-any-tag"))
				mlc_l1_close_tag(shared, MLC_L1_ANY_TAG);
			return false;
		case MLC_OP_FETCHED:
			mlc_l1_close_tag(shared, mlc_l1_tag(MLC_INDEX_FETCHED, text, len));
			return false;
		case MLC_OP_TOUCH:
			mlc_l1_close_key(shared, text, len);
			return false;
		default:
			return true;
	}
}

/* Before the first command of a batch to any server. */
static void
close_l1(MlcBatch *batch)
{
	bool		all = batch->purges != NIL;

	for (int i = 0; batch->sweeps && i < batch->sweeps->nevents; i++)
		all |= close_sweep(&batch->sweeps->events[i]);
	if (all)
	{
		mlc_l1_shut(mlc_relay->shared);
		mlc_relay->l1_open = false;
	}
	for (int i = 0; i < batch->nevents; i++)
		if (!batch->events[i].dead)
			mlc_l1_close_key(mlc_relay->shared, batch->events[i].key,
							 batch->events[i].keylen);
}

/* After the last reply to a batch. */
static void
open_l1(void)
{
	if (mlc_relay->l1_open)
		mlc_l1_open(mlc_relay->shared);
	mlc_flow_serve_l1();
}

/* Tells waiters in shared memory how far all live targets are. */
static void
show_progress(void)
{
	uint64		lowest = PG_UINT64_MAX;
	uint64		before = pg_atomic_read_u64(&mlc_relay->shared->applied_lsn);

	tell_readers();
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->state == MLC_TARGET_GIVEN_UP)
			continue;
		if (!mlc_target_is_live(target))
			return;
		lowest = Min(lowest, target->applied.lsn);
	}
	pg_atomic_write_u64(&mlc_relay->shared->decoded_lsn, mlc_relay->position.lsn);
	if (lowest != PG_UINT64_MAX && lowest > before)
	{
		pg_atomic_write_u64(&mlc_relay->shared->applied_lsn, lowest);
		ConditionVariableBroadcast(&mlc_relay->shared->progress);
	}
}

/* ---- servers that are set aside ---- */

static bool
is_aside(MlcTarget *target)
{
	return target->aside && mlc_target_is_live(target);
}

/* Is it set aside, and of this cluster?  NULL: of whichever, or none. */
static bool
is_aside_of(MlcTarget *target, MlcGroup *group)
{
	return is_aside(target) && (group == NULL || target->group == group);
}

bool
mlc_flow_any_aside(MlcGroup *group)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (is_aside_of(mlc_relay->targets[i], group))
			return true;
	return false;
}

static bool
is_overdue(MlcTarget *target)
{
	return TimestampDifferenceExceeds(target->sent_at, GetCurrentTimestamp(),
									  MLC_PATIENCE);
}

bool
mlc_flow_is_silent(MlcTarget *target)
{
	if (!is_overdue(target))
		return false;

	/* it may be us who have not listened */
	(void) mlc_target_poll(target);
	return is_awaited(target) && is_overdue(target);
}

void
mlc_flow_set_aside(MlcTarget *target)
{
	if (MLC_FAULT_SKIP("relay-aside"))
		return;
	target->aside = true;
	target->aside_end = mlc_relay->flight_end;
}

void
mlc_flow_drop_aside(MlcGroup *group)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (is_aside_of(mlc_relay->targets[i], group))
			mlc_target_fail(mlc_relay->targets[i],
							"Redis does not answer, while changes are delivered once more.");
}

/*
 * Goes on without those that keep the others waiting: at once where another has
 * answered, and in the end where one can only be connected anew meanwhile.
 */
static void
set_aside(void)
{
	bool		others = false;
	bool		down = false;
	TimestampTz since = 0;

	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		/* one that is set aside, but has answered, waits for this batch */
		others |= mlc_target_is_idle(target);
		down |= target->state == MLC_TARGET_DOWN && !target->paused;
		if (!is_awaited(target))
			continue;
		if (!mlc_flow_is_silent(target))
			return;
		since = Max(since, target->sent_at);
	}
	if (since == 0)
		return;
	others |= down && !MLC_FAULT_SKIP("relay-aside-down") &&
		TimestampDifferenceExceeds(since, GetCurrentTimestamp(), HEARTBEAT);
	for (int i = 0; i < mlc_relay->ntargets && others; i++)
		if (is_awaited(mlc_relay->targets[i]))
			mlc_flow_set_aside(mlc_relay->targets[i]);
}

/*
 * The batch that the others have applied, for those that are set aside.  Those
 * that have it in flight skip it by version, or take it twice, which changes
 * nothing; but its keys must be closed once more, since L1 is opened before
 * they have applied it.  For the same reason what is kept stays until all of
 * them have applied it.
 */
static void
keep_flight(void)
{
	MlcBatch   *flight = mlc_relay->flight;
	MlcBatch   *kept = mlc_relay->kept;

	for (int i = 0; flight->sweeps && i < flight->sweeps->nevents; i++)
	{
		MlcBatchEvent *event = &flight->sweeps->events[i];
		uint32		len;
		const char *text = mlc_batch_text(event, &len);

		mlc_batch_sweep(kept, event->rule, event->op, text, len,
						event->payload, event->payloadlen, event->version);
	}
	mlc_batch_merge(kept, flight);
	if (kept->bytes <= (Size) mlc_relay_work_mem * 1024)
		return;
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (is_aside(mlc_relay->targets[i]))
			mlc_target_fail(mlc_relay->targets[i],
							"Redis does not answer, and has missed more than mlcache.relay_work_mem holds.");
}

/*
 * Those that are set aside and have answered are in step again, and are to get
 * what they have missed.  False: there are none.
 */
static bool
take_back(void)
{
	bool		any = false;

	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (!is_aside(target) || !mlc_target_is_idle(target) ||
			MLC_FAULT_SKIP(psprintf("relay-take-back-%d", target->place.port)))
			continue;
		mlc_target_advance(target, target->aside_end, 0, 0);
		target->aside = false;
		target->behind = any = true;
	}
	return any;
}

/*
 * All masters of a cluster get what one of them has missed, each what is its by
 * now: a key may have gone from one to another meanwhile, be it past a command
 * that was sent to either, be it filled where nobody had been told of its
 * change.
 */
static bool
include_members(MlcGroup *group)
{
	bool		any = false;

	for (int i = 0; i < mlc_relay->ntargets; i++)
		any |= mlc_relay->targets[i]->group == group &&
			mlc_relay->targets[i]->behind;
	for (int i = 0; i < mlc_relay->ntargets && any; i++)
		if (mlc_relay->targets[i]->group == group &&
			!MLC_FAULT_SKIP("relay-aside-members"))
			mlc_relay->targets[i]->behind = true;
	return any;
}

/* Sends what has been kept to those that have missed it, as a batch. */
static void
send_kept(void)
{
	MemoryContext old = CurrentMemoryContext;
	MlcBatch   *batch = mlc_relay->kept;
	ListCell   *lc;

	if (!MLC_FAULT_SKIP("relay-aside-l1"))
		close_l1(batch);
	foreach(lc, mlc_relay->groups)
		if (include_members(lfirst(lc)))
		mlc_group_announce(lfirst(lc), batch);
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->behind && mlc_target_is_reached(target))
			(void) mlc_target_send(target, batch);
		target->behind = false;
	}
	mlc_relay->flight_committed = batch->committed;
	mlc_relay->flight_oldest = batch->oldest;
	mlc_relay->in_flight = true;
	mlc_refresh_queue(batch);
	MemoryContextSwitchTo(old);
	mlc_relay->kept = mlc_relay->flight;
	mlc_relay->flight = batch;
}

/* All replies to the batch in flight are in. */
static void
finish_flight(void)
{
	mlc_group_settle();
	mlc_relay->in_flight = false;
	if (mlc_flow_any_aside(NULL) && !MLC_FAULT_SKIP("relay-aside-keep"))
		keep_flight();
	else
	{
		mlc_batch_reset(mlc_relay->flight);
		mlc_batch_reset(mlc_relay->kept);
	}
	open_l1();
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_target_is_reached(mlc_relay->targets[i]))
			mlc_target_advance(mlc_relay->targets[i], mlc_relay->flight_end,
							   mlc_relay->flight_committed,
							   mlc_relay->flight_oldest);
	MLC_FAULT("relay-before-applied");
	show_progress();
}

/*
 * Collects replies; when all are in, the batch in flight is applied.  Then
 * those that were set aside may get what they have missed: nothing else is on
 * its way, that it could overtake.
 */
void
mlc_flow_poll(void)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_target_is_live(mlc_relay->targets[i]))
			(void) mlc_target_poll(mlc_relay->targets[i]);
	if (mlc_relay->in_flight)
	{
		set_aside();
		if (!all_idle() || mlc_group_sweep_again(mlc_relay->flight))
			return;
		finish_flight();
		mlc_group_look_for_news();
	}
	if (take_back())
		send_kept();
}

/* Waits for the batch in flight. */
void
mlc_flow_finish(void)
{
	while (mlc_relay->in_flight)
	{
		mlc_flow_poll();
		for (int i = 0; i < mlc_relay->ntargets && mlc_relay->in_flight; i++)
			if (is_awaited(mlc_relay->targets[i]))
			{
				(void) mlc_conn_wait_for(mlc_relay->targets[i]->conn, MLC_PATIENCE);
				break;
			}
	}
}

/* Sends a batch to all live targets; end is applied when they answered. */
static void
send_batch(MlcBatch *batch, MlcVersion end)
{
	ListCell   *lc;

	mlc_flow_finish();
	close_l1(batch);
	foreach(lc, mlc_relay->groups)
		mlc_group_announce(lfirst(lc), batch);
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_target_is_reached(mlc_relay->targets[i]))
			(void) mlc_target_send(mlc_relay->targets[i], batch);
	mlc_relay->flight_end = end;
	mlc_relay->flight_committed = batch->committed;
	mlc_relay->flight_oldest = batch->oldest;
	mlc_relay->in_flight = true;
	mlc_relay->sent_at = GetCurrentTimestamp();
	mlc_relay->busy = batch->transactions >= MLC_BUSY;
	mlc_refresh_queue(batch);
	MemoryContextSwitchTo(mlc_relay->scratch);

	/* until it is answered its events are looked at once more */
	Assert(batch == mlc_relay->current);
	mlc_relay->current = mlc_relay->flight;
	mlc_relay->flight = batch;
}

/* The rest of a large transaction, chunk by chunk. */
static void
send_spool(MlcVersion before, MlcVersion end, TimestampTz committed)
{
	bool		more = true;

	mlc_spool_finish(mlc_relay->spool);
	while (more)
	{
		CHECK_FOR_INTERRUPTS();
		more = mlc_spool_fill(mlc_relay->spool, mlc_relay->current, mlc_relay->version);
		mlc_relay->current->applying = mlc_relay->version;
		mlc_batch_committed(mlc_relay->current, committed);
		send_batch(mlc_relay->current, more ? before : end);
		if (!mlc_flow_any_live())
			break;
	}
	mlc_spool_end(mlc_relay->spool);
	mlc_relay->spool = NULL;
}

/*
 * Nothing is held back from a server that catches up, since it cannot be armed
 * before; nor behind a large transaction, whose own events come later.
 */
static bool
weak_is_due(void)
{
	return mlc_relay->weak->nevents > 0 &&
		!MLC_FAULT_SKIP("relay-weak-due") &&
		(mlc_upkeep_is_catching_up() ||
		 (mlc_relay->spool && !MLC_FAULT_SKIP("relay-weak-order")) ||
		 pg_atomic_read_u32(&mlc_relay->shared->hurry) > 0 ||
		 mlc_relay->weak->nevents >= MLC_BATCH_EVENTS ||
		 mlc_relay->weak->bytes >= MLC_BATCH_BYTES ||
		 TimestampDifferenceExceeds(mlc_relay->weak_since, GetCurrentTimestamp(),
									mlc_weak_window));
}

void
mlc_flow_stream(void)
{
	MemoryContext old = CurrentMemoryContext;

	wait_visible_now(mlc_relay->current);

	/* what is held back of the transactions before comes first */
	if (mlc_relay->weak->nevents > 0)
		mlc_batch_merge(mlc_relay->current, mlc_relay->weak);
	mlc_relay->current->applying = mlc_relay->version;
	send_batch(mlc_relay->current, mlc_relay->position);
	MemoryContextSwitchTo(old);
}

/* Sends what has been decoded, once its transactions are visible. */
void
mlc_flow_dispatch(void)
{
	MlcBatch   *batch = mlc_relay->current;
	MlcVersion	before = mlc_relay->position;
	MlcVersion	end;

	wait_visible(batch);
	end.lsn = mlc_slot_position();
	end.tli = mlc_decode_timeline(end.lsn);
	if (mlc_version_compare(end, mlc_relay->position) > 0)
		mlc_relay->position = end;
	end = mlc_relay->position;

	if (weak_is_due())
		mlc_batch_merge(batch, mlc_relay->weak);

	if (mlc_relay->spool)
	{
		TimestampTz committed = mlc_relay->committed;

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
		if (!mlc_relay->in_flight)
		{
			for (int i = 0; i < mlc_relay->ntargets; i++)
				if (mlc_target_is_reached(mlc_relay->targets[i]))
					mlc_target_advance(mlc_relay->targets[i], safe_end(end), 0, 0);
			show_progress();
		}
		else if (mlc_version_compare(safe_end(end), mlc_relay->flight_end) > 0)
			mlc_relay->flight_end = safe_end(end);
	}
}

/* Publishes progress that no batch has carried, and the heartbeat. */
void
mlc_flow_publish(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		pulse;

	if (mlc_relay->in_flight)
		return;
	pulse = TimestampDifferenceExceeds(mlc_relay->last_publish, now, HEARTBEAT);
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (!mlc_target_is_idle(target))
			continue;
		if (pulse ||
			(mlc_version_compare(target->applied, target->published) > 0 &&
			 (mlc_version_compare(target->applying, target->published) > 0 ||
			  TimestampDifferenceExceeds(mlc_relay->last_publish, now,
										 MLC_PUBLISH_PAUSE))))
		{
			(void) mlc_target_publish(target);
			mlc_relay->last_publish = now;
		}
	}
}
