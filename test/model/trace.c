/*
 * trace.c
 *		A state and a step in words.
 *
 * print_step() prints the parts of a state that the step has changed, so a
 * trace reads as a story: who does what, and what is different then.
 */
#include <stdio.h>
#include <string.h>

#include "model.h"

#define PARTS 6
#define PART_SIZE 200

static void
add_set(char *to, unsigned set)
{
	char		one[8];

	strcat(to, "{");
	for (int tx = 0; tx < MAX_TX; tx++)
		if (set & 1u << tx)
		{
			sprintf(one, "%sT%d", to[strlen(to) - 1] == '{' ? "" : " ", tx + 1);
			strcat(to, one);
		}
	strcat(to, "}");
}

static void
redis_words(const State *s, const Redis *r, char *to)
{
	char		part[80];

	strcpy(to, r->entry ? "entry " : "no entry");
	if (r->entry)
		add_set(to, r->content);
	if (r->guard)
	{
		sprintf(part, ", guard lo %d hi %d%s", r->lo, r->hi,
				r->entry_timeline ? " of timeline 2" : "");
		strcat(to, part);
		if (r->lease)
		{
			sprintf(part, " lease R%d", r->lease);
			strcat(to, part);
		}
		if (r->marks)
		{
			strcat(to, " marks ");
			add_set(to, r->marks);
		}
		if (r->floor)
		{
			sprintf(part, " floor %d", r->floor);
			strcat(to, part);
		}
		if (r->taint)
			strcat(to, " tainted");
	}
	else
		strcat(to, ", no guard");
	if (r->known)
		sprintf(part, "; applied %d applying %d%s", r->applied, r->applying,
				r->timeline ? " of timeline 2" : "");
	else
		sprintf(part, "; applied missing");
	strcat(to, part);
	sprintf(part, ", nonce %d/%d%s", r->nonce, s->rest.memory_nonce,
			r->armed && r->nonce == s->rest.memory_nonce ? " armed" : " not armed");
	strcat(to, part);
}

static void
describe(const State *s, char part[PARTS][PART_SIZE])
{
	static const char *const tx_words[] = {
		"idle", "changing", "L1 closed", "quarantined", "prepared", "in WAL", "visible", "done",
		"aborted"
	};
	static const char *const reader_words[] = {
		"idle", "has lease", "has row", "has row and hi", "old snapshot", "placeholder",
		"has value"
	};
	static const char *const relay_words[] = {
		"down", "idle", "batch taken", "sending", "replies in", "L1 open", "purging",
		"listing", "waiting", "looking", "setting"
	};
	static const char *const line_words[] = {"empty", "placeholder", "valid"};
	char		one[80];

	memset(part, 0, PARTS * PART_SIZE);

	sprintf(part[0], "wal:");
	for (int i = 1; i <= (int) s->db.len; i++)
	{
		sprintf(one, " T%d%s", wal_at(s, i) + 1, i > (int) s->db.flushed ? "(not flushed)" : "");
		strcat(part[0], one);
	}
	strcat(part[0], ", row ");
	add_set(part[0], visible(s));
	for (int tx = 0; tx < scenario->transactions; tx++)
	{
		sprintf(one, ", T%d %s%s", tx + 1, tx_words[tx_phase(s, tx)],
				tx_release(s, tx) ? " (release under way)" :
				s->rest.late & 1u << tx ? " (quarantine under way)" : "");
		strcat(part[0], one);
	}
	if (s->rest.timeline)
	{
		strcat(part[0], "; old primary shows ");
		add_set(part[0], s->rest.old_row);
	}
	else if (scenario->standby || scenario->promotions)
	{
		sprintf(one, ", standby at %d", s->db.replayed);
		strcat(part[0], one);
	}

	strcpy(part[1], "redis: ");
	redis_words(s, &s->redis, part[1] + strlen(part[1]));

	if (s->rest.replica_set)
	{
		strcpy(part[2], "replica: ");
		redis_words(s, &s->replica, part[2] + strlen(part[2]));
	}

	strcpy(part[3], "readers:");
	for (int r = 0; r < scenario->readers; r++)
	{
		const Reader *reader = &s->reader[r];

		sprintf(one, " R%d %s", r + 1, reader_words[reader->phase]);
		strcat(part[3], one);
		if (reader->phase == READER_SNAPPED || reader->phase == READER_READY ||
			reader->phase == READER_HAS || reader->phase == READER_OLD_SNAPSHOT)
		{
			strcat(part[3], " ");
			add_set(part[3], reader->content);
		}
		if (reader->phase >= READER_LEASED && reader->phase <= READER_READY)
		{
			sprintf(one, " lo %d", reader->lo);
			strcat(part[3], one);
		}
		if (reader->phase == READER_READY)
		{
			sprintf(one, " hi %d", reader->hi);
			strcat(part[3], one);
		}
	}
	if (scenario->l1)
	{
		sprintf(one, "; L1 %s", line_words[s->line.phase]);
		strcat(part[3], one);
		if (s->line.phase == LINE_VALID)
			add_set(part[3], s->line.content);
		if (s->line.token)
		{
			sprintf(one, " of R%d", s->line.token);
			strcat(part[3], one);
		}
		if (s->line.closed)
			strcat(part[3], " closed");
		if (s->line.marks)
		{
			strcat(part[3], " marks ");
			add_set(part[3], s->line.marks);
		}
	}

	sprintf(part[4], "relay: %s, nonce %d, at %d", relay_words[s->relay.phase],
			s->relay.nonce, s->relay.pos);
	if (s->relay.to)
	{
		sprintf(one, ", batch to %d sent to %d", s->relay.to, s->relay.next);
		strcat(part[4], one);
	}
	if (scenario->confirm)
	{
		sprintf(one, ", slot at %d", s->relay.slot);
		strcat(part[4], one);
	}
	if (s->relay.live)
	{
		strcat(part[4], ", waits for ");
		add_set(part[4], s->relay.live);
	}
	if (s->relay.arming)
	{
		sprintf(one, ", arms from %d on", s->relay.goal);
		strcat(part[4], one);
	}

	if (s->ghost.phase)
	{
		static const char *const ghost_words[] = {
			"", "adopt, seen at", "begin at", "applying and commands", "commands", "applied", "arm"
		};

		sprintf(part[5], "dead relay: nonce %d, %s", s->ghost.nonce, ghost_words[s->ghost.phase]);
		if (s->ghost.phase <= GHOST_BEGIN)
			sprintf(one, " %d", s->ghost.pos);
		else
			sprintf(one, " to %d, sent to %d", s->ghost.to, s->ghost.next);
		if (s->ghost.phase != GHOST_ARM)
			strcat(part[5], one);
	}
}

const char *
step_words(Step step, int who)
{
	static const char *const words[] = {
#define X(name, words) words,
		STEPS(X)
#undef X
	};
	static char text[100];

	snprintf(text, sizeof(text), words[step], who + 1);
	return text;
}

/* A step and what it changed; before is NULL for the first state. */
void
print_step(int number, Step step, int who, const State *before, const State *after)
{
	char		was[PARTS][PART_SIZE];
	char		is[PARTS][PART_SIZE];

	printf("# %3d  %s\n", number, step_words(step, who));
	describe(after, is);
	if (before)
		describe(before, was);
	for (int i = 0; i < PARTS; i++)
		if (is[i][0] && (!before || strcmp(was[i], is[i]) != 0))
			printf("#          %s\n", is[i]);
}
