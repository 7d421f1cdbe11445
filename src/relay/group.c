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
#include "relay/group.h"
#include "relay/purge.h"
#include "relay/relay.h"
#include "utils/memutils.h"

#define REMOVE_KEYS 256			/* a call */
#define ROUNDS 2				/* of a detour */
#define TRIES 5					/* until the map stays what it was */

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
	if (target->group == NULL)
		return true;
	if (event->slot < 0)
		event->slot = mlc_cluster_slot(event->key, event->keylen);
	return target->group->map->owner[event->slot] == target->node;
}

static bool
is_due(MlcTarget *target, TimestampTz now)
{
	return (target->state == MLC_TARGET_DOWN ||
			target->state == MLC_TARGET_GIVEN_UP) &&
		!target->paused && now >= target->retry_at;
}

/* A connection of the group that has nothing in flight, or NULL. */
static MlcConn *
idle_connection(MlcGroup *group)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group == group && mlc_target_is_idle(target))
			return target->conn;
	}
	return NULL;
}

/* A new map in a context of its own; NULL with *error. */
static MlcClusterMap *
ask_for_map(MlcGroup *group, MemoryContext *context, char **error)
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

/* Are the masters the same, whatever their slots? */
static bool
same_nodes(MlcGroup *group, MlcClusterMap *map)
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

/* Takes the map; members keep their places in it. */
static void
take_map(MlcGroup *group, MlcClusterMap *map, MemoryContext context)
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
	MlcClusterMap *map = ask_for_map(group, &context, &error);

	if (map)
	{
		take_map(group, map, context);
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
mlc_group_look_for_news(void)
{
	ListCell   *lc;

	if (mlc_relay->in_flight)
		return;
	foreach(lc, mlc_relay->groups)
	{
		MlcGroup   *group = lfirst(lc);
		MemoryContext context;
		MlcClusterMap *map;
		char	   *error;

		if (idle_connection(group) == NULL)
			continue;
		map = ask_for_map(group, &context, &error);
		if (map == NULL)
			continue;
		group->stale |= !same_nodes(group, map);
		take_map(group, map, context);
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
			!mlc_target_is_live(mlc_relay->targets[i]) &&
			mlc_relay->targets[i]->state != MLC_TARGET_GIVEN_UP)
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

static bool
any_replicates(void)
{
	HASH_SEQ_STATUS status;
	MlcRelayRule *rule;
	bool		found = false;

	hash_seq_init(&status, mlc_relay->rules);
	while ((rule = hash_seq_search(&status)) != NULL)
		found |= rule->replicate && rule->id != MLC_RULE_FREE;
	return found;
}

void
mlc_group_joined(MlcTarget *joined, bool purged)
{
	MlcGroup   *group = joined->group;
	bool		replicates = any_replicates();
	MlcVersion	lowest = joined->applied;

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
		((MlcGroup *) lfirst(lc))->failed = false;
}

/* ---- where the state lies ---- */

static void
set_tag(MlcTarget *target, int slot)
{
	snprintf(target->tag, sizeof(target->tag), "%u", mlc_cluster_tag(slot));
}

/* A slot of this node: the last one, and others where that did not do. */
static int
pick_slot(MlcTarget *target)
{
	MlcClusterMap *map = target->group->map;
	int			skip = target->place_tries % map->nodes[target->node].nslots;

	for (int slot = MLC_SLOTS - 1; slot >= 0; slot--)
		if (map->owner[slot] == target->node && skip-- == 0)
			return slot;
	return 0;
}

static char *
state_key(MlcTarget *target)
{
	return psprintf("mlc:state:{%s}%s", target->tag, target->ns);
}

typedef enum Whereabouts
{
	HERE, ELSEWHERE, UNKNOWN
} Whereabouts;

/* Is the state still where we, or the node itself, remember it?  False: down. */
static bool
look_for_state(MlcTarget *target, Whereabouts *result)
{
	MlcReply   *reply;

	*result = UNKNOWN;
	if (target->tag[0] == '\0')
	{
		reply = mlc_command_simple(target->conn, "FCALL", "mlc_placed", "0",
								   target->ns, NULL);
		if (!mlc_target_good(target, reply, "mlc_placed"))
			return false;
		if (reply->type == MLC_REPLY_STRING && reply->len > 0)
			strlcpy(target->tag, reply->str, sizeof(target->tag));
	}
	if (target->tag[0] == '\0')
		return true;
	reply = mlc_command_simple(target->conn, "EXISTS", state_key(target), NULL);
	if (reply && mlc_cluster_is_redirect(reply))
	{
		*result = ELSEWHERE;
		return true;
	}
	if (!mlc_target_good(target, reply, "EXISTS"))
		return false;
	if (reply->type == MLC_REPLY_INTEGER && reply->integer == 1)
		*result = HERE;
	return true;
}

/*
 * The node has forgotten where its state is (a promoted replica has): looks
 * into all of its slots.  Of several the oldest counts, since a state that
 * came with a slot from another master is no newer than what came with it.
 */
static bool
find_state(MlcTarget *target)
{
	MlcClusterMap *map = target->group->map;
	MlcCommand	cmd;
	char		best[MLC_VERSION_LEN + 1] = "";
	int			found = -1;

	mlc_command_init(&cmd);
	for (int slot = 0; slot < MLC_SLOTS; slot++)
	{
		if (map->owner[slot] != target->node)
			continue;
		set_tag(target, slot);
		mlc_command_reset(&cmd);
		mlc_command_add_cstr(&cmd, "HGET");
		mlc_command_add_cstr(&cmd, state_key(target));
		mlc_command_add_cstr(&cmd, "applied");
		mlc_command_append(&cmd, target->conn);
	}
	for (int slot = 0; slot < MLC_SLOTS; slot++)
	{
		MlcReply   *reply;

		if (map->owner[slot] != target->node)
			continue;
		reply = mlc_conn_reply(target->conn);
		if (reply && mlc_cluster_is_redirect(reply))
			continue;
		if (!mlc_target_good(target, reply, "HGET"))
			return false;
		if (reply->type != MLC_REPLY_STRING || reply->len != MLC_VERSION_LEN)
			continue;
		if (best[0] == '\0' || strcmp(reply->str, best) < 0)
		{
			strlcpy(best, reply->str, sizeof(best));
			found = slot;
		}
	}
	target->tag[0] = '\0';
	if (found >= 0)
		set_tag(target, found);
	return true;
}

/* A state that went with its slot means nothing there; if it stays, no harm. */
static void
remove_state(MlcGroup *group, const char *key)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group == group && mlc_target_is_idle(target) &&
			mlc_group_owns(target, key, strlen(key)))
			(void) mlc_command_simple(target->conn, "UNLINK", key, NULL);
	}
}

