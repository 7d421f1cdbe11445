/*-------------------------------------------------------------------------
 *
 * relay/sweep.c
 *	  Strong rules, seen from the relay: marks that nobody ends any more,
 *	  prepared transactions, and when a server may be armed.
 *
 * A strong commit ends its marks itself.  Where it could not (the connection
 * went, the backend died, the transaction was prepared), the relay looks
 * through the guards of every server and ends the marks whose owner, a
 * transaction, is not in progress any more: whoever gets a lease from then on
 * sees what it did.  The scan goes step by step between batches.  A command
 * that the owner had sent may still arrive after it, so a scan counts only if
 * it began a while after it was asked for, and found nothing.
 *
 * COMMIT PREPARED has no callback.  So while transactions are prepared that
 * changed strong keys, L1 is not used (read/get), no server is armed that may
 * have lost their marks, and scans go on; all of it is over when no prepared
 * transaction holds a lock that such a change takes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "base/fault.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "redis/command.h"
#include "relay/group.h"
#include "relay/relay.h"
#include "relay/sweep.h"
#include "shm/l1.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#define SCAN_COUNT "1000"
#define SETTLE 2000				/* ms for late commands to arrive */
#define PAUSE 500				/* ms between scans, at least */
#define PAUSE_FACTOR 20			/* and in times of what the scan took */
#define LOOK_AGAIN 200			/* ms between looks at prepared ones */

/* A scan over all servers. */
static struct
{
	bool		under_way;
	uint64		connections;	/* mlc_target_connections when it began */
	uint64		goal;			/* what was asked for when it began */
	TimestampTz began;
	bool		complete;		/* no server was left out */
	int			ended;			/* marks */
	char		cursor[MLC_MAX_TARGETS][24];	/* "": done */
}			sweep;

static uint64 asked = 0;		/* the last request that was noticed */
static TimestampTz asked_at = 0;
static uint64 done = 0;			/* requests that have been met */
static TimestampTz next_at = 0;

/* ---- prepared transactions ---- */

static bool
is_write_lock(LOCKMASK mask)
{
	return (mask & (LOCKBIT_ON(RowExclusiveLock) | LOCKBIT_ON(ShareRowExclusiveLock) |
					LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock))) != 0;
}

/* The tables whose changes concern strong keys.  In a transaction. */
static List *
strong_relations(void)
{
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, mlc_rule_all())
	{
		MlcRule    *rule = lfirst(lc);

		if (rule->consistency == MLC_STRONG)
			relids = list_concat_unique_oid(relids,
											find_all_inheritors(rule->relid, NoLock, NULL));
	}
	return relids;
}

/* Does a prepared transaction hold what a change of strong keys takes? */
static bool
any_prepared(void)
{
	ResourceOwner owner = CurrentResourceOwner;
	LockData   *locks;
	List	   *relids;
	bool		found = false;

	mlc_upkeep_forget_catalogs();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	relids = strong_relations();
	locks = GetLockStatusData();
	for (int i = 0; i < locks->nelements && !found; i++)
	{
		LockInstanceData *lock = &locks->locks[i];

		found = lock->pid == 0 && is_write_lock(lock->holdMask) &&
			lock->locktag.locktag_type == LOCKTAG_RELATION &&
			lock->locktag.locktag_field1 == MyDatabaseId &&
			list_member_oid(relids, lock->locktag.locktag_field2);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	CurrentResourceOwner = owner;
	mlc_upkeep_forget_catalogs();
	return found;
}

/* Notices that those prepared up to now are over. */
static void
resolve_prepared(TimestampTz now)
{
	static MlcCommits *preparing = NULL;
	static uint64 goal = 0;
	static TimestampTz look_at = 0;
	MlcRelayShared *shared = mlc_relay->shared;

	if (!mlc_segment_is_prepared(shared) || now < look_at)
		return;
	if (preparing == NULL)
	{
		goal = pg_atomic_read_u64(&shared->prepared);
		preparing = mlc_commits_snapshot(mlc_relay->context, MyDatabaseId);
	}

	/* who is about to prepare does not show its locks as prepared yet */
	if (!mlc_commits_are_over(preparing))
		return;
	pfree(preparing);
	preparing = NULL;
	if (mlc_relay->strong && any_prepared())
	{
		look_at = TimestampTzPlusMilliseconds(now, LOOK_AGAIN);
		return;
	}

	/* lines that were filled before they were prepared may be old */
	mlc_l1_shut(shared);
	mlc_relay->l1_open = false;
	pg_atomic_write_u64(&shared->resolved, goal);
}

bool
mlc_sweep_may_arm(MlcCommits *commits)
{
	if (MLC_FAULT_SKIP("relay-commits-over"))
		return true;
	return mlc_commits_are_over(commits) &&
		!mlc_segment_is_prepared(mlc_relay->shared);
}

/* ---- marks ---- */

/* Is the transaction that a mark's owner names over?  See capture/strong. */
static bool
owner_is_gone(const char *owner)
{
	FullTransactionId next = ReadNextFullTransactionId();
	unsigned long long full;
	char	   *end;

	full = strtoull(owner, &end, 16);
	if (end == owner || *end != '-')
		return false;			/* not of our making */

	/* of another timeline, or so old that its number is somebody else's */
	if (full >= U64FromFullTransactionId(next) ||
		U64FromFullTransactionId(next) - full > PG_INT32_MAX)
		return true;
	return !TransactionIdIsInProgress((TransactionId) full);
}

static bool
end_mark(MlcTarget *target, MlcReply *key, MlcReply *owner)
{
	MlcCommand	cmd;

	if (!mlc_group_ask_anyway(target))
		return false;
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, target->group ? "mlc_remove" : "mlc_invalidate");
	mlc_command_add_cstr(&cmd, target->group ? "0" : "1");
	if (target->group == NULL)
		mlc_command_add(&cmd, key->str, key->len);
	mlc_command_add_cstr(&cmd, target->ns);
	mlc_command_add(&cmd, owner->str, owner->len);
	if (target->group)
		mlc_command_add(&cmd, key->str, key->len);
	sweep.ended++;
	return mlc_target_good(target, mlc_command_call(&cmd, target->conn),
						   "mlc_invalidate");
}

