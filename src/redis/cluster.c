/*-------------------------------------------------------------------------
 *
 * redis/cluster.c
 *	  Redis Cluster: slots, the map of masters, redirections.
 *
 * A key's slot is CRC16 (XMODEM) modulo 16384 of what stands between its first
 * "{" and the next "}", if anything does, else of the whole key (Redis Cluster
 * Specification, "Hash tags").  A map is what one node believes; it may be
 * old, and then a node answers with a redirection instead of serving.
 *
 * A script's keys are not looked at by Redis where they are handed over as
 * arguments, so it fails inside, with a text of its own, when a key is not
 * there: that is a redirection, too.
 *
 * Locks: none.  Must not: throw for trouble with the network.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "redis/cluster.h"
#include "redis/command.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* ---------- slots ---------- */

static uint16
crc16(const char *data, size_t len)
{
	static uint16 table[256];
	static bool made = false;
	uint16		crc = 0;

	if (!made)
	{
		for (int byte = 0; byte < 256; byte++)
		{
			uint16		value = byte << 8;

			for (int bit = 0; bit < 8; bit++)
				value = (value & 0x8000) ? (value << 1) ^ 0x1021 : value << 1;
			table[byte] = value;
		}
		made = true;
	}
	for (size_t i = 0; i < len; i++)
		crc = (crc << 8) ^ table[(crc >> 8) ^ (uint8) data[i]];
	return crc;
}

int
mlc_cluster_slot(const char *key, size_t len)
{
	const char *open = memchr(key, '{', len);

	if (open)
	{
		const char *close = memchr(open + 1, '}', key + len - open - 1);

		if (close && close > open + 1)
			return crc16(open + 1, close - open - 1) % MLC_SLOTS;
	}
	return crc16(key, len) % MLC_SLOTS;
}

uint32
mlc_cluster_tag(int slot)
{
	static uint32 *tags = NULL;

	if (tags == NULL)
	{
		uint32	   *made = MemoryContextAllocZero(TopMemoryContext,
												  sizeof(uint32) * MLC_SLOTS);
		int			missing = MLC_SLOTS;

		/* a backend does this once, so it should take no time */
		for (uint32 number = 1; missing > 0; number++)
		{
			char		text[16];
			int			its = crc16(text, pg_ultoa_n(number, text)) % MLC_SLOTS;

			if (made[its] != 0)
				continue;
			made[its] = number;
			missing--;
		}
		tags = made;
	}
	return tags[slot];
}

/* ---------- the map ---------- */

/* The host that a node is called by, where it does not know its own. */
static int
find_node(MlcClusterMap *map, MlcReply *node, const char *asked)
{
	MlcNode    *found;
	char	   *host;
	int			port;

	if (node->type != MLC_REPLY_ARRAY || node->nelements < 2 ||
		node->elements[1]->type != MLC_REPLY_INTEGER)
		return -1;
	host = node->elements[0]->type == MLC_REPLY_STRING &&
		node->elements[0]->len > 0 ? node->elements[0]->str : NULL;
	port = node->elements[1]->integer;
	if (host == NULL)
		host = pstrdup(asked);
	for (int i = 0; i < map->nnodes; i++)
		if (map->nodes[i].port == port && strcmp(map->nodes[i].host, host) == 0)
			return i;
	if (map->nnodes == MLC_MAX_NODES)
		return -1;
	found = &map->nodes[map->nnodes];
	found->host = pstrdup(host);
	found->port = port;
	found->nslots = 0;
	return map->nnodes++;
}

/* An element of CLUSTER SLOTS: first, last, master, replicas... */
static bool
take_range(MlcClusterMap *map, MlcReply *range, const char *asked)
{
	int			node;

	if (range->type != MLC_REPLY_ARRAY || range->nelements < 3 ||
		range->elements[0]->type != MLC_REPLY_INTEGER ||
		range->elements[1]->type != MLC_REPLY_INTEGER ||
		range->elements[0]->integer < 0 ||
		range->elements[1]->integer >= MLC_SLOTS)
		return false;
	node = find_node(map, range->elements[2], asked);
	if (node < 0)
		return false;
	for (int64 slot = range->elements[0]->integer;
		 slot <= range->elements[1]->integer; slot++)
	{
		map->owner[slot] = node;
		map->nodes[node].nslots++;
	}
	return true;
}

