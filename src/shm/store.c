/*-------------------------------------------------------------------------
 *
 * shm/store.c
 *	  A cache in one fixed piece of memory: index, two byte rings, ghosts.
 *
 * What to evict is decided by S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO
 * queues are all you need for cache eviction", SOSP 2023): new lines enter a
 * small queue, a tenth of the memory; those that were hit by the time they come
 * to its end go on to the main queue, the others are evicted, and a
 * fingerprint of them is kept, by which they enter the main queue at once if
 * they come back.  The main queue gives a line another round for each hit, up
 * to three.  So what is read once flows past what is read often, and a hit
 * writes one byte.
 *
 * Both queues are byte rings, which is what FIFO order buys: a line of any
 * length is appended at the head, and memory comes free at the tail in one
 * piece.  There is nothing to fragment, and no size classes to balance.  A
 * removed line stays where it is, dead, until the tail reaches it.
 *
 * Four liberties.  One hit is enough to go on, not two: with what test/bench/read
 * measures that costs nothing where popularity stays and gains where it jumps.
 * While the main queue has room, lines go there unasked: no
 * line need leave a cache that is not full.  The ghosts are a table that
 * newer fingerprints overwrite, instead of a queue of the main queue's length.
 * And a search for a victim gives out a limited number of further rounds, so
 * that its cost is bounded.
 *
 *-------------------------------------------------------------------------
 */
#include "shm/store.h"

#define LINE_AT(store, offset) ((MlcLine *) ((char *) (store) + (offset)))
#define OFFSET_OF(store, line) ((uint32) ((char *) (line) - (char *) (store)))
#define ALIGN8(size) (((size) + 7) & ~(uint32) 7)

#define BYTES_A_BUCKET 256
#define BYTES_A_GHOST 512
#define SMALL_SHARE 10			/* a tenth */
#define MAX_ROUNDS 32

static uint32
power_of_two_below(uint32 n)
{
	uint32		power = 1;

	while (power <= n / 2)
		power *= 2;
	return power;
}

MlcStore *
mlc_store_init(void *memory, uint32 size)
{
	MlcStore   *store = memory;
	uint32		nbuckets = power_of_two_below(Max(size / BYTES_A_BUCKET, 1));
	uint32		nghosts = power_of_two_below(Max(size / BYTES_A_GHOST, 1));
	uint32		at = ALIGN8(sizeof(MlcStore));

	memset(store, 0, sizeof(MlcStore));
	store->size = size;
	store->bucket_mask = nbuckets - 1;
	store->ghost_mask = nghosts - 1;
	store->buckets = at;
	at += ALIGN8(nbuckets * sizeof(uint32));
	store->ghosts = at;
	at += ALIGN8(nghosts * sizeof(uint32));
	memset((char *) store + store->buckets, 0, at - store->buckets);

	store->small.start = at;
	store->small.size = (size - at) / SMALL_SHARE & ~(uint32) 7;
	at += store->small.size;
	store->main.start = at;
	store->main.size = (size - at) & ~(uint32) 7;
	return store;
}

uint32
mlc_store_max_line(const MlcStore *store)
{
	return store->main.size / 3;
}

/* ---- the index ---- */

static inline uint32 *
bucket_of(MlcStore *store, uint32 hash)
{
	return (uint32 *) ((char *) store + store->buckets) +
		(hash & store->bucket_mask);
}

MlcLine *
mlc_store_find(MlcStore *store, uint64 hash, uint16 db, const char *key,
			   uint32 keylen)
{
	uint32		at = *bucket_of(store, (uint32) hash);
	uint32		end = store->size - offsetof(MlcLine, data);

	uint32		left = store->size / sizeof(MlcLine);

	/* the bounds are for readers beside a writer */
	while (at != 0 && at <= end && at % 8 == 0 && left-- > 0)
	{
		MlcLine    *line = LINE_AT(store, at);

		if (line->hash == (uint32) hash && line->keylen == keylen &&
			line->db == db && keylen <= end - at &&
			memcmp(MLC_LINE_KEY(line), key, keylen) == 0)
			return line;
		at = line->next;
	}
	return NULL;
}

