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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/wal.h"
#include "miscadmin.h"
#include "model/disguise.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "relay/group.h"
#include "relay/refresh.h"
#include "relay/relay.h"
#include "relay/slot.h"
#include "relay/sweep.h"
#include "relay/worker.h"
#include "shm/l1.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define RECORDS_A_TURN 50000	/* WAL records before housekeeping */
#define IDLE_TIMEOUT 200		/* ms; commits wake us earlier */
#define OPENING_TIMEOUT 50		/* ms, while a connection is being opened */
#define NAP 2					/* ms, once woken by what is in no hurry */
#define BATCH_DISTANCE 500		/* us from one batch to the next */
#define BUSY_DISTANCE 1000		/* us, after one of many transactions */
#define RETIRE_ALONE 5000		/* ms without rules and without a server */

MlcRelay   *mlc_relay = NULL;

/* Goes back to where the target that lacks most needs it. */
static void
rewind_now(void)
{
	XLogRecPtr	start = InvalidXLogRecPtr;

	mlc_flow_finish();
	mlc_flow_drop_aside(NULL);
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (mlc_target_is_live(target) &&
			(start == InvalidXLogRecPtr || target->applied.lsn < start))
			start = target->applied.lsn;
	}
	mlc_batch_reset(mlc_relay->current);
	mlc_batch_reset(mlc_relay->weak);
	if (mlc_relay->spool)
	{
		mlc_spool_end(mlc_relay->spool);
		mlc_relay->spool = NULL;
	}
	mlc_relay->in_transaction = false;
	mlc_slot_rewind(&mlc_relay->sink, start);
	mlc_upkeep_forget_catalogs();
	mlc_relay->position.lsn = mlc_slot_position();
	mlc_relay->position.tli = mlc_decode_timeline(mlc_relay->position.lsn);
	mlc_relay->caught_up = InvalidXLogRecPtr;
	mlc_relay->rewind = false;
	mlc_group_begin_again();
}

/* Decodes until the batch is full or WAL ends; true if it ended. */
static bool
decode(void)
{
	for (int i = 0; i < RECORDS_A_TURN; i++)
	{
		if (mlc_batch_is_full(mlc_relay->current) || mlc_relay->spool ||
			mlc_batch_is_full(mlc_relay->weak))
			return false;
		if ((i & 255) == 0)
			mlc_flow_poll();
		if (!mlc_slot_read())
		{
			mlc_relay->caught_up = mlc_slot_read_up_to();
			return true;
		}
	}
	return false;
}

/* Asks for the flush of commits that did not wait for one. */
static bool
flush_async_commits(void)
{
	XLogRecPtr	want = pg_atomic_read_u64(&mlc_relay->shared->want_lsn);

	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_relay->targets[i]->state == MLC_TARGET_CATCHUP)
			want = Max(want, mlc_relay->targets[i]->arm_at);
	if (want <= GetFlushRecPtr(NULL))
		return false;
	XLogFlush(want);
	return true;
}

/*
 * What a sleep waits for: the latch, the postmaster, and the sockets of targets
 * that live or are being connected.  Made anew when a connection came or went.
 */
static WaitEventSet *
wait_event_set(void)
{
	static WaitEventSet *set = NULL;
	static uint64 made_for = 0;

	if (set && made_for == mlc_target_connections + mlc_target_openings)
		return set;
	if (set)
		FreeWaitEventSet(set);
	made_for = mlc_target_connections + mlc_target_openings;
	set = mlc_create_wait_event_set(MLC_MAX_TARGETS + 2);
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (mlc_target_is_live(target) && mlc_conn_is_open(target->conn))
			AddWaitEventToSet(set, WL_SOCKET_READABLE,
							  mlc_conn_socket(target->conn), NULL, target);
		else if (target->awaits != 0)
			AddWaitEventToSet(set, target->awaits,
							  mlc_conn_socket(target->conn), NULL, NULL);
	}
	return set;
}

