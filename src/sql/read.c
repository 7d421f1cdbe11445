/*-------------------------------------------------------------------------
 *
 * sql/read.c
 *	  SQL: get, get_row, mget, exists, last_read, stat_get_l1.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/interval.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "read/get.h"
#include "read/load.h"
#include "read/match.h"
#include "shm/heat.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(mlc_sql_get);
PG_FUNCTION_INFO_V1(mlc_sql_get_row);
PG_FUNCTION_INFO_V1(mlc_sql_mget);
PG_FUNCTION_INFO_V1(mlc_sql_exists);
PG_FUNCTION_INFO_V1(mlc_sql_last_read);
PG_FUNCTION_INFO_V1(mlc_stat_get_l1);

/* The arguments max_age and min_version; NULL when both are NULL. */
static MlcBound *
bound_args(FunctionCallInfo fcinfo, int age, int version, MlcBound *bound)
{
	memset(bound, 0, sizeof(*bound));
	if (!PG_ARGISNULL(age))
	{
		bound->has_age = true;
		bound->age = mlc_interval_ms(PG_GETARG_INTERVAL_P(age));
		if (bound->age < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("max_age must not be negative")));
	}
	if (!PG_ARGISNULL(version))
	{
		char	   *input = text_to_cstring(PG_GETARG_TEXT_PP(version));

		bound->has_version = true;
		if (!mlc_version_parse(input, strlen(input), &bound->version))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("invalid version \"%s\"", input),
					 errdetail("A version has 24 lower-case hex digits."),
					 errhint("Take it from mlcache.last_commit_version().")));
	}
	return bound->has_age || bound->has_version ? bound : NULL;
}

/* mlcache.get(key, max_age, min_version): NULL where there is no such row. */
Datum
mlc_sql_get(PG_FUNCTION_ARGS)
{
	text	   *key;
	text	   *value;
	MlcBound	bound;

	mlc_segment_require();
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	key = PG_GETARG_TEXT_PP(0);
	value = mlc_get_one(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
						PG_ARGISNULL(1) && PG_ARGISNULL(2) ? NULL :
						bound_args(fcinfo, 1, 2, &bound));
	if (value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(value);
}

/* mlcache.exists(key): is there such a row? */
Datum
mlc_sql_exists(PG_FUNCTION_ARGS)
{
	text	   *key = PG_GETARG_TEXT_PP(0);

	mlc_segment_require();
	PG_RETURN_BOOL(mlc_get_one(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
							   NULL) != NULL);
}

/* mlcache.mget(keys, max_age, min_version): one row a key, in their order. */
Datum
mlc_sql_mget(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *keys;
	bool	   *isnull;
	int			n;
	MlcRead    *reads;
	MlcBound	bound;

	mlc_segment_require();
	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false,
					  TYPALIGN_INT, &keys, &isnull, &n);
	reads = palloc_extended(sizeof(MlcRead) * Max(n, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		text	   *key = isnull[i] ? NULL : DatumGetTextPP(keys[i]);

		reads[i].key = key ? VARDATA_ANY(key) : NULL;
		reads[i].keylen = key ? VARSIZE_ANY_EXHDR(key) : 0;
		if (key)
			mlc_heat_note(reads[i].key, reads[i].keylen);
	}
	mlc_get_many(reads, n, bound_args(fcinfo, 1, 2, &bound));
	for (int i = 0; i < n; i++)
	{
		Datum		values[2];
		bool		nulls[2];

		values[0] = keys[i];
		nulls[0] = isnull[i];
		values[1] = PointerGetDatum(reads[i].value);
		nulls[1] = reads[i].value == NULL;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* What get_row() finds out once a call site. */
typedef struct RowCall
{
	Oid			relid;
	int			nkeys;
	FmgrInfo	output[MLC_KEY_MAX_COLUMNS];
	FmgrInfo	populate;
} RowCall;

static RowCall *
prepare_row_call(FunctionCallInfo fcinfo)
{
	RowCall    *call = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt,
											  sizeof(RowCall));
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 0);

	call->relid = get_typ_typrelid(type);
	if (!OidIsValid(call->relid))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("%s is not the type of a table's rows",
						format_type_be(type)),
				 errhint("Write mlcache.get_row(NULL::product, 42).")));
	call->nkeys = PG_NARGS() - 1;
	if (get_fn_expr_variadic(fcinfo->flinfo) ||
		call->nkeys > MLC_KEY_MAX_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("get_row() takes the values of the key one by one"),
				 errdetail("There can be %d at most.", MLC_KEY_MAX_COLUMNS)));
	for (int i = 0; i < call->nkeys; i++)
	{
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(get_fn_expr_argtype(fcinfo->flinfo, i + 1), &output,
						  &varlena);
		fmgr_info_cxt(output, &call->output[i], fcinfo->flinfo->fn_mcxt);
	}

	/* json_populate_record() takes its row type from the same expression */
	fmgr_info_cxt(F_JSON_POPULATE_RECORD, &call->populate,
				  fcinfo->flinfo->fn_mcxt);
	fmgr_info_set_expr((Node *) fcinfo->flinfo->fn_expr, &call->populate);
	fcinfo->flinfo->fn_extra = call;
	return call;
}

