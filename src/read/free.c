/*-------------------------------------------------------------------------
 *
 * read/free.c
 *	  Keys that no rule gives: their names, who may read them, and what Redis
 *	  holds under them.
 *
 * There is no row behind such a key: what Redis does not hold, or does not
 * vouch for, is not there.  Nobody takes a lease for it.  L1 has copies of what
 * Redis held, never that it held nothing: anybody outside may fill it.  A key's
 * tags are known with what is found there, since the guard tells them
 * (lua/tag.lua); where it does not, the copy in L1 is void when any tag is
 * invalidated.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/fault.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "model/key.h"
#include "read/free.h"
#include "read/link.h"
#include "redis/cluster.h"
#include "redis/command.h"
#include "shm/l1.h"
#include "shm/stats.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define READER_ROLE "mlcache_reader"

bool		(*mlc_free_pending) (const char *key, uint32 keylen, text * *value) = NULL;
bool		(*mlc_free_is_writing) (void) = NULL;

void
mlc_free_index_text(StringInfo out, char kind, const char *text, uint32 len)
{
	appendStringInfoChar(out, kind);
	if (kind == MLC_INDEX_FREE)
		return;
	appendStringInfoChar(out, ':');
	for (uint32 i = 0; i < len; i++)
		if (text[i] == '{' || text[i] == '}' || text[i] == '%')
			appendStringInfo(out, "%%%02X", (unsigned char) text[i]);
		else
			appendStringInfoChar(out, text[i]);
}

void
mlc_free_index(StringInfo out, const char *ns, int slot, char kind,
			   const char *text, uint32 len)
{
	if (slot == MLC_NO_SLOT)
		appendStringInfo(out, "mlc:tag:%s:", ns);
	else
		appendStringInfo(out, "mlc:state:{%u}tag:%s:", mlc_cluster_tag(slot), ns);
	mlc_free_index_text(out, kind, text, len);
}

void
mlc_free_check_key(const char *key, uint32 keylen)
{
	MlcKeyError error;

	if (!mlc_key_check(key, keylen, &error))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid key \"%s\"",
						pnstrdup(key, pg_mbcliplen(key, keylen, 100))),
				 errdetail("%s", error.detail),
				 error.hint ? errhint("%s", error.hint) : 0));
	if (key[0] == MLC_FETCH_PREFIX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid key \"%s\"",
						pnstrdup(key, pg_mbcliplen(key, keylen, 100))),
				 errdetail("Keys that begin with \"%c\" are kept for mlcache.fetch().",
						   MLC_FETCH_PREFIX)));
}

bool
mlc_free_is_readable(void)
{
	Oid			role = get_role_oid(READER_ROLE, true);

	return superuser() ||
		(OidIsValid(role) && has_privs_of_role(GetUserId(), role));
}

MlcLink *
mlc_free_link(const char *key, uint32 keylen)
{
	return mlc_link_node(mlc_link_default(), key, keylen);
}

MlcLink *
mlc_free_follow(MlcLink *link, const char *key, uint32 keylen)
{
	mlc_link_moved(link);
	return mlc_link_node(mlc_link_whole(link), key, keylen);
}

int
mlc_free_slot(MlcLink *link, const char *key, uint32 keylen)
{
	return mlc_link_is_cluster(link) ? mlc_cluster_slot(key, keylen) : MLC_NO_SLOT;
}

/* A command; asking: for a key that the node is just receiving. */
static void
append(MlcLink *link, MlcCommand *cmd, bool asking)
{
	MlcCommand	first;

	if (asking)
	{
		mlc_command_init(&first);
		mlc_command_add_cstr(&first, "ASKING");
		mlc_command_append(&first, link->conn);
	}
	mlc_command_append(cmd, link->conn);
}

static MlcReply *
reply_to(MlcLink *link, bool asking)
{
	return asking && mlc_conn_reply(link->conn) == NULL ? NULL :
		mlc_conn_reply(link->conn);
}

static MlcReply *
ask(MlcLink *link, MlcCommand *question, const char *key, uint32 keylen,
	int64 *pttl, bool asking)
{
	StringInfoData guard;
	MlcCommand	cmd;
	MlcReply   *reply;
	MlcReply   *left;

	append(link, question, asking);
	if (pttl)
	{
		initStringInfo(&guard);
		mlc_key_guard(key, keylen, &guard);
		mlc_command_init(&cmd);
		mlc_command_add_cstr(&cmd, "PTTL");
		mlc_command_add(&cmd, guard.data, guard.len);
		append(link, &cmd, asking);
	}
	reply = reply_to(link, asking);
	if (reply == NULL)
		return NULL;
	mlc_link_good(link);
	if (pttl)
	{
		left = reply_to(link, asking);
		*pttl = left && left->type == MLC_REPLY_INTEGER ? left->integer : -2;
	}
	return reply;
}

MlcReply *
mlc_free_ask(MlcLink *link, MlcCommand *question, const char *key,
			 uint32 keylen, int64 *pttl)
{
	return ask(link, question, key, keylen, pttl, false);
}

