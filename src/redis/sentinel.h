/*-------------------------------------------------------------------------
 *
 * redis/sentinel.h
 *	  Redis Sentinel: which server is the master just now.  For redis/open.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_REDIS_SENTINEL_H
#define MLC_REDIS_SENTINEL_H

#include "postgres.h"

#include "port/atomics.h"
#include "redis/conn.h"

typedef struct MlcMaster
{
	char	   *host;
	int			port;
	uint64		epoch;			/* Sentinel's, of the failover that made it so */
} MlcMaster;

typedef struct MlcSearch MlcSearch;

/*
 * Begins to ask the sentinels of options for the master they call
 * options->sentinel.  The options must stay; the first sentinel that answers
 * is moved to the front of options->sentinels.  Belongs to nobody: end it.
 */
extern MlcSearch *mlc_sentinel_begin(MlcRedisOptions *options);
extern void mlc_sentinel_end(MlcSearch *search);

/*
 * Goes on as far as it can without waiting.  OPENED: master is the answer, its
 * host lives as long as the search.  OPENING: call again when the connection
 * of the search has one of the events it awaits, or in a while.  FAILED: no
 * sentinel can tell, and error says why the last one could not.
 */
extern MlcConnOpening mlc_sentinel_go_on(MlcSearch *search, MlcMaster *master);
extern MlcConn *mlc_sentinel_conn(MlcSearch *search);
extern uint32 mlc_sentinel_awaits(MlcSearch *search);
extern const char *mlc_sentinel_error(MlcSearch *search);

/*
 * The highest epoch that any process of this server has heard of for these
 * sentinels and this name; in shared memory.  NULL: there is no room, or no
 * shared memory.
 */
extern pg_atomic_uint64 *mlc_sentinel_epoch(const MlcRedisOptions *options);

#endif							/* MLC_REDIS_SENTINEL_H */
