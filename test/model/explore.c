/*
 * explore.c
 *		The search: every state a scenario can reach, breadth first.
 *
 * A state is stored once, with the step that first led to it, so the path back
 * from a broken law is a shortest one.  Then a second pass asks the other
 * question: can every state still come to rest with the current row cached?
 * (AG EF settled, as CTL writes it.)  A protocol that answers every doubt by
 * closing the cache for good would break no law.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "model.h"

#define MAX_STATES (UINT32_C(1) << 26)
#define MAX_SLOTS (MAX_STATES * 2)
#define EMPTY UINT64_MAX
#define MAX_NEXT 64
#define MAX_PATH 1000

typedef struct Known
{
	State		state;
	uint32_t	from;			/* the state it was first reached from */
	uint8_t		step;
	uint8_t		who;
	uint8_t		rests;			/* a settled state can be reached from here */
} Known;

/* What can happen next in the state at hand. */
typedef struct Next
{
	State		state;
	uint64_t	hash;
	Step		step;
	int			who;
} Next;

const Scenario *scenario;
uint64_t	taken_out;

static Known *known;
static uint32_t known_count;
static uint64_t *slots;			/* hash and index, EMPTY where there is none */
static uint32_t slot_count;
static Next next[MAX_NEXT];
static int	next_count;

static const char *broken;		/* a law, if one is broken, */
static uint32_t broken_from;	/* in which state, */
static Next broken_by;			/* and by what */
static uint64_t transitions;
static uint64_t step_taken[STEP_COUNT];

void
fail(const char *what)
{
	fprintf(stderr, "model: %s\n", what);
	exit(2);
}

/* A number that a state holds has become too small for the scenario. */
void
out_of(const char *what)
{
	fprintf(stderr, "model: scenario %s runs out of %s\n", scenario->name, what);
	exit(2);
}

/* ---- what is known ---- */

static uint64_t
hash_state(const State *s)
{
	uint64_t	h = 0;

	for (int i = 0; i < 4; i++)
	{
		h = (h ^ s->word[i]) * UINT64_C(0x9e3779b97f4a7c15);
		h ^= h >> 32;
	}
	h *= UINT64_C(0xd6e8feb86659fd93);
	return h ^ h >> 32;
}

/*
 * The slot of a state: its own, or the empty one where it belongs.  The upper
 * half of the hash is compared first, so that a state is looked at only if it
 * is nearly certain to be the one.
 */
static uint32_t
find(const State *s, uint64_t hash)
{
	uint32_t	i = (uint32_t) hash & (slot_count - 1);

	while (slots[i] != EMPTY &&
		   (slots[i] >> 32 != hash >> 32 ||
			memcmp(&known[(uint32_t) slots[i]].state, s, sizeof(State)) != 0))
		i = (i + 1) & (slot_count - 1);
	return i;
}

static void
set_slots(uint32_t count)
{
	if (count > MAX_SLOTS)
		fail("too many states");
	memset(slots, 0xff, (size_t) count * sizeof(uint64_t));
	slot_count = count;
	for (uint32_t i = 0; i < known_count; i++)
	{
		uint64_t	hash = hash_state(&known[i].state);

		slots[find(&known[i].state, hash)] = (hash >> 32) << 32 | i;
	}
}

static void
add(uint32_t slot, const Next *n, uint32_t from)
{
	if (known_count == MAX_STATES)
		fail("too many states");
	known[known_count] = (Known)
	{
		.state = n->state,.from = from,.step = n->step,.who = n->who
	};
	slots[slot] = (n->hash >> 32) << 32 | known_count++;
	if (known_count > slot_count / 2)
		set_slots(slot_count * 2);
}

/* Address space for the most there may be; memory comes with its use. */
static void *
reserve(size_t size)
{
	void	   *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
							  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		fail("out of memory");
	madvise(memory, size, MADV_HUGEPAGE);	/* lookups are random */
	return memory;
}

/* ---- the search ---- */

/*
 * Successors are collected first and looked up after: the memory of every slot
 * is on its way while the next one is made.
 */
