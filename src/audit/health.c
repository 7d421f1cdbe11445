/*-------------------------------------------------------------------------
 *
 * audit/health.c
 *	  Findings: what is not as it should be, and what to do about it.
 *
 * health() and the monitor share the conditions and their limits, which are
 * settings.  A condition that has been raised ends only a fifth below its
 * limit, so that a value that swings about it does not ring again and again.
 * What follows from something worse is not said: a server that is down lags,
 * and the servers of a relay that is down are.
 *
 * What check_setup() asks is not asked here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "audit/health.h"
#include "audit/look.h"
#include "base/guc.h"
#include "capture/unique.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "lock/registry.h"
#include "miscadmin.h"
#include "model/rule.h"
#include "redis/server.h"
#include "shm/consistency.h"
#include "shm/l1.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#define WINDOW 60				/* s over which rates are judged */
#define ENOUGH_READS 1000		/* before a ratio means anything */
#define ENOUGH_EVENTS 10000		/* before it is odd that nobody reads */
#define WASTE (64 * 1024 * 1024)	/* bytes lost to fragmentation that matter */
#define CLOCK_MEMORY 600		/* s for which a jump is told */
#define ENOUGH_SEEDS 2			/* nodes that may not both go at once */
#define FIRST_TRY 5000			/* ms until a server is reached, or is down */
#define MB ((double) (1024 * 1024))

static const struct
{
	const char *name;
	const char *severity;
	bool		alerts;
}			kinds[] = {
	[MLC_FINDING_RELAY] = {"relay down", "critical", true},
	[MLC_FINDING_SERVER_DOWN] = {"server down", "critical", true},
	[MLC_FINDING_GIVEN_UP] = {"server given up", "critical", true},
	[MLC_FINDING_SLOT] = {"slot near its limit", "critical", true},
	[MLC_FINDING_POLICY] = {"unsafe eviction policy", "critical", true},
	[MLC_FINDING_SEEDS_GONE] = {"url leads nowhere", "critical", true},
	[MLC_FINDING_VIOLATIONS] = {"violations", "critical", true},
	[MLC_FINDING_NOT_UNIQUE] = {"rule not unique", "critical", false},
	[MLC_FINDING_LAG] = {"lag", "warning", true},
	[MLC_FINDING_RETAINED] = {"retained WAL", "warning", true},
	[MLC_FINDING_MEMORY] = {"Redis memory", "warning", true},
	[MLC_FINDING_SEEDS_FEW] = {"url out of date", "warning", true},
	[MLC_FINDING_CLOCK] = {"clock jumped", "warning", true},
	[MLC_FINDING_HIT_RATIO] = {"hit ratio", "warning", true},
	[MLC_FINDING_LOCKS] = {"locks lost", "warning", true},
	[MLC_FINDING_PAUSED] = {"server paused", "warning", false},
	[MLC_FINDING_FRAGMENTATION] = {"Redis fragmentation", "warning", false},
	[MLC_FINDING_L1] = {"L1 too small", "warning", false},
	[MLC_FINDING_NEVER_HIT] = {"rule never hit", "warning", false},
	[MLC_FINDING_CATCH_UP] = {"server catching up", "info", false},
	[MLC_FINDING_NEVER_READ] = {"rule never read", "info", false},
};

const char *
mlc_finding_name(MlcFindingKind kind)
{
	return kinds[kind].name;
}

const char *
mlc_finding_severity(MlcFindingKind kind)
{
	return kinds[kind].severity;
}

bool
mlc_finding_alerts(MlcFindingKind kind)
{
	return kinds[kind].alerts;
}

/* ---- one check under way ---- */

typedef struct Check
{
	MlcRelayShared *relay;
	MlcHistory *history;		/* NULL: nothing is remembered */
	MlcFindingRaised raised;	/* NULL: nothing is */
	TimestampTz now;
	TimestampTz began_at;		/* the relay */
	List	   *findings;
} Check;

static void
add(Check *check, MlcFindingKind kind, const char *subject, char *detail,
	char *advice)
{
	MlcHealthFinding *finding = palloc(sizeof(MlcHealthFinding));

	finding->kind = kind;
	finding->subject = pstrdup(subject);
	finding->detail = detail;
	finding->advice = advice;
	check->findings = lappend(check->findings, finding);
}

