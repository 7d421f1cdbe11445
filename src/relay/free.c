/*-------------------------------------------------------------------------
 *
 * relay/free.c
 *	  Delivering what concerns keys of no rule, and tags.
 *
 * A key that is set goes out as one call that also enters it into its indexes
 * (lua/tag.lua), so that no entry is there which an invalidation of its tags
 * would miss.
 *
 * In a Redis Cluster an index lies in one slot with all its keys, so a tag has
 * one for each slot.  A removal by tag asks each master for those of the slots
 * that the map gives it; a slot that has gone, or is on its way and has no index
 * there, is asked for at all masters when the replies are in, and so are members
 * of which not all is there (detour.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "miscadmin.h"
#include "read/free.h"
#include "redis/command.h"
#include "relay/deliver.h"
#include "relay/free.h"
#include "relay/group.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define CURSOR_LEN 24
#define SCAN_COUNT "1000"
#define UNTAG_COUNT "200"		/* members that one call looks at */
#define SLOTS_A_CALL 1000		/* and slots of a cluster */
#define LAST_VERSION "ffffffffffffffffffffffff"

/* The index of that kind and text on this server, for the key. */
static void
add_index(MlcCommand *cmd, MlcTarget *target, MlcBatchEvent *event, char kind,
		  const char *text, uint32 len)
{
	StringInfoData name;

	initStringInfo(&name);
	mlc_free_index(&name, target->ns,
				   target->group ? mlc_group_slot(event) : MLC_NO_SLOT,
				   kind, text, len);
	mlc_command_add(cmd, name.data, name.len);
}

void
mlc_free_lay_out_set(MlcTarget *target, MlcBatchEvent *event, MlcBody body,
					 MlcCommand *cmd)
{
	char	   *version = palloc(MLC_VERSION_LEN + 1);
	const char *tag;
	uint32		len;

	mlc_version_print(event->version, version);
	mlc_command_init(cmd);
	mlc_command_add_cstr(cmd, "FCALL");
	mlc_command_add_cstr(cmd, "mlc_set");
	mlc_command_add_int(cmd, 2 + body.ntags);
	mlc_command_add(cmd, event->key, event->keylen);
	add_index(cmd, target, event, MLC_INDEX_FREE, NULL, 0);
	while (mlc_event_body_next_tag(&body, &tag, &len))
		add_index(cmd, target, event, MLC_INDEX_TAG, tag, len);
	mlc_command_add_cstr(cmd, target->ns);
	mlc_command_add_cstr(cmd, target->nonce);
	mlc_command_add(cmd, version, MLC_VERSION_LEN);
	mlc_command_add_int(cmd, body.ttl);
	mlc_command_add(cmd, body.value, body.valuelen);
}

static void
send_removal(MlcTarget *target, MlcBatchEvent *event)
{
	char		version[MLC_VERSION_LEN + 1];
	MlcCommand	cmd;

	mlc_version_print(event->version, version);
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_apply");
	mlc_command_add_cstr(&cmd, "1");
	mlc_command_add(&cmd, event->key, event->keylen);
	mlc_command_add_cstr(&cmd, target->ns);
	mlc_command_add_cstr(&cmd, target->nonce);
	mlc_command_add_cstr(&cmd, "i");
	mlc_command_add_cstr(&cmd, "0");
	mlc_command_add(&cmd, version, MLC_VERSION_LEN);
	mlc_command_add_cstr(&cmd, "");
	mlc_command_append(&cmd, target->conn);
}

/* The reply to a command for this event's key, which may have moved. */
static void
expect_event(MlcTarget *target, MlcBatchEvent *event)
{
	if (target->group)
		mlc_answer_remember(target, event);
	mlc_answer_expect(target, MLC_EXPECT_FREE, target->group ? 1 : 0);
}

bool
mlc_free_send(MlcTarget *target, MlcBatchEvent *event, bool full)
{
	MlcBody		body;
	MlcCommand	cmd;

	if (event->rule->id != MLC_RULE_FREE || full ||
		(target->group && event->op != MLC_OP_SET))
		return false;
	if (event->op != MLC_OP_SET)
		send_removal(target, event);
	else if (mlc_event_body_open(&body, event->payload, event->payloadlen))
	{
		mlc_free_lay_out_set(target, event, body, &cmd);
		mlc_command_append(&cmd, target->conn);
	}
	else
		return false;
	expect_event(target, event);
	return true;
}

