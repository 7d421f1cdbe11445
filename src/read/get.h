/*-------------------------------------------------------------------------
 *
 * read/get.h
 *	  Guarded reads: L1, then Redis, then the row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_READ_GET_H
#define MLC_READ_GET_H

#include "postgres.h"

#include "model/version.h"
#include "read/link.h"
#include "shm/l1.h"

/* Where a value came from. */
typedef enum MlcSource
{
	MLC_FROM_NOWHERE,			/* the key was NULL */
	MLC_FROM_L1,
	MLC_FROM_L2,
	MLC_FROM_STALE,				/* what was removed, while somebody else loads */
	MLC_FROM_LOAD,				/* the row, and the cache was filled with it */
	MLC_FROM_ROW				/* the row; nothing was cached */
} MlcSource;

/* What a read may not be older than. */
typedef struct MlcBound
{
	bool		has_version;
	MlcVersion	version;
	bool		met;			/* by whatever is found from now on */
	bool		has_age;
	int64		age;			/* ms */
} MlcBound;

/* How far a read has come. */
typedef enum MlcReadState
{
	MLC_READ_ASK,				/* Redis is to be asked */
	MLC_READ_LEASE,				/* we load and fill */
	MLC_READ_ROW,				/* we load */
	MLC_READ_DONE
} MlcReadState;

typedef struct MlcRead
{
	const char *key;			/* the caller's; NULL: no key */
	uint32		keylen;

	/* the answer */
	text	   *value;			/* NULL: there is no such row */
	MlcSource	source;
	MlcVersion	lo;				/* no older; lsn 0 where it is not known */

	/* on the way */
	MlcReadState state;
	MlcRule    *rule;
	MlcLink    *link;
	MlcL1Ticket ticket;
	MlcVersion	applied;		/* as the lease said */
	MlcVersion	applying;
	bool		moved;			/* another node of the cluster has it */
	int64		busy;			/* ms that somebody else's lease lasts */
	int64		pttl;			/* ms that the entry lives; -1: for ever */
	bool		own;			/* what was loaded may be cached */
} MlcRead;

/*
 * Reads n keys; bound may be NULL.  Values are allocated in the current
 * context.  In a transaction.  Raises 42704 for a key that no rule gives,
 * 42501 where the role may not read the row, 22023 for a version that is yet
 * to come, and what the loader raises; never for trouble with Redis.
 */
extern void mlc_get_many(MlcRead *reads, int n, MlcBound *bound);

/* May this transaction fill caches? */
extern bool mlc_get_may_fill(void);

/* One key. */
extern text * mlc_get_one(const char *key, uint32 keylen,
						  MlcBound *bound);

/* Notes how a read of another kind went. */
extern void mlc_get_set_last(MlcSource source, MlcVersion lo);

/* How this session's last read went; of several the last one. */
extern void mlc_get_last(MlcSource *source, MlcVersion *lo);

#endif							/* MLC_READ_GET_H */
