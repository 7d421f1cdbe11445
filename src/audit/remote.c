/*-------------------------------------------------------------------------
 *
 * audit/remote.c
 *	  What a Redis has for the keys of a rule, read without leaving a trace.
 *
 * Entry and guard of a key are read by one command, so that no write comes
 * between the two.  Questions are pipelined; the caller reads the answers in
 * the same order, and does other work before it does.
 *
 * A server that is lost may be waited for.  It serves again when the relay has
 * armed it again: a Redis may come back with what it knew a while ago, and what
 * is said of it in shared memory holds no sooner.
 *
 * The connection is the link's own, and may be another one after any loader has
 * run: one that reads through mlcache makes it anew when somebody has altered
 * the server.  What had been asked over the old one is then lost, as when the
 * server is.  So nothing here holds on to a connection.
 *
 * Must not: write to Redis.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "audit/remote.h"
#include "base/fault.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "redis/command.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define KEYS_A_CALL 128			/* of one MGET; in a cluster, one */
#define LOOK_AGAIN 50			/* ms between two tries to connect */

/* Keys of one command must share a slot in a cluster. */
static int
keys_a_call(const MlcRemote *remote)
{
	return mlc_link_is_cluster(remote->link) ? 1 : KEYS_A_CALL;
}

/* The reason is a sentence without its end, or empty. */
static void
fail(MlcRemote *remote, int sqlstate, const char *reason)
{
	char	   *waited = "";

	if (remote->outages > 0)
		waited = psprintf("; it did not serve again within %d ms",
						  remote->patience);
	ereport(ERROR,
			(errcode(sqlstate ? sqlstate : ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not read from Redis server \"%s\"", remote->server),
			 errdetail("%s%s; " INT64_FORMAT " keys had been compared.",
					   reason[0] ? reason : "It cannot be reached", waited,
					   remote->compared),
			 errhint("Call the function again when the server answers; see mlcache.check_setup().")));
}

static void
unexpected(MlcRemote *remote, const MlcReply *reply)
{
	char	   *said = reply->type == MLC_REPLY_ERROR ? pstrdup(reply->str) : NULL;

	mlc_conn_close(remote->link->conn);
	ereport(ERROR,
			(errcode(said ? ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION :
					 ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("unexpected reply from Redis server \"%s\"", remote->server),
			 said ? errdetail("%s; " INT64_FORMAT " keys had been compared.", said,
							  remote->compared) :
			 errdetail(INT64_FORMAT " keys had been compared.", remote->compared)));
}

/* NULL: lost. */
static MlcReply *
receive_array(MlcRemote *remote, size_t n)
{
	MlcReply   *reply = mlc_conn_reply(remote->link->conn);

	if (reply && (reply->type != MLC_REPLY_ARRAY || reply->nelements != n))
		unexpected(remote, reply);
	return reply;
}

/* ---- questions ---- */

static void
append_page(MlcRemote *remote, MlcQuestion *question)
{
	MlcCommand	cmd;

	if (remote->cursor_is_old)
		question->cursor = "0";
	remote->cursor_is_old = false;
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "SCAN");
	mlc_command_add_cstr(&cmd, question->cursor);
	mlc_command_add_cstr(&cmd, "MATCH");
	mlc_command_add_cstr(&cmd, question->pattern);
	mlc_command_add_cstr(&cmd, "COUNT");
	mlc_command_add_int(&cmd, question->n);
	mlc_command_append(&cmd, remote->link->conn);
}

/* MGET of entries and guards, or EXISTS of guards. */
static void
append_names(MlcRemote *remote, const MlcQuestion *question)
{
	bool		copies = question->kind == MLC_ASK_COPIES;
	int			most = keys_a_call(remote);
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	for (int i = 0; i < question->n; i++)
	{
		MlcCopy    *copy = &question->copies[i];

		if (i % most == 0)
			mlc_command_add_cstr(&cmd, copies ? "MGET" : "EXISTS");
		if (copies)
			mlc_command_add(&cmd, copy->key, copy->keylen);
		mlc_command_add(&cmd, copy->guard_name, copy->guard_namelen);
		if (i % most == most - 1 || i == question->n - 1)
		{
			mlc_command_append(&cmd, remote->link->conn);
			mlc_command_reset(&cmd);
		}
	}
}