const char *
mlc_free_sent(MlcTarget *target, MlcReply *reply)
{
	if (reply->type == MLC_REPLY_ARRAY && reply->nelements == 3 &&
		reply->elements[0]->type == MLC_REPLY_INTEGER &&
		reply->elements[1]->type == MLC_REPLY_INTEGER &&
		reply->elements[2]->type == MLC_REPLY_INTEGER)
	{
		/* of a set or removal */
		target->stat->updated += reply->elements[0]->integer;
		target->stat->skipped += reply->elements[1]->integer;
		target->stat->invalidated += reply->elements[2]->integer;
		return NULL;
	}
	if (reply->type == MLC_REPLY_INTEGER)
		return NULL;			/* of a touch */
	if (reply->type != MLC_REPLY_ERROR || strncmp(reply->str, "NOPERM", 6) != 0)
		return "mlc_set, mlc_apply or mlc_touch: unexpected reply";

	/* so nothing can be there: whoever may set keys must not stop the relay */
	ereport(WARNING,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("mlcache: server \"%s\" refuses a key that was set or removed",
					target->name),
			 errdetail("Redis answered: %s", reply->str),
			 errhint("Give its user the keys that mlcache.set() is used for.")));
	return NULL;
}

/*
 * The numbers of a few slots of a master, from *slot on, as the library takes
 * them; *slot: where to go on.  Returns how many.
 */
static int
list_slots(MlcTarget *target, int *slot, StringInfo list)
{
	MlcClusterMap *map = target->group->map;
	int			n = 0;

	for (; *slot < MLC_SLOTS && n < SLOTS_A_CALL; (*slot)++)
	{
		char		number[16];

		if (map->owner[*slot] != target->node)
			continue;
		if (n++ > 0)
			appendStringInfoChar(list, ' ');
		appendBinaryStringInfo(list, number,
							   pg_ultoa_n(mlc_cluster_tag(*slot), number));
	}
	return n;
}

/* Is there an index of free keys in any slot of this master? */
static bool
any_in_slots(MlcTarget *target)
{
	StringInfoData list;
	int			slot = 0;

	initStringInfo(&list);
	while (slot < MLC_SLOTS)
	{
		MlcReply   *reply;

		resetStringInfo(&list);
		if (list_slots(target, &slot, &list) == 0)
			break;
		reply = mlc_command_simple(target->conn, "FCALL", "mlc_indexes", "0",
								   target->ns, "f", list.data, NULL);
		if (reply == NULL || reply->type != MLC_REPLY_INTEGER ||
			reply->integer > 0)
			return true;
	}
	return false;
}

bool
mlc_free_any(MlcTarget *target)
{
	StringInfoData name;
	MlcReply   *reply;

	if (target->group)
		return any_in_slots(target);
	initStringInfo(&name);
	mlc_free_index(&name, target->ns, MLC_NO_SLOT, MLC_INDEX_FREE, NULL, 0);
	reply = mlc_command_simple(target->conn, "EXISTS", name.data, NULL);
	return reply == NULL || reply->type != MLC_REPLY_INTEGER ||
		reply->integer > 0;
}

/* ---- many keys at once ---- */

static void
expect_step(MlcTarget *target, MlcSweep *sweep)
{
	MemoryContext old = MemoryContextSwitchTo(target->context);

	mlc_target_expect(target, MLC_EXPECT_SWEEP);
	target->sweeps = lappend(target->sweeps, sweep);
	MemoryContextSwitchTo(old);
}

/*
 * Of a cluster, through the indexes in a few slots.  Not ASKING: what is on its
 * way is to be refused, since only then do we hear of it.  False: there are no
 * more slots.
 */
static bool
send_slots(MlcTarget *target, MlcSweep *sweep, const char *cursor)
{
	MlcCommand	cmd;
	StringInfoData list;

	initStringInfo(&list);
	sweep->next_slot = sweep->slot;
	sweep->nslots = list_slots(target, &sweep->next_slot, &list);
	if (sweep->nslots == 0)
		return false;
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_untag_slots");
	mlc_command_add_cstr(&cmd, "0");
	mlc_command_add_cstr(&cmd, target->ns);
	mlc_command_add_cstr(&cmd, sweep->name);
	mlc_command_add(&cmd, sweep->version, MLC_VERSION_LEN);
	mlc_command_add_cstr(&cmd, UNTAG_COUNT);
	mlc_command_add_int(&cmd, sweep->skip);
	mlc_command_add_cstr(&cmd, cursor);
	mlc_command_add(&cmd, list.data, list.len);
	mlc_command_append(&cmd, target->conn);
	expect_step(target, sweep);
	return true;
}

