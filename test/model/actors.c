/*
 * actors.c
 *		Who can do what next: transactions, readers, relay, the remains of a
 *		dead relay, the standby, and everything that can go wrong.
 *
 * successors() tries every step of everybody in one state.  A step is atomic;
 * what lies between two steps of one actor is where the others come in, so a
 * gap that matters is a step boundary here.
 */
#include "model.h"

/* ---- database ---- */

TxPhase
tx_phase(const State *s, int tx)
{
	return tx == 0 ? s->db.phase0 : tx == 1 ? s->db.phase1 : s->db.phase2;
}

void
set_tx_phase(State *s, int tx, TxPhase phase)
{
	if (tx == 0)
		s->db.phase0 = phase;
	else if (tx == 1)
		s->db.phase1 = phase;
	else
		s->db.phase2 = phase;
}

Release
tx_release(const State *s, int tx)
{
	return tx == 0 ? s->db.release0 : tx == 1 ? s->db.release1 : s->db.release2;
}

void
set_tx_release(State *s, int tx, Release release)
{
	if (tx == 0)
		s->db.release0 = release;
	else if (tx == 1)
		s->db.release1 = release;
	else
		s->db.release2 = release;
}

/* The transaction whose commit record is the position-th, from 1. */
int
wal_at(const State *s, int position)
{
	return position == 1 ? s->db.wal0 : position == 2 ? s->db.wal1 : s->db.wal2;
}

static void
set_wal(State *s, int position, int tx)
{
	if (position == 1)
		s->db.wal0 = tx;
	else if (position == 2)
		s->db.wal1 = tx;
	else
		s->db.wal2 = tx;
}

/* The commits up to a position, as a set. */
unsigned
wal_prefix(const State *s, int position)
{
	unsigned	set = 0;

	for (int i = 1; i <= position && i <= (int) s->db.len; i++)
		set |= 1u << wal_at(s, i);
	return set;
}

/* The same in what the old primary had written when another was promoted. */
unsigned
old_prefix(const State *s, int position)
{
	const unsigned old_wal[] = {s->rest.old_wal0, s->rest.old_wal1, s->rest.old_wal2};
	unsigned	set = 0;

	for (int i = 0; i < position && i < (int) s->rest.old_len; i++)
		set |= 1u << old_wal[i];
	return set;
}

/* Where a committed transaction's record is. */
int
wal_position(const State *s, int tx)
{
	for (int i = 1; i <= (int) s->db.len; i++)
		if (wal_at(s, i) == tx)
			return i;
	return 0;
}

/* What a new snapshot sees. */
unsigned
visible(const State *s)
{
	unsigned	set = 0;

	for (int tx = 0; tx < scenario->transactions; tx++)
		if (tx_phase(s, tx) == TX_VISIBLE || tx_phase(s, tx) == TX_DONE)
			set |= 1u << tx;
	return set;
}

/* Commits between their quarantine and their release. */
static unsigned
live_commits(const State *s)
{
	unsigned	set = 0;

	for (int tx = 0; tx < scenario->transactions; tx++)
	{
		TxPhase		phase = tx_phase(s, tx);

		if (phase >= TX_L1_CLOSED && phase <= TX_VISIBLE)
			set |= 1u << tx;
	}
	return set;
}

static void
leave_line(State *s)
{
	s->line.phase = LINE_EMPTY;
	s->line.token = 0;
	s->line.content = 0;
}

/* ---- transactions ---- */

static bool
may_start(const State *s, int tx)
{
	int			running = 0;

	if (tx_phase(s, tx) != TX_IDLE)
		return false;
	/* The first to start is called T1, the second T2. */
	if (tx > 0 && tx_phase(s, tx - 1) == TX_IDLE)
		return false;
	for (int i = 0; i < tx; i++)
	{
		TxPhase		phase = tx_phase(s, i);

		/* One row: its lock is gone once the change is visible. */
		if (!scenario->two_rows && phase < TX_VISIBLE)
			return false;
		if (phase < TX_DONE)
			running++;
	}
	/* Two writers. */
	return running < 2;
}

static bool
prepared(int tx)
{
	return scenario->prepare && tx == 1;
}

static void
commit_record(State *n, int tx)
{
	set_tx_phase(n, tx, TX_IN_WAL);
	set_wal(n, ++n->db.len, tx);
	if (!scenario->async)
		n->db.flushed = n->db.len;
}

