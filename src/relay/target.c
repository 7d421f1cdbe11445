/*-------------------------------------------------------------------------
 *
 * relay/target.c
 *	  One Redis: deliver in order, check every reply, publish, arm, purge.
 *
 * A batch goes out as one pipeline: first the publication of `applying` (a
 * compare-and-set that also carries the `applied` of the batch before), then
 * the commands.  `applied` moves here when every reply was good, and on the
 * server with the next publication, so that it never claims what an unread
 * error would deny.
 *
 * A relay adopts a server under a nonce of its own: a publication that a dead
 * relay left in a socket buffer is refused; its other late commands are
 * harmless, being removals or guarded by version.  The function library keeps
 * the nonce in volatile memory, too: a server that restarted or was promoted
 * is not armed until a relay has delivered and said so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/wal.h"
#include "catalog/pg_user_mapping.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "redis/command.h"
#include "redis/server.h"
#include "redis/script.h"
#include "relay/target.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define UNLINK_KEYS 256			/* entries a command; as many guards */
#define APPLY_KEYS 64			/* entries a scripted call */
#define SCAN_COUNT "1000"
#define OOM_PAUSE 1000			/* ms without values once Redis was full */

/* ---- life ---- */

MlcTarget *
mlc_target_create(MemoryContext parent, Oid serverid, int number,
				  MlcTargetStat *stat)
{
	MemoryContext context = AllocSetContextCreate(parent, "mlcache target",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MlcTarget  *target = palloc0(sizeof(MlcTarget));
	MlcServer  *server = mlc_server_load(serverid);

	target->context = context;
	target->serverid = serverid;
	target->number = number;
	target->name = server->name;
	target->options = server->options;
	target->fingerprint = server->fingerprint;
	target->ns = server->ns;
	target->stream = server->stream;
	target->stat = stat;
	target->state = MLC_TARGET_DOWN;
	target->conn = mlc_conn_create(context, &target->options);
	MemoryContextSwitchTo(old);
	return target;
}

void
mlc_target_destroy(MlcTarget *target)
{
	mlc_conn_close(target->conn);
	MemoryContextDelete(target->context);
}

static void
set_state(MlcTarget *target, MlcTargetState state)
{
	target->state = state;
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	target->stat->state = state;
	LWLockRelease(mlc_shared->lock);
}

bool
mlc_target_is_live(MlcTarget *target)
{
	return target->state == MLC_TARGET_CATCHUP ||
		target->state == MLC_TARGET_ARMED;
}

bool
mlc_target_is_idle(MlcTarget *target)
{
	return mlc_target_is_live(target) &&
		target->expect_next == target->nexpect;
}

void
mlc_target_fail(MlcTarget *target, const char *reason)
{
	char		message[MLC_ERROR_LEN];

	strlcpy(message, reason, sizeof(message));
	mlc_conn_close(target->conn);
	target->nexpect = target->expect_next = 0;
	target->backoff = target->backoff == 0 ? 20 :
		Min(target->backoff * 2, mlc_reconnect_max);
	target->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   target->backoff);
	if (target->state != MLC_TARGET_GIVEN_UP)
		target->state = MLC_TARGET_DOWN;

	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	if (strcmp(target->stat->error, message) != 0 ||
		target->stat->state == MLC_TARGET_ARMED)
	{
		LWLockRelease(mlc_shared->lock);
		ereport(WARNING,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("mlcache: server \"%s\" is out of reach", target->name),
				 errdetail("%s", message)));
		LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	}
	target->stat->state = target->state;
	target->stat->errors++;
	strlcpy(target->stat->error, message, MLC_ERROR_LEN);
	target->stat->error_at = GetCurrentTimestamp();
	LWLockRelease(mlc_shared->lock);
}

/* ---- small round trips ---- */

/* True if the reply is there and no error; otherwise fails the target. */
static bool
good(MlcTarget *target, MlcReply *reply, const char *what)
{
	if (reply == NULL)
	{
		mlc_target_fail(target, mlc_conn_error(target->conn));
		return false;
	}
	if (reply->type == MLC_REPLY_ERROR)
	{
		mlc_target_fail(target, psprintf("%s: %s", what, reply->str));
		return false;
	}
	return true;
}

