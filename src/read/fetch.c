/*-------------------------------------------------------------------------
 *
 * read/fetch.c
 *	  The result of any query, cached under a key and tags.
 *
 * The order of things is that of read/get: a lease, then a new snapshot, then
 * hi = the end of WAL, then the query, WAL flushed, the fill.  With the lease
 * the key enters the indexes of its tags (lua/tag.lua), so an invalidation of a
 * tag takes the lease of who is still running the query, too.
 *
 * A copy is shown to the role alone that it was made for: the key in Redis has
 * a hash of the role, the query, its parameters and all settings that its
 * result may depend on in front of the caller's key.  That one is an index of
 * its own, through which mlcache.invalidate(key) finds them all.  And rights are
 * checked each time, hit or not (read/query.c).
 *
 * L1 comes first, as in read/get: a ticket before Redis is asked, its fill when
 * that of Redis was accepted.  The line's tags are the caller's tags and key.
 *
 * A transaction that has an xid, keeps a snapshot, or has invalidated
 * something runs the query and caches nothing.  So does whoever finds Redis
 * out of reach, not armed (there is no relay), or somebody else running the
 * query for longer than mlcache.lease_wait.
 *
 * Locks: none are held across a wait.  Must not: throw for trouble with Redis.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/wal.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "model/key.h"
#include "pgstat.h"
#include "read/ask.h"
#include "read/fetch.h"
#include "read/free.h"
#include "read/query.h"
#include "redis/cluster.h"
#include "redis/command.h"
#include "shm/l1.h"
#include "shm/segment.h"
#include "shm/stats.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define HASH_BYTES 16			/* of SHA-256, in the key */
#define LONGEST_PAUSE 20		/* ms between two questions for a busy key */
#define TOKEN_LEN 32

/* What Redis has to say, and what came of it. */
typedef enum FetchState
{
	FETCH_HIT_L1,
	FETCH_HIT,
	FETCH_LEASE,				/* we run the query and fill */
	FETCH_BUSY,
	FETCH_RUN					/* we run the query */
} FetchState;

/* A call under way. */
typedef struct Call
{
	const MlcFetch *fetch;
	MemoryContext caller;		/* of the answer */
	MlcQuery   *query;
	MlcLink    *link;
	StringInfoData key;			/* in Redis */
	char		token[TOKEN_LEN + 1];
	FetchState	state;
	MlcSource	source;			/* of the value */
	text	   *value;
	bool		moved;			/* another master has the key */
	MlcVersion	lo;
	MlcVersion	applied;		/* as the lease said */
	MlcL1Ticket ticket;
	int64		pttl;			/* ms that the entry lives; -1: for ever */
} Call;

/* ---- the key ---- */

/* Settings that the text of a result, or what a query means, depends on. */
static const char *const settings[] = {
	"search_path", "DateStyle", "IntervalStyle", "TimeZone",
	"timezone_abbreviations", "extra_float_digits", "bytea_output",
	"lc_monetary", "lc_numeric", "lc_time", "xmlbinary", "xmloption",
	"default_text_search_config", "array_nulls", "transform_null_equals",
	"standard_conforming_strings", "row_security"
};

static void
put_bytes(StringInfo out, const char *data, int len)
{
	appendBinaryStringInfo(out, (const char *) &len, sizeof(len));
	appendBinaryStringInfo(out, data, len);
}

static void
put_text(StringInfo out, const char *text)
{
	if (text)
		put_bytes(out, text, strlen(text));
	else
	{
		int			none = -1;

		appendBinaryStringInfo(out, (const char *) &none, sizeof(none));
	}
}

