/*-------------------------------------------------------------------------
 *
 * capture/xact.h
 *	  The dirty set of a transaction, and what happens with it at the end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_XACT_H
#define MLC_CAPTURE_XACT_H

#include "postgres.h"

#include "model/event.h"
#include "model/rule.h"

/* Registers the transaction and savepoint callbacks.  From _PG_init only. */
extern void mlc_xact_init(void);

/*
 * Notes that this transaction changed the rule's table, so that its message
 * speaks for the rule even without a key.  ERROR 25000 when the message has
 * been written already (a trigger that fires while the transaction commits).
 */
extern void mlc_xact_touch(const MlcRule *rule);

/*
 * Adds a key.  A later event for the same key replaces an earlier one, unless
 * a savepoint between them is rolled back.  Past mlcache.capture_work_mem the
 * rule is purged as a whole instead.  row: what a strong commit may write
 * through, or NULL.  Copies.
 */
extern void mlc_xact_add(const MlcRule *rule, MlcOp op,
						 const char *key, uint32 keylen,
						 const char *row, uint32 rowlen);

/* Purges the rule as a whole when the transaction commits. */
extern void mlc_xact_add_all(const MlcRule *rule);

/*
 * Adds what was called for a key of no rule, a tag or a pattern.  body: of ops
 * that carry one, else NULL.  Copies.  ERROR 54000 past
 * mlcache.capture_work_mem.
 */
extern void mlc_xact_add_free(MlcOp op, const char *key, uint32 keylen,
							  const char *body, uint32 bodylen);

/* The end of this session's last commit record; InvalidXLogRecPtr: none. */
extern XLogRecPtr mlc_xact_last_commit(void);

/*
 * Writes a message that invalidates this key, of no row, when the transaction
 * commits: the way of every commit to the rule's servers, and nowhere else.
 */
extern void mlc_xact_probe(const MlcRule *rule, const char *key);

/* Asks for the relay to be started or woken once this transaction commits. */
extern void mlc_xact_wake_at_commit(void);

/* Keeps the relay of this database from retiring until this one ends. */
extern void mlc_xact_hold_relay(MlcRelayShared *relay);

#endif							/* MLC_CAPTURE_XACT_H */
