/*-------------------------------------------------------------------------
 *
 * test/t/lib/store_test.c
 *	  Random operations on L1's store beside a plain table of what must be
 *	  there, values of all sizes: what is found is right, what was removed is
 *	  gone, the counters add up, and no line leaves before memory is short.
 *
 *-------------------------------------------------------------------------
 */
#include "shm/store.h"

#include <stdio.h>
#include <stdlib.h>

#undef printf
#undef fprintf
#undef snprintf

#define KEYS 3000

static uint64 state;
static uint32 epoch = 1;

static uint32
any(uint32 below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 16) % below;
}

static bool
is_stale(const MlcLine *line)
{
	return line->epoch != epoch;
}

static void
die(const char *what, uint64 step)
{
	fprintf(stderr, "step %llu: %s\n", (unsigned long long) step, what);
	exit(1);
}

/* Few buckets get most of the keys, so that chains are long. */
static uint64
hash_of(uint32 key)
{
	return key % 7 == 0 ? 12345 : key * 0x9e3779b97f4a7c15ULL;
}

static void
run(uint32 size, uint64 seed, uint64 steps)
{
	/* what was put last; 0: removed or never there */
	static uint32 version[KEYS];
	static uint32 length[KEYS];
	char	   *memory = malloc(size + 64);
	MlcStore   *store;
	uint32		max;
	char	   *value;
	uint64		found = 0;

	/* a guard behind the end */
	memset(memory + size, 0x5a, 64);
	memset(version, 0, sizeof(version));
	state = seed * 88172645463325252ULL + 1;
	store = mlc_store_init(memory, size);
	max = mlc_store_max_line(store);
	value = malloc(max + 1);
	for (uint64 step = 1; step <= steps; step++)
	{
		uint32		key = any(any(4) == 0 ? KEYS : 40);
		char		name[16];
		uint32		namelen = snprintf(name, sizeof(name), "key:%u", key);
		MlcLine    *line = mlc_store_find(store, hash_of(key), key % 3, name, namelen);
		uint32		what = any(100);

		if (line)
		{
			found++;
			if (version[key] == 0)
				die("found what was removed", step);
			if (line->vallen != length[key])
				die("wrong length", step);
			for (uint32 i = 0; i < line->vallen; i += 61)
				if (MLC_LINE_VALUE(line)[i] != (char) (version[key] + i))
					die("wrong value", step);
			if (line->ntags != key % 4 ||
				memcmp(MLC_LINE_TAIL(line), name, line->ntags) != 0)
				die("wrong tail", step);
			if (line->rule != (int32) key)
				die("wrong header", step);
			mlc_store_touch(line);
		}
		if (what < 8 && line)
		{
			mlc_store_remove(store, line);
			version[key] = 0;
		}
		else if (what < 60)
		{
			MlcLine		like = {0};
			uint32		len = any(50) == 0 ? any(max + max / 8) :
				any(10) == 0 ? any(max / 20 + 1) : any(700);
			MlcLine    *put;

			if (len > max)
				len = max;
			for (uint32 i = 0; i < len; i++)
				value[i] = (char) ((uint32) step + i);
			like.db = key % 3;
			like.epoch = epoch;
			like.rule = key;
			like.ntags = key % 4;
			put = mlc_store_put(store, hash_of(key), &like, name, namelen,
								value, len, name, key % 4, is_stale);
			version[key] = put ? (uint32) step : 0;
			length[key] = len;
			if (put == NULL && len + 100 < max)
				die("refused what is small enough", step);
			if (put && version[key] == 0)
				version[key] = 1;
		}
		else if (what == 99 && any(100) == 0)
			epoch++;

		if (store->small.used > store->small.size ||
			store->main.used > store->main.size ||
			store->bytes > (uint64) store->small.used + store->main.used)
			die("counters", step);
	}
	for (int i = 0; i < 64; i++)
		if (memory[size + i] != 0x5a)
			die("wrote behind the end", steps);
	if (found < steps / 20)
		die("hardly ever found anything", steps);
	if (store->evictions == 0)
		die("nothing was ever evicted", steps);
	free(value);
	free(memory);
}

/*
 * A search beside a writer may read anything, but nothing from elsewhere, and
 * comes to an end: here whatever it reads is noise.
 */
static void
search_noise(uint64 seed)
{
	uint32		size = 64 * 1024;
	char	   *memory = malloc(size);
	MlcStore   *store = mlc_store_init(memory, size);
	uint32		from = store->buckets / sizeof(uint32);

	state = seed * 88172645463325252ULL + 1;
	for (uint32 i = from; i < size / sizeof(uint32); i++)
		((uint32 *) memory)[i] = any(3) == 0 ? any(4) * 0x3fffffff :
			any(2) == 0 ? 8 * any(size / 8) : any(size + 4096);
	for (uint32 key = 0; key < KEYS; key++)
	{
		static char name[PG_UINT16_MAX + 1];
		uint32		at = ((uint32 *) memory)[from + (key & store->bucket_mask)];
		MlcLine    *line;
		uint64		hash = key;

		/* half of the searches look for what the noise says is there */
		line = (MlcLine *) (memory + at % (size / 8) * 8);
		if (key % 2 == 0 && (char *) (line + 1) < memory + size)
		{
			((uint32 *) memory)[from + (line->hash & store->bucket_mask)] = (char *) line - memory;
			line = mlc_store_find(store, line->hash, line->db, name, line->keylen);
		}
		else
			line = mlc_store_find(store, hash, key % 3, name, key % 20);
		if (line && mlc_store_holds(store, line->data + line->keylen, line->vallen) &&
			line->data + line->keylen + line->vallen > memory + size)
			die("the end of a value lies elsewhere", key);
	}
	free(memory);
}

int
main(void)
{
	static const uint32 sizes[] = {16 * 1024, 100 * 1024, 1024 * 1024};

	for (int i = 0; i < 3; i++)
		for (uint64 seed = 1; seed <= 6; seed++)
			run(sizes[i], seed, 200000);

	for (uint64 seed = 1; seed <= 50; seed++)
		search_noise(seed);

	/* a cache that is not full loses nothing */
	{
		uint32		size = 1024 * 1024;
		MlcStore   *store = mlc_store_init(malloc(size), size);
		MlcLine		like = {0};
		int			n = 0;

		for (; store->evictions == 0; n++)
		{
			char		name[16];

			(void) mlc_store_put(store, n * 0x9e3779b97f4a7c15ULL, &like, name,
								 snprintf(name, sizeof(name), "%d", n),
								 "", 0, "", 0, NULL);
		}
		if (store->bytes < size * 0.9)
			die("evicts before it is full", n);
		free(store);
	}
	return 0;
}
