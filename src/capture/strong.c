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
#include "capture/marks.h"
#include "miscadmin.h"
#include "redis/cluster.h"
#include "redis/script.h"
#include "shm/commits.h"
#include "shm/l1.h"
#include "shm/stats.h"
#include "utils/memutils.h"

/* Of the transaction at hand, in TopTransactionContext; NULL: none. */
static MlcStrongCommit *commit = NULL;

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
ask(MlcStrongServer *server)
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
remember_redirect(MlcStrongServer *server, int call)
{
	if (server->redirected == NULL)
		server->redirected = palloc0(sizeof(bool) * server->nkeys);
	server->redirected[call] = true;
	server->nredirected++;
}

/* NULL, or what is wrong. */
static const char *
take_answers(MlcStrongServer *server, bool *missing)
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
ask_again(MlcStrongServer *server)
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
report(MlcStrongServer *server, const char *wrong)
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
why_away(MlcStrongServer *server)
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
		MlcStrongServer *server = &commit->servers[i];

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
		MlcStrongServer *server = &commit->servers[i];
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
			MlcStrongServer *server = &commit->servers[i];
			MlcStrongServer *now = NULL;
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
				now = mlc_marks_new_server(commit, node);
			now->degrade &= degrade;
			key.payload = NULL; /* its entry may have been on either side */
			mlc_marks_add_key(commit, now, &key);
		}
	for (int i = old; i < commit->nservers; i++)
		mlc_marks_lay_out(commit, &commit->servers[i]);
	ask_servers(old, commit->nservers);
	await_servers(old, commit->nservers);
}

/* Closes a master, and removes what it has of the keys.  False: it is away. */
static bool
close_node(MlcLink *node, MlcStrongServer *server)
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
close_cluster(MlcStrongServer *server)
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
	MlcStrongCommit *mine = palloc0(sizeof(MlcStrongCommit));
	MlcRelayShared *relay;
	ListCell   *lc;

	Assert(commit == NULL);
	mlc_marks_name_owner(mine->owner);
	relay = mlc_segment_my_relay();
	if (relay == NULL)
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
			mlc_marks_add_rule(commit, lfirst(lc), &rules[i]);
	for (int i = 0; i < commit->nservers; i++)
		mlc_marks_lay_out(commit, &commit->servers[i]);
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
release_server(MlcStrongServer *server, bool committed)
{
	MlcConn    *conn = server->link->conn;

	if (!mlc_conn_is_open(conn))
		return false;
	for (int i = 0; i < server->nreleases; i++)
		mlc_command_append(mlc_marks_release(server, i, committed), conn);
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
		MlcStrongServer *server = &commit->servers[i];

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
