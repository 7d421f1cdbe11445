/*-------------------------------------------------------------------------
 *
 * test/bench/read/policy.c
 *	  Hit ratios of L1's store (src/shm/store.c, compiled alone) and of LRU
 *	  with the same memory, on made traces.
 *
 *	  policy [bytes of memory [requests]]
 *
 * Traces, each over keys whose values have 100 to 900 bytes:
 *	 zipf	 exponent 0.9 over 200,000 keys
 *	 scan	 the same, and every 10,000 requests a run over 20,000 keys that are
 *			 read once
 *	 loop	 a cycle that is a fifth longer than the cache holds
 *	 shift	 zipf whose popular keys change every tenth of the trace
 *
 * Prints one line a trace: hit ratios, and the share of values in the memory.
 *
 *-------------------------------------------------------------------------
 */
#include "shm/store.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* port.h would have it from libpgport */
#undef printf

#define KEYS 200000
#define EXPONENT 0.9

static double cumulative[KEYS];
static uint64 state = 88172645463325252ULL;

static uint64
next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64
mix(uint64 x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static void
make_zipf(void)
{
	double		sum = 0;

	for (int i = 0; i < KEYS; i++)
		cumulative[i] = sum += pow(i + 1, -EXPONENT);
	for (int i = 0; i < KEYS; i++)
		cumulative[i] /= sum;
}

static int
zipf(void)
{
	double		u = (next_random() >> 11) * (1.0 / 9007199254740992.0);
	int			low = 0,
				high = KEYS - 1;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (cumulative[middle] < u)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint32
value_size(uint64 key)
{
	return 100 + mix(key) % 801;
}

/* ---- LRU with the same memory, overhead not counted ---- */

#define LRU_BUCKETS (1 << 20)

typedef struct Node
{
	uint64		key;
	uint32		size;
	struct Node *chain;
	struct Node *older;
	struct Node *newer;
} Node;

typedef struct Lru
{
	Node	   *buckets[LRU_BUCKETS];
	Node	   *newest;
	Node	   *oldest;
	uint64		used;
	uint64		budget;
} Lru;

static void
lru_take_out(Lru *lru, Node *node)
{
	if (node->newer)
		node->newer->older = node->older;
	else
		lru->newest = node->older;
	if (node->older)
		node->older->newer = node->newer;
	else
		lru->oldest = node->newer;
}

static void
lru_put_first(Lru *lru, Node *node)
{
	node->newer = NULL;
	node->older = lru->newest;
	if (lru->newest)
		lru->newest->newer = node;
	else
		lru->oldest = node;
	lru->newest = node;
}

static bool
lru_access(Lru *lru, uint64 key)
{
	Node	  **bucket = &lru->buckets[mix(key) % LRU_BUCKETS];
	Node	   *node;

	for (node = *bucket; node; node = node->chain)
		if (node->key == key)
		{
			lru_take_out(lru, node);
			lru_put_first(lru, node);
			return true;
		}
	node = malloc(sizeof(Node));
	node->key = key;
	/* as much as a line of the store takes */
	node->size = (offsetof(MlcLine, data) + sizeof(key) + value_size(key) + 7) & ~7;
	node->chain = *bucket;
	*bucket = node;
	lru_put_first(lru, node);
	lru->used += node->size;
	while (lru->used > lru->budget)
	{
		Node	   *victim = lru->oldest;
		Node	  **at = &lru->buckets[mix(victim->key) % LRU_BUCKETS];

		while (*at != victim)
			at = &(*at)->chain;
		*at = victim->chain;
		lru_take_out(lru, victim);
		lru->used -= victim->size;
		free(victim);
	}
	return false;
}

/* ---- the store ---- */

static bool
store_access(MlcStore *store, uint64 key)
{
	static char value[1024];
	MlcLine    *line = mlc_store_find(store, mix(key), 0, (char *) &key,
									  sizeof(key));
	MlcLine		like = {0};

	if (line)
	{
		mlc_store_touch(line);
		return true;
	}
	(void) mlc_store_put(store, mix(key), &like, (char *) &key, sizeof(key),
						 value, value_size(key), "", 0, NULL);
	return false;
}

/* ---- traces ---- */

static uint64
next_key(const char *trace, uint64 i, uint64 n, uint64 fits)
{
	static uint64 once = 1ULL << 40;

	if (strcmp(trace, "scan") == 0 && i % 30000 >= 10000)
		return once++;
	if (strcmp(trace, "loop") == 0)
		return (1ULL << 41) + i % (fits * 6 / 5);
	if (strcmp(trace, "shift") == 0)
		return (uint64) zipf() * 7919 % KEYS + (i / (n / 10)) * 1000003;
	return zipf();
}

int
main(int argc, char **argv)
{
	static const char *const traces[] = {"zipf", "scan", "loop", "shift"};
	uint32		bytes = argc > 1 ? strtoul(argv[1], NULL, 10) : 8 * 1024 * 1024;
	uint64		n = argc > 2 ? strtoull(argv[2], NULL, 10) : 3000000;

	make_zipf();
	printf("trace   store     lru   payload share   ns a request\n");
	for (size_t t = 0; t < sizeof(traces) / sizeof(traces[0]); t++)
	{
		void	   *memory = aligned_alloc(64, (bytes + 63) & ~63u);
		MlcStore   *store = mlc_store_init(memory, bytes);
		Lru		   *lru = calloc(1, sizeof(Lru));
		uint64		hits = 0,
					lru_hits = 0;
		struct timespec start,
					end;

		lru->budget = bytes;
		state = 88172645463325252ULL;
		clock_gettime(CLOCK_MONOTONIC, &start);
		for (uint64 i = 0; i < n; i++)
			hits += store_access(store, next_key(traces[t], i, n, bytes / 568));
		clock_gettime(CLOCK_MONOTONIC, &end);
		state = 88172645463325252ULL;
		for (uint64 i = 0; i < n; i++)
			lru_hits += lru_access(lru, next_key(traces[t], i, n, bytes / 568));
		printf("%-5s   %.4f  %.4f          %.3f   %12.0f\n", traces[t],
			   (double) hits / n, (double) lru_hits / n,
			   (double) store->payload / bytes,
			   ((end.tv_sec - start.tv_sec) * 1e9 + end.tv_nsec - start.tv_nsec) / n);
		free(memory);
	}
	return 0;
}
