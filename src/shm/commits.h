/*-------------------------------------------------------------------------
 *
 * shm/commits.h
 *	  Which backends are in a strong commit just now.
 *
 * A server that has lost its marks must not be armed while a commit is under
 * way that relies on them: the relay takes a snapshot once new marks cannot be
 * lost any more, and waits until the commits in it are over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_SHM_COMMITS_H
#define MLC_SHM_COMMITS_H

#include "postgres.h"

/* Hooks for shared memory.  From _PG_init only. */
extern void mlc_commits_init(void);

/*
 * This backend's strong commit begins (before the first command to any
 * server), and ends (after the last).  Never throw; callable in a commit
 * callback.
 */
extern void mlc_commits_begin(void);
extern void mlc_commits_end(void);

/* The commits that are under way in one database. */
typedef struct MlcCommits
{
	int			n;
	struct
	{
		int			slot;
		uint64		sequence;
	}			under_way[FLEXIBLE_ARRAY_MEMBER];
} MlcCommits;

/* Taken now, allocated in context. */
extern MlcCommits *mlc_commits_snapshot(MemoryContext context, Oid dbid);

/* Are those of the snapshot over? */
extern bool mlc_commits_are_over(MlcCommits *commits);

#endif							/* MLC_SHM_COMMITS_H */
