/*-------------------------------------------------------------------------
 *
 * lock/fence.h
 *	  Fencing tokens.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_LOCK_FENCE_H
#define MLC_LOCK_FENCE_H

#include "postgres.h"

#define MLC_TOKEN_COUNTER_BITS 44

/*
 * The next fencing token of this database: greater than every one that was
 * returned before, by any session, before or after a restart, a crash or a
 * promotion.  (timeline << 44) + counter.  ERROR 25006 during recovery.
 */
extern int64 mlc_fence_next(void);

#endif							/* MLC_LOCK_FENCE_H */
