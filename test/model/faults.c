/*
 * faults.c
 *		What goes wrong: deadlines, evictions, crashes, failovers, promotions.
 */
#include "model.h"

static void
crash_server(const State *s)
{
	State		n = *s;

	n.rest.crashes--;
	cut_wal(&n, s->db.flushed);
	bury_relay(&n);
	leave_line(&n);
	n.line.marks = n.line.closed = 0;
	for (int tx = 0; tx < scenario->transactions; tx++)
		if (tx_phase(s, tx) == TX_PREPARED && scenario->l1 && KEEPS(L1_PREPARED))
			n.line.marks |= 1u << tx;

	/*
	 * A reader loses its connection and what it has read with it.  A fill
	 * that is already on its way still arrives.
	 */
	for (int r = 0; r < scenario->readers; r++)
		if (s->reader[r].phase != READER_READY ||
			(KEEPS(FLUSH_FIRST) && s->db.flushed < s->reader[r].hi))
			n.reader[r] = idle_reader;
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
	n.reader[0] = idle_reader;
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

void
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
			n.replica = empty_redis;
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
		n.redis = empty_redis;
		n.rest.flushes--;
		emit(&n, STEP_FLUSHALL, 0);
	}
}
