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
 * Two keys may find one row ('price:1.0' and 'price:1.00', or citext), but a
 * change of the row speaks of one of them only.  So besides the payload the
 * query returns the row's own key columns, from which the key is rendered
 * again; and of a key whose type knows several texts for one value it is never
 * said that it has no row.
 *
 * A row outside the rule's filter is read, but may not be cached, and neither
 * may be that there is no row: its changes are no events.
 *
 * Loaders are cached by rule, plan included, until the relation or a schema
 * changes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "base/fault.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "model/bind.h"
#include "model/disguise.h"
#include "read/load.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* What is prepared for a rule. */
typedef struct Loader
{
	int32		rule;			/* hash key */
	int64		secret;			/* tells rules apart that have had the same id */
	bool		valid;
	int			busy;			/* runs of it under way; not freed meanwhile */
	Oid			relid;
	MemoryContext context;		/* of functions */
	SPIPlanPtr	plan;
	bool		exact;			/* equal keys have equal texts */
	Oid			types[MLC_KEY_MAX_COLUMNS];
	int32		typmods[MLC_KEY_MAX_COLUMNS];
	Oid			ioparams[MLC_KEY_MAX_COLUMNS];
	FmgrInfo	input[MLC_KEY_MAX_COLUMNS];
	FmgrInfo	output[MLC_KEY_MAX_COLUMNS];
} Loader;

static HTAB *loaders = NULL;

void
mlc_load_payload(MlcRule *rule, StringInfo query)
{
	if (rule->ncolumns == 0)
	{
		appendStringInfoString(query, "pg_catalog.row_to_json(r.*)");
		return;
	}
	appendStringInfoString(query,
						   "(SELECT pg_catalog.row_to_json(t.*) FROM (SELECT ");
	for (int i = 0; i < rule->ncolumns; i++)
		appendStringInfo(query, "%sr.%s", i > 0 ? ", " : "",
						 quote_identifier(rule->columns[i]));
	appendStringInfoString(query, ") t)");
}

void
mlc_load_table(MlcRule *rule, StringInfo query)
{
	appendStringInfo(query, "%s%s r",
					 get_rel_relkind(rule->relid) == RELKIND_PARTITIONED_TABLE ?
					 "" : "ONLY ",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(rule->relid)),
												get_rel_name(rule->relid)));
}

char *
mlc_load_query(MlcRule *rule)
{
	StringInfoData query;

	if (rule->loader)
		return pstrdup(rule->loader);

	initStringInfo(&query);
	appendStringInfoString(&query, "SELECT ");
	mlc_load_payload(rule, &query);
	for (int i = 0; i < rule->template->ncolumns; i++)
		appendStringInfo(&query, ", r.%s",
						 quote_identifier(rule->template->columns[i]));
	if (rule->filter)
		appendStringInfo(&query, ", (SELECT (%s\n) FROM (SELECT r.*) AS %s) IS TRUE",
						 rule->filter,
						 quote_identifier(get_rel_name(rule->relid)));
	appendStringInfoString(&query, " FROM ");
	mlc_load_table(rule, &query);
	for (int i = 0; i < rule->template->ncolumns; i++)
		appendStringInfo(&query, " %s r.%s OPERATOR(pg_catalog.=) $%d",
						 i > 0 ? "AND" : "WHERE",
						 quote_identifier(rule->template->columns[i]), i + 1);
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

	if (!mlc_bind_rule(rule, relation, binding, &missing))
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
	MlcDisguise disguise;
	SPIPlanPtr	plan;

	bind(rule, relation, &binding);
	mlc_disguise_put_on(&disguise, rule->relid);
	SPI_connect();
	plan = prepare(rule, &binding, relation);
	if (SPI_is_cursor_plan(plan) == false)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the loader of a cache rule must be a query that returns rows")));
	SPI_finish();
	mlc_disguise_take_off(&disguise);
	table_close(relation, NoLock);
}

/* ---- the cache of loaders ---- */

static void
relation_changed(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	Loader	   *loader;

	hash_seq_init(&status, loaders);
	while ((loader = hash_seq_search(&status)) != NULL)
		if (!OidIsValid(relid) || loader->relid == relid)
			loader->valid = false;
}

static void
schema_changed(Datum arg, int cacheid, uint32 hash)
{
	relation_changed(arg, InvalidOid);
}

static void
init(void)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(Loader);
	ctl.hcxt = CacheMemoryContext;
	loaders = hash_create("mlcache loaders", 64, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, schema_changed, (Datum) 0);
}

