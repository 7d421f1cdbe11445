/*
 * relay.c
 *		The relay: adopts a target, purges or resumes it, delivers, arms.
 */
#include "model.h"

static void
close_line(State *n)
{
	if (!scenario->l1)
		return;
	leave_line(n);
	if (KEEPS(L1_CLOSED))
		n->line.closed = 1;
}

static void
open_line(State *n)
{
	if (KEEPS(L1_CLOSED))
	{
		leave_line(n);
		n->line.closed = 0;
	}
}

void
relay_is_down(State *n)
{
	unsigned	slot = n->relay.slot;

	n->relay = new_relay;
	n->relay.slot = slot;
}

int
new_nonce(State *n)
{
	if (n->rest.last_nonce == 7)
		out_of("nonces");
	return ++n->rest.last_nonce;
}

/* Does the target hold a history that can go on? */
bool
can_resume(const State *s)
{
	if (!s->redis.known)
		return false;
	if (s->redis.applied < s->relay.slot && KEEPS(PURGE))
		return false;
	return s->redis.timeline == s->rest.timeline || !KEEPS(TIMELINE_PURGE);
}

/*
 * Take the target over.  With one that is armed nothing changes but the nonce;
 * another is resumed where it stands, and armed again later; where that is too
 * far back, or nothing is known, all goes.
 */
static void
adopt(const State *s)
{
	State		n = *s;
	Redis	   *r = &n.redis;
	Relay	   *relay = &n.relay;
	bool		armed = r->known && r->armed && r->nonce == n.rest.memory_nonce;

	relay->nonce = KEEPS(NEW_NONCE) || !armed ? new_nonce(&n) : (int) r->nonce;
	if (can_resume(s))
	{
		redis_adopt(&n, r->nonce, relay->nonce, r->applied);
		r->timeline = n.rest.timeline;
		n.rest.taken_over |= n.rest.timeline;
		relay->pos = r->applied > relay->slot ? r->applied : relay->slot;
		relay->applying = r->applying;
		relay->phase = r->armed ? RELAY_IDLE : RELAY_LISTING;
	}
	else
	{
		redis_disarm(&n, relay->nonce);
		relay->purge = 1;
		relay->phase = RELAY_PURGING;
	}
	emit(&n, STEP_ADOPT, 0);
}

/* L1 serves the keys of prepared transactions again once they are delivered. */
static void
forget_prepared(State *n, int position)
{
	for (int tx = 0; tx < scenario->transactions; tx++)
		if (is_prepared(tx) && (wal_prefix(n, position) & 1u << tx))
			n->line.marks &= ~(1u << tx);
}

/*
 * Ends the marks of those who did not end them.  While its owner is in
 * progress, or prepared, a mark stays.
 */
static void
sweep(const State *s, int tx)
{
	TxPhase		phase = tx_phase(s, tx);
	bool		in_progress = phase < TX_VISIBLE;
	State		n = *s;

	if (phase == TX_PREPARED ? !KEEPS(SWEEP_PREPARED) : !KEEPS(SWEEP_PROGRESS))
		in_progress = false;
	if (in_progress)
		return;
	if (is_prepared(tx) && phase == TX_ABORTED)
		n.line.marks &= ~(1u << tx);
	if (s->redis.marks & 1u << tx)
		redis_sweep(&n, tx);
	else if (n.line.marks == s->line.marks)
		return;
	emit(&n, STEP_SWEEP, tx);
}

/* What may still be delivered: flushed, and visible to new snapshots. */
static int
deliverable(const State *s)
{
	int			to = s->relay.pos;

	while (to < (int) s->db.flushed)
	{
		if (KEEPS(VISIBILITY_WAIT) && !(visible(s) & 1u << wal_at(s, to + 1)))
			break;
		to++;
	}
	return to;
}

static void
refused(const State *s)
{
	State		n = *s;

	relay_is_down(&n);
	emit(&n, STEP_REFUSED, 0);
}

