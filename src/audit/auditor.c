/*-------------------------------------------------------------------------
 *
 * audit/auditor.c
 *	  The worker "mlcache auditor" of one database.
 *
 * Once a second it compares as many cached copies with their rows as
 * mlcache.audit_rate says.  It goes through a server with SCAN, whose order is
 * that of hashes, so what it looks at within any time is a random sample, and
 * all of it together is everything.  Copies that are proven wrong are logged
 * and counted.
 *
 * Then a probe: a marker is put into each Redis, and a commit is made that
 * removes it on the way of all commits: WAL, relay, Redis.  The time from the
 * commit to the reply of the last server is the time of convergence.
 *
 * Each second is a transaction; a server that is not armed is left out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "audit/audit.h"
#include "audit/auditor.h"
#include "audit/recheck.h"
#include "audit/remote.h"
#include "audit/worker.h"
#include "base/guc.h"
#include "capture/xact.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "read/link.h"
#include "read/match.h"
#include "redis/command.h"
#include "shm/consistency.h"
#include "shm/segment.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define TICK 1000				/* ms */
#define STEPS_MAX 20			/* of the scan, a tick: Redis may be full of
								 * what is not ours */
#define LOGGED_MAX 10			/* findings a tick */
#define PROBE_TIMEOUT 10000		/* ms */
#define CURSOR_LEN 24
#define LOCK_TIMEOUT_MS "100"

static MlcWorkerKind kind = {
	.name = "mlcache auditor",
	.function = "mlc_auditor_main",
	.lack = "Nobody compares cached copies with rows there.",
	.enabled = &mlc_relay_enabled,
	.rate = &mlc_audit_rate
};

/* Where the scan of a server, or of a master of a cluster, stands. */
typedef struct Position
{
	MlcLink    *link;
	char		cursor[CURSOR_LEN];
} Position;

static MlcRelayShared *relay;
static Position positions[MLC_MAX_TARGETS];
static int	logged;				/* in this tick */

long
mlc_auditor_tend(void)
{
	return mlc_worker_tend(&kind);
}

static bool
is_armed(Oid serverid)
{
	int			armed = 0;
	int			others = 0;

	LWLockAcquire(mlc_shared->lock, LW_SHARED);
	for (int i = 0; i < MLC_MAX_TARGETS; i++)
		if (relay->targets[i].state != MLC_TARGET_UNUSED &&
			relay->targets[i].serverid == serverid)
		{
			if (relay->targets[i].state == MLC_TARGET_ARMED)
				armed++;
			else
				others++;
		}
	LWLockRelease(mlc_shared->lock);
	return armed > 0 && others == 0;
}

static Position *
position_of(MlcLink *link)
{
	static int	next = 0;
	Position   *position;

	for (int i = 0; i < MLC_MAX_TARGETS; i++)
		if (positions[i].link == link)
			return &positions[i];
	position = &positions[next++ % MLC_MAX_TARGETS];
	position->link = link;
	strcpy(position->cursor, "0");
	return position;
}

static void
log_finding(void *arg, const MlcFinding *finding)
{
	if (logged++ < LOGGED_MAX)
		ereport(LOG,
				(errmsg("mlcache: cached copy \"%.*s\" on server \"%s\" is %s",
						(int) finding->keylen, finding->key, finding->server,
						mlc_verdict_name(finding->verdict)),
				 errdetail("%s", finding->detail)));
}

/* ---- comparing ---- */

/* The rule that loads the key of which this is the entry's or guard's name. */
static MlcRule *
rule_of(const MlcReply *name)
{
	const char *key = name->str;
	uint32		len = name->len;

	if (len > MLC_KEY_MAX_LEN)
		return NULL;
	if (len > 6 && memcmp(key, "mlc:", 4) == 0)
	{
		key += 4;
		len -= 4;
		if (key[0] == '{' && memchr(key, '}', len) == key + len - 1)
		{
			key++;
			len -= 2;
		}
	}
	return mlc_match_key(key, len);
}

static bool
is_on_server(const MlcRule *rule, const char *server)
{
	for (int i = 0; i < rule->nservers; i++)
		if (strcmp(rule->servers[i], server) == 0)
			return true;
	return rule->nservers == 0;
}

/*
 * Runs step(), which may raise (a loader, a Redis that is lost): the error is
 * logged, and the connection (NULL: none) closed, since answers may be on their
 * way.
 */
static void
attempt(void (*step) (void *arg), void *arg, MlcLink *link, const char *what)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		step(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		if (link)
			mlc_conn_close(link->conn);
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("mlcache: %s could not be audited: %s", what,
						error->message),
				 error->detail ? errdetail("%s", error->detail) : 0));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

