/*-------------------------------------------------------------------------
 *
 * audit/look.c
 *	  What a Redis says of itself: memory, eviction policy, clock.
 *
 * Leases, marks and ttls end by the clock of Redis alone, so it does not matter
 * how far it is from ours; but when the distance changes at once, some of them
 * have ended early or late.
 *
 * Nodes of a cluster come and go, while its url names those of the beginning.
 * The relay remembers the masters, but one that begins anew knows the url only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "audit/look.h"
#include "base/guc.h"
#include "redis/cluster.h"
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

/* One node; false: it is out of reach. */
static bool
look_at_node(const MlcRedisOptions *node, MlcRedisLook *look)
{
	MlcRedisOptions options = *node;
	MlcConn    *conn;
	MlcReply   *info;
	MlcReply   *time;
	TimestampTz before;
	TimestampTz after;
	const char *host;
	int			port;

	options.connect_timeout = Min(options.connect_timeout, PATIENCE);
	options.timeout = Min(options.timeout, PATIENCE);
	conn = mlc_conn_create(CurrentMemoryContext, &options);
	if (!mlc_conn_open(conn))
		return false;
	before = GetCurrentTimestamp();
	time = mlc_command_simple(conn, "TIME", NULL);
	after = GetCurrentTimestamp();
	info = time ? mlc_command_simple(conn, "INFO", NULL) : NULL;
	host = mlc_conn_host(conn);
	port = mlc_conn_port(conn);
	mlc_conn_close(conn);
	if (info == NULL)
		return false;

	look->at = after;
	if (node->sentinel && host)
	{
		strlcpy(look->host, host, sizeof(look->host));
		look->port = port;
	}
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

/* The masters of a cluster that the relay delivers to; knows no slots. */
static MlcClusterMap *
known_masters(MlcRelayShared *relay, Oid serverid)
{
	MlcClusterMap *map = palloc0(sizeof(MlcClusterMap));
	MlcTargetStat stats[MLC_MAX_TARGETS];

	LWLockAcquire(mlc_shared->lock, LW_SHARED);
	memcpy(stats, relay->targets, sizeof(stats));
	LWLockRelease(mlc_shared->lock);
	for (int i = 0; i < MLC_MAX_TARGETS && map->nnodes < MLC_MAX_NODES; i++)
	{
		char	   *colon = strrchr(stats[i].node, ':');

		if (stats[i].state == MLC_TARGET_UNUSED ||
			stats[i].serverid != serverid || colon == NULL)
			continue;
		map->nodes[map->nnodes].host = pnstrdup(stats[i].node,
												colon - stats[i].node);
		map->nodes[map->nnodes++].port = atoi(colon + 1);
	}
	return map;
}

/* Would a relay that knows this node alone find the cluster of the map? */
static bool
leads_there(const MlcRedisOptions *options, const MlcSeed *seed,
			const MlcClusterMap *map)
{
	MlcNode		node = {seed->host, seed->port, 0};
	char	   *error;
	MlcClusterMap *its = mlc_cluster_ask_node(options, &node, &error);

	for (int i = 0; its && i < its->nnodes; i++)
		for (int k = 0; k < map->nnodes; k++)
			if (mlc_cluster_same_node(&its->nodes[i], &map->nodes[k]))
				return true;
	return false;
}

static int
count_seeds(const MlcRedisOptions *options, const MlcClusterMap *map)
{
	int			n = 0;

	for (int i = 0; i < options->nseeds; i++)
		n += leads_there(options, &options->seeds[i], map);
	return n;
}

/* All nodes of a server, up to so many; returns how many answered. */
static int
look_at_server(MlcRelayShared *relay, MlcServer *server, MlcRedisLook *looks,
			   int max)
{
	MlcRedisOptions options = server->options;
	MlcClusterMap *map;
	char	   *error;
	int			left;
	int			n = 0;

	memset(looks, 0, sizeof(MlcRedisLook) * max);
	if (options.nseeds == 0)
	{
		looks[0].serverid = server->serverid;
		return look_at_node(&options, &looks[0]) ? 1 : 0;
	}
	options.connect_timeout = Min(options.connect_timeout, PATIENCE);
	options.timeout = Min(options.timeout, PATIENCE);
	map = mlc_cluster_find(&options, NULL,
						   known_masters(relay, server->serverid), &error);
	left = map ? count_seeds(&options, map) : 0;
	for (int i = 0; map && i < map->nnodes && n < max; i++)
	{
		MlcRedisOptions node;

		looks[n].serverid = server->serverid;
		strlcpy(looks[n].host, map->nodes[i].host, sizeof(looks[n].host));
		looks[n].port = map->nodes[i].port;
		looks[n].seeds = options.nseeds;
		looks[n].seeds_left = left;
		mlc_cluster_options(&options, &map->nodes[i], &node);
		if (look_at_node(&node, &looks[n]))
			n++;
	}
	return n;
}

/*
 * Has the clock jumped since an earlier look?  A Redis that was restarted is
 * another one, and starts anew.
 */
static void
compare(const MlcRedisLook *before, MlcRedisLook *after)
{
	double		jump = after->clock_ms - before->clock_ms;

	if (before->serverid != after->serverid || before->port != after->port ||
		strcmp(before->host, after->host) != 0 ||
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

int
mlc_look_at_all(MlcRelayShared *relay, const MlcRedisLook *before, int nbefore,
				MlcRedisLook *looks)
{
	MlcTargetStat servers[MLC_MAX_TARGETS];
	int			n = 0;

	mlc_segment_read_servers(relay, servers);
	for (int i = 0; i < MLC_MAX_TARGETS && n < MLC_MAX_TARGETS; i++)
	{
		MlcServer  *server = NULL;

		if (servers[i].state == MLC_TARGET_ARMED ||
			servers[i].state == MLC_TARGET_CATCHUP)
			server = mlc_server_find(servers[i].serverid);
		if (server)
			n += look_at_server(relay, server, looks + n, MLC_MAX_TARGETS - n);
	}
	for (int i = 0; i < n; i++)
		for (int k = 0; k < nbefore; k++)
			compare(&before[k], &looks[i]);
	return n;
}

static char *
cli(const MlcRedisOptions *options, const char *host, int port)
{
	char	   *where;

	if (options->path)
		where = psprintf("redis-cli -s %s", options->path);
	else
		where = psprintf("redis-cli -h %s -p %d%s", host, port,
						 options->tls ? " --tls" : "");
	if (options->username)
		where = psprintf("%s --user %s --askpass", where, options->username);
	else if (options->password)
		where = psprintf("%s --askpass", where);
	return where;
}

char *
mlc_look_cli(MlcServer *server, const MlcRedisLook *look)
{
	if (look->host[0])
		return cli(&server->options, look->host, look->port);
	return cli(&server->options, server->options.host, server->options.port);
}

char *
mlc_look_ping(MlcServer *server)
{
	const MlcRedisOptions *options = &server->options;

	if (options->sentinel)
		return psprintf("redis-cli -h %s -p %d SENTINEL MASTER %s",
						options->sentinels[0].host, options->sentinels[0].port,
						options->sentinel);
	if (options->nseeds > 0)
		return psprintf("%s CLUSTER NODES",
						cli(options, options->seeds[0].host, options->seeds[0].port));
	return psprintf("%s PING", cli(options, options->host, options->port));
}
