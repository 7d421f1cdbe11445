/*-------------------------------------------------------------------------
 *
 * shm/l1.c
 *	  L1: the cache in this server's shared memory.
 *
 * The memory is cut into partitions by the hash of the key, each a store
 * (shm/store.c) with a lock.  Writers take it, and count up before and after
 * they change anything (a "seqlock", as Linux has it).  A hit on a line that is
 * known to be popular takes no lock: it copies, and if the count moved
 * meanwhile, or was odd, what it copied is forgotten and it looks again under
 * the lock.  Other hits take the lock in share mode, since they write to the
 * line that they were popular.
 *
 * Coherence is the reader's rule of Redis in small.  A reader takes a ticket
 * before it asks L2 or the row, and fills only if the ticket is still good.
 * Tickets stand in a table of the partition, one a slot: a newer one of the
 * same slot makes an older one void, so none can be forgotten.  The relay, for
 * each key of a batch: sets the key's bit in a filter of its database (no
 * tickets are given for keys whose bit is set), then removes the line and the
 * ticket.  That comes before the first command to any Redis; the filter is
 * emptied when all replies are in.  So a copy of what Redis held before the
 * batch cannot come in: its ticket was taken before the key was closed and is
 * void, or after it was opened, and then Redis no longer holds it.  Two keys
 * that share a bit cost a fill, nothing else.
 *
 * A strong writer does the same from before its commit is visible until after.
 * Since several may hold a key closed, beside the relay, they count: a table
 * of counters by hash, of all databases.
 *
 * What concerns a tag cannot be closed key by key, since nobody knows the keys.
 * So each database has counters of tags, by hash: raised by the relay before
 * the first command (they are odd then: closed) and again after the last reply.
 * A line carries the sum of the counters of its tags, as they were before L2 was
 * asked, and is found by that sum only.  Counters only grow, so the sum is the
 * same if and only if each of them is.
 *
 * What concerns a whole database (purge of a rule, a Redis that comes or goes,
 * start and end of the relay) shuts its L1: a flag, and an epoch that every
 * line and ticket carries.  Lines of another epoch are not found, and are the
 * first to go.
 *
 * L1 is open only while a relay runs that has a Redis: without one nobody
 * would ever remove a line.
 *
 * Lock order: a partition's lock is a leaf; a process holds one at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "base/area.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "shm/l1.h"
#include "shm/store.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

#define MAX_PARTITIONS 64
#define PARTITION_SIZE (4 * 1024 * 1024)	/* at least, where there are many */
#define TICKETS 1024			/* a partition: a tenth of them taken at once
								 * makes one in twenty void */
#define FILTER_BITS 32768		/* a database; a batch has 4096 keys */
#define CLOSINGS 16384			/* counters of keys closed by writers */
#define TAGS 1024				/* counters of tags, a database */

typedef struct Ticket
{
	uint64		hash;
	uint64		token;			/* 0: free */
} Ticket;

/* Fields of a partition are written under its lock. */
typedef struct Partition
{
	pg_atomic_uint32 changes;	/* odd: somebody is changing something */
	uint64		last_token;
	uint64		closed;			/* lines that the relay removed */
	Ticket		tickets[TICKETS];
	uint32		store;			/* offset from the partition */
} Partition;

/* One database; the relay of it writes. */
typedef struct Database
{
	pg_atomic_uint32 epoch;
	pg_atomic_uint32 is_open;	/* the relay says so */
	pg_atomic_uint32 closings;	/* writers who have closed it as a whole */
	pg_atomic_uint32 any_tag;	/* like a counter of tags: of them all */
	pg_atomic_uint32 tags[TAGS];	/* odd: closed */
	uint8		filter[FILTER_BITS / 8];
} Database;

/* Counters of one process, which alone writes them; never set back. */
typedef struct Counters
{
	uint64		hits;
	uint64		misses;
	uint64		fills;
	uint64		refused;
	char		pad[PG_CACHE_LINE_SIZE - 4 * sizeof(uint64)];
} Counters;

typedef struct L1
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
	pg_atomic_uint32 closings[CLOSINGS];	/* by hash of a key: writers who
											 * have closed it */
	Database	databases[MLC_MAX_RELAYS];
} L1;

static L1  *l1 = NULL;

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
	return TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(L1)) +
		sizeof(Counters) * (MaxBackends + NUM_AUXILIARY_PROCS);
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

