/*-------------------------------------------------------------------------
 *
 * sql/stat.c
 *	  SQL: counters of servers, rules and operations, check_setup, reset_stats.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "capture/ready.h"
#include "capture/decode.h"
#include "fmgr.h"
#include "funcapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "model/version.h"
#include "redis/cluster.h"
#include "redis/command.h"
#include "redis/script.h"
#include "redis/server.h"
#include "relay/slot.h"
#include "shm/consistency.h"
#include "shm/l1.h"
#include "shm/segment.h"
#include "shm/stats.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(mlc_stat_get_servers);
PG_FUNCTION_INFO_V1(mlc_stat_get_nodes);
PG_FUNCTION_INFO_V1(mlc_stat_get_rules);
PG_FUNCTION_INFO_V1(mlc_stat_get_operations);
PG_FUNCTION_INFO_V1(mlc_reset_stats);
PG_FUNCTION_INFO_V1(mlc_check_setup);

static const char *
state_name(MlcTargetState state)
{
	switch (state)
	{
		case MLC_TARGET_UNUSED:
			return "unused";
		case MLC_TARGET_DOWN:
			return "down";
		case MLC_TARGET_CATCHUP:
			return "catch-up";
		case MLC_TARGET_ARMED:
			return "armed";
		case MLC_TARGET_PAUSED:
			return "paused";
		case MLC_TARGET_GIVEN_UP:
			return "given up";
	}
	return "?";
}

#define STAT_COLUMNS 19

/* mlcache.stat_get_servers() */
Datum
mlc_stat_get_servers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MlcRelayShared *relay;
	MlcTargetStat stats[MLC_MAX_TARGETS];
	int64		retained;
	XLogRecPtr	now;

	InitMaterializedSRF(fcinfo, 0);
	mlc_segment_require();
	relay = mlc_segment_my_relay();
	if (relay == NULL || RecoveryInProgress())
		return (Datum) 0;

	mlc_segment_read_servers(relay, stats);
	retained = mlc_slot_usage(MyDatabaseId, NULL, NULL);
	now = GetXLogWriteRecPtr();

	for (int i = 0; i < MLC_MAX_TARGETS; i++)
	{
		MlcTargetStat *stat = &stats[i];
		Datum		values[STAT_COLUMNS];
		bool		nulls[STAT_COLUMNS] = {false};
		MlcVersion	applied;
		char		text[MLC_VERSION_LEN + 1];
		double		seconds;
		int			n = 0;

		if (stat->state == MLC_TARGET_UNUSED)
			continue;
		applied.tli = stat->applied_tli;
		applied.lsn = stat->applied_lsn;
		mlc_version_print(applied, text);
		seconds = Max(1, GetCurrentTimestamp() - stat->catch_up_at) / 1e6;

		values[n++] = ObjectIdGetDatum(stat->serverid);
		values[n++] = CStringGetTextDatum(state_name(stat->state));
		nulls[n] = applied.lsn == InvalidXLogRecPtr;
		values[n++] = CStringGetTextDatum(text);
		nulls[n] = applied.lsn == InvalidXLogRecPtr;
		values[n++] = Int64GetDatum(now > applied.lsn ? now - applied.lsn : 0);
		nulls[n] = stat->applied_commit == 0;
		values[n++] = Float8GetDatum(stat->lag_ms);
		nulls[n] = stat->applied_commit == 0;
		values[n++] = Float8GetDatum(stat->lag_ms_max);
		nulls[n] = retained < 0;
		values[n++] = Int64GetDatum(retained);
		values[n++] = Int64GetDatum(stat->batches);
		values[n++] = Int64GetDatum(stat->invalidated);
		values[n++] = Int64GetDatum(stat->updated);
		values[n++] = Int64GetDatum(stat->skipped);
		values[n++] = Int64GetDatum(stat->purges);
		values[n++] = Int64GetDatum(stat->errors);
		values[n++] = Int64GetDatum(stat->reconnects);
		nulls[n] = stat->error[0] == '\0';
		values[n++] = CStringGetTextDatum(stat->error);
		nulls[n] = stat->error_at == 0;
		values[n++] = TimestampTzGetDatum(stat->error_at);
		values[n++] = Int64GetDatum(applied.lsn - stat->catch_up_from);
		values[n++] = Int64GetDatum(now - stat->catch_up_from);
		values[n++] = Float8GetDatum((applied.lsn - stat->catch_up_from) / seconds);
		Assert(n == STAT_COLUMNS);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

#define NODE_COLUMNS 11

/* mlcache.stat_get_nodes() */
Datum
mlc_stat_get_nodes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MlcRelayShared *relay;
	MlcTargetStat *stats = palloc(sizeof(MlcTargetStat) * MLC_MAX_TARGETS);

	InitMaterializedSRF(fcinfo, 0);
	mlc_segment_require();
	relay = mlc_segment_my_relay();
	if (relay == NULL || RecoveryInProgress())
		return (Datum) 0;
	LWLockAcquire(mlc_shared->lock, LW_SHARED);
	memcpy(stats, relay->targets, sizeof(MlcTargetStat) * MLC_MAX_TARGETS);
	LWLockRelease(mlc_shared->lock);
	for (int i = 0; i < MLC_MAX_TARGETS; i++)
	{
		MlcTargetStat *stat = &stats[i];
		Datum		values[NODE_COLUMNS];
		bool		nulls[NODE_COLUMNS] = {false};
		MlcVersion	applied = {stat->applied_tli, stat->applied_lsn};
		char		text[MLC_VERSION_LEN + 1];
		int			n = 0;

		if (stat->state == MLC_TARGET_UNUSED || stat->node[0] == '\0')
			continue;
		mlc_version_print(applied, text);
		values[n++] = ObjectIdGetDatum(stat->serverid);
		values[n++] = CStringGetTextDatum(stat->node);
		values[n++] = CStringGetTextDatum(state_name(stat->state));
		nulls[n] = applied.lsn == InvalidXLogRecPtr;
		values[n++] = CStringGetTextDatum(text);
		values[n++] = Int64GetDatum(stat->invalidated);
		values[n++] = Int64GetDatum(stat->updated);
		values[n++] = Int64GetDatum(stat->purges);
		values[n++] = Int64GetDatum(stat->errors);
		values[n++] = Int64GetDatum(stat->reconnects);
		nulls[n] = stat->error[0] == '\0';
		values[n++] = CStringGetTextDatum(stat->error);
		nulls[n] = stat->error_at == 0;
		values[n++] = TimestampTzGetDatum(stat->error_at);
		Assert(n == NODE_COLUMNS);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* mlcache.stat_get_rules() */
Datum
mlc_stat_get_rules(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	uint32		n;

	InitMaterializedSRF(fcinfo, 0);
	mlc_segment_require();
	n = pg_atomic_read_u32(&mlc_shared->nrule_stats);
	for (uint32 i = 0; i < n; i++)
	{
		MlcRuleStat *stat = &mlc_shared->rule_stats[i];
		Datum		values[4 + MLC_RULE_COUNTERS];
		bool		nulls[4 + MLC_RULE_COUNTERS] = {false};

		if (stat->dbid != MyDatabaseId)
			continue;
		values[0] = Int32GetDatum(stat->rule);
		values[1] = Int64GetDatum(pg_atomic_read_u64(&stat->events));
		values[2] = Int64GetDatum(pg_atomic_read_u64(&stat->null_keys));
		values[3] = Int64GetDatum(pg_atomic_read_u64(&stat->purges));
		for (int j = 0; j < MLC_RULE_COUNTERS; j++)
			values[4 + j] = Int64GetDatum(pg_atomic_read_u64(&stat->counters[j]));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* mlcache.stat_get_operations(): times in ms. */
Datum
mlc_stat_get_operations(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MlcRelayShared *relay;

	InitMaterializedSRF(fcinfo, 0);
	mlc_segment_require();
	relay = mlc_segment_my_relay();
	for (int i = 0; i < MLC_OPERATIONS; i++)
	{
		Datum		values[8];
		bool		nulls[8] = {false};
		MlcTiming	timing;

		(void) mlc_stats_read(relay, (MlcOperation) i, &timing);
		values[0] = CStringGetTextDatum(timing.name);
		values[1] = Int64GetDatum(timing.count);
		values[2] = Float8GetDatum(timing.p50 / 1e6);
		values[3] = Float8GetDatum(timing.p99 / 1e6);
		values[4] = Float8GetDatum(timing.p999 / 1e6);
		values[5] = Float8GetDatum(timing.max / 1e6);
		values[6] = Float8GetDatum(timing.mean / 1e6);
		for (int j = 2; j < 7; j++)
			nulls[j] = timing.timed == 0;
		nulls[7] = mlc_stats_began(relay) == 0;
		values[7] = TimestampTzGetDatum(mlc_stats_began(relay));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* mlcache.reset_stats() */
Datum
mlc_reset_stats(PG_FUNCTION_ARGS)
{
	MlcRelayShared *relay;

	mlc_segment_require();
	relay = mlc_segment_my_relay();
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; relay && i < MLC_MAX_TARGETS; i++)
	{
		MlcTargetStat *stat = &relay->targets[i];

		stat->events = stat->invalidated = stat->updated = stat->skipped = 0;
		stat->batches = stat->purges = stat->errors = stat->reconnects = 0;
		stat->lag_ms_max = 0;
	}
	LWLockRelease(mlc_shared->lock);
	mlc_stats_reset();
	mlc_l1_reset_stat();
	mlc_consistency_reset();
	PG_RETURN_VOID();
}

/* ---- check_setup ---- */

static void
report(ReturnSetInfo *rsinfo, const char *item, bool ok, const char *detail,
	   const char *fix)
{
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = CStringGetTextDatum(item);
	values[1] = BoolGetDatum(ok);
	values[2] = CStringGetTextDatum(detail);
	nulls[3] = ok || fix == NULL;
	values[3] = nulls[3] ? (Datum) 0 : CStringGetTextDatum(fix);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
check_plugin(ReturnSetInfo *rsinfo)
{
	const char *setting = GetConfigOption("output_plugin_libraries", true, false);

	if (setting == NULL)
		report(rsinfo, "output_plugin_libraries", true,
			   "This server allows every output plugin.", NULL);
	else
		report(rsinfo, "output_plugin_libraries", mlc_ready_plugin_allowed(),
			   psprintf("It is '%s'.", setting),
			   psprintf("ALTER SYSTEM SET output_plugin_libraries = %s, mlcache; SELECT pg_reload_conf();",
						setting));
}

static void
check_slots(ReturnSetInfo *rsinfo)
{
	const char *name = mlc_slot_name(MyDatabaseId);
	int			used;
	int			max;
	bool		exists = mlc_slot_usage(MyDatabaseId, &used, &max) >= 0;

	report(rsinfo, "max_replication_slots",
		   exists || used < max,
		   psprintf("%d of %d in use; the slot \"%s\" %s.", used,
					max, name,
					exists ? "is one of them" : "does not exist yet"),
		   psprintf("ALTER SYSTEM SET max_replication_slots = %d; then restart the server.",
					max + 5));
}

static void
check_node(ReturnSetInfo *rsinfo, MlcServer *server, MlcNode *node)
{
	char	   *item = psprintf("server %s", server->name);
	MlcRedisOptions options = server->options;
	MlcConn    *conn;
	MlcReply   *reply;
	char	   *error;

	if (node)
	{
		mlc_cluster_options(&server->options, node, &options);
		item = psprintf("%s, master %s:%d", item, node->host, node->port);
	}
	conn = mlc_conn_create(CurrentMemoryContext, &options);

	if (!mlc_conn_open(conn))
	{
		report(rsinfo, item, false,
			   psprintf("It cannot be reached: %s", mlc_conn_error(conn)),
			   mlc_ready_connection_fix(server, conn));
		return;
	}
	if (!mlc_script_ensure(conn, &error))
	{
		report(rsinfo, item, false, error, "Install Redis 7 or later.");
		mlc_conn_close(conn);
		return;
	}
	if (node == NULL && mlc_cluster_is_one(conn))
		report(rsinfo, item, false, "It runs in cluster mode.",
			   psprintf("ALTER SERVER %s OPTIONS (ADD cluster 'true');",
						quote_identifier(server->name)));
	else
		report(rsinfo, item, true, "It answers, and runs the function library.",
			   NULL);

	reply = mlc_command_simple(conn, "CONFIG", "GET", "maxmemory-policy", NULL);
	if (reply && reply->type == MLC_REPLY_ARRAY && reply->nelements == 2)
	{
		const char *policy = reply->elements[1]->str;

		report(rsinfo, psprintf("maxmemory-policy of %s", server->name),
			   strncmp(policy, "allkeys-", 8) != 0,
			   psprintf("It is %s.%s", policy,
						strncmp(policy, "allkeys-", 8) == 0 ?
						" The state key may be evicted, which means a purge." : ""),
			   "redis-cli CONFIG SET maxmemory-policy volatile-lru");
	}
	mlc_conn_close(conn);
}

static void
check_redis(ReturnSetInfo *rsinfo, Oid serverid)
{
	MlcServer  *server = mlc_server_load(serverid);
	MlcClusterMap *map;
	char	   *error;

	if (server->options.nseeds == 0)
	{
		check_node(rsinfo, server, NULL);
		return;
	}
	map = mlc_cluster_find(&server->options, NULL, NULL, &error);
	if (map == NULL)
		report(rsinfo, psprintf("server %s", server->name), false,
			   psprintf("No node tells who the masters are: %s", error),
			   psprintf("ALTER SERVER %s OPTIONS (SET url 'redis://host:port,host:port');",
						quote_identifier(server->name)));
	for (int i = 0; map && i < map->nnodes; i++)
		check_node(rsinfo, server, &map->nodes[i]);
}

static void
check_relay(ReturnSetInfo *rsinfo)
{
	MlcRelayShared *relay = mlc_segment_my_relay();
	pid_t		pid = 0;
	bool		wanted = false;

	if (relay)
	{
		LWLockAcquire(mlc_shared->lock, LW_SHARED);
		pid = relay->pid;
		wanted = relay->wanted;
		LWLockRelease(mlc_shared->lock);
	}
	report(rsinfo, "relay", pid != 0 || !wanted,
		   pid != 0 ? psprintf("It runs with pid %d.", (int) pid) :
		   wanted ? "It should run, and does not." :
		   "None is needed until a table is attached.",
		   "Look into the server log; mlcache.relay_enabled must be on, and max_worker_processes leave room.");
}

/* mlcache.check_setup() */
Datum
mlc_check_setup(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *servers;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	report(rsinfo, "shared_preload_libraries", mlc_shared != NULL,
		   mlc_shared ? "The library was loaded when the server started." :
		   "The library was not loaded when the server started.",
		   "Add shared_preload_libraries = 'mlcache' to postgresql.conf and restart the server.");
	report(rsinfo, "wal_level", wal_level >= WAL_LEVEL_LOGICAL,
		   psprintf("It is %s.", GetConfigOption("wal_level", false, false)),
		   "ALTER SYSTEM SET wal_level = logical; then restart the server.");
	check_slots(rsinfo);
	report(rsinfo, "max_worker_processes", max_worker_processes >= 4,
		   psprintf("It is %d; mlcache takes one, and two more a database with rules.",
					max_worker_processes),
		   "ALTER SYSTEM SET max_worker_processes = 8; then restart the server.");
	check_plugin(rsinfo);

	servers = mlc_server_all();
	if (servers == NIL)
		report(rsinfo, "server", false, "No Redis server is defined.",
			   "CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://127.0.0.1:6379/0');");
	foreach(lc, servers)
		check_redis(rsinfo, lfirst_oid(lc));
	if (mlc_shared)
		check_relay(rsinfo);
	return (Datum) 0;
}
