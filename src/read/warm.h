/*-------------------------------------------------------------------------
 *
 * read/warm.h
 *	  Filling caches ahead: a relation's rows, or the keys that were hot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_READ_WARM_H
#define MLC_READ_WARM_H

#include "postgres.h"

/*
 * Fills what rules of the relation cache, for the rows that satisfy filter (an
 * SQL expression over them, as the caller; NULL: all), limit rows at most a
 * rule (negative: no limit).  Returns how many entries it filled; what was
 * cached is not counted.  In a transaction that may fill: else 25001.  42704
 * where the relation has no rule, 42501 as for get, 22023 for a bad filter's
 * other errors as SQL raises them.
 */
extern int64 mlc_warm_relation(Oid relid, const char *filter, int64 limit);

/*
 * Has the hot keys of each database with any filled by a worker of its own, if
 * mlcache.warm_on_start says so.  For the launcher, at its start.
 */
extern void mlc_warm_start(Oid dbid);

extern PGDLLEXPORT void mlc_warm_main(Datum arg);

#endif							/* MLC_READ_WARM_H */
