/*-------------------------------------------------------------------------
 *
 * read/fetch.h
 *	  The result of any query, cached under a key and tags.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_READ_FETCH_H
#define MLC_READ_FETCH_H

#include "postgres.h"

typedef struct MlcFetch
{
	const char *key;
	uint32		keylen;
	const char *query;
	int			nparams;
	char	  **params;			/* NULL: SQL NULL */
	int64		ttl;			/* ms; 0: none */
	int			ntags;
	const char **tags;
	uint32	   *lens;
} MlcFetch;

/*
 * The query's result as a JSON array of one object a row, in the current
 * context: from Redis, where the same role has had the same query, parameters
 * and settings cached under the same key, tags and ttl; else from the query,
 * and cached then, where it may be.  Never raises for trouble with Redis; what
 * the query raises, and 22023 for what cannot be a key.
 */
extern text * mlc_fetch(const MlcFetch *fetch);

#endif							/* MLC_READ_FETCH_H */
