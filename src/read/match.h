/*-------------------------------------------------------------------------
 *
 * read/match.h
 *	  From a key to the rule that loads it, and who may read it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_READ_MATCH_H
#define MLC_READ_MATCH_H

#include "postgres.h"

#include "model/rule.h"

/*
 * The rule that loads this key: of those whose templates give it, the oldest.
 * NULL if there is none.  Good until the end of the transaction.  Cost: one
 * hash probe for each length that a template's first literal has.
 */
extern MlcRule *mlc_match_key(const char *key, uint32 keylen);

/*
 * The oldest rule of this relation that caches whole rows by so many key
 * columns; NULL if there is none.  Good until the end of the transaction.
 */
extern MlcRule *mlc_match_relation(Oid relid, int ncolumns);

/*
 * May the current role see what the rule caches?  ERROR 42501 if not: SELECT
 * is needed on the columns of the key and on those that the payload shows
 * (with a loader of its own, on all), and row security must not apply to it.
 * False: there is no such rule.  Remembered by rule and role, so that asking
 * again costs next to nothing.
 */
extern bool mlc_match_check(int32 rule);

#endif							/* MLC_READ_MATCH_H */