/* All that two calls must have in common to see one copy. */
static void
describe(const MlcFetch *fetch, StringInfo out)
{
	Oid			roles[2] = {GetUserId(), GetSessionUserId()};

	if (MLC_FAULT_SKIP("fetch-role"))
		roles[0] = roles[1] = InvalidOid;
	put_bytes(out, (const char *) roles, sizeof(roles));
	put_text(out, fetch->query);
	put_bytes(out, (const char *) &fetch->nparams, sizeof(fetch->nparams));
	for (int i = 0; i < fetch->nparams; i++)
		put_text(out, fetch->params[i]);
	put_bytes(out, (const char *) &fetch->ttl, sizeof(fetch->ttl));
	put_bytes(out, (const char *) &fetch->ntags, sizeof(fetch->ntags));
	for (int i = 0; i < fetch->ntags; i++)
		put_bytes(out, fetch->tags[i], fetch->lens[i]);
	for (int i = 0; i < (int) lengthof(settings); i++)
		put_text(out, GetConfigOption(settings[i], true, false));
}

static void
make_key(const MlcFetch *fetch, StringInfo key)
{
	StringInfoData text;
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
	MlcKeyError error;

	initStringInfo(&text);
	describe(fetch, &text);
	if (pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (uint8 *) text.data, text.len) < 0 ||
		pg_cryptohash_final(context, digest, sizeof(digest)) < 0)
	{
		pg_cryptohash_free(context);
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute a SHA-256 hash")));
	}
	pg_cryptohash_free(context);
	pfree(text.data);

	initStringInfo(key);
	appendStringInfoChar(key, MLC_FETCH_PREFIX);
	for (int i = 0; i < HASH_BYTES; i++)
		appendStringInfo(key, "%02x", digest[i]);
	appendStringInfoChar(key, ':');
	appendBinaryStringInfo(key, fetch->key, fetch->keylen);
	if (!mlc_key_check(key->data, key->len, &error))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid key \"%s\"",
						pnstrdup(fetch->key, pg_mbcliplen(fetch->key, fetch->keylen, 100))),
				 errdetail("%s", error.detail)));
}

static void
make_token(char *token)
{
	uint8		random[TOKEN_LEN / 2];

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random token")));
	for (int i = 0; i < (int) sizeof(random); i++)
		sprintf(token + 2 * i, "%02x", random[i]);
}

static void
came_from(Call *call, MlcSource source, MlcVersion lo)
{
	call->source = source;
	mlc_get_set_last(source, lo);
}

/* ---- L1 ---- */

/* A line there, or a ticket for it. */
static void
look_up(Call *call)
{
	MlcL1Hit	hit;
	MemoryContext old = MemoryContextSwitchTo(call->caller);
	bool		found = mlc_l1_get(call->key.data, call->key.len, &hit);

	MemoryContextSwitchTo(old);
	if (found && hit.rule == MLC_RULE_FETCHED)
	{
		call->value = hit.value;
		call->lo = hit.lo;
		call->state = FETCH_HIT_L1;
		return;
	}
	mlc_l1_begin(call->key.data, call->key.len, &call->ticket);
}

/* Of what Redis holds now, for the rest of its life. */
static void
fill_l1(Call *call, MlcVersion lo, int64 ttl)
{
	const MlcFetch *fetch = call->fetch;
	MlcL1Tag	tags[MLC_L1_MAX_TAGS];

	MLC_FAULT("fetch-before-l1");
	if (call->ticket.token == 0 || ttl == -2 || ttl == 0 ||
		fetch->ntags >= MLC_L1_MAX_TAGS)
		return;
	tags[0] = mlc_l1_tag(MLC_INDEX_FETCHED, fetch->key, fetch->keylen);
	for (int i = 0; i < fetch->ntags; i++)
		tags[i + 1] = mlc_l1_tag(MLC_INDEX_TAG, fetch->tags[i], fetch->lens[i]);
	(void) mlc_l1_fill(&call->ticket, call->key.data, call->key.len,
					   MLC_RULE_FETCHED, VARDATA_ANY(call->value),
					   VARSIZE_ANY_EXHDR(call->value), lo, Max(ttl, 0), tags,
					   1 + fetch->ntags);
}

