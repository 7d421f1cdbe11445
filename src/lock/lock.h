/*-------------------------------------------------------------------------
 *
 * lock/lock.h
 *	  Locks of this session: taken in PostgreSQL's lock manager first, then in
 *	  Redis, where programs outside see them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_LOCK_LOCK_H
#define MLC_LOCK_LOCK_H

#include "postgres.h"

#include "lock/registry.h"

/* A lock that Redis forgot, or that the clock says it may have forgotten. */
#define MLC_ERRCODE_LOCK_LOST MAKE_SQLSTATE('M', 'L', '0', '0', '1')

typedef struct MlcLockRequest
{
	const char *name;			/* a path: "account:42" */
	int64		ttl;			/* ms */
	int64		wait;			/* ms; 0: not at all */
	bool		shared;
	bool		xact;			/* ends with the transaction */
} MlcLockRequest;

/* Settings, shared memory and callbacks.  From _PG_init only. */
extern void mlc_lock_init(void);

/* ERROR 22023 unless the name is a path of 1 to 255 bytes. */
extern void mlc_lock_check_name(const char *name);

/*
 * The fencing token, or 0 when the lock was not to be had within wait.
 * ERROR: 40P01 deadlock, ML001 this session has lost it, 55000 held in a
 * weaker mode or no server, 53400 too many, 08xxx Redis out of reach.
 */
extern int64 mlc_lock_acquire(const MlcLockRequest *request);

/* ERROR 55000 when not held, ML001 when it had been lost: it is gone then. */
extern void mlc_lock_release(const char *name);

/* Prolongs it by ttl ms (0: by its own).  Until when it is held. */
extern TimestampTz mlc_lock_renew(const char *name, int64 ttl);

/* ERROR ML001 when the token is of a lock that this session has lost. */
extern void mlc_lock_check_token(int64 token);

#endif							/* MLC_LOCK_LOCK_H */