bool
mlc_load_is_exact(Oid type, Oid collation)
{
	switch (type)
	{
		case BOOLOID:
		case CHAROID:
		case NAMEOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case UUIDOID:
		case BYTEAOID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case MACADDROID:
			return true;
		case TEXTOID:
		case VARCHAROID:
			return !OidIsValid(collation) ||
				get_collation_isdeterministic(collation);
		default:
			return get_typtype(type) == TYPTYPE_ENUM;
	}
}

/* Prepares; in the disguise, connected to SPI. */
static void
fill_loader(Loader *loader, MlcRule *rule, Relation relation)
{
	MlcBinding	binding;

	bind(rule, relation, &binding);
	if (loader->context == NULL)
		loader->context = AllocSetContextCreate(CacheMemoryContext,
												"mlcache loader",
												ALLOCSET_SMALL_SIZES);
	else if (loader->busy == 0)
		MemoryContextReset(loader->context);
	if (loader->plan && loader->busy == 0)
		SPI_freeplan(loader->plan);
	loader->plan = NULL;
	loader->secret = rule->secret;
	loader->relid = rule->relid;
	loader->exact = true;

	/* an invalidation that comes in from here on must not be lost */
	loader->valid = true;
	PG_TRY();
	{
		for (int i = 0; i < rule->template->ncolumns; i++)
		{
			Form_pg_attribute att = TupleDescAttr(RelationGetDescr(relation),
												  binding.attnums[i] - 1);
			Oid			function;
			bool		varlena;

			loader->types[i] = att->atttypid;
			loader->typmods[i] = att->atttypmod;
			loader->exact = loader->exact &&
				mlc_load_is_exact(att->atttypid, att->attcollation);
			getTypeInputInfo(att->atttypid, &function, &loader->ioparams[i]);
			fmgr_info_cxt(function, &loader->input[i], loader->context);
			getTypeOutputInfo(att->atttypid, &function, &varlena);
			fmgr_info_cxt(function, &loader->output[i], loader->context);
		}
		loader->plan = prepare(rule, &binding, relation);
		SPI_keepplan(loader->plan);
	}
	PG_CATCH();
	{
		loader->valid = false;
		loader->plan = NULL;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* The loader of a rule whose relation is open. */
static Loader *
find_loader(MlcRule *rule, Relation relation)
{
	Loader	   *loader;
	bool		found;

	loader = hash_search(loaders, &rule->id, HASH_ENTER, &found);
	if (!found)
		memset((char *) loader + sizeof(loader->rule), 0,
			   sizeof(Loader) - sizeof(loader->rule));
	if (!loader->valid || loader->secret != rule->secret)
		fill_loader(loader, rule, relation);
	return loader;
}

/* ---- loading ---- */

/*
 * Is the key what rendering makes of these values?  A text that its type
 * writes otherwise ('042') is no key of ours.
 */
static bool
renders_again(MlcRule *rule, char **texts, const char *key, uint32 keylen)
{
	StringInfoData again;
	bool		same;

	initStringInfo(&again);
	same = mlc_key_render(rule->template, (const char *const *) texts,
						  &again) == MLC_RENDER_OK &&
		again.len == (int) keylen && memcmp(again.data, key, keylen) == 0;
	pfree(again.data);
	return same;
}

/* Does the row satisfy the rule's filter, as the loader was asked? */
static bool
is_inside(MlcRule *rule, HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;

	return rule->loader != NULL || rule->filter == NULL ||
		DatumGetBool(SPI_getbinval(tuple, desc, rule->template->ncolumns + 2,
								   &isnull));
}

/* Runs the query; *own tells whether the row's own key is this one. */
static MlcLoad
run(Loader *loader, MlcRule *rule, const char *key, uint32 keylen,
	Datum *values, MemoryContext caller, char **payload, uint32 *payloadlen,
	bool *own)
{
	MlcLoad		result = MLC_LOAD_ABSENT;
	int			rc;

	loader->busy++;
	PG_TRY();
	{
		rc = SPI_execute_snapshot(loader->plan, values, NULL,
								  GetActiveSnapshot(), InvalidSnapshot, true,
								  false, 2);
	}
	PG_FINALLY();
	{
		loader->busy--;
	}
	PG_END_TRY();
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

	/* nobody hears of a row outside the filter, not even that it is there */
	*own = loader->exact &&
		(rule->filter == NULL || rule->loader != NULL ||
		 MLC_FAULT_SKIP("load-filter"));
	if (SPI_processed == 1)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		char	   *text = SPI_getvalue(tuple, desc, 1);

		if (rule->loader == NULL && !loader->exact)
		{
			char	   *texts[MLC_KEY_MAX_COLUMNS];

			for (int i = 0; i < rule->template->ncolumns; i++)
				texts[i] = SPI_getvalue(tuple, desc, i + 2);
			*own = renders_again(rule, texts, key, keylen);
		}
		else
			*own = loader->exact;
		*own = *own && (is_inside(rule, tuple, desc) ||
						MLC_FAULT_SKIP("load-filter"));
		if (text)
		{
			*payloadlen = strlen(text);
			*payload = MemoryContextAllocHuge(caller, *payloadlen + 1);
			memcpy(*payload, text, *payloadlen + 1);
			result = MLC_LOAD_FOUND;
		}
	}
	return result;
}

static MlcLoad
load(MlcRule *rule, const char *key, uint32 keylen, bool anyway,
	 char **payload, uint32 *payloadlen, bool *own)
{
	MemoryContext caller = CurrentMemoryContext;
	Relation	relation;
	MlcDisguise disguise;
	Loader	   *loader;
	char	   *texts[MLC_KEY_MAX_COLUMNS];
	Datum		values[MLC_KEY_MAX_COLUMNS];
	MlcLoad		result = MLC_LOAD_FOREIGN;
	bool		canonical;

	*own = false;
	if (!mlc_key_match(rule->template, key, keylen, texts))
		return MLC_LOAD_FOREIGN;

	if (loaders == NULL)
		init();
	relation = table_open(rule->relid, AccessShareLock);
	mlc_disguise_put_on(&disguise, rule->relid);
	SPI_connect();
	loader = find_loader(rule, relation);
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		values[i] = InputFunctionCall(&loader->input[i], texts[i],
									  loader->ioparams[i], loader->typmods[i]);
		texts[i] = OutputFunctionCall(&loader->output[i], values[i]);
	}
	canonical = renders_again(rule, texts, key, keylen) ||
		MLC_FAULT_SKIP("load-canonical");
	if (canonical || anyway)
	{
		bool		row_says = false;

		result = run(loader, rule, key, keylen, values, caller, payload,
					 payloadlen, &row_says);
		*own = (canonical && row_says) || MLC_FAULT_SKIP("load-canonical");
	}
	SPI_finish();
	mlc_disguise_take_off(&disguise);
	table_close(relation, NoLock);
	return result;
}

