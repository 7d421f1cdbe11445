/*-------------------------------------------------------------------------
 *
 * capture/marks.c
 *	  The commands of a strong commit: marks, and their end.
 *
 * What a transaction changed is sorted out by server, and each server gets its
 * calls: quarantines for now, and releases that are made at the same time,
 * since nothing may fail or be allocated once the transaction has committed;
 * only their version is filled in then.  Of rows that are written through so
 * much goes along as a socket takes at once.
 *
 * Everything lives in the current context, TopTransactionContext.  Must not:
 * talk to a server (capture/strong.c does).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/grow.h"
#include "base/guc.h"
#include "capture/marks.h"
#include "miscadmin.h"

#define KEYS_A_CALL 500

/* FCALL mlc_release n key... ns owner version tell [payloads] */
#define RELEASE_VERSION(n) ((n) + 5)
#define RELEASE_ARGC(n) ((n) + 7)

/* Read by relay/sweep. */
void
mlc_marks_name_owner(char *owner)
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
	snprintf(owner, MLC_OWNER_LEN, "%llx-%016llx",
			 (unsigned long long) U64FromFullTransactionId(GetTopFullTransactionId()),
			 (unsigned long long) nonce);
}

MlcStrongServer *
mlc_marks_new_server(MlcStrongCommit *commit, MlcLink *link)
{
	MlcStrongServer *server;

	if (commit->servers == NULL)
		commit->servers = palloc(sizeof(MlcStrongServer));
	else
		commit->servers = repalloc(commit->servers,
								   sizeof(MlcStrongServer) * (commit->nservers + 1));
	server = &commit->servers[commit->nservers++];
	memset(server, 0, sizeof(*server));
	server->link = link;
	server->degrade = server->tell = true;
	return server;
}

MlcStrongServer *
mlc_marks_server(MlcStrongCommit *commit, MlcLink *link)
{
	for (int i = 0; i < commit->nservers; i++)
		if (commit->servers[i].link == link)
			return &commit->servers[i];
	return mlc_marks_new_server(commit, link);
}

void
mlc_marks_add_key(MlcStrongCommit *commit, MlcStrongServer *server,
				  const MlcStrongKey *key)
{
	MlcStrongKey *mine;

	server->keys = mlc_grow(CurrentMemoryContext, server->keys, server->nkeys,
							&server->size, sizeof(MlcStrongKey));
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
add_rule(MlcStrongCommit *commit, MlcLink *link, MlcStrongRule *rule)
{
	MlcStrongServer *server = mlc_marks_server(commit, link);

	server->degrade &= rule->degrade;
	server->tell &= !rule->degrade;
	if (is_closing(rule))
		server->close = true;
	for (int i = 0; i < rule->nkeys && !is_closing(rule); i++)
		mlc_marks_add_key(commit, server, &rule->keys[i]);
}

/*
 * The same for a cluster: each key is its master's.  Where no node tells who
 * that is, it is the cluster's, which nobody reaches.
 */
static void
add_cluster_rule(MlcStrongCommit *commit, MlcLink *whole, MlcStrongRule *rule)
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
		add_rule(commit, lfirst(lc), rule);
	for (int i = 0; i < rule->nkeys && nodes == NIL; i++)
	{
		MlcLink    *node = mlc_link_node(whole, rule->keys[i].key,
										 rule->keys[i].len);
		MlcStrongServer *server = mlc_marks_server(commit, node ? node : whole);

		server->degrade &= rule->degrade;
		server->tell &= !rule->degrade;
		mlc_marks_add_key(commit, server, &rule->keys[i]);
	}
}

void
mlc_marks_add_rule(MlcStrongCommit *commit, MlcLink *link, MlcStrongRule *rule)
{
	if (mlc_link_is_whole(link))
		add_cluster_rule(commit, link, rule);
	else
		add_rule(commit, link, rule);
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
sort_keys(MlcStrongServer *server)
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
add_keys(MlcCommand *cmd, MlcStrongServer *server, int from, int n)
{
	mlc_command_add_int(cmd, n);
	for (int i = from; i < from + n; i++)
		mlc_command_add(cmd, server->keys[i].key, server->keys[i].len);
}

/* For a release: what is to be put there, once the commit is visible. */
static void
add_payloads(MlcCommand *cmd, MlcStrongServer *server, int from, int n)
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
has_payloads(MlcStrongServer *server, int from, int n)
{
	for (int i = from; i < from + n; i++)
		if (server->keys[i].payload)
			return true;
	return false;
}

/* In a cluster a call is for one slot. */
static int
keys_a_call(MlcStrongServer *server)
{
	return mlc_link_is_cluster(server->link) ? 1 : KEYS_A_CALL;
}

void
mlc_marks_lay_out(MlcStrongCommit *commit, MlcStrongServer *server)
{
	int			keys = keys_a_call(server);
	int			calls;

	sort_keys(server);
	calls = (server->nkeys + keys - 1) / keys;
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

MlcCommand *
mlc_marks_release(MlcStrongServer *server, int i, bool committed)
{
	MlcCommand *cmd = &server->releases[i];
	int			keys = keys_a_call(server);
	int			n = Min(keys, server->nkeys - i * keys);

	/* no version says that it was aborted */
	if (!committed)
	{
		cmd->argvlen[RELEASE_VERSION(n)] = 0;
		cmd->argc = RELEASE_ARGC(n);
	}
	return cmd;
}