static void
new_nonce(char *nonce)
{
	uint8		bytes[MLC_NONCE_LEN / 2];

	if (!pg_strong_random(bytes, sizeof(bytes)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random nonce")));
	for (int i = 0; i < (int) lengthof(bytes); i++)
		sprintf(nonce + 2 * i, "%02x", bytes[i]);
}

static char *
system_identifier(void)
{
	return psprintf(UINT64_FORMAT, GetSystemIdentifier());
}

/* ---- purge ---- */

/* The key that a guard belongs to, in the current context; NULL: none. */
static char *
key_of_guard(const char *guard, size_t len, size_t *keylen)
{
	StringInfoData again;
	const char *candidates[2];
	size_t		lens[2];
	int			n = 0;

	if (len < 5 || memcmp(guard, "mlc:", 4) != 0)
		return NULL;
	if (guard[4] == '{' && guard[len - 1] == '}')
	{
		candidates[n] = guard + 5;
		lens[n++] = len - 6;
	}
	candidates[n] = guard + 4;
	lens[n++] = len - 4;

	initStringInfo(&again);
	for (int i = 0; i < n; i++)
	{
		resetStringInfo(&again);
		mlc_key_guard(candidates[i], lens[i], &again);
		if (again.len == (int) len && memcmp(again.data, guard, len) == 0)
		{
			*keylen = lens[i];
			return pnstrdup(candidates[i], lens[i]);
		}
	}
	return NULL;
}

/* Unlinks every name that matches glob and, as a key or guard, the template. */
static bool
purge_glob(MlcTarget *target, MlcRelayRule *rule, const char *glob,
		   bool guards)
{
	char	   *cursor = "0";

	do
	{
		MlcReply   *reply;
		MlcReply   *names;
		MlcCommand	unlink;

		CHECK_FOR_INTERRUPTS();
		reply = mlc_command_simple(target->conn, "SCAN", cursor, "MATCH", glob,
								   "COUNT", SCAN_COUNT, NULL);
		if (!good(target, reply, "SCAN"))
			return false;
		if (reply->type != MLC_REPLY_ARRAY || reply->nelements != 2 ||
			reply->elements[1]->type != MLC_REPLY_ARRAY)
		{
			mlc_target_fail(target, "SCAN: unexpected reply");
			return false;
		}
		cursor = reply->elements[0]->str;
		names = reply->elements[1];

		mlc_command_init(&unlink);
		mlc_command_add_cstr(&unlink, "UNLINK");
		for (size_t i = 0; i < names->nelements; i++)
		{
			MlcReply   *name = names->elements[i];
			char	   *values[MLC_KEY_MAX_COLUMNS];
			char	   *key = name->str;
			size_t		keylen = name->len;

			if (guards)
				key = key_of_guard(name->str, name->len, &keylen);
			if (key && mlc_key_match(rule->template, key, keylen, values))
				mlc_command_add(&unlink, name->str, name->len);
		}
		if (unlink.argc > 1 &&
			!good(target, mlc_command_call(&unlink, target->conn), "UNLINK"))
			return false;
	} while (strcmp(cursor, "0") != 0);
	return true;
}

bool
mlc_target_purge(MlcTarget *target, MlcRelayRule *rule)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "mlcache purge",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		done;

	/* guards first: with its guard a lease dies, and nothing can be filled */
	done = purge_glob(target, rule, rule->guard_glob, true) &&
		purge_glob(target, rule, rule->glob, false);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return done;
}

/* ---- connect ---- */

/* Starts a new history: everything of ours goes, then applied = position. */
static bool
start_over(MlcTarget *target, MlcVersion position, HTAB *rules,
		   const char *reason)
{
	char		text[MLC_VERSION_LEN + 1];
	HASH_SEQ_STATUS status;
	MlcRelayRule *rule;

	ereport(LOG,
			(errmsg("mlcache: server \"%s\" is purged", target->name),
			 errdetail("%s", reason)));
	new_nonce(target->nonce);
	if (!good(target,
			  mlc_command_simple(target->conn, "FCALL", "mlc_disarm", "0",
								 target->ns, target->nonce,
								 system_identifier(), NULL), "mlc_disarm"))
		return false;
	MLC_FAULT("relay-purge");
	hash_seq_init(&status, rules);
	while ((rule = hash_seq_search(&status)) != NULL)
	{
		if (!mlc_target_purge(target, rule))
		{
			hash_seq_term(&status);
			return false;
		}
	}
	mlc_version_print(position, text);
	if (!good(target,
			  mlc_command_simple(target->conn, "FCALL", "mlc_begin", "0",
								 target->ns, target->nonce,
								 system_identifier(), text, NULL), "mlc_begin"))
		return false;
	target->applied = target->published = target->applying = position;
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	target->stat->purges++;
	LWLockRelease(mlc_shared->lock);
	return true;
}

/* Why what the server holds cannot be caught up, or NULL if it can. */
static const char *
gap(MlcReply **state, MlcVersion *applied, MlcVersion position,
	XLogRecPtr confirmed)
{
	if (strcmp(state[0]->str, system_identifier()) != 0)
		return state[0]->len == 0 ? "It holds no state of this database." :
			"It belonged to a database system with another identifier.";
	if (!mlc_version_parse(state[1]->str, state[1]->len, applied))
		return "It does not know what was applied.";
	if (applied->tli != position.tli)
		return "What was applied there belongs to another timeline.";
	if (applied->lsn < confirmed)
		return "It is further behind than the redelivery window.";
	if (applied->lsn > GetXLogInsertRecPtr())
		return "It is ahead of this server.";
	return NULL;
}

bool
mlc_target_connect(MlcTarget *target, MlcVersion position,
				   XLogRecPtr confirmed, HTAB *rules)
{
	MlcReply   *reply;
	const char *reason;
	char	   *error;
	bool		armed = false;

	if (!mlc_conn_open(target->conn))
	{
		mlc_target_fail(target, mlc_conn_error(target->conn));
		return false;
	}
	if (!mlc_script_ensure(target->conn, &error))
	{
		mlc_target_fail(target, error);
		return false;
	}
	reply = mlc_command_simple(target->conn, "FCALL", "mlc_state", "0",
							   target->ns, NULL);
	if (!good(target, reply, "mlc_state"))
		return false;
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements != 5)
	{
		mlc_target_fail(target, "mlc_state: unexpected reply");
		return false;
	}
	for (int i = 0; i < 4; i++)
		if (reply->elements[i]->type != MLC_REPLY_STRING)
		{
			mlc_target_fail(target, "mlc_state: unexpected reply");
			return false;
		}

	reason = gap(reply->elements, &target->applied, position, confirmed);
	if (reason)
	{
		if (!start_over(target, position, rules, reason))
			return false;
	}
	else
	{
		char		applied[MLC_VERSION_LEN + 1];
		char		nonce[MLC_NONCE_LEN + 1];
		MlcReply   *adopted;

		/* the very process that a relay of this database armed? */
		new_nonce(nonce);
		adopted = mlc_command_simple(target->conn, "FCALL", "mlc_adopt", "0",
									 target->ns, reply->elements[3]->str,
									 nonce, NULL);
		if (!good(target, adopted, "mlc_adopt"))
			return false;
		armed = adopted->type == MLC_REPLY_INTEGER && adopted->integer == 1;
		strlcpy(target->nonce, nonce, sizeof(target->nonce));
		target->published = target->applied;
		target->applying = target->applied;
		if (armed)
		{
			if (!mlc_version_parse(reply->elements[2]->str,
								   reply->elements[2]->len, &target->applying))
			{
				mlc_target_fail(target, "mlc_state: unexpected reply");
				return false;
			}
		}
		else
		{
			mlc_version_print(target->applied, applied);
			if (!good(target,
					  mlc_command_simple(target->conn, "FCALL", "mlc_begin",
										 "0", target->ns, target->nonce,
										 system_identifier(), applied, NULL),
					  "mlc_begin"))
				return false;
		}
	}

	target->nexpect = target->expect_next = 0;
	target->arm_at = mlc_wal_insert_end();
	set_state(target, armed ? MLC_TARGET_ARMED : MLC_TARGET_CATCHUP);
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	target->stat->reconnects++;
	target->stat->applied_tli = target->applied.tli;
	target->stat->applied_lsn = target->applied.lsn;
	target->stat->catch_up_from = target->applied.lsn;
	target->stat->catch_up_at = GetCurrentTimestamp();
	LWLockRelease(mlc_shared->lock);
	ereport(LOG,
			(errmsg("mlcache: server \"%s\" is connected, applied up to %X/%X%s",
					target->name, LSN_FORMAT_ARGS(target->applied.lsn),
					armed ? ", armed" : "")));
	return true;
}

