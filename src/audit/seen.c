/*-------------------------------------------------------------------------
 *
 * audit/seen.c
 *	  A set of keys, as hashes of 64 bits: which ones have been compared.
 *
 * Open addressing, at most three quarters full.  Two keys with one hash are one
 * to it: among a hundred million keys that happens once in three thousand
 * audits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "audit/seen.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#define FIRST_SIZE 1024

void
mlc_seen_begin(MlcSeen *seen)
{
	memset(seen, 0, sizeof(*seen));
	seen->context = CurrentMemoryContext;
}

uint64
mlc_seen_hash(const char *key, uint32 keylen)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) key, keylen, 4);

	return hash ? hash : 1;
}

static uint64 *
find(const MlcSeen *seen, uint64 hash)
{
	uint64		at = hash & (seen->size - 1);

	while (seen->slots[at] != 0 && seen->slots[at] != hash)
		at = (at + 1) & (seen->size - 1);
	return &seen->slots[at];
}

/* False: no more memory may be used. */
static bool
grow(MlcSeen *seen)
{
	uint64		size = seen->size == 0 ? FIRST_SIZE : seen->size * 2;
	uint64	   *old = seen->slots;
	uint64		oldsize = seen->size;

	if (size * sizeof(uint64) > (uint64) maintenance_work_mem * 1024)
		return false;
	seen->slots = MemoryContextAllocExtended(seen->context,
											 size * sizeof(uint64),
											 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	seen->size = size;
	for (uint64 i = 0; i < oldsize; i++)
		if (old[i] != 0)
			*find(seen, old[i]) = old[i];
	if (old)
		pfree(old);
	return true;
}

void
mlc_seen_add(MlcSeen *seen, uint64 hash)
{
	uint64	   *slot;

	if (seen->n * 4 >= seen->size * 3 && !grow(seen))
		return;
	slot = find(seen, hash);
	if (*slot == 0)
	{
		*slot = hash;
		seen->n++;
	}
}

bool
mlc_seen_has(const MlcSeen *seen, uint64 hash)
{
	return seen->n > 0 && *find(seen, hash) != 0;
}

void
mlc_seen_expect(const MlcSeen *seen, uint64 hash)
{
	if (seen->size > 0)
		__builtin_prefetch(&seen->slots[hash & (seen->size - 1)]);
}
