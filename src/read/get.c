/*-------------------------------------------------------------------------
 *
 * read/get.c
 *	  Guarded reads: L1, then Redis, then the row.
 *
 * The order of things is what makes it coherent:
 *
 *	 a ticket of L1, then Redis is asked;
 *	 a lease of Redis, then a new snapshot, then hi = the end of WAL;
 *	 WAL flushed up to hi, then the fill of Redis;
 *	 the fill of Redis accepted, then the fill of L1.
 *
 * A transaction that has an xid reads the row and caches nothing, lest data
 * that is rolled back stays cached; it so reads its own writes, whatever key
 * they are under.  So does one that keeps a snapshot (REPEATABLE READ and
 * SERIALIZABLE), for which a cache is too new.
 *
 * Several keys take the same steps together: one pipeline of requests, one
 * snapshot, one flush, one pipeline of fills.
 *
 * Locks: none are held across a wait.  Must not: throw for trouble with Redis.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/wal.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "read/ask.h"
#include "read/free.h"
#include "read/get.h"
#include "read/load.h"
#include "read/match.h"
#include "read/tally.h"
#include "redis/command.h"
#include "shm/heat.h"
#include "shm/stats.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define EXPECT 16				/* keys to prefetch in L1 */

static MlcSource last_source = MLC_FROM_NOWHERE;
static MlcVersion last_lo;

static const MlcVersion no_version = {0, 0};

/* ---- may the cache be used? ---- */

/* Must this transaction see more, or less, than a cache shows? */
static bool
must_read_row(void)
{
	if (MLC_FAULT_SKIP("get-own-writes"))
		return false;
	return TransactionIdIsValid(GetTopTransactionIdIfAny()) ||
		IsolationUsesXactSnapshot();
}

bool
mlc_get_may_fill(void)
{
	return !must_read_row();
}

/* Had everything older than the bound's age been applied a moment ago? */
static bool
young_enough(const MlcBound *bound)
{
	MlcRelayShared *relay;
	TimestampTz fresh_at;

	if (bound == NULL || !bound->has_age)
		return true;
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("max_age cannot be kept on a standby"),
				 errdetail("A standby does not know how old its rows are."),
				 errhint("Use min_version, or read from the primary.")));
	relay = mlc_segment_my_relay();
	if (relay == NULL)
		return false;
	fresh_at = (TimestampTz) pg_atomic_read_u64(&relay->fresh_at);
	return fresh_at != 0 &&
		(GetCurrentTimestamp() - fresh_at) / 1000.0 <= bound->age;
}

/*
 * Has the relay applied the bound's version everywhere?  Then any hit from now
 * on will do: asked before the first look, since what was looked up before may
 * have gone meanwhile.
 */
static bool
is_applied(MlcVersion version)
{
	MlcRelayShared *relay = mlc_segment_my_relay();
	MlcVersion	safe;

	if (relay == NULL || RecoveryInProgress())
		return false;
	safe.lsn = pg_atomic_read_u64(&relay->safe_lsn);
	safe.tli = GetWALInsertionTimeLine();
	pg_read_barrier();
	return safe.lsn != InvalidXLogRecPtr &&
		mlc_version_compare(version, safe) <= 0;
}

/* What a snapshot taken before this call can have seen at most. */
static MlcVersion
end_of_wal(void)
{
	MlcVersion	end;

	if (RecoveryInProgress())
		end.lsn = GetXLogReplayRecPtr(&end.tli);
	else
	{
		end.lsn = mlc_wal_insert_end();
		end.tli = GetWALInsertionTimeLine();
	}
	return end;
}

static void
check_bound(const MlcBound *bound)
{
	char		text[MLC_VERSION_LEN + 1];

	if (mlc_ask_new_enough(bound, end_of_wal()))
		return;
	mlc_version_print(bound->version, text);
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("version %s has not arrived at this standby", text),
				 errhint("Try again, or read from the primary.")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("version %s is yet to come", text),
			 errhint("Take it from mlcache.last_commit_version().")));
}

