/*-------------------------------------------------------------------------
 *
 * read/query.h
 *	  Queries that mlcache.fetch() is given: prepared, checked, run.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_READ_QUERY_H
#define MLC_READ_QUERY_H

#include "postgres.h"

#include "utils/snapshot.h"

typedef struct MlcQuery MlcQuery;

/*
 * Opens a query for the current role: prepares it where this session has not
 * done so before, and checks the role's rights on what it reads, as running it
 * would.  Raises what parsing and planning raise, 42501, 0A000 for what is not
 * one SELECT or locks rows.  Connects to SPI; mlc_query_close() follows, or
 * mlc_query_abandon().
 */
extern MlcQuery *mlc_query_open(const char *text, int nparams);

/*
 * Why its result must not be cached, a sentence, NULL where it may: what it
 * shows depends on more than the role, the text and the parameters.
 */
extern const char *mlc_query_uncacheable(MlcQuery *query);

/*
 * Runs it as the current role; params: texts, NULL for SQL NULL.  Returns a
 * JSON array of one object a row, in the context that was current when the
 * query was opened.  Raises 22xxx for a parameter that is none of its type.
 */
extern text * mlc_query_run(MlcQuery *query, char **params, Snapshot snapshot);

extern void mlc_query_close(MlcQuery *query);

/* Instead, when an error is on its way. */
extern void mlc_query_abandon(MlcQuery *query);

#endif							/* MLC_READ_QUERY_H */
