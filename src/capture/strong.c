/*-------------------------------------------------------------------------
 *
 * capture/strong.c
 *	  What a commit under strong rules does beside WAL: quarantine before,
 *	  release after.
 *
 * Before the commit can become visible, every key of the dirty set gets this
 * transaction's mark, in L1 of this server and on every Redis of its rule: the
 * entry goes, no lease is given, no fill is accepted.  Once the commit is
 * visible (or the transaction aborted) the marks end.  So nobody can hit, or
 * fill with, the old row after the commit, nor the new one before it.  Where
 * the rule says `update`, the release brings the new row for an entry that the
 * quarantine has removed.
 *
 * Marks have no deadline: a slow commit never outlives its own.  One that its
 * owner could not end is swept by the relay, which asks whether the
 * transaction that the owner's name tells is still in progress.  Until then
 * its key is read from the row.
 *
 * The release may neither wait nor fail, since the transaction has ended: its
 * commands are laid out beforehand, and only their version is filled in.  The
 * replies are read by whoever uses the connection next.
 *
 * Locks: L1's, one at a time.  Must not: throw, palloc or wait in a release.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "base/fault.h"
#include "base/guc.h"
#include "capture/strong.h"
#include "miscadmin.h"
#include "read/link.h"
#include "redis/cluster.h"
#include "redis/command.h"
#include "redis/script.h"
#include "shm/commits.h"
#include "shm/l1.h"
#include "shm/stats.h"
#include "utils/memutils.h"

#define KEYS_A_CALL 500
#define OWNER_LEN 40

/* FCALL mlc_release n key... ns owner version tell [payloads] */
#define RELEASE_VERSION(n) ((n) + 5)
#define RELEASE_ARGC(n) ((n) + 7)

/* One Redis that this commit concerns. */
typedef struct StrongServer
{
	MlcLink    *link;
	bool		degrade;		/* all of its rules say so */
	bool		tell;			/* none of them does */
	bool		close;			/* a rule as a whole is concerned */
	bool		asked;			/* marks may stand there */
	bool		sent;			/* its answers are still to be taken */
	int			nkeys;
	int			size;
	MlcStrongKey *keys;			/* sorted, each once */
	uint32		payloads;		/* bytes of them */
	int			nredirected;	/* of a cluster: keys that are elsewhere */
	bool	   *redirected;
	int			ncalls;
	MlcCommand *quarantines;	/* the close comes last */
	int			nreleases;
	MlcCommand *releases;
} StrongServer;

typedef struct StrongCommit
{
	uint64		start;			/* of the quarantine */
	bool		writes_through; /* payloads go with the release */
	char		owner[OWNER_LEN];
	char		version[MLC_VERSION_LEN + 1];
	int			nservers;
	StrongServer *servers;
	bool		closed_all;		/* L1 as a whole */
	int			nclosed;
	uint32	   *closed;			/* handles of keys closed in L1 */
} StrongCommit;

/* Of the transaction at hand, in TopTransactionContext; NULL: none. */
static StrongCommit *commit = NULL;

/* ---- what is to be sent ---- */