/* Goes on in another slot, if this very process still serves for us. */
static bool
replace_state(MlcTarget *target, bool *replaced)
{
	char		nonce[MLC_NONCE_LEN + 1];
	char		applied[MLC_VERSION_LEN + 1];
	char	   *old = state_key(target);
	MlcReply   *reply;

	set_tag(target, pick_slot(target));
	mlc_target_new_nonce(nonce);
	mlc_version_print(target->applied, applied);
	reply = mlc_command_simple(target->conn, "FCALL", "mlc_replace", "0",
							   target->ns, target->nonce, nonce, target->tag,
							   psprintf(UINT64_FORMAT, GetSystemIdentifier()),
							   applied, NULL);
	if (!mlc_target_good(target, reply, "mlc_replace"))
		return false;
	*replaced = reply->type == MLC_REPLY_INTEGER && reply->integer == 1;
	if (*replaced)
	{
		strlcpy(target->nonce, nonce, sizeof(target->nonce));
		target->published = target->applying = target->applied;
		remove_state(target->group, old);
	}
	return true;
}

static bool
place(MlcTarget *target, bool *replaced)
{
	Whereabouts state;

	if (!look_for_state(target, &state))
		return false;
	if (state == ELSEWHERE && target->nonce[0] != '\0' &&
		!replace_state(target, replaced))
		return false;
	if (*replaced)
		return true;
	if (state != HERE && !find_state(target))
		return false;
	if (target->tag[0] == '\0')
		set_tag(target, pick_slot(target));
	return mlc_target_good(target,
						   mlc_command_simple(target->conn, "FCALL", "mlc_place",
											  "0", target->ns, target->tag, NULL),
						   "mlc_place");
}

