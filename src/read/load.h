/*-------------------------------------------------------------------------
 *
 * read/load.h
 *	  Loaders: from a key to the payload that a cache holds for it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_READ_LOAD_H
#define MLC_READ_LOAD_H

#include "postgres.h"

#include "model/rule.h"

typedef enum MlcLoad
{
	MLC_LOAD_FOUND,
	MLC_LOAD_ABSENT,			/* no row, or a NULL document */
	MLC_LOAD_FOREIGN			/* no key of this rule, or not letter by
								 * letter */
} MlcLoad;

/* Append the rule's payload as an expression over r, and the table as r. */
extern void mlc_load_payload(MlcRule *rule, StringInfo query);
extern void mlc_load_table(MlcRule *rule, StringInfo query);

/* Has every value of the type one text, so that "=" means the same letters? */
extern bool mlc_load_is_exact(Oid type, Oid collation);

/*
 * Loads the payload of a key with the active snapshot, as the owner of the
 * rule's table, search_path and formats pinned.  *payload is allocated in the
 * current context.  In a transaction; raises what the loader raises, and
 * 21000 when it returns more than one row.
 */
extern MlcLoad mlc_load_key(MlcRule *rule, const char *key, uint32 keylen,
							char **payload, uint32 *payloadlen);

/*
 * The same, but also reads what may not be cached: a key that its types write
 * otherwise ('product:042'), or that finds the row of another key.  *own tells
 * whether the result may be cached under this key.  MLC_LOAD_FOREIGN: no key
 * of this rule.  Raises 22P02 and the like for what the types refuse.
 */
extern MlcLoad mlc_load_row(MlcRule *rule, const char *key, uint32 keylen,
							char **payload, uint32 *payloadlen, bool *own);

/*
 * Appends the key that these texts of the template's columns come to, as the
 * columns' types write them.  False: there is none (*isnull: one is NULL) or
 * it is too long.  texts is overwritten.
 */
extern bool mlc_load_render(MlcRule *rule, char **texts, StringInfo key,
							bool *isnull);

/* The query of a rule's loader, in the current context. */
extern char *mlc_load_query(MlcRule *rule);

/* Prepares the loader once, to see whether it is any good; raises if not. */
extern void mlc_load_check(MlcRule *rule);

#endif							/* MLC_READ_LOAD_H */
