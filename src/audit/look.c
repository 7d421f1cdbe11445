/*-------------------------------------------------------------------------
 *
 * audit/look.c
 *	  What a Redis says of itself: memory, eviction policy, clock.
 *
 * Leases, marks and ttls end by the clock of Redis alone, so it does not matter
 * how far it is from ours; but when the distance changes at once, some of them
 * have ended early or late.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "audit/look.h"
#include "base/fault.h"
#include "base/guc.h"
#include "redis/command.h"
#include "utils/timestamp.h"

#define PATIENCE 1000			/* ms that a Redis may take */

/* The value of a line "name:value" of INFO; "" where there is none. */
static char *
field(const char *info, const char *name)
{
	size_t		len = strlen(name);
	const char *p = info;

	while (p && *p)
	{
		if (strncmp(p, name, len) == 0 && p[len] == ':')
			return pnstrdup(p + len + 1, strcspn(p + len + 1, "\r\n"));
		p = strchr(p, '\n');
		if (p)
			p++;
	}
	return pstrdup("");
}

static int64
number(const char *info, const char *name)
{
	return strtoll(field(info, name), NULL, 10);
}

/* ms since 1970, as TIME answers; 0: not an answer. */
static double
redis_time(MlcReply *reply)
{
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements != 2 ||
		reply->elements[0]->type != MLC_REPLY_STRING ||
		reply->elements[1]->type != MLC_REPLY_STRING)
		return 0;
	return strtoll(reply->elements[0]->str, NULL, 10) * 1000.0 +
		strtoll(reply->elements[1]->str, NULL, 10) / 1000.0;
}

static double
our_time(TimestampTz at)
{
	return at / 1000.0 +
		(double) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000;
}

bool
mlc_look_at_redis(MlcServer *server, MlcRedisLook *look)
{
	MlcRedisOptions options = server->options;
	MlcConn    *conn;
	MlcReply   *info;
	MlcReply   *time;
	TimestampTz before;
	TimestampTz after;

	options.connect_timeout = Min(options.connect_timeout, PATIENCE);
	options.timeout = Min(options.timeout, PATIENCE);
	conn = mlc_conn_create(CurrentMemoryContext, &options);
	if (!mlc_conn_open(conn))
		return false;
	before = GetCurrentTimestamp();
	time = mlc_command_simple(conn, "TIME", NULL);
	after = GetCurrentTimestamp();
	info = time ? mlc_command_simple(conn, "INFO", NULL) : NULL;
	mlc_conn_close(conn);
	if (info == NULL)
		return false;

	look->serverid = server->serverid;
	look->at = after;
	look->clock_ms = 0;
	if (redis_time(time) != 0)
		look->clock_ms = redis_time(time) - our_time(before + (after - before) / 2);
	if (info->type != MLC_REPLY_STRING)
		return true;
	strlcpy(look->policy, field(info->str, "maxmemory_policy"),
			sizeof(look->policy));
	strlcpy(look->run_id, field(info->str, "run_id"), sizeof(look->run_id));
	look->used = number(info->str, "used_memory");
	look->max = number(info->str, "maxmemory");
	look->rss = number(info->str, "used_memory_rss");
	look->evicted = number(info->str, "evicted_keys");
	return true;
}

void
mlc_look_compare(const MlcRedisLook *before, MlcRedisLook *after)
{
	double		jump = after->clock_ms - before->clock_ms;

	if (before->serverid != after->serverid || before->at == 0 ||
		strcmp(before->run_id, after->run_id) != 0)
		return;
	after->jumped_at = before->jumped_at;
	after->jumped_ms = before->jumped_ms;
	if (mlc_alert_clock > 0 && fabs(jump) > mlc_alert_clock)
	{
		after->jumped_at = after->at;
		after->jumped_ms = jump;
	}
}

char *
mlc_look_cli(MlcServer *server)
{
	const MlcRedisOptions *options = &server->options;
	char	   *where;

	if (options->path)
		where = psprintf("redis-cli -s %s", options->path);
	else
		where = psprintf("redis-cli -h %s -p %d%s", options->host, options->port,
						 options->tls ? " --tls" : "");
	if (options->username)
		where = psprintf("%s --user %s --askpass", where, options->username);
	else if (options->password)
		where = psprintf("%s --askpass", where);
	return where;
}