/* ---- asking Redis ---- */

static void
add_index(MlcCommand *cmd, Call *call, char kind, const char *text, uint32 len)
{
	StringInfoData name;

	initStringInfo(&name);
	mlc_free_index(&name, call->link->ns,
				   mlc_free_slot(call->link, call->key.data, call->key.len),
				   kind, text, len);
	mlc_command_add(cmd, name.data, name.len);
}

/* A standby takes no lease: it only looks. */
static void
make_question(MlcCommand *cmd, Call *call)
{
	const MlcFetch *fetch = call->fetch;
	bool		looks = RecoveryInProgress();

	mlc_command_init(cmd);
	mlc_command_add_cstr(cmd, "FCALL");
	mlc_command_add_cstr(cmd, looks ? "mlc_peek" : "mlc_get_tagged");
	mlc_command_add_int(cmd, looks ? 1 : 2 + fetch->ntags);
	mlc_command_add(cmd, call->key.data, call->key.len);
	if (!looks)
	{
		add_index(cmd, call, MLC_INDEX_FETCHED, fetch->key, fetch->keylen);
		for (int i = 0; i < fetch->ntags; i++)
			add_index(cmd, call, MLC_INDEX_TAG, fetch->tags[i], fetch->lens[i]);
		mlc_command_add_cstr(cmd, call->token);
		mlc_command_add_int(cmd, mlc_lease_timeout);
	}
	mlc_command_add_cstr(cmd, call->link->ns);
	if (!looks)
		mlc_command_add_int(cmd, fetch->ttl);
}

static void
take_hit(Call *call, MlcReply *reply)
{
	MlcReply   *payload = reply->elements[1];
	MlcVersion	applied;
	MemoryContext old;

	/* anybody may have written it */
	if (payload->type != MLC_REPLY_STRING || payload->len > MLC_FILL_MAX ||
		!pg_verifymbstr(payload->str, payload->len, true) ||
		!mlc_ask_version(reply, 2, &call->lo) || !mlc_ask_version(reply, 4, &applied))
		return;
	if (mlc_version_compare(applied, call->lo) > 0)
		call->lo = applied;
	old = MemoryContextSwitchTo(call->caller);
	call->value = cstring_to_text_with_len(payload->str, payload->len);
	MemoryContextSwitchTo(old);
	call->state = FETCH_HIT;
}

/* Anything unexpected means: run the query. */
static void
take_answer(Call *call, MlcReply *reply)
{
	const char *word;

	call->state = FETCH_RUN;
	call->moved = mlc_cluster_has_moved(reply);
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements == 0 ||
		reply->elements[0]->type != MLC_REPLY_STRING)
		return;
	word = reply->elements[0]->str;
	if (strcmp(word, "hit") == 0 && reply->nelements == 5)
		take_hit(call, reply);
	else if (strcmp(word, "lease") == 0 && mlc_ask_version(reply, 1, &call->applied))
		call->state = FETCH_LEASE;
	else if (strcmp(word, "busy") == 0)
		call->state = FETCH_BUSY;
}

static void
ask_link(Call *call)
{
	call->state = FETCH_RUN;
	call->moved = false;
	for (int attempt = 0; attempt < 2; attempt++)
	{
		bool		was_open = mlc_conn_is_open(call->link->conn);

		if (!mlc_link_open(call->link))
			return;
		if (mlc_link_drain(call->link))
		{
			bool		asks = call->ticket.token != 0 && call->fetch->ttl > 0;
			MlcCommand	cmd;
			MlcReply   *reply;

			make_question(&cmd, call);
			call->pttl = -1;
			reply = mlc_free_ask(call->link, &cmd, call->key.data,
								 call->key.len, asks ? &call->pttl : NULL);
			if (reply)
			{
				take_answer(call, reply);
				return;
			}
		}

		/* the server may have closed it while it was idle */
		if (!was_open || attempt > 0)
		{
			mlc_link_fail(call->link);
			return;
		}
		mlc_conn_close(call->link->conn);
	}
}

