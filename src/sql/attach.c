/*-------------------------------------------------------------------------
 *
 * sql/attach.c
 *	  SQL: attach, detach, after_ddl.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/interval.h"
#include "capture/attach.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(mlc_attach);
PG_FUNCTION_INFO_V1(mlc_detach);
PG_FUNCTION_INFO_V1(mlc_after_ddl);
PG_FUNCTION_INFO_V1(mlc_rules_restored);

/* A text argument; NULL where there is none. */
static char *
text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* A text argument that must be there. */
static char *
required_arg(FunctionCallInfo fcinfo, int n, const char *name)
{
	char	   *value = text_arg(fcinfo, n);

	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	return value;
}

static int
names_arg(FunctionCallInfo fcinfo, int n, const char *name, char ***names)
{
	Datum	   *elems;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(n))
		return 0;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(n), NAMEOID, NAMEDATALEN, false,
					  TYPALIGN_CHAR, &elems, &nulls, &count);
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be an empty array", name)));
	*names = palloc(sizeof(char *) * count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", name)));
		(*names)[i] = NameStr(*DatumGetName(elems[i]));
	}
	return count;
}

static int64
ttl_arg(FunctionCallInfo fcinfo, int n, const char *name)
{
	int64		ms;

	if (PG_ARGISNULL(n))
		return 0;
	ms = mlc_interval_ms(PG_GETARG_INTERVAL_P(n));
	if (ms <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be at least one millisecond", name)));
	return ms;
}

/*
 * mlcache.attach(relation, key, consistency, action, ttl, columns, loader,
 * filter, tag, capture, on_unreachable, negative_ttl, servers, stale) returns the
 * rule, as a row of mlcache.rules.
 */
Datum
mlc_attach(PG_FUNCTION_ARGS)
{
	MlcAttach	attach;
	TupleDesc	row;

	if (get_call_result_type(fcinfo, NULL, &row) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	memset(&attach, 0, sizeof(attach));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("relation must not be null")));
	attach.relid = PG_GETARG_OID(0);
	if (get_rel_name(attach.relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", attach.relid)));
	attach.key = text_arg(fcinfo, 1);
	attach.tag = text_arg(fcinfo, 8);
	attach.consistency = required_arg(fcinfo, 2, "consistency");
	attach.action = required_arg(fcinfo, 3, "action");
	attach.ttl = ttl_arg(fcinfo, 4, "ttl");
	attach.ncolumns = names_arg(fcinfo, 5, "columns", &attach.columns);
	attach.loader = text_arg(fcinfo, 6);
	attach.filter = text_arg(fcinfo, 7);
	attach.capture = text_arg(fcinfo, 9);
	attach.on_unreachable = required_arg(fcinfo, 10, "on_unreachable");
	attach.negative_ttl = ttl_arg(fcinfo, 11, "negative_ttl");
	attach.stale = ttl_arg(fcinfo, 13, "stale");
	attach.nservers = names_arg(fcinfo, 12, "servers", &attach.servers);
	PG_RETURN_DATUM(mlc_attach_rule(&attach, BlessTupleDesc(row)));
}

/* mlcache.detach(relation [, key or tag]) returns how many rules went. */
Datum
mlc_detach(PG_FUNCTION_ARGS)
{
	char	   *key = text_arg(fcinfo, 1);
	char	   *tag = text_arg(fcinfo, 2);
	Oid			relid;
	int			removed;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("relation must not be null")));
	relid = PG_GETARG_OID(0);
	if (get_rel_name(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (key && tag)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a rule has a key or a tag, not both")));
	removed = mlc_attach_remove(relid, key, tag);
	if (removed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 key ?
				 errmsg("table \"%s\" has no cache rule '%s'",
						get_rel_name(relid), key) : tag ?
				 errmsg("table \"%s\" has no cache rule by tag '%s'",
						get_rel_name(relid), tag) :
				 errmsg("table \"%s\" has no cache rules", get_rel_name(relid))));
	PG_RETURN_INT32(removed);
}

/* mlcache.after_ddl(relation, purge): for the event trigger. */
Datum
mlc_after_ddl(PG_FUNCTION_ARGS)
{
	mlc_attach_after_ddl(PG_GETARG_OID(0), PG_GETARG_BOOL(1));
	PG_RETURN_VOID();
}

/* The trigger of mlcache.rule, for what attach and detach have not written. */
Datum
mlc_rules_restored(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("rules_restored() must be called as a trigger")));
	mlc_attach_restored();
	PG_RETURN_POINTER(NULL);
}
