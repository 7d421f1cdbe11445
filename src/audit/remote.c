/*-------------------------------------------------------------------------
 *
 * audit/remote.c
 *	  What a Redis has for the keys of a rule, read without leaving a trace.
 *
 * Entry and guard of a key are read by one command, so that no write comes
 * between the two.  Questions are pipelined; the caller reads the answers in
 * the same order, and does other work before it does.
 *
 * Must not: write to Redis.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "audit/remote.h"
#include "base/fault.h"
#include "foreign/foreign.h"
#include "redis/command.h"
#include "utils/builtins.h"

#define KEYS_A_CALL 128			/* of one MGET; in a cluster, one */

/* Keys of one command must share a slot in a cluster. */
static int
keys_a_call(const MlcRemote *remote)
{
	return mlc_link_is_cluster(remote->link) ? 1 : KEYS_A_CALL;
}

static void
fail(MlcRemote *remote)
{
	int			sqlstate = mlc_conn_sqlstate(remote->conn);
	char	   *reason = pstrdup(mlc_conn_error(remote->conn));

	mlc_link_fail(remote->link);
	ereport(ERROR,
			(errcode(sqlstate ? sqlstate : ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not read from Redis server \"%s\"", remote->server),
			 errdetail("%s; " INT64_FORMAT " keys had been compared.",
					   reason[0] ? reason : "It cannot be reached",
					   remote->compared),
			 errhint("Call the function again when the server answers; see mlcache.check_setup().")));
}

static void
unexpected(MlcRemote *remote, const MlcReply *reply)
{
	char	   *said = reply->type == MLC_REPLY_ERROR ? pstrdup(reply->str) : NULL;

	mlc_conn_close(remote->conn);
	ereport(ERROR,
			(errcode(said ? ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION :
					 ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("unexpected reply from Redis server \"%s\"", remote->server),
			 said ? errdetail("%s; " INT64_FORMAT " keys had been compared.", said,
							  remote->compared) :
			 errdetail(INT64_FORMAT " keys had been compared.", remote->compared)));
}

static MlcReply *
receive(MlcRemote *remote)
{
	MlcReply   *reply = mlc_conn_reply(remote->conn);

	if (reply == NULL)
		fail(remote);
	return reply;
}

static MlcReply *
receive_array(MlcRemote *remote, size_t n)
{
	MlcReply   *reply = receive(remote);

	if (reply->type != MLC_REPLY_ARRAY || reply->nelements != n)
		unexpected(remote, reply);
	return reply;
}

void
mlc_remote_open(MlcRemote *remote, MlcLink *link)
{
	remote->link = link;
	remote->conn = link->conn;
	remote->serverid = link->serverid;
	remote->server = GetForeignServer(link->serverid)->servername;
	remote->compared = 0;
	if (!mlc_link_open(link) || !mlc_link_drain(link))
		fail(remote);
	mlc_link_good(link);
}

List *
mlc_remote_nodes(MlcLink *server)
{
	List	   *nodes = list_make1(server);

	if (mlc_link_is_cluster(server))
		nodes = mlc_link_nodes(server);
	if (nodes == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not reach the Redis Cluster \"%s\"",
						GetForeignServer(server->serverid)->servername),
				 errdetail("None of its nodes says which masters it has."),
				 errhint("See mlcache.check_setup().")));
	return nodes;
}

void
mlc_remote_flush(MlcRemote *remote)
{
	if (!mlc_conn_push(remote->conn))
		fail(remote);
}

int64
mlc_remote_size(MlcRemote *remote)
{
	MlcReply   *reply = mlc_command_simple(remote->conn, "DBSIZE", NULL);

	if (reply == NULL)
		fail(remote);
	if (reply->type != MLC_REPLY_INTEGER)
		unexpected(remote, reply);
	return reply->integer;
}

/* ---- scanning ---- */

