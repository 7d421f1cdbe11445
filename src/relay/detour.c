/*-------------------------------------------------------------------------
 *
 * relay/detour.c
 *	  Keys of a Redis Cluster that were not where the map says.
 *
 * While a slot is on its way, each of its keys is on either side, and so is
 * each guard; commands about what is not there are refused.  Such keys are
 * removed from every master, whatever each has of them, which needs no
 * knowledge of the move and does no harm; and what is replicated is set where
 * it belongs.  A slot may be on its way for as long as it likes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "redis/command.h"
#include "relay/group.h"
#include "relay/relay.h"
#include "utils/memutils.h"

#define REMOVE_KEYS 256			/* a call */
#define TRIES 5					/* until the map stays what it was */

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

void
mlc_group_add_detour_key(MlcGroup *group, const char *key, size_t len)
{
	MemoryContext old = MemoryContextSwitchTo(mlc_relay->flight->context);
	MlcBatchEvent *event = palloc0(sizeof(MlcBatchEvent));

	event->op = MLC_OP_INVALIDATE;
	event->key = pnstrdup(key, len);
	event->keylen = len;
	event->slot = mlc_cluster_slot(key, len);
	MemoryContextSwitchTo(old);
	mlc_group_add_detour(group, event);
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

		if (target->group != group || !mlc_target_is_reached(target))
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

		if (target->group != group || !mlc_target_is_reached(target))
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
		if (target->aside)
			return true;
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
		mlc_command_add_cstr(&cmd, "r");
		mlc_command_add_int(&cmd, event->rule->ttl);
		mlc_command_add_cstr(&cmd, version);
		mlc_command_add(&cmd, event->key, event->keylen);
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
		for (int round = 0; round < MLC_ROUNDS; round++)
			if (!remove_everywhere(group))
				return true;	/* who is away is caught up */
		map = mlc_group_ask_for_map(group, &context, &error);
		if (map == NULL)
			return false;
		same = same_owners(group, group->map, map);
		group->stale |= !mlc_group_same_nodes(group, map);
		mlc_group_take_map(group, map, context);
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
