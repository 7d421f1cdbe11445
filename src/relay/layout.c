/*-------------------------------------------------------------------------
 *
 * relay/layout.c
 *	  A batch's events as commands: removals, values, copies that are kept.
 *
 * One Redis takes commands about many keys.  A master of a cluster takes such
 * only where the keys are arguments of a function, since they lie in many slots.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "redis/command.h"
#include "relay/deliver.h"
#include "relay/free.h"
#include "relay/group.h"

#define UNLINK_KEYS 256			/* entries a command; as many guards */
#define APPLY_KEYS 64			/* entries a scripted call */
#define KINDS 4					/* such calls laid out at once */

/* Removals under way: entries, then as many guards. */
typedef struct Removals
{
	MlcCommand	cmd;
	int			n;
	const char *keys[UNLINK_KEYS];
	uint32		lens[UNLINK_KEYS];
	StringInfoData guards;

	/* of strong keys */
	bool		degrade;
	MlcVersion	versions[UNLINK_KEYS];
} Removals;

/*
 * Strong keys: what goes is the entry and the lease, but no mark.  What was
 * filled after the commit's own release stays, unless a commit may have gone
 * by without any mark.
 */
static void
flush_strong_removals(MlcTarget *target, Removals *removals)
{
	char		versions[UNLINK_KEYS][MLC_VERSION_LEN + 1];

	if (removals->n == 0)
		return;
	mlc_command_reset(&removals->cmd);
	mlc_command_add_cstr(&removals->cmd, "FCALL");
	mlc_command_add_cstr(&removals->cmd, "mlc_invalidate");
	mlc_command_add_int(&removals->cmd, removals->n);
	for (int i = 0; i < removals->n; i++)
		mlc_command_add(&removals->cmd, removals->keys[i], removals->lens[i]);
	mlc_command_add_cstr(&removals->cmd, target->ns);
	mlc_command_add_cstr(&removals->cmd, "");
	for (int i = 0; i < removals->n && !removals->degrade; i++)
	{
		mlc_version_print(removals->versions[i], versions[i]);
		mlc_command_add(&removals->cmd, versions[i], MLC_VERSION_LEN);
	}
	mlc_command_append(&removals->cmd, target->conn);
	mlc_target_expect(target, MLC_EXPECT_UNLINK);
	target->stat->invalidated += removals->n;
	removals->n = 0;
	removals->degrade = false;
}

static void
flush_removals(MlcTarget *target, Removals *removals)
{
	Size		room = 0;

	if (removals->n == 0)
		return;

	/* guards lie in one buffer that must not move while it is referenced */
	for (int i = 0; i < removals->n; i++)
		room += removals->lens[i] + 8;
	resetStringInfo(&removals->guards);
	enlargeStringInfo(&removals->guards, room);

	mlc_command_reset(&removals->cmd);
	mlc_command_add(&removals->cmd, "UNLINK", 6);
	for (int i = 0; i < removals->n; i++)
	{
		int			start = removals->guards.len;

		mlc_command_add(&removals->cmd, removals->keys[i], removals->lens[i]);
		mlc_key_guard(removals->keys[i], removals->lens[i], &removals->guards);
		mlc_command_add(&removals->cmd, removals->guards.data + start,
						removals->guards.len - start);
	}
	mlc_command_append(&removals->cmd, target->conn);
	mlc_target_expect(target, MLC_EXPECT_UNLINK);
	target->stat->invalidated += removals->n;
	removals->n = 0;
}

/* Versioned values under way. */
typedef struct Values
{
	MlcCommand	cmd;
	int			n;
	MlcBatchEvent *events[APPLY_KEYS];
} Values;

static const char *
apply_op(const MlcBatchEvent *event)
{
	return event->op == MLC_OP_UPDATE ? "u" :
		event->op == MLC_OP_REPLICATE ? "r" : "i";
}

static bool
have_one_version(const Values *values)
{
	for (int i = 1; i < values->n; i++)
		if (mlc_version_compare(values->events[i]->version,
								values->events[0]->version) != 0)
			return false;
	return true;
}

