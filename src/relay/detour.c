/*-------------------------------------------------------------------------
 *
 * relay/detour.c
 *	  Keys of a Redis Cluster that were not where the map says.
 *
 * While a slot is on its way, each of its keys is on either side, and so is
 * each guard; commands about what is not there are refused.  Such keys are
 * removed from every master, whatever each has of them, which needs no
 * knowledge of the move and does no harm; and what is replicated or set is set
 * where it belongs.  A slot may be on its way for as long as it likes.
 *
 * So may the index of a tag, on another side than its members: all masters are
 * asked for it, and members of which one of them has not all are such keys, too.
 * A key that is set enters its indexes wherever these are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "base/grow.h"
#include "miscadmin.h"
#include "model/glob.h"
#include "read/free.h"
#include "redis/command.h"
#include "relay/free.h"
#include "relay/group.h"
#include "relay/relay.h"
#include "utils/memutils.h"

#define REMOVE_KEYS 256			/* a call */
#define TRIES 5					/* until the map stays what it was */
#define UNTAG_COUNT "200"		/* members that one call looks at */

void
mlc_group_add_detour(MlcGroup *group, MlcBatchEvent *event)
{
	if (event->op == MLC_OP_TOUCH)
	{
		MemoryContext old = MemoryContextSwitchTo(mlc_relay->flight->context);

		group->touches = lappend(group->touches, event);
		MemoryContextSwitchTo(old);
		return;
	}
	group->detours = mlc_grow(group->context, group->detours, group->ndetours,
							  &group->detours_size, sizeof(MlcBatchEvent *));
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

void
mlc_group_add_lost(MlcGroup *group, MlcSweep *sweep, const char *number)
{
	MemoryContext old = MemoryContextSwitchTo(mlc_relay->flight->context);
	MlcLost    *lost = palloc(sizeof(MlcLost));

	lost->name = pstrdup(sweep->name);
	memcpy(lost->version, sweep->version, sizeof(lost->version));
	lost->number = pstrdup(number);
	lost->slot = mlc_cluster_slot(number, strlen(number));
	group->lost = lappend(group->lost, lost);
	MemoryContextSwitchTo(old);
}

/* Removes what an index leads to at this master.  False: it is down. */
static bool
untag(MlcTarget *target, MlcLost *lost)
{
	char		cursor[24] = "0";

	do
	{
		MlcReply   *reply;
		MlcReply   *keys;

		CHECK_FOR_INTERRUPTS();
		if (!mlc_group_ask_anyway(target))
			return false;
		reply = mlc_command_simple(target->conn, "FCALL", "mlc_untag_slots", "0",
								   target->ns, lost->name, lost->version,
								   UNTAG_COUNT, "0", cursor, lost->number, NULL);
		if (!mlc_target_good(target, reply, "mlc_untag_slots"))
			return false;
		if (reply->type != MLC_REPLY_ARRAY || reply->nelements != 5 ||
			reply->elements[0]->type != MLC_REPLY_STRING ||
			reply->elements[2]->type != MLC_REPLY_ARRAY)
		{
			mlc_target_fail(target, "mlc_untag_slots: unexpected reply");
			return false;
		}
		keys = reply->elements[2];
		for (size_t i = 0; i < keys->nelements; i++)
			if (keys->elements[i]->type == MLC_REPLY_STRING)
				mlc_group_add_detour_key(target->group, keys->elements[i]->str,
										 keys->elements[i]->len);
		strlcpy(cursor, reply->elements[0]->str, sizeof(cursor));
	} while (strcmp(cursor, "0") != 0);
	return true;
}

/* Asks every master for the indexes that were not where the map says. */
static bool
untag_everywhere(MlcGroup *group)
{
	ListCell   *lc;

	for (int i = 0; i < mlc_relay->ntargets; i++)
		if (mlc_relay->targets[i]->group == group &&
			mlc_target_is_reached(mlc_relay->targets[i]))
			foreach(lc, group->lost)
				if (!untag(mlc_relay->targets[i], lfirst(lc)))
				return false;
	return true;
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

		if (target->group != group || !mlc_target_is_reached(target) ||
			!mlc_target_is_at_rest(target))
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
member_at(MlcGroup *group, int slot, const char *address)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group != group || !mlc_target_is_live(target))
			continue;
		if (address == NULL ? group->map->owner[slot] == target->node :
			strcmp(psprintf("%s:%d", target->place.host, target->place.port), address) == 0)
			return target;
	}
	return NULL;
}

