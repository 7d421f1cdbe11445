/*-------------------------------------------------------------------------
 *
 * relay/upkeep.c
 *	  Catalogs, connections, the slot's confirmed position.
 *
 * The slot is confirmed behind what every server knows to be applied there, and
 * a window behind that, so that a Redis which lost its last writes can be caught
 * up.  A target for which the slot holds too much is given up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/fault.h"
#include "base/grow.h"
#include "base/guc.h"
#include "base/wal.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "model/rule.h"
#include "redis/server.h"
#include "relay/free.h"
#include "relay/group.h"
#include "relay/relay.h"
#include "relay/slot.h"
#include "relay/sweep.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#define SAVE_DISTANCE 10000		/* ms between writes of a failover slot, at
								 * most */

static volatile bool catalogs_changed = true;
static uint64 rule_changes = 0;

/* What the relay needs to know of the row that stands for free keys. */
static const MlcRule free_rule = {
	.id = MLC_RULE_FREE,
	.action = MLC_OP_INVALIDATE,
	.consistency = MLC_EVENTUAL
};

/*
 * Decoding sees the catalogs as they were, everything else here as they are,
 * and both through the same caches: they are emptied whenever the view
 * changes.  Invalidation messages cannot do that, since a message of now has
 * its place in the past only where decoding meets it.
 */
void
mlc_upkeep_forget_catalogs(void)
{
	bool		changed = catalogs_changed;
	uint64		rules = mlc_rule_changes;

	if (MLC_FAULT_SKIP("relay-forget-catalogs"))
		return;
	InvalidateSystemCaches();

	/* that was us: nothing has changed */
	catalogs_changed = changed;
	rule_changes += mlc_rule_changes - rules;
}

static void
syscache_changed(Datum arg, int cacheid, uint32 hash)
{
	catalogs_changed = true;
}

void
mlc_upkeep_drop_target(int i)
{
	MlcTarget  *target = mlc_relay->targets[i];
	MlcGroup   *group = target->group;
	bool		last = group != NULL;

	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	memset(&mlc_relay->shared->targets[target->number], 0, sizeof(MlcTargetStat));
	LWLockRelease(mlc_shared->lock);
	mlc_target_destroy(target);
	mlc_relay->targets[i] = mlc_relay->targets[--mlc_relay->ntargets];
	mlc_relay->rules_generation++;
	for (int k = 0; k < mlc_relay->ntargets; k++)
		last &= mlc_relay->targets[k]->group != group;
	if (last)
		mlc_group_destroy(group);
}

static int
free_number(void)
{
	for (int number = 0; number < MLC_MAX_TARGETS; number++)
	{
		bool		used = false;

		for (int i = 0; i < mlc_relay->ntargets; i++)
			used |= mlc_relay->targets[i]->number == number;
		if (!used)
			return number;
	}
	return -1;
}

/* A free number, and its entry in shared memory; -1: there are too many. */
static int
claim_number(Oid serverid)
{
	int			number = free_number();

	if (number < 0)
	{
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("mlcache serves the first %d servers only",
						MLC_MAX_TARGETS)));
		return -1;
	}
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	memset(&mlc_relay->shared->targets[number], 0, sizeof(MlcTargetStat));
	mlc_relay->shared->targets[number].serverid = serverid;
	mlc_relay->shared->targets[number].state = MLC_TARGET_DOWN;
	mlc_relay->shared->targets[number].catch_up_at = GetCurrentTimestamp();
	LWLockRelease(mlc_shared->lock);
	return number;
}

MlcTarget *
mlc_upkeep_add_member(MlcGroup *group)
{
	int			number = claim_number(group->server->serverid);
	MlcTarget  *target;

	if (number < 0)
		return NULL;
	target = mlc_target_create_member(group, group->server, mlc_relay->context,
									  number, &mlc_relay->shared->targets[number]);
	mlc_relay->targets[mlc_relay->ntargets++] = target;
	mlc_relay->rules_generation++;
	return target;
}

