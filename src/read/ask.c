/*-------------------------------------------------------------------------
 *
 * read/ask.c
 *	  Asking Redis for keys: a look, then leases.
 *
 * Most keys are hits, and a hit needs no decision of Redis' but a condition
 * that holds at one instant: this process of Redis is armed with the nonce that
 * stands in the state key, and entry and guard are there.  So all that is
 * looked at in one MULTI with plain commands, which cost a third of what the
 * same costs in Lua, and decided here (as look() in lua/mlcache.lua does; the
 * two must agree).  What only the memory of the process knows is asked with
 * FCALL mlc_armed, which a replica refuses.
 *
 * Whatever is not a hit then goes through mlc_get or mlc_mget, which also decide
 * who loads.
 *
 * Locks: none.  Must not: throw for trouble with Redis.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "base/guc.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "read/ask.h"
#include "redis/cluster.h"
#include "redis/command.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#define KEYS_A_CALL 100			/* of mlc_mget, or a look */
#define LONGEST_PAUSE 20		/* ms between two questions for a busy key */

/* A guard of an entry: lo, '|', hi, and this; or of a row that is not there. */
#define HI_AT (MLC_VERSION_LEN + 1)
#define REST_AT (HI_AT + MLC_VERSION_LEN)
#define ENTRY_REST "||||||"
#define ABSENT_REST "||A||||"

bool
mlc_ask_new_enough(const MlcBound *bound, MlcVersion version)
{
	return bound == NULL || !bound->has_version || bound->met ||
		mlc_version_compare(version, bound->version) >= 0;
}

/* ---- calls ---- */

/* Does the answer come with how long the copy in L1 may live? */
static bool
with_pttl(MlcRead *read)
{
	return read->ticket.token != 0 && read->rule->ttl > 0;
}

/*
 * The next reads that ask this server, from *at on: as many as one call takes.
 * Calls are made up by their states, which must not change in between.  In a
 * cluster a call is for one slot, so it has one key.
 */
static int
next_call(MlcLink *link, MlcRead *reads, int n, int *at, MlcRead **call)
{
	int			max = mlc_link_is_cluster(link) ? 1 : KEYS_A_CALL;
	int			count = 0;

	for (; *at < n && count < max; (*at)++)
		if (reads[*at].state == MLC_READ_ASK && reads[*at].link == link)
			call[count++] = &reads[*at];
	return count;
}

static void
append_pttl(MlcCommand *cmd, MlcLink *link, const char *guard, size_t len)
{
	mlc_command_reset(cmd);
	mlc_command_add(cmd, "PTTL", 4);
	mlc_command_add(cmd, guard, len);
	mlc_command_append(cmd, link->conn);
}

static int64
pttl_of(MlcReply *reply)
{
	return reply->type == MLC_REPLY_INTEGER ? reply->integer : -2;
}

/* May the read have a copy that was removed, while somebody else loads? */
static bool
takes_stale(MlcRead *read, const MlcBound *bound)
{
	return read->rule->stale > 0 && bound == NULL;
}

/* One key or many: they differ in the shape of the answer. */
static void
append_call(MlcLink *link, MlcRead **call, int count, const char *token,
			const MlcBound *bound)
{
	MlcCommand	cmd;
	bool		stale = false;

	mlc_command_init(&cmd);
	mlc_command_add(&cmd, "FCALL", 5);
	mlc_command_add_cstr(&cmd, count == 1 ? "mlc_get" : "mlc_mget");
	mlc_command_add_int(&cmd, count);
	for (int i = 0; i < count; i++)
		mlc_command_add(&cmd, call[i]->key, call[i]->keylen);
	mlc_command_add_cstr(&cmd, token);
	mlc_command_add_int(&cmd, mlc_lease_timeout);
	mlc_command_add_cstr(&cmd, link->ns);
	for (int i = 0; i < count; i++)
		stale |= takes_stale(call[i], bound);
	if (stale)
		mlc_command_add_cstr(&cmd, "1");
	mlc_command_append(&cmd, link->conn);
	for (int i = 0; i < count; i++)
		if (with_pttl(call[i]))
		{
			StringInfoData guard;

			initStringInfo(&guard);
			mlc_key_guard(call[i]->key, call[i]->keylen, &guard);
			append_pttl(&cmd, link, guard.data, guard.len);
		}
}

bool
mlc_ask_version(const MlcReply *reply, size_t i, MlcVersion *version)
{
	return i < reply->nelements &&
		reply->elements[i]->type == MLC_REPLY_STRING &&
		mlc_version_parse(reply->elements[i]->str, reply->elements[i]->len,
						  version);
}