/* Is there anything else to do than to repeat what commits have done? */
static bool
is_in_hurry(void)
{
	return mlc_relay->caught_up < pg_atomic_read_u64(&mlc_relay->shared->hurry_lsn) ||
		pg_atomic_read_u32(&mlc_relay->shared->hurry) > 0 ||
		mlc_relay->in_flight || mlc_upkeep_is_catching_up();
}

/*
 * Strong commits that have released their marks need the relay only for its
 * progress: a few of them are taken at once.
 */
static void
nap(void)
{
	if (mlc_relay->caught_up >= pg_atomic_read_u64(&mlc_relay->shared->want_lsn))
		return;
	ResetLatch(MyLatch);
	(void) pg_atomic_exchange_u32(&mlc_relay->shared->sleeping, MLC_SLEEP_NAP);
	if (!is_in_hurry())
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 NAP, PG_WAIT_EXTENSION);
	pg_atomic_write_u32(&mlc_relay->shared->sleeping, MLC_SLEEP_NONE);
}

static void
sleep_a_while(bool for_wal)
{
	WaitEvent	event;
	long		timeout = IDLE_TIMEOUT;
	TimestampTz now = GetCurrentTimestamp();

	/* from here on a commit sets our latch; look once more before we sleep */
	if (for_wal)
		(void) pg_atomic_exchange_u32(&mlc_relay->shared->sleeping, MLC_SLEEP_IDLE);
	if (for_wal &&
		(mlc_relay->caught_up < GetFlushRecPtr(NULL) ||
		 mlc_relay->caught_up < pg_atomic_read_u64(&mlc_relay->shared->want_lsn)))
	{
		pg_atomic_write_u32(&mlc_relay->shared->sleeping, MLC_SLEEP_NONE);
		return;
	}

	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (mlc_target_is_live(target))
		{
			if (mlc_version_compare(target->applied, target->published) > 0)
				timeout = Min(timeout, MLC_PUBLISH_PAUSE);
		}
		else if (target->awaits != 0)
			timeout = Min(timeout, OPENING_TIMEOUT);
		else if (target->state == MLC_TARGET_DOWN ||
				 target->state == MLC_TARGET_GIVEN_UP)
			timeout = Min(timeout,
						  TimestampDifferenceMilliseconds(now, target->retry_at) + 1);
	}
	if (mlc_relay->weak->nevents > 0)
		timeout = Min(timeout, 10);
	if (mlc_relay->in_flight || mlc_refresh_pending() > 0)
		timeout = Min(timeout, MLC_PATIENCE);
	if (WaitEventSetWait(wait_event_set(), timeout, &event, 1, PG_WAIT_EXTENSION) > 0 &&
		(event.events & WL_SOCKET_READABLE) != 0 && event.user_data)
		mlc_target_check_closed(event.user_data);
	pg_atomic_write_u32(&mlc_relay->shared->sleeping, MLC_SLEEP_NONE);
	if (for_wal && !is_in_hurry())
		nap();
}

static void
forget_me(int code, Datum arg)
{
	MlcRelayShared *shared = &mlc_shared->relays[DatumGetInt32(arg)];

	/* from now on nobody removes what changes */
	mlc_l1_shut(shared);
	pg_atomic_write_u64(&shared->safe_lsn, 0);
	pg_atomic_write_u64(&shared->fresh_at, 0);
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	shared->pid = 0;
	shared->latch = NULL;
	shared->settled = shared->ready = false;
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
	if (pg_atomic_read_u32(&mlc_relay->shared->generation) == generation &&
		pg_atomic_read_u32(&mlc_relay->shared->holds) == 0)
	{
		mlc_relay->shared->wanted = mlc_relay->shared->ready = false;
		mlc_relay->shared->retired = true;
		done = true;
	}
	LWLockRelease(mlc_shared->lock);
	if (!done)
		return false;
	ConditionVariableBroadcast(&mlc_relay->shared->progress);

	/*
	 * Nobody will invalidate from now on, so nobody may hit or fill.
	 */
	mlc_flow_finish();
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (mlc_target_is_live(target))
			mlc_target_retire(target, mlc_relay->rules);
		else
			ereport(WARNING,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("mlcache: server \"%s\" keeps entries of rules that are gone",
							target->label),
					 errdetail("It could not be reached when the last rule went."),
					 errhint("Remove them there, or FLUSHALL.")));
	}
	mlc_slot_drop();
	MLC_FAULT("relay-retired");
	return true;
}

