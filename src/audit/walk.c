/*-------------------------------------------------------------------------
 *
 * audit/walk.c
 *	  What the ways to walk over what is cached have in common: which keys are
 *	  for us, how a copy is compared with its row, and when suspects are looked
 *	  at again.
 *
 * A difference makes a suspect, no more: see recheck.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "audit/walk.h"
#include "base/compat.h"
#include "base/wal.h"
#include "common/hashfn.h"
#include "shm/consistency.h"
#include "utils/snapmgr.h"

void
mlc_walk_begin(MlcWalk *walk, MlcAudit *audit, MlcRule *rule, MlcRemote *remote)
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

bool
mlc_walk_is_ours(MlcWalk *walk, const MlcCopy *copy)
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

bool
mlc_walk_in_sample(MlcAudit *audit, const char *key, uint32 keylen)
{
	return audit->sample >= 1.0 ||
		hash_bytes_extended((const unsigned char *) key, keylen, 0) <
		(uint64) (audit->sample * (double) PG_UINT64_MAX);
}

void
mlc_walk_parse_guards(MlcCopy *copies, int n)
{
	MlcVersion	future;

	/* read after the guards: none of them can know of anything later */
	future.tli = GetWALInsertionTimeLine();
	future.lsn = GetXLogInsertRecPtr();
	for (int i = 0; i < n; i++)
		mlc_copy_parse_guard(&copies[i], future);
}

bool
mlc_walk_judge(MlcWalk *walk, const MlcCopy *copy, XLogRecPtr position, bool ordered)
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

void
mlc_walk_compare(MlcWalk *walk, MlcCopy *copies, int n)
{
	XLogRecPtr	position;

	if (n == 0)
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	mlc_rows_load(walk->rows, copies, n);
	position = mlc_wal_insert_end();
	PopActiveSnapshot();

	for (int i = 0; i < n; i++)
		if (!mlc_walk_judge(walk, &copies[i], position, true) && copies[i].entry == NULL &&
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

void
mlc_walk_settle(MlcWalk *walk, bool all)
{
	if (all || mlc_recheck_count(walk->suspects) >= MLC_WALK_SUSPECTS)
		mlc_recheck_settle(walk->suspects);
	publish(walk->audit);
}