/* One step; cursor is where to go on. */
static void
send_step(MlcTarget *target, MlcSweep *sweep, const char *cursor)
{
	bool		indexed = sweep->op == MLC_OP_TAG;
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	if (target->group)
	{
		/* it may be receiving keys */
		mlc_command_add_cstr(&cmd, "ASKING");
		mlc_command_append(&cmd, target->conn);
		mlc_target_expect(target, MLC_EXPECT_ASKING);
		mlc_command_reset(&cmd);
	}
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, indexed ? "mlc_untag" : "mlc_purge");
	mlc_command_add_cstr(&cmd, indexed ? "1" : "0");
	if (indexed)
		mlc_command_add_cstr(&cmd, sweep->name);
	mlc_command_add_cstr(&cmd, target->ns);
	mlc_command_add_cstr(&cmd, cursor);
	mlc_command_add_cstr(&cmd, indexed ? UNTAG_COUNT : SCAN_COUNT);
	if (!indexed)
		mlc_command_add_cstr(&cmd, sweep->name);
	mlc_command_add(&cmd, sweep->version, MLC_VERSION_LEN);
	mlc_command_append(&cmd, target->conn);
	expect_step(target, sweep);
}

static MlcSweep *
new_sweep(MlcTarget *target, MlcOp op, MlcVersion version)
{
	MlcSweep   *sweep = MemoryContextAllocZero(target->context,
											   sizeof(MlcSweep));

	sweep->op = op;
	mlc_version_print(version, sweep->version);
	return sweep;
}

static void
free_sweep(MlcSweep *sweep)
{
	pfree(sweep->name);
	pfree(sweep);
}

static void
begin_tag(MlcTarget *target, char kind, const char *text, uint32 len,
		  MlcVersion version)
{
	MlcSweep   *sweep = new_sweep(target, MLC_OP_TAG, version);
	StringInfoData name;

	initStringInfo(&name);
	if (target->group)
		mlc_free_index_text(&name, kind, text, len);
	else
		mlc_free_index(&name, target->ns, MLC_NO_SLOT, kind, text, len);
	sweep->name = MemoryContextStrdup(target->context, name.data);
	if (target->group == NULL)
		send_step(target, sweep, "0");
	else if (MLC_FAULT_SKIP("relay-untag") || !send_slots(target, sweep, "0"))
		free_sweep(sweep);
}

/* Guards have one of two shapes; see model/key.h. */
static void
begin_pattern(MlcTarget *target, const char *text, uint32 len,
			  MlcVersion version)
{
	static const char *const shapes[] = {"mlc:{%s}", "mlc:%s"};
	char	   *glob = pnstrdup(text, len);

	for (int i = 0; i < (int) lengthof(shapes); i++)
	{
		MlcSweep   *sweep = new_sweep(target, MLC_OP_PATTERN, version);

		sweep->name = MemoryContextStrdup(target->context,
										  psprintf(shapes[i], glob));
		send_step(target, sweep, "0");
	}
}

static void
send_touch(MlcTarget *target, MlcBatchEvent *event, const char *key, uint32 len)
{
	char		version[MLC_VERSION_LEN + 1];
	MlcBody		body;
	MlcCommand	cmd;

	if (!mlc_group_owns_event(target, event) ||
		!mlc_event_body_open(&body, event->payload, event->payloadlen))
		return;
	mlc_version_print(event->version, version);
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_touch");
	mlc_command_add_cstr(&cmd, "2");
	mlc_command_add(&cmd, key, len);
	add_index(&cmd, target, event, MLC_INDEX_FREE, NULL, 0);
	mlc_command_add_cstr(&cmd, target->ns);
	mlc_command_add_cstr(&cmd, target->nonce);
	mlc_command_add(&cmd, version, MLC_VERSION_LEN);
	mlc_command_add_int(&cmd, body.ttl);
	mlc_command_append(&cmd, target->conn);
	expect_event(target, event);
}

void
mlc_free_send_sweeps(MlcTarget *target, MlcBatch *batch, bool patterns)
{
	for (int i = 0; batch->sweeps && i < batch->sweeps->nevents; i++)
	{
		MlcBatchEvent *event = &batch->sweeps->events[i];
		uint32		len;
		const char *text = mlc_batch_text(event, &len);

		if (!mlc_target_concerns(target, event->rule, event->version))
			continue;
		if (event->op == MLC_OP_PATTERN)
			begin_pattern(target, text, len, event->version);
		else if (patterns)
			continue;
		else if (event->op == MLC_OP_TAG)
			begin_tag(target, MLC_INDEX_TAG, text, len, event->version);
		else if (event->op == MLC_OP_FETCHED)
			begin_tag(target, MLC_INDEX_FETCHED, text, len, event->version);
		else
			send_touch(target, event, text, len);
	}
}

