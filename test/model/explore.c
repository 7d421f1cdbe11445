/*
 * explore.c
 *		The search: every state a scenario can reach, breadth first, and the
 *		program around it.
 *
 * A state is stored once, with the step that first led to it, so the path back
 * from a broken law is a shortest one.  Then a second pass asks the other
 * question: can every state still come to rest with the current row cached?
 * (AG EF settled.)  A protocol that answers every doubt by closing the cache for
 * good would break no law.
 *
 * usage: model [-v] [-s scenario [-o name=number]...] [-w safeguard] [-x safeguard]...
 *		-v	print the counterexample of a safeguard taken out as well
 *		-s	only this scenario (all, if it is not given)
 *		-w	only without this safeguard ("none": only intact)
 *		-x	without this safeguard in all that is explored
 *		-o	name=number: change what the scenario of -s chooses
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "model.h"

#define MAX_STATES (UINT32_C(1) << 26)
#define MAX_SLOTS (MAX_STATES * 2)
#define EMPTY UINT64_MAX

const Scenario *scenario;
uint64_t	taken_out;

/* ---- what is known ---- */

typedef struct Known
{
	State		state;
	uint32_t	from;			/* the state it was first reached from */
	uint8_t		step;
	uint8_t		who;
	uint8_t		rests;			/* a settled state can be reached from here */
} Known;

static Known *known;
static uint32_t known_count;
static uint64_t *slots;			/* hash << 32 | index, EMPTY where there is none */
static uint32_t slot_count;

static uint32_t current;		/* the state successors() is called for */
static uint64_t step_taken[STEP_COUNT];
static uint64_t transitions;

#define MAX_NEXT 64

typedef struct Next
{
	State		state;
	uint64_t	h;
	Step		step;
	int			who;
} Next;

static Next next[MAX_NEXT];
static int	next_count;

/* A law that is broken: where, by which step, into which state. */
static const char *broken;
static uint32_t broken_from;
static Next broken_by;

static void
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

static uint64_t
hash(const State *s)
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
find(const State *s, uint64_t h)
{
	uint32_t	i = (uint32_t) h & (slot_count - 1);

	while (slots[i] != EMPTY &&
		   (slots[i] >> 32 != h >> 32 ||
			memcmp(&known[(uint32_t) slots[i]].state, s, sizeof(State)) != 0))
		i = (i + 1) & (slot_count - 1);
	return i;
}

static void
grow_slots(uint32_t count)
{
	memset(slots, 0xff, (size_t) count * sizeof(uint64_t));
	slot_count = count;
	for (uint32_t i = 0; i < known_count; i++)
	{
		uint64_t	h = hash(&known[i].state);
		uint32_t	slot = (uint32_t) h & (slot_count - 1);

		while (slots[slot] != EMPTY)
			slot = (slot + 1) & (slot_count - 1);
		slots[slot] = (h >> 32) << 32 | i;
	}
}

static void
add(uint32_t slot, uint64_t h, const State *s, Step step, int who)
{
	if (known_count == MAX_STATES)
		fail("too many states");
	known[known_count] = (Known){.state = *s, .from = current, .step = step, .who = who};
	slots[slot] = (h >> 32) << 32 | known_count++;
	if (known_count > slot_count / 2)
		grow_slots(slot_count * 2);
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

/*
 * What can happen next in one state is collected first, and looked up after:
 * the memory of every slot is on its way while the next successor is made.
 */
void
emit(const State *s, Step step, int who)
{
	Next	   *n = &next[next_count++];

	if (next_count > MAX_NEXT)
		fail("too many successors");
	n->state = *s;
	n->h = hash(s);
	n->step = step;
	n->who = who;
	__builtin_prefetch(&slots[(uint32_t) n->h & (slot_count - 1)]);
}

static void
collect(const State *s)
{
	next_count = 0;
	successors(s);
	for (int i = 0; i < next_count; i++)
	{
		uint64_t	slot = slots[(uint32_t) next[i].h & (slot_count - 1)];

		if (slot != EMPTY)
			__builtin_prefetch(&known[(uint32_t) slot]);
	}
}

static void
search(void)
{
	State		first = first_state();

	known_count = 0;
	broken = NULL;
	transitions = 0;
	current = 0;
	grow_slots(1u << 17);
	add(find(&first, hash(&first)), hash(&first), &first, STEP_START, 0);
	for (current = 0; current < known_count && !broken; current++)
	{
		State		s = known[current].state;

		collect(&s);
		transitions += next_count;
		for (int i = 0; i < next_count && !broken; i++)
		{
			const Next *n = &next[i];
			uint32_t	slot;

			step_taken[n->step]++;
			broken = broken_law(&s, &n->state, n->step);
			if (broken)
			{
				broken_from = current;
				broken_by = *n;
				break;
			}
			slot = find(&n->state, n->h);
			if (slots[slot] == EMPTY)
				add(slot, n->h, &n->state, n->step, n->who);
		}
	}
}

/*
 * Mark every state that can come to rest, until nothing changes; the number of
 * those that cannot, and one of them (the first reached).
 */
static uint32_t
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
			known[i].rests = settled(&s);
			if (!known[i].rests)
				collect(&s);
			for (int j = 0; j < next_count && !known[i].rests; j++)
				known[i].rests =
					known[(uint32_t) slots[find(&next[j].state, next[j].h)]].rests;
			if (!known[i].rests)
			{
				left++;
				*example = i;
			}
		}
	} while (left && left < before);
	return left;
}

/* ---- what is printed ---- */

static int
path_to(uint32_t i, uint32_t *path, int room)
{
	int			length = 0;

	for (; i != 0; i = known[i].from)
	{
		if (length == room)
			fail("a path is too long");
		path[length++] = i;
	}
	return length;
}