/* Tells our leases from everybody else's: random, and a counter. */
static const char *
new_token(void)
{
	static char prefix[16 + 1];
	static uint64 counter = 0;
	static int	pid = 0;

	if (pid != MyProcPid)
	{
		uint64		random;

		if (!pg_strong_random(&random, sizeof(random)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a random token")));
		snprintf(prefix, sizeof(prefix), "%016llx", (unsigned long long) random);
		pid = MyProcPid;
	}
	return psprintf("%s-%llx", prefix, (unsigned long long) ++counter);
}

/* ---- loading and filling ---- */

/*
 * A standby may fill only if it has replayed what may be in Redis already,
 * and if Redis speaks of its own timeline.
 */
static bool
may_fill(MlcRead *read)
{
	MlcVersion	end;

	if (!RecoveryInProgress() || MLC_FAULT_SKIP("get-standby"))
		return true;
	end = end_of_wal();
	return end.tli == read->applied.tli &&
		mlc_version_compare(end, mlc_version_later(read->applied, read->applying)) >= 0;
}

/* Gives a lease back that will not be used; does not wait for the answer. */
static void
give_back(MlcRead *read)
{
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_invalidate");
	mlc_command_add_cstr(&cmd, "1");
	mlc_command_add(&cmd, read->key, read->keylen);
	mlc_command_add_cstr(&cmd, read->link->ns);
	mlc_command_add_cstr(&cmd, "");
	mlc_command_append(&cmd, read->link->conn);
	(void) mlc_conn_push(read->link->conn);
}

static void
load_row(MlcRead *read)
{
	char	   *payload = NULL;
	uint32		len = 0;
	MlcLoad		found;

	found = mlc_load_row(read->rule, read->key, read->keylen, &payload, &len,
						 &read->own);
	read->value = NULL;
	if (found == MLC_LOAD_FOUND)
	{
		read->value = cstring_to_text_with_len(payload, len);
		pfree(payload);
	}
	else if (found == MLC_LOAD_FOREIGN)
		read->own = false;
	read->source = MLC_FROM_ROW;
	read->lo = no_version;
}

/*
 * Loads what is left, all with one snapshot.  Returns the end of WAL read after
 * it was taken: it has seen no more.
 */
static MlcVersion
load(MlcRead *reads, int n, bool own_snapshot)
{
	MlcVersion	hi;

	MLC_FAULT("get-before-load");
	if (own_snapshot && !MLC_FAULT_SKIP("get-fresh-snapshot"))
		PushActiveSnapshot(GetLatestSnapshot());
	else if (own_snapshot)
		PushActiveSnapshot(GetActiveSnapshot());
	else
	{
		/* our own writes, those of the statement that calls us too */
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
	hi = end_of_wal();
	for (int i = 0; i < n; i++)
		if (reads[i].state != MLC_READ_DONE)
			load_row(&reads[i]);
	PopActiveSnapshot();
	return hi;
}

/* The same; where a loader fails, others need not wait for our leases. */
static MlcVersion
load_or_give_back(MlcRead *reads, int n, bool own_snapshot)
{
	MlcVersion	hi;

	PG_TRY();
	{
		hi = load(reads, n, own_snapshot);
	}
	PG_CATCH();
	{
		for (int i = 0; i < n; i++)
			if (reads[i].state == MLC_READ_LEASE)
				give_back(&reads[i]);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return hi;
}

static void
append_fill(MlcRead *read, const char *token, MlcVersion hi)
{
	char		lo[MLC_VERSION_LEN + 1];
	char		hitext[MLC_VERSION_LEN + 1];
	bool		absent = read->value == NULL;
	MlcCommand	cmd;

	mlc_version_print(read->applied, lo);
	mlc_version_print(hi, hitext);
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_fill");
	mlc_command_add_cstr(&cmd, "1");
	mlc_command_add(&cmd, read->key, read->keylen);
	mlc_command_add_cstr(&cmd, token);
	if (absent)
		mlc_command_add(&cmd, "", 0);
	else
		mlc_command_add(&cmd, VARDATA_ANY(read->value),
						VARSIZE_ANY_EXHDR(read->value));
	mlc_command_add_int(&cmd, read->pttl);
	mlc_command_add_cstr(&cmd, lo);
	mlc_command_add_cstr(&cmd, hitext);
	mlc_command_add_cstr(&cmd, absent ? "1" : "0");
	mlc_command_add_cstr(&cmd, read->link->ns);
	mlc_command_append(&cmd, read->link->conn);
}

/* How long what was loaded may be cached, ms; 0: no limit. */
static int64
time_to_live(MlcRead *read)
{
	if (read->value != NULL)
		return read->rule->ttl;
	return read->rule->negative_ttl > 0 ? read->rule->negative_ttl :
		mlc_negative_ttl;
}

static bool
is_fill(MlcRead *read, MlcLink *link)
{
	return read->state == MLC_READ_LEASE && read->link == link;
}

/* Fills one server with what was loaded under its leases. */
static void
fill_link(MlcLink *link, MlcRead *reads, int n, const char *token,
		  MlcVersion hi)
{
	uint64		start = mlc_stats_now();

	if (!mlc_conn_is_open(link->conn) || !mlc_link_drain(link))
		return;
	for (int i = 0; i < n; i++)
		if (is_fill(&reads[i], link))
		{
			reads[i].pttl = time_to_live(&reads[i]);
			append_fill(&reads[i], token, hi);
		}
	for (int i = 0; i < n; i++)
	{
		MlcReply   *reply;

		if (!is_fill(&reads[i], link))
			continue;
		reply = mlc_conn_reply(link->conn);
		if (reply == NULL)
		{
			mlc_link_fail(link);
			return;
		}
		reads[i].state = MLC_READ_DONE;
		if (reply->type != MLC_REPLY_STRING || strcmp(reply->str, "ok") != 0)
		{
			mlc_stats_rule(reads[i].rule->id, MLC_RULE_REFUSED, 1);
			continue;
		}
		mlc_stats_rule(reads[i].rule->id, MLC_RULE_FILLS, 1);
		reads[i].source = MLC_FROM_LOAD;
		reads[i].lo = reads[i].applied;
		if (reads[i].pttl == 0)
			reads[i].pttl = -1;
	}
	mlc_stats_since(MLC_TIME_FILL, start);
}

/*
 * The relay has purged a rule that is detached, maybe before we got our leases,
 * and will not come back to its keys.  Whoever holds a lock on the table already
 * hears of it here only.
 */
static void
forgo_detached(MlcRead *reads, int n, uint64 rules_seen)
{
	AcceptInvalidationMessages();
	if (mlc_rule_changes == rules_seen || MLC_FAULT_SKIP("get-detached"))
		return;
	for (int i = 0; i < n; i++)
		if (reads[i].state == MLC_READ_LEASE &&
			!mlc_rule_exists(reads[i].rule->id))
			reads[i].own = false;
}

/* Loads the rest, and fills where there is a lease. */
static void
load_and_fill(MlcRead *reads, int n, const char *token, bool own_snapshot,
			  uint64 rules_seen)
{
	MlcVersion	hi;
	bool		flushed = false;

	for (int i = 0; i < n; i++)
		if (reads[i].state == MLC_READ_LEASE && !may_fill(&reads[i]))
		{
			give_back(&reads[i]);
			reads[i].state = MLC_READ_ROW;
		}
	hi = load_or_give_back(reads, n, own_snapshot);
	if (token)
		forgo_detached(reads, n, rules_seen);
	for (int i = 0; i < n; i++)
	{
		MlcRead    *read = &reads[i];

		if (read->state != MLC_READ_LEASE)
			continue;
		if (!read->own || (read->value &&
						   VARSIZE_ANY_EXHDR(read->value) > MLC_FILL_MAX))
		{
			give_back(read);
			read->state = MLC_READ_ROW;
		}
		else if (!flushed)
		{
			/* a commit that nobody has flushed may yet be lost in a crash */
			if (!RecoveryInProgress() && !MLC_FAULT_SKIP("get-flush"))
				XLogFlush(hi.lsn);
			flushed = true;
			MLC_FAULT("get-before-fill");
		}
	}
	for (int i = 0; i < n; i++)
		if (reads[i].state == MLC_READ_LEASE)
			fill_link(reads[i].link, reads, n, token, hi);
}

/* ---- the read ---- */

/* The rule that gives the key; NULL: it is a free key, to be read as such. */
static MlcRule *
find_rule(const char *key, uint32 keylen)
{
	MlcRule    *rule = mlc_match_key(key, keylen);

	if (rule == NULL && mlc_free_is_readable())
	{
		mlc_free_check_key(key, keylen);
		return NULL;
	}
	if (rule == NULL || !mlc_match_check(rule->id))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no cache rule gives the key \"%s\"",
						pnstrdup(key, pg_mbcliplen(key, keylen, 100))),
				 errhint("SELECT mlcache.attach('table', key => 'prefix:{column}'); keys that mlcache.set() wrote are for members of mlcache_reader.")));
	return rule;
}

/*
 * COMMIT PREPARED cannot close lines of L1: while a transaction that changed
 * strong keys is prepared, L1 is not used.
 */
static bool
l1_is_safe(void)
{
	MlcRelayShared *relay = mlc_segment_my_relay();

	return relay != NULL &&
		(!mlc_segment_is_prepared(relay) || MLC_FAULT_SKIP("get-prepared"));
}

/*
 * A standby may show a commit before the primary does: of a strong rule it
 * gives what Redis vouches for, and nothing else.
 */
static void
check_standby(MlcRead *reads, int n)
{
	MlcRead    *read = NULL;

	if (!RecoveryInProgress())
		return;
	for (int i = 0; i < n; i++)
	{
		if (reads[i].state == MLC_READ_DONE ||
			reads[i].rule->consistency != MLC_STRONG)
			continue;
		read = &reads[i];
		if (read->state == MLC_READ_LEASE)
			give_back(read);
	}
	if (read)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("key \"%s\" of a strong rule is not cached, and this is a standby",
						pnstrdup(read->key, pg_mbcliplen(read->key, read->keylen, 100))),
				 errhint("Read it from the primary.")));
}