/* One question; NULL: Redis is out of reach.  *pttl as of mlc_free_ask(). */
static MlcReply *
peek(MlcLink *link, const char *key, uint32 keylen, int64 *pttl, bool asking)
{
	for (int attempt = 0; attempt < 2; attempt++)
	{
		bool		was_open = mlc_conn_is_open(link->conn);

		if (!mlc_link_open(link))
			return NULL;
		if (mlc_link_drain(link))
		{
			MlcCommand	cmd;
			MlcReply   *reply;

			mlc_command_init(&cmd);
			mlc_command_add_cstr(&cmd, "FCALL");
			mlc_command_add_cstr(&cmd, "mlc_peek");
			mlc_command_add_cstr(&cmd, "1");
			mlc_command_add(&cmd, key, keylen);
			mlc_command_add_cstr(&cmd, link->ns);
			mlc_command_add_cstr(&cmd, "1");
			reply = ask(link, &cmd, key, keylen, pttl, asking);
			if (reply)
				return reply;
		}

		/* the server may have closed it while it was idle */
		if (!was_open || attempt > 0)
		{
			mlc_link_fail(link);
			return NULL;
		}
		mlc_conn_close(link->conn);
	}
	return NULL;
}

/*
 * The same of a cluster, whichever node has the key.  There is no row to fall
 * back on, so one that is on its way is followed, too.
 */
static MlcReply *
peek_anywhere(MlcLink *link, const char *key, uint32 keylen, int64 *pttl)
{
	MlcReply   *reply = peek(link, key, keylen, pttl, false);

	if (reply && mlc_cluster_has_moved(reply))
	{
		link = mlc_free_follow(link, key, keylen);
		reply = link ? peek(link, key, keylen, pttl, false) : NULL;
	}
	if (reply && reply->type == MLC_REPLY_ERROR &&
		!MLC_FAULT_SKIP("free-follow"))
	{
		link = mlc_link_ask(link, reply->str);
		reply = link ? peek(link, key, keylen, pttl, true) : NULL;
	}
	return reply;
}

static bool
version_of(MlcReply *reply, MlcVersion *version)
{
	return reply->type == MLC_REPLY_STRING &&
		mlc_version_parse(reply->str, reply->len, version);
}

/* What peek() was answered; NULL: nothing is there, or it is of no use. */
static text *
take(MlcReply *reply, MlcVersion *version)
{
	MlcReply   *payload;
	MlcVersion	applied;

	if (reply == NULL || reply->type != MLC_REPLY_ARRAY ||
		reply->nelements < 5 ||
		reply->elements[0]->type != MLC_REPLY_STRING ||
		strcmp(reply->elements[0]->str, "hit") != 0 ||
		!version_of(reply->elements[2], version) ||
		!version_of(reply->elements[4], &applied))
		return NULL;

	/* anybody may have written it */
	payload = reply->elements[1];
	if (payload->type != MLC_REPLY_STRING || payload->len > MaxAllocSize / 2 ||
		!pg_verifymbstr(payload->str, payload->len, true))
		return NULL;
	*version = mlc_version_later(applied, *version);
	return cstring_to_text_with_len(payload->str, payload->len);
}

/* One number, of four hex digits; false: it is none. */
static bool
take_number(const char *text, MlcL1Tag *tag)
{
	int			number = 0;

	for (int i = 0; i < 4; i++)
	{
		int			digit = text[i] >= '0' && text[i] <= '9' ? text[i] - '0' :
		text[i] >= 'a' && text[i] <= 'f' ? text[i] - 'a' + 10 : -1;

		if (digit < 0)
			return false;
		number = number * 16 + digit;
	}
	*tag = number;
	return true;
}

/* The tags of what peek() found: 'G' and their numbers. */
static int
take_tags(MlcReply *reply, MlcL1Tag tags[MLC_L1_MAX_TAGS])
{
	MlcReply   *text = reply->nelements > 5 ? reply->elements[5] : NULL;
	int			n;

	tags[0] = MLC_L1_ANY_TAG;
	if (text == NULL || text->type != MLC_REPLY_STRING || text->str[0] != 'G' ||
		text->len % 4 != 1 || text->len / 4 > MLC_L1_MAX_TAGS)
		return MLC_FAULT_SKIP("free-any-tag") ? 0 : 1;
	for (n = 0; n < (int) text->len / 4; n++)
		if (!take_number(text->str + 1 + 4 * n, &tags[n]))
		{
			tags[0] = MLC_L1_ANY_TAG;
			return 1;
		}
	return n;
}

bool
mlc_free_from_l1(void)
{
	return !mlc_free_is_writing() && mlc_free_is_readable();
}

text *
mlc_free_get(const char *key, uint32 keylen, bool l1, MlcVersion *version)
{
	MlcLink    *link = mlc_free_link(key, keylen);
	MlcL1Ticket ticket = {0};
	int64		pttl = -2;
	MlcReply   *reply = NULL;
	text	   *value;

	if (link && l1)
		mlc_l1_begin(key, keylen, &ticket);
	MLC_FAULT("free-before-ask");
	if (link)
		reply = peek_anywhere(link, key, keylen, &pttl);
	value = take(reply, version);
	MLC_FAULT("free-before-l1");
	if (value && ticket.token != 0 && pttl != -2 && pttl != 0)
	{
		MlcL1Tag	tags[MLC_L1_MAX_TAGS];
		int			ntags = take_tags(reply, tags);

		(void) mlc_l1_fill(&ticket, key, keylen, MLC_RULE_FREE,
						   VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value),
						   *version, Max(pttl, 0), tags, ntags);
	}
	mlc_stats_rule(MLC_RULE_FREE,
				   value ? MLC_RULE_HITS_L2 : MLC_RULE_MISSES, 1);
	return value;
}