bool
mlc_target_arm(MlcTarget *target)
{
	MLC_FAULT("relay-before-arm");
	if (!good(target,
			  mlc_command_simple(target->conn, "FCALL", "mlc_arm", "0",
								 target->ns, target->nonce, NULL), "mlc_arm"))
		return false;
	target->backoff = 0;
	set_state(target, MLC_TARGET_ARMED);
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	target->stat->error[0] = '\0';
	LWLockRelease(mlc_shared->lock);
	ereport(LOG, (errmsg("mlcache: server \"%s\" is armed", target->name)));
	return true;
}

/* ---- deliver ---- */

static void
expect(MlcTarget *target, MlcExpect what)
{
	if (target->nexpect == target->expect_size)
	{
		target->expect_size = Max(64, target->expect_size * 2);
		if (target->expect == NULL)
			target->expect = MemoryContextAlloc(target->context,
												sizeof(MlcExpect) * target->expect_size);
		else
			target->expect = repalloc(target->expect,
									  sizeof(MlcExpect) * target->expect_size);
	}
	target->expect[target->nexpect++] = what;
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
	expect(target, MLC_EXPECT_PUBLISH);

	target->applying = applying;
	target->published = target->applied;
	target->sent_at = GetCurrentTimestamp();
}

bool
mlc_target_publish(MlcTarget *target)
{
	Assert(mlc_target_is_idle(target));
	target->nexpect = target->expect_next = 0;
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
} Removals;

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
	expect(target, MLC_EXPECT_UNLINK);
	removals->n = 0;
}

