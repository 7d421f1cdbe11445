/*-------------------------------------------------------------------------
 *
 * shm/store.h
 *	  A cache in one fixed piece of memory: index, two byte rings, ghosts.
 *
 * Knows nothing of locks, of the server or of what a line means: l1.c has a
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

/* A line; key and value follow, the value first. */
typedef struct MlcLine
{
	uint32		size;			/* of all of it, a multiple of 8 */
	uint8		dead;			/* or a gap at the end of a ring */
	uint8		freq;			/* hits, up to 3; raised without a lock */
	uint8		absent;			/* the caller's */
	uint8		unused;
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
	uint32		pad;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} MlcLine;

#define MLC_LINE_VALUE(line) ((line)->data)
#define MLC_LINE_KEY(line) ((line)->data + (line)->vallen)

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

/* NULL: not there.  Changes nothing. */
extern MlcLine *mlc_store_find(MlcStore *store, uint64 hash, uint16 db,
							   const char *key, uint32 keylen);

/* A hit: for the choice of what to evict.  Safe beside other readers. */
static inline void
mlc_store_touch(MlcLine *line)
{
	if (line->freq < 3)
		line->freq++;
}

/*
 * Puts a line there, in place of an older one of the key.  What is the
 * caller's is taken from like.  NULL: too large, and there is none now.
 */
extern MlcLine *mlc_store_put(MlcStore *store, uint64 hash, const MlcLine *like,
							  const char *key, uint32 keylen,
							  const char *value, uint32 vallen,
							  MlcLineStale stale);

extern void mlc_store_remove(MlcStore *store, MlcLine *line);

#endif							/* MLC_SHM_STORE_H */