static void
ask_once(Call *call)
{
	MlcLink    *link;

	ask_link(call);
	if (!call->moved)
		return;
	link = mlc_free_follow(call->link, call->key.data, call->key.len);
	if (link == NULL)
		return;
	call->link = link;
	ask_link(call);
}

/* Asks until there is an answer, or others have been waited for long enough. */
static void
ask(Call *call)
{
	TimestampTz start = GetCurrentTimestamp();
	long		pause = 1;

	for (;;)
	{
		long		left;
		int			rc;

		ask_once(call);
		if (call->state != FETCH_BUSY)
			return;
		left = mlc_lease_wait - (GetCurrentTimestamp() - start) / 1000;
		if (left <= 0)
			break;
		MLC_FAULT("fetch-busy");
		rc = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					   Min(pause, left), PG_WAIT_EXTENSION);
		if (rc & WL_LATCH_SET)
			ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		pause = Min(pause * 2, LONGEST_PAUSE);
	}
	call->state = FETCH_RUN;
}

/* Gives the lease back; does not wait for the answer. */
static void
give_back(Call *call)
{
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_invalidate");
	mlc_command_add_cstr(&cmd, "1");
	mlc_command_add(&cmd, call->key.data, call->key.len);
	mlc_command_add_cstr(&cmd, call->link->ns);
	mlc_command_add_cstr(&cmd, "");
	mlc_command_append(&cmd, call->link->conn);
	(void) mlc_conn_push(call->link->conn);
	call->state = FETCH_RUN;
}

static void
fill(Call *call, MlcVersion hi)
{
	char		lo[MLC_VERSION_LEN + 1];
	char		hitext[MLC_VERSION_LEN + 1];
	MlcCommand	cmd;
	MlcReply   *reply;

	if (!mlc_conn_is_open(call->link->conn) || !mlc_link_drain(call->link))
		return;
	mlc_version_print(call->applied, lo);
	mlc_version_print(hi, hitext);
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_fill");
	mlc_command_add_cstr(&cmd, "1");
	mlc_command_add(&cmd, call->key.data, call->key.len);
	mlc_command_add_cstr(&cmd, call->token);
	mlc_command_add(&cmd, VARDATA_ANY(call->value), VARSIZE_ANY_EXHDR(call->value));
	mlc_command_add_int(&cmd, call->fetch->ttl);
	mlc_command_add_cstr(&cmd, lo);
	mlc_command_add_cstr(&cmd, hitext);
	mlc_command_add_cstr(&cmd, "0");
	mlc_command_add_cstr(&cmd, call->link->ns);
	reply = mlc_command_call(&cmd, call->link->conn);
	if (reply == NULL)
	{
		mlc_link_fail(call->link);
		return;
	}
	if (reply->type != MLC_REPLY_STRING || strcmp(reply->str, "ok") != 0)
	{
		mlc_stats_rule(MLC_RULE_FETCHED, MLC_RULE_REFUSED, 1);
		return;
	}
	mlc_stats_rule(MLC_RULE_FETCHED, MLC_RULE_FILLS, 1);
	came_from(call, MLC_FROM_LOAD, call->applied);
	fill_l1(call, call->applied,
			call->fetch->ttl > 0 ? call->fetch->ttl : -1);
}

/* ---- the call ---- */

/* Must this transaction see more, or less, than a cache shows? */
static bool
must_run(void)
{
	return TransactionIdIsValid(GetTopTransactionIdIfAny()) ||
		IsolationUsesXactSnapshot() || mlc_free_is_writing();
}

/* Is there a relay that invalidates, as far as this server can tell? */
static bool
is_followed(void)
{
	MlcRelayShared *relay = mlc_segment_my_relay();

	return RecoveryInProgress() || (relay != NULL && relay->wanted);
}

