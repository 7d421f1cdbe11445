/*-------------------------------------------------------------------------
 *
 * lock/remote.h
 *	  Locks as Redis has them: the calls of lua/lock.lua.
 *
 * All but mlc_remote_forget_wait() wait for the answer and throw: 55000
 * without a server, 08xxx when it cannot be reached, 58000 when it refuses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_LOCK_REMOTE_H
#define MLC_LOCK_REMOTE_H

#include "postgres.h"

#include "redis/command.h"

typedef enum MlcRemoteAnswer
{
	MLC_REMOTE_OK,
	MLC_REMOTE_BUSY,
	MLC_REMOTE_DEADLOCK
} MlcRemoteAnswer;

/* Namespace of the locks, in the current context. */
extern char *mlc_remote_namespace(void);

/*
 * Asks for a lock once.  wait (ms): how long this session will wait as far as
 * it knows; 0: not at all.  *detail: the cycle (MLC_REMOTE_DEADLOCK).
 */
extern MlcRemoteAnswer mlc_remote_lock(const char *name, const char *owner,
									   bool shared, int64 ttl, int64 wait,
									   int64 serial, char **detail);

/* False: owner did not hold it. */
extern bool mlc_remote_unlock(const char *name, const char *owner, int64 serial);
extern bool mlc_remote_renew(const char *name, const char *owner, int64 ttl,
							 int64 serial);

/* This session is about to wait in the lock manager; true: do not. */
extern bool mlc_remote_wait(const char *name, const char *owner, bool shared,
							int64 wait, char **detail);

/* It waits no more.  Sends, and neither waits nor throws. */
extern void mlc_remote_forget_wait(const char *owner);

/* The answer of mlc_holders, checked: five elements a holder. */
extern MlcReply *mlc_remote_holders(const char *name);

/*
 * For the keeper: renews (ttl > 0) or releases (ttl 0) without throwing for
 * trouble with Redis.  1 done, 0 not held, -1 nobody knows.
 */
extern int	mlc_remote_try(const char *name, const char *owner, int64 ttl,
						   int64 serial);

#endif							/* MLC_LOCK_REMOTE_H */
