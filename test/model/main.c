/*
 * main.c
 *		Explores what is asked for and reports it as TAP.
 *
 * usage: model [-av] [-s scenario [-o name=number]...] [-w safeguard] [-x safeguard]...
 *		-a	the spare safeguards, too
 *		-v	print the counterexample of a safeguard taken out as well
 *		-s	only this scenario
 *		-w	only without this safeguard ("none": only intact)
 *		-x	without this safeguard in all that is explored
 *		-o	change what the scenario of -s chooses
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "model.h"

#define USAGE \
	"usage: model [-av] [-s scenario [-o name=number]...] [-w safeguard] [-x safeguard]...\n"

static const char *const safeguard_words[] = {
#define X(name, words) words,
	SAFEGUARDS(X)
#undef X
};

static const char *const safeguard_names[] = {
#define X(name, words) #name,
	SAFEGUARDS(X)
#undef X
};

static uint64_t also_out;		/* -x */
static bool verbose;
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

static Scenario *
find_scenario(const char *name)
{
	for (Scenario *s = scenarios; s->name; s++)
		if (strcmp(s->name, name) == 0)
			return s;
	fail("no such scenario");
	return NULL;
}

static Safeguard
find_safeguard(const char *name)
{
	for (int i = 0; i < SAFEGUARD_COUNT; i++)
		if (strcmp(safeguard_names[i], name) == 0)
			return i;
	fail("no such safeguard");
	return SAFEGUARD_COUNT;
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
		CHOICE(statement), CHOICE(positions), CHOICE(evict), CHOICE(l1), CHOICE(prepare), CHOICE(close),
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

static void
run_intact(const Scenario *s)
{
	char		text[300];
	uint32_t	example = 0;
	uint32_t	left;
	clock_t		start = clock();
	const char *broken = search(s, also_out);

	if (broken)
	{
		snprintf(text, sizeof(text), "scenario %s: violation in %d steps: %s", s->name,
				 steps_to_broken(), broken);
		result(false, text);
		print_broken();
		return;
	}
	left = restless(&example);
	snprintf(text, sizeof(text), "scenario %s: %u states, no violation", s->name,
			 states_found());
	result(left == 0, text);
	printf("# %s; %llu transitions, %.1f s\n", s->words,
		   (unsigned long long) transitions_found(),
		   (double) (clock() - start) / CLOCKS_PER_SEC);
	if (left)
	{
		printf("# %u states can never come to rest, the first of them:\n", left);
		print_path(example);
	}
}

/* Of a spare safeguard it is claimed that no violation is found. */
static void
run_without(const Mutation *m, bool spare)
{
	char		text[300];
	const char *words = safeguard_words[m->safeguard];
	const char *broken = search(find_scenario(m->scenario),
								also_out | UINT64_C(1) << m->safeguard);

	if (broken)
		snprintf(text, sizeof(text), "without %s: violation found in %d steps", words,
				 steps_to_broken());
	else
		snprintf(text, sizeof(text), "without %s: no violation in %u states", words,
				 states_found());
	result((broken == NULL) == spare, text);
	printf("# %s%s%s\n", m->scenario, broken ? ": " : "", broken ? broken : "");
	if (broken && (verbose || spare))
		print_broken();
}

/* A model in which nothing happens breaks no law either. */
static void
check_steps(void)
{
	static const Step unsafe[] = {STEP_START, STEP_OWN_FILL, STEP_OLD_SNAPSHOT, STEP_OLD_RELAY};
	int			missing = 0;

	for (int step = 0; step < STEP_COUNT; step++)
	{
		bool		expected = true;

		for (size_t i = 0; i < sizeof(unsafe) / sizeof(unsafe[0]); i++)
			if (unsafe[i] == (Step) step)
				expected = false;
		if (was_taken(step) != expected)
		{
			printf("# %s: %s\n", expected ? "never" : "against a safeguard",
				   step_words(step, 0));
			missing++;
		}
	}
	result(missing == 0, "every step was taken in one scenario at least");
}

static void
check_mutations(void)
{
	uint64_t	listed = 0;

	for (const Mutation *m = mutations; m->scenario; m++)
		listed |= UINT64_C(1) << m->safeguard;
	for (const Mutation *m = spares; m->scenario; m++)
		listed |= UINT64_C(1) << m->safeguard;
	result(listed == (UINT64_C(1) << SAFEGUARD_COUNT) - 1, "every safeguard is taken out once");
}

int
main(int argc, char **argv)
{
	const char *only_scenario = NULL;
	const char *only_without = NULL;
	bool		spare = false;
	bool		all;
	int			option;

	while ((option = getopt(argc, argv, "avs:w:o:x:")) != -1)
		switch (option)
		{
			case 'a':
				spare = true;
				break;
			case 'v':
				verbose = true;
				break;
			case 's':
				only_scenario = find_scenario(optarg)->name;
				break;
			case 'w':
				only_without = optarg;
				if (strcmp(optarg, "none") != 0)
					find_safeguard(optarg);
				break;
			case 'x':
				also_out |= UINT64_C(1) << find_safeguard(optarg);
				break;
			case 'o':
				if (!only_scenario)
					fail("-o needs -s before it");
				change(find_scenario(only_scenario), optarg);
				break;
			default:
				fputs(USAGE, stderr);
				return 2;
		}
	all = !only_scenario && !only_without && !also_out;

	for (const Scenario *s = scenarios; s->name; s++)
		if ((!only_scenario || strcmp(only_scenario, s->name) == 0) &&
			(!only_without || strcmp(only_without, "none") == 0))
			run_intact(s);
	if (all)
	{
		check_steps();
		check_mutations();
	}
	for (const Mutation *m = mutations; m->scenario; m++)
		if ((!only_scenario || strcmp(only_scenario, m->scenario) == 0) &&
			(!only_without || strcmp(only_without, safeguard_names[m->safeguard]) == 0))
			run_without(m, false);
	for (const Mutation *m = spares; m->scenario; m++)
		if (only_without ? strcmp(only_without, safeguard_names[m->safeguard]) == 0 : spare)
			run_without(m, true);
	printf("1..%d\n", tests);
	printf("%d passed, %d failed\n", tests - failures, failures);
	return failures || !tests ? 1 : 0;
}