/* A key that no rule gives has no row: it is what Redis holds. */
static void
read_free(MlcRead *read, bool l1, const MlcBound *bound)
{
	if (mlc_free_pending(read->key, read->keylen, &read->value))
		return;
	if (!young_enough(bound))
		return;
	read->value = mlc_free_get(read->key, read->keylen, l1, &read->lo);
	if (read->value && !mlc_ask_new_enough(bound, read->lo))
		read->value = NULL;
	if (read->value)
		read->source = MLC_FROM_L2;
	else
		read->lo = no_version;
}

/* May the caller see this line of L1? */
static inline bool
may_show(int32 rule)
{
	if (unlikely(rule <= 0))
		return rule == MLC_RULE_FREE && mlc_free_from_l1();
	return mlc_match_check(rule);
}

/* The first look, without leaving this server. */
static void
look_up(MlcRead *read, bool cached, const MlcBound *bound)
{
	MlcL1Hit	hit;

	read->value = NULL;
	read->source = MLC_FROM_NOWHERE;
	read->lo = no_version;
	read->ticket.token = 0;
	read->state = MLC_READ_DONE;
	if (read->key == NULL)
		return;

	if (cached && l1_is_safe() && mlc_l1_get(read->key, read->keylen, &hit) &&
		mlc_ask_new_enough(bound, hit.lo) && may_show(hit.rule))
	{
		read->value = hit.value;
		read->source = MLC_FROM_L1;
		read->lo = hit.lo;
		mlc_stats_hit(hit.rule);
		return;
	}

	read->rule = find_rule(read->key, read->keylen);
	if (read->rule == NULL)
	{
		read_free(read, cached && l1_is_safe(), bound);
		return;
	}
	read->link = NULL;
	read->moved = false;
	read->busy = 0;
	read->own = false;
	read->pttl = -1;
	read->state = MLC_READ_ROW;
	if (!cached)
		return;
	read->link = mlc_link_find(read->rule, read->key, read->keylen);
	if (read->link && mlc_link_open(read->link))
	{
		if (l1_is_safe())
			mlc_l1_begin(read->key, read->keylen, &read->ticket);
		read->state = MLC_READ_ASK;
	}
}

