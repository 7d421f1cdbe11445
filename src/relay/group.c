/*-------------------------------------------------------------------------
 *
 * relay/group.c
 *	  A Redis Cluster: a target for each master, and what they owe each other.
 *
 * Each master has a connection, a nonce and a state of its own; the state lies
 * under a hash tag that puts it into a slot of this master, so that it goes to
 * the replica with everything else.
 *
 * Slots move while we look elsewhere.  Therefore the map only says where to
 * send first: a command for a key that is not there is refused, and such keys
 * are delivered once more, to all masters (detours).  And `applied` moves for
 * all masters together: an entry that comes along with its slot has had every
 * event that any master calls applied.  While a master is away the others are
 * delivered to, but nothing is called applied.
 *
 * When a master comes back with less than it had (a replica was promoted that
 * lacked the last writes) and slots have moved meanwhile, some of what it lost
 * may be with others by now: all go back to where it stands.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "base/fault.h"
#include "base/guc.h"
#include "miscadmin.h"
#include "redis/command.h"
#include "relay/free.h"
#include "relay/group.h"
#include "relay/purge.h"
#include "relay/relay.h"
#include "utils/memutils.h"

#define MOST_ROUNDS 5			/* of scans, however many slots move */

/* ---- life ---- */

MlcGroup *
mlc_group_create(Oid serverid)
{
	MemoryContext context = AllocSetContextCreate(mlc_relay->context,
												  "mlcache cluster",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MlcGroup   *group = palloc0(sizeof(MlcGroup));

	group->context = context;
	group->server = mlc_server_load(serverid);
	group->stale = true;
	MemoryContextSwitchTo(mlc_relay->context);
	mlc_relay->groups = lappend(mlc_relay->groups, group);
	MemoryContextSwitchTo(old);
	return group;
}

void
mlc_group_destroy(MlcGroup *group)
{
	mlc_relay->groups = list_delete_ptr(mlc_relay->groups, group);
	MemoryContextDelete(group->context);
}

/* ---- the map ---- */

bool
mlc_group_owns(MlcTarget *target, const char *key, uint32 keylen)
{
	return target->group == NULL ||
		target->group->map->owner[mlc_cluster_slot(key, keylen)] == target->node;
}

bool
mlc_group_owns_event(MlcTarget *target, MlcBatchEvent *event)
{
	return target->group == NULL ||
		target->group->map->owner[mlc_group_slot(event)] == target->node;
}

int
mlc_group_slot(MlcBatchEvent *event)
{
	uint32		len;
	const char *text;

	if (event->slot < 0)
	{
		text = mlc_batch_text(event, &len);
		event->slot = mlc_cluster_slot(text, len);
	}
	return event->slot;
}

static bool
is_due(MlcTarget *target, TimestampTz now)
{
	return (target->state == MLC_TARGET_DOWN ||
			target->state == MLC_TARGET_GIVEN_UP) &&
		!target->paused && now >= target->retry_at;
}

/* A member that has nothing in flight, or NULL. */
static MlcTarget *
idle_member(MlcGroup *group)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group == group && mlc_target_is_idle(target))
			return target;
	}
	return NULL;
}

static MlcConn *
idle_connection(MlcGroup *group)
{
	MlcTarget  *target = idle_member(group);

	return target ? target->conn : NULL;
}

MlcClusterMap *
mlc_group_ask_for_map(MlcGroup *group, MemoryContext *context, char **error)
{
	MemoryContext old;
	MlcClusterMap *map;

	*context = AllocSetContextCreate(group->context, "mlcache map",
									 ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(*context);
	map = mlc_cluster_find(&group->server->options, idle_connection(group),
						   group->map, error);
	MemoryContextSwitchTo(old);
	if (map == NULL)
	{
		*error = pstrdup(*error);
		MemoryContextDelete(*context);
	}
	return map;
}

static int
find_node(MlcClusterMap *map, const MlcNode *node)
{
	for (int i = 0; map && i < map->nnodes; i++)
		if (mlc_cluster_same_node(&map->nodes[i], node))
			return i;
	return -1;
}

/* Did a slot go from one master to another that was one before? */
static bool
has_moved(MlcClusterMap *old, MlcClusterMap *new)
{
	for (int slot = 0; slot < MLC_SLOTS; slot++)
	{
		uint8		was = old->owner[slot];
		uint8		is = new->owner[slot];

		if (was != MLC_NO_NODE && is != MLC_NO_NODE &&
			!mlc_cluster_same_node(&old->nodes[was], &new->nodes[is]) &&
			find_node(old, &new->nodes[is]) >= 0)
			return true;
	}
	return false;
}

bool
mlc_group_same_nodes(MlcGroup *group, MlcClusterMap *map)
{
	int			n = 0;

	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group != group)
			continue;
		if (target->node < 0 || find_node(map, &target->place) < 0)
			return false;
		n++;
	}
	return n == map->nnodes;
}