MlcLoad
mlc_load_key(MlcRule *rule, const char *key, uint32 keylen,
			 char **payload, uint32 *payloadlen)
{
	bool		own;
	MlcLoad		result = load(rule, key, keylen, false, payload, payloadlen,
							  &own);

	return own ? result : MLC_LOAD_FOREIGN;
}

MlcLoad
mlc_load_row(MlcRule *rule, const char *key, uint32 keylen,
			 char **payload, uint32 *payloadlen, bool *own)
{
	return load(rule, key, keylen, true, payload, payloadlen, own);
}

bool
mlc_load_render(MlcRule *rule, char **texts, StringInfo key, bool *isnull)
{
	Relation	relation;
	MlcDisguise disguise;
	Loader	   *loader;
	MemoryContext caller = CurrentMemoryContext;
	MlcRender	rendered;

	*isnull = false;
	for (int i = 0; i < rule->template->ncolumns; i++)
		*isnull |= texts[i] == NULL;
	if (*isnull)
		return false;
	if (loaders == NULL)
		init();
	relation = table_open(rule->relid, AccessShareLock);
	mlc_disguise_put_on(&disguise, rule->relid);
	SPI_connect();
	loader = find_loader(rule, relation);
	for (int i = 0; i < rule->template->ncolumns; i++)
	{
		Datum		value = InputFunctionCall(&loader->input[i], texts[i],
											  loader->ioparams[i],
											  loader->typmods[i]);

		texts[i] = MemoryContextStrdup(caller,
									   OutputFunctionCall(&loader->output[i],
														  value));
	}
	SPI_finish();
	mlc_disguise_take_off(&disguise);
	table_close(relation, NoLock);
	rendered = mlc_key_render(rule->template, (const char *const *) texts, key);
	*isnull = rendered == MLC_RENDER_NULL;
	return rendered == MLC_RENDER_OK;
}