void
relay_steps(const State *s)
{
	const Relay *relay = &s->relay;
	State		n = *s;

	switch ((RelayPhase) relay->phase)
	{
		case RELAY_DOWN:
			adopt(s);
			break;

		case RELAY_IDLE:
			for (int to = relay->pos + 1; to <= deliverable(s); to++)
			{
				n = *s;
				n.relay.to = to;
				n.relay.next = relay->pos;
				n.relay.phase = KEEPS(APPLYING_FIRST) ? RELAY_CHOSEN : RELAY_SENDING;
				close_line(&n);
				emit(&n, STEP_BATCH, 0);
			}
			if (scenario->confirm && relay->slot < relay->pos && !relay->arming)
			{
				n = *s;
				n.relay.slot = relay->pos;
				emit(&n, STEP_CONFIRM, 0);
			}
			if (relay->arming &&
				(relay->pos >= relay->goal || !KEEPS(ARM_POSITION)))
			{
				n = *s;
				if (redis_arm(&n, relay->nonce, relay->closes))
				{
					n.relay.arming = 0;
					n.relay.goal = 0;
					n.relay.closes = 0;
					emit(&n, STEP_ARM, 0);
				}
				else
					refused(s);
			}
			else if (!relay->arming && relay->nonce == s->redis.nonce && !s->redis.armed)
			{
				n = *s;
				n.relay.phase = RELAY_LISTING;
				emit(&n, STEP_CLOSED, 0);
			}
			for (int tx = 0; tx < scenario->transactions; tx++)
				sweep(s, tx);
			break;

		case RELAY_CHOSEN:
			n.relay.applying = relay->to > relay->applying || !KEEPS(PUBLISH_CAS) ?
				relay->to : relay->applying;
			n.relay.phase = RELAY_SENDING;
			if (redis_publish_applying(&n, relay->nonce, relay->applying,
									   n.relay.applying))
				emit(&n, STEP_APPLYING, 0);
			else
			{
				/* The commands are in the same pipeline. */
				n = *s;
				n.relay.phase = RELAY_SENDING;
				bury_relay(&n);
				emit(&n, STEP_REFUSED, 0);
			}
			break;

		case RELAY_SENDING:
			n.relay.next++;
			if (n.relay.next == relay->to)
				n.relay.phase = RELAY_REPLIED;
			redis_apply(&n, 1u << wal_at(s, n.relay.next), n.relay.next, s->rest.timeline,
						relay->nonce);
			emit(&n, STEP_COMMAND, 0);
			if (relay->next == relay->pos && relay->to > relay->pos + 1)
			{
				n = *s;
				n.relay.next = relay->to;
				n.relay.phase = RELAY_REPLIED;
				redis_apply(&n, wal_prefix(s, relay->to) & ~wal_prefix(s, relay->pos),
							relay->to, s->rest.timeline, relay->nonce);
				emit(&n, STEP_COALESCED, 0);
			}
			if (!KEEPS(REPLIES_FIRST) &&
				redis_publish_applied(&n, relay->nonce, relay->pos, relay->to))
			{
				n = *s;
				redis_publish_applied(&n, relay->nonce, relay->pos, relay->to);
				emit(&n, STEP_APPLIED, 0);
			}
			break;

		case RELAY_REPLIED:
			open_line(&n);
			forget_prepared(&n, relay->to);
			n.relay.phase = RELAY_OPENED;
			if (scenario->l1)
			{
				emit(&n, STEP_OPEN, 0);
				break;
			}
			/* FALLTHROUGH */
		case RELAY_OPENED:
			n.relay.pos = relay->to;
			n.relay.to = n.relay.next = 0;
			n.relay.phase = RELAY_IDLE;
			if (redis_publish_applied(&n, relay->nonce, relay->pos, relay->to))
				emit(&n, STEP_APPLIED, 0);
			else
				refused(s);
			break;

		case RELAY_PURGING:
			n.relay.phase = RELAY_LISTING;
			redis_purge(&n, false);
			emit(&n, STEP_PURGE, 0);
			if (s->redis.marks)
			{
				redis_purge(&n, true);
				emit(&n, STEP_PURGE_MARKS, 0);
			}
			break;

		case RELAY_LISTING:
			n.relay.closes = s->redis.closes;
			n.relay.live = KEEPS(WAIT_COMMITS) && scenario->strong ? live_commits(s) : 0;
			n.relay.phase = n.relay.live ? RELAY_WAITING : RELAY_LOOKING;
			emit(&n, STEP_LIST, 0);
			break;

		case RELAY_WAITING:
			if (relay->live & live_commits(s))
				break;
			n.relay.live = 0;
			n.relay.phase = RELAY_LOOKING;
			emit(&n, STEP_OVER, 0);
			break;

		case RELAY_LOOKING:
			n.relay.goal = s->db.len;
			n.relay.arming = 1;
			n.relay.phase = relay->purge ? RELAY_SETTING : RELAY_IDLE;
			emit(&n, STEP_LOOK, 0);
			break;

		case RELAY_SETTING:
			/* Where it has decoded up to: visible, and not before the slot. */
			for (int at = relay->slot; at <= (int) relay->goal; at++)
			{
				if ((wal_prefix(s, at) & ~visible(s)) || (int) s->db.flushed < at)
					break;
				n = *s;
				if (redis_begin(&n, relay->nonce, at, s->rest.timeline))
				{
					n.relay.pos = n.relay.applying = at;
					n.relay.purge = 0;
					forget_prepared(&n, at);
					n.relay.phase = RELAY_IDLE;
					emit(&n, STEP_SET, 0);
				}
				else
				{
					refused(s);
					break;
				}
			}
			break;
	}

	/* It may look at any time, and starts over. */
	if (relay->phase != RELAY_DOWN &&
		(relay->nonce != s->redis.nonce || relay->nonce != s->rest.memory_nonce))
	{
		n = *s;
		relay_is_down(&n);
		emit(&n, STEP_NOTICE, 0);
	}
}
