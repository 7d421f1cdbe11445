/*-------------------------------------------------------------------------
 *
 * read/load.c
 *	  Loader queries, run through SPI.
 *
 * A key is parsed by its template; the texts become typed parameters of the
 * loader.  Without a loader of its own a rule caches the row as JSON, the same
 * text that decoding makes of a changed row.
 *
 * The loader runs as the owner of the table in a security-restricted context,
 * whoever asked: the caller's rights are the caller's business to check.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "read/load.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Who runs the loader, and with which settings. */
typedef struct Disguise
{
	Oid			userid;
	int			sec_context;
	int			nestlevel;
} Disguise;

static void
put_on(Disguise *disguise, Relation relation)
{
	GetUserIdAndSecContext(&disguise->userid, &disguise->sec_context);
	SetUserIdAndSecContext(relation->rd_rel->relowner,
						   disguise->sec_context | SECURITY_RESTRICTED_OPERATION);
	disguise->nestlevel = mlc_rule_pin_format();
	mlc_rule_pin_search_path(RelationGetRelid(relation));
}

static void
take_off(Disguise *disguise)
{
	AtEOXact_GUC(false, disguise->nestlevel);
	SetUserIdAndSecContext(disguise->userid, disguise->sec_context);
}

char *
mlc_load_query(MlcRule *rule)
{
	StringInfoData query;

	if (rule->loader)
		return pstrdup(rule->loader);

	initStringInfo(&query);
	appendStringInfoString(&query,
						   "SELECT pg_catalog.row_to_json(t) FROM (SELECT ");
	for (int i = 0; i < rule->ncolumns; i++)
		appendStringInfo(&query, "%s%s", i > 0 ? ", " : "",
						 quote_identifier(rule->columns[i]));
	if (rule->ncolumns == 0)
		appendStringInfoChar(&query, '*');
	appendStringInfo(&query, " FROM %s%s",
					 get_rel_relkind(rule->relid) == RELKIND_PARTITIONED_TABLE ?
					 "" : "ONLY ",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(rule->relid)),
												get_rel_name(rule->relid)));
	for (int i = 0; i < rule->template->ncolumns; i++)
		appendStringInfo(&query, " %s %s OPERATOR(pg_catalog.=) $%d",
						 i > 0 ? "AND" : "WHERE",
						 quote_identifier(rule->template->columns[i]), i + 1);
	appendStringInfoString(&query, ") t");
	return query.data;
}

static SPIPlanPtr
prepare(MlcRule *rule, MlcBinding *binding, Relation relation)
{
	Oid			types[MLC_KEY_MAX_COLUMNS];
	SPIPlanPtr	plan;

	for (int i = 0; i < rule->template->ncolumns; i++)
		types[i] = TupleDescAttr(RelationGetDescr(relation),
								 binding->attnums[i] - 1)->atttypid;
	plan = SPI_prepare(mlc_load_query(rule), rule->template->ncolumns, types);
	if (plan == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not prepare the loader of cache rule %d: %s",
						rule->id, SPI_result_code_string(SPI_result))));
	return plan;
}

static void
bind(MlcRule *rule, Relation relation, MlcBinding *binding)
{
	const char *missing;

	if (!mlc_rule_bind(rule, relation, binding, &missing))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of cache rule %d does not exist",
						missing, rule->id)));
}

void
mlc_load_check(MlcRule *rule)
{
	Relation	relation = table_open(rule->relid, AccessShareLock);
	MlcBinding	binding;
	Disguise	disguise;
	SPIPlanPtr	plan;

	bind(rule, relation, &binding);
	put_on(&disguise, relation);
	SPI_connect();
	plan = prepare(rule, &binding, relation);
	if (SPI_is_cursor_plan(plan) == false)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the loader of a cache rule must be a query that returns rows")));
	SPI_finish();
	take_off(&disguise);
	table_close(relation, NoLock);
}

MlcLoad
mlc_load_key(MlcRule *rule, const char *key, uint32 keylen,
			 char **payload, uint32 *payloadlen)
{
	MemoryContext caller = CurrentMemoryContext;
	Relation	relation;
	MlcBinding	binding;
	Disguise	disguise;
	char	   *texts[MLC_KEY_MAX_COLUMNS];
	Datum		values[MLC_KEY_MAX_COLUMNS];
	MlcLoad		result = MLC_LOAD_ABSENT;
	StringInfoData again;
	const char *rendered[MLC_KEY_MAX_COLUMNS];

	if (!mlc_key_match(rule->template, key, keylen, texts))
		return MLC_LOAD_FOREIGN;

	relation = table_open(rule->relid, AccessShareLock);
	bind(rule, relation, &binding);
	put_on(&disguise, relation);

	/* a text that its type writes otherwise ('042') is no key of ours */
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(relation),
											  binding.attnums[i] - 1);
		Oid			function,
					ioparam;
		bool		varlena;

		getTypeInputInfo(att->atttypid, &function, &ioparam);
		values[i] = OidInputFunctionCall(function, texts[i], ioparam,
										 att->atttypmod);
		getTypeOutputInfo(att->atttypid, &function, &varlena);
		rendered[i] = OidOutputFunctionCall(function, values[i]);
	}
	initStringInfo(&again);
	if (mlc_key_render(rule->template, rendered, &again) != MLC_RENDER_OK ||
		again.len != (int) keylen || memcmp(again.data, key, keylen) != 0)
		result = MLC_LOAD_FOREIGN;
	else
	{
		SPIPlanPtr	plan;
		int			rc;

		SPI_connect();
		plan = prepare(rule, &binding, relation);
		rc = SPI_execute_snapshot(plan, values, NULL, GetActiveSnapshot(),
								  InvalidSnapshot, true, false, 2);
		if (rc != SPI_OK_SELECT)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("the loader of cache rule %d failed: %s",
							rule->id, SPI_result_code_string(rc))));
		if (SPI_processed > 1)
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 errmsg("the loader of cache rule %d returned more than one row",
							rule->id)));
		if (SPI_processed == 1)
		{
			char	   *text = SPI_getvalue(SPI_tuptable->vals[0],
											SPI_tuptable->tupdesc, 1);

			if (text)
			{
				*payloadlen = strlen(text);
				*payload = MemoryContextStrdup(caller, text);
				result = MLC_LOAD_FOUND;
			}
		}
		SPI_finish();
	}
	take_off(&disguise);
	table_close(relation, NoLock);
	return result;
}