/* Makes the list of targets what the catalogs say.  In a transaction. */
static void
load_targets(void)
{
	List	   *servers = mlc_server_all();
	ListCell   *lc;

	for (int i = mlc_relay->ntargets - 1; i >= 0; i--)
	{
		MlcTarget  *target = mlc_relay->targets[i];
		MlcServer  *server = mlc_server_find(target->serverid);

		if (server == NULL || strcmp(server->fingerprint, target->fingerprint) != 0)
			mlc_upkeep_drop_target(i);
	}
	foreach(lc, servers)
	{
		Oid			serverid = lfirst_oid(lc);
		MlcServer  *server = mlc_server_find(serverid);
		bool		known = false;
		MlcTarget  *target;
		int			number;

		for (int i = 0; i < mlc_relay->ntargets; i++)
			known |= mlc_relay->targets[i]->serverid == serverid;
		if (known || server == NULL)
			continue;
		if (server->options.nseeds > 0)
		{
			(void) mlc_upkeep_add_member(mlc_group_create(serverid));
			continue;
		}
		number = claim_number(serverid);
		if (number < 0)
			break;
		target = mlc_target_create(mlc_relay->context, serverid, number,
								   &mlc_relay->shared->targets[number]);
		mlc_relay->targets[mlc_relay->ntargets++] = target;
		mlc_relay->rules_generation++;
	}

	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];
		MlcServer  *server = mlc_server_find(target->serverid);

		if (server && server->paused != target->paused)
			mlc_target_pause(target, server->paused);
	}
}

/*
 * Reads rules and servers.  False if this database needs no relay: no
 * extension, or no rules (which must stay true while we look, see attach).
 */
bool
mlc_upkeep_load(void)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext old;
	List	   *rules;
	ListCell   *lc;

	mlc_upkeep_forget_catalogs();
	catalogs_changed = false;
	rule_changes = mlc_rule_changes;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	mlc_rule_look_at_present();
	rules = OidIsValid(get_extension_oid("mlcache", true)) ? mlc_rule_every() : NIL;

	/* where the last rule went before we came its keys are still to be purged */
	if (rules != NIL ||
		(!mlc_relay->shared->settled && OidIsValid(mlc_rule_relid()) &&
		 mlc_slot_usage(MyDatabaseId, NULL, NULL) >= 0 &&
		 !MLC_FAULT_SKIP("relay-last-rule")))
	{
		old = CurrentMemoryContext;
		load_targets();
		MemoryContextSwitchTo(old);
		foreach(lc, rules)
			(void) mlc_intake_rule(lfirst(lc));
		(void) mlc_intake_rule(&free_rule);
	}
	mlc_relay->needed = rules != NIL;
	mlc_relay->strong = false;
	foreach(lc, rules)
		mlc_relay->strong |= ((MlcRule *) lfirst(lc))->consistency == MLC_STRONG;
	PopActiveSnapshot();
	CommitTransactionCommand();
	CurrentResourceOwner = owner;
	mlc_upkeep_forget_catalogs();
	return rules != NIL;
}

void
mlc_upkeep_connect(void)
{
	TimestampTz now = GetCurrentTimestamp();

	mlc_group_look_for_news();
	mlc_group_look();
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group && target->group->stale)
			continue;			/* nobody told us who the masters are */
		if ((target->state != MLC_TARGET_DOWN &&
			 target->state != MLC_TARGET_GIVEN_UP) ||
			target->paused || now < target->retry_at)
			continue;

		if (!mlc_target_open(target))
			continue;

		/* a purge takes time; what others have in flight comes first */
		mlc_flow_finish();
		if (mlc_target_connect(target, mlc_relay->position, mlc_slot_confirmed(),
							   mlc_relay->rules))
		{
			mlc_flow_forget_l1();

			/* what it lost is not applied any more, for those who wait */
			if (target->applied.lsn < pg_atomic_read_u64(&mlc_relay->shared->applied_lsn))
				pg_atomic_write_u64(&mlc_relay->shared->applied_lsn,
									target->applied.lsn);
			if (mlc_version_compare(target->applied, mlc_relay->position) < 0 &&
				!MLC_FAULT_SKIP("relay-rewind"))
				mlc_relay->rewind = true;
		}
		MemoryContextSwitchTo(mlc_relay->scratch);
	}
}

