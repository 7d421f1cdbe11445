/*-------------------------------------------------------------------------
 *
 * relay/purge.h
 *	  Removing every entry of a rule, or of all rules, from a target.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_PURGE_H
#define MLC_RELAY_PURGE_H

#include "postgres.h"

#include "relay/target.h"

/*
 * Both wait, with nothing in flight before.  False: the target is down, and
 * part of the entries may be left.
 */
extern bool mlc_purge_rule(MlcTarget *target, MlcRelayRule *rule);

/* Has the server know whose keys it may hold; waits, as the others do. */
extern bool mlc_purge_remember(MlcTarget *target, HTAB *rules);

/*
 * rules: of MlcRelayRule.  Takes along those that only the server knows.  One
 * pass over the keyspace, however many.
 */
extern bool mlc_purge_all(MlcTarget *target, HTAB *rules);

#endif							/* MLC_RELAY_PURGE_H */
