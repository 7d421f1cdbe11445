/*-------------------------------------------------------------------------
 *
 * shm/progress.c
 *	  What long-running calls have done so far, for the view stat_progress.
 *
 * One slot a process, written by its owner only.  A call that fails is marked
 * by the callbacks of transactions and savepoints, so nobody has to catch; how
 * far it came can still be seen a while.
 *
 * Locks: none; a reader may see a slot between two of its fields, which costs
 * a wrong number for a moment.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/area.h"
#include "base/compat.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "shm/progress.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#define ACTIVITY_LEN 16
#define KEPT (USECS_PER_HOUR)	/* what has failed */

typedef struct Slot
{
	pg_atomic_uint32 pid;		/* 0: free; set last, cleared first */
	Oid			dbid;
	Oid			relid;
	char		activity[ACTIVITY_LEN];
	TimestampTz began;
	pg_atomic_uint64 failed;	/* when; 0: it goes on */
	pg_atomic_uint64 done;
	pg_atomic_uint64 total;
} Slot;

static Slot *slots = NULL;
static Slot *mine = NULL;		/* while it is in use */
static int	nest_level;			/* where it was begun */

static Size
slots_size(void)
{
	return mul_size(MaxBackends, sizeof(Slot));
}

static void
attach(void *memory, bool found, LWLockPadded *locks)
{
	slots = memory;
	if (found)
		return;
	memset(slots, 0, slots_size());
	for (int i = 0; i < MaxBackends; i++)
	{
		pg_atomic_init_u32(&slots[i].pid, 0);
		pg_atomic_init_u64(&slots[i].failed, 0);
		pg_atomic_init_u64(&slots[i].done, 0);
		pg_atomic_init_u64(&slots[i].total, 0);
	}
}

static const MlcArea area = {
	.name = "mlcache progress",
	.size = slots_size,
	.attach = attach
};

void
mlc_progress_init(void)
{
	mlc_area_want(&area);
}

void
mlc_progress_end(void)
{
	if (mine)
		pg_atomic_write_u32(&mine->pid, 0);
	mine = NULL;
}

static void
fail(void)
{
	if (mine)
		pg_atomic_write_u64(&mine->failed, GetCurrentTimestamp());
	mine = NULL;
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		fail();
	else if (event == XACT_EVENT_COMMIT)
		mlc_progress_end();
}

/* Those of an audit itself are deeper. */
static void
at_savepoint_end(SubXactEvent event, SubTransactionId id,
				 SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB &&
		GetCurrentTransactionNestLevel() <= nest_level)
		fail();
}

void
mlc_progress_begin(const char *activity, Oid relid, int64 total)
{
	static bool registered = false;

	if (slots == NULL)
		return;
	if (!registered)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		RegisterSubXactCallback(at_savepoint_end, NULL);
	}
	registered = true;

	mlc_progress_end();
	nest_level = GetCurrentTransactionNestLevel();
	Assert(mlc_my_proc_number() < MaxBackends);
	mine = &slots[mlc_my_proc_number()];
	pg_atomic_write_u32(&mine->pid, 0);
	mine->dbid = MyDatabaseId;
	mine->relid = relid;
	strlcpy(mine->activity, activity, ACTIVITY_LEN);
	mine->began = GetCurrentTimestamp();
	pg_atomic_write_u64(&mine->failed, 0);
	pg_atomic_write_u64(&mine->done, 0);
	pg_atomic_write_u64(&mine->total, total);
	pg_write_barrier();
	pg_atomic_write_u32(&mine->pid, MyProcPid);
}

void
mlc_progress_add(int64 done)
{
	if (mine)
		pg_atomic_write_u64(&mine->done, pg_atomic_read_u64(&mine->done) + done);
}

void
mlc_progress_total(int64 total)
{
	if (mine)
		pg_atomic_write_u64(&mine->total, total);
}

int
mlc_progress_list(MlcProgressRow **rows)
{
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0;

	*rows = palloc(sizeof(MlcProgressRow) * MaxBackends);
	for (int i = 0; slots && i < MaxBackends; i++)
	{
		Slot	   *slot = &slots[i];
		MlcProgressRow *row = &(*rows)[n];
		char		activity[ACTIVITY_LEN];

		row->pid = pg_atomic_read_u32(&slot->pid);
		if (row->pid == 0 || slot->dbid != MyDatabaseId)
			continue;
		pg_read_barrier();
		strlcpy(activity, slot->activity, ACTIVITY_LEN);
		row->activity = pstrdup(activity);
		row->relid = slot->relid;
		row->done = pg_atomic_read_u64(&slot->done);
		row->total = pg_atomic_read_u64(&slot->total);
		row->failed = pg_atomic_read_u64(&slot->failed);
		row->rate = row->done * 1e6 /
			Max(1, (row->failed ? row->failed : now) - slot->began);
		if (row->failed == 0 || now - row->failed < KEPT)
			n++;
	}
	return n;
}
