/*-------------------------------------------------------------------------
 *
 * shm/l1.c
 *	  L1: what readers and audits do with it.
 *
 * Coherence is the reader's rule of Redis in small.  A reader takes a ticket
 * before it asks L2 or the row, and fills only if the ticket is still good.
 * Tickets stand in a table of the partition, one a slot: a newer one of the
 * same slot makes an older one void, so none can be forgotten.  What makes
 * lines and tickets void, and when, is in gate.c; how a hit goes without a
 * lock, in partition.c.
 *
 * Locks: a partition's, one at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "base/compat.h"
#include "base/fault.h"
#include "shm/l1.h"
#include "shm/partition.h"
#include "shm/store.h"
#include "storage/lwlock.h"

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

/* ---- tags ---- */

/* Lays out a line's tail. */
static void
make_tail(char *tail, uint64 clock, const MlcL1Tag *tags, int ntags)
{
	if (ntags == 0)
		return;
	memcpy(tail, &clock, sizeof(clock));
	memcpy(tail + sizeof(clock), tags, ntags * sizeof(MlcL1Tag));
}

/* Has none of the tags been closed since the clock was read? */
static inline bool
tags_are_good(MlcL1Database *database, const char *tail, int ntags)
{
	uint64		clock;

	if (likely(ntags == 0))
		return true;
	memcpy(&clock, tail, sizeof(clock));
	for (int i = 0; i < ntags; i++)
	{
		MlcL1Tag	tag;

		memcpy(&tag, tail + sizeof(clock) + i * sizeof(tag), sizeof(tag));
		if (pg_atomic_read_u64(mlc_l1_tag_state(database, tag)) > clock)
			return false;
	}
	return true;
}

/* Of no use to anybody.  The caller holds the partition's lock. */
static bool
is_stale(const MlcLine *line)
{
	MlcL1Database *database = &mlc_l1->databases[line->db];

	return line->epoch != pg_atomic_read_u32(&database->epoch) ||
		!tags_are_good(database, MLC_LINE_TAIL(line), line->ntags);
}

/* ---- readers ---- */