static void
fill_l1(MlcRead *read)
{
	int64		ttl = read->pttl;

	if (read->ticket.token == 0 ||
		(read->source != MLC_FROM_L2 && read->source != MLC_FROM_LOAD))
		return;
	if (ttl == -2 || ttl == 0)
		return;					/* gone meanwhile */
	if (ttl < 0)
		ttl = read->value == NULL ? time_to_live(read) : 0;
	(void) mlc_l1_fill(&read->ticket, read->key, read->keylen, read->rule->id,
					   read->value ? VARDATA_ANY(read->value) : NULL,
					   read->value ? VARSIZE_ANY_EXHDR(read->value) : 0,
					   read->lo, ttl, NULL, 0);
}

static bool
any_is(MlcRead *reads, int n, MlcReadState state)
{
	for (int i = 0; i < n; i++)
		if (reads[i].state == state)
			return true;
	return false;
}

/* What the first look did not find. */
static void
go_on(MlcRead *reads, int n, bool own_snapshot, const MlcBound *bound,
	  uint64 rules_seen)
{
	const char *token = NULL;

	if (any_is(reads, n, MLC_READ_ASK))
	{
		MLC_FAULT("get-before-ask");
		token = new_token();
		mlc_ask(reads, n, token, bound);
	}
	check_standby(reads, n);
	if (any_is(reads, n, MLC_READ_LEASE) || any_is(reads, n, MLC_READ_ROW))
		load_and_fill(reads, n, token, own_snapshot, rules_seen);
	MLC_FAULT("get-before-l1");
	for (int i = 0; i < n; i++)
		fill_l1(&reads[i]);
}

