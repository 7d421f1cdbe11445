/*-------------------------------------------------------------------------
 *
 * audit/cached.c
 *	  The walk over what is cached: SCAN finds guards and entries of the rule,
 *	  page by page.
 *
 * The rows of a page are looked up in a snapshot of its own, while Redis works on
 * the next page.  So everything that is cached is met, with a row or without,
 * and a table of which little is cached costs little.  Every entry of ours has a
 * guard, so entries are compared when their guards are met; of those met by
 * their own name it is only asked whether a guard is there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "audit/walk.h"
#include "miscadmin.h"
#include "shm/progress.h"
#include "utils/memutils.h"

#define PAGE_MIN 8				/* names */
#define PAGE_BYTES (4 * 1024 * 1024)	/* of entries, about as much at a time */

static int
keep_unseen(MlcWalk *walk, MlcCopy *copies, int n)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
		if (!mlc_seen_has(&walk->seen, copies[i].hash))
			copies[kept++] = copies[i];
	return kept;
}

static void
sort_names(MlcWalk *walk, MlcWalkPage *page, MlcReply **names, size_t n)
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
			!mlc_walk_is_ours(walk, &copy) ||
			!mlc_walk_in_sample(walk->audit, copy.key, copy.keylen))
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
find_unguarded(MlcWalk *walk, MlcWalkPage *page, int64 nguards)
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
	mlc_walk_parse_guards(page->entries, n);
}

static void
finish_page(MlcWalk *walk, MlcWalkPage *page)
{
	MemoryContext old = MemoryContextSwitchTo(page->context);

	mlc_walk_compare(walk, page->guards, page->nguards);
	mlc_walk_compare(walk, page->entries, page->nentries);
	page->nguards = page->nentries = 0;
	MemoryContextSwitchTo(old);
}

/* Large entries come in small pages. */
static void
adapt(MlcWalk *walk, const MlcWalkPage *page)
{
	size_t		bytes = 0;

	for (int i = 0; i < page->nguards; i++)
		bytes += page->guards[i].entrylen;
	walk->page = bytes > PAGE_BYTES ? Max(walk->page / 4, PAGE_MIN) :
		Min(walk->page * 2, MLC_REMOTE_PAGE);
}

static void
advance(MlcWalk *walk, int names)
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

void
mlc_cached_walk(MlcWalk *walk)
{
	MlcWalkPage pages[2];
	MlcWalkPage *page = &pages[0];
	MlcWalkPage *last = &pages[1];
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
		MlcWalkPage *swap;

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
		mlc_walk_parse_guards(page->guards, page->nguards);
		nguards = mlc_remote_guards(walk->remote, page->nentries);
		adapt(walk, page);
		find_unguarded(walk, page, nguards);
		if (!overlap)
			finish_page(walk, page);
		mlc_walk_settle(walk, false);
		advance(walk, asked);
		asked = walk->page;

		swap = last;
		last = page;
		page = swap;
		MemoryContextSwitchTo(page->context);
	} while (more);
	finish_page(walk, last);
	mlc_walk_settle(walk, true);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < 2; i++)
		MemoryContextDelete(pages[i].context);
}

void
mlc_cached_names(MlcWalk *walk, MlcReply **names, size_t n)
{
	MlcWalkPage page = {.context = CurrentMemoryContext};
	int64		nguards;

	sort_names(walk, &page, names, n);
	mlc_remote_ask_copies(walk->remote, page.guards, page.nguards);
	mlc_remote_ask_guards(walk->remote, page.entries, page.nentries);
	mlc_remote_copies(walk->remote, page.guards, page.nguards);
	mlc_walk_parse_guards(page.guards, page.nguards);
	nguards = mlc_remote_guards(walk->remote, page.nentries);
	find_unguarded(walk, &page, nguards);
	finish_page(walk, &page);
}
