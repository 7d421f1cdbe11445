/*-------------------------------------------------------------------------
 *
 * lock/manager.h
 *	  Locks as PostgreSQL's lock manager has them: a path is its last element
 *	  in full and an intent on each above it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_LOCK_MANAGER_H
#define MLC_LOCK_MANAGER_H

#include "postgres.h"

#include "utils/timestamp.h"

/*
 * Takes the path's locks, waiting until the given time at most, in the lock
 * manager's fair queue.  False: not in time, and none of them is held.
 * before_wait is called once before the first wait; it may throw.  An ERROR
 * (a deadlock, a cancel, before_wait's) leaves none of a session's behind.
 */
extern bool mlc_manager_lock(const char *name, bool shared, bool xact,
							 TimestampTz until,
							 void (*before_wait) (void *arg), void *arg);

/* Gives one acquisition back. */
extern void mlc_manager_unlock(const char *name, bool shared, bool xact);

/* Does this process hold it?  Never throws. */
extern bool mlc_manager_holds(const char *name, bool shared);

#endif							/* MLC_LOCK_MANAGER_H */
