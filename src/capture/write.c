/*-------------------------------------------------------------------------
 *
 * capture/write.c
 *	  Writing to the cache as part of the transaction: keys of no rule, and
 *	  invalidations by key, tag and pattern.
 *
 * Only checks and collects: the dirty set (capture/xact.c) carries it into
 * WAL, and the relay to the servers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "capture/write.h"
#include "capture/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "model/glob.h"
#include "read/free.h"
#include "read/link.h"
#include "read/match.h"
#include "utils/lsyscache.h"

/* Without a rule there is no relay, and nobody would deliver. */
static void
check_relay(const char *function)
{
	MlcRelayShared *relay;

	mlc_segment_require();
	PreventCommandIfReadOnly(function);
	relay = mlc_segment_my_relay();
	if ((relay == NULL || !relay->wanted) && mlc_rule_every() == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s needs a relay, and this database has none", function),
				 errdetail("A relay runs while there is a cache rule."),
				 errhint("SELECT mlcache.attach('table', key => 'prefix:{column}');")));
}

static void
check_no_rule(const char *function, const char *key, uint32 keylen)
{
	MlcRule    *rule = mlc_match_key(key, keylen);

	if (rule == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("%s cannot change key \"%s\", which is a row's", function,
					pnstrdup(key, pg_mbcliplen(key, keylen, 100))),
			 errdetail("Cache rule '%s' of table \"%s\" gives it; what is cached there is what the table holds.",
					   rule->key, get_rel_name(rule->relid)),
			 errhint("Change the row, or SELECT mlcache.invalidate('%s');",
					 pnstrdup(key, pg_mbcliplen(key, keylen, 100)))));
}

void
mlc_write_set(const char *key, uint32 keylen, const char *value,
			  uint32 valuelen, int64 ttl, int ntags,
			  const char *const *tags, const uint32 *lens)
{
	StringInfoData body;

	check_relay("mlcache.set()");
	mlc_free_check_key(key, keylen);
	check_no_rule("mlcache.set()", key, keylen);
	if (mlc_link_default() == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("mlcache.set() needs a server"),
				 errhint("CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://localhost:6379');")));
	if (valuelen > MLC_WRITE_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("value of key \"%s\" is too long",
						pnstrdup(key, pg_mbcliplen(key, keylen, 100))),
				 errdetail("It has %u bytes; at most %d are possible.",
						   valuelen, MLC_WRITE_MAX)));
	initStringInfo(&body);
	mlc_event_body_make(&body, ttl, ntags, tags, lens, value, valuelen);
	mlc_xact_add_free(MLC_OP_SET, key, keylen, body.data, body.len);
	pfree(body.data);
}

void
mlc_write_touch(const char *key, uint32 keylen, int64 ttl)
{
	StringInfoData body;

	check_relay("mlcache.touch()");
	mlc_free_check_key(key, keylen);
	check_no_rule("mlcache.touch()", key, keylen);
	initStringInfo(&body);
	mlc_event_body_make(&body, ttl, 0, NULL, NULL, "", 0);
	mlc_xact_add_free(MLC_OP_TOUCH, key, keylen, body.data, body.len);
	pfree(body.data);
}

void
mlc_write_delete(const char *key, uint32 keylen)
{
	check_relay("mlcache.delete()");
	mlc_free_check_key(key, keylen);
	mlc_xact_add_free(MLC_OP_DELETE, key, keylen, NULL, 0);
}

void
mlc_write_invalidate(const char *key, uint32 keylen)
{
	check_relay("mlcache.invalidate()");
	mlc_free_check_key(key, keylen);
	mlc_xact_add_free(MLC_OP_INVALIDATE, key, keylen, NULL, 0);
}

void
mlc_write_invalidate_tag(const char *tag, uint32 len)
{
	check_relay("mlcache.invalidate_tag()");
	mlc_xact_add_free(MLC_OP_TAG, tag, len, NULL, 0);
}

void
mlc_write_invalidate_pattern(const char *glob, uint32 len)
{
	check_relay("mlcache.invalidate_pattern()");
	if (len == 0 || len > MLC_KEY_MAX_LEN || !mlc_glob_is_whole(glob, len))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_ESCAPE_SEQUENCE),
				 errmsg("invalid pattern \"%s\"",
						pnstrdup(glob, pg_mbcliplen(glob, len, 100))),
				 errdetail("A pattern is a glob of Redis: * and ? stand for any bytes, [a-z] for one of a class, and \\ takes away their meaning."),
				 errhint("SELECT mlcache.invalidate_pattern('product:*');")));
	mlc_xact_add_free(MLC_OP_PATTERN, glob, len, NULL, 0);
}
