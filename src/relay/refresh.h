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
 * Goes on with some of them, without waiting: asks the targets that are armed
 * for leases, as any reader does, so that a change that comes in between wins;
 * loads what they were given for; fills.  No batch must be in flight.  Ends
 * early when there is WAL to decode.
 */
extern void mlc_refresh_run(MlcTarget **targets, int ntargets);

/* Is there nothing to do before a server answers? */
extern bool mlc_refresh_is_waiting(void);

/* An answer to a question (MLC_EXPECT_LEASE) or a fill of that number. */
extern void mlc_refresh_answered(MlcTarget *target, MlcExpect what,
								 uint32 number, const MlcReply *reply);

/* The target's connection is gone, and with it all answers. */
extern void mlc_refresh_forget(MlcTarget *target);

#endif							/* MLC_RELAY_REFRESH_H */
