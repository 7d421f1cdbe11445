/*-------------------------------------------------------------------------
 *
 * audit/recheck.c
 *	  Suspects: copies that differ from their rows, until it is known why.
 *
 * When is a difference a proof?  The order of steps is
 *
 *	 1. entry and guard are read, by one command;
 *	 2. a new snapshot is taken and the row read with it;
 *	 3. the end of WAL is noted: P;
 *	 4. the server has applied everything up to P;
 *	 5. entry and guard are read again, and are letter by letter the same;
 *	 6. the row is read with another new snapshot, and differs still.
 *
 * The content of the entry was visible before step 1, so the snapshot of step 2
 * sees it or something newer.  If that is newer, the change was visible in
 * step 2, so its commit record lies before P; the relay has applied it by
 * step 4, which removes the entry or sets it anew under another version, and a
 * reader's lease from before has died with it.  So an entry that is the same
 * in step 5 had to equal the row of step 2.  Step 6 is for two fills that
 * cannot be told apart, which takes a row that went there and back while no
 * WAL was written between the fills: the new snapshot then finds them equal.
 *
 * So the load does not matter: a key that changes all the time shows another
 * guard in step 5, and is asked again, MAX_ROUNDS times at most; one that was
 * another each time is being kept up to date.
 *
 * A loader may read other tables, or say something new each time: with one,
 * the row must be the same in steps 2 and 6.  An entry that is missing has no
 * version; there the row must be the same tuple in both snapshots, since then
 * it has been there all the time; and the relay must have had nothing left to load
 * again, which it does after it has called a change applied.
 *
 * An entry without a guard needs no proof, since both are read at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/commit_ts.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "audit/recheck.h"
#include "base/fault.h"
#include "base/grow.h"
#include "base/wal.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shm/segment.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define MAX_ROUNDS 30
#define PAUSE 100				/* ms between two looks at missing entries */
#define LOOK_AGAIN 20			/* ms: the state of a server wakes nobody */

typedef struct Suspect
{
	char	   *key;
	uint32		keylen;
	MlcVerdict	verdict;
	int			round;
	bool		kept;
	uint64		reloaded;		/* as of the first round; max: before it */
	uint64		digest;			/* of entry and guard */
	uint64		row_digest;
	MlcRow		row;			/* which tuple; the payload is gone */
} Suspect;

struct MlcSuspects
{
	MlcAudit   *audit;
	MlcRule    *rule;
	MlcRows    *rows;
	MlcRemote  *remote;
	MemoryContext owner;
	MemoryContext context;		/* of the suspects at hand */
	int			n;
	int			size;
	Suspect    *list;
	XLogRecPtr	position;		/* P of the last one */
	bool		hopeless;		/* the relay was waited for in vain */
	bool		calm;			/* in this round, it had nothing to load again */
	uint64		reloaded;		/* as of this round */
	HTAB	   *reported;		/* hashes of keys; NULL: none */
};

MlcSuspects *
mlc_recheck_begin(MlcAudit *audit, MlcRule *rule, MlcRows *rows,
				  MlcRemote *remote)
{
	MlcSuspects *suspects = palloc0(sizeof(MlcSuspects));

	suspects->audit = audit;
	suspects->rule = rule;
	suspects->rows = rows;
	suspects->remote = remote;
	suspects->owner = CurrentMemoryContext;
	suspects->context = AllocSetContextCreate(CurrentMemoryContext,
											  "mlcache audit suspects",
											  ALLOCSET_DEFAULT_SIZES);
	return suspects;
}

int
mlc_recheck_count(MlcSuspects *suspects)
{
	return suspects->n;
}

static uint64
row_digest(const MlcRow *row)
{
	return row->state != MLC_ROW_FOUND ? 0 :
		hash_bytes_extended((const unsigned char *) row->payload, row->len, 3);
}