void
mlc_upkeep_arm(void)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->commits && mlc_sweep_may_arm(target->commits))
		{
			/* what they changed lies before this */
			pfree(target->commits);
			target->commits = NULL;
			target->arm_at = mlc_wal_insert_end();
		}
		if (target->state == MLC_TARGET_CATCHUP &&
			mlc_target_is_idle(target) && target->commits == NULL &&
			(target->applied.lsn >= target->arm_at ||
			 MLC_FAULT_SKIP("relay-arm")))
			(void) mlc_target_arm(target);
		else if (target->state == MLC_TARGET_ARMED && target->backoff > 0 &&
				 mlc_relay->caught_up >= target->arm_at)
			target->backoff = 0;
	}
}

/*
 * The lowest applied of the targets that the slot is held for, as the servers
 * know it: a relay that comes later asks them.
 */
XLogRecPtr
mlc_upkeep_lowest_applied(void)
{
	XLogRecPtr	lowest = mlc_relay->position.lsn;
	uint64		limit = (uint64) mlc_slot_max_retained * 1024 * 1024;

	if (MLC_FAULT_SKIP("relay-confirm"))
		return lowest;
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (!mlc_target_is_live(target))
		{
			if (target->state == MLC_TARGET_GIVEN_UP)
				continue;
			if (mlc_slot_max_retained >= 0 && mlc_slot_retained() > limit)
			{
				ereport(WARNING,
						(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						 errmsg("mlcache: server \"%s\" is given up", target->label),
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
		lowest = Min(lowest, target->known.lsn);
	}
	return lowest;
}

/*
 * Once a second: remembers what is applied, confirms what is old enough.  A
 * failover slot goes to disk with it, so less often.
 */
static void
confirm(TimestampTz now)
{
	static TimestampTz confirmed_at = 0;
	int			distance = mlc_slot_is_failover() ?
	Min(mlc_redelivery_window / 10, SAVE_DISTANCE) : 0;
	XLogRecPtr	lowest = mlc_upkeep_lowest_applied();
	int			old = 0;

	if (XLogRecPtrIsInvalid(lowest))
		return;
	mlc_relay->marks = mlc_grow(mlc_relay->context, mlc_relay->marks, mlc_relay->nmarks,
								&mlc_relay->marks_size, sizeof(MlcMark));
	if (mlc_relay->nmarks == 0 || mlc_relay->marks[mlc_relay->nmarks - 1].lsn < lowest)
	{
		mlc_relay->marks[mlc_relay->nmarks].at = now;
		mlc_relay->marks[mlc_relay->nmarks++].lsn = lowest;
	}

	while (old < mlc_relay->nmarks &&
		   TimestampDifferenceExceeds(mlc_relay->marks[old].at, now,
									  mlc_redelivery_window))
		old++;
	if (old > 0 && TimestampDifferenceExceeds(confirmed_at, now, distance))
	{
		XLogRecPtr	lsn = Min(mlc_relay->marks[old - 1].lsn, lowest);

		MLC_FAULT("relay-before-confirm");
		mlc_slot_confirm(lsn);
		confirmed_at = now;
		memmove(mlc_relay->marks, mlc_relay->marks + old,
				sizeof(MlcMark) * (mlc_relay->nmarks - old));
		mlc_relay->nmarks -= old;
	}
}

void
mlc_upkeep_every_second(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(mlc_relay->last_second, now, 1000))
		return;
	mlc_relay->last_second = now;
	confirm(now);
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		mlc_target_check_closed(target);
		if (mlc_target_is_idle(target) && !target->aside &&
			!mlc_relay->in_flight)
			mlc_free_tidy(target);
	}

	/* asked for as soon as a member has answered that */
	mlc_group_want_news();
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	mlc_relay->shared->transactions += mlc_relay->transactions;
	mlc_relay->shared->spilled += mlc_relay->spilled;
	mlc_relay->shared->tli = mlc_relay->position.tli;
	LWLockRelease(mlc_shared->lock);
	mlc_relay->transactions = mlc_relay->spilled = 0;
}

bool
mlc_upkeep_is_catching_up(void)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_relay->targets[i]->state == MLC_TARGET_CATCHUP)
			return true;
	return false;
}

bool
mlc_upkeep_is_stale(void)
{
	return catalogs_changed || mlc_rule_changes != rule_changes;
}

void
mlc_upkeep_init(void)
{
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, syscache_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, syscache_changed, (Datum) 0);
}