bool
mlc_l1_is_open(void)
{
	MlcRelayShared *relay;

	if (mlc_l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return false;
	return mlc_l1_serves(&mlc_l1->databases[mlc_l1_database(relay)]);
}

/*
 * Copies the line's value; false: it is of no use.  Beside a writer it may copy
 * anything, but nothing from elsewhere: what says where the value lies is read
 * once.  Throws for want of memory only.
 */
static bool
copy_line(MlcStore *store, const MlcLine *line, uint16 db, uint32 keylen,
		  MlcL1Hit *hit)
{
	MlcL1Database *database = &mlc_l1->databases[db];
	uint32		vallen = *(const volatile uint32 *) &line->vallen;
	uint8		ntags = *(const volatile uint8 *) &line->ntags;
	int64		expiry = *(const volatile int64 *) &line->expiry;
	const char *value = line->data + keylen;

	if (!mlc_store_holds(store, value, vallen) ||
		!mlc_store_holds(store, value + vallen, MLC_L1_TAIL_LEN(ntags)) ||
		!tags_are_good(database, value + vallen, ntags) ||
		(line->epoch != pg_atomic_read_u32(&database->epoch) &&
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
look_unlocked(MlcPartition *partition, uint64 hash, uint16 db, const char *key,
			  uint32 keylen, MlcL1Hit *hit)
{
	MlcStore   *store = mlc_partition_store(partition);
	uint32		changes = pg_atomic_read_u32(&partition->changes);
	MlcLine    *line;
	bool		found;

	if (changes & 1)
		return false;
	pg_read_barrier();
	line = mlc_store_find(store, hash, db, key, keylen);
	if (line == NULL || line->freq < MLC_LINE_MAX_FREQ)
		return false;
	found = copy_line(store, line, db, keylen, hit);
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
			uint32 keylen, MlcL1Hit *hit)
{
	LWLock	   *lock = mlc_partition_lock(number);
	MlcStore   *store = mlc_partition_store(mlc_partition_at(number));
	MlcLine    *line;
	bool		found;

	LWLockAcquire(lock, LW_SHARED);
	line = mlc_store_find(store, hash, db, key, keylen);
	found = line && copy_line(store, line, db, keylen, hit);
	if (found)
		mlc_store_touch(line);
	LWLockRelease(lock);
	return found;
}

bool
mlc_l1_get(const char *key, uint32 keylen, MlcL1Hit *hit)
{
	MlcRelayShared *relay;
	uint16		db;
	uint64		hash;
	int			number;
	bool		found;

	if (mlc_l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return false;
	db = mlc_l1_database(relay);
	if (!mlc_l1_serves(&mlc_l1->databases[db]))
		return false;

	hash = mlc_l1_hash(db, key, keylen);
	number = mlc_partition_number(hash);
	found = look_unlocked(mlc_partition_at(number), hash, db, key, keylen,
						  hit) ||
		look_locked(number, hash, db, key, keylen, hit);
	if (found)
		mlc_l1_counters()->hits++;
	else
		mlc_l1_counters()->misses++;
	return found;
}

bool
mlc_l1_peek(const char *key, uint32 keylen, MlcL1Hit *hit)
{
	MlcRelayShared *relay;
	uint16		db;
	uint64		hash;
	int			number;
	MlcStore   *store;
	MlcLine    *line;
	bool		found;

	if (!mlc_l1_is_open())
		return false;
	relay = mlc_segment_my_relay();
	db = mlc_l1_database(relay);
	hash = mlc_l1_hash(db, key, keylen);
	number = mlc_partition_number(hash);
	LWLockAcquire(mlc_partition_lock(number), LW_SHARED);
	store = mlc_partition_store(mlc_partition_at(number));
	line = mlc_store_find(store, hash, db, key, keylen);
	found = line && copy_line(store, line, db, keylen, hit);
	LWLockRelease(mlc_partition_lock(number));
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

	if (!mlc_l1_is_open() || cursor->partition >= mlc_l1->npartitions)
		return -1;
	db = mlc_l1_database(mlc_segment_my_relay());
	store = mlc_partition_store(mlc_partition_at(cursor->partition));
	lock = mlc_partition_lock(cursor->partition);
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < WALK_BUCKETS && cursor->bucket < mlc_store_buckets(store); i++)
	{
		MlcLine    *line = NULL;
		int			before = n;

		while (n < max &&
			   (line = mlc_store_next(store, cursor->bucket, line)) != NULL)
		{
			if (line->db != db || line->rule <= 0 ||
				(rule != 0 && line->rule != rule) ||
				!copy_line(store, line, db, line->keylen, &lines[n].hit))
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

static inline MlcStore *
store_for(uint64 hash)
{
	return mlc_partition_store(mlc_partition_at(mlc_partition_number(hash)));
}

uint64
mlc_l1_expect(const char *key, uint32 keylen)
{
	MlcRelayShared *relay;
	uint64		hash;

	if (mlc_l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return 0;
	hash = mlc_l1_hash(mlc_l1_database(relay), key, keylen);
	mlc_store_prefetch_bucket(store_for(hash), hash);
	return hash;
}

void
mlc_l1_expect_line(uint64 hash)
{
	if (mlc_l1 != NULL)
		mlc_store_prefetch_line(store_for(hash), hash);
}

void
mlc_l1_begin(const char *key, uint32 keylen, MlcL1Ticket *ticket)
{
	MlcRelayShared *relay;
	MlcL1Database *database;
	uint16		db;
	int			number;
	MlcPartition *partition;
	uint32		bit;

	ticket->token = 0;
	if (mlc_l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return;
	db = mlc_l1_database(relay);
	database = &mlc_l1->databases[db];

	/* the epoch first: whoever shuts L1 takes the flag away before it */
	ticket->epoch = pg_atomic_read_u32(&database->epoch);
	ticket->clock = pg_atomic_read_u64(&database->clock);
	pg_read_barrier();
	if (!mlc_l1_serves(database))
		return;

	ticket->hash = mlc_l1_hash(db, key, keylen);
	bit = ticket->hash % MLC_L1_FILTER_BITS;
	number = mlc_partition_number(ticket->hash);
	partition = mlc_partition_begin(number);
	if (((database->filter[bit / 8] & (1 << (bit % 8))) == 0 &&
		 pg_atomic_read_u32(mlc_l1_closings(ticket->hash)) == 0) ||
		MLC_FAULT_SKIP("l1-closed"))
	{
		MlcL1Slot  *slot = mlc_partition_ticket(partition, ticket->hash);
		MlcStore   *store = mlc_partition_store(partition);
		MlcLine    *line = mlc_store_find(store, ticket->hash, db, key, keylen);

		if (line)
			mlc_store_remove(store, line);
		ticket->token = ++partition->last_token;
		slot->hash = ticket->hash;
		slot->token = ticket->token;
	}
	mlc_partition_end(number);
}

bool
mlc_l1_fill(MlcL1Ticket *ticket, const char *key, uint32 keylen, int32 rule,
			const char *value, uint32 vallen, MlcVersion lo, int64 ttl,
			const MlcL1Tag *tags, int ntags)
{
	MlcRelayShared *relay;
	MlcL1Database *database;
	int			number;
	MlcPartition *partition;
	MlcL1Slot  *slot;
	MlcLine		like;
	char		tail[MLC_L1_TAIL_LEN(MLC_L1_MAX_TAGS)];
	bool		good;

	if (ticket->token == 0 || (relay = mlc_segment_my_relay()) == NULL ||
		ntags > MLC_L1_MAX_TAGS)
		return false;

	memset(&like, 0, sizeof(like));
	like.db = mlc_l1_database(relay);
	like.epoch = ticket->epoch;
	like.ntags = ntags;
	like.absent = value == NULL;
	like.rule = rule;
	like.expiry = ttl == 0 ? 0 : now_ms() + ttl;
	like.lo_tli = lo.tli;
	like.lo_lsn = lo.lsn;
	database = &mlc_l1->databases[like.db];
	if (MLC_FAULT_SKIP("l1-clock"))
		ticket->clock = pg_atomic_read_u64(&database->clock);
	make_tail(tail, ticket->clock, tags, ntags);

	number = mlc_partition_number(ticket->hash);
	partition = mlc_partition_begin(number);
	slot = mlc_partition_ticket(partition, ticket->hash);
	good = (slot->hash == ticket->hash && slot->token == ticket->token) ||
		MLC_FAULT_SKIP("l1-ticket");
	if (good)
	{
		slot->token = 0;
		good = like.epoch == pg_atomic_read_u32(&database->epoch) &&
			tags_are_good(database, tail, ntags) &&
			mlc_store_put(mlc_partition_store(partition), ticket->hash,
						  &like, key, keylen, value ? value : "",
						  value ? vallen : 0, tail, MLC_L1_TAIL_LEN(ntags),
						  is_stale) != NULL;
	}
	mlc_partition_end(number);
	ticket->token = 0;
	if (good)
		mlc_l1_counters()->fills++;
	else
		mlc_l1_counters()->refused++;
	return good;
}
