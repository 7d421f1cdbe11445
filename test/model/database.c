/*
 * database.c
 *		What PostgreSQL holds: transactions, WAL, what a new snapshot sees.
 */
#include "model.h"

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

void
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

bool
is_prepared(int tx)
{
	return scenario->prepare == tx + 1;
}

bool
closes_server(int tx)
{
	return scenario->close == tx + 1;
}

/* Commits between their quarantine and their release. */
unsigned
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

/* WAL ends here now: what is not in it is undone, the rest is visible. */
void
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
