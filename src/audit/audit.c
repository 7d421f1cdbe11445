/*-------------------------------------------------------------------------
 *
 * audit/audit.c
 *	  Compares what is cached with the rows.
 *
 * The walk is over what is cached: SCAN finds guards and entries of the rule,
 * page by page; the rows of a page are looked up in a snapshot of its own, while
 * Redis works on the next page.  So everything that is cached is met, with a row
 * or without, and a table of which little is cached costs little.  Every entry
 * of ours has a guard, so entries are compared when their guards are met; of
 * those met by their own name it is only asked whether a guard is there.
 *
 * Where most rows seem to be cached, a walk over the rows comes before, in one
 * snapshot: reading all of a table in order costs a fraction of as many
 * look-ups.  The keys that it has compared the other walk leaves out.  It is
 * also what finds rows that a rule should keep cached and are not.
 *
 * A difference makes a suspect, no more: see recheck.c.
 *
 * Locks: ACCESS SHARE on the table, like any query.  Must not: write, neither
 * to PostgreSQL nor to Redis.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "audit/audit.h"
#include "audit/recheck.h"
#include "audit/remote.h"
#include "audit/rows.h"
#include "audit/seen.h"
#include "base/compat.h"
#include "base/wal.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "read/link.h"
#include "shm/consistency.h"
#include "shm/progress.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define SUSPECTS_MAX 256		/* settled together */
#define ROWS_A_BATCH 500
#define PAGE_MIN 8				/* names */
#define PAGE_BYTES (4 * 1024 * 1024)	/* of entries, about as much at a time */
#define EXPECT 16				/* keys to ask the memory of L1 for */

typedef struct Walk
{
	MlcAudit   *audit;
	MlcRule    *rule;
	MlcRows    *rows;
	MlcLink    *server;			/* of remote, or the cluster that it is of */
	MlcRemote  *remote;
	MlcSuspects *suspects;
	List	   *older;			/* rules that load keys of ours, too */
	char	   *pattern;
	int64		looked_at;		/* names, as far as progress is concerned */
	int64		total;
	int64		rows_expected;	/* that are walked over */
	int			restarts;		/* of the server, that progress knows of */
	int			page;			/* names a step of the scan looks at */
	MlcSeen		seen;			/* keys that have been compared by their rows */
	MlcSeen    *l1_seen;		/* those whose line in L1 was, and is fresh */
} Walk;

/* A page of the scan, whose copies are compared while the next one is read. */
typedef struct Page
{
	MemoryContext context;
	int			nguards;		/* keys met by their guards' names */
	MlcCopy    *guards;
	int			nentries;		/* keys met by their own */
	MlcCopy    *entries;
	bool		asked;			/* of a walk over rows: answers are to come */
} Page;

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

/*
 * A key that several rules can give is loaded by the oldest of them, so it is
 * not for us to compare.
 */
static bool
is_ours(Walk *walk, const MlcCopy *copy)
{
	ListCell   *lc;

	foreach(lc, walk->older)
	{
		MlcRule    *rule = lfirst(lc);
		char	   *values[MLC_KEY_MAX_COLUMNS];

		if (mlc_key_match(rule->template, copy->key, copy->keylen, values))
			return false;
	}
	return true;
}

static bool
is_in_sample(MlcAudit *audit, const char *key, uint32 keylen)
{
	return audit->sample >= 1.0 ||
		hash_bytes_extended((const unsigned char *) key, keylen, 0) <
		(uint64) (audit->sample * (double) PG_UINT64_MAX);
}

static void
parse_guards(MlcCopy *copies, int n)
{
	MlcVersion	future;

	/* read after the guards: none of them can know of anything later */
	future.tli = GetWALInsertionTimeLine();
	future.lsn = GetXLogInsertRecPtr();
	for (int i = 0; i < n; i++)
		mlc_copy_parse_guard(&copies[i], future);
}

