/*-------------------------------------------------------------------------
 *
 * lock/fence.c
 *	  Fencing tokens (Kleppmann, "How to do distributed locking", 2016).
 *
 * A token is taken once its lock is held, so that a later holder's is always
 * greater, and from PostgreSQL alone: Redis may lose what it knew.
 *
 * The counter is a sequence whose values stand for ranges of RANGE tokens; the
 * range in use is in shared memory and is lost with it.  WAL is flushed up to
 * the sequence's record before the first token of a range is given: otherwise
 * a crash would give them again.  A standby that is promoted without the last
 * WAL has another timeline, and that comes first in a token.
 *
 * Locks: MlcLockShared.lock guards the range.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/wal.h"
#include "catalog/namespace.h"
#include "commands/sequence.h"
#include "lock/fence.h"
#include "lock/registry.h"
#include "utils/lsyscache.h"

#define RANGE 1024

/* The first token of a range that nobody has had. */
static int64
draw_range(void)
{
	Oid			nsp = get_namespace_oid("mlcache", false);
	Oid			seqid = get_relname_relid("fence_seq", nsp);
	bool		read_only = XactReadOnly;
	volatile int64 value = 0;

	if (!OidIsValid(seqid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("sequence mlcache.fence_seq does not exist"),
				 errhint("Create the extension anew.")));

	/* what a read-only transaction must not change is the user's data */
	XactReadOnly = false;
	PG_TRY();
	{
		value = nextval_internal(seqid, false);
	}
	PG_FINALLY();
	{
		XactReadOnly = read_only;
	}
	PG_END_TRY();
	XLogFlush(mlc_wal_insert_end());
	return ((int64) GetWALInsertionTimeLine() << MLC_TOKEN_COUNTER_BITS) +
		value * RANGE;
}

int64
mlc_fence_next(void)
{
	MlcKeeper  *keeper = mlc_registry_keeper();

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("there are no locks during recovery"),
				 errhint("Ask the primary.")));
	for (;;)
	{
		int64		token = 0;
		int64		start;

		LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
		if (keeper->token_next < keeper->token_end)
			token = keeper->token_next++;
		LWLockRelease(mlc_lock_shared->lock);
		if (token != 0)
			return token;

		start = draw_range();
		LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
		/* somebody with a later range may have come first */
		if (start >= keeper->token_end)
		{
			keeper->token_next = start;
			keeper->token_end = start + RANGE;
		}
		LWLockRelease(mlc_lock_shared->lock);
	}
}