static bool
is_raised(Check *check, MlcFindingKind kind, const char *subject)
{
	return check->raised && check->raised(kind, subject);
}

/* Is a value above its limit?  Limit 0 means that nobody asks. */
static bool
exceeds(Check *check, MlcFindingKind kind, const char *subject, double value,
		double limit)
{
	if (limit <= 0)
		return false;
	if (is_raised(check, kind, subject))
		return value > limit * 0.8;
	return value > limit;
}

static char *
bytes(double n)
{
	const char *units[] = {"bytes", "kB", "MB", "GB", "TB"};
	int			i = 0;

	for (; n >= 10240 && i < 4; i++)
		n /= 1024;
	return psprintf("%.0f %s", n, units[i]);
}

/* ---- the relay and its servers ---- */

/* Has nobody had the time yet to find out whether it is down? */
static bool
is_untried(Check *check, MlcTargetStat *stat)
{
	TimestampTz since = Max(check->began_at, stat->catch_up_at);

	return stat->state == MLC_TARGET_DOWN && stat->error[0] == '\0' &&
		!TimestampDifferenceExceeds(since, check->now, FIRST_TRY);
}

static void
check_server(Check *check, MlcTargetStat *stat, MlcServer *server)
{
	bool		down = stat->state == MLC_TARGET_DOWN ||
	stat->state == MLC_TARGET_GIVEN_UP;
	double		behind;

	/* it is back only when it serves again */
	if (stat->state == MLC_TARGET_CATCHUP &&
		is_raised(check, MLC_FINDING_SERVER_DOWN, server->name))
		down = true;
	if (is_untried(check, stat) &&
		!is_raised(check, MLC_FINDING_SERVER_DOWN, server->name))
		return;
	if (down)
		add(check, MLC_FINDING_SERVER_DOWN, server->name,
			psprintf("Readers read rows, strong commits fail or degrade. %s%s",
					 stat->error[0] ? "The last error: " : "It has not been reached yet.",
					 stat->error),
			mlc_look_ping(server));
	if (stat->state == MLC_TARGET_GIVEN_UP)
		add(check, MLC_FINDING_GIVEN_UP, server->name,
			pstrdup("WAL is no longer held for it (mlcache.slot_max_retained). It is purged when it returns."),
			mlc_look_ping(server));
	if (stat->state == MLC_TARGET_PAUSED)
		add(check, MLC_FINDING_PAUSED, server->name,
			pstrdup("Changes are not delivered to it; WAL is held."),
			psprintf("SELECT mlcache.resume(%s);",
					 quote_literal_cstr(server->name)));
	if (down || stat->state == MLC_TARGET_PAUSED)
		return;
	if (stat->state == MLC_TARGET_CATCHUP)
		add(check, MLC_FINDING_CATCH_UP, server->name,
			pstrdup("It gives neither hits nor permission to fill until it has been caught up."),
			pstrdup("SELECT * FROM mlcache.stat_progress;"));
	if (check->history == NULL)
		return;
	behind = mlc_history_behind(check->history, stat->applied_lsn, check->now);
	if (exceeds(check, MLC_FINDING_LAG, server->name, behind, mlc_alert_lag))
		add(check, MLC_FINDING_LAG, server->name,
			psprintf("Changes of %.1f s ago are not applied (mlcache.alert_lag is %.1f s).",
					 behind / 1000, mlc_alert_lag / 1000.0),
			pstrdup("SELECT * FROM mlcache.stat_servers;"));
}

/* The server of a slot in shared memory; NULL: it has been dropped. */
static MlcServer *
server_of(MlcTargetStat *stat)
{
	return stat->state == MLC_TARGET_UNUSED ? NULL : mlc_server_find(stat->serverid);
}