static Partition *
partition_at(int i)
{
	return (Partition *) ((char *) l1 + l1->partitions + i * l1->partition_size);
}

static inline MlcStore *
store_of(Partition *partition)
{
	return (MlcStore *) ((char *) partition + partition->store);
}

static void
attach(void *memory, bool found, LWLockPadded *locks)
{
	l1 = memory;
	if (found)
		return;
	memset(l1, 0, sizeof(L1));
	l1->locks = locks;
	l1->npartitions = count_partitions();
	l1->budget = l1_bytes();
	l1->counters = TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(L1));
	l1->ncounters = MaxBackends + NUM_AUXILIARY_PROCS;
	l1->partitions = head_bytes();
	memset((char *) l1 + l1->counters, 0, l1->partitions - l1->counters);
	l1->partition_size = TYPEALIGN_DOWN(PG_CACHE_LINE_SIZE,
										(l1->budget - l1->partitions) / l1->npartitions);
	for (int i = 0; i < (int) lengthof(l1->zero); i++)
		pg_atomic_init_u64(&l1->zero[i], 0);
	for (int i = 0; i < CLOSINGS; i++)
		pg_atomic_init_u32(&l1->closings[i], 0);
	for (int i = 0; i < MLC_MAX_RELAYS; i++)
	{
		pg_atomic_init_u32(&l1->databases[i].epoch, 1);
		pg_atomic_init_u32(&l1->databases[i].is_open, 0);
		pg_atomic_init_u32(&l1->databases[i].closings, 0);
		pg_atomic_init_u32(&l1->databases[i].any_tag, 2);
		for (int j = 0; j < TAGS; j++)
			pg_atomic_init_u32(&l1->databases[i].tags[j], 2);
	}
	for (int i = 0; i < l1->npartitions; i++)
	{
		Partition  *partition = partition_at(i);

		memset(partition, 0, sizeof(Partition));
		pg_atomic_init_u32(&partition->changes, 0);
		partition->store = MAXALIGN(sizeof(Partition));
		(void) mlc_store_init(store_of(partition),
							  Min(l1->partition_size - partition->store,
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

/* ---- finding one's way ---- */

static inline uint16
database_number(MlcRelayShared *relay)
{
	return (uint16) (relay - mlc_shared->relays);
}

static inline uint64
hash_key(uint16 db, const char *key, uint32 keylen)
{
	return hash_bytes_extended((const unsigned char *) key, keylen, db);
}

static inline int
partition_number(uint64 hash)
{
	return (int) (hash >> 57) & (l1->npartitions - 1);
}

static inline LWLock *
partition_lock(int number)
{
	return &l1->locks[number].lock;
}

/* To change something in a partition.  Nothing may throw in between. */
static Partition *
begin_change(int number)
{
	Partition  *partition = partition_at(number);

	LWLockAcquire(partition_lock(number), LW_EXCLUSIVE);
	pg_atomic_write_u32(&partition->changes,
						pg_atomic_read_u32(&partition->changes) + 1);
	pg_write_barrier();
	return partition;
}

static void
end_change(int number)
{
	Partition  *partition = partition_at(number);

	pg_write_barrier();
	pg_atomic_write_u32(&partition->changes,
						pg_atomic_read_u32(&partition->changes) + 1);
	LWLockRelease(partition_lock(number));
}

static inline Ticket *
ticket_of(Partition *partition, uint64 hash)
{
	return &partition->tickets[(hash >> 32) % TICKETS];
}

static inline Counters *
counters_at(int i)
{
	return (Counters *) ((char *) l1 + l1->counters) + i;
}

static inline Counters *
my_counters(void)
{
	Assert(mlc_my_proc_number() < l1->ncounters);
	return counters_at(mlc_my_proc_number());
}

/*
 * Milliseconds of a clock that all processes share and nobody sets.  A few ms
 * of error do not matter to a time to live; the coarse clock is four times as
 * cheap.
 */
static int64
now_ms(void)
{
	struct timespec now;

#ifdef CLOCK_MONOTONIC_COARSE
	(void) clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
#else
	(void) clock_gettime(CLOCK_MONOTONIC, &now);
#endif
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool
is_stale(const MlcLine *line)
{
	return line->epoch !=
		pg_atomic_read_u32(&l1->databases[line->db].epoch);
}

static inline bool
serves(Database *database)
{
	return pg_atomic_read_u32(&database->is_open) != 0 &&
		pg_atomic_read_u32(&database->closings) == 0;
}

static inline pg_atomic_uint32 *
closings_of(uint64 hash)
{
	return &l1->closings[hash % CLOSINGS];
}

/* The key's line and ticket go.  The caller holds the partition's lock. */
static void
remove_key(Partition *partition, uint64 hash, uint16 db, const char *key,
		   uint32 keylen)
{
	Ticket	   *slot = ticket_of(partition, hash);
	MlcLine    *line = mlc_store_find(store_of(partition), hash, db, key, keylen);

	if (slot->hash == hash)
		slot->token = 0;
	if (line)
	{
		mlc_store_remove(store_of(partition), line);
		partition->closed++;
	}
}

/* ---- readers ---- */

bool
mlc_l1_is_open(void)
{
	MlcRelayShared *relay;

	if (l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return false;
	return serves(&l1->databases[database_number(relay)]);
}

/* Has no tag of the line changed since it was filled? */
static inline bool
is_of(const MlcLine *line, uint16 db, uint32 generation)
{
	return likely(line->generation == generation) ||
		(generation == 0 && line->generation ==
		 pg_atomic_read_u32(&l1->databases[db].any_tag));
}

/*
 * Copies the line's value; false: it is of no use.  Beside a writer it may copy
 * anything, but nothing from elsewhere: what says where the value lies is read
 * once.  Throws for want of memory only.
 */
static bool
copy_line(MlcStore *store, const MlcLine *line, uint16 db, uint32 keylen,
		  uint32 generation, MlcL1Hit *hit)
{
	uint32		vallen = *(const volatile uint32 *) &line->vallen;
	int64		expiry = *(const volatile int64 *) &line->expiry;
	const char *value = line->data + keylen;

	if (!mlc_store_holds(store, value, vallen) ||
		!is_of(line, db, generation) ||
		(line->epoch != pg_atomic_read_u32(&l1->databases[db].epoch) &&
		 !MLC_FAULT_SKIP("l1-epoch")) ||
		(expiry != 0 && now_ms() >= expiry))
		return false;
	hit->rule = line->rule;
	hit->absent = line->absent;
	hit->lo.tli = line->lo_tli;
	hit->lo.lsn = line->lo_lsn;
	hit->value = NULL;
	if (!hit->absent)
	{
		hit->value = palloc(VARHDRSZ + vallen);
		SET_VARSIZE(hit->value, VARHDRSZ + vallen);
		memcpy(VARDATA(hit->value), value, vallen);
	}
	return true;
}

/* A look without the lock; false: nothing is known, look under the lock. */
static bool
look_unlocked(Partition *partition, uint64 hash, uint16 db, const char *key,
			  uint32 keylen, uint32 generation, MlcL1Hit *hit)
{
	MlcStore   *store = store_of(partition);
	uint32		changes = pg_atomic_read_u32(&partition->changes);
	MlcLine    *line;
	bool		found;

	if (changes & 1)
		return false;
	pg_read_barrier();
	line = mlc_store_find(store, hash, db, key, keylen);
	if (line == NULL || line->freq < MLC_LINE_MAX_FREQ)
		return false;
	found = copy_line(store, line, db, keylen, generation, hit);
	MLC_FAULT("l1-copied");
	pg_read_barrier();
	if (likely(pg_atomic_read_u32(&partition->changes) == changes) ||
		MLC_FAULT_SKIP("l1-unlocked"))
		return found;
	if (found && hit->value)
		pfree(hit->value);
	return false;
}

static bool
look_locked(int number, uint64 hash, uint16 db, const char *key,
			uint32 keylen, uint32 generation, MlcL1Hit *hit)
{
	LWLock	   *lock = partition_lock(number);
	MlcStore   *store = store_of(partition_at(number));
	MlcLine    *line;
	bool		found;

	LWLockAcquire(lock, LW_SHARED);
	line = mlc_store_find(store, hash, db, key, keylen);
	found = line && copy_line(store, line, db, keylen, generation, hit);
	if (found)
		mlc_store_touch(line);
	LWLockRelease(lock);
	return found;
}

bool
mlc_l1_get(const char *key, uint32 keylen, MlcL1Hit *hit)
{
	return mlc_l1_get_tagged(key, keylen, 0, hit);
}

bool
mlc_l1_get_tagged(const char *key, uint32 keylen, uint32 generation,
				  MlcL1Hit *hit)
{
	MlcRelayShared *relay;
	uint16		db;
	uint64		hash;
	int			number;
	bool		found;

	if (l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return false;
	db = database_number(relay);
	if (!serves(&l1->databases[db]))
		return false;

	hash = hash_key(db, key, keylen);
	number = partition_number(hash);
	found = look_unlocked(partition_at(number), hash, db, key, keylen,
						  generation, hit) ||
		look_locked(number, hash, db, key, keylen, generation, hit);
	if (found)
		my_counters()->hits++;
	else
		my_counters()->misses++;
	return found;
}

bool
mlc_l1_peek(const char *key, uint32 keylen, MlcL1Hit *hit)
{
	MlcRelayShared *relay;
	uint16		db;
	uint64		hash;
	int			number;
	MlcLine    *line;
	bool		found;

	if (!mlc_l1_is_open())
		return false;
	relay = mlc_segment_my_relay();
	db = database_number(relay);
	hash = hash_key(db, key, keylen);
	number = partition_number(hash);
	LWLockAcquire(partition_lock(number), LW_SHARED);
	line = mlc_store_find(store_of(partition_at(number)), hash, db, key, keylen);
	found = line && copy_line(store_of(partition_at(number)), line, db, keylen, 0, hit);
	LWLockRelease(partition_lock(number));
	return found;
}

#define WALK_BUCKETS 1024		/* looked at while a lock is held */

int
mlc_l1_walk(MlcL1Cursor *cursor, int32 rule, MlcL1Copy *lines, int max)
{
	uint16		db;
	MlcStore   *store;
	LWLock	   *lock;
	int			n = 0;

	if (!mlc_l1_is_open() || cursor->partition >= l1->npartitions)
		return -1;
	db = database_number(mlc_segment_my_relay());
	store = store_of(partition_at(cursor->partition));
	lock = partition_lock(cursor->partition);
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < WALK_BUCKETS && cursor->bucket < mlc_store_buckets(store); i++)
	{
		MlcLine    *line = NULL;
		int			before = n;

		while (n < max &&
			   (line = mlc_store_next(store, cursor->bucket, line)) != NULL)
		{
			if (line->db != db || (rule != 0 && line->rule != rule) ||
				line->generation != 0 ||
				!copy_line(store, line, db, line->keylen, 0, &lines[n].hit))
				continue;
			lines[n].key = pnstrdup(MLC_LINE_KEY(line), line->keylen);
			lines[n].keylen = line->keylen;
			n++;
		}
		/* a bucket that does not fit comes next time, unless it never will */
		if (n == max && before > 0)
		{
			n = before;
			break;
		}
		cursor->bucket++;
	}
	if (cursor->bucket >= mlc_store_buckets(store))
	{
		cursor->bucket = 0;
		cursor->partition++;
	}
	LWLockRelease(lock);
	return n;
}

uint64
mlc_l1_expect(const char *key, uint32 keylen)
{
	MlcRelayShared *relay;
	uint64		hash;

	if (l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return 0;
	hash = hash_key(database_number(relay), key, keylen);
	mlc_store_prefetch_bucket(store_of(partition_at(partition_number(hash))),
							  hash);
	return hash;
}

void
mlc_l1_expect_line(uint64 hash)
{
	if (l1 != NULL)
		mlc_store_prefetch_line(store_of(partition_at(partition_number(hash))),
								hash);
}

void
mlc_l1_begin(const char *key, uint32 keylen, MlcL1Ticket *ticket)
{
	MlcRelayShared *relay;
	Database   *database;
	uint16		db;
	int			number;
	Partition  *partition;
	uint32		bit;

	ticket->token = 0;
	ticket->generation = 0;
	if (l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return;
	db = database_number(relay);
	database = &l1->databases[db];

	/* the epoch first: whoever shuts L1 takes the flag away before it */
	ticket->epoch = pg_atomic_read_u32(&database->epoch);
	pg_read_barrier();
	if (!serves(database))
		return;

	ticket->hash = hash_key(db, key, keylen);
	bit = ticket->hash % FILTER_BITS;
	number = partition_number(ticket->hash);
	partition = begin_change(number);
	if (((database->filter[bit / 8] & (1 << (bit % 8))) == 0 &&
		 pg_atomic_read_u32(closings_of(ticket->hash)) == 0) ||
		MLC_FAULT_SKIP("l1-closed"))
	{
		Ticket	   *slot = ticket_of(partition, ticket->hash);
		MlcLine    *line = mlc_store_find(store_of(partition), ticket->hash,
										  db, key, keylen);

		if (line)
			mlc_store_remove(store_of(partition), line);
		ticket->token = ++partition->last_token;
		slot->hash = ticket->hash;
		slot->token = ticket->token;
	}
	end_change(number);
}

bool
mlc_l1_fill(MlcL1Ticket *ticket, const char *key, uint32 keylen, int32 rule,
			const char *value, uint32 vallen, MlcVersion lo, int64 ttl)
{
	MlcRelayShared *relay;
	int			number;
	Partition  *partition;
	Ticket	   *slot;
	MlcLine		like;
	bool		good;

	if (ticket->token == 0 || (relay = mlc_segment_my_relay()) == NULL)
		return false;

	memset(&like, 0, sizeof(like));
	like.db = database_number(relay);
	like.epoch = ticket->epoch;
	like.generation = ticket->generation;
	like.absent = value == NULL;
	like.rule = rule;
	like.expiry = ttl == 0 ? 0 : now_ms() + ttl;
	like.lo_tli = lo.tli;
	like.lo_lsn = lo.lsn;

	number = partition_number(ticket->hash);
	partition = begin_change(number);
	slot = ticket_of(partition, ticket->hash);
	good = (slot->hash == ticket->hash && slot->token == ticket->token) ||
		MLC_FAULT_SKIP("l1-ticket");
	if (good)
	{
		slot->token = 0;
		if (!is_stale(&like))
			good = mlc_store_put(store_of(partition), ticket->hash, &like, key,
								 keylen, value ? value : "", value ? vallen : 0,
								 is_stale) != NULL;
		else
			good = false;
	}
	end_change(number);
	ticket->token = 0;
	if (good)
		my_counters()->fills++;
	else
		my_counters()->refused++;
	return good;
}

/* ---- tags ---- */

static pg_atomic_uint32 *
counter_of(MlcRelayShared *relay, char kind, const char *tag, uint32 len)
{
	Database   *database = &l1->databases[database_number(relay)];

	if (tag == NULL)
		return &database->any_tag;
	return &database->tags[hash_bytes_extended((const unsigned char *) tag, len,
											   kind) % TAGS];
}

bool
mlc_l1_add_tag(uint32 *generation, char kind, const char *tag, uint32 len)
{
	MlcRelayShared *relay;
	uint32		count;

	if (l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return false;
	count = pg_atomic_read_u32(counter_of(relay, kind, tag, len));
	*generation += count;
	return (count & 1) == 0 || MLC_FAULT_SKIP("l1-closed");
}

/* Closed counters are odd; by the relay only. */
static void
open_counter(pg_atomic_uint32 *counter)
{
	uint32		count = pg_atomic_read_u32(counter);

	if (count & 1)
		pg_atomic_write_u32(counter, count + 1);
}

static void
close_counter(pg_atomic_uint32 *counter)
{
	if ((pg_atomic_read_u32(counter) & 1) == 0)
		pg_atomic_fetch_add_u32(counter, 1);
}

/* ---- the relay ---- */

void
mlc_l1_shut(MlcRelayShared *relay)
{
	Database   *database;

	if (l1 == NULL)
		return;
	database = &l1->databases[database_number(relay)];
	pg_atomic_write_u32(&database->is_open, 0);
	pg_write_barrier();
	pg_atomic_fetch_add_u32(&database->epoch, 1);
}

void
mlc_l1_close_key(MlcRelayShared *relay, const char *key, uint32 keylen)
{
	uint16		db;
	Database   *database;
	uint64		hash;
	uint32		bit;
	int			number;

	if (l1 == NULL || MLC_FAULT_SKIP("l1-close"))
		return;
	db = database_number(relay);
	database = &l1->databases[db];
	hash = hash_key(db, key, keylen);
	bit = hash % FILTER_BITS;
	database->filter[bit / 8] |= 1 << (bit % 8);

	/* whoever takes the lock after us sees the bit */
	number = partition_number(hash);
	remove_key(begin_change(number), hash, db, key, keylen);
	end_change(number);
}

void
mlc_l1_close_tag(MlcRelayShared *relay, char kind, const char *tag, uint32 len)
{
	if (l1 != NULL && !MLC_FAULT_SKIP("l1-close-tag"))
		close_counter(counter_of(relay, kind, tag, len));
}

void
mlc_l1_open(MlcRelayShared *relay)
{
	Database   *database;

	if (l1 == NULL)
		return;
	database = &l1->databases[database_number(relay)];
	memset(database->filter, 0, sizeof(database->filter));
	open_counter(&database->any_tag);
	for (int i = 0; i < TAGS; i++)
		open_counter(&database->tags[i]);
	pg_write_barrier();
	pg_atomic_write_u32(&database->is_open, 1);
}

/* ---- strong writers ---- */

void
mlc_l1_writer_close(const char *key, uint32 keylen, uint32 *handle)
{
	MlcRelayShared *relay;
	uint64		hash;
	uint16		db;
	int			number;

	*handle = CLOSINGS;
	if (l1 == NULL || (relay = mlc_segment_my_relay()) == NULL ||
		MLC_FAULT_SKIP("l1-writer-close"))
		return;
	db = database_number(relay);
	hash = hash_key(db, key, keylen);
	*handle = hash % CLOSINGS;
	pg_atomic_fetch_add_u32(closings_of(hash), 1);

	/* whoever takes the lock after us sees the count */
	number = partition_number(hash);
	remove_key(begin_change(number), hash, db, key, keylen);
	end_change(number);
}

void
mlc_l1_writer_open(uint32 handle)
{
	if (l1 != NULL && handle < CLOSINGS)
		pg_atomic_fetch_sub_u32(&l1->closings[handle], 1);
}

bool
mlc_l1_writer_close_all(void)
{
	MlcRelayShared *relay;
	Database   *database;

	if (l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return false;
	database = &l1->databases[database_number(relay)];
	pg_atomic_fetch_add_u32(&database->closings, 1);
	pg_atomic_fetch_add_u32(&database->epoch, 1);
	return true;
}

void
mlc_l1_writer_open_all(void)
{
	MlcRelayShared *relay;

	if (l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return;
	pg_atomic_fetch_sub_u32(&l1->databases[database_number(relay)].closings, 1);
}

/* ---- statistics ---- */

static void
sum_counters(Counters *sum)
{
	memset(sum, 0, sizeof(*sum));
	for (int i = 0; i < l1->ncounters; i++)
	{
		volatile Counters *counters = counters_at(i);

		sum->hits += counters->hits;
		sum->misses += counters->misses;
		sum->fills += counters->fills;
		sum->refused += counters->refused;
	}
}

void
mlc_l1_stat(MlcL1Stat *stat)
{
	Counters	sum;

	memset(stat, 0, sizeof(*stat));
	if (l1 == NULL)
		return;
	stat->budget = l1->budget;
	sum_counters(&sum);
	stat->hits = sum.hits - pg_atomic_read_u64(&l1->zero[0]);
	stat->misses = sum.misses - pg_atomic_read_u64(&l1->zero[1]);
	stat->fills = sum.fills - pg_atomic_read_u64(&l1->zero[2]);
	stat->refused = sum.refused - pg_atomic_read_u64(&l1->zero[3]);
	for (int i = 0; i < l1->npartitions; i++)
	{
		Partition  *partition = partition_at(i);
		MlcStore   *store = store_of(partition);

		LWLockAcquire(partition_lock(i), LW_SHARED);
		stat->used += store->small.used + store->main.used;
		stat->lines += store->lines;
		stat->line_bytes += store->bytes;
		stat->payload += store->payload;
		stat->evictions += store->evictions;
		stat->closed += partition->closed;
		LWLockRelease(partition_lock(i));
	}
}

void
mlc_l1_reset_stat(void)
{
	Counters	sum;

	if (l1 == NULL)
		return;
	sum_counters(&sum);
	pg_atomic_write_u64(&l1->zero[0], sum.hits);
	pg_atomic_write_u64(&l1->zero[1], sum.misses);
	pg_atomic_write_u64(&l1->zero[2], sum.fills);
	pg_atomic_write_u64(&l1->zero[3], sum.refused);
	for (int i = 0; i < l1->npartitions; i++)
	{
		LWLockAcquire(partition_lock(i), LW_EXCLUSIVE);
		store_of(partition_at(i))->evictions = 0;
		partition_at(i)->closed = 0;
		LWLockRelease(partition_lock(i));
	}
}
