/*-------------------------------------------------------------------------
 *
 * model/bind.h
 *	  A rule as it applies to one relation.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_MODEL_BIND_H
#define MLC_MODEL_BIND_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "fmgr.h"
#include "model/rule.h"
#include "utils/relcache.h"

/* How one column of a key is turned into text. */
typedef enum MlcRenderer
{
	MLC_TEXT_OUTPUT,			/* the type's output function */
	MLC_TEXT_INT2,
	MLC_TEXT_INT4,
	MLC_TEXT_INT8,
	MLC_TEXT_VARLENA			/* text, varchar */
} MlcRenderer;

/* A rule as it applies to one relation (itself, or one of its partitions). */
typedef struct MlcBinding
{
	MlcRule    *rule;
	AttrNumber	attnums[MLC_KEY_MAX_COLUMNS];
	MlcRenderer renderers[MLC_KEY_MAX_COLUMNS];
	FmgrInfo	output[MLC_KEY_MAX_COLUMNS];
	bool		pin_format;		/* the key's text depends on DateStyle and the
								 * like */
	bool		disguise;		/* the key's or payload's text depends on
								 * search_path: see model/disguise.h */
	bool		identity;		/* the replica identity covers the key */
	bool		broken;			/* a column is gone: purge on every change */

	/* payload: NULL tupdesc means the row as it is */
	TupleDesc	payload_desc;
	int			npayload;
	AttrNumber *payload_attnums;
	struct ExprState *filter;	/* prepared by capture/trigger */
	bool		filter_varies;	/* by settings, or by who evaluates it */
	struct EState *estate;
} MlcBinding;

/*
 * Binds a rule to a relation, in the current context.  False if a column of
 * the key or of the payload is not there; *missing then names it.
 */
extern bool mlc_bind_rule(MlcRule *rule, Relation relation,
						  MlcBinding *binding, const char **missing);

/*
 * Appends the key of a tuple.  NULL columns: MLC_RENDER_NULL.  Allocates in
 * the current context only for types that need their output function.
 */
extern MlcRender mlc_bind_render(MlcBinding *binding, HeapTuple tuple,
								 TupleDesc desc, StringInfo out);

/* Does the relation's replica identity hold every column of the key? */
extern bool mlc_bind_identity_covers(Relation relation,
									 const AttrNumber *attnums, int n);

#endif							/* MLC_MODEL_BIND_H */