bool
mlc_group_place(MlcTarget *target, bool *replaced)
{
	*replaced = false;
	if (target->node < 0)
	{
		mlc_target_fail(target, "It is no master.");
		return false;
	}
	if (place(target, replaced))
		return true;
	target->tag[0] = '\0';
	target->place_tries++;
	return false;
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
purge_everywhere(MlcBatchPurge *purge)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group && mlc_target_is_live(target) &&
			mlc_target_concerns(target, purge->rule, purge->version))
			(void) mlc_purge_rule(target, purge->rule);
	}
}

void
mlc_group_announce(MlcBatch *batch)
{
	ListCell   *lc;

	if (mlc_relay->groups == NIL)
		return;
	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_relay->targets[i]->group && mlc_target_is_live(mlc_relay->targets[i]))
			mlc_target_announce(mlc_relay->targets[i], batch->applying);
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		while (target->group && mlc_target_is_live(target) &&
			   !mlc_target_poll(target))
			(void) mlc_conn_wait(target->conn);
	}
	foreach(lc, batch->purges)
		for (int round = 0; round < ROUNDS; round++)
		purge_everywhere(lfirst(lc));
}

/* ---- detours ---- */

void
mlc_group_add_detour(MlcGroup *group, MlcBatchEvent *event)
{
	if (group->ndetours == group->detours_size)
	{
		group->detours_size = Max(64, group->detours_size * 2);
		if (group->detours == NULL)
			group->detours = MemoryContextAlloc(group->context,
												sizeof(MlcBatchEvent *) * group->detours_size);
		else
			group->detours = repalloc(group->detours,
									  sizeof(MlcBatchEvent *) * group->detours_size);
	}
	group->detours[group->ndetours++] = event;
}

/*
 * Has every master remove what it has of these keys, entry or guard.  ASKING,
 * since it may be receiving the slot.  False: not all of them did.
 */
static bool
remove_everywhere(MlcGroup *group)
{
	MlcCommand	cmd;
	bool		good = true;
	int			calls = (group->ndetours + REMOVE_KEYS - 1) / REMOVE_KEYS;

	mlc_command_init(&cmd);
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group != group || !mlc_target_is_live(target))
			continue;
		for (int from = 0; from < group->ndetours; from += REMOVE_KEYS)
		{
			int			to = Min(from + REMOVE_KEYS, group->ndetours);

			mlc_command_reset(&cmd);
			mlc_command_add_cstr(&cmd, "ASKING");
			mlc_command_append(&cmd, target->conn);
			mlc_command_reset(&cmd);
			mlc_command_add_cstr(&cmd, "FCALL");
			mlc_command_add_cstr(&cmd, "mlc_remove");
			mlc_command_add_cstr(&cmd, "0");
			mlc_command_add_cstr(&cmd, target->ns);
			mlc_command_add_cstr(&cmd, "");
			for (int k = from; k < to; k++)
				mlc_command_add(&cmd, group->detours[k]->key,
								group->detours[k]->keylen);
			mlc_command_append(&cmd, target->conn);
		}
		(void) mlc_conn_push(target->conn);
	}
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group != group || !mlc_target_is_live(target))
			continue;
		for (int call = 0; call < 2 * calls; call++)
			if (!mlc_target_good(target, mlc_conn_reply(target->conn), "mlc_remove"))
			{
				good = false;
				break;
			}
	}
	return good;
}

/* The node of the group that a redirection names, or that has the slot. */
static MlcTarget *
member_at(MlcGroup *group, MlcBatchEvent *event, const char *address)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group != group || !mlc_target_is_live(target))
			continue;
		if (address == NULL ? mlc_group_owns_event(target, event) :
			strcmp(psprintf("%s:%d", target->place.host, target->place.port), address) == 0)
			return target;
	}
	return NULL;
}

