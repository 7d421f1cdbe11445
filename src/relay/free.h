/*-------------------------------------------------------------------------
 *
 * relay/free.h
 *	  Delivering what concerns keys of no rule, and tags.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_FREE_H
#define MLC_RELAY_FREE_H

#include "postgres.h"

#include "relay/target.h"

/*
 * Sends an event that sets a free key.  False: it is no such event, or Redis is
 * full, and a removal will do.
 */
extern bool mlc_free_send(MlcTarget *target, MlcBatchEvent *event, bool full);

/* Are there free keys on this server, as far as it answers? */
extern bool mlc_free_any(MlcTarget *target);

/*
 * Removes every free key, all that has tags, and the indexes.  Waits.  False:
 * the target is down.
 */
extern bool mlc_free_purge(MlcTarget *target);

#endif							/* MLC_RELAY_FREE_H */
