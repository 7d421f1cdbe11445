/*-------------------------------------------------------------------------
 *
 * sql/write.c
 *	  SQL: what callers cache themselves, and remove: fetch, set, touch,
 *	  delete, invalidate, invalidate_tag, invalidate_pattern.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/interval.h"
#include "capture/write.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "read/fetch.h"
#include "shm/segment.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(mlc_sql_fetch);
PG_FUNCTION_INFO_V1(mlc_sql_set);
PG_FUNCTION_INFO_V1(mlc_sql_touch);
PG_FUNCTION_INFO_V1(mlc_sql_delete);
PG_FUNCTION_INFO_V1(mlc_sql_invalidate);
PG_FUNCTION_INFO_V1(mlc_sql_invalidate_tag);
PG_FUNCTION_INFO_V1(mlc_sql_invalidate_pattern);

#define TTL_MAX (INT64CONST(100) * 365 * 86400 * 1000)
#define TAGS_MAX 64
#define TAG_MAX 1024			/* bytes */

/* A text argument that must be there. */
static text *
text_arg(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
	return PG_GETARG_TEXT_PP(n);
}

/* A time to live in ms; 0 for NULL: none. */
static int64
ttl_arg(FunctionCallInfo fcinfo, int n)
{
	int64		ms;

	if (PG_ARGISNULL(n))
		return 0;
	ms = mlc_interval_ms(PG_GETARG_INTERVAL_P(n));
	if (ms <= 0 || ms > TTL_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ttl must be from one millisecond to 100 years")));
	return ms;
}

static void
check_tag(const char *tag, uint32 len)
{
	if (len == 0 || len > TAG_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a tag must have 1 to %d bytes", TAG_MAX)));
}

/* Tags; NULL means none. */
static int
tags_arg(FunctionCallInfo fcinfo, int n, const char ***tags, uint32 **lens)
{
	Datum	   *elems;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(n))
		return 0;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(n), TEXTOID, -1, false,
					  TYPALIGN_INT, &elems, &nulls, &count);
	if (count > TAGS_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("there can be %d tags at most", TAGS_MAX)));
	*tags = palloc(sizeof(char *) * Max(count, 1));
	*lens = palloc(sizeof(uint32) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		text	   *tag;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("tags must not contain nulls")));
		tag = DatumGetTextPP(elems[i]);
		(*tags)[i] = VARDATA_ANY(tag);
		(*lens)[i] = VARSIZE_ANY_EXHDR(tag);
		check_tag((*tags)[i], (*lens)[i]);
	}
	return count;
}

/* Texts of parameters; NULL means none. */
static int
params_arg(FunctionCallInfo fcinfo, int n, char ***params)
{
	Datum	   *elems;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(n))
		return 0;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(n), TEXTOID, -1, false,
					  TYPALIGN_INT, &elems, &nulls, &count);
	*params = palloc(sizeof(char *) * Max(count, 1));
	for (int i = 0; i < count; i++)
		(*params)[i] = nulls[i] ? NULL : TextDatumGetCString(elems[i]);
	return count;
}

/* mlcache.fetch(key, query, params, ttl, tags) */
Datum
mlc_sql_fetch(PG_FUNCTION_ARGS)
{
	text	   *key = text_arg(fcinfo, 0, "key");
	MlcFetch	fetch;

	mlc_segment_require();
	memset(&fetch, 0, sizeof(fetch));
	fetch.key = VARDATA_ANY(key);
	fetch.keylen = VARSIZE_ANY_EXHDR(key);
	fetch.query = text_to_cstring(text_arg(fcinfo, 1, "query"));
	fetch.nparams = params_arg(fcinfo, 2, &fetch.params);
	fetch.ttl = ttl_arg(fcinfo, 3);
	fetch.ntags = tags_arg(fcinfo, 4, &fetch.tags, &fetch.lens);
	PG_RETURN_TEXT_P(mlc_fetch(&fetch));
}

/* mlcache.set(key, value, ttl, tags) */
Datum
mlc_sql_set(PG_FUNCTION_ARGS)
{
	text	   *key = text_arg(fcinfo, 0, "key");
	text	   *value = text_arg(fcinfo, 1, "value");
	int64		ttl = ttl_arg(fcinfo, 2);
	const char **tags = NULL;
	uint32	   *lens = NULL;
	int			ntags = tags_arg(fcinfo, 3, &tags, &lens);

	mlc_write_set(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
				  VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), ttl, ntags,
				  tags, lens);
	PG_RETURN_VOID();
}

/* mlcache.touch(key, ttl) */
Datum
mlc_sql_touch(PG_FUNCTION_ARGS)
{
	text	   *key = text_arg(fcinfo, 0, "key");

	mlc_write_touch(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
					ttl_arg(fcinfo, 1));
	PG_RETURN_VOID();
}

/* mlcache.delete(key) */
Datum
mlc_sql_delete(PG_FUNCTION_ARGS)
{
	text	   *key = text_arg(fcinfo, 0, "key");

	mlc_write_delete(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	PG_RETURN_VOID();
}

/* mlcache.invalidate(key) */
Datum
mlc_sql_invalidate(PG_FUNCTION_ARGS)
{
	text	   *key = text_arg(fcinfo, 0, "key");

	mlc_write_invalidate(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	PG_RETURN_VOID();
}

/* mlcache.invalidate_tag(tag) */
Datum
mlc_sql_invalidate_tag(PG_FUNCTION_ARGS)
{
	text	   *tag = text_arg(fcinfo, 0, "tag");

	check_tag(VARDATA_ANY(tag), VARSIZE_ANY_EXHDR(tag));
	mlc_write_invalidate_tag(VARDATA_ANY(tag), VARSIZE_ANY_EXHDR(tag));
	PG_RETURN_VOID();
}

/* mlcache.invalidate_pattern(glob) */
Datum
mlc_sql_invalidate_pattern(PG_FUNCTION_ARGS)
{
	text	   *glob = text_arg(fcinfo, 0, "pattern");

	mlc_write_invalidate_pattern(VARDATA_ANY(glob), VARSIZE_ANY_EXHDR(glob));
	PG_RETURN_VOID();
}