/* Sets one replicated entry, wherever its slot is going. */
static bool
set_value(MlcGroup *group, MlcBatchEvent *event)
{
	char		version[MLC_VERSION_LEN + 1];
	const char *address = NULL;
	bool		asking = false;

	mlc_version_print(event->version, version);
	for (int attempt = 0; attempt < 3; attempt++)
	{
		MlcTarget  *target = member_at(group, event, address);
		MlcCommand	cmd;
		MlcReply   *reply;

		if (target == NULL)
			return false;
		mlc_command_init(&cmd);
		if (asking)
		{
			mlc_command_add_cstr(&cmd, "ASKING");
			if (!mlc_target_good(target, mlc_command_call(&cmd, target->conn), "ASKING"))
				return false;
			mlc_command_reset(&cmd);
		}
		mlc_command_add_cstr(&cmd, "FCALL");
		mlc_command_add_cstr(&cmd, "mlc_deliver");
		mlc_command_add_cstr(&cmd, "0");
		mlc_command_add_cstr(&cmd, target->ns);
		mlc_command_add_cstr(&cmd, target->nonce);
		mlc_command_add(&cmd, event->key, event->keylen);
		mlc_command_add_cstr(&cmd, "r");
		mlc_command_add_cstr(&cmd, version);
		mlc_command_add_int(&cmd, event->rule->ttl);
		mlc_command_add(&cmd, event->payload, event->payloadlen);
		reply = mlc_command_call(&cmd, target->conn);
		if (!mlc_target_good(target, reply, "mlc_deliver"))
			return false;
		if (reply->type == MLC_REPLY_ARRAY && reply->nelements == 3)
			return true;

		/* a command with the key tells where it is */
		reply = mlc_command_simple(target->conn, "EXISTS",
								   pnstrdup(event->key, event->keylen), NULL);
		if (reply == NULL)
			return mlc_target_good(target, reply, "EXISTS");
		if (!mlc_cluster_is_redirect(reply))
			continue;
		asking = reply->str[0] == 'A';
		address = strrchr(reply->str, ' ');
		address = address ? address + 1 : NULL;
	}
	return false;
}

static bool
set_values(MlcGroup *group)
{
	for (int i = 0; i < group->ndetours; i++)
		if (group->detours[i]->op == MLC_OP_REPLICATE &&
			!set_value(group, group->detours[i]))
			return false;
	return true;
}

/* Do these keys belong to the same masters on both maps? */
static bool
same_owners(MlcGroup *group, MlcClusterMap *a, MlcClusterMap *b)
{
	for (int i = 0; i < group->ndetours; i++)
	{
		uint8		x = a->owner[group->detours[i]->slot];
		uint8		y = b->owner[group->detours[i]->slot];

		if (x == MLC_NO_NODE || y == MLC_NO_NODE ||
			!mlc_cluster_same_node(&a->nodes[x], &b->nodes[y]))
			return false;
	}
	return true;
}

/* False: all of the batch is to be delivered again, to whoever is there. */
static bool
settle(MlcGroup *group)
{
	for (int attempt = 0; attempt < TRIES; attempt++)
	{
		MemoryContext context;
		MlcClusterMap *map;
		char	   *error;
		bool		same;

		/*
		 * A key may go from one node to another while we are between them:
		 * the second round meets it there.  It goes no further as long as its
		 * slot has not arrived.
		 */
		for (int round = 0; round < ROUNDS; round++)
			if (!remove_everywhere(group))
				return true;	/* who is away is caught up */
		map = ask_for_map(group, &context, &error);
		if (map == NULL)
			return false;
		same = same_owners(group, group->map, map);
		group->stale |= !same_nodes(group, map);
		take_map(group, map, context);
		if (group->stale)
			return false;
		if (same)
			return set_values(group);
	}
	return false;
}

void
mlc_group_settle(void)
{
	ListCell   *lc;

	foreach(lc, mlc_relay->groups)
	{
		MlcGroup   *group = lfirst(lc);
		MemoryContext context;
		MemoryContext old;

		if (group->ndetours == 0 || MLC_FAULT_SKIP("relay-detour"))
		{
			group->ndetours = 0;
			continue;
		}
		context = AllocSetContextCreate(group->context, "mlcache detour",
										ALLOCSET_DEFAULT_SIZES);
		old = MemoryContextSwitchTo(context);
		if (!group->failed && !settle(group))
		{
			group->failed = true;
			group->stale = true;
		}
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
		group->ndetours = 0;
		if (group->failed)
			mlc_relay->rewind = true;
	}
}
