/*-------------------------------------------------------------------------
 *
 * relay/deliver.c
 *	  One Redis: send a batch as one pipeline, check every single reply.
 *
 * A batch goes out as one pipeline: first the publication of `applying` (a
 * compare-and-set that also carries the `applied` of the batch before), then
 * the commands.  `applied` moves here when every reply was good, and on the
 * server with the next publication, so that it never claims what an unread
 * error would deny.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "miscadmin.h"
#include "redis/command.h"
#include "relay/free.h"
#include "relay/group.h"
#include "relay/purge.h"
#include "relay/target.h"
#include "shm/stats.h"
#include "utils/memutils.h"

#define UNLINK_KEYS 256			/* entries a command; as many guards */
#define APPLY_KEYS 64			/* entries a scripted call */
#define NODE_KINDS 4			/* calls to a master laid out at once */
#define SEND_BYTES (64 * 1024)	/* sent while the rest is still laid out */
#define STREAM "mlc:events"
#define OOM_PAUSE 1000			/* ms without values once Redis was full */

/* nevents: of a cluster, how many of target->sent the command is about. */
static void
expect_events(MlcTarget *target, MlcExpect what, int nevents)
{
	if (target->nexpect == target->expect_size)
	{
		target->expect_size = Max(64, target->expect_size * 2);
		if (target->expect == NULL)
			target->expect = MemoryContextAlloc(target->context,
												sizeof(MlcExpected) * target->expect_size);
		else
			target->expect = repalloc(target->expect,
									  sizeof(MlcExpected) * target->expect_size);
	}
	target->expect[target->nexpect].what = what;
	target->expect[target->nexpect++].nevents = nevents;

	/* Redis need not wait for the last command; trouble is met later */
	if (mlc_conn_unsent(target->conn) >= SEND_BYTES &&
		(target->group == NULL || target->group->announced))
		(void) mlc_conn_push(target->conn);
}

void
mlc_target_expect(MlcTarget *target, MlcExpect what)
{
	expect_events(target, what, 0);
}

/* Remembers, for a cluster, what a command that is made up now is about. */
static void
remember_sent(MlcTarget *target, MlcBatchEvent *event)
{
	if (target->nsent == target->sent_size)
	{
		target->sent_size = Max(64, target->sent_size * 2);
		if (target->sent == NULL)
			target->sent = MemoryContextAlloc(target->context,
											  sizeof(MlcBatchEvent *) * target->sent_size);
		else
			target->sent = repalloc(target->sent,
									sizeof(MlcBatchEvent *) * target->sent_size);
	}
	target->sent[target->nsent++] = event;
}

static void
forget_sent(MlcTarget *target)
{
	target->nexpect = target->expect_next = 0;
	target->nsent = target->sent_next = 0;
}

static void
append_publish(MlcTarget *target, MlcVersion applying)
{
	char		before[MLC_VERSION_LEN + 1];
	char		applied[MLC_VERSION_LEN + 1];
	char		next[MLC_VERSION_LEN + 1];
	MlcCommand	cmd;

	if (mlc_version_compare(applying, target->applied) < 0)
		applying = target->applied;
	if (mlc_version_compare(applying, target->applying) < 0)
		applying = target->applying;
	mlc_version_print(target->applying, before);
	mlc_version_print(target->applied, applied);
	mlc_version_print(applying, next);

	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_publish");
	mlc_command_add_cstr(&cmd, "0");
	mlc_command_add_cstr(&cmd, target->ns);
	mlc_command_add_cstr(&cmd, target->nonce);
	mlc_command_add_cstr(&cmd, before);
	mlc_command_add_cstr(&cmd, applied);
	mlc_command_add_cstr(&cmd, next);
	mlc_command_append(&cmd, target->conn);
	mlc_target_expect(target, MLC_EXPECT_PUBLISH);

	target->applying = applying;
	target->published = target->applied;
	target->sent_at = GetCurrentTimestamp();
}

