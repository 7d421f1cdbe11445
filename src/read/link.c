/*-------------------------------------------------------------------------
 *
 * read/link.c
 *	  This backend's own connection to each Redis that it reads from.
 *
 * One connection a server, kept for the life of the backend, made with the
 * credentials that the relay uses: who may read was decided by rights on the
 * table.  ALTER SERVER and changed user mappings close it.
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
#include "redis/server.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define FIRST_PAUSE 50			/* ms */
#define COST_FACTOR 10			/* pause, in times of what the failure took */

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

/* Makes the link what the catalogs say. */
static void
load(MlcLink *link)
{
	MemoryContext context;
	MemoryContext old;
	MlcServer  *server;

	if (link->context)
		MemoryContextDelete(link->context);
	link->context = NULL;
	link->conn = NULL;
	link->retry_at = 0;
	link->pause = 0;

	/* a change that comes in while we load must not be lost */
	link->stale = false;
	context = AllocSetContextCreate(CurrentMemoryContext, "mlcache link",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	server = mlc_server_load(link->serverid);
	link->conn = mlc_conn_create(context, &server->options);
	link->ns = server->ns;
	link->state = psprintf("mlc:state:%s", server->ns);
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

MlcLink *
mlc_link_find(MlcRule *rule)
{
	if (links == NULL)
		init();
	return find(first_server(rule));
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
		return true;
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
