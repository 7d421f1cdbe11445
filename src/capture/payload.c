/*-------------------------------------------------------------------------
 *
 * capture/payload.c
 *	  The payload of a changed row: the row as JSON.
 *
 * The text must be the one that a loader's row_to_json() gives.  That function
 * looks the row's type, each column's type and its output function up for
 * every row anew, which was a fifth of what the relay does for an update; so
 * rows whose columns are all of the usual types are written here, and it is
 * asked for the others.  sql/payload.sql compares the two.
 *
 * Nothing is kept from one row to the next.  Locks: none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "access/transam.h"
#include "base/compat.h"
#include "capture/payload.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "model/bind.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

static bool
is_external(Form_pg_attribute att, Datum value, bool isnull)
{
	return att->attlen == -1 && !isnull &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(value));
}

bool
mlc_payload_is_missing(HeapTuple tuple, TupleDesc desc, AttrNumber attnum)
{
	bool		isnull;
	Datum		value;

	if (TupleDescAttr(desc, attnum - 1)->attlen != -1)
		return false;
	value = heap_getattr(tuple, attnum, desc, &isnull);
	return is_external(TupleDescAttr(desc, attnum - 1), value, isnull);
}

/* As escape_json(), which looks at a string byte by byte while it copies it. */
static void
put_string(StringInfo out, const char *text, size_t len)
{
	bool		plain = true;

	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = text[i];

		plain &= (c >= ' ') & (c != '"') & (c != '\\');
	}
	if (!plain)
	{
		escape_json(out, pnstrdup(text, len));
		return;
	}
	enlargeStringInfo(out, len + 2);
	appendStringInfoCharMacro(out, '"');
	appendBinaryStringInfo(out, text, len);
	appendStringInfoCharMacro(out, '"');
}

static void
put_cstring(StringInfo out, const char *text)
{
	put_string(out, text, strlen(text));
}

static void
put_integer(StringInfo out, int64 value)
{
	enlargeStringInfo(out, MAXINT8LEN + 1);
	out->len += pg_lltoa(value, out->data + out->len);
}

/* NaN and infinities are no numbers of JSON. */
static void
put_number(StringInfo out, const char *text)
{
	if (isdigit((unsigned char) text[*text == '-' ? 1 : 0]))
		appendStringInfoString(out, text);
	else
		put_cstring(out, text);
}

static void
put_datetime(StringInfo out, Datum value, Oid type)
{
	char		text[MAXDATELEN + 1];

	JsonEncodeDateTime(text, value, type, NULL);
	put_cstring(out, text);
}

