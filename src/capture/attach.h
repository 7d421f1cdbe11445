/*-------------------------------------------------------------------------
 *
 * capture/attach.h
 *	  Attaching rules to tables, detaching them, and DDL on ruled tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_ATTACH_H
#define MLC_CAPTURE_ATTACH_H

#include "postgres.h"

#include "model/rule.h"

/* What the caller of attach() said; NULL where it said nothing. */
typedef struct MlcAttach
{
	Oid			relid;
	const char *key;			/* NULL: a rule by tag */
	const char *tag;
	const char *consistency;
	const char *action;
	int64		ttl;			/* ms; 0: none */
	int64		negative_ttl;	/* ms; 0: none */
	int64		stale;			/* ms; 0: none */
	int			ncolumns;
	char	  **columns;
	const char *loader;
	const char *filter;
	const char *capture;
	const char *on_unreachable;
	int			nservers;
	char	  **servers;
} MlcAttach;

/*
 * Checks everything, stores the rule, makes the trigger where the capture
 * needs one, and has the relay started.  Returns the rule as a row of
 * mlcache.rules, which view describes.  Raises what sql_api calls bad input;
 * changes nothing then.
 */
extern Datum mlc_attach_rule(const MlcAttach *attach, TupleDesc view);

/* Removes the rules of a table, or the one with this key or tag; how many. */
extern int	mlc_attach_remove(Oid relid, const char *key, const char *tag);

/*
 * Rules were written by plain SQL, as the restore of a dump does: a relay
 * comes, and every session looks the rules up anew.
 */
extern void mlc_attach_restored(void);

/* After DDL: refuses what breaks a rule, and purges those concerned. */
extern void mlc_attach_after_ddl(Oid relid, bool purge);

/* Follows DROP TABLE and DROP COLUMN.  From _PG_init only. */
extern void mlc_attach_init(void);

#endif							/* MLC_CAPTURE_ATTACH_H */
