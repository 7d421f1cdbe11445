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
#include "relay/deliver.h"
#include "relay/free.h"
#include "relay/group.h"
#include "relay/purge.h"
#include "relay/refresh.h"
#include "relay/target.h"
#include "utils/builtins.h"
#include "utils/memutils.h"


uint64		mlc_target_connections = 0;
uint64		mlc_target_openings = 0;

/* ---- life ---- */

static void
close_connection(MlcTarget *target)
{
	mlc_conn_close(target->conn);
	mlc_refresh_forget(target);
	target->awaits = 0;
	mlc_target_connections++;
}

static MlcTarget *
create(MemoryContext context, MlcServer *server, int number,
	   MlcTargetStat *stat)
{
	MlcTarget  *target = MemoryContextAllocZero(context, sizeof(MlcTarget));

	target->context = context;
	target->serverid = server->serverid;
	target->number = number;
	target->name = target->label = server->name;
	target->options = server->options;
	target->fingerprint = server->fingerprint;
	target->ns = server->ns;
	target->stream = server->stream;
	target->stat = stat;
	target->state = MLC_TARGET_DOWN;
	target->node = -1;
	target->conn = mlc_conn_create(context, &target->options);
	return target;
}

MlcTarget *
mlc_target_create(MemoryContext parent, Oid serverid, int number,
				  MlcTargetStat *stat)
{
	MemoryContext context = AllocSetContextCreate(parent, "mlcache target",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MlcTarget  *target = create(context, mlc_server_load(serverid), number, stat);

	MemoryContextSwitchTo(old);
	return target;
}

MlcTarget *
mlc_target_create_member(MlcGroup *group, MlcServer *server,
						 MemoryContext parent, int number, MlcTargetStat *stat)
{
	MemoryContext context = AllocSetContextCreate(parent, "mlcache target",
												  ALLOCSET_DEFAULT_SIZES);
	MlcTarget  *target = create(context, server, number, stat);

	target->group = group;
	target->paused = server->paused;
	if (target->paused)
		target->state = MLC_TARGET_PAUSED;
	return target;
}

void
mlc_target_set_node(MlcTarget *target, const MlcNode *node)
{
	MemoryContext old = MemoryContextSwitchTo(target->context);

	target->place.host = pstrdup(node->host);
	target->place.port = node->port;
	target->label = psprintf("%s/%s:%d", target->name, node->host, node->port);
	mlc_cluster_options(&target->group->server->options, &target->place,
						&target->options);
	close_connection(target);
	target->conn = mlc_conn_create(target->context, &target->options);
	MemoryContextSwitchTo(old);
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	snprintf(target->stat->node, MLC_NODE_LEN, "%s:%d", node->host, node->port);
	LWLockRelease(mlc_shared->lock);
}

void
mlc_target_destroy(MlcTarget *target)
{
	close_connection(target);
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
mlc_target_is_reached(MlcTarget *target)
{
	return mlc_target_is_live(target) && !target->aside;
}

bool
mlc_target_is_idle(MlcTarget *target)
{
	return mlc_target_is_live(target) &&
		target->expect_next == target->nexpect;
}

/* Nothing is in flight any more. */
static void
leave(MlcTarget *target)
{
	close_connection(target);
	mlc_answer_forget(target);
	target->aside = target->behind = false;
	mlc_free_forget(target);
}

void
mlc_target_pause(MlcTarget *target, bool paused)
{
	target->paused = paused;
	if (paused)
		leave(target);
	else
		target->retry_at = 0;
	set_state(target, paused ? MLC_TARGET_PAUSED : MLC_TARGET_DOWN);
}

void
mlc_target_fail(MlcTarget *target, const char *reason)
{
	char		message[MLC_ERROR_LEN];

	strlcpy(message, reason, sizeof(message));
	leave(target);
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
				 errmsg("mlcache: server \"%s\" is out of reach", target->label),
				 errdetail("%s", message)));
		LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	}
	target->stat->state = target->state;
	target->stat->errors++;
	strlcpy(target->stat->error, message, MLC_ERROR_LEN);
	target->stat->error_at = GetCurrentTimestamp();
	LWLockRelease(mlc_shared->lock);
}

void
mlc_target_check_closed(MlcTarget *target)
{
	if (mlc_target_is_idle(target) && mlc_conn_check_closed(target->conn))
		mlc_target_fail(target, mlc_conn_error(target->conn));
}

/* ---- small round trips ---- */

/* True if the reply is there and no error; otherwise fails the target. */
bool
mlc_target_good(MlcTarget *target, MlcReply *reply, const char *what)
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

void
mlc_target_new_nonce(char *nonce)
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

/* ---- connect ---- */