static void
append(MlcRemote *remote, MlcQuestion *question)
{
	if (question->kind == MLC_ASK_PAGE)
		append_page(remote, question);
	else
		append_names(remote, question);
}

/*
 * A loader may have read over this connection since we did, and not have waited
 * for the last answer.
 */
static void
begin_asking(MlcRemote *remote)
{
	if (remote->nasked == 0 && !MLC_FAULT_SKIP("audit-drain"))
		(void) mlc_link_drain(remote->link);	/* if it is lost, that shows */
}

static void
ask(MlcRemote *remote, MlcQuestion question)
{
	Assert(remote->nasked < MLC_REMOTE_ASKED);
	begin_asking(remote);
	remote->asked[remote->nasked] = question;
	append(remote, &remote->asked[remote->nasked++]);
}

/* The oldest question is answered. */
static void
answered(MlcRemote *remote)
{
	remote->nasked--;
	memmove(&remote->asked[0], &remote->asked[1],
			sizeof(MlcQuestion) * remote->nasked);
}

/* ---- connecting ---- */

/* Does the relay say that this process may serve, and which one is it? */
static bool
ask_nonce(MlcRemote *remote, char *nonce, size_t size)
{
	MlcReply   *reply = mlc_command_simple(remote->link->conn, "FCALL", "mlc_armed",
										   "0", remote->link->ns, NULL);

	nonce[0] = '\0';
	if (reply == NULL)
		mlc_link_fail(remote->link);
	else if (reply->type == MLC_REPLY_STRING)
		strlcpy(nonce, reply->str, size);
	return nonce[0] != '\0';
}

void
mlc_remote_open(MlcRemote *remote, MlcLink *link, int patience)
{
	memset(remote, 0, sizeof(*remote));
	remote->link = link;
	remote->serverid = link->serverid;
	remote->server = GetForeignServer(link->serverid)->servername;
	if (!mlc_link_open(link) || !mlc_link_drain(link))
	{
		int			sqlstate = mlc_conn_sqlstate(link->conn);
		char	   *reason = pstrdup(mlc_conn_error(link->conn));

		mlc_link_fail(link);
		fail(remote, sqlstate, reason);
	}
	mlc_link_good(link);
	if (patience > 0)
		(void) ask_nonce(remote, remote->nonce, sizeof(remote->nonce));
	remote->patience = patience;
}

/* Is it back, and armed? */
static bool
is_back(MlcRemote *remote)
{
	char		nonce[sizeof(remote->nonce)];

	/* the pauses between tries are for readers, who have something else to do */
	remote->link->retry_at = 0;
	if (!mlc_link_open(remote->link) ||
		(!ask_nonce(remote, nonce, sizeof(nonce)) &&
		 !MLC_FAULT_SKIP("audit-armed")))
		return false;
	mlc_link_good(remote->link);
	if (strcmp(nonce, remote->nonce) != 0)
	{
		remote->restarts++;
		remote->cursor_is_old = true;
	}
	strlcpy(remote->nonce, nonce, sizeof(remote->nonce));
	return true;
}

/* The connection is lost: waits for another one, and asks all again. */
static void
reconnect(MlcRemote *remote)
{
	int			sqlstate = mlc_conn_sqlstate(remote->link->conn);
	char	   *reason = pstrdup(mlc_conn_error(remote->link->conn));
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  remote->patience);

	mlc_link_fail(remote->link);
	if (remote->patience == 0)
		fail(remote, sqlstate, reason);
	remote->outages++;
	while (!is_back(remote))
	{
		CHECK_FOR_INTERRUPTS();
		if (GetCurrentTimestamp() >= end)
			fail(remote, sqlstate, reason);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOOK_AGAIN, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	for (int i = 0; i < remote->nasked; i++)
		append(remote, &remote->asked[i]);
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
	while (!mlc_conn_push(remote->link->conn))
		reconnect(remote);
}

