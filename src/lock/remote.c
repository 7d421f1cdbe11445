/*-------------------------------------------------------------------------
 *
 * lock/remote.c
 *	  Locks as Redis has them: the calls of lua/lock.lua.
 *
 * All locks of a database are in one Redis, the first by name: a lock in two
 * places would be two locks.  In a Redis Cluster their namespace is a hash tag,
 * so that they are in one slot.  The connection is the one that reads use.  A
 * server that lacks the function library is given it.
 *
 * Locks: none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lock/remote.h"
#include "read/link.h"
#include "redis/cluster.h"
#include "redis/script.h"

#define MISSING_FUNCTION "ERR Function not found"

static MlcLink *waiting = NULL; /* where this session's wait was entered */

/* Of a server, or of a cluster the master that has the slot of the locks. */
static MlcLink *
place_of_locks(void)
{
	MlcLink    *whole = mlc_link_default();
	MlcLink    *link;

	if (whole == NULL)
		return NULL;
	link = mlc_link_node(whole, whole->ns, strlen(whole->ns));
	return link ? link : whole;
}

static const char *
namespace_of(MlcLink *link)
{
	return mlc_link_is_cluster(link) ? psprintf("{%s}", link->ns) : link->ns;
}

static MlcLink *
find_link(void)
{
	MlcLink    *link = place_of_locks();

	if (link == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("locks need a Redis server"),
				 errdetail("Programs outside PostgreSQL see locks there."),
				 errhint("CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://...');")));
	return link;
}

char *
mlc_remote_namespace(void)
{
	return pstrdup(namespace_of(find_link()));
}

static void
give_up(MlcLink *link)
{
	const char *error = mlc_conn_error(link->conn);

	ereport(ERROR,
			(errcode(error[0] ? mlc_conn_sqlstate(link->conn) :
					 ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not ask Redis for a lock"),
			 errdetail("%s.", error[0] ? error :
					   "It could not be reached a moment ago, and is not tried again yet")));
}

/* NULL: no answer. */
static MlcReply *
ask_once(MlcLink *link, MlcCommand *cmd)
{
	MlcReply   *reply;

	if (mlc_conn_is_open(link->conn))
		(void) mlc_conn_check_closed(link->conn);
	if (!mlc_link_open(link) || !mlc_link_drain(link))
		return NULL;
	reply = mlc_command_call(cmd, link->conn);
	if (reply)
		mlc_link_good(link);
	else
		mlc_link_fail(link);
	return reply;
}

static MlcReply *
call_or_load(MlcLink *link, MlcCommand *cmd, char **error)
{
	MlcReply   *reply = ask_once(link, cmd);

	*error = NULL;
	if (mlc_link_is_cluster(link) &&
		(reply == NULL || mlc_cluster_is_redirect(reply)))
	{
		/* another master has the slot, or has taken this one's place */
		mlc_link_moved(link);
		link = place_of_locks();
		reply = ask_once(link, cmd);
	}
	if (reply && reply->type == MLC_REPLY_ERROR &&
		strncmp(reply->str, MISSING_FUNCTION, strlen(MISSING_FUNCTION)) == 0 &&
		mlc_script_ensure(link->conn, error))
		reply = ask_once(link, cmd);
	return reply;
}

/* The answer of a call; no error reply. */
static MlcReply *
call(MlcLink *link, MlcCommand *cmd)
{
	char	   *error;
	MlcReply   *reply = call_or_load(link, cmd, &error);

	if (reply == NULL)
		give_up(link);
	if (reply->type == MLC_REPLY_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("Redis refused a lock function"),
				 errdetail("%s", error ? error : reply->str)));
	return reply;
}

static void
wrong_reply(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("unexpected answer of a lock function of Redis")));
}

static void
begin(MlcCommand *cmd, const char *function, MlcLink *link)
{
	mlc_command_init(cmd);
	mlc_command_add_cstr(cmd, "FCALL");
	mlc_command_add_cstr(cmd, function);
	mlc_command_add_cstr(cmd, "0");
	mlc_command_add_cstr(cmd, namespace_of(link));
}

/* 'ok', 'busy' or 'deadlock'. */
static MlcRemoteAnswer
take_answer(MlcReply *reply, char **detail)
{
	MlcReply  **element = reply->elements;

	if (reply->type != MLC_REPLY_ARRAY || reply->nelements < 1 ||
		element[0]->type != MLC_REPLY_STRING)
		wrong_reply();
	if (strcmp(element[0]->str, "ok") == 0)
		return MLC_REMOTE_OK;
	if (strcmp(element[0]->str, "busy") == 0)
		return MLC_REMOTE_BUSY;
	if (strcmp(element[0]->str, "deadlock") != 0 || reply->nelements != 2 ||
		element[1]->type != MLC_REPLY_STRING)
		wrong_reply();
	*detail = element[1]->str;
	return MLC_REMOTE_DEADLOCK;
}