/* False: not one of the usual types. */
static bool
put_value(StringInfo out, Datum value, Oid type)
{
	switch (type)
	{
		case BOOLOID:
			appendStringInfoString(out, DatumGetBool(value) ? "true" : "false");
			break;
		case INT2OID:
			put_integer(out, DatumGetInt16(value));
			break;
		case INT4OID:
			put_integer(out, DatumGetInt32(value));
			break;
		case INT8OID:
			put_integer(out, DatumGetInt64(value));
			break;
		case FLOAT4OID:
			put_number(out, DatumGetCString(DirectFunctionCall1(float4out, value)));
			break;
		case FLOAT8OID:
			put_number(out, DatumGetCString(DirectFunctionCall1(float8out, value)));
			break;
		case NUMERICOID:
			put_number(out, DatumGetCString(DirectFunctionCall1(numeric_out, value)));
			break;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			{
				text	   *string = DatumGetTextPP(value);

				put_string(out, VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
				break;
			}
		case UUIDOID:
			put_cstring(out, DatumGetCString(DirectFunctionCall1(uuid_out, value)));
			break;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			put_datetime(out, value, type);
			break;
		case JSONOID:
			{
				text	   *json = DatumGetTextPP(value);

				appendBinaryStringInfo(out, VARDATA_ANY(json),
									   VARSIZE_ANY_EXHDR(json));
				break;
			}
		case JSONBOID:
			appendStringInfoString(out, DatumGetCString(DirectFunctionCall1(jsonb_out, value)));
			break;
		default:
			return false;
	}
	return true;
}

/* Any row, by the function itself. */
static void
render_any(MlcBinding *binding, HeapTuple tuple, TupleDesc desc,
		   const Datum *values, const bool *nulls, StringInfo out)
{
	Datum		row;
	text	   *json;

	if (binding->payload_desc)
	{
		Datum	   *chosen = palloc(sizeof(Datum) * binding->npayload);
		bool	   *chosen_nulls = palloc(sizeof(bool) * binding->npayload);

		for (int i = 0; i < binding->npayload; i++)
		{
			chosen[i] = values[binding->payload_attnums[i] - 1];
			chosen_nulls[i] = nulls[binding->payload_attnums[i] - 1];
		}
		row = HeapTupleGetDatum(heap_form_tuple(binding->payload_desc, chosen,
												chosen_nulls));
	}
	else
		row = heap_copy_tuple_as_datum(tuple, desc);
	json = DatumGetTextPP(DirectFunctionCall1(row_to_json, row));
	resetStringInfo(out);
	appendBinaryStringInfo(out, VARDATA_ANY(json), VARSIZE_ANY_EXHDR(json));
}

bool
mlc_payload_wants_pin(MlcBinding *binding, TupleDesc desc)
{
	int			n = binding->payload_desc ? binding->npayload : desc->natts;

	for (int i = 0; i < n; i++)
	{
		int			at = binding->payload_desc ?
		binding->payload_attnums[i] - 1 : i;

		switch (TupleDescAttr(desc, at)->atttypid)
		{
			case BOOLOID:
			case INT2OID:
			case INT4OID:
			case INT8OID:
			case NUMERICOID:
			case TEXTOID:
			case VARCHAROID:
			case BPCHAROID:
			case UUIDOID:
			case JSONOID:
			case JSONBOID:
				break;
			default:
				return true;
		}
	}
	return false;
}

/* Does a type, or one within it, have a cast to JSON that is not written in C? */
static bool
runs_function(Oid type)
{
	Oid			element;
	Oid			function;
	HeapTuple	tuple;
	Oid			language;

	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		return runs_function(element);
	if (type_is_rowtype(type))
	{
		TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);
		bool		found = false;

		for (int i = 0; i < desc->natts && !found; i++)
			found = !TupleDescAttr(desc, i)->attisdropped &&
				runs_function(TupleDescAttr(desc, i)->atttypid);
		ReleaseTupleDesc(desc);
		return found;
	}
	if (type < FirstNormalObjectId ||
		find_coercion_pathway(JSONOID, type, COERCION_EXPLICIT,
							  &function) != COERCION_PATH_FUNC)
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return true;
	language = ((Form_pg_proc) GETSTRUCT(tuple))->prolang;
	ReleaseSysCache(tuple);
	return language != INTERNALlanguageId && language != ClanguageId;
}

bool
mlc_payload_runs_functions(MlcBinding *binding, TupleDesc desc)
{
	TupleDesc	payload = binding->payload_desc ? binding->payload_desc : desc;

	for (int i = 0; i < payload->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(payload, i);

		/* built-in types have no such casts */
		if (!att->attisdropped && att->atttypid >= FirstNormalObjectId &&
			runs_function(att->atttypid))
			return true;
	}
	return false;
}

bool
mlc_payload_render(MlcBinding *binding, HeapTuple tuple, TupleDesc desc,
				   StringInfo out)
{
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);
	int			n = binding->payload_desc ? binding->npayload : desc->natts;
	bool		usual = true;

	heap_deform_tuple(tuple, desc, values, nulls);
	resetStringInfo(out);
	appendStringInfoCharMacro(out, '{');
	for (int i = 0; i < n; i++)
	{
		int			at = binding->payload_desc ?
		binding->payload_attnums[i] - 1 : i;
		Form_pg_attribute att = TupleDescAttr(desc, at);

		if (att->attisdropped)
			continue;
		if (is_external(att, values[at], nulls[at]))
			return false;
		if (!usual)
			continue;
		if (out->len > 1)
			appendStringInfoCharMacro(out, ',');
		put_cstring(out, NameStr(att->attname));
		appendStringInfoCharMacro(out, ':');
		if (nulls[at])
			appendStringInfoString(out, "null");
		else
			usual = put_value(out, values[at], att->atttypid);
	}
	if (usual)
		appendStringInfoCharMacro(out, '}');
	else
		render_any(binding, tuple, desc, values, nulls, out);
	return true;
}