/* False: there was nothing to judge.  ordered: see mlc_recheck_add(). */
static bool
judge(Walk *walk, const MlcCopy *copy, XLogRecPtr position, bool ordered)
{
	MlcVerdict	verdict = mlc_copy_judge(copy,
										 mlc_rows_are_comparable(walk->rows));

	if (verdict == MLC_VERDICT_NOTHING)
		return false;
	walk->audit->compared++;
	if (verdict == MLC_VERDICT_FRESH)
		walk->audit->counts[MLC_VERDICT_FRESH]++;
	else
		mlc_recheck_add(walk->suspects, copy, verdict, ordered, position);
	return true;
}

/* Compares copies that have been read with their rows. */
static void
compare(Walk *walk, MlcCopy *copies, int n)
{
	XLogRecPtr	position;

	if (n == 0)
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	mlc_rows_load(walk->rows, copies, n);
	position = mlc_wal_insert_end();
	PopActiveSnapshot();

	for (int i = 0; i < n; i++)
		if (!judge(walk, &copies[i], position, true) && copies[i].entry == NULL &&
			(copies[i].kind == MLC_GUARD_NONE || copies[i].kind == MLC_GUARD_ENTRY))
			/* evicted, or something else than a string */
			mlc_recheck_add(walk->suspects, &copies[i], MLC_VERDICT_CORRUPT, true,
							position);
	walk->remote->compared = walk->audit->compared;
}

/* Tells everybody what has been found so far. */
static void
publish(MlcAudit *audit)
{
	int64		checked = audit->counts[MLC_VERDICT_FRESH];
	int64		violations = 0;

	for (int i = MLC_VERDICT_FRESH + 1; i < MLC_VERDICTS; i++)
		if (i != MLC_VERDICT_MISSING)
			violations += audit->counts[i];
	checked += violations;
	mlc_consistency_checked(checked - audit->told_checked,
							violations - audit->told_violations);
	audit->told_checked = checked;
	audit->told_violations = violations;
}

static void
settle(Walk *walk, bool all)
{
	if (all || mlc_recheck_count(walk->suspects) >= SUSPECTS_MAX)
		mlc_recheck_settle(walk->suspects);
	publish(walk->audit);
}

/* ---- by what is cached ---- */

static int
keep_unseen(Walk *walk, MlcCopy *copies, int n)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
		if (!mlc_seen_has(&walk->seen, copies[i].hash))
			copies[kept++] = copies[i];
	return kept;
}

static void
sort_names(Walk *walk, Page *page, MlcReply **names, size_t n)
{
	page->nguards = page->nentries = 0;
	page->guards = palloc(sizeof(MlcCopy) * Max(n, 1));
	page->entries = palloc(sizeof(MlcCopy) * Max(n, 1));
	for (size_t i = 0; i < n; i++)
	{
		MlcCopy		copy;
		bool		is_guard;

		if (!mlc_copy_name(&copy, walk->rule, names[i]->str,
						   names[i]->len, &is_guard) ||
			!is_ours(walk, &copy) ||
			!is_in_sample(walk->audit, copy.key, copy.keylen))
			continue;
		mlc_seen_expect(&walk->seen, copy.hash);
		if (is_guard)
			page->guards[page->nguards++] = copy;
		else
			page->entries[page->nentries++] = copy;
	}
	page->nguards = keep_unseen(walk, page->guards, page->nguards);
	page->nentries = keep_unseen(walk, page->entries, page->nentries);
}

/* Of the keys met by their own names those whose guard is not there. */
static void
find_unguarded(Walk *walk, Page *page, int64 nguards)
{
	int			n = 0;

	if (nguards >= page->nentries)
	{
		page->nentries = 0;
		return;
	}
	mlc_remote_ask_copies(walk->remote, page->entries, page->nentries);
	mlc_remote_copies(walk->remote, page->entries, page->nentries);
	for (int i = 0; i < page->nentries; i++)
		if (page->entries[i].guard == NULL)
			page->entries[n++] = page->entries[i];
	page->nentries = n;
	parse_guards(page->entries, n);
}