/* "xid-nonce": whom a mark belongs to.  Read by relay/sweep. */
static void
name_owner(char *owner)
{
	static uint64 nonce = 0;
	static int	pid = 0;

	if (pid != MyProcPid)
	{
		if (!pg_strong_random(&nonce, sizeof(nonce)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a random nonce")));
		pid = MyProcPid;
	}
	snprintf(owner, OWNER_LEN, "%llx-%016llx",
			 (unsigned long long) U64FromFullTransactionId(GetTopFullTransactionId()),
			 (unsigned long long) nonce);
}

static StrongServer *
new_server(MlcLink *link)
{
	StrongServer *server;

	if (commit->servers == NULL)
		commit->servers = palloc(sizeof(StrongServer));
	else
		commit->servers = repalloc(commit->servers,
								   sizeof(StrongServer) * (commit->nservers + 1));
	server = &commit->servers[commit->nservers++];
	memset(server, 0, sizeof(*server));
	server->link = link;
	server->degrade = server->tell = true;
	return server;
}

static StrongServer *
server_for(MlcLink *link)
{
	for (int i = 0; i < commit->nservers; i++)
		if (commit->servers[i].link == link)
			return &commit->servers[i];
	return new_server(link);
}

static void
add_key(StrongServer *server, const MlcStrongKey *key)
{
	MlcStrongKey *mine;

	if (server->nkeys == server->size)
	{
		server->size = Max(8, server->size * 2);
		if (server->keys == NULL)
			server->keys = palloc_extended(sizeof(MlcStrongKey) * server->size,
										   MCXT_ALLOC_HUGE);
		else
			server->keys = repalloc_huge(server->keys,
										 sizeof(MlcStrongKey) * server->size);
	}
	mine = &server->keys[server->nkeys++];
	*mine = *key;

	if (!commit->writes_through ||
		server->payloads + key->payloadlen > MLC_STRONG_PAYLOADS)
		mine->payload = NULL;
	else
		server->payloads += key->payloadlen;
}

static bool
is_closing(MlcStrongRule *rule)
{
	return rule->all || rule->nkeys > mlc_quarantine_max_keys;
}

static void
add_rule(MlcLink *link, MlcStrongRule *rule)
{
	StrongServer *server = server_for(link);

	server->degrade &= rule->degrade;
	server->tell &= !rule->degrade;
	if (is_closing(rule))
		server->close = true;
	for (int i = 0; i < rule->nkeys && !is_closing(rule); i++)
		add_key(server, &rule->keys[i]);
}

/*
 * The same for a cluster: each key is its master's.  Where no node tells who
 * that is, it is the cluster's, which nobody reaches.
 */
static void
add_cluster_rule(MlcLink *whole, MlcStrongRule *rule)
{
	List	   *nodes = NIL;
	ListCell   *lc;

	if (is_closing(rule))
	{
		mlc_link_moved(whole);
		nodes = mlc_link_nodes(whole);
		if (nodes == NIL)
			nodes = list_make1(whole);
	}
	foreach(lc, nodes)
		add_rule(lfirst(lc), rule);
	for (int i = 0; i < rule->nkeys && nodes == NIL; i++)
	{
		MlcLink    *node = mlc_link_node(whole, rule->keys[i].key,
										 rule->keys[i].len);
		StrongServer *server = server_for(node ? node : whole);

		server->degrade &= rule->degrade;
		server->tell &= !rule->degrade;
		add_key(server, &rule->keys[i]);
	}
}

static int
by_key(const void *a, const void *b)
{
	const MlcStrongKey *x = a;
	const MlcStrongKey *y = b;
	int			order = memcmp(x->key, y->key, Min(x->len, y->len));

	return order != 0 ? order : (x->len > y->len) - (x->len < y->len);
}

/* Two rules may give one key; neither of them has its row then. */
static void
sort_keys(StrongServer *server)
{
	int			n = 0;

	if (server->nkeys < 2)
		return;
	qsort(server->keys, server->nkeys, sizeof(MlcStrongKey), by_key);
	for (int i = 1; i < server->nkeys; i++)
		if (by_key(&server->keys[n], &server->keys[i]) != 0)
			server->keys[++n] = server->keys[i];
		else
			server->keys[n].payload = NULL;
	server->nkeys = n + 1;
}

static void
add_keys(MlcCommand *cmd, StrongServer *server, int from, int n)
{
	mlc_command_add_int(cmd, n);
	for (int i = from; i < from + n; i++)
		mlc_command_add(cmd, server->keys[i].key, server->keys[i].len);
}

/* For a release: what is to be put there, once the commit is visible. */
static void
add_payloads(MlcCommand *cmd, StrongServer *server, int from, int n)
{
	for (int i = from; i < from + n; i++)
	{
		MlcStrongKey *key = &server->keys[i];

		if (key->payload)
			mlc_command_add_int(cmd, key->ttl);
		else
			mlc_command_add_cstr(cmd, "");
		mlc_command_add(cmd, key->payload ? key->payload : "",
						key->payload ? key->payloadlen : 0);
	}
}

static bool
has_payloads(StrongServer *server, int from, int n)
{
	for (int i = from; i < from + n; i++)
		if (server->keys[i].payload)
			return true;
	return false;
}

/* In a cluster a call is for one slot. */
static int
keys_a_call(StrongServer *server)
{
	return mlc_link_is_cluster(server->link) ? 1 : KEYS_A_CALL;
}

/* All commands of this commit, in the order in which they go out. */
static void
lay_out(StrongServer *server)
{
	int			keys = keys_a_call(server);
	int			calls = (server->nkeys + keys - 1) / keys;

	server->quarantines = palloc_extended(sizeof(MlcCommand) * (calls + 1),
										  MCXT_ALLOC_HUGE);
	server->releases = palloc_extended(sizeof(MlcCommand) * Max(calls, 1),
									   MCXT_ALLOC_HUGE);
	for (int from = 0; from < server->nkeys; from += keys)
	{
		int			n = Min(keys, server->nkeys - from);
		bool		payloads = has_payloads(server, from, n);
		MlcCommand *cmd = &server->quarantines[server->ncalls++];

		mlc_command_init(cmd);
		mlc_command_add_cstr(cmd, "FCALL");
		mlc_command_add_cstr(cmd, "mlc_quarantine");
		add_keys(cmd, server, from, n);
		mlc_command_add_cstr(cmd, server->link->ns);
		mlc_command_add_cstr(cmd, "");	/* whoever has armed it */
		mlc_command_add_cstr(cmd, commit->owner);
		mlc_command_add_cstr(cmd, "0"); /* no deadline */
		if (payloads)
			mlc_command_add_cstr(cmd, "1"); /* remember what was cached */

		cmd = &server->releases[server->nreleases++];
		mlc_command_init(cmd);
		mlc_command_add_cstr(cmd, "FCALL");
		mlc_command_add_cstr(cmd, "mlc_release");
		add_keys(cmd, server, from, n);
		mlc_command_add_cstr(cmd, server->link->ns);
		mlc_command_add_cstr(cmd, commit->owner);
		mlc_command_add(cmd, commit->version, MLC_VERSION_LEN);
		mlc_command_add_cstr(cmd, server->tell ? "1" : "0");
		Assert(cmd->argc == RELEASE_ARGC(n));
		if (payloads)
			add_payloads(cmd, server, from, n);
	}
	if (server->close)
	{
		MlcCommand *cmd = &server->quarantines[server->ncalls++];

		mlc_command_init(cmd);
		mlc_command_add_cstr(cmd, "FCALL");
		mlc_command_add_cstr(cmd, "mlc_close");
		mlc_command_add_cstr(cmd, "0");
		mlc_command_add_cstr(cmd, server->link->ns);
		mlc_command_add_cstr(cmd, commit->owner);
	}
}

/* ---- talking to a server ---- */

static void
want_sweep(void)
{
	MlcRelayShared *relay = mlc_segment_my_relay();

	if (relay)
	{
		pg_atomic_fetch_add_u64(&relay->sweeps, 1);
		mlc_segment_wake(relay);
	}
}

static bool
is_good(MlcReply *reply)
{
	return reply->type == MLC_REPLY_INTEGER || reply->type == MLC_REPLY_STATUS;
}

/*
 * Reads what the connection still owes: answers to releases, and to reads
 * that were interrupted.  False: the connection is lost.
 */
static bool
take_old_replies(MlcLink *link, int n)
{
	for (int i = 0; i < n; i++)
	{
		MlcReply   *reply = mlc_conn_reply(link->conn);

		if (reply == NULL)
			return false;
		if (reply->type == MLC_REPLY_ERROR)
			want_sweep();
	}
	return true;
}

/* Sends all calls of this server, without waiting; false: it is away. */
static bool
ask(StrongServer *server)
{
	MlcLink    *link = server->link;

	if (mlc_conn_is_open(link->conn))
		(void) mlc_conn_check_closed(link->conn);
	if (!mlc_link_open(link))
		return false;
	server->asked = true;
	for (int i = 0; i < server->ncalls; i++)
		mlc_command_append(&server->quarantines[i], link->conn);
	if (mlc_conn_send(link->conn))
		return true;
	mlc_link_fail(link);
	return false;
}

/* A key that is elsewhere, or on its way: see redirect_keys(). */
static void
remember_redirect(StrongServer *server, int call)
{
	if (server->redirected == NULL)
		server->redirected = palloc0(sizeof(bool) * server->nkeys);
	server->redirected[call] = true;
	server->nredirected++;
}

/* NULL, or what is wrong. */
static const char *
take_answers(StrongServer *server, bool *missing)
{
	MlcLink    *link = server->link;
	const char *wrong = NULL;

	*missing = false;
	if (!take_old_replies(link, mlc_conn_pending(link->conn) - server->ncalls))
		return mlc_conn_error(link->conn);
	for (int i = 0; i < server->ncalls; i++)
	{
		MlcReply   *reply = mlc_conn_reply(link->conn);

		if (reply == NULL)
			return mlc_conn_error(link->conn);
		if (mlc_link_is_cluster(link) && i < server->nkeys &&
			mlc_cluster_is_redirect(reply))
		{
			remember_redirect(server, i);
			continue;
		}
		if (is_good(reply) || wrong)
			continue;
		wrong = reply->type == MLC_REPLY_ERROR ? reply->str : "unexpected reply";
		*missing = strncmp(wrong, "ERR Function not found", 22) == 0;
	}
	return wrong;
}

/* A Redis that has just started empty has no function library yet. */
static const char *
ask_again(StrongServer *server)
{
	char	   *error;
	bool		missing;

	if (!mlc_script_ensure(server->link->conn, &error))
		return error;
	if (!ask(server))
		return mlc_conn_error(server->link->conn);
	return take_answers(server, &missing);
}

static void
report(StrongServer *server, const char *wrong)
{
	int			sqlstate = mlc_conn_is_open(server->link->conn) ?
	ERRCODE_PROTOCOL_VIOLATION : mlc_conn_sqlstate(server->link->conn);

	if (server->degrade)
		ereport(WARNING,
				(errcode(sqlstate),
				 errmsg("cached copies may be stale for a while"),
				 errdetail("%s", wrong)));
	else
		ereport(ERROR,
				(errcode(sqlstate),
				 errmsg("could not put changed keys under quarantine"),
				 errdetail("%s", wrong),
				 errhint("The rule is strong: a commit needs its Redis. With on_unreachable => 'degrade' it would go on.")));
}

static const char *
why_away(StrongServer *server)
{
	const char *wrong = mlc_conn_error(server->link->conn);

	return wrong[0] != '\0' ? wrong : "Redis is out of reach, and was not tried again yet.";
}

/* Asks these servers, all at once.  Those of clusters may redirect us. */
static void
ask_servers(int from, int to)
{
	for (int i = from; i < to; i++)
	{
		StrongServer *server = &commit->servers[i];

		server->sent = ask(server);
		if (server->sent)
			continue;
		if (mlc_link_is_cluster(server->link) && !server->close && from == 0)
		{
			/* another master may have taken its place */
			for (int k = 0; k < server->nkeys; k++)
				remember_redirect(server, k);
			continue;
		}
		report(server, why_away(server));
	}
}

static void
await_servers(int from, int to)
{
	for (int i = from; i < to; i++)
	{
		StrongServer *server = &commit->servers[i];
		const char *wrong;
		bool		missing;

		if (!server->sent)
			continue;
		wrong = take_answers(server, &missing);
		if (missing)
			wrong = ask_again(server);
		if (wrong == NULL)
		{
			mlc_link_good(server->link);
			continue;
		}
		wrong = pstrdup(wrong);
		if (!mlc_conn_is_open(server->link->conn))
			mlc_link_fail(server->link);
		report(server, wrong);
	}
}

/* ---- clusters whose slots move ---- */

static bool
any_redirected(int from)
{
	for (int i = from; i < commit->nservers; i++)
		if (commit->servers[i].nredirected > 0)
			return true;
	return false;
}

/* Asks the masters that have the redirected keys by now. */
static void
ask_where_they_are(void)
{
	int			old = commit->nservers;

	for (int i = 0; i < old; i++)
		if (commit->servers[i].nredirected > 0)
			mlc_link_moved(commit->servers[i].link);
	for (int i = 0; i < old; i++)
		for (int k = 0; k < commit->servers[i].nkeys &&
			 commit->servers[i].nredirected > 0; k++)
		{
			StrongServer *server = &commit->servers[i];
			StrongServer *now = NULL;
			bool		degrade = server->degrade;
			MlcStrongKey key = server->keys[k];
			MlcLink    *whole = mlc_link_whole(server->link);
			MlcLink    *node;

			if (!server->redirected[k])
				continue;
			node = mlc_link_node(whole, key.key, key.len);
			if (node == NULL)
				node = whole;
			for (int j = old; j < commit->nservers; j++)
				if (commit->servers[j].link == node)
					now = &commit->servers[j];
			if (now == NULL)
				now = new_server(node);
			now->degrade &= degrade;
			key.payload = NULL; /* its entry may have been on either side */
			add_key(now, &key);
		}
	for (int i = old; i < commit->nservers; i++)
		lay_out(&commit->servers[i]);
	ask_servers(old, commit->nservers);
	await_servers(old, commit->nservers);
}

/* Closes a master, and removes what it has of the keys.  False: it is away. */
static bool
close_node(MlcLink *node, StrongServer *server)
{
	MlcCommand	cmd;
	MlcReply   *reply;

	if (!mlc_link_open(node) || !mlc_link_drain(node))
		return false;
	reply = mlc_command_simple(node->conn, "FCALL", "mlc_close", "0", node->ns,
							   commit->owner, NULL);
	if (reply == NULL || !is_good(reply))
		return false;
	mlc_command_init(&cmd);
	for (int k = 0; k < server->nkeys; k++)
	{
		if (!server->redirected[k])
			continue;
		mlc_command_reset(&cmd);
		mlc_command_add_cstr(&cmd, "ASKING");
		mlc_command_append(&cmd, node->conn);
		mlc_command_reset(&cmd);
		mlc_command_add_cstr(&cmd, "FCALL");
		mlc_command_add_cstr(&cmd, "mlc_remove");
		mlc_command_add_cstr(&cmd, "0");
		mlc_command_add_cstr(&cmd, node->ns);
		mlc_command_add_cstr(&cmd, "");
		mlc_command_add(&cmd, server->keys[k].key, server->keys[k].len);
		mlc_command_append(&cmd, node->conn);
	}
	while (mlc_conn_pending(node->conn) > 0)
	{
		reply = mlc_conn_reply(node->conn);
		if (reply == NULL || reply->type == MLC_REPLY_ERROR)
			return false;
	}
	return true;
}

/*
 * A slot is on its way, and each of its keys on either side; no mark would do
 * on both.  So the masters serve nobody, as where keys cannot be named: the
 * relay arms them again once this commit is over.  Twice, since a key may go
 * from one to the other in between.
 */
static void
close_cluster(StrongServer *server)
{
	MlcLink    *whole = mlc_link_whole(server->link);
	List	   *nodes = mlc_link_nodes(whole);
	ListCell   *lc;

	for (int round = 0; round < 2; round++)
		foreach(lc, nodes)
	{
		MlcLink    *node = lfirst(lc);

		if (close_node(node, server))
			continue;
		if (!mlc_conn_is_open(node->conn))
			mlc_link_fail(node);
		server->link = node;
		report(server, why_away(server));
		return;
	}
}

static void
redirect_keys(void)
{
	int			first = commit->nservers;

	if (!any_redirected(0))
		return;
	ask_where_they_are();
	for (int i = first; i < commit->nservers; i++)
		if (commit->servers[i].nredirected > 0 &&
			!MLC_FAULT_SKIP("strong-close-cluster"))
			close_cluster(&commit->servers[i]);
}

/* ---- L1 of this server ---- */

static void
close_l1(MlcStrongRule *rules, int nrules)
{
	int			n = 0;

	for (int i = 0; i < nrules; i++)
		n += rules[i].nkeys;
	commit->closed = palloc_extended(sizeof(uint32) * Max(n, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < nrules; i++)
	{
		MlcStrongRule *rule = &rules[i];

		if (rule->all && !commit->closed_all)
			commit->closed_all = mlc_l1_writer_close_all();
		for (int k = 0; k < rule->nkeys && !rule->all; k++)
			mlc_l1_writer_close(rule->keys[k].key, rule->keys[k].len,
								&commit->closed[commit->nclosed++]);
	}
}

static void
open_l1(void)
{
	for (int i = 0; i < commit->nclosed; i++)
		mlc_l1_writer_open(commit->closed[i]);
	if (commit->closed_all)
		mlc_l1_writer_open_all();
}

/* ---- the commit ---- */

void
mlc_strong_quarantine(MlcStrongRule *rules, int nrules, bool prepare)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	StrongCommit *mine = palloc0(sizeof(StrongCommit));
	MlcRelayShared *relay;
	ListCell   *lc;

	Assert(commit == NULL);
	name_owner(mine->owner);
	relay = mlc_segment_relay(MyDatabaseId, true);
	mlc_commits_begin();
	commit = mine;				/* from here on there is something to end */

	/*
	 * Who ends a prepared transaction does not know the rows; and what a
	 * crash may undo must not be cached.
	 */
	mine->writes_through = !prepare &&
		(synchronous_commit != SYNCHRONOUS_COMMIT_OFF ||
		 MLC_FAULT_SKIP("strong-async"));
	if (prepare)
		pg_atomic_fetch_add_u64(&relay->prepared, 1);

	for (int i = 0; i < nrules; i++)
		foreach(lc, mlc_link_all(rules[i].nservers, rules[i].servers))
			if (mlc_link_is_whole(lfirst(lc)))
			add_cluster_rule(lfirst(lc), &rules[i]);
		else
			add_rule(lfirst(lc), &rules[i]);
	for (int i = 0; i < commit->nservers; i++)
	{
		sort_keys(&commit->servers[i]);
		lay_out(&commit->servers[i]);
	}
	MLC_FAULT("strong-before-quarantine");
	close_l1(rules, nrules);
	mine->start = mlc_stats_now();
	if (!MLC_FAULT_SKIP("strong-quarantine"))
		ask_servers(0, commit->nservers);
	MemoryContextSwitchTo(old);
}

void
mlc_strong_await(void)
{
	MemoryContext old;

	if (commit == NULL)
		return;
	old = MemoryContextSwitchTo(TopTransactionContext);
	if (!MLC_FAULT_SKIP("strong-quarantine"))
	{
		await_servers(0, commit->nservers);
		redirect_keys();
	}
	mlc_stats_since(MLC_TIME_QUARANTINE, commit->start);
	MLC_FAULT("strong-after-quarantine");
	MemoryContextSwitchTo(old);
}

/* The release of one server; false: it could not be sent as a whole. */
static bool
release_server(StrongServer *server, bool committed)
{
	MlcConn    *conn = server->link->conn;
	int			keys = keys_a_call(server);

	if (!mlc_conn_is_open(conn))
		return false;
	for (int i = 0; i < server->nreleases; i++)
	{
		MlcCommand *cmd = &server->releases[i];
		int			n = Min(keys, server->nkeys - i * keys);

		/* no version says that it was aborted */
		if (!committed)
		{
			cmd->argvlen[RELEASE_VERSION(n)] = 0;
			cmd->argc = RELEASE_ARGC(n);
		}
		mlc_command_append(cmd, conn);
	}
	if (!mlc_conn_send(conn))
		return false;
	if (mlc_conn_unsent(conn) == 0)
		return true;

	/* half a command would wait for whoever uses the connection next */
	mlc_conn_close(conn);
	return false;
}

bool
mlc_strong_release(const MlcVersion *version)
{
	uint64		start = mlc_stats_now();
	bool		released = true;

	if (commit == NULL)
		return false;
	if (version)
	{
		MLC_FAULT("strong-before-release");
		mlc_version_print(*version, commit->version);
	}
	for (int i = 0; i < commit->nservers; i++)
	{
		StrongServer *server = &commit->servers[i];

		if (!server->asked || server->close || MLC_FAULT_SKIP("strong-release"))
			released = false;
		if (server->asked && !MLC_FAULT_SKIP("strong-release") &&
			!release_server(server, version != NULL))
		{
			released = false;
			want_sweep();
		}
	}
	open_l1();
	mlc_commits_end();
	commit = NULL;
	mlc_stats_since(MLC_TIME_RELEASE, start);
	return released;
}

void
mlc_strong_prepared(void)
{
	if (commit == NULL)
		return;

	/* is_prepared() keeps readers from L1 */
	open_l1();
	want_sweep();
	mlc_commits_end();
	commit = NULL;
}