static void
check_relay(Check *check)
{
	MlcTargetStat stats[MLC_MAX_TARGETS];
	pid_t		pid;
	bool		wanted;

	mlc_segment_read_servers(check->relay, stats);
	LWLockAcquire(mlc_shared->lock, LW_SHARED);
	pid = check->relay->pid;
	check->began_at = check->relay->began_at;
	wanted = check->relay->wanted;
	LWLockRelease(mlc_shared->lock);

	if (wanted && pid == 0)
		add(check, MLC_FINDING_RELAY, get_database_name(MyDatabaseId),
			psprintf("Nobody delivers changes. %s",
					 mlc_relay_enabled ? "The server log tells why." :
					 "mlcache.relay_enabled is off."),
			pstrdup(mlc_relay_enabled ? "SELECT * FROM mlcache.check_setup();" :
					"ALTER SYSTEM SET mlcache.relay_enabled = on; SELECT pg_reload_conf();"));
	for (int i = 0; i < MLC_MAX_TARGETS; i++)
	{
		MlcServer  *server = server_of(&stats[i]);

		if (server == NULL)
			continue;
		if (pid != 0 || is_raised(check, MLC_FINDING_SERVER_DOWN, server->name))
			check_server(check, &stats[i], server);
	}
}

/* ---- the slot ---- */