void
mlc_target_announce(MlcTarget *target, MlcVersion applying)
{
	/* the answer to a heartbeat may be on its way */
	if (target->expect_next == target->nexpect)
		forget_sent(target);
	append_publish(target, applying);
	if (!mlc_conn_push(target->conn))
		mlc_target_fail(target, mlc_conn_error(target->conn));
}

bool
mlc_target_publish(MlcTarget *target)
{
	Assert(mlc_target_is_idle(target));
	forget_sent(target);
	append_publish(target, target->applied);
	if (mlc_conn_push(target->conn))
		return true;
	mlc_target_fail(target, mlc_conn_error(target->conn));
	return false;
}

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

/* Have all the same op and time to live?  And the same version? */
static bool
are_alike(const Values *values, bool *one_version)
{
	const MlcBatchEvent *first = values->events[0];

	*one_version = true;
	for (int i = 1; i < values->n; i++)
	{
		const MlcBatchEvent *event = values->events[i];

		if (*apply_op(event) != *apply_op(first) ||
			event->rule->ttl != first->rule->ttl)
			return false;
		if (mlc_version_compare(event->version, first->version) != 0)
			*one_version = false;
	}
	return true;
}

static void
flush_values(MlcTarget *target, Values *values)
{
	char		versions[APPLY_KEYS * MLC_VERSION_LEN + 1];
	bool		one_version;
	bool		alike;

	if (values->n == 0)
		return;
	alike = are_alike(values, &one_version);
	for (int i = 0; i < values->n; i++)
		mlc_version_print(values->events[i]->version,
						  versions + i * MLC_VERSION_LEN);
	mlc_command_reset(&values->cmd);
	mlc_command_add(&values->cmd, "FCALL", 5);
	mlc_command_add(&values->cmd, "mlc_apply", 9);
	mlc_command_add_int(&values->cmd, values->n);
	for (int i = 0; i < values->n; i++)
		mlc_command_add(&values->cmd, values->events[i]->key,
						values->events[i]->keylen);
	mlc_command_add_cstr(&values->cmd, target->ns);
	mlc_command_add_cstr(&values->cmd, target->nonce);
	for (int i = 0; i < values->n; i++)
	{
		MlcBatchEvent *event = values->events[i];

		if (!alike || i == 0)
		{
			mlc_command_add(&values->cmd, apply_op(event), 1);
			mlc_command_add(&values->cmd, versions + i * MLC_VERSION_LEN,
							MLC_VERSION_LEN *
							(alike && !one_version ? values->n : 1));
			mlc_command_add_int(&values->cmd, event->rule->ttl);
		}
		mlc_command_add(&values->cmd, event->payload ? event->payload : "",
						event->payloadlen);
	}
	mlc_command_append(&values->cmd, target->conn);
	mlc_target_expect(target, MLC_EXPECT_APPLY);
	values->n = 0;
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
	remember_sent(target, event);
	expect_events(target, MLC_EXPECT_UNLINK, 1);
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
		remember_sent(target, removals->events[i]);
	}
	mlc_command_append(&removals->cmd, target->conn);
	expect_events(target, MLC_EXPECT_DELIVER, removals->n);
	removals->n = 0;
}

static void
flush_node_values(MlcTarget *target, Values *values)
{
	char		versions[APPLY_KEYS * MLC_VERSION_LEN + 1];
	bool		one_version;

	if (values->n == 0)
		return;
	(void) are_alike(values, &one_version);
	for (int i = 0; i < values->n; i++)
		mlc_version_print(values->events[i]->version,
						  versions + i * MLC_VERSION_LEN);
	mlc_command_reset(&values->cmd);
	mlc_command_add(&values->cmd, "FCALL", 5);
	mlc_command_add(&values->cmd, "mlc_deliver", 11);
	mlc_command_add(&values->cmd, "0", 1);
	mlc_command_add_cstr(&values->cmd, target->ns);
	mlc_command_add_cstr(&values->cmd, target->nonce);
	mlc_command_add(&values->cmd, apply_op(values->events[0]), 1);
	mlc_command_add_int(&values->cmd, values->events[0]->rule->ttl);
	mlc_command_add(&values->cmd, versions,
					MLC_VERSION_LEN * (one_version ? 1 : values->n));
	for (int i = 0; i < values->n; i++)
	{
		MlcBatchEvent *event = values->events[i];

		mlc_command_add(&values->cmd, event->key, event->keylen);
		mlc_command_add(&values->cmd, event->payload ? event->payload : "",
						event->payloadlen);
		remember_sent(target, event);
	}
	mlc_command_append(&values->cmd, target->conn);
	expect_events(target, MLC_EXPECT_DELIVER, values->n);
	values->n = 0;
}

