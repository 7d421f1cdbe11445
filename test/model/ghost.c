/*
 * ghost.c
 *		What a dead relay has left in the network.
 *
 * Its last command, or the rest of its last pipeline, arrives late, in order,
 * or not at all.  There is one ghost at a time.
 */
#include "model.h"

/* The relay is gone; what it had sent may still arrive. */
void
bury_relay(State *n)
{
	Relay		relay = n->relay;
	Ghost		ghost = {.nonce = relay.nonce,.pos = relay.pos,.to = relay.to,
	.next = relay.next,.timeline = n->rest.timeline};

	relay_is_down(n);
	switch ((RelayPhase) relay.phase)
	{
		case RELAY_DOWN:
			/* it had looked, and wanted to resume the history */
			if (!can_resume(n))
				return;
			ghost.phase = GHOST_ADOPT;
			ghost.nonce = new_nonce(n);
			ghost.expected = n->redis.nonce;
			ghost.pos = n->redis.applied;
			break;
		case RELAY_SETTING:
			ghost.phase = GHOST_BEGIN;
			ghost.pos = relay.goal;
			while (wal_prefix(n, ghost.pos) & ~visible(n))
				ghost.pos--;
			break;
		case RELAY_CHOSEN:
			ghost.phase = GHOST_APPLYING;
			ghost.expected = relay.applying;
			break;
		case RELAY_SENDING:
			ghost.phase = GHOST_SENDING;
			break;
		case RELAY_REPLIED:
			/* L1 is opened before anything more is sent */
			if (scenario->l1)
				return;
			/* FALLTHROUGH */
		case RELAY_OPENED:
			ghost.phase = GHOST_APPLIED;
			break;
		case RELAY_IDLE:
			if (!relay.arming || relay.pos < relay.goal)
				return;
			ghost.phase = GHOST_ARM;
			ghost.pos = relay.closes;
			break;
		default:
			return;
	}
	n->ghost = ghost;
}

/* The transaction at a position of the WAL that the dead relay has decoded. */
static unsigned
ghost_commit(const State *s, int position)
{
	if (s->ghost.timeline == s->rest.timeline)
		return 1u << wal_at(s, position);
	return old_prefix(s, position) & ~old_prefix(s, position - 1);
}

void
ghost_steps(const State *s)
{
	const Ghost *ghost = &s->ghost;
	State		n = *s;

	switch ((GhostPhase) ghost->phase)
	{
		case GHOST_NONE:
			return;
		case GHOST_ADOPT:
			n.ghost = no_ghost;
			if (redis_adopt(&n, ghost->expected, ghost->nonce, ghost->pos))
				emit(&n, STEP_GHOST_ADOPT, 0);
			break;
		case GHOST_BEGIN:
			n.ghost = no_ghost;
			if (redis_begin(&n, ghost->nonce, ghost->pos, ghost->timeline))
				emit(&n, STEP_GHOST_BEGIN, 0);
			break;
		case GHOST_APPLYING:
			/* Refused or not, the commands follow. */
			n.ghost.phase = GHOST_SENDING;
			n.ghost.expected = 0;
			(void) redis_publish_applying(&n, ghost->nonce, ghost->expected,
										  ghost->to > ghost->expected ||
										  !KEEPS(PUBLISH_CAS) ?
										  ghost->to : ghost->expected);
			emit(&n, STEP_GHOST_APPLYING, 0);
			break;
		case GHOST_SENDING:
			n.ghost.next++;
			if (n.ghost.next == ghost->to)
				n.ghost = no_ghost;
			redis_apply(&n, ghost_commit(s, ghost->next + 1), ghost->next + 1,
						ghost->timeline, ghost->nonce);
			emit(&n, STEP_GHOST_COMMAND, 0);
			break;
		case GHOST_APPLIED:
			n.ghost = no_ghost;
			if (redis_publish_applied(&n, ghost->nonce, ghost->pos, ghost->to))
				emit(&n, STEP_GHOST_APPLIED, 0);
			break;
		case GHOST_ARM:
			n.ghost = no_ghost;
			if (redis_arm(&n, ghost->nonce, ghost->pos))
				emit(&n, STEP_GHOST_ARM, 0);
			break;
	}
	n = *s;
	n.ghost = no_ghost;
	emit(&n, STEP_GHOST_LOST, 0);
}