/* The memory for a few keys is asked for before any of it is needed. */
static void
expect(MlcRead *reads, int n)
{
	uint64		hashes[EXPECT];

	for (int i = 0; i < n; i++)
		hashes[i] = reads[i].key ?
			mlc_l1_expect(reads[i].key, reads[i].keylen) : 0;
	for (int i = 0; i < n; i++)
		mlc_l1_expect_line(hashes[i]);
}

void
mlc_get_many(MlcRead *reads, int n, MlcBound *bound)
{
	bool		row = must_read_row();
	bool		cached = !row && young_enough(bound);
	bool		all_done = true;
	uint64		start = mlc_stats_sample();
	uint64		rules_seen = mlc_rule_changes;

	if (bound && bound->has_version)
	{
		check_bound(bound);
		bound->met = is_applied(bound->version);
	}
	for (int i = 0; i < n; i++)
	{
		if (n > 1 && cached && i % EXPECT == 0)
			expect(&reads[i], Min(EXPECT, n - i));
		look_up(&reads[i], cached, bound);
		all_done &= reads[i].state == MLC_READ_DONE;
	}
	if (!all_done && start == 0)
		start = mlc_stats_now();
	if (!all_done)
		go_on(reads, n, !row, bound, rules_seen);
	mlc_tally_reads(reads, n, cached, start);
	if (n > 0)
	{
		last_source = reads[n - 1].source;
		last_lo = reads[n - 1].lo;
	}
}

text *
mlc_get_one(const char *key, uint32 keylen, MlcBound *bound)
{
	MlcRead		read;

	mlc_heat_note(key, keylen);
	read.key = key;
	read.keylen = keylen;
	mlc_get_many(&read, 1, bound);
	return read.value;
}

void
mlc_get_set_last(MlcSource source, MlcVersion lo)
{
	last_source = source;
	last_lo = lo;
}

void
mlc_get_last(MlcSource *source, MlcVersion *lo)
{
	*source = last_source;
	*lo = last_lo;
}
