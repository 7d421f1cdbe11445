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
 * Connects, asks, disconnects; fills in what it could learn (what the user may
 * not ask stays 0 or empty).  False: it is out of reach, or does not answer
 * within a second.  Does not touch what tells of jumps of the clock.
 */
extern bool mlc_look_at_redis(MlcServer *server, MlcRedisLook *look);

/*
 * The look that follows an earlier one: has the clock jumped between?  A Redis
 * that was restarted is another one, and starts anew.
 */
extern void mlc_look_compare(const MlcRedisLook *before, MlcRedisLook *after);

/* How to ask the server by hand: "redis-cli -h host -p 6379". */
extern char *mlc_look_cli(MlcServer *server);

#endif							/* MLC_AUDIT_LOOK_H */
