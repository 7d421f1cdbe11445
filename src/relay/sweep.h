/*-------------------------------------------------------------------------
 *
 * relay/sweep.h
 *	  Strong rules, seen from the relay: marks that nobody ends any more,
 *	  prepared transactions, and when a server may be armed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_SWEEP_H
#define MLC_RELAY_SWEEP_H

#include "postgres.h"

#include "shm/commits.h"

/* One small step of what is to be done; with nothing in flight. */
extern void mlc_sweep_run(void);

/*
 * May a server that may have lost the marks of these commits be armed, as far
 * as they are concerned?  They must be over, and no transaction that changed
 * strong keys prepared.
 */
extern bool mlc_sweep_may_arm(MlcCommits *commits);

#endif							/* MLC_RELAY_SWEEP_H */