/* Anybody may have written it: false, it is of no use. */
static bool
take_value(MlcRead *read, MlcReply *payload)
{
	if (payload->len > MLC_FILL_MAX ||
		!pg_verifymbstr(payload->str, payload->len, true))
		return false;
	read->value = mlc_reply_text(payload);
	return true;
}

/* The value is there, or that there is none; is it as new as was asked for? */
static void
finish_hit(MlcRead *read, MlcVersion lo, const MlcBound *bound)
{
	read->lo = lo;
	read->source = MLC_FROM_L2;
	read->state = MLC_READ_DONE;
	if (!mlc_ask_new_enough(bound, lo))
	{
		read->value = NULL;
		read->source = MLC_FROM_NOWHERE;
		read->state = MLC_READ_ROW;
	}
}

/* A hit, or a hit on "there is no such row". */
static void
take_hit(MlcRead *read, MlcReply *reply, bool absent, const MlcBound *bound)
{
	size_t		at = absent ? 1 : 2;	/* lo, hi, applied */
	MlcVersion	lo;
	MlcVersion	applied;

	read->state = MLC_READ_ROW;
	if (!mlc_ask_version(reply, at, &lo) || !mlc_ask_version(reply, at + 2, &applied))
		return;
	if (!absent)
	{
		MlcReply   *payload = reply->elements[1];

		if (payload->type != MLC_REPLY_STRING || !take_value(read, payload))
			return;
	}
	finish_hit(read, mlc_version_later(lo, applied), bound);
}

/* What mlc_get answered; anything unexpected means: read the row. */
static void
take_answer(MlcRead *read, MlcReply *reply, const MlcBound *bound)
{
	const char *word;

	read->state = MLC_READ_ROW;
	read->moved = mlc_cluster_has_moved(reply);
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements == 0 ||
		reply->elements[0]->type != MLC_REPLY_STRING)
		return;
	word = reply->elements[0]->str;
	if (strcmp(word, "hit") == 0)
		take_hit(read, reply, false, bound);
	else if (strcmp(word, "absent") == 0)
		take_hit(read, reply, true, bound);
	else if (strcmp(word, "lease") == 0 &&
			 mlc_ask_version(reply, 1, &read->applied) &&
			 mlc_ask_version(reply, 2, &read->applying))
		read->state = MLC_READ_LEASE;
	else if (strcmp(word, "busy") == 0 && reply->nelements > 1 &&
			 reply->elements[1]->type == MLC_REPLY_INTEGER)
	{
		read->state = MLC_READ_ASK;
		read->busy = reply->elements[1]->integer;
		if (reply->nelements > 2 && takes_stale(read, bound) &&
			reply->elements[2]->type == MLC_REPLY_STRING &&
			take_value(read, reply->elements[2]))
		{
			read->source = MLC_FROM_STALE;
			read->state = MLC_READ_DONE;
		}
	}
}

/* Reads the answers to append_call(); false: the connection is lost. */
static bool
take_call(MlcLink *link, MlcRead **call, int count, const MlcBound *bound)
{
	MlcReply   *reply = mlc_conn_reply(link->conn);

	if (reply == NULL)
		return false;
	for (int i = 0; i < count; i++)
	{
		MlcReply   *pttl;

		call[i]->pttl = -1;
		if (!with_pttl(call[i]))
			continue;
		pttl = mlc_conn_reply(link->conn);
		if (pttl == NULL)
			return false;
		call[i]->pttl = pttl_of(pttl);
	}
	for (int i = 0; i < count; i++)
	{
		MlcReply   *answer = reply;

		if (count > 1 && reply->type == MLC_REPLY_ARRAY &&
			reply->nelements == (size_t) count)
			answer = reply->elements[i];
		take_answer(call[i], answer, bound);
	}
	return true;
}

/* All calls of one server; false: the connection is lost. */
static bool
ask_calls(MlcLink *link, MlcRead *reads, int n, const char *token,
		  const MlcBound *bound)
{
	MlcRead    *call[KEYS_A_CALL];
	int			count;
	int			at = 0;

	while ((count = next_call(link, reads, n, &at, call)) > 0)
		append_call(link, call, count, token, bound);
	at = 0;
	while ((count = next_call(link, reads, n, &at, call)) > 0)
		if (!take_call(link, call, count, bound))
			return false;
	return true;
}

/* ---- a look ---- */

static void
append_plain(MlcCommand *cmd, MlcLink *link, const char *word)
{
	mlc_command_reset(cmd);
	mlc_command_add_cstr(cmd, word);
	mlc_command_append(cmd, link->conn);
}

