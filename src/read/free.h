/*-------------------------------------------------------------------------
 *
 * read/free.h
 *	  Keys that no rule gives: their names, who may read them, and what Redis
 *	  holds under them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_READ_FREE_H
#define MLC_READ_FREE_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "model/version.h"
#include "read/link.h"
#include "redis/command.h"

/* Kinds of indexes in Redis; see lua/tag.lua. */
#define MLC_INDEX_TAG 't'
#define MLC_INDEX_FETCHED 'k'
#define MLC_INDEX_FREE 'f'		/* has no text */

#define MLC_NO_SLOT (-1)

/* Begins the keys of what mlcache.fetch() caches, and no others. */
#define MLC_FETCH_PREFIX '#'

/*
 * Appends the name of an index.  slot: of a Redis Cluster, that of the keys in
 * it; MLC_NO_SLOT where there is no cluster.  Needs no transaction.
 */
extern void mlc_free_index(StringInfo out, const char *ns, int slot, char kind,
						   const char *text, uint32 len);

/* Appends what its name has behind the namespace. */
extern void mlc_free_index_text(StringInfo out, char kind, const char *text,
								uint32 len);

/*
 * ERROR 22023 for what cannot be the key of an entry, or is kept for fetch().
 */
extern void mlc_free_check_key(const char *key, uint32 keylen);

/* May the current role read free keys?  It must be in mlcache_reader. */
extern bool mlc_free_is_readable(void);

/*
 * What this transaction has made of a free key: *value, NULL where it is gone;
 * false: nothing.  Set by capture/xact, which knows.
 */
extern bool (*mlc_free_pending) (const char *key, uint32 keylen, text * *value);

/* Has this transaction called anything of capture/write?	The same. */
extern bool (*mlc_free_is_writing) (void);

/*
 * The server that reads of a free key ask, the first by name; of a Redis Cluster
 * the key's master.  NULL: there is none, or nobody knows.
 */
extern MlcLink *mlc_free_link(const char *key, uint32 keylen);

/*
 * A node has answered that another one has the key now: that one; NULL: nobody
 * knows.
 */
extern MlcLink *mlc_free_follow(MlcLink *link, const char *key, uint32 keylen);

/* The slot of a key where the link is to a cluster, else MLC_NO_SLOT. */
extern int	mlc_free_slot(MlcLink *link, const char *key, uint32 keylen);

/*
 * Sends a question about a key; NULL: the connection is lost.  *pttl: ms that
 * its entry lives, -1: for ever, -2: it is gone; NULL: that is not asked for.
 */
extern MlcReply *mlc_free_ask(MlcLink *link, MlcCommand *question,
							  const char *key, uint32 keylen, int64 *pttl);

/* May the caller see lines of MLC_RULE_FREE in L1, and has it none of its own? */
extern bool mlc_free_from_l1(void);

/*
 * What Redis holds under a free key, in the current context; NULL: nothing,
 * or Redis is not to be asked.  With l1 a copy goes there.  *version: it is no
 * older.  Never throws for trouble with Redis.
 */
extern text * mlc_free_get(const char *key, uint32 keylen, bool l1,
						   MlcVersion *version);

#endif							/* MLC_READ_FREE_H */
