/*-------------------------------------------------------------------------
 *
 * redis/cluster.h
 *	  Redis Cluster: which slot a key is in, and which master has the slot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_REDIS_CLUSTER_H
#define MLC_REDIS_CLUSTER_H

#include "postgres.h"

#include "redis/conn.h"

#define MLC_SLOTS 16384
#define MLC_MAX_NODES 32		/* masters a cluster */
#define MLC_NO_NODE 0xff

typedef struct MlcNode
{
	char	   *host;
	int			port;
	int			nslots;
} MlcNode;

/* What one node of a cluster says of all its masters that have slots. */
typedef struct MlcClusterMap
{
	int			nnodes;
	MlcNode		nodes[MLC_MAX_NODES];
	uint8		owner[MLC_SLOTS];	/* index of a node, or MLC_NO_NODE */
} MlcClusterMap;

/* The slot of a key: CRC16 of its hash tag, or of the whole of it. */
extern int	mlc_cluster_slot(const char *key, size_t len);

/* A number whose decimal digits, as a key or a hash tag, lie in the slot. */
extern uint32 mlc_cluster_tag(int slot);

/*
 * Asks a node for the map, in the current context.  NULL with *error (current
 * context) when it does not answer, is in no cluster, or has more masters than
 * we can name.  Never throws for trouble with the network.
 */
extern MlcClusterMap *mlc_cluster_ask(MlcConn *conn, char **error);

/* What CLUSTER SLOTS has answered; asked: the host of the node that did. */
extern MlcClusterMap *mlc_cluster_read(MlcReply *reply, const char *asked,
									   char **error);

/* As mlc_cluster_ask(), over a connection made for this one question. */
extern MlcClusterMap *mlc_cluster_ask_node(const MlcRedisOptions *options,
										   const MlcNode *node, char **error);

/* Does the server run in cluster mode?  False where it does not say. */
extern bool mlc_cluster_is_one(MlcConn *conn);

/*
 * The same, from the first that answers of these: a connection (NULL: none),
 * or else new ones to nodes of an older map (NULL: none) or to the seeds.
 */
extern MlcClusterMap *mlc_cluster_find(const MlcRedisOptions *options,
									   MlcConn *conn, MlcClusterMap *old,
									   char **error);

/* The options of a connection to a node: strings are shared. */
extern void mlc_cluster_options(const MlcRedisOptions *options,
								const MlcNode *node, MlcRedisOptions *result);

/* Is it that the key is elsewhere, or on its way?  See redis/cluster.c. */
extern bool mlc_cluster_is_redirect(const MlcReply *reply);

/* Is it that another node has the key for good? */
extern bool mlc_cluster_has_moved(const MlcReply *reply);

/* The same place? */
extern bool mlc_cluster_same_node(const MlcNode *a, const MlcNode *b);

#endif							/* MLC_REDIS_CLUSTER_H */
