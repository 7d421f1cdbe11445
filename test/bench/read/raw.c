/*-------------------------------------------------------------------------
 *
 * test/bench/read/raw.c
 *	  The yardstick: GET and MGET through blocking hiredis, and nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include <hiredis/hiredis.h>

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(raw_get);
PG_FUNCTION_INFO_V1(raw_mget);

static redisContext *redis;

/* One connection a session, to the socket that its first call names. */
static void
need_connection(text *socket)
{
	if (redis == NULL)
		redis = redisConnectUnix(text_to_cstring(socket));
	if (redis == NULL || redis->err)
		elog(ERROR, "no connection");
}

/* key, socket */
Datum
raw_get(PG_FUNCTION_ARGS)
{
	text	   *key = PG_GETARG_TEXT_PP(0);
	redisReply *reply;
	text	   *value;

	need_connection(PG_GETARG_TEXT_PP(1));
	reply = redisCommand(redis, "GET %b", VARDATA_ANY(key),
						 (size_t) VARSIZE_ANY_EXHDR(key));
	if (reply == NULL || reply->type != REDIS_REPLY_STRING)
		elog(ERROR, "no value");
	value = cstring_to_text_with_len(reply->str, reply->len);
	freeReplyObject(reply);
	PG_RETURN_TEXT_P(value);
}

/* keys, socket; how many values there are */
Datum
raw_mget(PG_FUNCTION_ARGS)
{
	Datum	   *keys;
	int			n;
	const char **argv;
	size_t	   *lens;
	redisReply *reply;
	int			found = 0;

	need_connection(PG_GETARG_TEXT_PP(1));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false,
					  TYPALIGN_INT, &keys, NULL, &n);
	argv = palloc(sizeof(char *) * (n + 1));
	lens = palloc(sizeof(size_t) * (n + 1));
	argv[0] = "MGET";
	lens[0] = 4;
	for (int i = 0; i < n; i++)
	{
		argv[i + 1] = VARDATA_ANY(DatumGetTextPP(keys[i]));
		lens[i + 1] = VARSIZE_ANY_EXHDR(DatumGetTextPP(keys[i]));
	}
	reply = redisCommandArgv(redis, n + 1, argv, lens);
	if (reply == NULL || reply->type != REDIS_REPLY_ARRAY)
		elog(ERROR, "no values");
	for (size_t i = 0; i < reply->elements; i++)
		found += reply->element[i]->type == REDIS_REPLY_STRING;
	freeReplyObject(reply);
	PG_RETURN_INT32(found);
}
