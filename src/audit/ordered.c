/*-------------------------------------------------------------------------
 *
 * audit/ordered.c
 *	  The walk over the rows of a rule, in order and in one snapshot.
 *
 * Where most rows seem to be cached it comes before the walk over what is cached:
 * reading all of a table in order costs a fraction of as many look-ups.  The keys
 * that it has compared the other walk leaves out.  It is also what finds rows
 * that a rule should keep cached and are not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "audit/walk.h"
#include "base/compat.h"
#include "base/wal.h"
#include "miscadmin.h"
#include "shm/l1.h"
#include "shm/progress.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define EXPECT 16				/* keys to ask the memory of L1 for */

/* Where most rows are cached, reading them in order is. */
bool
mlc_ordered_pays(MlcWalk *walk)
{
	return mlc_rows_estimate(walk->rows) <= walk->total * walk->audit->sample;
}

/* Those that belong to the sample, to this rule and this master of a cluster. */
static int
keep_own(MlcWalk *walk, MlcCopy *copies, int n)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
		if (mlc_walk_in_sample(walk->audit, copies[i].key, copies[i].keylen) &&
			mlc_walk_is_ours(walk, &copies[i]) &&
			mlc_link_node(walk->server, copies[i].key,
						  copies[i].keylen) == walk->remote->link)
			copies[kept++] = copies[i];
	return kept;
}

/* Rows in order, page by page; asks for their copies. */
static void
next_rows(MlcWalk *walk, MlcWalkPage *page, bool *more)
{
	MlcCopy    *copies;

	MemoryContextReset(page->context);
	MemoryContextSwitchTo(page->context);
	copies = palloc(sizeof(MlcCopy) * MLC_WALK_ROWS);
	page->guards = copies;
	page->nguards = mlc_rows_next(walk->rows, copies, MLC_WALK_ROWS, more);
	mlc_progress_add(page->nguards);
	page->nguards = keep_own(walk, copies, page->nguards);
	mlc_remote_ask_copies(walk->remote, copies, page->nguards);
	mlc_remote_flush(walk->remote);
	page->asked = true;
}

static void
receive_copies(MlcWalk *walk, MlcWalkPage *page)
{
	MemoryContextSwitchTo(page->context);
	if (page->asked)
	{
		mlc_remote_copies(walk->remote, page->guards, page->nguards);
		mlc_walk_parse_guards(page->guards, page->nguards);
	}
	page->asked = false;
}

/*
 * While their rows are at hand: are the keys' lines in L1, where there are any,
 * fresh?  Of the others walk_l1() in audit.c takes care.
 */
static void
look_at_l1(MlcWalk *walk, const MlcCopy *copies, int n)
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
compare_rows(MlcWalk *walk, MlcWalkPage *page, bool keep)
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
		if (mlc_walk_judge(walk, copy, position, false))
			mlc_seen_add(&walk->seen, copy->hash);
	}
	for (int i = 0; i < page->nguards; i += EXPECT)
		look_at_l1(walk, &page->guards[i], Min(EXPECT, page->nguards - i));
	walk->remote->compared = walk->audit->compared;
}

void
mlc_ordered_walk(MlcWalk *walk, bool keep)
{
	MlcWalkPage pages[2];
	MlcWalkPage *page = &pages[0];
	MlcWalkPage *last = &pages[1];
	MemoryContext old = CurrentMemoryContext;
	bool		more = true;

	memset(pages, 0, sizeof(pages));
	for (int i = 0; i < 2; i++)
		pages[i].context = AllocSetContextCreate(old, "mlcache audit rows",
												 ALLOCSET_DEFAULT_SIZES);
	PushActiveSnapshot(GetLatestSnapshot());
	while (more || last->nguards > 0)
	{
		MlcWalkPage *swap = last;

		CHECK_FOR_INTERRUPTS();
		page->nguards = 0;
		if (more)
			next_rows(walk, page, &more);

		/* Redis works on this page while we compare the last one */
		if (last->nguards > 0)
			compare_rows(walk, last, keep);
		if (mlc_recheck_count(walk->suspects) >= MLC_WALK_SUSPECTS)
			receive_copies(walk, page);
		mlc_walk_settle(walk, false);
		last = page;
		page = swap;
	}
	MemoryContextSwitchTo(old);
	mlc_walk_settle(walk, true);
	PopActiveSnapshot();
	for (int i = 0; i < 2; i++)
		MemoryContextDelete(pages[i].context);
}
