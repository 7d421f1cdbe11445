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
#include "utils/hsearch.h"
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

typedef struct KeptPlan
{
	int32		rule;			/* hash key */
	int64		secret;			/* tells rules apart that have had the same id */
	Oid			types[MLC_KEY_MAX_COLUMNS];
	SPIPlanPtr	plan;
} KeptPlan;

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

/* The types of the loader's parameters: those of the key's columns. */
static void
parameter_types(MlcRule *rule, MlcBinding *binding, Relation relation,
				Oid *types)
{
	for (int i = 0; i < rule->template->ncolumns; i++)
		types[i] = TupleDescAttr(RelationGetDescr(relation),
								 binding->attnums[i] - 1)->atttypid;
}

static SPIPlanPtr
prepare(MlcRule *rule, const Oid *types)
{
	SPIPlanPtr	plan;

	plan = SPI_prepare(mlc_load_query(rule), rule->template->ncolumns,
					   (Oid *) types);
	if (plan == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not prepare the loader of cache rule %d: %s",
						rule->id, SPI_result_code_string(SPI_result))));
	return plan;
}

/*
 * The loader's plan, kept by this process.  A rule never changes, but a
 * column's type may: then the plan is made anew.
 */
static SPIPlanPtr
kept_plan(MlcRule *rule, MlcBinding *binding, Relation relation)
{
	static HTAB *plans = NULL;
	Oid			types[MLC_KEY_MAX_COLUMNS] = {InvalidOid};
	KeptPlan   *kept;
	SPIPlanPtr	plan;
	bool		found;

	if (plans == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(int32);
		ctl.entrysize = sizeof(KeptPlan);
		plans = hash_create("mlcache loaders", 32, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	parameter_types(rule, binding, relation, types);
	kept = hash_search(plans, &rule->id, HASH_FIND, NULL);
	if (kept && kept->secret == rule->secret &&
		memcmp(kept->types, types, sizeof(types)) == 0)
		return kept->plan;

	plan = prepare(rule, types);
	SPI_keepplan(plan);
	kept = hash_search(plans, &rule->id, HASH_ENTER, &found);
	if (found)
		SPI_freeplan(kept->plan);
	kept->secret = rule->secret;
	memcpy(kept->types, types, sizeof(types));
	kept->plan = plan;
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
	Oid			types[MLC_KEY_MAX_COLUMNS];
	SPIPlanPtr	plan;

	bind(rule, relation, &binding);
	put_on(&disguise, relation);
	SPI_connect();
	parameter_types(rule, &binding, relation, types);
	plan = prepare(rule, types);
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
		plan = kept_plan(rule, &binding, relation);
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
