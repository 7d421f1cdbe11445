/*-------------------------------------------------------------------------
 *
 * read/link.h
 *	  This backend's own connection to each Redis that it reads from.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_READ_LINK_H
#define MLC_READ_LINK_H

#include "postgres.h"

#include "model/rule.h"
#include "redis/conn.h"

typedef struct MlcLinkCluster MlcLinkCluster;

/*
 * A server is a link.  A Redis Cluster is one, too, and has no connection of
 * its own but a link for each of its masters.
 *
 * A link is good for the life of the backend.  Its connection is made anew by
 * the next who looks the link up after the server was altered, also in the
 * middle of what somebody else does over it, where that runs a loader: hold on
 * to links, never to a connection.
 */
typedef struct MlcLink
{
	Oid			serverid;		/* hash key */
	bool		stale;			/* the server or a mapping has changed */
	MemoryContext context;		/* of conn and ns; NULL: not loaded */
	MlcConn    *conn;
	char	   *ns;				/* namespace of the state key */
	char	   *state;			/* the state key */
	bool		no_look;		/* it does not let us look (read/ask.c) */
	uint64		look_round;		/* the last look that was taken there */
	TimestampTz retry_at;		/* not tried before; 0: no failure */
	int			pause;			/* ms, the last one */
	MlcLinkCluster *cluster;	/* that it is, or is a master of; or NULL */
	MlcLinkCluster *kept;		/* of a server: once made, never freed */
} MlcLink;

/*
 * The server that reads of this rule ask: its first; of a cluster the key's
 * master.  NULL: there is none, or nobody knows.
 */
extern MlcLink *mlc_link_find(MlcRule *rule, const char *key, uint32 keylen);

/* The first server of all, by name: what belongs to no rule asks it. */
extern MlcLink *mlc_link_default(void);

/* All servers of a rule that names these (0: all there are): of MlcLink. */
extern List *mlc_link_all(int nservers, char **servers);

/*
 * Of a cluster, the link to the master that has the key; NULL where no node
 * tells.  Any other link: itself.
 */
extern MlcLink *mlc_link_node(MlcLink *link, const char *key, uint32 keylen);

/* The link to the master that an answer "ASK" names; NULL: it names none. */
extern MlcLink *mlc_link_ask(MlcLink *link, const char *answer);

/* The links to all masters of a cluster, NIL where no node tells. */
extern List *mlc_link_nodes(MlcLink *link);

/* Is it a cluster, or one of its masters? */
#define mlc_link_is_cluster(link) ((link)->cluster != NULL)

/* The cluster itself, which is asked over the links of its masters only? */
extern bool mlc_link_is_whole(MlcLink *link);

/* The cluster that a master belongs to; any other link: itself. */
extern MlcLink *mlc_link_whole(MlcLink *link);

/* A node said that a key is elsewhere: the map is asked for anew. */
extern void mlc_link_moved(MlcLink *link);

/*
 * Is it connected, now or after a try?  After a failure nobody tries for a
 * pause that grows up to mlcache.reconnect_max, and is ten times as long as
 * the failure took: a server that does not answer costs a tenth of the time at
 * most.  Never throws for trouble with the network.
 */
extern bool mlc_link_open(MlcLink *link);

/* The connection failed.  Pauses, unless it had merely been idle too long. */
extern void mlc_link_fail(MlcLink *link);

/* It answered: the next failure begins with the shortest pause again. */
extern void mlc_link_good(MlcLink *link);

/* Forgets what an interrupted predecessor was to be answered; false: lost. */
extern bool mlc_link_drain(MlcLink *link);

#endif							/* MLC_READ_LINK_H */