void
mlc_remote_ask_page(MlcRemote *remote, const char *cursor,
					const char *pattern, int count)
{
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "SCAN");
	mlc_command_add_cstr(&cmd, cursor);
	mlc_command_add_cstr(&cmd, "MATCH");
	mlc_command_add_cstr(&cmd, pattern);
	mlc_command_add_cstr(&cmd, "COUNT");
	mlc_command_add_int(&cmd, count);
	mlc_command_append(&cmd, remote->conn);
}

void
mlc_remote_page(MlcRemote *remote, MlcRemotePage *page)
{
	MlcReply   *reply = receive_array(remote, 2);
	MlcReply   *names = reply->elements[1];

	if (reply->elements[0]->type != MLC_REPLY_STRING ||
		names->type != MLC_REPLY_ARRAY)
		unexpected(remote, reply);
	for (size_t i = 0; i < names->nelements; i++)
		if (names->elements[i]->type != MLC_REPLY_STRING)
			unexpected(remote, names->elements[i]);
	page->cursor = reply->elements[0]->str;
	page->n = names->nelements;
	page->names = names->elements;
}

/* ---- copies ---- */

void
mlc_remote_ask_copies(MlcRemote *remote, MlcCopy *copies, int n)
{
	int			most = keys_a_call(remote);
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	for (int i = 0; i < n; i++)
	{
		if (i % most == 0)
			mlc_command_add_cstr(&cmd, "MGET");
		mlc_command_add(&cmd, copies[i].key, copies[i].keylen);
		mlc_command_add(&cmd, copies[i].guard_name, copies[i].guard_namelen);
		if (i % most == most - 1 || i == n - 1)
		{
			mlc_command_append(&cmd, remote->conn);
			mlc_command_reset(&cmd);
		}
	}
}

void
mlc_remote_copies(MlcRemote *remote, MlcCopy *copies, int n)
{
	int			most = keys_a_call(remote);

	MLC_FAULT("audit-before-copies");
	for (int first = 0; first < n; first += most)
	{
		int			count = Min(most, n - first);
		MlcReply   *reply = receive_array(remote, 2 * count);

		for (int i = 0; i < count; i++)
		{
			MlcCopy    *copy = &copies[first + i];
			MlcReply   *entry = reply->elements[2 * i];
			MlcReply   *guard = reply->elements[2 * i + 1];

			copy->entry = entry->type == MLC_REPLY_STRING ? entry->str : NULL;
			copy->entrylen = copy->entry ? entry->len : 0;
			copy->guard = guard->type == MLC_REPLY_STRING ? guard->str : NULL;
			copy->guardlen = copy->guard ? guard->len : 0;
		}
	}
}

void
mlc_remote_ask_guards(MlcRemote *remote, MlcCopy *copies, int n)
{
	int			most = keys_a_call(remote);
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	for (int i = 0; i < n; i++)
	{
		if (i % most == 0)
			mlc_command_add_cstr(&cmd, "EXISTS");
		mlc_command_add(&cmd, copies[i].guard_name, copies[i].guard_namelen);
		if (i % most == most - 1 || i == n - 1)
		{
			mlc_command_append(&cmd, remote->conn);
			mlc_command_reset(&cmd);
		}
	}
}

int64
mlc_remote_guards(MlcRemote *remote, int n)
{
	int			most = keys_a_call(remote);
	int64		there = 0;

	for (int first = 0; first < n; first += most)
	{
		MlcReply   *reply = receive(remote);

		if (reply->type != MLC_REPLY_INTEGER)
			unexpected(remote, reply);
		there += reply->integer;
	}
	return there;
}

void
mlc_remote_types(MlcRemote *remote, MlcCopy **copies, int n,
				 const char **types)
{
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	for (int i = 0; i < n; i++)
	{
		mlc_command_reset(&cmd);
		mlc_command_add_cstr(&cmd, "TYPE");
		mlc_command_add(&cmd, copies[i]->key, copies[i]->keylen);
		mlc_command_append(&cmd, remote->conn);
	}
	for (int i = 0; i < n; i++)
	{
		MlcReply   *reply = receive(remote);

		if (reply->type != MLC_REPLY_STATUS)
			unexpected(remote, reply);
		types[i] = reply->str;
	}
}
