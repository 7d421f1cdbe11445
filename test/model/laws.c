/*
 * laws.c
 *		What must hold in every state, and over every step.
 *
 * Strong, linearizable per key: any session may read the row itself at any
 * moment (inside a transaction with an xid, or under a quarantine, get() does
 * nothing else), and what it then returns no later read may fall behind; and
 * nothing may be returned before it is visible.  So the reads of a key are
 * linearizable exactly if, in every state, a copy that can be hit shows what a
 * new snapshot would.  A bare GET asks for no guard, so every entry counts,
 * except on a promoted Redis and where a rule as a whole has changed: there,
 * the promise is for guarded reads alone.
 */
#include <stddef.h>

#include "model.h"

/* A guarded read could return the entry now. */
static bool
can_hit(const State *s)
{
	State		probe = *s;

	return s->redis.entry && redis_get(&probe, READERS + 1) == ANSWER_HIT;
}

const char *
broken_law(const State *before, const State *after, Step step)
{
	const Redis *r = &after->redis;
	const Line *line = &after->line;

	/* Promoted, and the target not taken over yet: nothing is promised. */
	if (after->rest.timeline && !after->rest.taken_over)
		return NULL;
	if (r->entry)
	{
		bool		fenced = (scenario->failovers == 0 && !scenario->close) || can_hit(after);

		if (r->content & ~wal_prefix(after, after->db.len))
			return "an entry shows what is not committed, or was undone";
		if (scenario->strong && fenced && r->content != visible(after))
			return (visible(after) & ~r->content) ?
				"strong: an entry that can be read is older than the row" :
				"strong: an entry can be read before its commit is visible";
		if (r->known && (wal_prefix(after, r->applied) & ~r->content))
			return "an entry is older than applied";
		if (r->guard && (wal_prefix(after, r->lo) & ~r->content))
			return "an entry is older than its guard's lo";
		if (r->guard && (r->content & ~wal_prefix(after, r->hi)))
			return "an entry shows a commit above its guard's hi";
		if (after->relay.phase == RELAY_IDLE && !after->relay.arming &&
			after->relay.nonce == after->rest.memory_nonce &&
			(wal_prefix(after, after->relay.pos) & ~r->content))
			return "an invalidation is lost: the relay is past a commit that the entry lacks";
		if (before->redis.entry && (before->redis.content & ~r->content) &&
			step != STEP_FAILOVER)
			return "the version of an entry goes backwards";
	}
	if (line->phase == LINE_VALID)
	{
		if (line->content & ~wal_prefix(after, after->db.len))
			return "a line of L1 shows what is not committed";
		if (scenario->strong && line->content != visible(after))
			return (visible(after) & ~line->content) ?
				"strong: a line of L1 is older than the row" :
				"strong: a line of L1 can be read before its commit is visible";
		if (r->known && (wal_prefix(after, r->applied) & ~line->content))
			return "a line of L1 is older than applied";
		if (before->line.phase == LINE_VALID && (before->line.content & ~line->content))
			return "the version of a line of L1 goes backwards";
	}
	return NULL;
}