static void
transaction_steps(const State *s, int tx)
{
	TxPhase		phase = tx_phase(s, tx);
	State		n = *s;
	bool		mark = false;

	switch (phase)
	{
		case TX_IDLE:
			if (!may_start(s, tx))
				break;
			if (scenario->statement)
			{
				set_tx_phase(&n, tx, TX_STATEMENT);
				emit(&n, STEP_STATEMENT, tx);
				break;
			}
			/* FALLTHROUGH */
		case TX_STATEMENT:
			if (phase == TX_STATEMENT && !KEEPS(NO_XID_FILL))
			{
				State		fill = *s;

				if (redis_get(&fill, READERS + 1) == ANSWER_LEASE &&
					redis_fill(&fill, READERS + 1, visible(s) | 1u << tx,
							   s->redis.applied, s->db.len, 0, 0))
					emit(&fill, STEP_OWN_FILL, tx);
			}
			if (phase == TX_STATEMENT)
			{
				State		abort = *s;

				set_tx_phase(&abort, tx, TX_ABORTED);
				emit(&abort, STEP_ABORT, tx);
			}
			if (!scenario->strong)
			{
				commit_record(&n, tx);
				emit(&n, STEP_COMMIT, tx);
			}
			else if (scenario->l1)
			{
				set_tx_phase(&n, tx, TX_L1_CLOSED);
				if (KEEPS(L1_QUARANTINE))
				{
					n.line.marks |= 1u << tx;
					leave_line(&n);
				}
				emit(&n, STEP_L1_MARK, tx);
			}
			else
				mark = true;
			break;
		case TX_L1_CLOSED:
			mark = true;
			break;
		case TX_MARKED:
			{
				State		abort = *s;

				if (prepared(tx))
				{
					set_tx_phase(&n, tx, TX_PREPARED);
					emit(&n, STEP_PREPARE, tx);
				}
				else
				{
					commit_record(&n, tx);
					emit(&n, STEP_COMMIT, tx);
				}
				set_tx_phase(&abort, tx, TX_ABORTED);
				set_tx_release(&abort, tx, RELEASE_ABORT);
				abort.line.marks &= ~(1u << tx);
				emit(&abort, STEP_ABORT, tx);
			}
			break;
		case TX_PREPARED:
			{
				State		abort = *s;

				commit_record(&n, tx);
				emit(&n, STEP_COMMIT, tx);
				set_tx_phase(&abort, tx, TX_ABORTED);
				emit(&abort, STEP_ABORT, tx);
			}
			break;
		case TX_IN_WAL:
			set_tx_phase(&n, tx, TX_VISIBLE);
			emit(&n, STEP_VISIBLE, tx);
			break;
		case TX_VISIBLE:
			set_tx_phase(&n, tx, TX_DONE);
			/* Nobody who finishes a prepared transaction knows its keys. */
			if (scenario->strong && !prepared(tx))
				set_tx_release(&n, tx, RELEASE_COMMIT);
			n.line.marks &= ~(1u << tx);
			emit(&n, STEP_RETURN, tx);
			break;
		case TX_DONE:
		case TX_ABORTED:
			break;
	}
	/* Not on a target that is another timeline's. */
	if (mark && (!s->redis.known || s->redis.timeline == s->rest.timeline ||
				 !KEEPS(WRITER_TIMELINE)))
	{
		set_tx_phase(&n, tx, TX_MARKED);
		if (KEEPS(QUARANTINE))
			redis_quarantine(&n, tx, false);
		emit(&n, STEP_MARK, tx);
	}

	/*
	 * The old primary still takes writes.  Of what is committed there only
	 * the late release matters here.
	 */
	if (phase == TX_IDLE && may_start(s, tx) && s->rest.timeline && scenario->strong &&
		(!s->redis.known || s->redis.timeline == 0 || !KEEPS(WRITER_TIMELINE)))
	{
		n = *s;
		set_tx_phase(&n, tx, TX_ABORTED);
		set_tx_release(&n, tx, RELEASE_OLD);
		redis_quarantine(&n, tx, false);
		emit(&n, STEP_OLD_WRITER, tx);
	}

	if (tx_release(s, tx) != RELEASE_NONE)
	{
		n = *s;
		set_tx_release(&n, tx, RELEASE_NONE);
		n.rest.promised &= ~(1u << tx);
		emit(&n, STEP_RELEASE_LOST, tx);
		n.rest.promised = s->rest.promised;
		redis_release(&n, tx, tx_release(s, tx));
		emit(&n, STEP_RELEASE, tx);
	}

	/*
	 * A deadline passes.  The worker renews the marks of live commits, so
	 * that only those of others can.  Those of a prepared transaction have
	 * none; they are swept once it is no longer listed as prepared, which has
	 * the same effect.
	 */
	if ((s->redis.marks & 1u << tx) &&
		(phase == TX_DONE || phase == TX_ABORTED ||
		 (prepared(tx) ? phase == TX_PREPARED && !KEEPS(PREPARED_STAYS) :
		  !KEEPS(RENEWAL))))
	{
		n = *s;
		redis_expire_mark(&n, tx);
		emit(&n, STEP_MARK_EXPIRES, tx);
	}
}