/* Ends what is over among {key, owner, key, owner...}.  False: it is down. */
static bool
end_marks(MlcTarget *target, MlcReply *marks)
{
	ResourceOwner owner = CurrentResourceOwner;
	bool	   *gone = palloc0(sizeof(bool) * (marks->nelements / 2 + 1));
	bool		live = true;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	for (size_t i = 0; i + 1 < marks->nelements; i += 2)
		gone[i / 2] = marks->elements[i]->type == MLC_REPLY_STRING &&
			marks->elements[i + 1]->type == MLC_REPLY_STRING &&
			owner_is_gone(marks->elements[i + 1]->str);
	CommitTransactionCommand();
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(mlc_relay->scratch);
	for (size_t i = 0; i + 1 < marks->nelements && live; i += 2)
		if (gone[i / 2])
			live = end_mark(target, marks->elements[i], marks->elements[i + 1]);
	return live;
}

/* One step of the scan of one server. */
static void
scan_step(MlcTarget *target, char *cursor, size_t size)
{
	MlcReply   *reply;

	if (!mlc_group_ask_anyway(target))
		return;
	reply = mlc_command_simple(target->conn, "FCALL", "mlc_sweep", "0",
							   target->ns, cursor, SCAN_COUNT, NULL);
	if (!mlc_target_good(target, reply, "mlc_sweep"))
		return;
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements != 3 ||
		reply->elements[0]->type != MLC_REPLY_STRING ||
		reply->elements[2]->type != MLC_REPLY_ARRAY)
	{
		mlc_target_fail(target, "mlc_sweep: unexpected reply");
		return;
	}
	strlcpy(cursor, reply->elements[0]->str, size);
	if (strcmp(cursor, "0") == 0)
		cursor[0] = '\0';
	(void) end_marks(target, reply->elements[2]);
}

static void
begin_scan(TimestampTz now)
{
	sweep.under_way = true;
	sweep.connections = mlc_target_connections;
	sweep.goal = asked;
	sweep.began = now;
	sweep.complete = true;
	sweep.ended = 0;
	for (int i = 0; i < MLC_MAX_TARGETS; i++)
		strcpy(sweep.cursor[i], "0");
}

static void
finish_scan(TimestampTz now)
{
	long		took = TimestampDifferenceMilliseconds(sweep.began, now);

	sweep.under_way = false;
	next_at = TimestampTzPlusMilliseconds(now, Max(PAUSE, took * PAUSE_FACTOR));
	if (sweep.ended > 0)
		ereport(LOG,
				(errmsg("mlcache: ended %d marks that their transactions had left",
						sweep.ended)));
	else if (sweep.complete &&
			 TimestampDifferenceExceeds(asked_at, sweep.began, SETTLE))
		done = sweep.goal;
}

static void
continue_scan(TimestampTz now)
{
	bool		finished = true;

	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (sweep.cursor[i][0] == '\0')
			continue;
		if (!mlc_target_is_live(target) || target->aside)
			sweep.complete = false;
		else
		{
			finished = false;
			if (mlc_target_is_idle(target))
				scan_step(target, sweep.cursor[i], sizeof(sweep.cursor[i]));
		}
	}
	if (finished)
		finish_scan(now);
}

void
mlc_sweep_run(void)
{
	TimestampTz now = GetCurrentTimestamp();
	uint64		wanted = pg_atomic_read_u64(&mlc_relay->shared->sweeps);

	resolve_prepared(now);
	if (!mlc_relay->strong || MLC_FAULT_SKIP("relay-sweep"))
		return;
	if (wanted != asked)
	{
		asked = wanted;
		asked_at = now;
		next_at = Min(next_at, TimestampTzPlusMilliseconds(now, PAUSE));
	}
	if (sweep.under_way && sweep.connections != mlc_target_connections)
		sweep.under_way = false;	/* other targets now: once more */
	if (sweep.under_way)
		continue_scan(now);
	else if ((done != asked || mlc_segment_is_prepared(mlc_relay->shared)) &&
			 now >= next_at)
		begin_scan(now);
}
