/*-------------------------------------------------------------------------
 *
 * audit/walk.h
 *	  A walk over what is cached of a rule, on one server: what the ways to walk
 *	  have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_WALK_H
#define MLC_AUDIT_WALK_H

#include "postgres.h"

#include "audit/audit.h"
#include "audit/recheck.h"
#include "audit/remote.h"
#include "audit/rows.h"
#include "audit/seen.h"
#include "read/link.h"

#define MLC_WALK_ROWS 500		/* a batch */
#define MLC_WALK_SUSPECTS 256	/* settled together */

typedef struct MlcWalk
{
	MlcAudit   *audit;
	MlcRule    *rule;
	MlcRows    *rows;
	MlcLink    *server;			/* of remote, or the cluster that it is of */
	MlcRemote  *remote;
	MlcSuspects *suspects;
	List	   *older;			/* rules that load keys of ours, too */
	char	   *pattern;
	int64		looked_at;		/* names, as far as progress is concerned */
	int64		total;
	int64		rows_expected;	/* that are walked over */
	int			restarts;		/* of the server, that progress knows of */
	int			page;			/* names a step of the scan looks at */
	MlcSeen		seen;			/* keys that have been compared by their rows */
	MlcSeen    *l1_seen;		/* those whose line in L1 was, and is fresh */
} MlcWalk;

/* A page of the scan, whose copies are compared while the next one is read. */
typedef struct MlcWalkPage
{
	MemoryContext context;
	int			nguards;		/* keys met by their guards' names */
	MlcCopy    *guards;
	int			nentries;		/* keys met by their own */
	MlcCopy    *entries;
	bool		asked;			/* of a walk over rows: answers are to come */
} MlcWalkPage;

/* In the walk's context.  It ends with mlc_rows_close(). */
extern void mlc_walk_begin(MlcWalk *walk, MlcAudit *audit, MlcRule *rule,
						   MlcRemote *remote);

/*
 * A key that several rules can give is loaded by the oldest of them, so it is
 * not for us to compare.
 */
extern bool mlc_walk_is_ours(MlcWalk *walk, const MlcCopy *copy);

extern bool mlc_walk_in_sample(MlcAudit *audit, const char *key, uint32 keylen);

/* What the guards of copies say that have just been read. */
extern void mlc_walk_parse_guards(MlcCopy *copies, int n);

/* False: there was nothing to judge.  ordered: see mlc_recheck_add(). */
extern bool mlc_walk_judge(MlcWalk *walk, const MlcCopy *copy,
						   XLogRecPtr position, bool ordered);

/* Compares copies that have been read with their rows, in a new snapshot. */
extern void mlc_walk_compare(MlcWalk *walk, MlcCopy *copies, int n);

/* Looks at suspects again, all or if they are many; tells what was found. */
extern void mlc_walk_settle(MlcWalk *walk, bool all);

/* ---- the ways ---- */

/* By what is cached, as SCAN finds it (cached.c). */
extern void mlc_cached_walk(MlcWalk *walk);

/* The same for some names. */
extern void mlc_cached_names(MlcWalk *walk, MlcReply **names, size_t n);

/* By rows in order: is it worth it? (ordered.c) */
extern bool mlc_ordered_pays(MlcWalk *walk);

/*
 * All rows in one snapshot; what is compared here the other walk leaves out.
 * keep: every row should be cached.
 */
extern void mlc_ordered_walk(MlcWalk *walk, bool keep);

#endif							/* MLC_AUDIT_WALK_H */