/* ---- readers ---- */

static void
ask_redis(const State *s, int r)
{
	State		n = *s;
	Reader	   *reader = &n.reader[r];
	bool		placed = reader->phase == READER_PLACED;
	bool		old = reader->phase == READER_OLD_SNAPSHOT;

	switch (redis_get(&n, r + 1))
	{
		case ANSWER_HIT:
			if (placed)
			{
				reader->phase = READER_HAS;
				reader->content = n.redis.content;
			}
			emit(&n, STEP_HIT, r);
			break;
		case ANSWER_LEASE:
			reader->phase = old ? READER_SNAPPED : READER_LEASED;
			reader->lo = n.redis.applied;
			reader->timeline = n.redis.timeline;
			if (scenario->standby && r == 1)
				reader->past =
					n.redis.applying > n.redis.applied && KEEPS(STANDBY_APPLYING) ?
					n.redis.applying : n.redis.applied;
			if (!KEEPS(POSITION_AFTER))
				reader->hi = n.db.len;
			emit(&n, STEP_LEASE, r);
			break;
		default:

			/*
			 * The row is read and nothing filled in Redis.  L1 has rules of
			 * its own.
			 */
			if (placed)
			{
				reader->phase = READER_HAS;
				reader->content = visible(s);
			}
			emit(&n, STEP_ROW, r);
			break;
	}
}

/* After the fill, or instead of it. */
static void
finish_read(State *n, int r)
{
	Reader	   *reader = &n->reader[r];

	if (scenario->l1)
	{
		unsigned	content = reader->content;

		*reader = (Reader){.phase = READER_HAS, .content = content};
	}
	else
		*reader = (Reader){0};
}

static void
reader_steps(const State *s, int r)
{
	const Reader *reader = &s->reader[r];
	bool		standby = scenario->standby && r == 1;
	bool		old = s->rest.timeline && r == 1;	/* on the old primary */
	State		n = *s;

	switch ((ReaderPhase) reader->phase)
	{
		case READER_IDLE:
			if (!KEEPS(FRESH_SNAPSHOT))
			{
				n.reader[r].phase = READER_OLD_SNAPSHOT;
				n.reader[r].content = visible(s);
				emit(&n, STEP_OLD_SNAPSHOT, r);
			}
			if (!scenario->l1)
				ask_redis(s, r);
			else if (s->line.phase == LINE_EMPTY && !s->line.closed && !s->line.marks)
			{
				n = *s;
				n.reader[r].phase = READER_PLACED;
				n.line.phase = LINE_PLACED;
				n.line.token = r + 1;
				emit(&n, STEP_PLACE, r);
			}
			return;
		case READER_OLD_SNAPSHOT:
		case READER_PLACED:
			ask_redis(s, r);
			break;
		case READER_LEASED:
			n.reader[r].phase = READER_SNAPPED;
			n.reader[r].content = old ? s->rest.old_row : visible(s);
			if (standby)
			{
				if (s->db.replayed < reader->past && KEEPS(STANDBY_CHECK))
					break;		/* reads the row, fills nothing */
				n.reader[r].content = wal_prefix(s, s->db.replayed);
			}
			n.reader[r].past = 0;
			if (!scenario->positions)
			{
				n.reader[r].phase = READER_READY;
				n.reader[r].hi = old ? s->rest.old_len : standby ? s->db.replayed : s->db.len;
			}
			emit(&n, STEP_SNAPSHOT, r);
			break;
		case READER_SNAPPED:
			n.reader[r].phase = READER_READY;
			if (KEEPS(POSITION_AFTER))
				n.reader[r].hi = old ? s->rest.old_len : standby ? s->db.replayed : s->db.len;
			emit(&n, STEP_POSITION, r);
			break;
		case READER_READY:
			{
				bool		filled;

				if (scenario->async && KEEPS(FLUSH_FIRST) &&
					s->db.flushed < reader->hi)
					break;		/* waits for STEP_FLUSH */
				filled = redis_fill(&n, r + 1, reader->content, reader->lo, reader->hi,
									reader->timeline, old ? 0 : s->rest.timeline);
				finish_read(&n, r);
				emit(&n, filled ? STEP_FILL : STEP_FILL_REFUSED, r);
			}
			break;
		case READER_HAS:
			n.reader[r] = (Reader){0};
			if ((n.line.phase == LINE_PLACED && n.line.token == (unsigned) r + 1) ||
				(!KEEPS(L1_TOKEN) && !n.line.closed && !n.line.marks))
			{
				n.line.phase = LINE_VALID;
				n.line.token = 0;
				n.line.content = reader->content;
				emit(&n, STEP_FILL_LINE, r);
			}
			break;
	}

	/* A reader dies, is cancelled, or gives the row and fills nothing. */
	n = *s;
	n.reader[r] = (Reader){0};
	if (n.line.phase == LINE_PLACED && n.line.token == (unsigned) r + 1)
		leave_line(&n);
	emit(&n, STEP_GIVE_UP, r);
}