static int
print_path(uint32_t last)
{
	uint32_t	path[1000];
	int			length = path_to(last, path, 1000);
	uint32_t	from = 0;

	printf("#   0  %s\n", step_words(STEP_START, 0));
	print_state(NULL, &known[0].state);
	for (int i = length - 1; i >= 0; i--)
	{
		const Known *k = &known[path[i]];

		printf("# %3d  %s\n", length - i, step_words(k->step, k->who));
		print_state(&known[from].state, &k->state);
		from = path[i];
	}
	return length;
}

static void
print_broken(void)
{
	int			length = print_path(broken_from);

	printf("# %3d  %s\n", length + 1, step_words(broken_by.step, broken_by.who));
	print_state(&known[broken_from].state, &broken_by.state);
	printf("#      %s\n", broken);
}

static int
steps_to_broken(void)
{
	uint32_t	path[1000];

	return path_to(broken_from, path, 1000) + 1;
}

/* ---- scenarios ---- */

#include "scenarios.h"

static uint64_t also_out;		/* -x */
static int	tests;
static int	failures;

static void
result(bool ok, const char *text)
{
	printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, text);
	fflush(stdout);
	if (!ok)
		failures++;
}

static void
run_intact(const Scenario *s)
{
	char		text[300];
	uint32_t	example = 0;
	uint32_t	left;
	clock_t		start = clock();

	scenario = s;
	taken_out = also_out;
	search();
	if (broken)
	{
		snprintf(text, sizeof(text), "scenario %s: violation in %d steps: %s", s->name,
				 steps_to_broken(), broken);
		result(false, text);
		print_broken();
		return;
	}
	left = restless(&example);
	snprintf(text, sizeof(text), "scenario %s: %u states, no violation", s->name, known_count);
	result(left == 0, text);
	printf("# %s; %llu transitions, %.1f s\n", s->words, (unsigned long long) transitions,
		   (double) (clock() - start) / CLOCKS_PER_SEC);
	if (left)
	{
		printf("# %u states can never come to rest, the first of them:\n", left);
		print_path(example);
	}
}

static void
run_without(const Mutation *m, bool verbose)
{
	char		text[300];

	scenario = find_scenario(m->scenario);
	taken_out = also_out | UINT64_C(1) << m->safeguard;
	search();
	if (broken)
		snprintf(text, sizeof(text), "without %s: violation found in %d steps",
				 safeguard_words[m->safeguard], steps_to_broken());
	else
		snprintf(text, sizeof(text), "without %s: no violation in %u states of %s",
				 safeguard_words[m->safeguard], known_count, m->scenario);
	result(broken != NULL, text);
	if (broken)
		printf("# %s: %s\n", m->scenario, broken);
	if (broken && verbose)
		print_broken();
}

/* -o: another choice for the scenario. */
static void
change(Scenario *s, const char *option)
{
	static const struct
	{
		const char *name;
		size_t		offset;
	}			choices[] = {
#define CHOICE(name) {#name, offsetof(Scenario, name)}
		CHOICE(transactions), CHOICE(strong), CHOICE(action), CHOICE(two_rows),
		CHOICE(statement), CHOICE(positions), CHOICE(evict), CHOICE(l1), CHOICE(prepare),
		CHOICE(standby), CHOICE(fresh), CHOICE(async), CHOICE(confirm), CHOICE(readers),
		CHOICE(crashes), CHOICE(server), CHOICE(failovers), CHOICE(flushes),
		CHOICE(promotions)
#undef CHOICE
	};
	const char *equals = strchr(option, '=');

	for (size_t i = 0; equals && i < sizeof(choices) / sizeof(choices[0]); i++)
		if (strlen(choices[i].name) == (size_t) (equals - option) &&
			strncmp(choices[i].name, option, equals - option) == 0)
		{
			*(int *) ((char *) s + choices[i].offset) = atoi(equals + 1);
			return;
		}
	fail("no such choice");
}

int
main(int argc, char **argv)
{
	const char *only_scenario = NULL;
	const char *only_without = NULL;
	bool		verbose = false;
	int			option;

	while ((option = getopt(argc, argv, "vs:w:o:x:")) != -1)
		switch (option)
		{
			case 'v':
				verbose = true;
				break;
			case 's':
				only_scenario = optarg;
				break;
			case 'w':
				only_without = optarg;
				break;
			case 'o':
				if (!only_scenario)
					fail("-o needs -s before it");
				change(find_scenario(only_scenario), optarg);
				break;
			case 'x':
				also_out |= UINT64_C(1) << find_safeguard(optarg);
				break;
			default:
				fprintf(stderr, "usage: %s [-v] [-s scenario [-o name=number]...] [-w safeguard] [-x safeguard]...\n",
						argv[0]);
				return 2;
		}
	known = reserve((size_t) MAX_STATES * sizeof(Known));
	slots = reserve((size_t) MAX_SLOTS * sizeof(uint64_t));
	for (int i = 0; i < SCENARIOS; i++)
		if ((!only_scenario || strcmp(only_scenario, scenarios[i].name) == 0) &&
			(!only_without || strcmp(only_without, "none") == 0))
			run_intact(&scenarios[i]);
	if (!only_scenario && !only_without)
		for (int i = 0; i < STEP_COUNT; i++)
			if (!step_taken[i])
				printf("# never taken: %s\n", step_words(i, 0));
	for (int i = 0; i < MUTATIONS; i++)
		if ((!only_scenario || strcmp(only_scenario, mutations[i].scenario) == 0) &&
			(!only_without || strcmp(only_without, safeguard_names[mutations[i].safeguard]) == 0))
			run_without(&mutations[i], verbose);
	printf("1..%d\n", tests);
	return failures ? 1 : 0;
}