static void
finish_page(Walk *walk, Page *page)
{
	MemoryContext old = MemoryContextSwitchTo(page->context);

	compare(walk, page->guards, page->nguards);
	compare(walk, page->entries, page->nentries);
	page->nguards = page->nentries = 0;
	MemoryContextSwitchTo(old);
}

/* Large entries come in small pages. */
static void
adapt(Walk *walk, const Page *page)
{
	size_t		bytes = 0;

	for (int i = 0; i < page->nguards; i++)
		bytes += page->guards[i].entrylen;
	walk->page = bytes > PAGE_BYTES ? Max(walk->page / 4, PAGE_MIN) :
		Min(walk->page * 2, MLC_REMOTE_PAGE);
}

static void
advance(Walk *walk, int names)
{
	int64		step;

	/* the scan has begun again */
	if (walk->restarts != walk->remote->restarts)
	{
		walk->restarts = walk->remote->restarts;
		walk->total += walk->looked_at;
		mlc_progress_total(walk->total + walk->rows_expected);
	}
	step = Min(names, walk->total - walk->looked_at);

	if (step > 0)
		mlc_progress_add(step);
	walk->looked_at += step;
}

static void
walk_cached(Walk *walk)
{
	Page		pages[2];
	Page	   *page = &pages[0];
	Page	   *last = &pages[1];
	MemoryContext old = CurrentMemoryContext;
	MlcRemotePage names;
	bool		more;
	int			asked = walk->page;

	/* a loader may read through mlcache itself, over the same connection */
	bool		overlap = walk->rule->loader == NULL;

	memset(pages, 0, sizeof(pages));
	for (int i = 0; i < 2; i++)
		pages[i].context = AllocSetContextCreate(CurrentMemoryContext,
												 "mlcache audit page",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(page->context);
	mlc_remote_ask_page(walk->remote, "0", walk->pattern, asked);
	mlc_remote_page(walk->remote, &names);
	do
	{
		int64		nguards;
		Page	   *swap;

		CHECK_FOR_INTERRUPTS();
		more = strcmp(names.cursor, "0") != 0;
		if (more)
			mlc_remote_ask_page(walk->remote, names.cursor, walk->pattern,
								walk->page);
		mlc_remote_flush(walk->remote);

		/* Redis looks for the next page while we sort this one, */
		sort_names(walk, page, names.names, names.n);
		mlc_remote_ask_copies(walk->remote, page->guards, page->nguards);
		mlc_remote_ask_guards(walk->remote, page->entries, page->nentries);
		mlc_remote_flush(walk->remote);

		/* and works on this one while we compare the last */
		if (overlap)
			finish_page(walk, last);
		MemoryContextReset(last->context);

		if (more)
		{
			MemoryContextSwitchTo(last->context);
			mlc_remote_page(walk->remote, &names);
			MemoryContextSwitchTo(page->context);
		}
		mlc_remote_copies(walk->remote, page->guards, page->nguards);
		parse_guards(page->guards, page->nguards);
		nguards = mlc_remote_guards(walk->remote, page->nentries);
		adapt(walk, page);
		find_unguarded(walk, page, nguards);
		if (!overlap)
			finish_page(walk, page);
		settle(walk, false);
		advance(walk, asked);
		asked = walk->page;

		swap = last;
		last = page;
		page = swap;
		MemoryContextSwitchTo(page->context);
	} while (more);
	finish_page(walk, last);
	settle(walk, true);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < 2; i++)
		MemoryContextDelete(pages[i].context);
}

/* ---- by rows ---- */

/* Is it worth it?  Where most rows are cached, reading them in order is. */
static bool
rows_are_few(Walk *walk)
{
	return mlc_rows_estimate(walk->rows) <= walk->total * walk->audit->sample;
}

/* Those that belong to the sample, to this rule and this master of a cluster. */
static int
keep_own(Walk *walk, MlcCopy *copies, int n)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
		if (is_in_sample(walk->audit, copies[i].key, copies[i].keylen) &&
			is_ours(walk, &copies[i]) &&
			mlc_link_node(walk->server, copies[i].key,
						  copies[i].keylen) == walk->remote->link)
			copies[kept++] = copies[i];
	return kept;
}