/* Where an event goes: a call is for one op and one time to live. */
static Values *
values_like(MlcTarget *target, Values *kinds, MlcBatchEvent *event)
{
	Values	   *fullest = kinds;

	for (int i = 0; i < NODE_KINDS; i++)
	{
		MlcBatchEvent *first = kinds[i].events[0];

		if (kinds[i].n == 0 ||
			(*apply_op(first) == *apply_op(event) &&
			 first->rule->ttl == event->rule->ttl))
			return &kinds[i];
		if (kinds[i].n > fullest->n)
			fullest = &kinds[i];
	}
	flush_node_values(target, fullest);
	return fullest;
}

static void
append_stream(MlcTarget *target, MlcOp op, MlcRelayRule *rule,
			  const char *key, uint32 keylen, const char *payload,
			  uint32 payloadlen, MlcVersion version)
{
	char		text[MLC_VERSION_LEN + 1];
	MlcBody		body;
	MlcCommand	cmd;

	mlc_version_print(version, text);
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "XADD");
	mlc_command_add_cstr(&cmd, STREAM);
	mlc_command_add_cstr(&cmd, "MAXLEN");
	mlc_command_add_cstr(&cmd, "~");
	mlc_command_add_int(&cmd, target->stream);
	mlc_command_add_cstr(&cmd, "*");
	mlc_command_add_cstr(&cmd, "op");
	mlc_command_add_cstr(&cmd, mlc_event_op_name(op));
	if (key)
	{
		mlc_command_add_cstr(&cmd, mlc_event_key_name(op));
		mlc_command_add(&cmd, key, keylen);
	}
	mlc_command_add_cstr(&cmd, "version");
	mlc_command_add_cstr(&cmd, text);
	mlc_command_add_cstr(&cmd, "rule");
	mlc_command_add_int(&cmd, rule->id);
	if (mlc_event_has_body(op) &&
		mlc_event_body_open(&body, payload, payloadlen))
	{
		payload = op == MLC_OP_SET ? body.value : NULL;
		payloadlen = body.valuelen;
	}
	if (payload)
	{
		mlc_command_add_cstr(&cmd, "payload");
		mlc_command_add(&cmd, payload, payloadlen);
	}
	mlc_command_append(&cmd, target->conn);
	mlc_target_expect(target, MLC_EXPECT_STREAM);
}

bool
mlc_target_concerns(MlcTarget *target, MlcRelayRule *rule, MlcVersion version)
{
	return (rule->mask & (UINT64CONST(1) << target->number)) != 0 &&
		mlc_version_compare(version, target->applied) > 0;
}

static int
by_version(const void *a, const void *b)
{
	return mlc_version_compare((*(MlcBatchEvent *const *) a)->version,
							   (*(MlcBatchEvent *const *) b)->version);
}

/* The batch's events for the stream, in the order of their versions. */
static void
stream_events(MlcTarget *target, MlcBatch *batch)
{
	MlcBatch   *parts[2] = {batch, batch->sweeps};
	MlcBatchEvent **events = palloc(sizeof(MlcBatchEvent *) *
									Max(batch->nevents + (batch->sweeps ? batch->sweeps->nevents : 0), 1));
	int			n = 0;

	for (int part = 0; part < 2 && parts[part]; part++)
		for (int i = 0; i < parts[part]->nevents; i++)
		{
			MlcBatchEvent *event = &parts[part]->events[i];

			if (!event->dead && event->op != MLC_OP_FETCHED &&
				mlc_target_concerns(target, event->rule, event->version))
				events[n++] = event;
		}
	qsort(events, n, sizeof(MlcBatchEvent *), by_version);
	for (int i = 0; i < n; i++)
	{
		uint32		len;
		const char *text = mlc_batch_text(events[i], &len);

		append_stream(target, events[i]->op, events[i]->rule, text, len,
					  events[i]->payload, events[i]->payloadlen,
					  events[i]->version);
	}
}

