/*-------------------------------------------------------------------------
 *
 * capture/ready.c
 *	  Is there what rules need: a server that can decode, and Redis servers that
 *	  answer?  One clear error each, with the line to type.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "base/compat.h"
#include "capture/ready.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "redis/cluster.h"
#include "redis/script.h"
#include "shm/segment.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"

/* ---- this server ---- */

bool
mlc_ready_plugin_allowed(void)
{
	const char *setting = GetConfigOption("output_plugin_libraries", true, false);
	List	   *names;
	ListCell   *lc;

	/* older minors have no such setting, and allow every plugin */
	if (setting == NULL)
		return true;
	if (!SplitIdentifierString(pstrdup(setting), ',', &names))
		return false;
	foreach(lc, names)
		if (strcmp(lfirst(lc), "mlcache") == 0)
		return true;
	return false;
}

void
mlc_ready_prerequisites(void)
{
	mlc_segment_require();
	if (wal_level < WAL_LEVEL_LOGICAL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("mlcache requires wal_level = logical"),
				 errdetail("Committed changes reach Redis through logical decoding."),
				 errhint("ALTER SYSTEM SET wal_level = logical; then restart the server.")));
	if (strcmp(GetConfigOption("max_replication_slots", false, false), "0") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("mlcache requires a replication slot"),
				 errdetail("max_replication_slots is 0."),
				 errhint("ALTER SYSTEM SET max_replication_slots = 10; then restart the server.")));
	if (!mlc_ready_plugin_allowed())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("mlcache is not an approved output plugin"),
				 errdetail("output_plugin_libraries does not list it."),
				 errhint("ALTER SYSTEM SET output_plugin_libraries = %s, mlcache; SELECT pg_reload_conf();",
						 GetConfigOption("output_plugin_libraries", true, false))));
}

/* ---- servers of Redis ---- */

const char *
mlc_ready_connection_fix(MlcServer *server, MlcConn *conn)
{
	const char *name = quote_identifier(server->name);
	StringInfoData fix;

	initStringInfo(&fix);
	if (mlc_conn_sqlstate(conn) != ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION)
		appendStringInfo(&fix, "Start Redis there, or ");
	else
	{
		if (server->options.password)
			appendStringInfo(&fix, "ALTER USER MAPPING FOR PUBLIC SERVER %s OPTIONS (SET username '...', SET password '...');",
							 name);
		else
			appendStringInfo(&fix, "CREATE USER MAPPING FOR PUBLIC SERVER %s OPTIONS (username '...', password '...');",
							 name);
		if (server->options.database == 0)
			return fix.data;
		appendStringInfoString(&fix, " or, for another database, ");
	}
	appendStringInfo(&fix, "ALTER SERVER %s OPTIONS (SET url '...');", name);
	return fix.data;
}

/* A server, or one master of a cluster. */
static void
check_node(MlcServer *server, const MlcRedisOptions *options)
{
	MlcConn    *conn = mlc_conn_create(CurrentMemoryContext, options);
	char	   *error = NULL;

	if (!mlc_conn_open(conn))
		ereport(ERROR,
				(errcode(mlc_conn_sqlstate(conn)),
				 errmsg("could not connect to Redis server \"%s\"", server->name),
				 errdetail("%s", mlc_conn_error(conn)),
				 errhint("%s", mlc_ready_connection_fix(server, conn))));
	if (!mlc_script_ensure(conn, &error))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("Redis server \"%s\" cannot be used", server->name),
				 errdetail("%s", error),
				 strstr(error, "Redis 7.0") ?
				 errhint("ALTER SERVER %s OPTIONS (SET url '...');",
						 quote_identifier(server->name)) : 0));
	if (server->options.nseeds == 0 && mlc_cluster_is_one(conn))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("Redis server \"%s\" runs in cluster mode", server->name),
				 errhint("ALTER SERVER %s OPTIONS (ADD cluster 'true');",
						 quote_identifier(server->name))));
	mlc_conn_close(conn);
}

/* Talks to a server once: an error now is better than silence later. */
static void
check_server(Oid serverid)
{
	MlcServer  *server = mlc_server_load(serverid);
	MlcClusterMap *map;
	char	   *error;

	if (mlc_server_aclcheck(serverid, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FOREIGN_SERVER, server->name);
	if (server->options.nseeds == 0)
	{
		check_node(server, &server->options);
		return;
	}
	map = mlc_cluster_find(&server->options, NULL, NULL, &error);
	if (map == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not find the masters of Redis Cluster \"%s\"",
						server->name),
				 errdetail("%s", error),
				 errhint("ALTER SERVER %s OPTIONS (SET url 'redis://host:port,host:port'); or, for a server that is no cluster, OPTIONS (DROP cluster);",
						 quote_identifier(server->name))));
	for (int i = 0; i < map->nnodes; i++)
	{
		MlcRedisOptions options;

		mlc_cluster_options(&server->options, &map->nodes[i], &options);
		check_node(server, &options);
	}
}

void
mlc_ready_servers(char **servers, int n)
{
	List	   *all = mlc_server_all();
	ListCell   *lc;

	if (all == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no Redis server to attach to"),
				 errhint("CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://127.0.0.1:6379/0');")));
	for (int i = 0; i < n; i++)
	{
		Oid			serverid = get_foreign_server_oid(servers[i], false);

		if (!list_member_oid(all, serverid))
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("server \"%s\" is not a Redis server of mlcache",
							servers[i])));
		check_server(serverid);
	}
	if (n == 0)
		foreach(lc, all)
			check_server(lfirst_oid(lc));
}