static void
append_look(MlcLink *link, MlcRead **call, int count)
{
	uint32		ends[KEYS_A_CALL];
	StringInfoData guards;
	MlcCommand	cmd;

	initStringInfo(&guards);
	for (int i = 0; i < count; i++)
	{
		mlc_key_guard(call[i]->key, call[i]->keylen, &guards);
		ends[i] = guards.len;
	}

	mlc_command_init(&cmd);
	append_plain(&cmd, link, "MULTI");
	mlc_command_reset(&cmd);
	mlc_command_add(&cmd, "FCALL", 5);
	mlc_command_add(&cmd, "mlc_armed", 9);
	mlc_command_add(&cmd, "0", 1);
	mlc_command_add_cstr(&cmd, link->ns);
	mlc_command_append(&cmd, link->conn);
	mlc_command_reset(&cmd);
	mlc_command_add(&cmd, "HMGET", 5);
	mlc_command_add_cstr(&cmd, link->state);
	mlc_command_add(&cmd, "nonce", 5);
	mlc_command_add(&cmd, "applied", 7);
	mlc_command_append(&cmd, link->conn);
	mlc_command_reset(&cmd);
	mlc_command_add(&cmd, "MGET", 4);
	for (int i = 0; i < count; i++)
	{
		uint32		start = i == 0 ? 0 : ends[i - 1];

		mlc_command_add(&cmd, call[i]->key, call[i]->keylen);
		mlc_command_add(&cmd, guards.data + start, ends[i] - start);
	}
	mlc_command_append(&cmd, link->conn);
	for (int i = 0; i < count; i++)
		if (with_pttl(call[i]))
		{
			uint32		start = i == 0 ? 0 : ends[i - 1];

			append_pttl(&cmd, link, guards.data + start, ends[i] - start);
		}
	append_plain(&cmd, link, "EXEC");
}

static bool
is_string(MlcReply *reply, size_t len)
{
	return reply->type == MLC_REPLY_STRING && reply->len == len;
}

/* May this process of Redis serve, and what has been applied there? */
static bool
serves(MlcReply *armed, MlcReply *state, MlcVersion *applied)
{
	if (state->type != MLC_REPLY_ARRAY || state->nelements != 2 ||
		!mlc_ask_version(state, 1, applied))
		return false;
	return MLC_FAULT_SKIP("get-armed") ||
		(armed->type == MLC_REPLY_STRING && armed->len > 0 &&
		 is_string(state->elements[0], armed->len) &&
		 memcmp(state->elements[0]->str, armed->str, armed->len) == 0);
}

/* Entry and guard of one key: a hit, or nothing is said. */
static void
take_pair(MlcRead *read, MlcReply *payload, MlcReply *guard,
		  MlcVersion applied, const char *applied_text, const MlcBound *bound)
{
	MlcVersion	lo = applied;

	if (guard->type != MLC_REPLY_STRING || guard->len <= REST_AT ||
		guard->str[MLC_VERSION_LEN] != '|' ||
		(memcmp(guard->str, applied_text, MLC_VERSION_LEN) > 0 &&
		 !mlc_version_parse(guard->str, MLC_VERSION_LEN, &lo)))
		return;
	if (payload->type == MLC_REPLY_STRING)
	{
		if (strcmp(guard->str + REST_AT, ENTRY_REST) != 0 ||
			!take_value(read, payload))
			return;
	}
	else if (payload->type != MLC_REPLY_NIL ||
			 strcmp(guard->str + REST_AT, ABSENT_REST) != 0)
		return;
	finish_hit(read, lo, bound);
}

/* Reads the answers to append_look(); false: the connection is lost. */
static bool
take_look(MlcLink *link, MlcRead **call, int count, const MlcBound *bound)
{
	int			npttl = 0;
	int			at = 3;
	MlcReply   *reply;
	MlcReply   *values;
	MlcVersion	applied;

	for (int i = 0; i < count; i++)
		npttl += with_pttl(call[i]);

	/* MULTI, the commands; an error comes back from EXEC as well */
	for (int i = 0; i < 1 + 3 + npttl; i++)
		if (!mlc_conn_skip(link->conn))
			return false;
	reply = mlc_conn_reply(link->conn);
	if (reply == NULL)
		return false;
	if (reply->type != MLC_REPLY_ARRAY ||
		reply->nelements != (size_t) (3 + npttl) ||
		reply->elements[0]->type == MLC_REPLY_ERROR)
	{
		/* not allowed, or another library: it will not change so soon */
		link->no_look = true;
		return true;
	}
	values = reply->elements[2];
	if (!serves(reply->elements[0], reply->elements[1], &applied) ||
		values->type != MLC_REPLY_ARRAY ||
		values->nelements != (size_t) (2 * count))
		return true;
	for (int i = 0; i < count; i++)
	{
		if (with_pttl(call[i]))
			call[i]->pttl = pttl_of(reply->elements[at++]);
		take_pair(call[i], values->elements[2 * i], values->elements[2 * i + 1],
				  applied, reply->elements[1]->elements[1]->str, bound);
	}
	return true;
}

