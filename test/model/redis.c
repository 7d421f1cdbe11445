/*
 * redis.c
 *		What Redis executes atomically: the functions of the library, each as
 *		one step.  Where a safeguard can be taken out, KEEPS() says so.
 *
 * Nothing here knows who is alive or what is in WAL, with one exception: the
 * payload that a release or an event carries is looked up from its version.
 */
#include "model.h"

/*
 * Does a release without a payload tell its version to whoever fills next, and
 * the relay leave alone what was filled since?
 */
static bool
tells_release(void)
{
	return scenario->strong && scenario->action == INVALIDATE;
}

/* Forget what has no meaning any more, so that equal states look equal. */
static void
tidy(Redis *r)
{
	if (!r->marks)
		r->taint = 0;
	if (!r->marks && !r->lease)
		r->cached = 0;
	if (!r->marks && (r->entry || !tells_release()))
		r->floor = 0;
	if (!r->lease)
		r->lease_current = 0;
	if (!r->entry)
		r->content = r->lo = r->hi = r->entry_timeline = 0;
	if (!r->entry && !r->marks && !r->lease && !r->floor)
		r->guard = 0;
	if (!r->guard)
		r->lo = r->hi = r->floor = r->taint = r->cached = r->lease = r->lease_current = r->marks = 0;
}

static void
kill_lease(Redis *r)
{
	if (KEEPS(LEASE_DIES))
		r->lease = NOBODY;
}

static void
set_payload(Redis *r, unsigned content, int version, int timeline)
{
	r->entry = r->guard = 1;
	r->content = content;
	r->lo = r->hi = version;
	r->entry_timeline = timeline;
}

/* May the target be read through and filled?  (coherence 3.3 and 7) */
bool
redis_ready(const State *s)
{
	const Redis *r = &s->redis;

	if (!r->known)
		return !KEEPS(APPLIED_KNOWN);
	if (!KEEPS(ARMING))
		return true;
	return r->armed && r->nonce == s->rest.memory_nonce;
}

Answer
redis_get(State *s, int token)
{
	Redis	   *r = &s->redis;

	if (!redis_ready(s))
		return ANSWER_UNARMED;
	if (r->entry && !r->guard && KEEPS(GUARDED_ENTRY))
	{
		r->entry = 0;
		tidy(r);
	}
	if (r->marks)
		return ANSWER_QUARANTINED;
	if (r->entry)
		return ANSWER_HIT;
	if (r->lease)
		return ANSWER_BUSY;
	r->guard = 1;
	r->lease = token;
	r->lease_current = 1;
	r->cached = s->rest.promised = scenario->strong && scenario->action != INVALIDATE;
	return ANSWER_LEASE;
}

bool
redis_fill(State *s, int token, unsigned content, int lo, int hi,
		   int lo_timeline, int hi_timeline)
{
	Redis	   *r = &s->redis;

	if (!redis_ready(s) || r->marks)
		return false;
	if (KEEPS(FILL_TIMELINE) && (lo_timeline != (int) r->timeline ||
								 hi_timeline != (int) r->timeline))
		return false;
	if (KEEPS(LEASE_CHECK))
	{
		if (r->lease != (unsigned) token)
			return false;
		if (KEEPS(LEASE_NONCE) && !r->lease_current)
			return false;
	}
	r->entry = r->guard = 1;
	r->content = content;
	r->lo = lo;
	if (lo < (int) r->floor && hi >= (int) r->floor)
		r->lo = r->floor;
	r->hi = hi;
	r->entry_timeline = hi_timeline;
	r->lease = NOBODY;
	tidy(r);
	return true;
}

void
redis_quarantine(State *s, int tx)
{
	Redis	   *r = &s->redis;

	if (!r->marks)
	{
		r->floor = 0;
		r->cached = scenario->action != INVALIDATE && r->entry && r->guard &&
			r->armed && r->nonce == s->rest.memory_nonce;
		s->rest.promised = r->cached;
	}
	r->entry = 0;
	kill_lease(r);
	r->guard = 1;
	r->marks |= 1u << tx;
	tidy(r);
}

/*
 * A writer has changed a rule as a whole: no marks, but nobody is served until
 * the relay has delivered it and armed the server again.
 */