/* Cursor and number: what every step answers, and some add keys. */
static bool
is_step(MlcReply *reply)
{
	return reply->type == MLC_REPLY_ARRAY && reply->nelements >= 2 &&
		reply->elements[0]->type == MLC_REPLY_STRING &&
		reply->elements[0]->len < CURSOR_LEN &&
		reply->elements[1]->type == MLC_REPLY_INTEGER;
}

static void
count_swept(MlcTarget *target, MlcOp op, int64 n)
{
	MlcRuleStat *stat;

	target->stat->invalidated += n;
	if (op != MLC_OP_TAG)
		return;
	stat = mlc_segment_rule_stat(MyDatabaseId, MLC_RULE_FETCHED);
	if (stat)
		pg_atomic_fetch_add_u64(&stat->events, n);
}

/* Of keys on their way to another master, the entry may be there already. */
static void
follow_keys(MlcTarget *target, MlcReply *keys)
{
	for (size_t i = 0; target->group && !target->aside && i < keys->nelements; i++)
		if (keys->elements[i]->type == MLC_REPLY_STRING)
			mlc_group_add_detour_key(target->group, keys->elements[i]->str,
									 keys->elements[i]->len);
}

/* A step through indexes in slots: what is left of them? */
static const char *
slots_swept(MlcTarget *target, MlcSweep *sweep, MlcReply *reply)
{
	MlcReply   *missing;

	if (reply->nelements != 5 ||
		reply->elements[3]->type != MLC_REPLY_INTEGER ||
		reply->elements[4]->type != MLC_REPLY_ARRAY)
	{
		free_sweep(sweep);
		return "mlc_untag_slots: unexpected reply";
	}
	missing = reply->elements[4];
	for (size_t i = 0; !target->aside && i < missing->nelements; i++)
		if (missing->elements[i]->type == MLC_REPLY_STRING)
			mlc_group_add_lost(target->group, sweep, missing->elements[i]->str);
	if (reply->elements[3]->integer >= sweep->nslots)
	{
		sweep->slot = sweep->next_slot;
		sweep->skip = 0;
	}
	else
		sweep->skip = reply->elements[3]->integer;
	if (!send_slots(target, sweep, reply->elements[0]->str))
	{
		free_sweep(sweep);
		MLC_FAULT("relay-swept");
		return NULL;
	}
	return mlc_conn_push(target->conn) ? NULL : mlc_conn_error(target->conn);
}

const char *
mlc_free_swept(MlcTarget *target, MlcReply *reply)
{
	MlcSweep   *sweep;

	if (!is_step(reply) || target->sweeps == NIL)
		return "removal by tag or pattern: unexpected reply";
	sweep = linitial(target->sweeps);
	target->sweeps = list_delete_first(target->sweeps);
	count_swept(target, sweep->op, reply->elements[1]->integer);
	if (reply->nelements > 2 && reply->elements[2]->type == MLC_REPLY_ARRAY)
		follow_keys(target, reply->elements[2]);
	if (target->group && sweep->op == MLC_OP_TAG)
		return slots_swept(target, sweep, reply);
	if (strcmp(reply->elements[0]->str, "0") == 0)
	{
		free_sweep(sweep);
		MLC_FAULT("relay-swept");
		return NULL;
	}
	send_step(target, sweep, reply->elements[0]->str);
	return mlc_conn_push(target->conn) ? NULL : mlc_conn_error(target->conn);
}

void
mlc_free_forget(MlcTarget *target)
{
	ListCell   *lc;

	foreach(lc, target->sweeps)
		free_sweep(lfirst(lc));
	list_free(target->sweeps);
	target->sweeps = NIL;
}

/* ---- looking after indexes ---- */

void
mlc_free_tidy(MlcTarget *target)
{
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_tidy");
	mlc_command_add_cstr(&cmd, "0");
	mlc_command_add_cstr(&cmd, target->ns);
	mlc_command_add_cstr(&cmd, target->tidy_cursor[0] ? target->tidy_cursor : "0");
	mlc_command_add_cstr(&cmd, SCAN_COUNT);
	mlc_command_append(&cmd, target->conn);
	mlc_target_expect(target, MLC_EXPECT_TIDY);
	target->sent_at = GetCurrentTimestamp();
	if (!mlc_conn_push(target->conn))
		mlc_target_fail(target, mlc_conn_error(target->conn));
}