/* mlcache.get_row(NULL::table, VARIADIC keys): the row, or NULL. */
Datum
mlc_sql_get_row(PG_FUNCTION_ARGS)
{
	RowCall    *call = fcinfo->flinfo->fn_extra;

	LOCAL_FCINFO(populate, 3);
	MlcRule    *rule;
	char	   *texts[MLC_KEY_MAX_COLUMNS];
	StringInfoData key;
	bool		isnull;
	text	   *value;
	Datum		result;

	mlc_segment_require();
	if (call == NULL)
		call = prepare_row_call(fcinfo);
	rule = mlc_match_relation(call->relid, call->nkeys);
	if (rule == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no cache rule of table \"%s\" caches its rows by %d column(s)",
						get_rel_name(call->relid), call->nkeys),
				 errdetail("Rules with a loader or a list of columns do not cache rows.")));
	for (int i = 0; i < call->nkeys; i++)
		texts[i] = PG_ARGISNULL(i + 1) ? NULL :
			OutputFunctionCall(&call->output[i], PG_GETARG_DATUM(i + 1));
	initStringInfo(&key);
	if (!mlc_load_render(rule, texts, &key, &isnull))
	{
		if (isnull)
			PG_RETURN_NULL();
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the key is longer than %d bytes", MLC_KEY_MAX_LEN)));
	}
	value = mlc_get_one(key.data, key.len, NULL);
	if (value == NULL)
		PG_RETURN_NULL();

	InitFunctionCallInfoData(*populate, &call->populate, 3, InvalidOid, NULL,
							 NULL);
	populate->args[0].value = PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0);
	populate->args[0].isnull = PG_ARGISNULL(0);
	populate->args[1].value = PointerGetDatum(value);
	populate->args[1].isnull = false;
	populate->args[2].value = BoolGetDatum(false);
	populate->args[2].isnull = false;
	result = FunctionCallInvoke(populate);
	fcinfo->isnull = populate->isnull;
	return result;
}

static const char *
source_name(MlcSource source)
{
	switch (source)
	{
		case MLC_FROM_NOWHERE:
			break;
		case MLC_FROM_L1:
			return "L1";
		case MLC_FROM_L2:
			return "L2";
		case MLC_FROM_STALE:
			return "stale";
		case MLC_FROM_LOAD:
			return "load";
		case MLC_FROM_ROW:
			return "row";
	}
	return NULL;
}

/* mlcache.last_read(): where this session's last read came from. */
Datum
mlc_sql_last_read(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	MlcSource	source;
	MlcVersion	lo;
	char		version[MLC_VERSION_LEN + 1];
	Datum		values[2] = {0};
	bool		nulls[2];

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	mlc_get_last(&source, &lo);
	nulls[0] = source_name(source) == NULL;
	if (!nulls[0])
		values[0] = CStringGetTextDatum(source_name(source));
	nulls[1] = lo.lsn == InvalidXLogRecPtr;
	mlc_version_print(lo, version);
	if (!nulls[1])
		values[1] = CStringGetTextDatum(version);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

/* mlcache.stat_get_l1() */
Datum
mlc_stat_get_l1(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	MlcL1Stat	stat;
	Datum		values[11];
	bool		nulls[11] = {false};
	int			n = 0;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	mlc_segment_require();
	mlc_l1_stat(&stat);
	values[n++] = Int64GetDatum(stat.budget);
	values[n++] = Int64GetDatum(stat.used);
	values[n++] = Int64GetDatum(stat.lines);
	values[n++] = Int64GetDatum(stat.line_bytes);
	values[n++] = Int64GetDatum(stat.payload);
	values[n++] = Int64GetDatum(stat.hits);
	values[n++] = Int64GetDatum(stat.misses);
	values[n++] = Int64GetDatum(stat.fills);
	values[n++] = Int64GetDatum(stat.refused);
	values[n++] = Int64GetDatum(stat.evictions);
	values[n++] = Int64GetDatum(stat.closed);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}
