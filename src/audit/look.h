/*-------------------------------------------------------------------------
 *
 * audit/look.h
 *	  What a Redis says of itself: memory, eviction policy, clock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_LOOK_H
#define MLC_AUDIT_LOOK_H

#include "postgres.h"

#include "redis/server.h"
#include "shm/history.h"

/*
 * Looks at every Redis that the relay can reach: connects, asks, disconnects.
 * Fills in up to MLC_MAX_TARGETS looks, and returns how many.  What is out of
 * reach, or does not answer within a second, is left out; what the user may not
 * ask stays 0 or empty.
 *
 * before: the looks of the last time (may be none), by which it can tell
 * whether a clock has jumped.  In a transaction.
 */
extern int	mlc_look_at_all(MlcRelayShared *relay, const MlcRedisLook *before,
							int nbefore, MlcRedisLook *looks);

/* How to ask by hand: "redis-cli -h host -p 6379". */
extern char *mlc_look_cli(MlcServer *server, const MlcRedisLook *look);

/* What to type to see whether a server is there. */
extern char *mlc_look_ping(MlcServer *server);

#endif							/* MLC_AUDIT_LOOK_H */