/* The stream is in one slot of a cluster, for the events of all. */
static bool
has_stream(MlcTarget *target)
{
	return target->stream > 0 &&
		mlc_group_owns(target, STREAM, strlen(STREAM));
}

/* Purges wait for their own replies, so applying is published first. */
static bool
send_purges(MlcTarget *target, MlcBatch *batch)
{
	ListCell   *lc;

	foreach(lc, batch->purges)
	{
		MlcBatchPurge *purge = lfirst(lc);

		if (!mlc_target_concerns(target, purge->rule, purge->version))
			continue;
		while (!mlc_target_poll(target))
		{
			if (!mlc_target_is_live(target))
				return false;
			(void) mlc_conn_wait(target->conn);
		}
		if (target->group == NULL && !mlc_purge_rule(target, purge->rule))
			return false;
		forget_sent(target);
		if (has_stream(target))
			append_stream(target, MLC_OP_TRUNCATE, purge->rule, NULL, 0,
						  NULL, 0, purge->version);
		LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
		target->stat->purges++;
		LWLockRelease(mlc_shared->lock);
	}
	return true;
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
	Values	   *kinds = palloc0(sizeof(Values) * NODE_KINDS);
	Values	   *strong_removals = palloc0(sizeof(Values));
	MlcCommand	removal;
	StringInfoData guard;

	for (int i = 0; i < NODE_KINDS; i++)
		mlc_command_init(&kinds[i].cmd);
	mlc_command_init(&strong_removals->cmd);
	mlc_command_init(&removal);
	initStringInfo(&guard);
	for (int i = 0; i < batch->nevents; i++)
	{
		MlcBatchEvent *event = &batch->events[i];
		Values	   *under_way;

		if (event->dead || !mlc_group_owns_event(target, event) ||
			!mlc_target_concerns(target, event->rule, event->version))
			continue;
		if (oom && event->op == MLC_OP_REPLICATE)
			*held_back = true;
		if (is_scripted(event) && !oom)
		{
			under_way = values_like(target, kinds, event);
			under_way->events[under_way->n++] = event;
			if (under_way->n == APPLY_KEYS)
				flush_node_values(target, under_way);
		}
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
	for (int i = 0; i < NODE_KINDS; i++)
		flush_node_values(target, &kinds[i]);
	flush_node_removals(target, strong_removals);
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

/*
 * Before anything is removed, for readers that may have it while somebody else
 * loads.  One call a key, since keys of a cluster lie in many slots, and such
 * rules are for what is costly to load, not for what changes all the time.
 */
static void
append_keeps(MlcTarget *target, MlcBatch *batch)
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
			remember_sent(target, event);
			expect_events(target, MLC_EXPECT_UNLINK, 1);
		}
		else
			mlc_target_expect(target, MLC_EXPECT_UNLINK);
	}
}