/* Versioned values under way. */
typedef struct Values
{
	MlcCommand	cmd;
	int			n;
	MlcBatchEvent *events[APPLY_KEYS];
} Values;

static void
flush_values(MlcTarget *target, Values *values)
{
	static const char *const ops[] = {"u", "r"};
	char		versions[APPLY_KEYS][MLC_VERSION_LEN + 1];

	if (values->n == 0)
		return;
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

		mlc_version_print(event->version, versions[i]);
		mlc_command_add(&values->cmd, ops[event->op == MLC_OP_REPLICATE], 1);
		mlc_command_add(&values->cmd, versions[i], MLC_VERSION_LEN);
		mlc_command_add_int(&values->cmd, event->rule->ttl);
		mlc_command_add(&values->cmd, event->payload, event->payloadlen);
	}
	mlc_command_append(&values->cmd, target->conn);
	expect(target, MLC_EXPECT_APPLY);
	values->n = 0;
}

static const char *
stream_op(MlcOp op)
{
	return mlc_event_op_name(op);
}

static void
append_stream(MlcTarget *target, MlcOp op, MlcRelayRule *rule,
			  const char *key, uint32 keylen, const char *payload,
			  uint32 payloadlen, MlcVersion version)
{
	char		text[MLC_VERSION_LEN + 1];
	MlcCommand	cmd;

	mlc_version_print(version, text);
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "XADD");
	mlc_command_add_cstr(&cmd, "mlc:events");
	mlc_command_add_cstr(&cmd, "MAXLEN");
	mlc_command_add_cstr(&cmd, "~");
	mlc_command_add_int(&cmd, target->stream);
	mlc_command_add_cstr(&cmd, "*");
	mlc_command_add_cstr(&cmd, "op");
	mlc_command_add_cstr(&cmd, stream_op(op));
	if (key)
	{
		mlc_command_add_cstr(&cmd, "key");
		mlc_command_add(&cmd, key, keylen);
	}
	mlc_command_add_cstr(&cmd, "version");
	mlc_command_add_cstr(&cmd, text);
	mlc_command_add_cstr(&cmd, "rule");
	mlc_command_add_int(&cmd, rule->id);
	if (payload)
	{
		mlc_command_add_cstr(&cmd, "payload");
		mlc_command_add(&cmd, payload, payloadlen);
	}
	mlc_command_append(&cmd, target->conn);
	expect(target, MLC_EXPECT_STREAM);
}

static bool
concerns(MlcTarget *target, MlcRelayRule *rule, MlcVersion version)
{
	return (rule->mask & (1U << target->number)) != 0 &&
		mlc_version_compare(version, target->applied) > 0;
}

/* Purges wait for their own replies, so applying is published first. */
static bool
send_purges(MlcTarget *target, MlcBatch *batch)
{
	ListCell   *lc;

	foreach(lc, batch->purges)
	{
		MlcBatchPurge *purge = lfirst(lc);

		if (!concerns(target, purge->rule, purge->version))
			continue;
		while (!mlc_target_poll(target))
		{
			if (!mlc_target_is_live(target))
				return false;
			(void) mlc_conn_wait(target->conn);
		}
		if (!mlc_target_purge(target, purge->rule))
			return false;
		target->nexpect = target->expect_next = 0;
		if (target->stream > 0)
			append_stream(target, MLC_OP_TRUNCATE, purge->rule, NULL, 0,
						  NULL, 0, purge->version);
		LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
		target->stat->purges++;
		LWLockRelease(mlc_shared->lock);
	}
	return true;
}

