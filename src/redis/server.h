/*-------------------------------------------------------------------------
 *
 * redis/server.h
 *	  Foreign servers and user mappings of the wrapper "mlcache": validation
 *	  of their options, and what a connection needs of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_REDIS_SERVER_H
#define MLC_REDIS_SERVER_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "redis/conn.h"

typedef struct MlcServer
{
	Oid			serverid;
	char	   *name;
	MlcRedisOptions options;
	char	   *ns;				/* namespace of the state key */
	int64		stream;			/* cap of mlc:events; 0: none */
	bool		paused;			/* mlcache.pause() */
	char	   *fingerprint;	/* of all options, to see changes */
} MlcServer;

/* ERROR HV00D / 22023 unless the options are good for this catalog. */
extern void mlc_server_validate(List *options, Oid catalog);

/*
 * Loads a server with the credentials of its owner's mapping, or else of
 * PUBLIC's, in the current context.  In a transaction.
 */
extern MlcServer *mlc_server_load(Oid serverid);

/* The same; NULL: it has been dropped. */
extern MlcServer *mlc_server_find(Oid serverid);

/* Oids of all servers of the wrapper, in order of their names. */
extern List *mlc_server_all(void);

#endif							/* MLC_REDIS_SERVER_H */