/* One op, one time to live: see values_like(). */
static void
flush_values(MlcTarget *target, Values *values)
{
	char		versions[APPLY_KEYS * MLC_VERSION_LEN + 1];
	bool		node = target->group != NULL;

	if (values->n == 0)
		return;
	for (int i = 0; i < values->n; i++)
		mlc_version_print(values->events[i]->version,
						  versions + i * MLC_VERSION_LEN);
	mlc_command_reset(&values->cmd);
	mlc_command_add(&values->cmd, "FCALL", 5);
	if (node)
		mlc_command_add(&values->cmd, "mlc_deliver", 11);
	else
		mlc_command_add(&values->cmd, "mlc_apply", 9);
	mlc_command_add_int(&values->cmd, node ? 0 : values->n);
	for (int i = 0; i < values->n && !node; i++)
		mlc_command_add(&values->cmd, values->events[i]->key,
						values->events[i]->keylen);
	mlc_command_add_cstr(&values->cmd, target->ns);
	mlc_command_add_cstr(&values->cmd, target->nonce);
	mlc_command_add(&values->cmd, apply_op(values->events[0]), 1);
	mlc_command_add_int(&values->cmd, values->events[0]->rule->ttl);
	mlc_command_add(&values->cmd, versions,
					MLC_VERSION_LEN * (have_one_version(values) ? 1 : values->n));
	for (int i = 0; i < values->n; i++)
	{
		MlcBatchEvent *event = values->events[i];

		if (node)
		{
			mlc_command_add(&values->cmd, event->key, event->keylen);
			mlc_answer_remember(target, event);
		}
		mlc_command_add(&values->cmd, event->payload ? event->payload : "",
						event->payloadlen);
	}
	mlc_command_append(&values->cmd, target->conn);
	if (node)
		mlc_answer_expect(target, MLC_EXPECT_DELIVER, values->n);
	else
		mlc_target_expect(target, MLC_EXPECT_APPLY);
	values->n = 0;
}

/* Where an event goes: a call is for one op and one time to live. */
static Values *
values_like(MlcTarget *target, Values *kinds, MlcBatchEvent *event)
{
	Values	   *fullest = kinds;

	for (int i = 0; i < KINDS; i++)
	{
		MlcBatchEvent *first = kinds[i].events[0];

		if (kinds[i].n == 0 ||
			(*apply_op(first) == *apply_op(event) &&
			 first->rule->ttl == event->rule->ttl))
			return &kinds[i];
		if (kinds[i].n > fullest->n)
			fullest = &kinds[i];
	}
	flush_values(target, fullest);
	return fullest;
}

static void
begin_values(Values *kinds)
{
	memset(kinds, 0, sizeof(Values) * KINDS);
	for (int i = 0; i < KINDS; i++)
		mlc_command_init(&kinds[i].cmd);
}

static void
add_value(MlcTarget *target, Values *kinds, MlcBatchEvent *event)
{
	Values	   *values = values_like(target, kinds, event);

	values->events[values->n++] = event;
	if (values->n == APPLY_KEYS)
		flush_values(target, values);
}

static void
end_values(MlcTarget *target, Values *kinds)
{
	for (int i = 0; i < KINDS; i++)
		flush_values(target, &kinds[i]);
}

/* ---- to a master of a cluster: keys of many slots ---- */

/* Entry and guard are in one slot; more of them may not be in a command. */
static void
append_removal(MlcTarget *target, MlcBatchEvent *event, MlcCommand *cmd,
			   StringInfo guard)
{
	resetStringInfo(guard);
	mlc_key_guard(event->key, event->keylen, guard);
	mlc_command_reset(cmd);
	mlc_command_add(cmd, "UNLINK", 6);
	mlc_command_add(cmd, event->key, event->keylen);
	mlc_command_add(cmd, guard->data, guard->len);
	mlc_command_append(cmd, target->conn);
	mlc_answer_remember(target, event);
	mlc_answer_expect(target, MLC_EXPECT_UNLINK, 1);
	target->stat->invalidated++;
}

/* Strong keys: marks stay. */
static void
flush_node_removals(MlcTarget *target, Values *removals)
{
	if (removals->n == 0)
		return;
	mlc_command_reset(&removals->cmd);
	mlc_command_add(&removals->cmd, "FCALL", 5);
	mlc_command_add(&removals->cmd, "mlc_remove", 10);
	mlc_command_add(&removals->cmd, "0", 1);
	mlc_command_add_cstr(&removals->cmd, target->ns);
	mlc_command_add(&removals->cmd, "", 0);
	for (int i = 0; i < removals->n; i++)
	{
		mlc_command_add(&removals->cmd, removals->events[i]->key,
						removals->events[i]->keylen);
		mlc_answer_remember(target, removals->events[i]);
	}
	mlc_command_append(&removals->cmd, target->conn);
	mlc_answer_expect(target, MLC_EXPECT_DELIVER, removals->n);
	removals->n = 0;
}

/*
 * Must the event be refused when it arrives late, over a connection that was
 * given up?  Values must; and so must a removal of what is replicated, which
 * may be there again by then, and nobody would bring it back.  Any other
 * removal is harmless at any time.
 */
static bool
is_scripted(MlcBatchEvent *event)
{
	return event->op == MLC_OP_UPDATE || event->op == MLC_OP_REPLICATE ||
		(event->rule->replicate && !MLC_FAULT_SKIP("relay-late-removal"));
}

