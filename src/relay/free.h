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

#include "model/event.h"
#include "redis/command.h"
#include "relay/target.h"

/*
 * Sends an event about a key of no rule by itself.  False: it is no such event,
 * or Redis is full, or it is a removal in a cluster, which goes among others.
 */
extern bool mlc_free_send(MlcTarget *target, MlcBatchEvent *event, bool full);

/* The command for a key that is set, in the current context. */
extern void mlc_free_lay_out_set(MlcTarget *target, MlcBatchEvent *event,
								 MlcBody body, MlcCommand *cmd);

/*
 * Takes the reply to that, or to a touch; NULL, or what is wrong.  A key that
 * the Redis user may not touch is none of ours.
 */
extern const char *mlc_free_sent(MlcTarget *target, MlcReply *reply);

/*
 * Sends what removes many keys at once (tags, patterns, and what was fetched
 * under keys that are invalidated), and touches.  Comes behind all other events, which it
 * tells by their versions.  patterns: these only.
 */
extern void mlc_free_send_sweeps(MlcTarget *target, MlcBatch *batch, bool patterns);

/* Takes the reply to a step of such a removal; NULL, or what is wrong. */
extern const char *mlc_free_swept(MlcTarget *target, MlcReply *reply);

/* The connection is gone, and nothing of it under way any more. */
extern void mlc_free_forget(MlcTarget *target);

/* Looks after some of the indexes of an idle target; does not wait. */
extern void mlc_free_tidy(MlcTarget *target);

/* Takes the reply to that; NULL, or what is wrong. */
extern const char *mlc_free_tidied(MlcTarget *target, MlcReply *reply);

/* Are there free keys on this server, as far as it answers? */
extern bool mlc_free_any(MlcTarget *target);

/*
 * Removes every free key, all that has tags, and the indexes.  Waits.  False:
 * the target is down.
 */
extern bool mlc_free_purge(MlcTarget *target);

#endif							/* MLC_RELAY_FREE_H */