static void
add(MlcSuspects *suspects, const MlcCopy *copy, MlcVerdict verdict, int round,
	XLogRecPtr position)
{
	MemoryContext old = MemoryContextSwitchTo(suspects->context);
	Suspect    *suspect;

	suspects->list = mlc_grow(suspects->context, suspects->list, suspects->n,
							  &suspects->size, sizeof(Suspect));
	suspect = &suspects->list[suspects->n++];
	suspect->key = pnstrdup(copy->key, copy->keylen);
	suspect->keylen = copy->keylen;
	suspect->verdict = verdict;
	suspect->round = round;
	suspect->kept = copy->kept;
	suspect->reloaded = PG_UINT64_MAX;
	suspect->digest = mlc_copy_digest(copy);
	suspect->row = copy->row;
	suspect->row_digest = copy->row.payload ? row_digest(&copy->row) : 0;
	suspects->position = Max(suspects->position, position);
	MemoryContextSwitchTo(old);
}

void
mlc_recheck_add(MlcSuspects *suspects, const MlcCopy *copy,
				MlcVerdict verdict, bool ordered, XLogRecPtr position)
{
	add(suspects, copy, verdict, 0, position);

	/* nothing is the same as this */
	if (!ordered)
		suspects->list[suspects->n - 1].digest = 0;
}

/* ---- waiting for the relay ---- */

static bool
has_applied(MlcRelayShared *relay, Oid serverid, XLogRecPtr position)
{
	bool		applied = true;
	int			n = 0;

	/* of a cluster, every master */
	LWLockAcquire(mlc_shared->lock, LW_SHARED);
	for (int i = 0; i < MLC_MAX_TARGETS; i++)
	{
		MlcTargetStat *stat = &relay->targets[i];

		if (stat->state == MLC_TARGET_UNUSED || stat->serverid != serverid)
			continue;
		n++;
		applied = applied && stat->state == MLC_TARGET_ARMED &&
			stat->applied_tli == GetWALInsertionTimeLine() &&
			stat->applied_lsn >= position;
	}
	LWLockRelease(mlc_shared->lock);
	return n > 0 && applied;
}

bool
mlc_recheck_wait(Oid serverid, XLogRecPtr position, int timeout)
{
	MlcRelayShared *relay = mlc_segment_my_relay();
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	bool		applied;

	if (relay == NULL)
		return false;
	if (has_applied(relay, serverid, position))
		return true;

	/* what no commit has flushed, pruning say, the relay would not get to see */
	XLogFlush(position);
	pg_atomic_fetch_add_u32(&relay->hurry, 1);
	PG_TRY();
	{
		mlc_segment_wake(relay);
		ConditionVariablePrepareToSleep(&relay->progress);
		while (!(applied = has_applied(relay, serverid, position)) &&
			   GetCurrentTimestamp() < end)
			(void) ConditionVariableTimedSleep(&relay->progress, LOOK_AGAIN,
											   PG_WAIT_EXTENSION);
		ConditionVariableCancelSleep();
	}
	PG_FINALLY();
	{
		pg_atomic_fetch_sub_u32(&relay->hurry, 1);
	}
	PG_END_TRY();
	return applied;
}

/* ---- reporting ---- */

static const char *
describe(MlcSuspects *suspects, const MlcCopy *copy, MlcFinding *finding)
{
	switch (finding->verdict)
	{
		case MLC_VERDICT_STALE:
			if (copy->entry == NULL)
				return "It is cached that there is no such row.";
			return suspects->rule->loader ?
				"The loader gives something else." : "The row is another one.";
		case MLC_VERDICT_MISSING:
			return "The row is not cached.";
		case MLC_VERDICT_ORPHAN:
			return copy->row.state == MLC_ROW_FOREIGN ?
				"No row can have this key." : "There is no such row.";
		case MLC_VERDICT_CORRUPT:
			return copy->type ? psprintf("It is a %s.", copy->type) :
				"It is no JSON.";
		case MLC_VERDICT_UNGUARDED:
			if (copy->entry == NULL)
				return "Its guard was not written by mlcache.";
			switch (copy->kind)
			{
				case MLC_GUARD_NONE:
					return "It has no guard.";
				case MLC_GUARD_GARBAGE:
					return "Its guard was not written by mlcache.";
				default:
					return "Its guard says that nothing is cached.";
			}
		default:
			return "";
	}
}

