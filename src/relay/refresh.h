/*-------------------------------------------------------------------------
 *
 * relay/refresh.h
 *	  The second half of the action "refresh": reload what was invalidated.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_REFRESH_H
#define MLC_RELAY_REFRESH_H

#include "postgres.h"

#include "relay/batch.h"
#include "relay/target.h"

/* Remembers the batch's refresh keys; copies. */
extern void mlc_refresh_queue(MlcBatch *batch);

/* How many wait. */
extern int	mlc_refresh_pending(void);

/*
 * Reloads some of them, where the targets are idle and armed: under a lease
 * like any reader, so that a change that comes in between wins.  Nothing must
 * be in flight.  Ends early when there is WAL to decode.
 */
extern void mlc_refresh_run(MlcTarget **targets, int ntargets);

#endif							/* MLC_RELAY_REFRESH_H */