/* Rows in order, page by page; asks for their copies. */
static void
next_rows(Walk *walk, Page *page, bool *more)
{
	MlcCopy    *copies;

	MemoryContextReset(page->context);
	MemoryContextSwitchTo(page->context);
	copies = palloc(sizeof(MlcCopy) * ROWS_A_BATCH);
	page->guards = copies;
	page->nguards = mlc_rows_next(walk->rows, copies, ROWS_A_BATCH, more);
	mlc_progress_add(page->nguards);
	page->nguards = keep_own(walk, copies, page->nguards);
	mlc_remote_ask_copies(walk->remote, copies, page->nguards);
	mlc_remote_flush(walk->remote);
	page->asked = true;
}

static void
receive_copies(Walk *walk, Page *page)
{
	MemoryContextSwitchTo(page->context);
	if (page->asked)
	{
		mlc_remote_copies(walk->remote, page->guards, page->nguards);
		parse_guards(page->guards, page->nguards);
	}
	page->asked = false;
}

/*
 * While their rows are at hand: are the keys' lines in L1, where there are any,
 * fresh?  Of the others walk_l1() takes care.
 */
static void
look_at_l1(Walk *walk, const MlcCopy *copies, int n)
{
	uint64		hashes[EXPECT];

	for (int i = 0; i < n; i++)
		hashes[i] = mlc_l1_expect(copies[i].key, copies[i].keylen);
	for (int i = 0; i < n; i++)
	{
		mlc_l1_expect_line(hashes[i]);
		mlc_seen_expect(walk->l1_seen, copies[i].hash);
	}
	for (int i = 0; i < n; i++)
	{
		const MlcRow *row = &copies[i].row;
		MlcL1Hit	hit;

		if (mlc_l1_peek(copies[i].key, copies[i].keylen, &hit) &&
			hit.rule == walk->rule->id && !hit.absent &&
			VARSIZE(hit.value) - VARHDRSZ == row->len &&
			memcmp(VARDATA(hit.value), row->payload, row->len) == 0)
			mlc_seen_add(walk->l1_seen, copies[i].hash);
	}
}

static void
compare_rows(Walk *walk, Page *page, bool keep)
{
	XLogRecPtr	position;

	receive_copies(walk, page);
	position = mlc_wal_insert_end();
	for (int i = 0; i < page->nguards; i++)
		mlc_seen_expect(&walk->seen, page->guards[i].hash);
	for (int i = 0; i < page->nguards; i++)
	{
		MlcCopy    *copy = &page->guards[i];

		copy->kept = keep;
		if (judge(walk, copy, position, false))
			mlc_seen_add(&walk->seen, copy->hash);
	}
	for (int i = 0; i < page->nguards; i += EXPECT)
		look_at_l1(walk, &page->guards[i], Min(EXPECT, page->nguards - i));
	walk->remote->compared = walk->audit->compared;
}

/*
 * All rows in one snapshot; what is compared here the other walk leaves out.
 * keep: every row should be cached.
 */
static void
walk_rows(Walk *walk, bool keep)
{
	Page		pages[2];
	Page	   *page = &pages[0];
	Page	   *last = &pages[1];
	MemoryContext old = CurrentMemoryContext;
	bool		more = true;

	memset(pages, 0, sizeof(pages));
	for (int i = 0; i < 2; i++)
		pages[i].context = AllocSetContextCreate(old, "mlcache audit rows",
												 ALLOCSET_DEFAULT_SIZES);
	PushActiveSnapshot(GetLatestSnapshot());
	while (more || last->nguards > 0)
	{
		Page	   *swap = last;

		CHECK_FOR_INTERRUPTS();
		page->nguards = 0;
		if (more)
			next_rows(walk, page, &more);

		/* Redis works on this page while we compare the last one */
		if (last->nguards > 0)
			compare_rows(walk, last, keep);
		if (mlc_recheck_count(walk->suspects) >= SUSPECTS_MAX)
			receive_copies(walk, page);
		settle(walk, false);
		last = page;
		page = swap;
	}
	MemoryContextSwitchTo(old);
	settle(walk, true);
	PopActiveSnapshot();
	for (int i = 0; i < 2; i++)
		MemoryContextDelete(pages[i].context);
}