static bool
starts_with(MlcReply *reply, const char *word)
{
	return reply->type == MLC_REPLY_ERROR &&
		strncmp(reply->str, word, strlen(word)) == 0;
}

/* The node that a redirection names; asking: whether it needs ASKING first. */
static const char *
redirected_to(const MlcReply *reply, bool *asking)
{
	const char *address = strrchr(reply->str, ' ');

	*asking = reply->str[0] == 'A';
	return address ? address + 1 : NULL;
}

/* Sets one entry, wherever its slot is going. */
static bool
set_value(MlcGroup *group, MlcBatchEvent *event, int64 ttl,
		  const char *payload, uint32 payloadlen)
{
	char		version[MLC_VERSION_LEN + 1];
	const char *address = NULL;
	bool		asking = false;

	mlc_version_print(event->version, version);
	for (int attempt = 0; attempt < 3; attempt++)
	{
		MlcTarget  *target = member_at(group, event->slot, address);
		MlcCommand	cmd;
		MlcReply   *reply;

		if (target == NULL)
			return false;
		if (target->aside)
			return true;
		if (asking && !mlc_group_ask_anyway(target))
			return false;
		mlc_command_init(&cmd);
		mlc_command_add_cstr(&cmd, "FCALL");
		mlc_command_add_cstr(&cmd, "mlc_deliver");
		mlc_command_add_cstr(&cmd, "0");
		mlc_command_add_cstr(&cmd, target->ns);
		mlc_command_add_cstr(&cmd, target->nonce);
		mlc_command_add_cstr(&cmd, "r");
		mlc_command_add_int(&cmd, ttl);
		mlc_command_add_cstr(&cmd, version);
		mlc_command_add(&cmd, event->key, event->keylen);
		mlc_command_add(&cmd, payload, payloadlen);
		reply = mlc_command_call(&cmd, target->conn);
		if (reply && event->op == MLC_OP_SET && starts_with(reply, "OOM"))
			return true;		/* it is removed, as anywhere */
		if (!mlc_target_good(target, reply, "mlc_deliver"))
			return false;
		if (reply->type == MLC_REPLY_ARRAY && reply->nelements == 3)
			return true;

		/* a command with the key tells where it is */
		reply = mlc_command_simple(target->conn, "EXISTS",
								   pnstrdup(event->key, event->keylen), NULL);
		if (reply == NULL)
			return mlc_target_good(target, reply, "EXISTS");
		if (starts_with(reply, "NOPERM"))
			return true;		/* so nothing can be there */
		if (!mlc_cluster_is_redirect(reply))
			continue;
		address = redirected_to(reply, &asking);
	}
	return false;
}

/* ---- keys of no rule ---- */

/* Does an event of the batch that comes later remove what the event sets? */
static bool
is_swept(MlcBatchEvent *event, MlcBody body)
{
	MlcBatch   *sweeps = mlc_relay->flight->sweeps;
	const char *tag;
	uint32		taglen;

	for (int i = 0; sweeps && i < sweeps->nevents; i++)
	{
		MlcBatchEvent *sweep = &sweeps->events[i];
		MlcBody		tags = body;
		uint32		len;
		const char *text = mlc_batch_text(sweep, &len);

		if (mlc_version_compare(sweep->version, event->version) <= 0)
			continue;
		if (sweep->op == MLC_OP_PATTERN &&
			mlc_glob_match(text, len, event->key, event->keylen))
			return true;
		while (sweep->op == MLC_OP_TAG &&
			   mlc_event_body_next_tag(&tags, &tag, &taglen))
			if (taglen == len && memcmp(tag, text, len) == 0)
				return true;
	}
	return false;
}

