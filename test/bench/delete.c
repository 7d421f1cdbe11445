/*-------------------------------------------------------------------------
 *
 * test/bench/delete.c
 *	  A peer: a row trigger that deletes the row's entry from Redis and waits
 *	  for the answer.
 *
 * CREATE TRIGGER ... EXECUTE FUNCTION sync_delete('SOCKET', 'PREFIX'); the key
 * is the prefix and the row's first column.  No protection from a reader that
 * puts the old row back before the commit: the least that a trigger can do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"

#include <hiredis/hiredis.h>

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(sync_delete);

static redisContext *redis;

Datum
sync_delete(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	char	   *id = SPI_getvalue(data->tg_trigtuple, data->tg_relation->rd_att, 1);
	redisReply *reply;

	if (redis == NULL)
		redis = redisConnectUnix(data->tg_trigger->tgargs[0]);
	reply = redis && !redis->err ?
		redisCommand(redis, "DEL %s%s", data->tg_trigger->tgargs[1], id) : NULL;
	if (reply == NULL || reply->type != REDIS_REPLY_INTEGER)
		elog(ERROR, "no answer");
	freeReplyObject(reply);
	PG_RETURN_POINTER(NULL);
}
