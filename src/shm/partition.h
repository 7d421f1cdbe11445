/*-------------------------------------------------------------------------
 *
 * shm/partition.h
 *	  The inside of L1: shared by l1.c, gate.c and partition.c only.
 *
 * partition.c lays the memory out and counts; l1.c is what readers and audits
 * do with it, gate.c what the relay and strong writers do.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_SHM_PARTITION_H
#define MLC_SHM_PARTITION_H

#include "postgres.h"

#include "base/compat.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "shm/l1.h"
#include "shm/store.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

#define MLC_L1_TICKETS 1024		/* a partition: a tenth of them taken at once
								 * makes one in twenty void */
#define MLC_L1_FILTER_BITS 32768	/* a database; a batch has 4096 keys */
#define MLC_L1_CLOSINGS 16384	/* counters of keys closed by writers */
#define MLC_L1_TAGS 1024		/* a database; numbers of tags that are apart */

#define MLC_L1_CLOSED PG_UINT64_MAX

/* A place for a ticket that somebody holds. */
typedef struct MlcL1Slot
{
	uint64		hash;
	uint64		token;			/* 0: free */
} MlcL1Slot;

/* Fields of a partition are written under its lock. */
typedef struct MlcPartition
{
	pg_atomic_uint32 changes;	/* odd: somebody is changing something */
	uint64		last_token;
	uint64		closed;			/* lines that the relay removed */
	MlcL1Slot	tickets[MLC_L1_TICKETS];
	uint32		store;			/* offset from the partition */
} MlcPartition;

/* One database; the relay of it writes. */
typedef struct MlcL1Database
{
	pg_atomic_uint32 epoch;
	pg_atomic_uint32 is_open;	/* the relay says so */
	pg_atomic_uint32 closings;	/* writers who have closed it as a whole */
	bool		has_closed_tags;	/* the relay alone reads it */
	pg_atomic_uint64 clock;		/* ticks when tags are opened */
	pg_atomic_uint64 any_tag;	/* like one of these: of them all */
	pg_atomic_uint64 tags[MLC_L1_TAGS]; /* by number: the tick at which it was
										 * opened last, or MLC_L1_CLOSED */
	uint8		filter[MLC_L1_FILTER_BITS / 8];
} MlcL1Database;

/* Counters of one process, which alone writes them; never set back. */
typedef struct MlcL1Counters
{
	uint64		hits;
	uint64		misses;
	uint64		fills;
	uint64		refused;
	char		pad[PG_CACHE_LINE_SIZE - 4 * sizeof(uint64)];
} MlcL1Counters;

typedef struct MlcL1Memory
{
	LWLockPadded *locks;
	int			npartitions;	/* a power of two */
	Size		budget;
	Size		partition_size;
	Size		partitions;		/* offset of the first */
	Size		counters;		/* offset of one for each process */
	int			ncounters;
	pg_atomic_uint64 zero[4];	/* what the counters' sums were when they were
								 * reset, in the order of their fields */
	pg_atomic_uint32 closings[MLC_L1_CLOSINGS]; /* by hash of a key: writers
												 * who have closed it */
	MlcL1Database databases[MLC_MAX_RELAYS];
} MlcL1Memory;

/*
 * The tail of a line that has tags, not aligned: the clock of its ticket, then
 * their numbers.
 */
#define MLC_L1_TAIL_LEN(ntags) \
	((ntags) == 0 ? 0 : sizeof(uint64) + (ntags) * sizeof(MlcL1Tag))

/* NULL: there is none. */
extern MlcL1Memory *mlc_l1;

static inline uint16
mlc_l1_database(MlcRelayShared *relay)
{
	return (uint16) (relay - mlc_shared->relays);
}

static inline uint64
mlc_l1_hash(uint16 db, const char *key, uint32 keylen)
{
	return hash_bytes_extended((const unsigned char *) key, keylen, db);
}

static inline int
mlc_partition_number(uint64 hash)
{
	return (int) (hash >> 57) & (mlc_l1->npartitions - 1);
}

static inline MlcPartition *
mlc_partition_at(int i)
{
	return (MlcPartition *) ((char *) mlc_l1 + mlc_l1->partitions +
							 i * mlc_l1->partition_size);
}

static inline MlcStore *
mlc_partition_store(MlcPartition *partition)
{
	return (MlcStore *) ((char *) partition + partition->store);
}

static inline LWLock *
mlc_partition_lock(int number)
{
	return &mlc_l1->locks[number].lock;
}

static inline MlcL1Slot *
mlc_partition_ticket(MlcPartition *partition, uint64 hash)
{
	return &partition->tickets[(hash >> 32) % MLC_L1_TICKETS];
}

static inline bool
mlc_l1_serves(MlcL1Database *database)
{
	return pg_atomic_read_u32(&database->is_open) != 0 &&
		pg_atomic_read_u32(&database->closings) == 0;
}

static inline pg_atomic_uint32 *
mlc_l1_closings(uint64 hash)
{
	return &mlc_l1->closings[hash % MLC_L1_CLOSINGS];
}

static inline pg_atomic_uint64 *
mlc_l1_tag_state(MlcL1Database *database, MlcL1Tag tag)
{
	return tag == MLC_L1_ANY_TAG ? &database->any_tag :
		&database->tags[tag % MLC_L1_TAGS];
}

static inline MlcL1Counters *
mlc_l1_counters_at(int i)
{
	return (MlcL1Counters *) ((char *) mlc_l1 + mlc_l1->counters) + i;
}

static inline MlcL1Counters *
mlc_l1_counters(void)
{
	Assert(mlc_my_proc_number() < mlc_l1->ncounters);
	return mlc_l1_counters_at(mlc_my_proc_number());
}

/* To change something in a partition.  Nothing may throw in between. */
extern MlcPartition *mlc_partition_begin(int number);
extern void mlc_partition_end(int number);

#endif							/* MLC_SHM_PARTITION_H */