/*
 * The node to ask for a key, which may be on its way there: then with ASKING,
 * which is sent.  NULL: none, or down.
 */
static MlcTarget *
find(MlcGroup *group, int slot, const char *key)
{
	const char *address = NULL;
	bool		asking = false;

	for (int attempt = 0; attempt < 3; attempt++)
	{
		MlcTarget  *target = member_at(group, slot, address);
		MlcReply   *reply;

		if (target == NULL ||
			(asking && !mlc_group_ask_anyway(target)))
			return NULL;
		reply = mlc_command_simple(target->conn, "EXISTS", key, NULL);
		if (reply == NULL)
		{
			mlc_target_fail(target, mlc_conn_error(target->conn));
			return NULL;
		}
		if (!mlc_cluster_is_redirect(reply))
			return asking && !mlc_group_ask_anyway(target) ? NULL : target;
		address = redirected_to(reply, &asking);
	}
	return NULL;
}

/* Enters the key into one index, wherever that is. */
static bool
enter_index(MlcGroup *group, MlcBatchEvent *event, int64 ttl, char kind,
			const char *text, uint32 len)
{
	StringInfoData name;
	MlcTarget  *target;
	MlcCommand	cmd;

	initStringInfo(&name);
	mlc_free_index(&name, group->server->ns, event->slot, kind, text, len);
	target = find(group, event->slot, name.data);
	if (target == NULL)
		return false;
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_enter");
	mlc_command_add_cstr(&cmd, "1");
	mlc_command_add(&cmd, name.data, name.len);
	mlc_command_add(&cmd, event->key, event->keylen);
	mlc_command_add_int(&cmd, ttl);
	return mlc_target_good(target, mlc_command_call(&cmd, target->conn),
						   "mlc_enter");
}

static bool
enter_indexes(MlcGroup *group, MlcBatchEvent *event, MlcBody body)
{
	const char *tag;
	uint32		len;

	if (!enter_index(group, event, body.ttl, MLC_INDEX_FREE, NULL, 0))
		return false;
	while (mlc_event_body_next_tag(&body, &tag, &len))
		if (!enter_index(group, event, body.ttl, MLC_INDEX_TAG, tag, len))
			return false;
	return true;
}

/*
 * A key that is set enters its indexes first, since an invalidation must find
 * it, and once more, since a member without an entry may be tidied away.
 */
static bool
set_on_its_way(MlcGroup *group, MlcBatchEvent *event, MlcBody body)
{
	return enter_indexes(group, event, body) &&
		set_value(group, event, body.ttl, body.value, body.valuelen) &&
		enter_indexes(group, event, body);
}

/* As ever where its slot has arrived. */
static bool
set_free(MlcGroup *group, MlcBatchEvent *event)
{
	MlcTarget  *target = member_at(group, event->slot, NULL);
	MlcBody		body;
	MlcCommand	cmd;
	MlcReply   *reply;

	if (!mlc_event_body_open(&body, event->payload, event->payloadlen) ||
		is_swept(event, body) || MLC_FAULT_SKIP("relay-detour-set"))
		return true;
	if (target == NULL)
		return false;
	mlc_free_lay_out_set(target, event, body, &cmd);
	reply = mlc_command_call(&cmd, target->conn);
	if (reply && (starts_with(reply, "OOM") || starts_with(reply, "NOPERM")))
		return true;			/* it is removed, as anywhere */
	if (reply && mlc_cluster_is_redirect(reply))
		return set_on_its_way(group, event, body);
	return mlc_target_good(target, reply, "mlc_set");
}

