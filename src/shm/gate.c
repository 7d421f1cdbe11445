/*-------------------------------------------------------------------------
 *
 * shm/gate.c
 *	  L1: closing and opening keys, tags and databases.
 *
 * The relay, for each key of a batch: sets the key's bit in a filter of its
 * database (no tickets are given for keys whose bit is set), then removes the
 * line and the ticket.  That comes before the first command to any Redis; the
 * filter is emptied when all replies are in.  So a copy of what Redis held
 * before the batch cannot come in: its ticket was taken before the key was
 * closed and is void, or after it was opened, and then Redis no longer holds
 * it.  Two keys that share a bit cost a fill, nothing else.
 *
 * A strong writer does the same from before its commit is visible until after.
 * Since several may hold a key closed, beside the relay, they count: a table
 * of counters by hash, of all databases.
 *
 * What concerns a tag cannot be closed key by key, since nobody knows the keys.
 * So a line carries the numbers of its tags (a hash: two tags that share one
 * cost a fill, nothing else), and what its database's clock showed when its
 * ticket was taken.  The relay closes a tag's number before the first command;
 * after the last reply the clock ticks, and the number is opened with the new
 * tick.  A line is good while all its numbers are open, at ticks no later than
 * its own.  So whoever may have asked L2 before the last reply has an earlier
 * tick than the number, and whoever has a later one asked after it.  Nothing is
 * counted that could overflow, or come to be what it was.
 *
 * A line whose tags nobody knows has a number that stands for all, and that is
 * closed with each.
 *
 * What concerns a whole database (purge of a rule, a Redis that comes or goes,
 * start and end of the relay) shuts its L1: a flag, and an epoch that every
 * line and ticket carries.  Lines of another epoch are not found, and are the
 * first to go.
 *
 * L1 is open only while a relay runs that has a Redis: without one nobody
 * would ever remove a line.
 *
 * Locks: a partition's, one at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "common/hashfn.h"
#include "shm/partition.h"
#include "storage/lwlock.h"

/* The key's line and ticket go.  The caller holds the partition's lock. */
static void
remove_key(MlcPartition *partition, uint64 hash, uint16 db, const char *key,
		   uint32 keylen)
{
	MlcL1Slot  *slot = mlc_partition_ticket(partition, hash);
	MlcStore   *store = mlc_partition_store(partition);
	MlcLine    *line = mlc_store_find(store, hash, db, key, keylen);

	if (slot->hash == hash)
		slot->token = 0;
	if (line)
	{
		mlc_store_remove(store, line);
		partition->closed++;
	}
}

/* ---- tags ---- */

MlcL1Tag
mlc_l1_tag(char kind, const char *tag, uint32 len)
{
	uint32		number = (unsigned char) kind;

	/* as tag_number() in redis/lua/tag.lua: the two must agree */
	for (uint32 i = 0; i < len; i++)
		number = (number * 257 + (unsigned char) tag[i]) % 65521;
	return number;
}

/* ---- the relay ---- */

void
mlc_l1_shut(MlcRelayShared *relay)
{
	MlcL1Database *database;

	if (mlc_l1 == NULL)
		return;
	database = &mlc_l1->databases[mlc_l1_database(relay)];
	pg_atomic_write_u32(&database->is_open, 0);
	pg_write_barrier();
	pg_atomic_fetch_add_u32(&database->epoch, 1);
}

void
mlc_l1_close_key(MlcRelayShared *relay, const char *key, uint32 keylen)
{
	uint16		db;
	MlcL1Database *database;
	uint64		hash;
	uint32		bit;
	int			number;

	if (mlc_l1 == NULL || MLC_FAULT_SKIP("l1-close"))
		return;
	db = mlc_l1_database(relay);
	database = &mlc_l1->databases[db];
	hash = mlc_l1_hash(db, key, keylen);
	bit = hash % MLC_L1_FILTER_BITS;
	database->filter[bit / 8] |= 1 << (bit % 8);

	/* whoever takes the lock after us sees the bit */
	number = mlc_partition_number(hash);
	remove_key(mlc_partition_begin(number), hash, db, key, keylen);
	mlc_partition_end(number);
}

void
mlc_l1_close_tag(MlcRelayShared *relay, MlcL1Tag tag)
{
	MlcL1Database *database;

	if (mlc_l1 == NULL || MLC_FAULT_SKIP("l1-close-tag"))
		return;
	database = &mlc_l1->databases[mlc_l1_database(relay)];
	database->has_closed_tags = true;
	pg_atomic_write_u64(mlc_l1_tag_state(database, tag), MLC_L1_CLOSED);
	pg_memory_barrier();
}

static void
open_tag(pg_atomic_uint64 *state, uint64 tick)
{
	if (pg_atomic_read_u64(state) == MLC_L1_CLOSED)
		pg_atomic_write_u64(state, tick);
}

static void
open_tags(MlcL1Database *database)
{
	uint64		tick;

	if (!database->has_closed_tags)
		return;
	tick = pg_atomic_add_fetch_u64(&database->clock,
								   MLC_FAULT_SKIP("l1-tick") ? 0 : 1);
	open_tag(&database->any_tag, tick);
	for (int i = 0; i < MLC_L1_TAGS; i++)
		open_tag(&database->tags[i], tick);
	database->has_closed_tags = false;
}

void
mlc_l1_open(MlcRelayShared *relay)
{
	MlcL1Database *database;

	if (mlc_l1 == NULL)
		return;
	database = &mlc_l1->databases[mlc_l1_database(relay)];
	memset(database->filter, 0, sizeof(database->filter));
	open_tags(database);
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

	*handle = MLC_L1_CLOSINGS;
	if (mlc_l1 == NULL || (relay = mlc_segment_my_relay()) == NULL ||
		MLC_FAULT_SKIP("l1-writer-close"))
		return;
	db = mlc_l1_database(relay);
	hash = mlc_l1_hash(db, key, keylen);
	*handle = hash % MLC_L1_CLOSINGS;
	pg_atomic_fetch_add_u32(mlc_l1_closings(hash), 1);

	/* whoever takes the lock after us sees the count */
	number = mlc_partition_number(hash);
	remove_key(mlc_partition_begin(number), hash, db, key, keylen);
	mlc_partition_end(number);
}

void
mlc_l1_writer_open(uint32 handle)
{
	if (mlc_l1 != NULL && handle < MLC_L1_CLOSINGS)
		pg_atomic_fetch_sub_u32(&mlc_l1->closings[handle], 1);
}

bool
mlc_l1_writer_close_all(void)
{
	MlcRelayShared *relay;
	MlcL1Database *database;

	if (mlc_l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return false;
	database = &mlc_l1->databases[mlc_l1_database(relay)];
	pg_atomic_fetch_add_u32(&database->closings, 1);
	pg_atomic_fetch_add_u32(&database->epoch, 1);
	return true;
}

void
mlc_l1_writer_open_all(void)
{
	MlcRelayShared *relay;
	MlcL1Database *database;

	if (mlc_l1 == NULL || (relay = mlc_segment_my_relay()) == NULL)
		return;
	database = &mlc_l1->databases[mlc_l1_database(relay)];
	pg_atomic_fetch_sub_u32(&database->closings, 1);
}