/*
 * A turn failed.  If the rules are gone, as after DROP EXTENSION, which leaves
 * WAL behind that nobody can decode any more, no relay follows, and the servers
 * may be known to nobody but us: takes leave of them.  False: one follows.
 */
static bool
retire_after_error(void)
{
	uint32		generation = pg_atomic_read_u32(&mlc_relay->shared->generation);

	if (MLC_FAULT_SKIP("relay-last-will"))
		return false;
	MemoryContextSwitchTo(mlc_relay->scratch);
	AbortOutOfAnyTransaction();
	CurrentResourceOwner = AuxProcessResourceOwner;
	return !mlc_upkeep_load() && retire(generation);
}

/*
 * The last rule went.  Its purge is still to be delivered; a server that is
 * away or paused is waited for a while, but not while the slot fills the disk.
 */
static bool
may_retire(void)
{
	static TimestampTz alone_since = 0;
	TimestampTz now = GetCurrentTimestamp();

	/* a rule was about to come, and did not */
	if (mlc_relay->ntargets == 0)
		return true;
	if (mlc_flow_any_live())
	{
		alone_since = 0;
		return mlc_relay->caught_up >= mlc_wal_insert_end() &&
			!mlc_relay->in_flight;
	}
	if (alone_since == 0)
		alone_since = now;
	return TimestampDifferenceExceeds(alone_since, now, RETIRE_ALONE);
}

