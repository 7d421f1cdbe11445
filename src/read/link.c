/*-------------------------------------------------------------------------
 *
 * read/link.c
 *	  This backend's own connection to each Redis that it reads from.
 *
 * One connection a server, kept for the life of the backend, made with the
 * credentials that the relay uses: who may read was decided by rights on the
 * table.  ALTER SERVER and changed user mappings close it.
 *
 * Of a Redis Cluster there is a connection for each master that is used.  The
 * map of slots is asked for when it is needed first, when a node said that a
 * key is elsewhere, and after a connection failed.
 *
 * A circuit breaker (Nygard, "Release It!", 2007) stands before it: open after
 * a failure, half-open once the pause is over, when a single read tries.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/guc.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "read/link.h"
#include "redis/cluster.h"
#include "redis/server.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define FIRST_PAUSE 50			/* ms */
#define COST_FACTOR 10			/* pause, in times of what the failure took */

#define MAX_LINKS (2 * MLC_MAX_NODES)

/*
 * Links to nodes are never freed: a read under way may hold on to one.  Nor
 * are they without a connection, though one of a server that is no cluster any
 * more is not opened again.
 */
struct MlcLinkCluster
{
	MlcLink    *whole;			/* the cluster itself */
	MlcRedisOptions options;
	MemoryContext map_context;	/* of map; NULL: there is none yet */
	MlcClusterMap *map;
	bool		old;			/* the map is to be asked for anew */
	TimestampTz retry_at;		/* not before; 0: no failure */
	int			nnodes;			/* masters met so far */
	MlcLink		nodes[MAX_LINKS];
	MlcNode		places[MAX_LINKS];
};

static HTAB *links = NULL;
static List *all_servers = NIL; /* by name; in CacheMemoryContext */
static bool all_known = false;

static void
server_changed(Datum arg, int cacheid, uint32 hash)
{
	HASH_SEQ_STATUS status;
	MlcLink    *link;

	all_known = false;
	hash_seq_init(&status, links);
	while ((link = hash_seq_search(&status)) != NULL)
		link->stale = true;
}

static void
init(void)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(MlcLink);
	ctl.hcxt = CacheMemoryContext;
	links = hash_create("mlcache links", 8, &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, server_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, server_changed, (Datum) 0);
}

/* All servers; the list is good until the next look at a catalog. */
static List *
know_all(void)
{
	List	   *all;
	MemoryContext old;

	if (likely(all_known))
		return all_servers;

	/* a change that comes in while we look must not be lost */
	all_known = true;
	all = mlc_server_all();
	list_free(all_servers);
	old = MemoryContextSwitchTo(CacheMemoryContext);
	all_servers = list_copy(all);
	MemoryContextSwitchTo(old);
	return all_servers;
}

static Oid
first_of_all(void)
{
	List	   *all = know_all();

	return all != NIL ? linitial_oid(all) : InvalidOid;
}

static Oid
first_server(MlcRule *rule)
{
	for (int i = 0; i < rule->nservers; i++)
	{
		Oid			serverid = get_foreign_server_oid(rule->servers[i], true);

		if (OidIsValid(serverid))
			return serverid;
	}
	if (rule->nservers > 0)
		return InvalidOid;
	return first_of_all();
}

static void
connect_node(MlcLinkCluster *cluster, int i, MemoryContext context)
{
	MlcRedisOptions options;

	mlc_cluster_options(&cluster->options, &cluster->places[i], &options);
	cluster->nodes[i].conn = mlc_conn_create(context, &options);
	cluster->nodes[i].context = context;
	cluster->nodes[i].ns = cluster->whole->ns;
	cluster->nodes[i].retry_at = 0;
	cluster->nodes[i].pause = 0;
}

static void
load_cluster(MlcLink *link, MemoryContext context,
			 const MlcRedisOptions *options)
{
	MlcLinkCluster *cluster = link->kept;

	if (cluster == NULL)
		cluster = MemoryContextAllocZero(CacheMemoryContext,
										 sizeof(MlcLinkCluster));
	link->kept = link->cluster = cluster;
	cluster->whole = link;
	cluster->options = *options;
	cluster->map_context = NULL;
	cluster->map = NULL;
	cluster->retry_at = 0;
	for (int i = 0; i < cluster->nnodes; i++)
		connect_node(cluster, i, context);
}

