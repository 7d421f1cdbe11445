/*-------------------------------------------------------------------------
 *
 * audit/audit.c
 *	  Compares what is cached with the rows.
 *
 * A rule is audited server by server, in two ways: where most rows seem to be
 * cached by rows in order (ordered.c), and then by what is cached (cached.c), but
 * for the keys that have been compared.  Lines of L1 go the same way.  What both
 * have in common is in walk.c.
 *
 * A difference makes a suspect, no more: see recheck.c.
 *
 * Locks: ACCESS SHARE on the table, like any query.  Must not: write, neither
 * to PostgreSQL nor to Redis.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "audit/audit.h"
#include "audit/walk.h"
#include "miscadmin.h"
#include "shm/l1.h"
#include "shm/progress.h"
#include "utils/memutils.h"

/* What matches the rule's keys and the names of their guards. */
static char *
make_pattern(MlcRule *rule)
{
	StringInfoData pattern;

	initStringInfo(&pattern);
	appendStringInfoChar(&pattern, '*');
	mlc_key_glob(rule->template, &pattern);
	appendStringInfoChar(&pattern, '*');
	return pattern.data;
}

static List *
older_rules(MlcRule *rule)
{
	List	   *older = NIL;
	ListCell   *lc;

	foreach(lc, mlc_rule_all())
	{
		MlcRule    *other = lfirst(lc);

		if (other->id < rule->id &&
			mlc_key_overlap(other->template, rule->template))
			older = lappend(older, other);
	}
	return older;
}

static void
audit_node(MlcAudit *audit, MlcRule *rule, MlcLink *server, MlcLink *link,
		   MlcSeen *l1_seen)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "mlcache audit",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MlcRemote	remote;
	MlcWalk		walk;
	bool		keep;
	bool		by_row;

	mlc_remote_open(&remote, link, audit->timeout);
	remote.compared = audit->compared;
	mlc_walk_begin(&walk, audit, rule, &remote);
	walk.server = server;
	walk.l1_seen = l1_seen;
	walk.older = older_rules(rule);
	walk.pattern = make_pattern(rule);
	walk.total = mlc_remote_size(&remote);
	mlc_seen_begin(&walk.seen);
	keep = rule->action == MLC_OP_REPLICATE && rule->ttl == 0;
	by_row = mlc_rows_can_walk(walk.rows) && (keep || mlc_ordered_pays(&walk));
	walk.rows_expected = by_row ? mlc_rows_estimate(walk.rows) : 0;
	mlc_progress_begin("audit", rule->relid, walk.total + walk.rows_expected);
	if (by_row)
		mlc_ordered_walk(&walk, keep);
	mlc_cached_walk(&walk);
	mlc_progress_end();
	mlc_rows_close(walk.rows);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* ---- L1 ---- */

/*
 * What L1 has.  The relay closes a key there before it sends its batch, so what
 * any server has applied L1 has, too.
 */
void
mlc_audit_l1(MlcAudit *audit, MlcRule *rule, MlcL1Copy *lines, int n)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "mlcache audit",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *servers = mlc_link_all(rule->nservers, rule->servers);
	MlcAudit	own = *audit;
	MlcRemote	remote;
	MlcCopy    *copies;
	MlcWalk		walk;

	/* what is fresh is no copy in Redis, and not counted as one */
	memset(own.counts, 0, sizeof(own.counts));
	own.unsettled = own.told_checked = own.told_violations = 0;
	if (servers != NIL)
	{
		memset(&remote, 0, sizeof(remote));
		remote.serverid = ((MlcLink *) linitial(servers))->serverid;
		remote.server = "L1";
		mlc_walk_begin(&walk, &own, rule, &remote);
		copies = palloc(sizeof(MlcCopy) * n);
		for (int i = 0; i < n; i++)
		{
			mlc_copy_key(&copies[i], lines[i].key, lines[i].keylen);
			mlc_copy_from_l1(&copies[i], rule, &lines[i].hit);
		}
		mlc_walk_compare(&walk, copies, n);
		mlc_walk_settle(&walk, true);
		mlc_rows_close(walk.rows);
	}
	for (int i = MLC_VERDICT_FRESH + 1; i < MLC_VERDICTS; i++)
	{
		audit->counts[i] += own.counts[i];
		audit->told_checked += own.counts[i];
		audit->told_violations += own.counts[i];
	}
	audit->unsettled += own.unsettled;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* All lines of a rule, but for those that have been seen. */
static void
walk_l1(MlcAudit *audit, MlcRule *rule, const MlcSeen *seen)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "mlcache audit L1",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MlcL1Cursor cursor = {0};
	int			n = 0;

	while (n >= 0)
	{
		MlcL1Copy  *lines;
		MlcL1Copy  *sample;
		int			nsample = 0;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		lines = palloc(sizeof(MlcL1Copy) * MLC_WALK_ROWS);
		sample = palloc(sizeof(MlcL1Copy) * MLC_WALK_ROWS);
		n = mlc_l1_walk(&cursor, rule->id, lines, MLC_WALK_ROWS);
		for (int i = 0; i < n; i++)
			mlc_seen_expect(seen, mlc_seen_hash(lines[i].key, lines[i].keylen));
		for (int i = 0; i < n; i++)
			if (mlc_walk_in_sample(audit, lines[i].key, lines[i].keylen) &&
				!mlc_seen_has(seen, mlc_seen_hash(lines[i].key, lines[i].keylen)))
				sample[nsample++] = lines[i];
		if (nsample > 0)
			mlc_audit_l1(audit, rule, sample, nsample);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

void
mlc_audit_rule(MlcAudit *audit, MlcRule *rule)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "mlcache audit rule",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MlcSeen		l1_seen;
	ListCell   *lc;

	mlc_seen_begin(&l1_seen);
	foreach(lc, mlc_link_all(rule->nservers, rule->servers))
	{
		MlcLink    *server = lfirst(lc);
		ListCell   *node;

		foreach(node, mlc_remote_nodes(server))
			audit_node(audit, rule, server, lfirst(node), &l1_seen);
	}
	walk_l1(audit, rule, &l1_seen);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

void
mlc_audit_names(MlcAudit *audit, MlcRule *rule, MlcRemote *remote,
				MlcReply **names, int n)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "mlcache audit",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MlcWalk		walk;

	mlc_walk_begin(&walk, audit, rule, remote);
	mlc_cached_names(&walk, names, n);
	mlc_walk_settle(&walk, true);
	mlc_rows_close(walk.rows);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