/* The events of a batch that concern a master of a cluster. */
static void
append_node_events(MlcTarget *target, MlcBatch *batch, bool oom, bool *held_back)
{
	static Values kinds[KINDS];
	Values	   *strong_removals = palloc0(sizeof(Values));
	MlcCommand	removal;
	StringInfoData guard;

	begin_values(kinds);
	mlc_command_init(&strong_removals->cmd);
	mlc_command_init(&removal);
	initStringInfo(&guard);
	for (int i = 0; i < batch->nevents; i++)
	{
		MlcBatchEvent *event = &batch->events[i];

		if (event->dead || !mlc_group_owns_event(target, event) ||
			!mlc_target_concerns(target, event->rule, event->version))
			continue;
		if (oom && event->op == MLC_OP_REPLICATE)
			*held_back = true;
		if (mlc_free_send(target, event, oom))
			continue;
		if (is_scripted(event) && !oom)
			add_value(target, kinds, event);
		else if (event->rule->consistency == MLC_STRONG &&
				 !MLC_FAULT_SKIP("relay-marks-stay"))
		{
			strong_removals->events[strong_removals->n++] = event;
			if (strong_removals->n == APPLY_KEYS)
				flush_node_removals(target, strong_removals);
		}
		else
			append_removal(target, event, &removal, &guard);
	}
	end_values(target, kinds);
	flush_node_removals(target, strong_removals);
}

/* The events of a batch that concern one Redis. */
static void
append_server_events(MlcTarget *target, MlcBatch *batch, bool oom, bool *held_back)
{
	static Removals removals;
	static Removals strong_removals;
	static Values kinds[KINDS];

	memset(&removals, 0, offsetof(Removals, guards));
	mlc_command_init(&removals.cmd);
	initStringInfo(&removals.guards);
	memset(&strong_removals, 0, offsetof(Removals, guards));
	mlc_command_init(&strong_removals.cmd);
	begin_values(kinds);
	for (int i = 0; i < batch->nevents; i++)
	{
		MlcBatchEvent *event = &batch->events[i];

		if (event->dead || !mlc_target_concerns(target, event->rule, event->version))
			continue;
		if (mlc_free_send(target, event, oom))
			continue;
		if (is_scripted(event) && !oom)
			add_value(target, kinds, event);
		else
		{
			bool		strong = event->rule->consistency == MLC_STRONG &&
			!MLC_FAULT_SKIP("relay-marks-stay");
			Removals   *under_way = strong ? &strong_removals : &removals;

			/* a full Redis takes no value: the old one goes meanwhile */
			if (event->op == MLC_OP_REPLICATE)
				*held_back = true;
			under_way->degrade |= event->rule->degrade;
			under_way->versions[under_way->n] = event->version;
			under_way->keys[under_way->n] = event->key;
			under_way->lens[under_way->n++] = event->keylen;
			if (under_way->n < UNLINK_KEYS)
				continue;
			if (strong)
				flush_strong_removals(target, &strong_removals);
			else
				flush_removals(target, &removals);
		}
	}
	flush_removals(target, &removals);
	flush_strong_removals(target, &strong_removals);
	end_values(target, kinds);
}

bool
mlc_layout_events(MlcTarget *target, MlcBatch *batch, bool oom)
{
	bool		held_back = false;

	if (target->group)
		append_node_events(target, batch, oom, &held_back);
	else
		append_server_events(target, batch, oom, &held_back);
	return held_back;
}

/* Is a copy to be kept of what the event removes? */
static bool
is_kept(MlcTarget *target, MlcBatchEvent *event)
{
	return !event->dead && event->rule->stale > 0 &&
		event->op != MLC_OP_UPDATE && event->op != MLC_OP_REPLICATE &&
		mlc_target_concerns(target, event->rule, event->version) &&
		(target->group == NULL || mlc_group_owns_event(target, event));
}

void
mlc_layout_keeps(MlcTarget *target, MlcBatch *batch)
{
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	for (int i = 0; i < batch->nevents; i++)
	{
		MlcBatchEvent *event = &batch->events[i];

		if (!is_kept(target, event))
			continue;
		mlc_command_reset(&cmd);
		mlc_command_add(&cmd, "FCALL", 5);
		mlc_command_add(&cmd, "mlc_keep", 8);
		mlc_command_add(&cmd, "1", 1);
		mlc_command_add(&cmd, event->key, event->keylen);
		mlc_command_add_cstr(&cmd, target->ns);
		mlc_command_add_int(&cmd, event->rule->stale);
		mlc_command_append(&cmd, target->conn);
		if (target->group)
		{
			mlc_answer_remember(target, event);
			mlc_answer_expect(target, MLC_EXPECT_UNLINK, 1);
		}
		else
			mlc_target_expect(target, MLC_EXPECT_UNLINK);
	}
}