void
redis_close(State *s)
{
	s->redis.armed = 0;
	s->redis.closes++;
}

/*
 * Take the mark of each of txs off; true if one of them stood.  Then the
 * releases of others must not set anything older than this commit.
 */
static bool
take_marks(Redis *r, unsigned txs, int version)
{
	bool		stood = (r->marks & txs) != 0;

	r->marks &= KEEPS(OTHER_MARKS) ? ~txs : 0;
	if (stood && r->floor < (unsigned) version)
		r->floor = version;
	return stood;
}

void
redis_release(State *s, int tx, Release release)
{
	Redis	   *r = &s->redis;
	bool		commit = release != RELEASE_ABORT;
	int			version = wal_position(s, tx);
	int			timeline = s->rest.timeline;
	unsigned	payload = wal_prefix(s, version);
	int			floor = KEEPS(FLOOR) ? (int) r->floor : 0;
	bool		taint = KEEPS(TAINT) && r->taint;
	bool		current = s->rest.promised && r->armed &&
	r->nonce == s->rest.memory_nonce;
	bool		stood;

	if (release == RELEASE_OLD)
	{
		timeline = 0;
		version = s->rest.old_len;
		payload = s->rest.old_row | 1u << tx;
	}
	stood = take_marks(r, 1u << tx, commit ? version : 0);
	if (!commit && !stood)
		return;					/* whatever is there is none of its business */
	kill_lease(r);
	if (commit && scenario->action != INVALIDATE &&
		(stood || !KEEPS(OWN_MARK)) &&
		(!r->marks || !KEEPS(LAST_MARK)) &&
		version > floor && !taint && r->cached &&
		(!scenario->async || !KEEPS(RELEASE_FLUSHED)) &&
		(current || !KEEPS(RELEASE_ARMING)))
		set_payload(r, payload, version, timeline);
	else
		r->entry = 0;
	if (!r->marks && (!commit || !stood || taint))
		r->floor = 0;
	tidy(r);
	s->rest.promised &= r->cached;
}

/* The relay's: the owner of a mark is gone, its version is not known. */
void
redis_sweep(State *s, int tx)
{
	Redis	   *r = &s->redis;

	r->marks &= ~(1u << tx);
	if (r->marks)
		r->taint = 1;
	else
		r->floor = 0;
	tidy(r);
	s->rest.promised &= r->cached;
}

void
redis_expire_lease(State *s)
{
	s->redis.lease = NOBODY;
	if (!s->redis.marks)
		s->redis.floor = 0;
	tidy(&s->redis);
}

void
redis_evict(State *s, bool entry, bool guard)
{
	if (entry)
		s->redis.entry = 0;
	if (guard)
		s->redis.guard = 0;
	tidy(&s->redis);
}

/*
 * Entries and leases go; marks may go with them, since live commits are waited
 * for before the target is armed.
 */
void
redis_purge(State *s, bool marks)
{
	s->redis.lease = NOBODY;
	if (marks)
		s->redis.marks = 0;
	redis_evict(s, true, !s->redis.marks);
}

/*
 * The relay's command for the commits txs, the last of which is at version
 * (more than one where it has coalesced a batch).
 */
void
redis_apply(State *s, unsigned txs, int version, int timeline, int nonce)
{
	Redis	   *r = &s->redis;
	unsigned	payload = timeline == (int) s->rest.timeline ?
	wal_prefix(s, version) : old_prefix(s, version);
	bool		own = (r->nonce == (unsigned) nonce &&
					   s->rest.memory_nonce == (unsigned) nonce);
	bool		older = timeline < (int) r->entry_timeline && KEEPS(TIMELINE_FIRST);
	bool		newer = timeline > (int) r->entry_timeline && KEEPS(TIMELINE_FIRST);

	if (scenario->close && (txs & 1u << (scenario->close - 1)))
	{
		take_marks(r, txs, version);
		redis_purge(s, false);
		return;
	}
	if (tells_release())
	{
		int			known = r->entry ? KEEPS(RELEASED_LO) ? r->lo : r->hi : r->floor;

		if (!r->marks && r->guard && known >= version)
			return;
	}
	kill_lease(r);

	/* a mark is its owner's, or the sweep's */
	if (!tells_release() && r->marks && r->floor < (unsigned) version)
		r->floor = version;
	if (scenario->action == INVALIDATE)
		r->entry = 0;
	else if (r->marks && KEEPS(UPDATE_MARKS))
		r->entry = 0;
	else if (r->entry && r->guard)
	{
		if (older)
			;					/* a timeline that has ended */
		else if (newer || version > (int) r->hi || !KEEPS(UPDATE_LO))
			set_payload(r, payload, version, timeline);
		else if (version > (int) r->lo && KEEPS(UPDATE_HI))
			r->entry = 0;		/* nobody knows whether the fill saw it */
	}
	else if (r->entry)
		r->entry = 0;			/* no guard: nobody knows */
	else if (scenario->action == REPLICATE &&
			 (version > (int) r->applied || !KEEPS(REPLICATE_APPLIED)) &&
			 (own || !KEEPS(REPLICATE_NONCE)))
		set_payload(r, payload, version, timeline);
	tidy(r);
}

