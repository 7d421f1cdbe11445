/*-------------------------------------------------------------------------
 *
 * capture/unique.h
 *	  The unique index that makes a key one row's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_UNIQUE_H
#define MLC_CAPTURE_UNIQUE_H

#include "postgres.h"

#include "model/rule.h"

/* Does a unique index make a key of these columns one row's? */
extern bool mlc_unique_covers(Relation relation, const AttrNumber *attnums,
							  int n);

/* Does the rule take one row as what its key is about? */
extern bool mlc_unique_is_needed(const MlcRule *rule);

/* The same asked of a rule that is stored; true if it needs none. */
extern bool mlc_unique_is_kept(MlcRule *rule);

/*
 * An index is about to be dropped.  ERROR 2BP01, at once or before the
 * transaction commits, where a rule is left without.
 */
extern void mlc_unique_index_dropped(Oid indexid, int dropflags);

/* From _PG_init only. */
extern void mlc_unique_init(void);

#endif							/* MLC_CAPTURE_UNIQUE_H */