/* Runs the query, and fills where there is a lease. */
static void
run(Call *call, bool own_snapshot)
{
	MlcVersion	none = {0, 0};
	MlcVersion	hi = none;

	MLC_FAULT("fetch-before-run");
	if (own_snapshot && MLC_FAULT_SKIP("fetch-fresh-snapshot"))
		PushActiveSnapshot(GetActiveSnapshot());
	else if (own_snapshot)
		PushActiveSnapshot(GetLatestSnapshot());
	else
	{
		/* our own writes, those of the statement that calls us too */
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
	if (call->state == FETCH_LEASE)
	{
		hi.lsn = mlc_wal_insert_end();
		hi.tli = GetWALInsertionTimeLine();
	}
	call->value = mlc_query_run(call->query, call->fetch->params,
								GetActiveSnapshot());
	PopActiveSnapshot();
	came_from(call, MLC_FROM_ROW, none);
	if (call->state != FETCH_LEASE)
		return;

	/* a query that wrote has seen what may yet be rolled back */
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()) ||
		VARSIZE_ANY_EXHDR(call->value) > MLC_FILL_MAX)
	{
		give_back(call);
		return;
	}

	/* a commit that nobody has flushed may yet be lost in a crash */
	XLogFlush(hi.lsn);
	MLC_FAULT("fetch-before-fill");
	fill(call, hi);
}

/* The answer, from wherever it is to be had. */
static void
answer(Call *call, bool may_cache)
{
	if (may_cache && is_followed() && mlc_query_uncacheable(call->query) == NULL)
		call->link = mlc_free_link(call->key.data, call->key.len);
	if (call->link)
	{
		MLC_FAULT("fetch-before-ask");
		look_up(call);
	}
	if (call->link && call->state != FETCH_HIT_L1)
	{
		make_token(call->token);
		ask(call);
	}
	switch (call->state)
	{
		case FETCH_HIT_L1:
			came_from(call, MLC_FROM_L1, call->lo);
			mlc_stats_rule(MLC_RULE_FETCHED, MLC_RULE_HITS_L1, 1);
			break;
		case FETCH_HIT:
			came_from(call, MLC_FROM_L2, call->lo);
			mlc_stats_rule(MLC_RULE_FETCHED, MLC_RULE_HITS_L2, 1);
			fill_l1(call, call->lo, call->pttl);
			break;
		default:
			mlc_stats_rule(MLC_RULE_FETCHED,
						   call->link ? MLC_RULE_MISSES : MLC_RULE_BYPASSED, 1);
			run(call, may_cache);
	}
}

static void
time_call(const Call *call, uint64 start)
{
	switch (call->source)
	{
		case MLC_FROM_L1:
			mlc_stats_since(MLC_TIME_FETCH_L1, start);
			break;
		case MLC_FROM_L2:
			mlc_stats_since(MLC_TIME_FETCH_L2, start);
			break;
		case MLC_FROM_LOAD:
			mlc_stats_since(MLC_TIME_FETCH_LOAD, start);
			break;
		default:
			mlc_stats_since(MLC_TIME_FETCH_ROW, start);
			break;
	}
}

text *
mlc_fetch(const MlcFetch *fetch)
{
	Call		call;
	bool		may_cache = !must_run();
	uint64		start = mlc_stats_now();

	mlc_free_check_key(fetch->key, fetch->keylen);
	memset(&call, 0, sizeof(call));
	call.fetch = fetch;
	call.caller = CurrentMemoryContext;
	call.state = FETCH_RUN;
	make_key(fetch, &call.key);
	call.query = mlc_query_open(fetch->query, fetch->nparams);
	PG_TRY();
	{
		answer(&call, may_cache);
	}
	PG_CATCH();
	{
		if (call.state == FETCH_LEASE)
			give_back(&call);
		mlc_query_abandon(call.query);
		PG_RE_THROW();
	}
	PG_END_TRY();
	mlc_query_close(call.query);
	time_call(&call, start);
	return call.value;
}