/* What the names of one rule stand for. */
typedef struct RuleStep
{
	MlcAudit   *audit;
	MlcRule    *rule;
	MlcRemote  *remote;
	MlcReply  **names;
	int			n;
} RuleStep;

static void
compare_rule(void *arg)
{
	RuleStep   *step = arg;

	/* whoever alters the table goes first */
	if (!ConditionalLockRelationOid(step->rule->relid, AccessShareLock))
		return;
	mlc_audit_names(step->audit, step->rule, step->remote, step->names, step->n);
}

/* Sorts the names of a step by rule. */
static void
compare_page(MlcAudit *audit, MlcRemote *remote, const MlcRemotePage *page)
{
	MlcRule   **rules = palloc(sizeof(MlcRule *) * Max(page->n, 1));
	MlcReply  **names = palloc(sizeof(MlcReply *) * Max(page->n, 1));

	for (size_t i = 0; i < page->n; i++)
		rules[i] = rule_of(page->names[i]);
	for (size_t i = 0; i < page->n; i++)
	{
		MlcRule    *rule = rules[i];
		int			n = 0;

		if (rule == NULL)
			continue;
		for (size_t j = i; j < page->n; j++)
			if (rules[j] && rules[j]->id == rule->id)
			{
				names[n++] = page->names[j];
				rules[j] = NULL;
			}
		if (is_on_server(rule, remote->server) && mlc_conn_is_open(remote->link->conn))
		{
			RuleStep	step = {audit, rule, remote, names, n};

			attempt(compare_rule, &step, remote->link,
					psprintf("cache rule '%s'", rule->key));
		}
	}
}

typedef struct ServerStep
{
	MlcLink    *link;
	int			rate;
} ServerStep;

static void
compare_server(void *arg)
{
	ServerStep *step = arg;
	int			rate = step->rate;
	Position   *position = position_of(step->link);
	MlcAudit	audit;
	MlcRemote	remote;

	memset(&audit, 0, sizeof(audit));
	audit.sample = 1.0;
	audit.timeout = Min(mlc_audit_timeout, TICK);
	audit.report = log_finding;
	mlc_remote_open(&remote, step->link, 0);
	for (int i = 0; i < STEPS_MAX && audit.compared < rate; i++)
	{
		MlcRemotePage page;

		/* an entry has two names, its guard's and its own */
		mlc_remote_ask_page(&remote, position->cursor, "*",
							Max(10, Min(MLC_REMOTE_PAGE, 2 * (rate - audit.compared))));
		mlc_remote_page(&remote, &page);
		strlcpy(position->cursor, page.cursor, CURSOR_LEN);
		compare_page(&audit, &remote, &page);
		if (strcmp(position->cursor, "0") == 0 || !mlc_conn_is_open(remote.link->conn))
			break;
	}
}

typedef struct L1Step
{
	MlcAudit   *audit;
	MlcRule    *rule;
	MlcL1Copy  *lines;
	int			n;
} L1Step;

static void
compare_lines(void *arg)
{
	L1Step	   *step = arg;

	if (!ConditionalLockRelationOid(step->rule->relid, AccessShareLock))
		return;
	mlc_audit_l1(step->audit, step->rule, step->lines, step->n);
}

/* The next lines of L1, sorted by rule. */
static void
compare_l1(int rate)
{
	static MlcL1Cursor cursor;
	MlcL1Copy  *lines = palloc(sizeof(MlcL1Copy) * rate);
	MlcL1Copy  *own = palloc(sizeof(MlcL1Copy) * rate);
	MlcAudit	audit;
	int			n = 0;

	for (int i = 0; i < STEPS_MAX && n == 0; i++)
		n = mlc_l1_walk(&cursor, 0, lines, rate);
	if (n < 0)
		memset(&cursor, 0, sizeof(cursor));
	memset(&audit, 0, sizeof(audit));
	audit.sample = 1.0;
	audit.timeout = Min(mlc_audit_timeout, TICK);
	audit.report = log_finding;
	for (int i = 0; i < n; i++)
	{
		L1Step		step = {&audit, mlc_rule_by_id(lines[i].hit.rule), own, 0};
		int32		id = lines[i].hit.rule;

		if (id == 0)
			continue;
		for (int j = i; j < n; j++)
			if (lines[j].hit.rule == id)
			{
				own[step.n++] = lines[j];
				lines[j].hit.rule = 0;
				own[step.n - 1].hit.rule = id;
			}
		if (step.rule)
			attempt(compare_lines, &step, NULL, "L1");
	}
}

