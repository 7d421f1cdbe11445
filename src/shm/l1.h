/*-------------------------------------------------------------------------
 *
 * shm/l1.h
 *	  L1: the cache in this server's shared memory.
 *
 * Of fixed size (mlcache.l1_size).  Readers look up, take a ticket before they
 * ask Redis or the row, and fill with it; the relay closes keys before it
 * touches Redis and opens them after the replies.  See gate.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_SHM_L1_H
#define MLC_SHM_L1_H

#include "postgres.h"

#include "model/version.h"
#include "shm/segment.h"

/* Leave to fill one key, once. */
typedef struct MlcL1Ticket
{
	uint64		token;			/* 0: no leave */
	uint64		hash;
	uint32		epoch;
	uint64		clock;			/* see tags */
} MlcL1Ticket;

/*
 * ---- tags: what makes lines void beside their key ----
 *
 * A tag is a name of some kind, and known by a number that others may share.
 * Lines whose tags nobody knows have MLC_L1_ANY_TAG, which is no tag's number.
 */
typedef uint16 MlcL1Tag;

#define MLC_L1_ANY_TAG ((MlcL1Tag) 0xffff)
#define MLC_L1_MAX_TAGS 100		/* of a line */

/* Needs no shared memory. */
extern MlcL1Tag mlc_l1_tag(char kind, const char *tag, uint32 len);

typedef struct MlcL1Hit
{
	int32		rule;			/* that filled it */
	bool		absent;			/* there is no such row */
	text	   *value;			/* in the current context; NULL when absent */
	MlcVersion	lo;				/* the content is no older */
} MlcL1Hit;

/* Counters, since the server started or reset_stats(). */
typedef struct MlcL1Stat
{
	int64		budget;			/* bytes of shared memory */
	int64		used;			/* bytes of lines, dead ones included */
	int64		lines;
	int64		line_bytes;		/* of those, headers and keys included */
	int64		payload;		/* of those, values only */
	int64		hits;
	int64		misses;
	int64		fills;
	int64		refused;		/* fills whose ticket had become void */
	int64		evictions;
	int64		closed;			/* lines that the relay removed */
} MlcL1Stat;

/* Hooks for shared memory.  From _PG_init only. */
extern void mlc_l1_init(void);

/* Does this database have an L1 that is open?  Cheap. */
extern bool mlc_l1_is_open(void);

/* ---- readers, of this database ---- */

/* True on a hit. */
extern bool mlc_l1_get(const char *key, uint32 keylen, MlcL1Hit *hit);

/*
 * Where many keys are to be looked up, the memory that the searches read can be
 * asked for ahead: the first for a few keys, then the second, then get.
 */
extern uint64 mlc_l1_expect(const char *key, uint32 keylen);
extern void mlc_l1_expect_line(uint64 hash);

/*
 * Takes leave to fill: before L2 or the row is asked.  A later ticket of the
 * key makes an earlier one void.  Whatever line there is goes: the caller had
 * no use for it.
 */
extern void mlc_l1_begin(const char *key, uint32 keylen, MlcL1Ticket *ticket);

/*
 * Fills, if the ticket is still good; value is NULL for an absent row.  ttl in
 * ms, 0: none.  The line is void as soon as one of its tags is closed.  False:
 * refused.
 */
extern bool mlc_l1_fill(MlcL1Ticket *ticket, const char *key, uint32 keylen,
						int32 rule, const char *value, uint32 vallen,
						MlcVersion lo, int64 ttl, const MlcL1Tag *tags,
						int ntags);

/* ---- the relay ---- */

/* Shut: nobody hits or fills, and what is there is forgotten. */
extern void mlc_l1_shut(MlcRelayShared *relay);

/* This key's line and tickets go; none is given until mlc_l1_open(). */
extern void mlc_l1_close_key(MlcRelayShared *relay, const char *key,
							 uint32 keylen);

/*
 * Lines with the tag are void, and so are those that are filled with a ticket of
 * before mlc_l1_open().
 */
extern void mlc_l1_close_tag(MlcRelayShared *relay, MlcL1Tag tag);

/* Everything that was closed or shut may be filled again. */
extern void mlc_l1_open(MlcRelayShared *relay);

/* ---- strong writers, of this database ---- */

/*
 * Closes one key, or all of this database, until as many calls of the second
 * function: lines and tickets go, and none is given.  Several may close a key
 * at once.  *handle is what opens it again.  Opening never throws; callable in
 * a commit callback.
 */
extern void mlc_l1_writer_close(const char *key, uint32 keylen,
								uint32 *handle);
extern void mlc_l1_writer_open(uint32 handle);
extern bool mlc_l1_writer_close_all(void);	/* false: nothing to open */
extern void mlc_l1_writer_open_all(void);

/* ---- audits, of this database: they count as no use ---- */

/* Where a walk over all lines stands; all zero at its start. */
typedef struct MlcL1Cursor
{
	int			partition;
	uint32		bucket;
} MlcL1Cursor;

typedef struct MlcL1Copy
{
	char	   *key;			/* in the current context, like the value */
	uint32		keylen;
	MlcL1Hit	hit;
} MlcL1Copy;

/* The key's line; false: none. */
extern bool mlc_l1_peek(const char *key, uint32 keylen, MlcL1Hit *hit);

/*
 * A step of a walk: up to max lines, of one rule (0: of all), copied; -1 at the
 * end.  Lines that come or go meanwhile may be met or not; those of no rule have
 * no row to be compared with, and are left out.
 */
extern int	mlc_l1_walk(MlcL1Cursor *cursor, int32 rule, MlcL1Copy *lines,
						int max);

/* ---- statistics, of the whole server ---- */

extern void mlc_l1_stat(MlcL1Stat *stat);
extern void mlc_l1_reset_stat(void);

#endif							/* MLC_SHM_L1_H */