/* Leases and payloads die with the nonce they were promised under. */
void
redis_set_nonce(State *s, int nonce)
{
	if (s->redis.nonce != (unsigned) nonce)
		s->redis.lease_current = s->rest.promised = 0;
	s->redis.nonce = s->rest.memory_nonce = nonce;
}

/*
 * Another relay takes over from the one whose nonce it has seen.  The history
 * goes on where the target stands now, which need not be where it was seen to
 * stand.
 */
bool
redis_adopt(State *s, int expected, int nonce, int seen)
{
	Redis	   *r = &s->redis;

	if (KEEPS(ADOPT_CAS) && r->nonce != (unsigned) expected)
		return false;
	if (s->rest.memory_nonce != r->nonce)
		r->armed = 0;
	redis_set_nonce(s, nonce);
	if (!KEEPS(RESUME))
	{
		r->known = 1;
		r->applied = seen;
		r->armed = 0;
	}
	if (!r->armed)
		r->applying = r->applied;
	return true;
}

/* The target is the relay's own, and nothing of what was delivered is left. */
void
redis_disarm(State *s, int nonce)
{
	Redis	   *r = &s->redis;

	redis_set_nonce(s, nonce);
	r->known = r->armed = 0;
	r->applied = r->applying = r->timeline = 0;
}

/*
 * A history begins after a purge.  The memory has to know the relay's nonce:
 * else another relay has taken over, or this is not the server that was purged.
 */
bool
redis_begin(State *s, int nonce, int applied, int timeline)
{
	Redis	   *r = &s->redis;

	if (KEEPS(BEGIN_MEMORY) && s->rest.memory_nonce != (unsigned) nonce)
		return false;
	redis_set_nonce(s, nonce);
	r->known = 1;
	r->applied = r->applying = applied;
	r->timeline = timeline;
	s->rest.taken_over |= timeline;
	r->armed = 0;
	return true;
}

/* Closes: how often it had been closed when the live commits were listed. */
bool
redis_arm(State *s, int nonce, int closes)
{
	Redis	   *r = &s->redis;

	if (r->nonce != (unsigned) nonce || !r->known)
		return false;
	if (KEEPS(ARM_MEMORY) && s->rest.memory_nonce != (unsigned) nonce)
		return false;
	if (KEEPS(CLOSE_COUNT) && r->closes != (unsigned) closes)
		return false;
	s->rest.memory_nonce = nonce;
	r->armed = 1;
	return true;
}

static bool
own_target(const State *s, int nonce)
{
	return s->redis.nonce == (unsigned) nonce &&
		(s->rest.memory_nonce == (unsigned) nonce || !KEEPS(PUBLISH_MEMORY));
}

bool
redis_publish_applying(State *s, int nonce, int previous, int next)
{
	Redis	   *r = &s->redis;

	if (KEEPS(PUBLISH_CAS) &&
		!(own_target(s, nonce) && r->known && r->applying == (unsigned) previous))
		return false;
	r->applying = next;
	return true;
}

bool
redis_publish_applied(State *s, int nonce, int previous, int next)
{
	Redis	   *r = &s->redis;

	if (KEEPS(PUBLISH_CAS) &&
		!(own_target(s, nonce) && r->known && r->applied == (unsigned) previous))
		return false;
	r->known = 1;
	r->applied = next;
	return true;
}