uint32
mlc_store_buckets(const MlcStore *store)
{
	return store->bucket_mask + 1;
}

MlcLine *
mlc_store_next(MlcStore *store, uint32 bucket, MlcLine *line)
{
	uint32		at = line ? line->next : *bucket_of(store, bucket);

	return at == 0 ? NULL : LINE_AT(store, at);
}

void
mlc_store_prefetch_bucket(MlcStore *store, uint64 hash)
{
	__builtin_prefetch(bucket_of(store, (uint32) hash));
}

void
mlc_store_prefetch_line(MlcStore *store, uint64 hash)
{
	uint32		at = *bucket_of(store, (uint32) hash);

	/* the header and what lies in the next line of the processor's cache */
	__builtin_prefetch(LINE_AT(store, at));
	__builtin_prefetch((char *) LINE_AT(store, at) + 64);
}

static void
link_line(MlcStore *store, MlcLine *line)
{
	uint32	   *bucket = bucket_of(store, line->hash);

	line->next = *bucket;
	*bucket = OFFSET_OF(store, line);
}

static void
unlink_line(MlcStore *store, MlcLine *line)
{
	uint32		offset = OFFSET_OF(store, line);
	uint32	   *at = bucket_of(store, line->hash);

	while (*at != offset)
		at = &LINE_AT(store, *at)->next;
	*at = line->next;
}

void
mlc_store_remove(MlcStore *store, MlcLine *line)
{
	unlink_line(store, line);
	line->dead = true;
	store->lines--;
	store->bytes -= line->size;
	store->payload -= line->vallen;
}

/* ---- ghosts ---- */

static inline uint32 *
ghost_of(MlcStore *store, uint32 hash)
{
	/* the bits above those that chose the bucket */
	uint32		slot = hash ^ (hash >> 15) * 0x9e3779b1U;

	return (uint32 *) ((char *) store + store->ghosts) +
		(slot & store->ghost_mask);
}

static void
remember(MlcStore *store, uint32 hash)
{
	*ghost_of(store, hash) = hash | 1;
}

/* Was it evicted a short while ago?  Forgets it. */
static bool
recall(MlcStore *store, uint32 hash)
{
	uint32	   *ghost = ghost_of(store, hash);

	if (*ghost != (hash | 1))
		return false;
	*ghost = 0;
	return true;
}

/* ---- rings ---- */

/* Is there room for a line in one piece, after a gap at the end if need be? */
static bool
ring_fits(const MlcRing *ring, uint32 size)
{
	uint32		gap = ring->size - ring->head;

	return (gap < size ? size + gap : size) <= ring->size - ring->used;
}

/* The room at the head; it must fit. */
static MlcLine *
ring_take(MlcStore *store, MlcRing *ring, uint32 size)
{
	uint32		gap = ring->size - ring->head;
	MlcLine    *line;

	if (gap < size)
	{
		/* of a gap only the first 8 bytes are written, and read */
		line = LINE_AT(store, ring->start + ring->head);
		line->size = gap;
		line->dead = true;
		ring->used += gap;
		ring->head = 0;
	}
	line = LINE_AT(store, ring->start + ring->head);
	ring->head += size;
	if (ring->head == ring->size)
		ring->head = 0;
	ring->used += size;
	return line;
}

static inline MlcLine *
ring_oldest(MlcStore *store, const MlcRing *ring)
{
	return LINE_AT(store, ring->start + ring->tail);
}

/* Frees the oldest line's memory; size is its own. */
static void
ring_drop(MlcRing *ring, uint32 size)
{
	ring->tail += size;
	if (ring->tail == ring->size)
		ring->tail = 0;
	ring->used -= size;
	if (ring->used == 0)
		ring->head = ring->tail = 0;
}

/* ---- eviction ---- */

static void
evict(MlcStore *store, MlcRing *ring, MlcLine *line)
{
	mlc_store_remove(store, line);
	store->evictions++;
	ring_drop(ring, line->size);
}