/* All looks of one server; false: the connection is lost. */
static bool
look_calls(MlcLink *link, MlcRead *reads, int n, const char *token,
		   const MlcBound *bound)
{
	MlcRead    *call[KEYS_A_CALL];
	int			count;
	int			at = 0;

	while ((count = next_call(link, reads, n, &at, call)) > 0)
		append_look(link, call, count);
	at = 0;
	while ((count = next_call(link, reads, n, &at, call)) > 0)
		if (!take_look(link, call, count, bound))
			return false;
	return true;
}

/* ---- servers ---- */

typedef bool (*Exchange) (MlcLink *link, MlcRead *reads, int n,
						  const char *token, const MlcBound *bound);

/*
 * Asks one server for all reads that are to ask it.  What it does not answer is
 * read from the row.
 */
static void
talk(MlcLink *link, MlcRead *reads, int n, const char *token,
	 const MlcBound *bound, Exchange exchange)
{
	for (int attempt = 0; attempt < 2; attempt++)
	{
		bool		was_open = mlc_conn_is_open(link->conn);

		if (!mlc_link_open(link))
			break;
		if (mlc_link_drain(link) && exchange(link, reads, n, token, bound))
		{
			mlc_link_good(link);
			return;
		}

		/* the server may have closed it while it was idle */
		if (!was_open || attempt > 0)
		{
			mlc_link_fail(link);
			break;
		}
		mlc_conn_close(link->conn);
	}
	for (int i = 0; i < n; i++)
		if (reads[i].state == MLC_READ_ASK && reads[i].link == link)
			reads[i].state = MLC_READ_ROW;
}

/* Asks all servers once; true if a key was busy. */
static bool
ask_once(MlcRead *reads, int n, const char *token, const MlcBound *bound)
{
	bool		busy = false;

	/* the first read of a server asks for all that are to ask it */
	for (int i = 0; i < n; i++)
		if (reads[i].state == MLC_READ_ASK && reads[i].busy == 0)
			talk(reads[i].link, reads, n, token, bound, ask_calls);
	for (int i = 0; i < n; i++)
		busy |= reads[i].state == MLC_READ_ASK;
	return busy;
}

/* The first read of a server looks for all that are to ask it. */
static void
look_once(MlcRead *reads, int n, const char *token, const MlcBound *bound)
{
	static uint64 round = 0;

	round++;
	for (int i = 0; i < n; i++)
	{
		MlcLink    *link = reads[i].link;

		if (reads[i].state != MLC_READ_ASK || link->look_round == round ||
			link->no_look || mlc_link_is_cluster(link))
			continue;			/* in a cluster, MULTI is for one slot */
		link->look_round = round;
		talk(link, reads, n, token, bound, look_calls);
	}
}

/*
 * Keys of a cluster that a node has not any more are asked for at the node
 * that has them now.  True if there are any.
 */
static bool
follow(MlcRead *reads, int n)
{
	bool		any = false;

	for (int i = 0; i < n; i++)
		if (reads[i].state == MLC_READ_ROW && reads[i].moved)
			mlc_link_moved(reads[i].link);
	for (int i = 0; i < n; i++)
	{
		if (reads[i].state != MLC_READ_ROW || !reads[i].moved)
			continue;
		reads[i].moved = false;
		reads[i].link = mlc_link_find(reads[i].rule, reads[i].key,
									  reads[i].keylen);
		if (reads[i].link && mlc_link_open(reads[i].link))
		{
			reads[i].state = MLC_READ_ASK;
			any = true;
		}
	}
	return any;
}

void
mlc_ask(MlcRead *reads, int n, const char *token, const MlcBound *bound)
{
	TimestampTz start = 0;
	long		pause = 1;
	bool		busy;

	if (!MLC_FAULT_SKIP("get-look"))
		look_once(reads, n, token, bound);
	busy = ask_once(reads, n, token, bound);
	if (follow(reads, n))
		busy = ask_once(reads, n, token, bound);
	for (; busy; busy = ask_once(reads, n, token, bound))
	{
		TimestampTz now = GetCurrentTimestamp();
		long		left;
		int			rc;

		if (start == 0)
			start = now;
		left = mlc_lease_wait - (now - start) / 1000;
		if (left <= 0)
			break;
		MLC_FAULT("get-busy");
		rc = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					   Min(pause, left), PG_WAIT_EXTENSION);
		if (rc & WL_LATCH_SET)
			ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		pause = Min(pause * 2, LONGEST_PAUSE);
		for (int i = 0; i < n; i++)
			reads[i].busy = 0;
	}
	for (int i = 0; i < n; i++)
		if (reads[i].state == MLC_READ_ASK)
			reads[i].state = MLC_READ_ROW;
}