MlcClusterMap *
mlc_cluster_ask(MlcConn *conn, char **error)
{
	MlcReply   *reply = mlc_command_simple(conn, "CLUSTER", "SLOTS", NULL);

	if (reply)
		return mlc_cluster_read(reply, mlc_conn_host(conn), error);
	*error = pstrdup(mlc_conn_error(conn));
	return NULL;
}

MlcClusterMap *
mlc_cluster_read(MlcReply *reply, const char *asked, char **error)
{
	MlcClusterMap *map;

	*error = NULL;
	if (reply->type == MLC_REPLY_ERROR &&
		strstr(reply->str, "cluster support disabled"))
	{
		*error = pstrdup("It does not run in cluster mode.");
		return NULL;
	}
	if (reply->type != MLC_REPLY_ARRAY)
	{
		*error = psprintf("CLUSTER SLOTS: %s", reply->type == MLC_REPLY_ERROR ?
						  reply->str : "unexpected reply");
		return NULL;
	}

	map = palloc0(sizeof(MlcClusterMap));
	memset(map->owner, MLC_NO_NODE, sizeof(map->owner));
	for (size_t i = 0; i < reply->nelements; i++)
		if (!take_range(map, reply->elements[i], asked))
		{
			*error = map->nnodes == MLC_MAX_NODES ?
				psprintf("The cluster has more than %d masters.", MLC_MAX_NODES) :
				pstrdup("CLUSTER SLOTS: unexpected reply");
			return NULL;
		}
	if (map->nnodes == 0)
	{
		*error = pstrdup("No node of the cluster has slots.");
		return NULL;
	}
	return map;
}

bool
mlc_cluster_is_one(MlcConn *conn)
{
	MlcReply   *reply = mlc_command_simple(conn, "INFO", "cluster", NULL);

	return reply && reply->type == MLC_REPLY_STRING &&
		strstr(reply->str, "cluster_enabled:1") != NULL;
}

void
mlc_cluster_options(const MlcRedisOptions *options, const MlcNode *node,
					MlcRedisOptions *result)
{
	*result = *options;
	result->host = node->host;
	result->port = node->port;
	result->path = NULL;
	result->nseeds = 0;
}

bool
mlc_cluster_same_node(const MlcNode *a, const MlcNode *b)
{
	return a->port == b->port && strcmp(a->host, b->host) == 0;
}

MlcClusterMap *
mlc_cluster_ask_node(const MlcRedisOptions *options, const MlcNode *node,
					 char **error)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "mlcache cluster",
												  ALLOCSET_SMALL_SIZES);
	MlcRedisOptions its;
	MlcConn    *conn;
	MlcClusterMap *map = NULL;

	mlc_cluster_options(options, node, &its);
	conn = mlc_conn_create(context, &its);
	if (mlc_conn_open(conn))
		map = mlc_cluster_ask(conn, error);
	else
		*error = pstrdup(mlc_conn_error(conn));
	MemoryContextDelete(context);
	return map;
}

MlcClusterMap *
mlc_cluster_find(const MlcRedisOptions *options, MlcConn *conn,
				 MlcClusterMap *old, char **error)
{
	MlcClusterMap *map = NULL;

	*error = NULL;
	if (conn && mlc_conn_is_open(conn))
		map = mlc_cluster_ask(conn, error);
	for (int i = 0; old && map == NULL && i < old->nnodes; i++)
		map = mlc_cluster_ask_node(options, &old->nodes[i], error);
	for (int i = 0; map == NULL && i < options->nseeds; i++)
	{
		MlcNode		seed = {options->seeds[i].host, options->seeds[i].port, 0};
		bool		asked = false;

		for (int j = 0; old && j < old->nnodes; j++)
			asked |= mlc_cluster_same_node(&seed, &old->nodes[j]);
		if (!asked)
			map = mlc_cluster_ask_node(options, &seed, error);
	}
	return map;
}

/* ---------- redirections ---------- */

bool
mlc_cluster_is_redirect(const MlcReply *reply)
{
	return reply->type == MLC_REPLY_ERROR &&
		(strncmp(reply->str, "MOVED ", 6) == 0 ||
		 strncmp(reply->str, "ASK ", 4) == 0 ||
		 strncmp(reply->str, "TRYAGAIN", 8) == 0 ||
		 strstr(reply->str, "non local key") != NULL);
}

bool
mlc_cluster_has_moved(const MlcReply *reply)
{
	return reply->type == MLC_REPLY_ERROR &&
		strncmp(reply->str, "MOVED ", 6) == 0;
}