static bool
take_boolean(MlcReply *reply)
{
	if (reply->type != MLC_REPLY_INTEGER)
		wrong_reply();
	return reply->integer == 1;
}

MlcRemoteAnswer
mlc_remote_lock(const char *name, const char *owner, bool shared, int64 ttl,
				int64 wait, int64 serial, char **detail)
{
	MlcLink    *link = find_link();
	MlcCommand	cmd;

	begin(&cmd, "mlc_lock", link);
	mlc_command_add_cstr(&cmd, name);
	mlc_command_add_cstr(&cmd, owner);
	mlc_command_add_cstr(&cmd, shared ? "S" : "X");
	mlc_command_add_int(&cmd, ttl);
	mlc_command_add_int(&cmd, wait);
	mlc_command_add_int(&cmd, serial);
	if (wait > 0)
		waiting = link;
	return take_answer(call(link, &cmd), detail);
}

/* mlc_unlock, or mlc_renew where there is a ttl. */
static void
keep_or_release(MlcCommand *cmd, MlcLink *link, const char *name,
				const char *owner, int64 ttl, int64 serial)
{
	begin(cmd, ttl > 0 ? "mlc_renew" : "mlc_unlock", link);
	mlc_command_add_cstr(cmd, name);
	mlc_command_add_cstr(cmd, owner);
	if (ttl > 0)
		mlc_command_add_int(cmd, ttl);
	mlc_command_add_int(cmd, serial);
}

bool
mlc_remote_unlock(const char *name, const char *owner, int64 serial)
{
	MlcLink    *link = find_link();
	MlcCommand	cmd;

	keep_or_release(&cmd, link, name, owner, 0, serial);
	return take_boolean(call(link, &cmd));
}

bool
mlc_remote_renew(const char *name, const char *owner, int64 ttl, int64 serial)
{
	MlcLink    *link = find_link();
	MlcCommand	cmd;

	keep_or_release(&cmd, link, name, owner, ttl, serial);
	return take_boolean(call(link, &cmd));
}

int
mlc_remote_try(const char *name, const char *owner, int64 ttl, int64 serial)
{
	MlcLink    *link = place_of_locks();
	MlcCommand	cmd;
	MlcReply   *reply;
	char	   *error;

	if (link == NULL)
		return -1;
	keep_or_release(&cmd, link, name, owner, ttl, serial);
	reply = call_or_load(link, &cmd, &error);
	if (reply == NULL || reply->type != MLC_REPLY_INTEGER)
		return -1;
	return reply->integer == 1;
}

bool
mlc_remote_wait(const char *name, const char *owner, bool shared, int64 wait,
				char **detail)
{
	MlcLink    *link = find_link();
	MlcCommand	cmd;

	begin(&cmd, "mlc_lock_wait", link);
	mlc_command_add_cstr(&cmd, name);
	mlc_command_add_cstr(&cmd, owner);
	mlc_command_add_cstr(&cmd, shared ? "S" : "X");
	mlc_command_add_int(&cmd, wait);
	waiting = link;
	return take_answer(call(link, &cmd), detail) == MLC_REMOTE_DEADLOCK;
}

void
mlc_remote_forget_wait(const char *owner)
{
	MlcLink    *link = waiting;
	MlcCommand	cmd;

	waiting = NULL;
	if (link == NULL || link->conn == NULL || !mlc_conn_is_open(link->conn))
		return;
	begin(&cmd, "mlc_lock_nowait", link);
	mlc_command_add_cstr(&cmd, owner);
	mlc_command_append(&cmd, link->conn);
	(void) mlc_conn_push(link->conn);
}

MlcReply *
mlc_remote_holders(const char *name)
{
	MlcLink    *link = find_link();
	MlcCommand	cmd;
	MlcReply   *reply;

	begin(&cmd, "mlc_holders", link);
	mlc_command_add_cstr(&cmd, name);
	reply = call(link, &cmd);
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements % 5 != 0)
		wrong_reply();
	for (size_t i = 0; i < reply->nelements; i++)
		if (reply->elements[i]->type !=
			(i % 5 == 3 ? MLC_REPLY_INTEGER : MLC_REPLY_STRING))
			wrong_reply();
	return reply;
}
