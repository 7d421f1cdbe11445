/*-------------------------------------------------------------------------
 *
 * sql/warm.c
 *	  SQL: hot_keys, warm.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "read/warm.h"
#include "shm/heat.h"
#include "shm/segment.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(mlc_sql_hot_keys);
PG_FUNCTION_INFO_V1(mlc_sql_warm);

/* mlcache.hot_keys(n): the keys of this database that are read most. */
Datum
mlc_sql_hot_keys(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			n = PG_GETARG_INT32(0);
	MlcHotKey  *keys;

	mlc_segment_require();
	if (n < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n must not be negative")));
	InitMaterializedSRF(fcinfo, 0);
	n = mlc_heat_top(MyDatabaseId, n, &keys);
	for (int i = 0; i < n; i++)
	{
		Datum		values[2];
		bool		nulls[2] = {false, false};

		values[0] = PointerGetDatum(cstring_to_text_with_len(keys[i].key,
															 keys[i].keylen));
		values[1] = Int64GetDatum((int64) keys[i].reads);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* mlcache.warm(relation, filter, max_rows) returns how many entries it filled. */
Datum
mlc_sql_warm(PG_FUNCTION_ARGS)
{
	Oid			relid;
	char	   *filter = NULL;
	int64		limit = -1;

	mlc_segment_require();
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("relation must not be null")));
	relid = PG_GETARG_OID(0);
	if (get_rel_name(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (!PG_ARGISNULL(1))
		filter = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(2))
	{
		limit = PG_GETARG_INT64(2);
		if (limit < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("max_rows must not be negative")));
	}
	PG_RETURN_INT64(mlc_warm_relation(relid, filter, limit));
}