const char *
mlc_free_tidied(MlcTarget *target, MlcReply *reply)
{
	if (!is_step(reply))
		return "mlc_tidy: unexpected reply";
	strlcpy(target->tidy_cursor, reply->elements[0]->str,
			sizeof(target->tidy_cursor));
	return NULL;
}

/* ---- purging ---- */

/* The two parts of what a scan answers; false: the target is down. */
static bool
page(MlcTarget *target, MlcReply *reply, const char *what, char *cursor,
	 size_t size, MlcReplyType type)
{
	if (!mlc_target_good(target, reply, what))
		return false;
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements != 2 ||
		reply->elements[0]->type != MLC_REPLY_STRING ||
		reply->elements[1]->type != type)
	{
		mlc_target_fail(target, psprintf("%s: unexpected reply", what));
		return false;
	}
	strlcpy(cursor, reply->elements[0]->str, size);
	return true;
}

/* Removes all that an index leads to, and the index. */
static bool
purge_index(MlcTarget *target, const char *index)
{
	char		cursor[CURSOR_LEN] = "0";

	do
	{
		CHECK_FOR_INTERRUPTS();
		if (!page(target,
				  mlc_command_simple(target->conn, "FCALL", "mlc_untag", "1",
									 index, target->ns, cursor, UNTAG_COUNT,
									 LAST_VERSION, NULL),
				  "mlc_untag", cursor, sizeof(cursor), MLC_REPLY_INTEGER))
			return false;
	} while (strcmp(cursor, "0") != 0);
	return mlc_target_good(target,
						   mlc_command_simple(target->conn, "UNLINK", index, NULL),
						   "UNLINK");
}

/*
 * The same for one slot of a master.  What has only a part here is removed from
 * the others, too; where one of them is away, it stays in the index.
 */
static bool
purge_slot_index(MlcTarget *target, const char *index)
{
	const char *number = strchr(index, '{');
	const char *close = strchr(index, '}');
	char		cursor[CURSOR_LEN] = "0";
	MlcReply   *reply;

	if (number == NULL || close == NULL ||
		strlen(close) < strlen("}tag:") + strlen(target->ns) + 1)
		return true;
	do
	{
		CHECK_FOR_INTERRUPTS();
		if (!mlc_group_ask_anyway(target))
			return false;
		reply = mlc_command_simple(target->conn, "FCALL", "mlc_untag_slots", "0",
								   target->ns,
								   close + strlen("}tag:") + strlen(target->ns) + 1,
								   LAST_VERSION, UNTAG_COUNT, "0", cursor,
								   pnstrdup(number + 1, close - number - 1), NULL);
		if (!mlc_target_good(target, reply, "mlc_untag_slots"))
			return false;
		if (!is_step(reply) || reply->nelements != 5 ||
			reply->elements[2]->type != MLC_REPLY_ARRAY)
		{
			mlc_target_fail(target, "mlc_untag_slots: unexpected reply");
			return false;
		}
		follow_keys(target, reply->elements[2]);
		strlcpy(cursor, reply->elements[0]->str, sizeof(cursor));
	} while (strcmp(cursor, "0") != 0);
	return true;
}

static bool
purge_indexes(MlcTarget *target)
{
	const char *glob = target->group ? "mlc:state:{*}tag:%s:*" : "mlc:tag:%s:*";
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "mlcache purge",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	char		cursor[CURSOR_LEN] = "0";
	bool		good;

	do
	{
		MlcReply   *reply;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		reply = mlc_command_simple(target->conn, "SCAN", cursor, "MATCH",
								   psprintf(glob, target->ns),
								   "COUNT", SCAN_COUNT, NULL);
		good = page(target, reply, "SCAN", cursor, sizeof(cursor),
					MLC_REPLY_ARRAY);
		for (size_t i = 0; good && i < reply->elements[1]->nelements; i++)
		{
			MlcReply   *name = reply->elements[1]->elements[i];

			/* no name of ours has a zero in it */
			if (name->type == MLC_REPLY_STRING && strlen(name->str) == name->len)
				good = target->group ? purge_slot_index(target, name->str) :
					purge_index(target, name->str);
		}
	} while (good && strcmp(cursor, "0") != 0);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return good;
}

bool
mlc_free_purge(MlcTarget *target)
{
	bool		good = purge_indexes(target);

	if (target->group)
		mlc_group_remove_detours(target->group);
	return good;
}
