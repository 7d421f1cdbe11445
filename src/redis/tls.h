/*-------------------------------------------------------------------------
 *
 * redis/tls.h
 *	  TLS on a connection to Redis.  For redis/wire and redis/open only.
 *
 * Nothing here waits, throws or allocates with palloc.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_REDIS_TLS_H
#define MLC_REDIS_TLS_H

#include "postgres.h"

#include <hiredis/hiredis.h>

#include "redis/conn.h"

typedef struct MlcTls MlcTls;

/* False: built without a hiredis that can do it. */
extern bool mlc_tls_built_in(void);

/*
 * Begins TLS on a connected socket.  It belongs to redis and goes with it.
 * NULL: failed, error says why.
 */
extern MlcTls *mlc_tls_start(redisContext *redis, const MlcRedisOptions *options,
							 char *error, size_t size);

/*
 * Goes on with the handshake: what to wait for on the socket (WL_SOCKET_...),
 * 0 when it is over, -1 when it has failed, with the reason in error.
 */
extern int	mlc_tls_handshake(MlcTls *tls, char *error, size_t size);

/*
 * OpenSSL's errors are in a queue of the process, PostgreSQL's own among them.
 * forget() comes before each use of a connection; error() is why that failed,
 * NULL if TLS is not to blame.
 */
extern void mlc_tls_forget(void);
extern const char *mlc_tls_error(void);

#endif							/* MLC_REDIS_TLS_H */