bool
mlc_target_send(MlcTarget *target, MlcBatch *batch)
{
	static Removals removals;
	static Removals strong_removals;
	static Values values;
	bool		held_back = false;
	bool		oom = target->oom_until > GetCurrentTimestamp() &&
	!MLC_FAULT_SKIP("relay-oom");

	MLC_FAULT("relay-before-applying");
	target->fresh = false;
	if (target->expect_next == target->nexpect)
		forget_sent(target);

	/* what follows allocates in the batch's context, reset with it */
	MemoryContextSwitchTo(batch->context);
	if (target->group == NULL)
		append_publish(target, batch->applying);
	if (batch->purges != NIL)
	{
		if (!mlc_conn_push(target->conn))
		{
			mlc_target_fail(target, mlc_conn_error(target->conn));
			return false;
		}
		if (!send_purges(target, batch))
			return false;
	}

	memset(&removals, 0, offsetof(Removals, guards));
	mlc_command_init(&removals.cmd);
	initStringInfo(&removals.guards);
	memset(&strong_removals, 0, offsetof(Removals, guards));
	mlc_command_init(&strong_removals.cmd);
	memset(&values, 0, sizeof(values));
	mlc_command_init(&values.cmd);

	if (!oom)
		append_keeps(target, batch);
	if (target->group)
		append_node_events(target, batch, oom, &held_back);
	for (int i = 0; i < batch->nevents && target->group == NULL; i++)
	{
		MlcBatchEvent *event = &batch->events[i];

		if (event->dead || !mlc_target_concerns(target, event->rule, event->version))
			continue;
		if (mlc_free_send(target, event, oom))
			continue;
		if (is_scripted(event) && !oom)
		{
			values.events[values.n++] = event;
			if (values.n == APPLY_KEYS)
				flush_values(target, &values);
		}
		else
		{
			bool		strong = event->rule->consistency == MLC_STRONG &&
			!MLC_FAULT_SKIP("relay-marks-stay");
			Removals   *under_way = strong ? &strong_removals : &removals;

			/* a full Redis takes no value: the old one goes meanwhile */
			if (event->op == MLC_OP_REPLICATE)
				held_back = true;
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
	flush_values(target, &values);
	mlc_free_send_sweeps(target, batch);
	if (has_stream(target) && !oom)
		stream_events(target, batch);
	else if (has_stream(target) && (batch->nevents > 0 || batch->sweeps))
		held_back = true;
	mlc_group_wait_announced(target);
	MLC_FAULT("relay-before-send");
	if (!mlc_conn_push(target->conn))
	{
		mlc_target_fail(target, mlc_conn_error(target->conn));
		return false;
	}
	MLC_FAULT("relay-after-send");

	if (held_back)
	{
		/*
		 * A replicated entry must exist, and the stream must not have gaps,
		 * so this batch is not done: wait for the removals, then come again.
		 */
		while (!mlc_target_poll(target))
		{
			if (!mlc_target_is_live(target))
				return false;
			(void) mlc_conn_wait(target->conn);
		}
		mlc_target_fail(target, "Redis is out of memory; replicated values and the stream are held back.");
		return false;
	}
	return true;
}

/* Counts what a scripted call did: {set, skipped, deleted}. */
static bool
count_applied(MlcTarget *target, MlcReply *reply)
{
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements < 3)
		return false;
	for (size_t i = 0; i < reply->nelements; i++)
		if (reply->elements[i]->type != MLC_REPLY_INTEGER)
			return false;
	target->stat->updated += reply->elements[0]->integer;
	target->stat->skipped += reply->elements[1]->integer;
	target->stat->invalidated += reply->elements[2]->integer;
	return true;
}

/*
 * What a reply of a cluster says of keys that are not where we sent them.
 * True if it says that of all.
 */
static bool
take_redirects(MlcTarget *target, MlcExpected *expected, MlcReply *reply)
{
	bool		all = mlc_cluster_is_redirect(reply);
	int			first = target->sent_next;

	target->sent_next += expected->nevents;
	for (int i = 0; i < expected->nevents && all; i++)
		mlc_group_add_detour(target->group, target->sent[first + i]);
	if (expected->what == MLC_EXPECT_DELIVER && reply->type == MLC_REPLY_ARRAY)
		for (size_t i = 3; i < reply->nelements; i++)
		{
			int64		number = reply->elements[i]->integer;

			if (number >= 1 && number <= expected->nevents)
				mlc_group_add_detour(target->group, target->sent[first + number - 1]);
		}
	return all && expected->nevents > 0;
}

/* Checks one reply against what was expected; NULL or what is wrong. */
static const char *
check(MlcTarget *target, MlcExpected *expected, MlcReply *reply)
{
	MlcExpect	what = expected->what;

	if (target->group && take_redirects(target, expected, reply))
		return NULL;
	if (reply->type == MLC_REPLY_ERROR &&
		!(what == MLC_EXPECT_FREE && strncmp(reply->str, "NOPERM", 6) == 0))
	{
		/* a full Redis still takes removals: send those next time */
		if (strncmp(reply->str, "OOM", 3) == 0)
			target->oom_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															OOM_PAUSE);
		if (MLC_FAULT_SKIP("relay-reply"))
			return NULL;
		return psprintf("Redis answered: %s", reply->str);
	}
	switch (what)
	{
		case MLC_EXPECT_PUBLISH:
			if (reply->type != MLC_REPLY_INTEGER)
				return "mlc_publish: unexpected reply";
			if (reply->integer != 1 && target->state == MLC_TARGET_ARMED)
				return "It is not armed any more; it was restarted or promoted.";
			break;
		case MLC_EXPECT_UNLINK:
			if (reply->type != MLC_REPLY_INTEGER)
				return "UNLINK: unexpected reply";
			break;
		case MLC_EXPECT_APPLY:
		case MLC_EXPECT_DELIVER:
			if (!count_applied(target, reply))
				return "mlc_apply or mlc_deliver: unexpected reply";
			break;
		case MLC_EXPECT_STREAM:
			if (reply->type != MLC_REPLY_STRING)
				return "XADD: unexpected reply";
			break;
		case MLC_EXPECT_FREE:
			return mlc_free_sent(target, reply);
		case MLC_EXPECT_SWEEP:
			return mlc_free_swept(target, reply);
		case MLC_EXPECT_TIDY:
			return mlc_free_tidied(target, reply);
		case MLC_EXPECT_ASKING:
			break;
	}
	return NULL;
}