/* Makes the link what the catalogs say. */
static void
load(MlcLink *link)
{
	MemoryContext context;
	MemoryContext old;
	MlcServer  *server;

	/* a change that comes in while we load must not be lost */
	link->stale = false;
	context = AllocSetContextCreate(CurrentMemoryContext, "mlcache link",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	PG_TRY();
	{
		server = mlc_server_load(link->serverid);
	}
	PG_CATCH();
	{
		link->stale = true;
		PG_RE_THROW();
	}
	PG_END_TRY();

	/* not before, since who catches that error may hold on to the link */
	if (link->context)
		MemoryContextDelete(link->context);
	link->context = NULL;
	link->conn = NULL;
	link->cluster = NULL;
	link->retry_at = 0;
	link->pause = 0;
	link->ns = server->ns;
	link->state = psprintf("mlc:state:%s", server->ns);
	link->conn = mlc_conn_create(context, &server->options);
	if (server->options.nseeds > 0)
		load_cluster(link, context, &server->options);
	else if (link->kept)
	{
		/* no cluster any more: see mlc_link_open() */
		link->kept->options = server->options;
		link->kept->map = NULL;
		for (int i = 0; i < link->kept->nnodes; i++)
			connect_node(link->kept, i, context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, CacheMemoryContext);
	link->context = context;
}

static MlcLink *
find(Oid serverid)
{
	MlcLink    *link;
	bool		found;

	if (!OidIsValid(serverid))
		return NULL;
	if (links == NULL)
		init();
	link = hash_search(links, &serverid, HASH_ENTER, &found);
	if (!found)
		memset((char *) link + sizeof(link->serverid), 0,
			   sizeof(MlcLink) - sizeof(link->serverid));
	if (link->context == NULL || link->stale)
		load(link);
	return link;
}

/* ---- clusters ---- */

/* A connection that the map can be asked for over. */
static MlcConn *
free_connection(MlcLinkCluster *cluster)
{
	for (int i = 0; i < cluster->nnodes; i++)
		if (mlc_conn_is_open(cluster->nodes[i].conn) &&
			mlc_conn_pending(cluster->nodes[i].conn) == 0 &&
			!mlc_conn_check_closed(cluster->nodes[i].conn))
			return cluster->nodes[i].conn;
	return NULL;
}

/* Where nobody answers, the old map stays; the next try is after a pause. */
static void
ask_for_map(MlcLinkCluster *cluster)
{
	TimestampTz start = GetCurrentTimestamp();
	MemoryContext context;
	MemoryContext old;
	MlcClusterMap *map;
	char	   *error;

	if (cluster->retry_at != 0 && start < cluster->retry_at)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "mlcache map",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	map = mlc_cluster_find(&cluster->options, free_connection(cluster),
						   cluster->map, &error);
	MemoryContextSwitchTo(old);
	if (map == NULL)
	{
		TimestampTz now = GetCurrentTimestamp();
		int64		took = (now - start) / 1000;

		MemoryContextDelete(context);
		cluster->retry_at =
			TimestampTzPlusMilliseconds(now, Max(FIRST_PAUSE, took * COST_FACTOR));
		return;
	}
	MemoryContextSetParent(context, cluster->whole->context);
	if (cluster->map_context)
		MemoryContextDelete(cluster->map_context);
	cluster->map_context = context;
	cluster->map = map;
	cluster->old = false;
	cluster->retry_at = 0;
}

/* An entry for a node that was not met yet, or -1. */
static int
free_entry(MlcLinkCluster *cluster)
{
	if (cluster->nnodes < MAX_LINKS)
		return cluster->nnodes++;
	for (int i = 0; i < MAX_LINKS; i++)
	{
		bool		used = false;

		for (int j = 0; j < cluster->map->nnodes; j++)
			used |= mlc_cluster_same_node(&cluster->places[i],
										  &cluster->map->nodes[j]);
		if (!used)
		{
			mlc_conn_close(cluster->nodes[i].conn);
			pfree(cluster->places[i].host);
			return i;
		}
	}
	return -1;
}

/* The link to a master, made when it is met first. */
static MlcLink *
node_link(MlcLinkCluster *cluster, const MlcNode *node)
{
	int			entry;

	for (int i = 0; i < cluster->nnodes; i++)
		if (mlc_cluster_same_node(&cluster->places[i], node))
			return &cluster->nodes[i];
	entry = free_entry(cluster);
	if (entry < 0)
		return NULL;
	cluster->places[entry].host = MemoryContextStrdup(CacheMemoryContext, node->host);
	cluster->places[entry].port = node->port;
	cluster->nodes[entry].serverid = cluster->whole->serverid;
	cluster->nodes[entry].cluster = cluster;
	connect_node(cluster, entry, cluster->whole->context);
	return &cluster->nodes[entry];
}

static MlcClusterMap *
map_of(MlcLink *link)
{
	MlcLinkCluster *cluster = link->cluster;

	if (cluster->map == NULL || cluster->old)
		ask_for_map(cluster);
	return cluster->map;
}

MlcLink *
mlc_link_node(MlcLink *link, const char *key, uint32 keylen)
{
	MlcClusterMap *map;
	uint8		owner;

	if (link == NULL || link->cluster == NULL)
		return link;
	map = map_of(link);
	if (map == NULL)
		return NULL;
	owner = map->owner[mlc_cluster_slot(key, keylen)];
	return owner == MLC_NO_NODE ? NULL :
		node_link(link->cluster, &map->nodes[owner]);
}

MlcLink *
mlc_link_ask(MlcLink *link, const char *answer)
{
	const char *address = strrchr(answer, ' ');
	const char *colon = strrchr(answer, ':');
	MlcNode		node;

	if (link->cluster == NULL || link->cluster->map == NULL ||
		strncmp(answer, "ASK ", 4) != 0 || address == NULL ||
		colon == NULL || colon <= address + 1)
		return NULL;
	node.host = pnstrdup(address + 1, colon - address - 1);
	node.port = atoi(colon + 1);
	return node_link(link->cluster, &node);
}

List *
mlc_link_nodes(MlcLink *link)
{
	MlcClusterMap *map = map_of(link);
	List	   *all = NIL;

	for (int i = 0; map && i < map->nnodes; i++)
	{
		MlcLink    *node = node_link(link->cluster, &map->nodes[i]);

		if (node)
			all = lappend(all, node);
	}
	return all;
}

bool
mlc_link_is_whole(MlcLink *link)
{
	return link->cluster != NULL && link->cluster->whole == link;
}

MlcLink *
mlc_link_whole(MlcLink *link)
{
	return link->cluster ? link->cluster->whole : link;
}

void
mlc_link_moved(MlcLink *link)
{
	if (link->cluster)
		link->cluster->old = true;
}

/* ---- looking up ---- */

MlcLink *
mlc_link_find(MlcRule *rule, const char *key, uint32 keylen)
{
	if (links == NULL)
		init();
	return mlc_link_node(find(first_server(rule)), key, keylen);
}

MlcLink *
mlc_link_default(void)
{
	if (links == NULL)
		init();
	return find(first_of_all());
}

List *
mlc_link_all(int nservers, char **servers)
{
	List	   *all = NIL;
	ListCell   *lc;

	if (links == NULL)
		init();
	if (nservers == 0)
		foreach(lc, list_copy(know_all()))
			all = lappend(all, find(lfirst_oid(lc)));
	for (int i = 0; i < nservers; i++)
	{
		Oid			serverid = get_foreign_server_oid(servers[i], true);

		if (OidIsValid(serverid))
			all = lappend(all, find(serverid));
	}
	return all;
}

bool
mlc_link_open(MlcLink *link)
{
	TimestampTz start;
	int64		took;

	if (likely(mlc_conn_is_open(link->conn)))
	{
		if (likely(mlc_conn_is_current(link->conn)))
			return true;
		mlc_conn_close(link->conn);
	}
	if (mlc_link_is_whole(link))
		return false;			/* nobody told us the master */
	if (link->cluster && link->cluster->whole->cluster == NULL)
		return false;			/* of what is no cluster any more */
	start = GetCurrentTimestamp();
	if (link->retry_at != 0 && start < link->retry_at)
		return false;
	link->no_look = false;
	if (mlc_conn_open(link->conn))
		return true;

	took = (GetCurrentTimestamp() - start) / 1000;
	mlc_link_fail(link);
	link->retry_at = Max(link->retry_at,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 took * COST_FACTOR));
	return false;
}

void
mlc_link_fail(MlcLink *link)
{
	mlc_conn_close(link->conn);
	mlc_link_moved(link);		/* it may have been replaced */
	link->pause = link->pause == 0 ? FIRST_PAUSE :
		Min(link->pause * 2, Max(mlc_reconnect_max, FIRST_PAUSE));
	link->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 link->pause);
}

void
mlc_link_good(MlcLink *link)
{
	link->pause = 0;
	link->retry_at = 0;
}

bool
mlc_link_drain(MlcLink *link)
{
	while (mlc_conn_pending(link->conn) > 0)
		if (mlc_conn_reply(link->conn) == NULL)
			return false;
	return true;
}
