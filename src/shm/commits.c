/*-------------------------------------------------------------------------
 *
 * shm/commits.c
 *	  Which backends are in a strong commit just now.
 *
 * One slot a process, written by its owner only: a sequence number that is odd
 * while a commit is under way.  A crash restart empties it, and with it go the
 * backends.
 *
 * Locks: none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/area.h"
#include "base/compat.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "shm/commits.h"
#include "storage/proc.h"

typedef struct Slot
{
	pg_atomic_uint64 sequence;	/* odd: a commit is under way */
	Oid			dbid;			/* set before the sequence becomes odd */
} Slot;

static Slot *slots = NULL;

static Size
slots_size(void)
{
	return mul_size(MaxBackends, sizeof(Slot));
}

static void
attach(void *memory, bool found, LWLockPadded *locks)
{
	slots = memory;
	for (int i = 0; i < MaxBackends && !found; i++)
	{
		pg_atomic_init_u64(&slots[i].sequence, 0);
		slots[i].dbid = InvalidOid;
	}
}

static const MlcArea area = {
	.name = "mlcache commits",
	.size = slots_size,
	.attach = attach
};

void
mlc_commits_init(void)
{
	mlc_area_want(&area);
}

static Slot *
my_slot(void)
{
	Assert(slots != NULL && mlc_my_proc_number() < MaxBackends);
	return &slots[mlc_my_proc_number()];
}

void
mlc_commits_begin(void)
{
	Slot	   *slot = my_slot();

	Assert((pg_atomic_read_u64(&slot->sequence) & 1) == 0);
	slot->dbid = MyDatabaseId;

	/* a full barrier: what follows comes after it for everybody */
	pg_atomic_fetch_add_u64(&slot->sequence, 1);
}

void
mlc_commits_end(void)
{
	Slot	   *slot = my_slot();

	Assert((pg_atomic_read_u64(&slot->sequence) & 1) == 1);
	pg_atomic_fetch_add_u64(&slot->sequence, 1);
}

MlcCommits *
mlc_commits_snapshot(MemoryContext context, Oid dbid)
{
	MlcCommits *commits;

	commits = MemoryContextAlloc(context, offsetof(MlcCommits, under_way) +
								 MaxBackends * sizeof(commits->under_way[0]));
	commits->n = 0;
	pg_memory_barrier();
	for (int i = 0; i < MaxBackends; i++)
	{
		uint64		sequence = pg_atomic_read_u64(&slots[i].sequence);

		pg_read_barrier();
		if ((sequence & 1) == 0 || slots[i].dbid != dbid)
			continue;
		commits->under_way[commits->n].slot = i;
		commits->under_way[commits->n++].sequence = sequence;
	}
	return commits;
}

bool
mlc_commits_are_over(MlcCommits *commits)
{
	while (commits->n > 0)
	{
		int			last = commits->n - 1;

		if (pg_atomic_read_u64(&slots[commits->under_way[last].slot].sequence) ==
			commits->under_way[last].sequence)
			return false;
		commits->n = last;
	}
	return true;
}
