/*-------------------------------------------------------------------------
 *
 * shm/partition.c
 *	  L1: how its memory is laid out, its locks, its counters.
 *
 * The memory is cut into partitions by the hash of the key, each a store
 * (shm/store.c) with a lock.  Writers take it, and count up before and after
 * they change anything (a "seqlock", as Linux has it).  A hit on a line that is
 * known to be popular takes no lock: it copies, and if the count moved
 * meanwhile, or was odd, what it copied is forgotten and it looks again under
 * the lock.  Other hits take the lock in share mode, since they write to the
 * line that they were popular.
 *
 * Lock order: a partition's lock is a leaf; a process holds one at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/area.h"
#include "base/guc.h"
#include "shm/partition.h"

#define MAX_PARTITIONS 64
#define PARTITION_SIZE (4 * 1024 * 1024)	/* at least, where there are many */

MlcL1Memory *mlc_l1 = NULL;

/* ---- layout ---- */

static int
count_partitions(void)
{
	int			n = 1;

	while (n < MAX_PARTITIONS &&
		   (Size) mlc_l1_size * 1024 / (n * 2) >= PARTITION_SIZE)
		n *= 2;
	return n;
}

/* What comes before the partitions. */
static Size
head_bytes(void)
{
	return TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(MlcL1Memory)) +
		sizeof(MlcL1Counters) * (MaxBackends + NUM_AUXILIARY_PROCS);
}

/* Below this there is no room for a store worth the name. */
static Size
l1_bytes(void)
{
	Size		bytes = (Size) mlc_l1_size * 1024;

	if (bytes == 0)
		return 0;
	return Max(bytes, head_bytes() + 256 * 1024);
}

static void
attach(void *memory, bool found, LWLockPadded *locks)
{
	mlc_l1 = memory;
	if (found)
		return;
	memset(mlc_l1, 0, sizeof(MlcL1Memory));
	mlc_l1->locks = locks;
	mlc_l1->npartitions = count_partitions();
	mlc_l1->budget = l1_bytes();
	mlc_l1->counters = TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(MlcL1Memory));
	mlc_l1->ncounters = MaxBackends + NUM_AUXILIARY_PROCS;
	mlc_l1->partitions = head_bytes();
	memset((char *) mlc_l1 + mlc_l1->counters, 0,
		   mlc_l1->partitions - mlc_l1->counters);
	mlc_l1->partition_size =
		TYPEALIGN_DOWN(PG_CACHE_LINE_SIZE,
					   (mlc_l1->budget - mlc_l1->partitions) /
					   mlc_l1->npartitions);
	for (int i = 0; i < (int) lengthof(mlc_l1->zero); i++)
		pg_atomic_init_u64(&mlc_l1->zero[i], 0);
	for (int i = 0; i < MLC_L1_CLOSINGS; i++)
		pg_atomic_init_u32(&mlc_l1->closings[i], 0);
	for (int i = 0; i < MLC_MAX_RELAYS; i++)
	{
		pg_atomic_init_u32(&mlc_l1->databases[i].epoch, 1);
		pg_atomic_init_u32(&mlc_l1->databases[i].is_open, 0);
		pg_atomic_init_u32(&mlc_l1->databases[i].closings, 0);
		pg_atomic_init_u64(&mlc_l1->databases[i].clock, 0);
		pg_atomic_init_u64(&mlc_l1->databases[i].any_tag, 0);
		for (int j = 0; j < MLC_L1_TAGS; j++)
			pg_atomic_init_u64(&mlc_l1->databases[i].tags[j], 0);
	}
	for (int i = 0; i < mlc_l1->npartitions; i++)
	{
		MlcPartition *partition = mlc_partition_at(i);

		memset(partition, 0, sizeof(MlcPartition));
		pg_atomic_init_u32(&partition->changes, 0);
		partition->store = MAXALIGN(sizeof(MlcPartition));
		(void) mlc_store_init(mlc_partition_store(partition),
							  Min(mlc_l1->partition_size - partition->store,
								  PG_UINT32_MAX - 8) & ~(Size) 7);
	}
}

static const MlcArea area = {
	.name = "mlcache L1",
	.size = l1_bytes,
	.tranche = "mlcache_l1",
	.count_locks = count_partitions,
	.attach = attach
};

void
mlc_l1_init(void)
{
	mlc_area_want(&area);
}

/* ---- changing ---- */

MlcPartition *
mlc_partition_begin(int number)
{
	MlcPartition *partition = mlc_partition_at(number);

	LWLockAcquire(mlc_partition_lock(number), LW_EXCLUSIVE);
	pg_atomic_write_u32(&partition->changes,
						pg_atomic_read_u32(&partition->changes) + 1);
	pg_write_barrier();
	return partition;
}

void
mlc_partition_end(int number)
{
	MlcPartition *partition = mlc_partition_at(number);

	pg_write_barrier();
	pg_atomic_write_u32(&partition->changes,
						pg_atomic_read_u32(&partition->changes) + 1);
	LWLockRelease(mlc_partition_lock(number));
}

/* ---- statistics ---- */

static void
sum_counters(MlcL1Counters *sum)
{
	memset(sum, 0, sizeof(*sum));
	for (int i = 0; i < mlc_l1->ncounters; i++)
	{
		volatile MlcL1Counters *counters = mlc_l1_counters_at(i);

		sum->hits += counters->hits;
		sum->misses += counters->misses;
		sum->fills += counters->fills;
		sum->refused += counters->refused;
	}
}

void
mlc_l1_stat(MlcL1Stat *stat)
{
	MlcL1Counters sum;

	memset(stat, 0, sizeof(*stat));
	if (mlc_l1 == NULL)
		return;
	stat->budget = mlc_l1->budget;
	sum_counters(&sum);
	stat->hits = sum.hits - pg_atomic_read_u64(&mlc_l1->zero[0]);
	stat->misses = sum.misses - pg_atomic_read_u64(&mlc_l1->zero[1]);
	stat->fills = sum.fills - pg_atomic_read_u64(&mlc_l1->zero[2]);
	stat->refused = sum.refused - pg_atomic_read_u64(&mlc_l1->zero[3]);
	for (int i = 0; i < mlc_l1->npartitions; i++)
	{
		MlcPartition *partition = mlc_partition_at(i);
		MlcStore   *store = mlc_partition_store(partition);

		LWLockAcquire(mlc_partition_lock(i), LW_SHARED);
		stat->used += store->small.used + store->main.used;
		stat->lines += store->lines;
		stat->line_bytes += store->bytes;
		stat->payload += store->payload;
		stat->evictions += store->evictions;
		stat->closed += partition->closed;
		LWLockRelease(mlc_partition_lock(i));
	}
}

void
mlc_l1_reset_stat(void)
{
	MlcL1Counters sum;

	if (mlc_l1 == NULL)
		return;
	sum_counters(&sum);
	pg_atomic_write_u64(&mlc_l1->zero[0], sum.hits);
	pg_atomic_write_u64(&mlc_l1->zero[1], sum.misses);
	pg_atomic_write_u64(&mlc_l1->zero[2], sum.fills);
	pg_atomic_write_u64(&mlc_l1->zero[3], sum.refused);
	for (int i = 0; i < mlc_l1->npartitions; i++)
	{
		LWLockAcquire(mlc_partition_lock(i), LW_EXCLUSIVE);
		mlc_partition_store(mlc_partition_at(i))->evictions = 0;
		mlc_partition_at(i)->closed = 0;
		LWLockRelease(mlc_partition_lock(i));
	}
}