/* It is not newer than a map that was asked for later. */
static void
forget_news(MlcGroup *group)
{
	if (group->news)
		MemoryContextDelete(group->news_context);
	group->news = NULL;
}

void
mlc_group_take_map(MlcGroup *group, MlcClusterMap *map, MemoryContext context)
{
	/* who has looked at no map yet cannot know */
	if (group->map == NULL || has_moved(group->map, map))
	{
		group->moved = true;

		/* a mark may have passed the sweep by */
		pg_atomic_fetch_add_u64(&mlc_relay->shared->sweeps, 1);
	}
	if (group->map_context)
		MemoryContextDelete(group->map_context);
	group->map_context = context;
	group->map = map;
	forget_news(group);
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group == group && target->node >= 0)
			target->node = find_node(map, &target->place);
	}
}

static MlcTarget *
member_without_node(MlcGroup *group)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_relay->targets[i]->group == group &&
			mlc_relay->targets[i]->place.host == NULL)
			return mlc_relay->targets[i];
	return NULL;
}

static bool
has_member(MlcGroup *group, int node)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_relay->targets[i]->group == group &&
			mlc_relay->targets[i]->node == node)
			return true;
	return false;
}

/* Makes the targets what the map says. */
static void
match_members(MlcGroup *group)
{
	for (int node = 0; node < group->map->nnodes; node++)
	{
		MlcTarget  *target;

		if (has_member(group, node))
			continue;
		target = member_without_node(group);
		if (target == NULL)
			target = mlc_upkeep_add_member(group);
		if (target == NULL)
			continue;
		mlc_target_set_node(target, &group->map->nodes[node]);
		target->node = node;
	}
	for (int i = mlc_relay->ntargets - 1; i >= 0; i--)
		if (mlc_relay->targets[i]->group == group &&
			mlc_relay->targets[i]->node < 0)
		{
			ereport(LOG,
					(errmsg("mlcache: server \"%s\" is no master any more",
							mlc_relay->targets[i]->label)));
			mlc_upkeep_drop_target(i);
		}
}

static void
look(MlcGroup *group)
{
	MemoryContext context;
	char	   *error;
	MlcClusterMap *map = mlc_group_ask_for_map(group, &context, &error);

	if (map)
	{
		mlc_group_take_map(group, map, context);
		match_members(group);
		group->stale = false;
		return;
	}
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_relay->targets[i]->group == group &&
			is_due(mlc_relay->targets[i], GetCurrentTimestamp()))
			mlc_target_fail(mlc_relay->targets[i], error);
}

void
mlc_group_take_news(MlcTarget *target, MlcReply *reply)
{
	MlcGroup   *group = target->group;
	MemoryContext context = AllocSetContextCreate(group->context, "mlcache map",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	char	   *error;
	MlcClusterMap *map = mlc_cluster_read(reply, mlc_conn_host(target->conn), &error);

	MemoryContextSwitchTo(old);
	if (map == NULL)
	{
		MemoryContextDelete(context);
		return;
	}
	forget_news(group);
	group->news = map;
	group->news_context = context;
}

/* Between batches, since commands of one are laid out by one map. */
static void
look_at_news(MlcGroup *group)
{
	MlcClusterMap *map = group->news;

	if (map == NULL || mlc_relay->in_flight)
		return;
	group->news = NULL;
	group->stale |= !mlc_group_same_nodes(group, map);
	mlc_group_take_map(group, map, group->news_context);
}

void
mlc_group_look(void)
{
	ListCell   *lc;

	foreach(lc, mlc_relay->groups)
	{
		MlcGroup   *group = lfirst(lc);
		bool		needed = group->stale;
		bool		any = false;

		for (int i = 0; i < mlc_relay->ntargets; i++)
			if (mlc_relay->targets[i]->group == group)
			{
				any |= !mlc_relay->targets[i]->paused;
				needed |= is_due(mlc_relay->targets[i], GetCurrentTimestamp());
			}
		if (!needed || !any || (group->map == NULL &&
								!is_due(member_without_node(group),
										GetCurrentTimestamp())))
			continue;
		mlc_flow_finish();
		look(group);
	}
}

void
mlc_group_want_news(void)
{
	ListCell   *lc;

	foreach(lc, mlc_relay->groups)
		((MlcGroup *) lfirst(lc))->news_due = true;
	mlc_group_look_for_news();
}

void
mlc_group_look_for_news(void)
{
	ListCell   *lc;

	foreach(lc, mlc_relay->groups)
	{
		MlcGroup   *group = lfirst(lc);
		MlcTarget  *target;

		look_at_news(group);
		target = group->news_due ? idle_member(group) : NULL;
		if (target == NULL)
			continue;
		group->news_due = false;
		mlc_target_ask_for_map(target);
	}
}

/* ---- applied, for all of them ---- */

static bool
is_complete(MlcGroup *group)
{
	if (group->stale)
		return false;
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_relay->targets[i]->group == group &&
			(mlc_relay->targets[i]->aside ||
			 (!mlc_target_is_live(mlc_relay->targets[i]) &&
			  mlc_relay->targets[i]->state != MLC_TARGET_GIVEN_UP)))
			return false;
	return true;
}