void
mlc_health_look_at_slot(MlcSlotLook *look)
{
	static SPIPlanPtr plan = NULL;
	NameData	name = {""};
	Datum		arg = NameGetDatum(&name);

	look->retained = look->left = -1;
	look->lost = false;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	if (plan == NULL)
	{
		Oid			types[1] = {NAMEOID};

		plan = SPI_prepare("SELECT pg_catalog.pg_wal_lsn_diff("
						   "pg_catalog.pg_current_wal_lsn(), restart_lsn)::pg_catalog.int8,"
						   " safe_wal_size,"
						   " wal_status OPERATOR(pg_catalog.=) ANY ('{lost,unreserved}')"
						   " FROM pg_catalog.pg_get_replication_slots()"
						   " WHERE slot_name OPERATOR(pg_catalog.=) $1",
						   1, types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare a query: %s",
				 SPI_result_code_string(SPI_result));
	}
	memset(&name, 0, sizeof(name));
	snprintf(NameStr(name), NAMEDATALEN, "mlcache_%u", MyDatabaseId);
	if (SPI_execute_plan(plan, &arg, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look at the replication slots");
	if (SPI_processed > 0)
	{
		Datum		values[3];
		bool		nulls[3];

		for (int i = 0; i < 3; i++)
			values[i] = SPI_getbinval(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, i + 1, &nulls[i]);
		look->retained = nulls[0] ? -1 : DatumGetInt64(values[0]);
		look->left = nulls[1] ? -1 : DatumGetInt64(values[1]);
		look->lost = !nulls[2] && DatumGetBool(values[2]);
	}
	SPI_finish();
}

static void
check_slot(Check *check)
{
	char	   *slot = psprintf("mlcache_%u", MyDatabaseId);
	MlcSlotLook look;
	double		limit = mlc_slot_max_retained * MB;

	mlc_health_look_at_slot(&look);
	if (look.lost)
		add(check, MLC_FINDING_SLOT, slot,
			pstrdup("It has lost WAL, or is about to (max_slot_wal_keep_size); every cache is then purged."),
			pstrdup("ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf();"));
	else if (look.left >= 0 &&
			 exceeds(check, MLC_FINDING_SLOT, slot, look.retained,
					 (look.retained + look.left) * 0.8))
		add(check, MLC_FINDING_SLOT, slot,
			psprintf("It holds %s of WAL, and is lost in another %s (max_slot_wal_keep_size).",
					 bytes(look.retained), bytes(look.left)),
			pstrdup("ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf();"));
	else if (exceeds(check, MLC_FINDING_SLOT, slot, look.retained, limit * 0.8))
		add(check, MLC_FINDING_SLOT, slot,
			psprintf("It holds %s of WAL; past %s (mlcache.slot_max_retained) servers that are away are given up.",
					 bytes(look.retained), bytes(limit)),
			psprintf("ALTER SYSTEM SET mlcache.slot_max_retained = '%d MB'; SELECT pg_reload_conf();",
					 mlc_slot_max_retained * 2));
	if (exceeds(check, MLC_FINDING_RETAINED, slot, look.retained,
				mlc_alert_retained * MB))
		add(check, MLC_FINDING_RETAINED, slot,
			psprintf("It holds %s of WAL (mlcache.alert_retained is %s).",
					 bytes(look.retained), bytes(mlc_alert_retained * MB)),
			pstrdup("SELECT * FROM mlcache.stat_servers;"));
}

/* ---- Redis ---- */

static void
check_redis(Check *check, const MlcRedisLook *look, MlcServer *server)
{
	const char *name = server->options.nseeds == 0 ? server->name :
	psprintf("%s (%s:%d)", server->name, look->host, look->port);
	char	   *cli = mlc_look_cli(server, look);
	double		limit = look->max * (mlc_alert_memory / 100.0);

	if (strncmp(look->policy, "allkeys-", 8) == 0)
		add(check, MLC_FINDING_POLICY, name,
			psprintf("maxmemory-policy is %s: it may evict the state key, which means a purge; strong commits are refused.",
					 look->policy),
			psprintf("%s CONFIG SET maxmemory-policy volatile-lru", cli));
	if (exceeds(check, MLC_FINDING_MEMORY, name, look->used, limit))
		add(check, MLC_FINDING_MEMORY, name,
			psprintf("It uses %s of %s (maxmemory); %lld keys have been evicted. When it is full, fills are refused, or entries evicted early.",
					 bytes(look->used), bytes(look->max),
					 (long long) look->evicted),
			psprintf("%s CONFIG SET maxmemory %lld", cli,
					 (long long) look->max * 2));
	if (look->rss - look->used > WASTE && look->rss > look->used * 1.5)
		add(check, MLC_FINDING_FRAGMENTATION, name,
			psprintf("It takes %s of memory for %s of data.",
					 bytes(look->rss), bytes(look->used)),
			psprintf("%s CONFIG SET activedefrag yes", cli));
	if (look->jumped_at != 0 && mlc_alert_clock > 0 &&
		!TimestampDifferenceExceeds(look->jumped_at, check->now,
									CLOCK_MEMORY * 1000))
		add(check, MLC_FINDING_CLOCK, name,
			psprintf("At %s its clock moved by %+.1f s against this server's: leases and ttls ended %s.",
					 timestamptz_to_str(look->jumped_at), look->jumped_ms / 1000,
					 look->jumped_ms > 0 ? "early" : "late"),
			pstrdup("timedatectl timesync-status"));
}

/* The url of a cluster that names the masters there are. */
static char *
url_of(MlcServer *server, const MlcRedisLook *looks, int nlooks)
{
	StringInfoData url;

	initStringInfo(&url);
	for (int i = 0; i < nlooks; i++)
	{
		bool		brackets = strchr(looks[i].host, ':') != NULL;

		if (looks[i].serverid != server->serverid)
			continue;
		appendStringInfo(&url, "%s%s%s%s:%d", url.len > 0 ? "," :
						 server->options.tls ? "rediss://" : "redis://",
						 brackets ? "[" : "", looks[i].host,
						 brackets ? "]" : "", looks[i].port);
	}
	return url.data;
}

/*
 * The relay knows the masters of a cluster as they come and go; one that begins
 * anew knows the url only.  One node that it names will do, and nodes are
 * replaced one by one: so two are enough, however many there were.
 */
static void
check_seeds(Check *check, const MlcRedisLook *looks, int nlooks,
			const MlcRedisLook *look, MlcServer *server)
{
	char	   *url;

	if (look->seeds_left >= Min(look->seeds, ENOUGH_SEEDS))
		return;
	url = url_of(server, looks, nlooks);
	add(check, look->seeds_left == 0 ? MLC_FINDING_SEEDS_GONE : MLC_FINDING_SEEDS_FEW,
		server->name,
		psprintf("Of the nodes that its url names (%d), so many lead to the cluster: %d. Where none does, a relay that begins anew does not find it. Its masters: %s.",
				 look->seeds, look->seeds_left, strstr(url, "//") + 2),
		psprintf("ALTER SERVER %s OPTIONS (SET url %s);",
				 quote_identifier(server->name), quote_literal_cstr(url)));
}

static void
check_all_redis(Check *check, const MlcRedisLook *looks, int nlooks)
{
	Oid			last = InvalidOid;

	for (int i = 0; i < nlooks; i++)
	{
		MlcServer  *server = mlc_server_find(looks[i].serverid);

		if (server == NULL)
			continue;
		check_redis(check, &looks[i], server);
		if (server->serverid != last)
			check_seeds(check, looks, nlooks, &looks[i], server);
		last = server->serverid;
	}
}

/* ---- reads ---- */

static void
check_window(Check *check)
{
	MlcSample	sum;
	int			seconds = mlc_history_sum(check->history, WINDOW, &sum);
	double		reads = (double) sum.hits + sum.misses;
	double		ratio = sum.hits / Max(reads, 1);
	double		target = mlc_alert_hit_ratio;
	MlcL1Stat	l1;

	/* what was raised ends a fifth of the way to 1 above its limit */
	if (is_raised(check, MLC_FINDING_HIT_RATIO, "reads"))
		target += (1 - target) / 5;
	if (seconds >= WINDOW / 2 && reads >= ENOUGH_READS && ratio < target)
		add(check, MLC_FINDING_HIT_RATIO, "reads",
			psprintf("Of %.0f keys read within %d s, %.1f %% were cached (mlcache.alert_hit_ratio is %.1f %%).",
					 reads, seconds, ratio * 100, mlc_alert_hit_ratio * 100),
			pstrdup("SELECT * FROM mlcache.stat_rules ORDER BY misses DESC;"));

	mlc_l1_stat(&l1);
	if (sum.evictions >= ENOUGH_READS &&
		l1.lines < (double) sum.evictions / seconds * WINDOW)
		add(check, MLC_FINDING_L1, "L1",
			psprintf("A line lives about %.1f s: it holds %lld lines, and evicts %.0f a second. Values take %.0f %% of it.",
					 l1.lines / ((double) sum.evictions / seconds),
					 (long long) l1.lines, (double) sum.evictions / seconds,
					 100.0 * l1.payload / Max(l1.used, 1)),
			psprintf("ALTER SYSTEM SET mlcache.l1_size = '%d MB'; -- then restart the server",
					 Max(mlc_l1_size / 1024, 1) * 4));
}

/* Reads that a cache could answer, and how many of them one did. */
static double
count_reads(MlcRuleStat *stat, double *hits)
{
	*hits = (double) pg_atomic_read_u64(&stat->counters[MLC_RULE_HITS_L1]) +
		pg_atomic_read_u64(&stat->counters[MLC_RULE_HITS_L2]);
	return *hits + pg_atomic_read_u64(&stat->counters[MLC_RULE_MISSES]);
}

static void
check_rule(Check *check, MlcRule *rule)
{
	MlcRuleStat *stat = mlc_segment_rule_stat(MyDatabaseId, rule->id);
	char	   *relation = get_rel_name(rule->relid);
	char	   *detach;
	char	   *key = rule->key;
	double		hits;
	double		reads;
	double		events;

	if (relation == NULL)
		return;
	relation = quote_qualified_identifier(get_namespace_name(get_rel_namespace(rule->relid)),
										  relation);
	detach = psprintf("SELECT mlcache.detach(%s, %s);",
					  quote_literal_cstr(relation), quote_literal_cstr(key));

	/* a dump that was restored in part, or DDL while we were not loaded */
	if (!mlc_unique_is_kept(rule))
		add(check, MLC_FINDING_NOT_UNIQUE, key,
			pstrdup("No unique index consists of columns of the template only, so a copy may be another row's."),
			detach);
	if (stat == NULL)
		return;
	reads = count_reads(stat, &hits);
	events = pg_atomic_read_u64(&stat->events);

	if (reads >= ENOUGH_READS && hits == 0)
		add(check, MLC_FINDING_NEVER_HIT, key,
			psprintf("None of %.0f reads was answered from a cache, while %.0f changes were delivered.",
					 reads, events), detach);
	else if (reads >= ENOUGH_READS && hits / reads < mlc_alert_hit_ratio)
		add(check, MLC_FINDING_HIT_RATIO, key,
			psprintf("Of %.0f keys read, %.1f %% were cached (mlcache.alert_hit_ratio is %.1f %%); %.0f changes were delivered meanwhile.",
					 reads, hits / reads * 100, mlc_alert_hit_ratio * 100, events),
			psprintf("SELECT * FROM mlcache.stat_rules WHERE id = %d;", rule->id));
	else if (reads == 0 && events >= ENOUGH_EVENTS)
		add(check, MLC_FINDING_NEVER_READ, key,
			psprintf("%.0f changes were delivered, and nothing was read in SQL. (Reads in Redis itself are not known here.)",
					 events), detach);
}

/* What fetch() caches; of free keys, that nothing is there is an answer. */
static void
check_fetched(Check *check)
{
	MlcRuleStat *stat = mlc_segment_rule_stat(MyDatabaseId, MLC_RULE_FETCHED);
	double		hits;
	double		reads;

	if (stat == NULL)
		return;
	reads = count_reads(stat, &hits);
	if (reads >= ENOUGH_READS && hits / reads < mlc_alert_hit_ratio)
		add(check, MLC_FINDING_HIT_RATIO, "fetch",
			psprintf("Of %.0f results fetched, %.1f %% were cached (mlcache.alert_hit_ratio is %.1f %%); tags and keys removed %.0f copies meanwhile.",
					 reads, hits / reads * 100, mlc_alert_hit_ratio * 100,
					 (double) pg_atomic_read_u64(&stat->events)),
			psprintf("SELECT * FROM mlcache.stat_rules WHERE id = %d;",
					 MLC_RULE_FETCHED));
}

/* ---- audits ---- */

/* health() tells of the last hour, an alert of the last minute. */
static void
check_consistency(Check *check)
{
	bool		alert = check->raised != NULL;
	MlcCoherence seen;

	mlc_consistency_read(alert ? MLC_LAST_MINUTE : MLC_LAST_HOUR, &seen);
	if (seen.violations > 0)
		add(check, MLC_FINDING_VIOLATIONS, "copies",
			psprintf("Of %lld cached copies compared within the last %s, wrong: %lld. The server log names those that the auditor found.",
					 (long long) seen.checked, alert ? "minute" : "hour",
					 (long long) seen.violations),
			pstrdup("SELECT a.* FROM (SELECT DISTINCT relation FROM mlcache.rules) r, mlcache.audit(r.relation, repair => true) a;"));
}

/* ---- locks ---- */

static void
check_locks(Check *check)
{
	int			lost = 0;

	LWLockAcquire(mlc_lock_shared->lock, LW_SHARED);
	for (int i = 0; i < mlc_lock_shared->nslots; i++)
	{
		MlcLockSlot *slot = &mlc_lock_shared->slots[i];

		lost += slot->dbid == MyDatabaseId &&
			pg_atomic_read_u32(&slot->state) == MLC_LOCK_LOST;
	}
	LWLockRelease(mlc_lock_shared->lock);
	if (lost > 0)
		add(check, MLC_FINDING_LOCKS, "locks",
			psprintf("Held by sessions that have lost them in Redis, and do not know it yet: %d.",
					 lost),
			pstrdup("SELECT * FROM mlcache.locks WHERE lost;"));
}

/* ---- all of it ---- */

static int
worst_first(const ListCell *a, const ListCell *b)
{
	return (int) ((MlcHealthFinding *) lfirst(a))->kind -
		(int) ((MlcHealthFinding *) lfirst(b))->kind;
}

List *
mlc_health_check(MlcRelayShared *relay, MlcHistory *history,
				 const MlcRedisLook *looks, int nlooks, MlcFindingRaised raised)
{
	Check		check = {relay, history, raised, GetCurrentTimestamp(), 0, NIL};

	if (relay)
	{
		check_relay(&check);
		check_slot(&check);
	}
	check_all_redis(&check, looks, nlooks);
	if (history)
		check_window(&check);
	check_consistency(&check);
	check_locks(&check);
	list_sort(check.findings, worst_first);
	return check.findings;
}

List *
mlc_health_check_all(void)
{
	MlcRelayShared *relay = mlc_segment_my_relay();
	MlcHistory *history = mlc_history_mine(false);
	MlcRedisLook *looks = palloc0(sizeof(MlcRedisLook) * MLC_MAX_TARGETS);
	MlcRedisLook *before = palloc0(sizeof(MlcRedisLook) * MLC_MAX_TARGETS);
	int			nbefore = 0;
	int			nlooks = 0;
	Check		check = {relay, history, NULL, GetCurrentTimestamp(), 0, NIL};
	ListCell   *lc;

	if (history)
	{
		LWLockAcquire(&history->lock, LW_SHARED);
		nbefore = history->nlooks;
		memcpy(before, history->looks, sizeof(MlcRedisLook) * nbefore);
		LWLockRelease(&history->lock);
	}
	if (relay)
		nlooks = mlc_look_at_all(relay, before, nbefore, looks);
	check.findings = mlc_health_check(relay, history, looks, nlooks, NULL);
	foreach(lc, mlc_rule_all())
		check_rule(&check, lfirst(lc));
	check_fetched(&check);
	list_sort(check.findings, worst_first);
	return check.findings;
}
