/*-------------------------------------------------------------------------
 *
 * shm/heat.h
 *	  Which keys are read most: a bounded sketch in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_SHM_HEAT_H
#define MLC_SHM_HEAT_H

#include "postgres.h"

#define MLC_HEAT_SAMPLE 32		/* one read in so many is counted */
#define MLC_HEAT_MAX_KEY 200	/* longer keys are not counted */

/* Where the sketch is kept while the server is down; in the data directory. */
#define MLC_HEAT_FILE "pg_stat/mlcache.hot"

typedef struct MlcHotKey
{
	char	   *key;			/* NUL-terminated, too */
	uint32		keylen;
	uint64		reads;			/* an estimate; what is long ago counts less */
} MlcHotKey;

/* Hooks for shared memory.  From _PG_init only. */
extern void mlc_heat_init(void);

/* Reads of this process until the next one that is counted. */
extern int	mlc_heat_skip;
extern void mlc_heat_count(const char *key, uint32 keylen);

/* A read of this database. */
static inline void
mlc_heat_note(const char *key, uint32 keylen)
{
	if (unlikely(--mlc_heat_skip < 0))
		mlc_heat_count(key, keylen);
}

/*
 * The n hottest keys of a database, hottest first, allocated in the current
 * context; returns how many there are.
 */
extern int	mlc_heat_top(Oid dbid, int n, MlcHotKey **keys);

/* Of which databases are there keys?  In the current context. */
extern int	mlc_heat_databases(Oid **dbids);

/*
 * Writes the sketch into its file, or adds what is there to the sketch.  A file
 * that cannot be written or is not whole is told in the log, and nothing else
 * happens.  Never throws other than for want of memory.
 */
extern void mlc_heat_save(void);
extern void mlc_heat_load(void);

#endif							/* MLC_SHM_HEAT_H */