static void
init_relay(int number)
{
	HASHCTL		ctl;

	mlc_relay = MemoryContextAllocZero(TopMemoryContext, sizeof(MlcRelay));
	mlc_intake_init();
	mlc_relay->shared = &mlc_shared->relays[number];
	mlc_relay->context = AllocSetContextCreate(TopMemoryContext, "mlcache relay",
											   ALLOCSET_DEFAULT_SIZES);
	mlc_relay->scratch = AllocSetContextCreate(TopMemoryContext, "mlcache turn",
											   ALLOCSET_DEFAULT_SIZES);
	mlc_relay->rules_generation = 1;
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(MlcRelayRule);
	ctl.hcxt = mlc_relay->context;
	mlc_relay->rules = hash_create("mlcache relay rules", 64, &ctl,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	mlc_relay->current = mlc_batch_create(mlc_relay->context, "current");
	mlc_relay->flight = mlc_batch_create(mlc_relay->context, "flight");
	mlc_relay->kept = mlc_batch_create(mlc_relay->context, "kept");
	mlc_relay->weak = mlc_batch_create(mlc_relay->context, "weak");

	mlc_upkeep_init();
	mlc_flow_forget_l1();

	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	mlc_relay->shared->pid = MyProcPid;
	mlc_relay->shared->began_at = GetCurrentTimestamp();
	mlc_relay->shared->latch = MyLatch;
	LWLockRelease(mlc_shared->lock);
	on_shmem_exit(forget_me, Int32GetDatum(number));
}

/*
 * Under load, batches keep a distance: the more commits share one the less each
 * costs, and nobody wakes a relay that is awake.  A batch after a quiet moment
 * goes at once.
 */
static void
keep_distance(void)
{
	long		distance = mlc_relay->busy ? BUSY_DISTANCE : BATCH_DISTANCE;
	long		left;

	/* somebody waits, or the clock was set back */
	if (pg_atomic_read_u32(&mlc_relay->shared->hurry) > 0)
		return;
	left = mlc_relay->sent_at + distance - GetCurrentTimestamp();
	if (left > 0 && left <= distance)
		pg_usleep(left);
}

/* One turn of the loop. */
static void
turn(void)
{
	bool		ended;

	MLC_FAULT("relay-turn");
	mlc_upkeep_connect();
	if (mlc_relay->rewind)
		rewind_now();
	mlc_flow_serve_l1();
	mlc_flow_sample_age();

	if (!mlc_flow_any_live())
	{
		mlc_upkeep_every_second();

		/*
		 * Given up: WAL must go, so it is read and thrown away.  But what
		 * follows a first rule that is about to come is for its servers.
		 */
		if (mlc_upkeep_lowest_applied() == InvalidXLogRecPtr ||
			(!mlc_relay->needed && mlc_relay->ntargets == 0))
		{
			sleep_a_while(false);
			return;
		}
	}

	keep_distance();
	ended = decode();
	mlc_flow_poll();
	mlc_upkeep_arm();			/* under load, the only moment with none in
								 * flight */
	if (!mlc_relay->in_flight || mlc_batch_is_full(mlc_relay->current) || mlc_relay->spool)
		mlc_flow_dispatch();
	mlc_flow_poll();
	mlc_upkeep_arm();
	if (!mlc_relay->in_flight)
		mlc_refresh_run(mlc_relay->targets, mlc_relay->ntargets);
	if (!mlc_relay->in_flight)
		mlc_sweep_run();
	mlc_flow_publish();
	mlc_upkeep_every_second();

	if (ended && !flush_async_commits() &&
		(mlc_relay->in_flight || mlc_refresh_pending() == 0 ||
		 mlc_refresh_is_waiting()))
		sleep_a_while(true);
}

/* Reads the rules where they have changed.  False: retired. */
static bool
keep_rules(void)
{
	uint32		generation = pg_atomic_read_u32(&mlc_relay->shared->generation);

	if (!mlc_upkeep_is_stale() && generation == mlc_relay->generation)
		return true;
	mlc_relay->generation = generation;
	if (mlc_upkeep_load())
		return true;
	if (may_retire() && retire(generation))
		return false;
	mlc_relay->generation = generation - 1;
	return true;
}

void
mlc_relay_main(Datum arg)
{
	int			number = DatumGetInt32(arg);
	volatile bool retired = false;
	uint32		generation;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGUSR1, procsignal_sigusr1_handler);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(mlc_shared->relays[number].dbid,
											  InvalidOid, 0);

	/* a signal to reload may have come before there was a handler for it */
	ProcessConfigFile(PGC_SIGHUP);
	if (!mlc_relay_enabled)
		return;

	/* decoding and spools want an owner outside any transaction */
	CreateAuxProcessResourceOwner();
	init_relay(number);
	mlc_disguise_pin_formats_for_process();

	generation = pg_atomic_read_u32(&mlc_relay->shared->generation);
	if (!mlc_upkeep_load() && mlc_relay->ntargets == 0 && retire(generation))
		return;
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	mlc_relay->shared->settled = true;
	LWLockRelease(mlc_shared->lock);
	mlc_segment_wake_launcher();

	MLC_FAULT("relay-before-slot");
	mlc_slot_check_deaths();
	if (mlc_slot_acquire())
		mlc_slot_wait_visible();
	rewind_now();
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	mlc_relay->shared->ready = true;
	LWLockRelease(mlc_shared->lock);
	ConditionVariableBroadcast(&mlc_relay->shared->progress);

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
			mlc_slot_set_failover();
		}
		AcceptInvalidationMessages();
		PG_TRY();
		{
			retired = !keep_rules();
			MemoryContextSwitchTo(mlc_relay->scratch);
			MemoryContextReset(mlc_relay->scratch);
			if (!retired)
				turn();
		}
		PG_CATCH();
		{
			EmitErrorReport();
			FlushErrorState();
			if (!retire_after_error())
				proc_exit(1);
			retired = true;
		}
		PG_END_TRY();
		if (retired)
			return;
		CurrentResourceOwner = AuxProcessResourceOwner;
	}
}