void
emit(const State *s, Step step, int who)
{
	Next	   *n = &next[next_count];

	if (next_count++ == MAX_NEXT)
		fail("too many successors");
	n->state = *s;
	n->hash = hash_state(s);
	n->step = step;
	n->who = who;
	__builtin_prefetch(&slots[(uint32_t) n->hash & (slot_count - 1)]);
}

static void
collect(const State *s)
{
	next_count = 0;
	successors(s);
	for (int i = 0; i < next_count; i++)
	{
		uint64_t	slot = slots[(uint32_t) next[i].hash & (slot_count - 1)];

		if (slot != EMPTY)
			__builtin_prefetch(&known[(uint32_t) slot]);
	}
}

const char *
search(const Scenario *s, uint64_t without)
{
	Next		first = {.step = STEP_START};

	if (!known)
	{
		known = reserve((size_t) MAX_STATES * sizeof(Known));
		slots = reserve((size_t) MAX_SLOTS * sizeof(uint64_t));
	}
	scenario = s;
	taken_out = without;
	known_count = 0;
	transitions = 0;
	broken = NULL;
	set_slots(UINT32_C(1) << 17);
	first.state = first_state();
	first.hash = hash_state(&first.state);
	add(find(&first.state, first.hash), &first, 0);

	for (uint32_t i = 0; i < known_count; i++)
	{
		State		before = known[i].state;

		collect(&before);
		transitions += next_count;
		for (int j = 0; j < next_count; j++)
		{
			const Next *n = &next[j];
			uint32_t	slot;

			step_taken[n->step]++;
			broken = broken_law(&before, &n->state, n->step);
			if (broken)
			{
				broken_from = i;
				broken_by = *n;
				return broken;
			}
			slot = find(&n->state, n->hash);
			if (slots[slot] == EMPTY)
				add(slot, n, i);
		}
	}
	return NULL;
}

/*
 * Mark every state that can come to rest, until nothing changes.  Those found
 * last are nearest to the end, so the order is from the back.
 */
uint32_t
restless(uint32_t *example)
{
	uint32_t	left = known_count;
	uint32_t	before;

	do
	{
		before = left;
		left = 0;
		for (uint32_t i = known_count; i-- > 0;)
		{
			State		s = known[i].state;

			if (known[i].rests)
				continue;
			if (settled(&s))
			{
				known[i].rests = 1;
				continue;
			}
			collect(&s);
			for (int j = 0; j < next_count && !known[i].rests; j++)
				known[i].rests =
					known[(uint32_t) slots[find(&next[j].state, next[j].hash)]].rests;
			if (!known[i].rests)
			{
				left++;
				*example = i;
			}
		}
	} while (left && left < before);
	return left;
}

uint32_t
states_found(void)
{
	return known_count;
}

uint64_t
transitions_found(void)
{
	return transitions;
}

bool
was_taken(Step step)
{
	return step_taken[step] > 0;
}

/* ---- the way to a state ---- */

static int
path_to(uint32_t i, uint32_t *path)
{
	int			length = 0;

	for (; i != 0; i = known[i].from)
	{
		if (length == MAX_PATH)
			fail("a path is too long");
		path[length++] = i;
	}
	return length;
}

int
steps_to_broken(void)
{
	uint32_t	path[MAX_PATH];

	return path_to(broken_from, path) + 1;
}

int
print_path(uint32_t last)
{
	uint32_t	path[MAX_PATH];
	int			length = path_to(last, path);
	uint32_t	from = 0;

	print_step(0, STEP_START, 0, NULL, &known[0].state);
	for (int i = length - 1; i >= 0; i--)
	{
		const Known *k = &known[path[i]];

		print_step(length - i, k->step, k->who, &known[from].state, &k->state);
		from = path[i];
	}
	return length;
}

void
print_broken(void)
{
	int			length = print_path(broken_from);

	print_step(length + 1, broken_by.step, broken_by.who, &known[broken_from].state,
			   &broken_by.state);
	printf("#      %s\n", broken);
}
