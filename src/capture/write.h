/*-------------------------------------------------------------------------
 *
 * capture/write.h
 *	  Writing to the cache as part of the transaction: keys of no rule, and
 *	  invalidations by key, tag and pattern.
 *
 * Each takes effect on every server if and when the transaction commits, in
 * commit order; a savepoint that is rolled back takes it back.  All raise 55000
 * where no relay would deliver it, 25006 in a transaction that only reads,
 * 22023 for what cannot be a key, 54000 past mlcache.capture_work_mem.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_WRITE_H
#define MLC_CAPTURE_WRITE_H

#include "postgres.h"

/* Bytes of a value that may be set. */
#define MLC_WRITE_MAX (64 * 1024 * 1024)

/* The entry gets a value.	ttl: ms, 0: none.  42809 for a key of a rule. */
extern void mlc_write_set(const char *key, uint32 keylen, const char *value,
						  uint32 valuelen, int64 ttl, int ntags,
						  const char *const *tags, const uint32 *lens);

/*
 * The entry, if there is one, lives for ttl ms from the commit on, 0: for ever.
 * 42809 for a key of a rule.
 */
extern void mlc_write_touch(const char *key, uint32 keylen, int64 ttl);

/* The entry goes. */
extern void mlc_write_delete(const char *key, uint32 keylen);

/* The same, and what mlcache.fetch() cached under the key. */
extern void mlc_write_invalidate(const char *key, uint32 keylen);

/* What was filled with the tag goes. */
extern void mlc_write_invalidate_tag(const char *tag, uint32 len);

/*
 * What matches the glob goes, whatever it is; the glob is one of Redis.  Looks
 * at every key of every server.  22025 for an escape or class that does not
 * end.
 */
extern void mlc_write_invalidate_pattern(const char *glob, uint32 len);

#endif							/* MLC_CAPTURE_WRITE_H */