bool
mlc_target_poll(MlcTarget *target)
{
	static MemoryContext context = NULL;
	MemoryContext old;
	int			before = target->expect_next;

	if (!mlc_target_is_live(target))
		return false;
	if (target->expect_next == target->nexpect)
		return true;

	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "mlcache replies",
										ALLOCSET_DEFAULT_SIZES);
	if (!mlc_conn_push(target->conn))
	{
		mlc_target_fail(target, mlc_conn_error(target->conn));
		return false;
	}
	old = MemoryContextSwitchTo(context);
	while (target->expect_next < target->nexpect &&
		   mlc_conn_ready(target->conn))
	{
		MlcReply   *reply = mlc_conn_reply(target->conn);
		const char *wrong;

		if (reply == NULL)
			wrong = mlc_conn_error(target->conn);
		else
			wrong = check(target, &target->expect[target->expect_next], reply);
		if (wrong)
		{
			mlc_target_fail(target, wrong);
			break;
		}
		target->expect_next++;
	}
	if (target->expect_next > before)
		target->sent_at = GetCurrentTimestamp();
	MemoryContextSwitchTo(old);
	MemoryContextReset(context);

	if (!mlc_target_is_live(target))
		return false;
	if (target->expect_next < target->nexpect)
	{
		if (!mlc_conn_is_open(target->conn))
			mlc_target_fail(target, mlc_conn_error(target->conn));
		else if (TimestampDifferenceExceeds(target->sent_at,
											GetCurrentTimestamp(),
											target->options.timeout))
			mlc_target_fail(target, "Redis did not answer in time.");
		return false;
	}
	return true;
}

void
mlc_target_advance(MlcTarget *target, MlcVersion version,
				   TimestampTz committed, TimestampTz oldest)
{
	if (mlc_version_compare(version, target->applied) <= 0 ||
		!mlc_group_may_advance(target))
		return;
	target->applied = version;
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	target->stat->applied_tli = version.tli;
	target->stat->applied_lsn = version.lsn;
	if (committed != 0)
	{
		double		lag = (GetCurrentTimestamp() - oldest) / 1000.0;

		mlc_stats_add(MLC_TIME_APPLY, (uint64) Max(lag * 1e6, 0));
		target->stat->applied_commit = committed;
		target->stat->batches++;
		target->stat->lag_ms = lag;
		if (lag > target->stat->lag_ms_max)
			target->stat->lag_ms_max = lag;
	}
	LWLockRelease(mlc_shared->lock);
}