bool
mlc_group_may_advance(MlcTarget *target)
{
	return target->group == NULL ||
		(!target->group->failed && is_complete(target->group)) ||
		MLC_FAULT_SKIP("relay-together");
}

/* May delivering again make entries?  Asks the masters for free keys. */
static bool
any_replicates(MlcGroup *group)
{
	HASH_SEQ_STATUS status;
	MlcRelayRule *rule;
	bool		found = false;

	hash_seq_init(&status, mlc_relay->rules);
	while ((rule = hash_seq_search(&status)) != NULL)
		found |= rule->replicate && rule->id != MLC_RULE_FREE;
	for (int i = 0; i < mlc_relay->ntargets && !found; i++)
		found = mlc_relay->targets[i]->group == group &&
			mlc_target_is_reached(mlc_relay->targets[i]) &&
			mlc_target_is_at_rest(mlc_relay->targets[i]) &&
			mlc_free_any(mlc_relay->targets[i]);
	return found;
}

/* Is there one to which a part of a batch has been delivered? */
static bool
any_in_part(MlcGroup *group)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group == group && mlc_target_is_live(target) &&
			mlc_version_compare(target->applied, target->applying) < 0)
			return true;
	}
	return false;
}

void
mlc_group_joined(MlcTarget *joined, bool purged)
{
	MlcGroup   *group = joined->group;
	MlcVersion	lowest = joined->applied;
	bool		replicates;

	/* what is to be delivered again is more than has been kept */
	mlc_flow_drop_aside(group);
	replicates = any_in_part(group) && any_replicates(group);
	for (int i = 0; i < mlc_relay->ntargets && !purged; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group == group && mlc_target_is_live(target) &&
			mlc_version_compare(target->applied, lowest) < 0)
			lowest = target->applied;
	}
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group != group || !mlc_target_is_live(target))
			continue;
		if (group->moved && purged && !target->fresh)
			(void) mlc_target_start_over(target, lowest, mlc_relay->rules,
										 "Slots came from a master that had to be purged.");
		else if (group->moved && mlc_version_compare(lowest, target->applied) < 0)
			(void) mlc_target_take_back(target, lowest);
		else if (replicates &&
				 mlc_version_compare(target->applied, target->applying) < 0)
			(void) mlc_target_take_back(target, target->applied);
	}
	if (is_complete(group))
		group->moved = false;
}

void
mlc_group_begin_again(void)
{
	ListCell   *lc;

	foreach(lc, mlc_relay->groups)
	{
		MlcGroup   *group = lfirst(lc);
		bool		replicates = group->failed && any_in_part(group) &&
		any_replicates(group);

		/* what replicates must not show older rows on the way */
		for (int i = 0; i < mlc_relay->ntargets && replicates; i++)
		{
			MlcTarget  *target = mlc_relay->targets[i];

			if (target->group == group && mlc_target_is_live(target) &&
				mlc_version_compare(target->applied, target->applying) < 0)
				(void) mlc_target_take_back(target, target->applied);
		}
		group->failed = false;
	}
}

/* ---- what goes to all of them ---- */

bool
mlc_group_ask_anyway(MlcTarget *target)
{
	return target->group == NULL ||
		mlc_target_good(target, mlc_command_simple(target->conn, "ASKING", NULL),
						"ASKING");
}

/* A key may go past one round of it, but not past two. */
static void
purge_everywhere(MlcGroup *group, MlcBatchPurge *purge)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group == group && mlc_target_is_reached(target) &&
			mlc_target_concerns(target, purge->rule, purge->version))
			(void) mlc_purge_rule(target, purge->rule);
	}
}