int64
mlc_remote_size(MlcRemote *remote)
{
	MlcReply   *reply;

	begin_asking(remote);
	while ((reply = mlc_command_simple(remote->link->conn, "DBSIZE", NULL)) == NULL)
		reconnect(remote);
	if (reply->type != MLC_REPLY_INTEGER)
		unexpected(remote, reply);
	return reply->integer;
}

/* ---- scanning ---- */

void
mlc_remote_ask_page(MlcRemote *remote, const char *cursor,
					const char *pattern, int count)
{
	MlcQuestion question = {
		.kind = MLC_ASK_PAGE,
		.cursor = cursor,
		.pattern = pattern,
		.n = count
	};

	ask(remote, question);
}

void
mlc_remote_page(MlcRemote *remote, MlcRemotePage *page)
{
	MlcReply   *reply;
	MlcReply   *names;

	while ((reply = receive_array(remote, 2)) == NULL)
		reconnect(remote);
	answered(remote);
	names = reply->elements[1];
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
	MlcQuestion question = {.kind = MLC_ASK_COPIES,.copies = copies,.n = n};

	if (n > 0)
		ask(remote, question);
}

/* False: lost. */
static bool
take_copies(MlcRemote *remote, MlcCopy *copies, int n)
{
	int			most = keys_a_call(remote);

	for (int first = 0; first < n; first += most)
	{
		int			count = Min(most, n - first);
		MlcReply   *reply = receive_array(remote, 2 * count);

		if (reply == NULL)
			return false;
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
	return true;
}

void
mlc_remote_copies(MlcRemote *remote, MlcCopy *copies, int n)
{
	MLC_FAULT("audit-before-copies");
	if (n == 0)
		return;
	while (!take_copies(remote, copies, n))
		reconnect(remote);
	answered(remote);
}

void
mlc_remote_ask_guards(MlcRemote *remote, MlcCopy *copies, int n)
{
	MlcQuestion question = {.kind = MLC_ASK_GUARDS,.copies = copies,.n = n};

	if (n > 0)
		ask(remote, question);
}

/* -1: lost. */
static int64
take_guards(MlcRemote *remote, int n)
{
	int			most = keys_a_call(remote);
	int64		there = 0;

	for (int first = 0; first < n; first += most)
	{
		MlcReply   *reply = mlc_conn_reply(remote->link->conn);

		if (reply == NULL)
			return -1;
		if (reply->type != MLC_REPLY_INTEGER)
			unexpected(remote, reply);
		there += reply->integer;
	}
	return there;
}

int64
mlc_remote_guards(MlcRemote *remote, int n)
{
	int64		there;

	if (n == 0)
		return 0;
	while ((there = take_guards(remote, n)) < 0)
		reconnect(remote);
	answered(remote);
	return there;
}

/* False: lost. */
static bool
look_at_types(MlcRemote *remote, MlcCopy **copies, int n, const char **types)
{
	MlcCommand	cmd;

	begin_asking(remote);
	mlc_command_init(&cmd);
	for (int i = 0; i < n; i++)
	{
		mlc_command_reset(&cmd);
		mlc_command_add_cstr(&cmd, "TYPE");
		mlc_command_add(&cmd, copies[i]->key, copies[i]->keylen);
		mlc_command_append(&cmd, remote->link->conn);
	}
	for (int i = 0; i < n; i++)
	{
		MlcReply   *reply = mlc_conn_reply(remote->link->conn);

		if (reply == NULL)
			return false;
		if (reply->type != MLC_REPLY_STATUS)
			unexpected(remote, reply);
		types[i] = reply->str;
	}
	return true;
}

void
mlc_remote_types(MlcRemote *remote, MlcCopy **copies, int n,
				 const char **types)
{
	while (!look_at_types(remote, copies, n, types))
		reconnect(remote);
}