static void
compare_all(void)
{
	List	   *links = NIL;
	ListCell   *lc;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, mlc_link_all(0, NULL))
	{
		MlcLink    *link = lfirst(lc);

		if (!is_armed(link->serverid))
			continue;
		if (mlc_link_is_cluster(link))
			links = list_concat(links, mlc_link_nodes(link));
		else
			links = lappend(links, link);
	}
	foreach(lc, links)
	{
		ServerStep	step = {lfirst(lc), Max(1, mlc_audit_rate / list_length(links))};

		attempt(compare_server, &step, step.link, "a server");
	}
	if (links != NIL)
		compare_l1(Min(mlc_audit_rate, 1000));
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* ---- probing ---- */

static char *
marker_name(void)
{
	return psprintf("mlcache-probe:%u", MyDatabaseId);
}

/* A rule whose events reach all servers and wait for nothing, if there is one. */
static MlcRule *
choose_rule(void)
{
	MlcRule    *best = NULL;
	ListCell   *lc;

	foreach(lc, mlc_rule_all())
	{
		MlcRule    *rule = lfirst(lc);

		if (best == NULL ||
			(rule->nservers == 0) > (best->nservers == 0) ||
			((rule->nservers == 0) == (best->nservers == 0) &&
			 best->consistency == MLC_WEAK && rule->consistency != MLC_WEAK))
			best = rule;
	}
	return best;
}

static MlcRule *
probe_rule(void)
{
	static int32 chosen = 0;
	static uint64 changes = 0;
	MlcRule    *rule;

	/* looking at the catalog first makes changes count */
	if (OidIsValid(mlc_rule_relid()) && chosen != 0 && changes == mlc_rule_changes)
		return mlc_rule_by_id(chosen);
	changes = mlc_rule_changes;
	rule = choose_rule();
	chosen = rule ? rule->id : 0;
	return rule;
}

static bool
set_marker(MlcLink *link)
{
	MlcReply   *reply;

	if (!mlc_link_open(link) || !mlc_link_drain(link))
		return false;
	reply = mlc_command_simple(link->conn, "SET", marker_name(), "1", "PX", "60000",
							   NULL);
	if (reply == NULL)
		mlc_link_fail(link);
	return reply && reply->type == MLC_REPLY_STATUS;
}

static bool
marker_is_gone(MlcLink *link)
{
	MlcReply   *reply;

	if (!mlc_link_open(link))
		return false;
	reply = mlc_command_simple(link->conn, "EXISTS", marker_name(), NULL);
	if (reply == NULL)
		mlc_link_fail(link);
	return reply && reply->type == MLC_REPLY_INTEGER && reply->integer == 0;
}

static void
probe(void)
{
	MlcRule    *rule;
	List	   *links = NIL;
	ListCell   *lc;
	TimestampTz committed;
	XLogRecPtr	position;
	MemoryContext context;
	bool		arrived = true;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	context = AllocSetContextCreate(TopMemoryContext, "mlcache probe",
									ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(context);
	rule = probe_rule();
	foreach(lc, rule ? mlc_link_all(rule->nservers, rule->servers) : NIL)
	{
		MlcLink    *link = mlc_link_node(lfirst(lc), marker_name(),
										 strlen(marker_name()));

		if (link && is_armed(link->serverid) && set_marker(link))
			links = lappend(links, link);
	}
	PopActiveSnapshot();
	if (links == NIL)
	{
		CommitTransactionCommand();
		MemoryContextDelete(context);
		return;
	}
	mlc_xact_probe(rule, marker_name());
	CommitTransactionCommand();
	position = mlc_xact_last_commit();
	committed = GetCurrentTimestamp();

	foreach(lc, links)
	{
		MlcLink    *link = lfirst(lc);

		arrived &= mlc_recheck_wait(link->serverid, position, PROBE_TIMEOUT);
	}
	if (arrived)
	{
		TimestampTz now = GetCurrentTimestamp();

		MemoryContextSwitchTo(context);
		foreach(lc, links)
			arrived &= marker_is_gone(lfirst(lc));
		mlc_consistency_probe(arrived ? now - committed : -1);
	}
	else
		mlc_consistency_probe(-1);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
}

/* ---- the worker ---- */

void
mlc_auditor_main(Datum arg)
{
	TimestampTz next = GetCurrentTimestamp();

	relay = mlc_worker_begin(arg);

	/* of partitions: not to be in anybody's way, nor in a deadlock */
	SetConfigOption("lock_timeout", LOCK_TIMEOUT_MS, PGC_SUSET, PGC_S_OVERRIDE);
	while (mlc_worker_is_wanted(&kind, relay))
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (GetCurrentTimestamp() >= next)
		{
			next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), TICK);
			logged = 0;
			compare_all();
			probe();
			pgstat_report_stat(true);
		}
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next) + 1,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