/* Does it know what is about to be applied?  Whoever is not reached need not. */
static bool
is_told(MlcTarget *target)
{
	return !mlc_target_is_reached(target) || target->expect_next >= target->told_at;
}

/* Is there anybody who would go on without the target? */
static bool
others_go_on(MlcTarget *target)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *other = mlc_relay->targets[i];

		if (other != target && mlc_target_is_reached(other) &&
			(other->group == target->group ? is_told(other) :
			 mlc_target_is_idle(other)))
			return true;
	}
	return false;
}

/* The member that is still to be told; one that others are held for, if any. */
static MlcTarget *
member_to_tell(MlcGroup *group)
{
	MlcTarget  *found = NULL;

	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group != group || is_told(target))
			continue;
		(void) mlc_target_poll(target);
		if (!is_told(target) && (found == NULL || found->held))
			found = target;
	}
	return found;
}

static void
wait_announced(MlcGroup *group)
{
	MlcTarget  *target;

	while ((target = member_to_tell(group)) != NULL)
	{
		/* all others know; over its own connection it is told first */
		target->held = false;
		(void) mlc_conn_wait_for(target->conn, MLC_PATIENCE);
		if (mlc_flow_is_silent(target) && others_go_on(target))
			mlc_flow_set_aside(target);
	}
	group->announced = true;
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_relay->targets[i]->group == group)
			mlc_relay->targets[i]->held = false;
}

void
mlc_group_wait_announced(MlcTarget *target)
{
	if (target->group && !target->group->announced &&
		!MLC_FAULT_SKIP("relay-announced"))
		wait_announced(target->group);
	target->held = false;
}

void
mlc_group_announce(MlcGroup *group, MlcBatch *batch)
{
	ListCell   *lc;

	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_relay->targets[i]->group == group &&
			mlc_target_is_reached(mlc_relay->targets[i]))
			mlc_target_announce(mlc_relay->targets[i], batch->applying);
	group->announced = false;
	group->rounds = 0;
	if (batch->purges == NIL)
		return;
	wait_announced(group);
	foreach(lc, batch->purges)
		for (int round = 0; round < MLC_ROUNDS; round++)
		purge_everywhere(group, lfirst(lc));
}

/* ---- patterns ---- */

static bool
has_pattern(MlcBatch *batch)
{
	for (int i = 0; batch->sweeps && i < batch->sweeps->nevents; i++)
		if (batch->sweeps->events[i].op == MLC_OP_PATTERN)
			return true;
	return false;
}

/*
 * Has a slot got another owner since the map was looked at?  Where the masters
 * are others, all of the batch is to be delivered again.
 */
static bool
slots_moved(MlcGroup *group)
{
	MemoryContext context;
	char	   *error;
	MlcClusterMap *map = mlc_group_ask_for_map(group, &context, &error);
	bool		moved;

	if (map == NULL || !mlc_group_same_nodes(group, map))
	{
		group->failed = group->stale = mlc_relay->rewind = true;
		if (map)
			mlc_group_take_map(group, map, context);
		return false;
	}
	moved = has_moved(group->map, map);
	mlc_group_take_map(group, map, context);
	return moved;
}

/*
 * A key that has been passed by twice moved in both rounds, and for that its
 * slot must have arrived, and left again.
 */
static bool
may_have_passed(MlcGroup *group)
{
	if (group->failed || idle_connection(group) == NULL ||
		MLC_FAULT_SKIP("relay-sweep-again"))
		return false;
	group->rounds++;
	return group->rounds < MLC_ROUNDS ||
		(slots_moved(group) && group->rounds < MOST_ROUNDS);
}

static bool
send_patterns(MlcGroup *group, MlcBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	bool		sent = false;

	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group != group || !mlc_target_is_reached(target))
			continue;
		mlc_free_send_sweeps(target, batch, true);
		target->sent_at = GetCurrentTimestamp();
		if (mlc_conn_push(target->conn))
			sent = true;
		else
			mlc_target_fail(target, mlc_conn_error(target->conn));
	}
	MemoryContextSwitchTo(old);
	return sent;
}

bool
mlc_group_sweep_again(MlcBatch *batch)
{
	bool		again = false;
	ListCell   *lc;

	if (mlc_relay->groups == NIL || !has_pattern(batch))
		return false;
	foreach(lc, mlc_relay->groups)
	{
		if (may_have_passed(lfirst(lc)))
			again |= send_patterns(lfirst(lc), batch);
	}
	return again;
}