/* Drops dead and stale lines from the tail; false: the oldest is alive. */
static bool
drop_useless(MlcStore *store, MlcRing *ring, MlcLineStale stale)
{
	MlcLine    *line = ring_oldest(store, ring);

	if (!line->dead)
	{
		if (stale == NULL || !stale(line))
			return false;
		mlc_store_remove(store, line);
	}
	ring_drop(ring, line->size);
	return true;
}

/*
 * Moves the oldest line to the head of the ring main, whose tail it may come
 * from, with another count.  What is in the way goes.
 */
static void
move_to_main(MlcStore *store, MlcRing *from, MlcLine *line, uint8 freq)
{
	MlcLine		copy = *line;
	MlcLine    *moved;

	unlink_line(store, line);
	ring_drop(from, copy.size);

	/*
	 * Its memory is free now and nothing is written there before the copy: a
	 * gap lies behind it or needs no more than its header's place.
	 */
	while (!ring_fits(&store->main, copy.size))
	{
		MlcLine    *oldest = ring_oldest(store, &store->main);

		if (oldest->dead)
			ring_drop(&store->main, oldest->size);
		else
			evict(store, &store->main, oldest);
	}
	moved = ring_take(store, &store->main, copy.size);
	memmove(moved->data, line->data, copy.size - offsetof(MlcLine, data));
	memcpy(moved, &copy, offsetof(MlcLine, data));
	moved->freq = freq;
	link_line(store, moved);
}

static void
make_room_in_main(MlcStore *store, uint32 size, MlcLineStale stale)
{
	int			rounds = MAX_ROUNDS;

	while (!ring_fits(&store->main, size))
	{
		MlcLine    *line = ring_oldest(store, &store->main);

		if (drop_useless(store, &store->main, stale))
			continue;
		if (line->freq > 0 && rounds-- > 0)
			move_to_main(store, &store->main, line, line->freq - 1);
		else
			evict(store, &store->main, line);
	}
}

static void
make_room_in_small(MlcStore *store, uint32 size, MlcLineStale stale)
{
	while (!ring_fits(&store->small, size))
	{
		MlcLine    *line = ring_oldest(store, &store->small);

		if (drop_useless(store, &store->small, stale))
			continue;
		while (store->main.used > 0 &&
			   drop_useless(store, &store->main, stale))
			;
		if (ring_fits(&store->main, line->size) || line->freq > 0)
		{
			make_room_in_main(store, line->size, stale);
			store->promotions++;
			move_to_main(store, &store->small, line, 0);
		}
		else
		{
			remember(store, line->hash);
			evict(store, &store->small, line);
		}
	}
}

MlcLine *
mlc_store_put(MlcStore *store, uint64 hash, const MlcLine *like,
			  const char *key, uint32 keylen, const char *value,
			  uint32 vallen, const char *tail, uint32 taillen,
			  MlcLineStale stale)
{
	uint32		overhead = offsetof(MlcLine, data) + keylen + taillen;
	MlcLine    *line = mlc_store_find(store, hash, like->db, key, keylen);
	MlcRing    *ring = &store->small;
	uint32		size;

	if (line)
		mlc_store_remove(store, line);
	if (vallen > mlc_store_max_line(store) ||
		ALIGN8(overhead + vallen) > mlc_store_max_line(store))
		return NULL;
	size = ALIGN8(overhead + vallen);

	if (recall(store, (uint32) hash) || size > store->small.size / 4)
	{
		make_room_in_main(store, size, stale);
		ring = &store->main;
	}
	else
		make_room_in_small(store, size, stale);

	line = ring_take(store, ring, size);
	memcpy(line, like, offsetof(MlcLine, data));
	line->size = size;
	line->dead = false;
	line->freq = 0;
	line->hash = (uint32) hash;
	line->vallen = vallen;
	line->keylen = keylen;
	memcpy(MLC_LINE_VALUE(line), value, vallen);
	memcpy(MLC_LINE_KEY(line), key, keylen);
	memcpy(MLC_LINE_TAIL(line), tail, taillen);
	link_line(store, line);
	store->lines++;
	store->bytes += size;
	store->payload += vallen;
	return line;
}