/* ---- one rule ---- */

/* In the walk's context; leaves another one current: see end_walk(). */
static void
begin_walk(Walk *walk, MlcAudit *audit, MlcRule *rule, MlcRemote *remote)
{
	MemoryContext context = CurrentMemoryContext;

	memset(walk, 0, sizeof(*walk));
	walk->audit = audit;
	walk->rule = rule;
	walk->remote = remote;
	walk->page = MLC_REMOTE_PAGE / 4;
	walk->rows = mlc_rows_open(rule);
	MemoryContextSwitchTo(context);
	walk->suspects = mlc_recheck_begin(audit, rule, walk->rows, remote);
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
	Walk		walk;
	bool		keep;
	bool		by_row;

	mlc_remote_open(&remote, link, audit->timeout);
	remote.compared = audit->compared;
	begin_walk(&walk, audit, rule, &remote);
	walk.server = server;
	walk.l1_seen = l1_seen;
	walk.older = older_rules(rule);
	walk.pattern = make_pattern(rule);
	walk.total = mlc_remote_size(&remote);
	mlc_seen_begin(&walk.seen);
	keep = rule->action == MLC_OP_REPLICATE && rule->ttl == 0;
	by_row = mlc_rows_can_walk(walk.rows) && (keep || rows_are_few(&walk));
	walk.rows_expected = by_row ? mlc_rows_estimate(walk.rows) : 0;
	mlc_progress_begin("audit", rule->relid, walk.total + walk.rows_expected);
	if (by_row)
		walk_rows(&walk, keep);
	walk_cached(&walk);
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
	Walk		walk;

	/* what is fresh is no copy in Redis, and not counted as one */
	memset(own.counts, 0, sizeof(own.counts));
	own.unsettled = own.told_checked = own.told_violations = 0;
	if (servers != NIL)
	{
		memset(&remote, 0, sizeof(remote));
		remote.serverid = ((MlcLink *) linitial(servers))->serverid;
		remote.server = "L1";
		begin_walk(&walk, &own, rule, &remote);
		copies = palloc(sizeof(MlcCopy) * n);
		for (int i = 0; i < n; i++)
		{
			mlc_copy_key(&copies[i], lines[i].key, lines[i].keylen);
			mlc_copy_from_l1(&copies[i], rule, &lines[i].hit);
		}
		compare(&walk, copies, n);
		settle(&walk, true);
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
		lines = palloc(sizeof(MlcL1Copy) * ROWS_A_BATCH);
		sample = palloc(sizeof(MlcL1Copy) * ROWS_A_BATCH);
		n = mlc_l1_walk(&cursor, rule->id, lines, ROWS_A_BATCH);
		for (int i = 0; i < n; i++)
			mlc_seen_expect(seen, mlc_seen_hash(lines[i].key, lines[i].keylen));
		for (int i = 0; i < n; i++)
			if (is_in_sample(audit, lines[i].key, lines[i].keylen) &&
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
	Page		page = {.context = context};
	Walk		walk;
	int64		nguards;

	begin_walk(&walk, audit, rule, remote);
	sort_names(&walk, &page, names, n);
	mlc_remote_ask_copies(remote, page.guards, page.nguards);
	mlc_remote_ask_guards(remote, page.entries, page.nentries);
	mlc_remote_copies(remote, page.guards, page.nguards);
	parse_guards(page.guards, page.nguards);
	nguards = mlc_remote_guards(remote, page.nentries);
	find_unguarded(&walk, &page, nguards);
	finish_page(&walk, &page);
	settle(&walk, true);
	mlc_rows_close(walk.rows);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