/* ---- the relay ---- */

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

static void
relay_is_down(State *n)
{
	unsigned	slot = n->relay.slot;

	n->relay = (Relay){.phase = RELAY_DOWN, .slot = slot};
}

static int
new_nonce(State *n)
{
	if (n->rest.last_nonce == 7)
		out_of("nonces");
	return ++n->rest.last_nonce;
}

/*
 * Take the target over.  What it holds says how to go on: with a target that
 * is armed nothing changes but the nonce; another is resumed where it stands,
 * and armed again later; where that is too far back, or nothing is known, all
 * goes.
 */
static void
adopt(const State *s)
{
	State		n = *s;
	Redis	   *r = &n.redis;
	Relay	   *relay = &n.relay;
	bool		armed = r->known && r->armed && r->nonce == n.rest.memory_nonce;

	relay->nonce = KEEPS(NEW_NONCE) || !armed ? new_nonce(&n) : (int) r->nonce;
	relay->pos = r->applied;
	if (!r->known || (r->applied < relay->slot && KEEPS(PURGE)) ||
		(r->timeline != n.rest.timeline && KEEPS(TIMELINE_PURGE)))
	{
		redis_set_nonce(&n, relay->nonce);
		r->known = r->armed = 0;
		r->applied = r->applying = r->timeline = 0;
		relay->pos = 0;
		relay->purge = 1;
		relay->phase = RELAY_PURGING;
	}
	else if (armed)
	{
		redis_set_nonce(&n, relay->nonce);
		r->timeline = n.rest.timeline;
		n.rest.taken_over |= n.rest.timeline;
		relay->phase = RELAY_IDLE;
	}
	else
	{
		redis_begin(&n, r->nonce, relay->nonce, r->applied, n.rest.timeline);
		relay->phase = RELAY_LISTING;
	}
	relay->applying = r->applying;
	if (relay->pos < relay->slot && !relay->purge)
		relay->pos = relay->slot;
	emit(&n, STEP_ADOPT, 0);
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

/* The relay is gone; what it had sent may still arrive. */
static void
bury_relay(State *n)
{
	Relay		relay = n->relay;
	Ghost		ghost = {.nonce = relay.nonce, .pos = relay.pos, .to = relay.to,
	.next = relay.next, .timeline = n->rest.timeline};

	relay_is_down(n);
	switch ((RelayPhase) relay.phase)
	{
		case RELAY_DOWN:
			/* it had looked, and wanted to resume the history */
			if (!n->redis.known)
				return;
			ghost.phase = GHOST_BEGIN;
			ghost.nonce = new_nonce(n);
			ghost.expected = n->redis.nonce;
			ghost.pos = n->redis.applied;
			break;
		case RELAY_SETTING:
			ghost.phase = GHOST_BEGIN;
			ghost.expected = relay.nonce;
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
			ghost = (Ghost){.phase = GHOST_ARM, .nonce = relay.nonce, .timeline = n->rest.timeline};
			break;
		default:
			return;
	}
	n->ghost = ghost;
}

static void
refused(const State *s)
{
	State		n = *s;

	relay_is_down(&n);
	emit(&n, STEP_REFUSED, 0);
}

static void
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
				if (redis_arm(&n, relay->nonce))
				{
					n.relay.arming = 0;
					n.relay.goal = 0;
					emit(&n, STEP_ARM, 0);
				}
				else
					refused(s);
			}
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
			n.relay.live = KEEPS(REMARK) && scenario->strong ? live_commits(s) : 0;
			n.relay.phase = n.relay.live ? RELAY_MARKING : RELAY_LOOKING;
			emit(&n, STEP_LIST, 0);
			break;

		case RELAY_MARKING:
			for (int tx = 0; tx < scenario->transactions; tx++)
				if (relay->live & 1u << tx)
				{
					n.relay.live &= ~(1u << tx);
					if (!n.relay.live)
						n.relay.phase = RELAY_LOOKING;
					redis_quarantine(&n, tx, true);
					emit(&n, STEP_REMARK, tx);
					break;
				}
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
				if (redis_begin(&n, relay->nonce, relay->nonce, at, s->rest.timeline))
				{
					n.relay.pos = n.relay.applying = at;
					n.relay.purge = 0;
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

/* The transaction at a position of the WAL that the dead relay has decoded. */
static unsigned
ghost_commit(const State *s, int position)
{
	if (s->ghost.timeline == s->rest.timeline)
		return 1u << wal_at(s, position);
	return old_prefix(s, position) & ~old_prefix(s, position - 1);
}

static void
ghost_steps(const State *s)
{
	const Ghost *ghost = &s->ghost;
	State		n = *s;

	switch ((GhostPhase) ghost->phase)
	{
		case GHOST_NONE:
			return;
		case GHOST_BEGIN:
			n.ghost = (Ghost){0};
			if (redis_begin(&n, ghost->expected, ghost->nonce, ghost->pos, ghost->timeline))
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
				n.ghost = (Ghost){0};
			redis_apply(&n, ghost_commit(s, ghost->next + 1), ghost->next + 1,
						ghost->timeline, ghost->nonce);
			emit(&n, STEP_GHOST_COMMAND, 0);
			break;
		case GHOST_APPLIED:
			n.ghost = (Ghost){0};
			if (redis_publish_applied(&n, ghost->nonce, ghost->pos, ghost->to))
				emit(&n, STEP_GHOST_APPLIED, 0);
			break;
		case GHOST_ARM:
			n.ghost = (Ghost){0};
			if (redis_arm(&n, ghost->nonce))
				emit(&n, STEP_GHOST_ARM, 0);
			break;
	}
	n = *s;
	n.ghost = (Ghost){0};
	emit(&n, STEP_GHOST_LOST, 0);
}

/* ---- what goes wrong ---- */

/* WAL ends here now: what is not in it is undone, the rest is visible. */
static void
cut_wal(State *n, int len)
{
	n->db.len = len;
	n->db.flushed = len;
	if (len < 1)
		n->db.wal0 = 0;
	if (len < 2)
		n->db.wal1 = 0;
	if (len < 3)
		n->db.wal2 = 0;
	for (int tx = 0; tx < scenario->transactions; tx++)
	{
		TxPhase		phase = tx_phase(n, tx);

		if (phase == TX_IDLE || phase == TX_PREPARED || phase == TX_ABORTED)
			continue;
		set_tx_phase(n, tx, wal_position(n, tx) ? TX_DONE : TX_ABORTED);
	}
}

static void
crash_server(const State *s)
{
	State		n = *s;

	n.rest.crashes--;
	cut_wal(&n, s->db.flushed);
	bury_relay(&n);
	leave_line(&n);
	n.line.marks = n.line.closed = 0;

	/*
	 * A reader loses its connection and what it has read with it.  A fill
	 * that is already on its way still arrives.
	 */
	for (int r = 0; r < scenario->readers; r++)
		if (s->reader[r].phase != READER_READY ||
			(KEEPS(FLUSH_FIRST) && s->db.flushed < s->reader[r].hi))
			n.reader[r] = (Reader){0};
	emit(&n, STEP_CRASH, 0);
}

/*
 * The standby becomes the primary with what it has replayed.  The old primary
 * is cut off from it but not from Redis, and does not know.
 */
static void
promote(const State *s)
{
	State		n = *s;

	bury_relay(&n);
	n.rest.promotions--;
	n.rest.timeline = 1;
	n.rest.old_row = visible(s);
	n.rest.old_len = s->db.len;
	n.rest.old_wal0 = s->db.wal0;
	n.rest.old_wal1 = s->db.wal1;
	n.rest.old_wal2 = s->db.wal2;
	n.db.replayed = 0;
	cut_wal(&n, s->db.replayed);
	for (int tx = 0; tx < scenario->transactions; tx++)
		if (tx_phase(&n, tx) == TX_ABORTED && tx_phase(s, tx) >= TX_MARKED &&
			tx_phase(s, tx) <= TX_DONE && scenario->strong)
			set_tx_release(&n, tx, RELEASE_OLD);
	n.reader[0] = (Reader){0};
	emit(&n, STEP_PROMOTE, 0);
}

/* The old primary's relay sees a target that is not its own. */
static void
old_relay_steps(const State *s)
{
	State		n = *s;

	if (!s->rest.timeline || !s->redis.known || s->redis.timeline == 0 ||
		KEEPS(RELAY_TIMELINE) || s->rest.last_nonce > 3)
		return;
	redis_purge(&n, true);
	redis_set_nonce(&n, new_nonce(&n));
	n.redis.known = n.redis.armed = 1;
	n.redis.timeline = 0;
	n.redis.applied = n.redis.applying = s->rest.old_len;
	emit(&n, STEP_OLD_RELAY, 0);
}

static void
fault_steps(const State *s)
{
	State		n = *s;

	if (s->redis.lease)
	{
		redis_expire_lease(&n);
		emit(&n, STEP_LEASE_EXPIRES, 0);
	}
	if (scenario->evict)
	{
		if (s->redis.entry)
		{
			n = *s;
			redis_evict(&n, true, false);
			emit(&n, STEP_EVICT_ENTRY, 0);
		}
		if (s->redis.guard && (!s->redis.marks || !KEEPS(MARKS_STAY)))
		{
			n = *s;
			redis_evict(&n, false, true);
			emit(&n, STEP_EVICT_GUARD, 0);
		}
		if (s->line.phase == LINE_VALID)
		{
			n = *s;
			leave_line(&n);
			emit(&n, STEP_EVICT_LINE, 0);
		}
	}
	if (s->db.flushed < s->db.len)
	{
		n = *s;
		n.db.flushed = s->db.len;
		emit(&n, STEP_FLUSH, 0);
	}
	if ((scenario->standby || s->rest.promotions) && s->db.replayed < s->db.flushed)
	{
		n = *s;
		n.db.replayed++;
		emit(&n, STEP_REPLAY, 0);
	}
	if (s->rest.crashes)
	{
		n = *s;
		n.rest.crashes--;
		bury_relay(&n);
		emit(&n, STEP_RELAY_DIES, 0);
	}
	if (s->rest.crashes && scenario->server)
		crash_server(s);
	if (s->rest.failovers)
	{
		n = *s;
		if (!s->rest.replica_set)
		{
			n.replica = s->redis;
			n.rest.replica_set = 1;
			emit(&n, STEP_REPLICA, 0);
		}
		else
		{
			n.redis = s->replica;
			n.replica = (Redis){0};
			n.rest.replica_set = 0;
			n.rest.memory_nonce = 0;
			n.rest.failovers--;
			emit(&n, STEP_FAILOVER, 0);
		}
	}
	if (s->rest.promotions)
		promote(s);
	old_relay_steps(s);
	if (s->rest.flushes)
	{
		n = *s;
		n.redis = (Redis){0};
		n.rest.flushes--;
		emit(&n, STEP_FLUSHALL, 0);
	}
}

/* ---- the whole ---- */

State
first_state(void)
{
	State		s = {.word = {0}};

	s.rest.crashes = scenario->crashes;
	s.rest.failovers = scenario->failovers;
	s.rest.flushes = scenario->flushes;
	s.rest.promotions = scenario->promotions;
	if (scenario->fresh)
		return s;				/* an empty Redis, a relay that has just started */
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
	if (scenario->l1 &&
		!(s->line.phase == LINE_VALID && s->line.content == visible(s)))
		return false;
	return s->relay.phase == RELAY_IDLE && !s->relay.arming &&
		s->relay.pos == s->db.len && s->redis.applied == s->db.len &&
		s->redis.timeline == s->rest.timeline &&
		redis_ready(s) && !s->redis.marks && s->redis.entry && s->redis.guard &&
		s->redis.content == visible(s) && s->ghost.phase == GHOST_NONE;
}