/* One that is in two places at once keeps its time to live. */
static bool
touch(MlcGroup *group, MlcBatchEvent *event)
{
	uint32		len;
	const char *key = mlc_batch_text(event, &len);
	char		version[MLC_VERSION_LEN + 1];
	MlcTarget  *target = find(group, event->slot, pnstrdup(key, len));
	MlcBody		body;
	MlcReply   *reply;

	if (target == NULL)
		return false;
	if (!mlc_event_body_open(&body, event->payload, event->payloadlen))
		return true;
	mlc_version_print(event->version, version);
	reply = mlc_command_simple(target->conn, "FCALL", "mlc_touch", "1",
							   pnstrdup(key, len), target->ns, target->nonce,
							   version, psprintf(INT64_FORMAT, body.ttl), NULL);
	return (reply && mlc_cluster_is_redirect(reply)) ||
		mlc_target_good(target, reply, "mlc_touch");
}

static bool
set_values(MlcGroup *group)
{
	ListCell   *lc;

	/* all of the batch is delivered once more, when that one answers */
	if (mlc_flow_any_aside(group))
		return true;
	for (int i = 0; i < group->ndetours; i++)
	{
		MlcBatchEvent *event = group->detours[i];

		if (event->op == MLC_OP_REPLICATE &&
			!set_value(group, event, event->rule->ttl, event->payload,
					   event->payloadlen))
			return false;
		if (event->op == MLC_OP_SET && !set_free(group, event))
			return false;
	}
	foreach(lc, group->touches)
		if (!touch(group, lfirst(lc)))
		return false;
	return true;
}

static bool
same_owner(MlcClusterMap *a, MlcClusterMap *b, int slot)
{
	uint8		x = a->owner[slot];
	uint8		y = b->owner[slot];

	return x != MLC_NO_NODE && y != MLC_NO_NODE &&
		mlc_cluster_same_node(&a->nodes[x], &b->nodes[y]);
}

/* Do these keys and indexes belong to the same masters on both maps? */
static bool
same_owners(MlcGroup *group, MlcClusterMap *a, MlcClusterMap *b)
{
	ListCell   *lc;

	for (int i = 0; i < group->ndetours; i++)
		if (!same_owner(a, b, group->detours[i]->slot))
			return false;
	foreach(lc, group->lost)
		if (!same_owner(a, b, ((MlcLost *) lfirst(lc))->slot))
		return false;
	foreach(lc, group->touches)
		if (!same_owner(a, b, ((MlcBatchEvent *) lfirst(lc))->slot))
		return false;
	return true;
}

/*
 * While a master is set aside, keys that a pattern has named stay as they are:
 * their guards, too, by which they are named again when all get what is kept.
 */
static void
drop_named(MlcGroup *group)
{
	int			n = 0;

	if (!mlc_flow_any_aside(group))
		return;
	for (int i = 0; i < group->ndetours; i++)
		if (group->detours[i]->rule != NULL)
			group->detours[n++] = group->detours[i];
	group->ndetours = n;
}

/* False: all of the batch is to be delivered again, to whoever is there. */
static bool
settle(MlcGroup *group)
{
	drop_named(group);
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
			if (!untag_everywhere(group))
				return true;
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

/* What it points to goes with the batch. */
static void
forget(MlcGroup *group)
{
	group->ndetours = 0;
	group->lost = NIL;
	group->touches = NIL;
}

void
mlc_group_remove_detours(MlcGroup *group)
{
	for (int round = 0; round < MLC_ROUNDS; round++)
		(void) remove_everywhere(group);
	forget(group);
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

		if ((group->ndetours == 0 && group->lost == NIL &&
			 group->touches == NIL) || MLC_FAULT_SKIP("relay-detour"))
		{
			forget(group);
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
		forget(group);
		if (group->failed)
			mlc_relay->rewind = true;
	}
}
