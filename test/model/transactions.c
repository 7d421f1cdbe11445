/*
 * transactions.c
 *		A writer's way from the statement to the release.
 *
 * Each step is atomic.  What lies between two steps is where the others come
 * in, so a gap that matters is a boundary between steps; the same holds for
 * readers.c and relay.c.
 */
#include "model.h"

bool
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

static void
commit_record(State *n, int tx)
{
	set_tx_phase(n, tx, TX_IN_WAL);
	set_wal(n, ++n->db.len, tx);
	if (!scenario->async)
		n->db.flushed = n->db.len;
}

void
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

				if (is_prepared(tx))
				{
					set_tx_phase(&n, tx, TX_PREPARED);
					if (!KEEPS(L1_PREPARED))
						n.line.marks &= ~(1u << tx);
					emit(&n, STEP_PREPARE, tx);
				}
				else
				{
					commit_record(&n, tx);
					emit(&n, STEP_COMMIT, tx);
				}
				set_tx_phase(&abort, tx, TX_ABORTED);
				if (!closes_server(tx))
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
			if (scenario->strong && !is_prepared(tx) && !closes_server(tx))
				set_tx_release(&n, tx, RELEASE_COMMIT);
			if (!is_prepared(tx))
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
		State		cut = *s;

		set_tx_phase(&n, tx, TX_MARKED);
		if (closes_server(tx))
		{
			if (KEEPS(CLOSE))
				redis_close(&n);
			emit(&n, STEP_CLOSE, tx);
		}
		else
		{
			if (KEEPS(QUARANTINE))
				redis_quarantine(&n, tx);
			emit(&n, STEP_MARK, tx);

			/* Cancelled, or killed, before the answer: it has not committed. */
			set_tx_phase(&cut, tx, TX_ABORTED);
			cut.line.marks &= ~(1u << tx);
			cut.rest.late |= 1u << tx;
			emit(&cut, STEP_MARK_CUT, tx);
		}
	}
	if (s->rest.late & 1u << tx)
	{
		n = *s;
		n.rest.late &= ~(1u << tx);
		emit(&n, STEP_MARK_LOST, tx);
		redis_quarantine(&n, tx);
		emit(&n, STEP_MARK_LATE, tx);
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
		redis_quarantine(&n, tx);
		emit(&n, STEP_OLD_WRITER, tx);
	}

	if (tx_release(s, tx) != RELEASE_NONE)
	{
		n = *s;
		set_tx_release(&n, tx, RELEASE_NONE);
		emit(&n, STEP_RELEASE_LOST, tx);
		redis_release(&n, tx, tx_release(s, tx));
		emit(&n, STEP_RELEASE, tx);
	}
}