static void
report(MlcSuspects *suspects, const MlcCopy *copy, MlcVerdict verdict,
	   XLogRecPtr position)
{
	MlcFinding	finding;
	uint64		hash = hash_bytes_extended((const unsigned char *) copy->key,
										   copy->keylen, 0);
	bool		found;

	/* a scan may meet a key twice */
	if (suspects->reported == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = ctl.entrysize = sizeof(uint64);
		ctl.hcxt = suspects->owner;
		suspects->reported = hash_create("mlcache audit findings", 256, &ctl,
										 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(suspects->reported, &hash, HASH_ENTER, &found);
	if (found)
		return;

	memset(&finding, 0, sizeof(finding));
	finding.rule = suspects->rule;
	finding.server = suspects->remote->server;
	finding.key = copy->key;
	finding.keylen = copy->keylen;
	finding.verdict = verdict;
	finding.has_cached = copy->kind == MLC_GUARD_ENTRY ||
		copy->kind == MLC_GUARD_ABSENT;
	finding.lo = copy->lo;
	finding.hi = copy->hi;
	if (copy->row.state == MLC_ROW_FOUND)
	{
		finding.has_row = true;
		finding.row.tli = GetWALInsertionTimeLine();
		finding.row.lsn = position;
		finding.xmin = copy->row.xmin;
		if (track_commit_timestamp && TransactionIdIsNormal(finding.xmin) &&
			!TransactionIdGetCommitTsData(finding.xmin, &finding.committed, NULL))
			finding.committed = 0;
	}
	finding.detail = describe(suspects, copy, &finding);
	suspects->audit->counts[verdict]++;
	suspects->audit->report(suspects->audit->arg, &finding);
}

/* ---- settling ---- */

/* Somebody may have changed the rule, and with it what is right. */
static bool
rule_stands(MlcRule *rule)
{
	MlcRule    *now;

	AcceptInvalidationMessages();
	now = mlc_rule_by_id(rule->id);
	return now != NULL && now->secret == rule->secret;
}

static bool
is_same_tuple(const MlcRow *a, const MlcRow *b)
{
	return a->xmin == b->xmin && a->tableoid == b->tableoid &&
		ItemPointerEquals((ItemPointer) &a->tid, (ItemPointer) &b->tid);
}

static bool
is_proven(MlcSuspects *suspects, const Suspect *suspect, const MlcCopy *copy,
		  MlcVerdict verdict)
{
	if (verdict == MLC_VERDICT_UNGUARDED || copy->type)
		return true;
	if (verdict == MLC_VERDICT_MISSING)
		return suspect->verdict == MLC_VERDICT_MISSING &&
			is_same_tuple(&suspect->row, &copy->row) &&
			(suspects->calm || suspects->reloaded > suspect->reloaded);
	if (suspect->digest != mlc_copy_digest(copy) &&
		!MLC_FAULT_SKIP("audit-same-entry"))
		return false;
	return suspects->rule->loader == NULL ||
		suspect->row_digest == row_digest(&copy->row);
}

static void
look_for_types(MlcSuspects *suspects, MlcCopy *copies, int n)
{
	MlcCopy   **odd = palloc(sizeof(MlcCopy *) * n);
	const char **types = palloc(sizeof(char *) * n);
	int			nodd = 0;

	for (int i = 0; i < n; i++)
		if (copies[i].entry == NULL && (copies[i].kind == MLC_GUARD_NONE ||
										copies[i].kind == MLC_GUARD_ENTRY))
			odd[nodd++] = &copies[i];
	mlc_remote_types(suspects->remote, odd, nodd, types);
	for (int i = 0; i < nodd; i++)
		if (strcmp(types[i], "none") != 0 && strcmp(types[i], "string") != 0)
			odd[i]->type = types[i];
}

/* Entries and guards once more, from where they came. */
static void
read_again(MlcSuspects *suspects, MlcCopy *copies, int n)
{
	MlcVersion	future;

	if (suspects->remote->link == NULL)
	{
		for (int i = 0; i < n; i++)
			mlc_copy_from_l1(&copies[i], suspects->rule, NULL);
		return;
	}
	mlc_remote_ask_copies(suspects->remote, copies, n);
	mlc_remote_copies(suspects->remote, copies, n);
	future.tli = GetWALInsertionTimeLine();
	future.lsn = GetXLogInsertRecPtr();
	for (int i = 0; i < n; i++)
		mlc_copy_parse_guard(&copies[i], future);
	look_for_types(suspects, copies, n);
}

/* One round; those that are neither guilty nor innocent yet stay. */
static void
settle_once(MlcSuspects *suspects)
{
	MlcRelayShared *relay = mlc_segment_my_relay();
	MlcAudit   *audit = suspects->audit;
	MemoryContext round = suspects->context;
	int			n = suspects->n;
	Suspect    *list = suspects->list;
	MlcCopy    *copies;
	XLogRecPtr	position;
	int			outages;

	MemoryContextSwitchTo(round);
	copies = palloc0(sizeof(MlcCopy) * n);
	for (int i = 0; i < n; i++)
	{
		mlc_copy_key(&copies[i], list[i].key, list[i].keylen);
		copies[i].kept = list[i].kept;
	}
	MLC_FAULT("audit-before-recheck");
	outages = suspects->remote->outages;
	suspects->reloaded = relay ? pg_atomic_read_u64(&relay->reloaded) : 0;
	suspects->calm = relay != NULL && pg_atomic_read_u32(&relay->reloads) == 0;
	pg_read_barrier();
	read_again(suspects, copies, n);

	/* what is to be loaded again may have been lost after we looked for it */
	if (outages != suspects->remote->outages)
		suspects->calm = false;

	MLC_FAULT("audit-before-rows");
	PushActiveSnapshot(GetLatestSnapshot());
	mlc_rows_load(suspects->rows, copies, n);
	position = mlc_wal_insert_end();
	PopActiveSnapshot();

	/* the next round's suspects, in a context of their own */
	suspects->context = AllocSetContextCreate(suspects->owner,
											  "mlcache audit suspects",
											  ALLOCSET_DEFAULT_SIZES);
	suspects->n = 0;
	suspects->list = NULL;
	suspects->position = InvalidXLogRecPtr;

	if (rule_stands(suspects->rule))
		for (int i = 0; i < n; i++)
		{
			MlcVerdict	verdict = mlc_copy_judge(&copies[i],
												 mlc_rows_are_comparable(suspects->rows));

			if (verdict == MLC_VERDICT_FRESH || verdict == MLC_VERDICT_NOTHING)
			{
				audit->explained++;
				if (verdict == MLC_VERDICT_FRESH && !list[i].kept)
					audit->counts[MLC_VERDICT_FRESH]++;
			}
			else if (is_proven(suspects, &list[i], &copies[i], verdict))
				report(suspects, &copies[i], verdict, position);
			else if (list[i].round < MAX_ROUNDS)
			{
				add(suspects, &copies[i], verdict, list[i].round + 1, position);
				suspects->list[suspects->n - 1].reloaded =
					Min(list[i].reloaded, suspects->reloaded);
			}
			else if (suspects->rule->loader || list[i].kept)
				audit->unsettled++;
			else
			{
				/*
				 * set anew between any two looks: alive, if never caught
				 * equal
				 */
				audit->explained++;
				audit->counts[MLC_VERDICT_FRESH]++;
			}
		}
	MemoryContextSwitchTo(suspects->owner);
	MemoryContextDelete(round);
}

/* Lets the relay get on. */
static void
wait_a_little(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 PAUSE, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

void
mlc_recheck_settle(MlcSuspects *suspects)
{
	MemoryContext old = MemoryContextSwitchTo(suspects->owner);

	while (suspects->n > 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (!MLC_FAULT_SKIP("audit-wait") &&
			!mlc_recheck_wait(suspects->remote->serverid, suspects->position,
							  suspects->hopeless ? 0 : suspects->audit->timeout))
		{
			suspects->hopeless = true;
			suspects->audit->unsettled += suspects->n;
			MemoryContextReset(suspects->context);
			suspects->n = 0;
			suspects->list = NULL;
			suspects->position = InvalidXLogRecPtr;
			break;
		}
		settle_once(suspects);
		if (suspects->n > 0 && suspects->list[0].kept)
			wait_a_little();
	}
	MemoryContextSwitchTo(old);
}
