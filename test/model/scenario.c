/*
 * scenario.c
 *		Where it begins, who can go on, where it has to be able to end.
 */
#include "model.h"

const Redis empty_redis;
const Reader idle_reader;
const Relay new_relay;			/* RELAY_DOWN */
const Ghost no_ghost;

State
first_state(void)
{
	State		s = {.word = {0}};

	s.rest.crashes = scenario->crashes;
	s.rest.failovers = scenario->failovers;
	s.rest.flushes = scenario->flushes;
	s.rest.promotions = scenario->promotions;
	if (scenario->fresh)
		return s;				/* an empty Redis, a relay that has just
								 * started */
	/* An armed target, and the relay that has armed it. */
	s.redis.known = 1;
	s.redis.armed = 1;
	s.redis.nonce = s.rest.memory_nonce = s.rest.last_nonce = 1;
	s.relay.phase = RELAY_IDLE;
	s.relay.nonce = 1;
	return s;
}

void
successors(const State *s)
{
	for (int tx = 0; tx < scenario->transactions; tx++)
		transaction_steps(s, tx);
	for (int r = 0; r < scenario->readers; r++)
		reader_steps(s, r);
	relay_steps(s);
	ghost_steps(s);
	fault_steps(s);
}

/*
 * Where everything has to be able to end: all is quiet, and the current row
 * is cached.
 */
bool
settled(const State *s)
{
	for (int tx = 0; tx < scenario->transactions; tx++)
		if ((tx_phase(s, tx) != TX_DONE && tx_phase(s, tx) != TX_ABORTED) ||
			tx_release(s, tx) != RELEASE_NONE)
			return false;
	if (s->rest.late || s->line.marks)
		return false;
	if (scenario->l1 &&
		!(s->line.phase == LINE_VALID && s->line.content == visible(s)))
		return false;
	return s->relay.phase == RELAY_IDLE && !s->relay.arming &&
		s->relay.pos == s->db.len && s->redis.applied == s->db.len &&
		s->redis.timeline == s->rest.timeline &&
		redis_ready(s) && !s->redis.marks && s->redis.entry && s->redis.guard &&
		s->redis.content == visible(s) && s->ghost.phase == GHOST_NONE;
}
