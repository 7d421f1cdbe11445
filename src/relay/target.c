/*-------------------------------------------------------------------------
 *
 * relay/target.c
 *	  One Redis: connect, find out what it knows, purge, arm.
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

#define SCAN_COUNT "1000"

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

void
mlc_target_retire(MlcTarget *target, HTAB *rules)
{
	HASH_SEQ_STATUS status;
	MlcRelayRule *rule;

	while (!mlc_target_poll(target) && mlc_target_is_live(target))
		(void) mlc_conn_wait(target->conn);
	if (!mlc_target_is_live(target))
		return;
	new_nonce(target->nonce);
	if (!good(target,
			  mlc_command_simple(target->conn, "FCALL", "mlc_disarm", "0",
								 target->ns, target->nonce,
								 system_identifier(), NULL), "mlc_disarm"))
		return;
	hash_seq_init(&status, rules);
	while ((rule = hash_seq_search(&status)) != NULL)
		if (!mlc_target_purge(target, rule))
		{
			hash_seq_term(&status);
			return;
		}
	ereport(LOG,
			(errmsg("mlcache: server \"%s\" is purged", target->name),
			 errdetail("This database has no cache rules any more.")));
}
