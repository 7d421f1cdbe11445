/*
 * readers.c
 *		A reader's way: L1, Redis, the row, the fill.
 *
 * A hit has no state of its own: what a copy may show is a law over states
 * (laws.c).
 */
#include "model.h"

/* The line of L1 is empty; a placeholder in it is gone. */
void
leave_line(State *s)
{
	s->line.phase = LINE_EMPTY;
	s->line.token = 0;
	s->line.content = 0;
}

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

	unsigned	content = reader->content;

	*reader = idle_reader;
	if (scenario->l1)
	{
		reader->phase = READER_HAS;
		reader->content = content;
	}
}

void
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
			n.reader[r] = idle_reader;
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
	n.reader[r] = idle_reader;
	if (n.line.phase == LINE_PLACED && n.line.token == (unsigned) r + 1)
		leave_line(&n);
	emit(&n, STEP_GIVE_UP, r);
}
