/*-------------------------------------------------------------------------
 *
 * read/free.c
 *	  Keys that no rule gives: their names, who may read them, and what Redis
 *	  holds under them.
 *
 * There is no row behind such a key: what Redis does not hold, or does not
 * vouch for, is not there.  Nobody takes a lease for it, and L1 never has it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "model/key.h"
#include "read/free.h"
#include "read/link.h"
#include "redis/command.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define READER_ROLE "mlcache_reader"

bool		(*mlc_free_pending) (const char *key, uint32 keylen, text * *value) = NULL;
bool		(*mlc_free_is_writing) (void) = NULL;

void
mlc_free_index(StringInfo out, const char *ns, char kind, const char *text,
			   uint32 len)
{
	appendStringInfo(out, "mlc:tag:%s:%c", ns, kind);
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
mlc_free_link(void)
{
	MlcLink    *link = mlc_link_default();

	return link && !mlc_link_is_cluster(link) ? link : NULL;
}

/* One question; NULL: Redis is out of reach. */
static MlcReply *
peek(MlcLink *link, const char *key, uint32 keylen)
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
			reply = mlc_command_call(&cmd, link->conn);
			if (reply)
			{
				mlc_link_good(link);
				return reply;
			}
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

static bool
version_of(MlcReply *reply, MlcVersion *version)
{
	return reply->type == MLC_REPLY_STRING &&
		mlc_version_parse(reply->str, reply->len, version);
}

text *
mlc_free_get(const char *key, uint32 keylen, MlcVersion *version)
{
	MlcLink    *link = mlc_free_link();
	MlcReply   *reply = link ? peek(link, key, keylen) : NULL;
	MlcReply   *payload;
	MlcVersion	applied;

	if (reply == NULL || reply->type != MLC_REPLY_ARRAY ||
		reply->nelements != 5 ||
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
	if (mlc_version_compare(applied, *version) > 0)
		*version = applied;
	return cstring_to_text_with_len(payload->str, payload->len);
}
