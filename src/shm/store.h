/*-------------------------------------------------------------------------
 *
 * shm/store.h
 *	  A cache in one fixed piece of memory: index, two byte rings, ghosts.
 *
 * Knows nothing of locks, of the server or of what a line means: L1 has a
 * lock for each store, and test/bench/read compiles it alone.  Everything is
 * addressed by offsets, so it works wherever the memory is mapped.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_SHM_STORE_H
#define MLC_SHM_STORE_H

#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

/*
 * A line; key, value and tail follow, the key first: it is read with the header.
 */
typedef struct MlcLine
{
	uint32		size;			/* of all of it, a multiple of 8 */
	uint8		dead;			/* or a gap at the end of a ring */
	uint8		freq;			/* hits, up to 3; readers raise it */
	uint8		absent;			/* the caller's */
	uint8		ntags;			/* the caller's */
	uint32		next;			/* of the same bucket; 0: none */
	uint32		hash;			/* the lower half */
	uint32		vallen;
	uint16		keylen;
	uint16		db;				/* the caller's; part of the key */
	uint32		epoch;			/* the caller's */
	int32		rule;			/* the caller's */
	int64		expiry;			/* the caller's */
	uint64		lo_lsn;			/* the caller's */
	uint32		lo_tli;			/* the caller's */
	char		data[FLEXIBLE_ARRAY_MEMBER];
} MlcLine;

#define MLC_LINE_KEY(line) ((line)->data)
#define MLC_LINE_VALUE(line) ((line)->data + (line)->keylen)
#define MLC_LINE_TAIL(line) (MLC_LINE_VALUE(line) + (line)->vallen)

#define MLC_LINE_MAX_FREQ 3

typedef struct MlcRing
{
	uint32		start;			/* offset in the store */
	uint32		size;
	uint32		head;			/* next to be written; offset in the ring */
	uint32		tail;			/* the oldest */
	uint32		used;			/* bytes between them, dead ones included */
} MlcRing;

typedef struct MlcStore
{
	uint32		size;			/* of all of it */
	uint32		bucket_mask;
	uint32		ghost_mask;
	uint32		buckets;		/* offset of uint32[] */
	uint32		ghosts;			/* offset of uint32[] */
	MlcRing		small;
	MlcRing		main;
	uint64		lines;			/* alive */
	uint64		bytes;			/* of those, headers and keys included */
	uint64		payload;		/* of those, values only */
	uint64		evictions;
	uint64		promotions;
} MlcStore;

/* May this line go before its turn (it is of no use to anybody)? */
typedef bool (*MlcLineStale) (const MlcLine *line);

/* Lays an empty store out in size bytes of 8-byte aligned memory. */
extern MlcStore *mlc_store_init(void *memory, uint32 size);

/* The largest line that it takes. */
extern uint32 mlc_store_max_line(const MlcStore *store);

/*
 * NULL: not there.  Changes nothing.  Safe beside a writer, in so far as what
 * it reads lies in the store and it comes to an end; what it then says is
 * worth nothing.
 */
extern MlcLine *mlc_store_find(MlcStore *store, uint64 hash, uint16 db,
							   const char *key, uint32 keylen);

/* Do so many bytes lie in the store? */
static inline bool
mlc_store_holds(const MlcStore *store, const char *bytes, uint32 len)
{
	Size		at = bytes - (const char *) store;

	return at <= store->size && len <= store->size - at;
}

/*
 * For a walk over all lines: how many buckets there are, and the line of a
 * bucket after this one (NULL: its first).  Not beside a writer.
 */
extern uint32 mlc_store_buckets(const MlcStore *store);
extern MlcLine *mlc_store_next(MlcStore *store, uint32 bucket, MlcLine *line);

/* Starts to bring into the processor's cache what a search will read. */
extern void mlc_store_prefetch_bucket(MlcStore *store, uint64 hash);
extern void mlc_store_prefetch_line(MlcStore *store, uint64 hash);

/* A hit: for the choice of what to evict.  Safe beside other readers. */
static inline void
mlc_store_touch(MlcLine *line)
{
	if (line->freq < MLC_LINE_MAX_FREQ)
		line->freq++;
}

/*
 * Puts a line there, in place of an older one of the key.  What is the
 * caller's is taken from like, and so is the tail, of which only the caller
 * knows the length.  NULL: too large, and there is none now.
 */
extern MlcLine *mlc_store_put(MlcStore *store, uint64 hash, const MlcLine *like,
							  const char *key, uint32 keylen,
							  const char *value, uint32 vallen,
							  const char *tail, uint32 taillen,
							  MlcLineStale stale);

extern void mlc_store_remove(MlcStore *store, MlcLine *line);

#endif							/* MLC_SHM_STORE_H */