/* Starts a new history: everything of ours goes, then applied = position. */
static bool
start_over(MlcTarget *target, MlcVersion position, HTAB *rules,
		   const char *reason)
{
	char		text[MLC_VERSION_LEN + 1];

	ereport(LOG,
			(errmsg("mlcache: server \"%s\" is purged", target->label),
			 errdetail("%s", reason)));
	mlc_target_new_nonce(target->nonce);
	if (!mlc_target_good(target,
						 mlc_command_simple(target->conn, "FCALL", "mlc_disarm", "0",
											target->ns, target->nonce,
											system_identifier(), NULL), "mlc_disarm"))
		return false;
	MLC_FAULT("relay-purge");
	if (!MLC_FAULT_SKIP("relay-purge") && !mlc_purge_all(target, rules))
		return false;
	mlc_version_print(position, text);
	if (!mlc_target_good(target,
						 mlc_command_simple(target->conn, "FCALL", "mlc_begin", "0",
											target->ns, target->nonce,
											system_identifier(), text, NULL), "mlc_begin"))
		return false;
	target->applied = target->published = target->applying = position;
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	target->stat->purges++;
	LWLockRelease(mlc_shared->lock);
	target->fresh = true;
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
	if (MLC_FAULT_SKIP("relay-gap"))
		return NULL;
	if (applied->tli != position.tli)
		return "What was applied there belongs to another timeline.";
	if (applied->lsn < confirmed)
		return "It is further behind than the redelivery window.";
	if (applied->lsn > GetXLogInsertRecPtr())
		return "It is ahead of this server.";
	return NULL;
}

/*
 * Must nobody read while the server is caught up?  A batch that was in flight
 * may have been delivered in part.  Delivering it again is idempotent but for
 * one case: what replicates creates, and may bring an older row back where a
 * later change of the same batch has removed the entry already.
 */
static bool
redelivery_shows(MlcTarget *target, MlcReply **state, HTAB *rules)
{
	HASH_SEQ_STATUS status;
	MlcRelayRule *rule;
	bool		found = false;

	if (strcmp(state[1]->str, state[2]->str) == 0 ||
		MLC_FAULT_SKIP("relay-redelivery"))
		return false;
	hash_seq_init(&status, rules);
	while ((rule = hash_seq_search(&status)) != NULL)
		found |= rule->replicate &&
			(rule->id != MLC_RULE_FREE || mlc_free_any(target));
	return found;
}

/* A history that goes on at applied, and serves nobody yet. */
static bool
begin(MlcTarget *target)
{
	char		applied[MLC_VERSION_LEN + 1];

	mlc_version_print(target->applied, applied);
	return mlc_target_good(target,
						   mlc_command_simple(target->conn, "FCALL", "mlc_begin",
											  "0", target->ns, target->nonce,
											  system_identifier(), applied, NULL),
						   "mlc_begin");
}

/* What the server knows is known, and it is delivered to from now on. */
static void
enter(MlcTarget *target, bool armed)
{
	mlc_answer_forget(target);
	target->aside = target->behind = false;
	target->known = target->published;
	target->arm_at = mlc_wal_insert_end();
	if (target->commits)
		pfree(target->commits);
	target->commits = armed ? NULL :
		mlc_commits_snapshot(target->context, MyDatabaseId);
	set_state(target, armed ? MLC_TARGET_ARMED : MLC_TARGET_CATCHUP);
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	target->stat->applied_tli = target->applied.tli;
	target->stat->applied_lsn = target->applied.lsn;
	target->stat->catch_up_from = target->applied.lsn;
	target->stat->catch_up_at = GetCurrentTimestamp();
	LWLockRelease(mlc_shared->lock);
}

bool
mlc_target_is_at_rest(MlcTarget *target)
{
	while (!mlc_target_poll(target) && mlc_target_is_live(target))
		(void) mlc_conn_wait(target->conn);
	return mlc_target_is_live(target);
}

bool
mlc_target_take_back(MlcTarget *target, MlcVersion applied)
{
	if (!mlc_target_is_at_rest(target))
		return false;
	target->applied = target->published = target->applying = applied;
	mlc_target_new_nonce(target->nonce);
	if (!begin(target))
		return false;
	enter(target, false);
	return true;
}

bool
mlc_target_start_over(MlcTarget *target, MlcVersion position, HTAB *rules,
					  const char *reason)
{
	if (!mlc_target_is_at_rest(target) || !start_over(target, position, rules, reason))
		return false;
	enter(target, false);
	return true;
}