bool
mlc_target_send(MlcTarget *target, MlcBatch *batch)
{
	static Removals removals;
	static Values values;
	bool		held_back = false;
	bool		oom = target->oom_until > GetCurrentTimestamp();

	MLC_FAULT("relay-before-applying");
	if (target->expect_next == target->nexpect)
		target->nexpect = target->expect_next = 0;

	/* what follows allocates in the batch's context, reset with it */
	MemoryContextSwitchTo(batch->context);
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
	memset(&values, 0, sizeof(values));
	mlc_command_init(&values.cmd);

	for (int i = 0; i < batch->nevents; i++)
	{
		MlcBatchEvent *event = &batch->events[i];

		if (event->dead || !concerns(target, event->rule, event->version))
			continue;
		if ((event->op == MLC_OP_UPDATE || event->op == MLC_OP_REPLICATE) &&
			!oom)
		{
			values.events[values.n++] = event;
			if (values.n == APPLY_KEYS)
				flush_values(target, &values);
		}
		else
		{
			/* a full Redis takes no value: the old one goes meanwhile */
			if (event->op == MLC_OP_REPLICATE)
				held_back = true;
			removals.keys[removals.n] = event->key;
			removals.lens[removals.n++] = event->keylen;
			if (removals.n == UNLINK_KEYS)
				flush_removals(target, &removals);
		}
		if (target->stream > 0 && !oom)
			append_stream(target, event->op, event->rule, event->key,
						  event->keylen, event->payload, event->payloadlen,
						  event->version);
	}
	flush_removals(target, &removals);
	flush_values(target, &values);
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
		 * A replicated entry must exist, so this batch is not done: wait for
		 * the removals, then come again with its values.
		 */
		while (!mlc_target_poll(target))
		{
			if (!mlc_target_is_live(target))
				return false;
			(void) mlc_conn_wait(target->conn);
		}
		mlc_target_fail(target, "Redis is out of memory; replicated values are held back.");
		return false;
	}
	return true;
}

/* Counts what a scripted call did: {set, skipped, deleted}. */
static bool
count_applied(MlcTarget *target, MlcReply *reply)
{
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements != 3)
		return false;
	for (int i = 0; i < 3; i++)
		if (reply->elements[i]->type != MLC_REPLY_INTEGER)
			return false;
	target->stat->updated += reply->elements[0]->integer;
	target->stat->skipped += reply->elements[1]->integer;
	target->stat->invalidated += reply->elements[2]->integer;
	return true;
}

/* Checks one reply against what was expected; NULL or what is wrong. */
static const char *
check(MlcTarget *target, MlcExpect what, MlcReply *reply)
{
	if (reply->type == MLC_REPLY_ERROR)
	{
		/* a full Redis still takes removals: send those next time */
		if (strncmp(reply->str, "OOM", 3) == 0)
			target->oom_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															OOM_PAUSE);
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
			target->stat->invalidated += reply->integer;
			break;
		case MLC_EXPECT_APPLY:
			if (!count_applied(target, reply))
				return "mlc_apply: unexpected reply";
			break;
		case MLC_EXPECT_STREAM:
			if (reply->type != MLC_REPLY_STRING)
				return "XADD: unexpected reply";
			break;
	}
	return NULL;
}

bool
mlc_target_poll(MlcTarget *target)
{
	static MemoryContext context = NULL;
	MemoryContext old;

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
			wrong = check(target, target->expect[target->expect_next], reply);
		if (wrong)
		{
			mlc_target_fail(target, wrong);
			break;
		}
		target->expect_next++;
		target->sent_at = GetCurrentTimestamp();
	}
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
				   TimestampTz committed)
{
	if (mlc_version_compare(version, target->applied) <= 0)
		return;
	target->applied = version;
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	target->stat->applied_tli = version.tli;
	target->stat->applied_lsn = version.lsn;
	if (committed != 0)
	{
		double		lag = (GetCurrentTimestamp() - committed) / 1000.0;

		target->stat->applied_commit = committed;
		target->stat->batches++;
		target->stat->lag_ms = lag;
		if (lag > target->stat->lag_ms_max)
			target->stat->lag_ms_max = lag;
	}
	LWLockRelease(mlc_shared->lock);
}
