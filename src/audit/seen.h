/*-------------------------------------------------------------------------
 *
 * audit/seen.h
 *	  A set of keys, as hashes of 64 bits: which ones have been compared.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_SEEN_H
#define MLC_AUDIT_SEEN_H

#include "postgres.h"

typedef struct MlcSeen
{
	MemoryContext context;
	uint64	   *slots;			/* 0: free */
	uint64		size;			/* a power of two; 0: nothing yet */
	uint64		n;
} MlcSeen;

/* Memory comes from the current context, up to maintenance_work_mem. */
extern void mlc_seen_begin(MlcSeen *seen);

/* What stands for a key. */
extern uint64 mlc_seen_hash(const char *key, uint32 keylen);

/* Adds a key; past the limit of memory it is not remembered. */
extern void mlc_seen_add(MlcSeen *seen, uint64 hash);
extern bool mlc_seen_has(const MlcSeen *seen, uint64 hash);

/* Asks for the memory ahead, where many keys are to be added or looked for. */
extern void mlc_seen_expect(const MlcSeen *seen, uint64 hash);

#endif							/* MLC_AUDIT_SEEN_H */