/* The five texts that mlc_state answers; NULL: the target is down. */
static MlcReply **
ask_state(MlcTarget *target)
{
	MlcReply   *reply = mlc_command_simple(target->conn, "FCALL", "mlc_state",
										   "0", target->ns, NULL);

	if (!mlc_target_good(target, reply, "mlc_state"))
		return NULL;
	if (reply->type == MLC_REPLY_ARRAY && reply->nelements == 5)
	{
		bool		good = true;

		for (int i = 0; i < 4; i++)
			good &= reply->elements[i]->type == MLC_REPLY_STRING;
		if (good)
			return reply->elements;
	}
	mlc_target_fail(target, "mlc_state: unexpected reply");
	return NULL;
}

/* Goes on where a server stands that can be caught up. */
static bool
adopt(MlcTarget *target, MlcReply **state, HTAB *rules, bool *armed)
{
	char		nonce[MLC_NONCE_LEN + 1];

	target->fresh = false;
	mlc_target_new_nonce(nonce);
	if (!redelivery_shows(target, state, rules))
	{
		MlcReply   *adopted;

		/* the very process that a relay of this database armed? */
		adopted = mlc_command_simple(target->conn, "FCALL", "mlc_adopt", "0",
									 target->ns, state[3]->str, nonce, NULL);
		if (!mlc_target_good(target, adopted, "mlc_adopt"))
			return false;
		*armed = adopted->type == MLC_REPLY_INTEGER && adopted->integer == 1;
	}
	strlcpy(target->nonce, nonce, sizeof(target->nonce));
	target->published = target->applied;
	target->applying = target->applied;
	if (!*armed)
		return begin(target);
	if (mlc_version_parse(state[2]->str, state[2]->len, &target->applying))
		return true;
	mlc_target_fail(target, "mlc_state: unexpected reply");
	return false;
}

bool
mlc_target_open(MlcTarget *target)
{
	MlcConnOpening opening = mlc_conn_open_nowait(target->conn);

	if (opening == MLC_CONN_FAILED)
		mlc_target_fail(target, mlc_conn_error(target->conn));
	else if (target->awaits != mlc_conn_awaits(target->conn) ||
			 target->awaits_socket != mlc_conn_socket(target->conn))
	{
		target->awaits = mlc_conn_awaits(target->conn);
		target->awaits_socket = mlc_conn_socket(target->conn);
		mlc_target_openings++;
	}
	return opening == MLC_CONN_OPENED;
}

bool
mlc_target_connect(MlcTarget *target, MlcVersion position,
				   XLogRecPtr confirmed, HTAB *rules)
{
	MlcReply  **state;
	const char *reason = NULL;
	char	   *error;
	bool		replaced = false;
	bool		armed = false;

	if (!mlc_conn_open(target->conn))
	{
		mlc_target_fail(target, mlc_conn_error(target->conn));
		return false;
	}
	mlc_target_connections++;
	if (!mlc_script_ensure(target->conn, &error))
	{
		mlc_target_fail(target, error);
		return false;
	}
	if (target->group && !mlc_group_place(target, &replaced))
		return false;
	if (!replaced)
	{
		state = ask_state(target);
		if (state == NULL)
			return false;
		reason = gap(state, &target->applied, position, confirmed);
		if (reason ? !start_over(target, position, rules, reason) :
			!adopt(target, state, rules, &armed))
			return false;
	}
	if (!mlc_purge_remember(target, rules))
		return false;
	enter(target, armed);
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	target->stat->reconnects++;
	LWLockRelease(mlc_shared->lock);
	ereport(LOG,
			(errmsg("mlcache: server \"%s\" is connected, applied up to %X/%X%s",
					target->label, LSN_FORMAT_ARGS(target->applied.lsn),
					armed ? ", armed" : "")));
	if (target->group)
		mlc_group_joined(target, reason != NULL);
	return mlc_target_is_live(target);
}

bool
mlc_target_arm(MlcTarget *target)
{
	MLC_FAULT("relay-before-arm");
	if (!mlc_target_good(target,
						 mlc_command_simple(target->conn, "FCALL", "mlc_arm", "0",
											target->ns, target->nonce, NULL), "mlc_arm"))
		return false;
	target->backoff = 0;
	set_state(target, MLC_TARGET_ARMED);
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	target->stat->error[0] = '\0';
	LWLockRelease(mlc_shared->lock);
	ereport(LOG, (errmsg("mlcache: server \"%s\" is armed", target->label)));
	return true;
}

void
mlc_target_retire(MlcTarget *target, HTAB *rules)
{
	if (!mlc_target_is_at_rest(target))
		return;
	mlc_target_new_nonce(target->nonce);
	if (!mlc_target_good(target,
						 mlc_command_simple(target->conn, "FCALL", "mlc_disarm", "0",
											target->ns, target->nonce,
											system_identifier(), NULL), "mlc_disarm"))
		return;
	if (!mlc_purge_all(target, rules))
		return;
	ereport(LOG,
			(errmsg("mlcache: server \"%s\" is purged", target->label),
			 errdetail("This database has no cache rules any more.")));
}
