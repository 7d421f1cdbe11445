/*-------------------------------------------------------------------------
 *
 * relay/deliver.h
 *	  What the files that deliver share: deliver.c sends a batch in order,
 *	  layout.c and stream.c turn its events into commands, answer.c checks the
 *	  replies.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_DELIVER_H
#define MLC_RELAY_DELIVER_H

#include "postgres.h"

#include "relay/batch.h"
#include "relay/target.h"

/* ---- answer.c ---- */

/*
 * As mlc_target_expect(); nevents: of a cluster, how many of target->sent the
 * command is about.
 */
extern void mlc_answer_expect(MlcTarget *target, MlcExpect what, int nevents);

/* The same for relay/refresh.c, which knows the reply by a number. */
extern void mlc_answer_expect_number(MlcTarget *target, MlcExpect what,
									 uint32 number);

/* Remembers, for a cluster, what a command that is made up now is about. */
extern void mlc_answer_remember(MlcTarget *target, MlcBatchEvent *event);

/* Everything is answered. */
extern void mlc_answer_forget(MlcTarget *target);

/* ---- layout.c ---- */

/*
 * Has copies kept of what is about to be removed, for readers that may have
 * them while somebody else loads.  One call a key, since keys of a cluster lie
 * in many slots, and such rules are for what is costly to load, not for what
 * changes all the time.
 */
extern void mlc_layout_keeps(MlcTarget *target, MlcBatch *batch);

/*
 * The batch's events that concern the target.  oom: Redis takes no values.
 * True: some are held back for that, and are to be sent again.
 */
extern bool mlc_layout_events(MlcTarget *target, MlcBatch *batch, bool oom);

/* ---- stream.c ---- */

/* Is this where the stream is?  Of a cluster it is in one slot, for all. */
extern bool mlc_stream_has(MlcTarget *target);

/* One entry; key: NULL where the event has none. */
extern void mlc_stream_append(MlcTarget *target, MlcOp op, MlcRelayRule *rule,
							  const char *key, uint32 keylen,
							  const char *payload, uint32 payloadlen,
							  MlcVersion version);

/* The batch's events, in the order of their versions. */
extern void mlc_stream_events(MlcTarget *target, MlcBatch *batch);

#endif							/* MLC_RELAY_DELIVER_H */
