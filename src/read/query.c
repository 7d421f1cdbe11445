/*-------------------------------------------------------------------------
 *
 * read/query.c
 *	  Queries that mlcache.fetch() is given: prepared, checked, run.
 *
 * A query is prepared once a session, by its text; the plan cache plans it
 * again when a table, the search path or the role has changed.  So a session
 * always has the query as it would run now, also when the answer comes from
 * the cache: its rights are checked as the executor checks them, and whether
 * the result is the same for everybody with this role.  What cannot be seen is
 * what functions do inside.
 *
 * Parameters are texts, whose types the query decides, as in the extended
 * protocol.
 *
 * Locks: those of the plan cache, on the query's tables, until the end of the
 * transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/compat.h"
#include "base/fault.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "read/query.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

#define QUERIES 256				/* that a session keeps */

struct MlcQuery
{
	uint64		hash;			/* hash key: of all three that follow */
	int			busy;			/* opened so often */
	MemoryContext context;
	char	   *text;
	char	   *path;			/* search_path, by which parameters got types */
	Oid			role;
	SPIPlanPtr	plan;
	int			nparams;
	Oid		   *types;
	Oid		   *ioparams;
	FmgrInfo   *input;

	/* of the last opening */
	MemoryContext caller;
	const char *uncacheable;
	bool		told;			/* that it is uncacheable */
	bool		fresh;			/* prepared just now */
};

static HTAB *queries = NULL;

/* ---- what the query is ---- */

static void
refuse(const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("mlcache.fetch() takes one query that only reads"),
			 errdetail("%s", why)));
}

/* What looking through a query finds. */
typedef struct Findings
{
	const char *why;			/* its result is somebody's own: a sentence */
	Oid			temp;			/* the session's schema of temporary tables */
	bool		shadowed;		/* a table there may be meant by now */
} Findings;

/*
 * The plan cache does not notice a table that comes to stand in front of
 * another; in a session's own schema that is an everyday thing.
 */
static void
look_at_table(RangeTblEntry *rte, Findings *found)
{
	char	   *name;
	Oid			other;

	if (rte->rtekind != RTE_RELATION)
		return;
	if (get_rel_persistence(rte->relid) == RELPERSISTENCE_TEMP)
		found->why = "It reads a temporary table.";
	if (!OidIsValid(found->temp))
		return;
	name = get_rel_name(rte->relid);
	other = name ? get_relname_relid(name, found->temp) : InvalidOid;
	found->shadowed |= OidIsValid(other) && other != rte->relid;
}

static bool
look(Node *node, void *context)
{
	Findings   *found = context;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;

		if (query->hasModifyingCTE)
			refuse("It has a WITH clause that writes.");
		if (query->rowMarks != NIL)
			refuse("It locks rows.");
		if (query->hasRowSecurity)
			found->why = "It reads a table with row security.";
		return query_tree_walker(query, look, found, QTW_EXAMINE_RTES_BEFORE);
	}
	if (IsA(node, RangeTblEntry))
	{
		look_at_table((RangeTblEntry *) node, found);
		return false;
	}
	if (IsA(node, FuncExpr) &&
		(((FuncExpr *) node)->funcid == F_CURRENT_SETTING_TEXT ||
		 ((FuncExpr *) node)->funcid == F_CURRENT_SETTING_TEXT_BOOL))
		found->why = "It reads a setting of the session.";
	return expression_tree_walker(node, look, found);
}

/* ---- preparing ---- */

/* A position in the query is none in the statement that calls. */
static void
query_error(void *arg)
{
	int			position = geterrposition();

	errcontext("query of mlcache.fetch()");
	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery((const char *) arg);
}

static void
prepare(MlcQuery *query)
{
	List	   *parsed;
	Query	   *analyzed;
	Oid		   *types = NULL;
	int			n = 0;
	ErrorContextCallback callback;

	callback.callback = query_error;
	callback.arg = query->text;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	parsed = raw_parser(query->text, RAW_PARSE_DEFAULT);
	if (list_length(parsed) != 1)
		refuse("It is not one statement.");
	if (!IsA(linitial_node(RawStmt, parsed)->stmt, SelectStmt))
		refuse("It is no SELECT.");
	analyzed = parse_analyze_varparams(linitial_node(RawStmt, parsed),
									   query->text, &types, &n, NULL);
	if (analyzed->commandType != CMD_SELECT)
		refuse("It makes a table.");
	error_context_stack = callback.previous;

	query->nparams = n;
	query->types = MemoryContextAllocZero(query->context, sizeof(Oid) * Max(n, 1));
	query->ioparams = MemoryContextAllocZero(query->context, sizeof(Oid) * Max(n, 1));
	query->input = MemoryContextAllocZero(query->context, sizeof(FmgrInfo) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		Oid			function;

		query->types[i] = types[i] == InvalidOid || types[i] == UNKNOWNOID ?
			TEXTOID : types[i];
		getTypeInputInfo(query->types[i], &function, &query->ioparams[i]);
		fmgr_info_cxt(function, &query->input[i], query->context);
	}
	query->plan = SPI_prepare(query->text, n, query->types);
	if (query->plan == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not prepare the query of mlcache.fetch(): %s",
						SPI_result_code_string(SPI_result))));
	SPI_keepplan(query->plan);
}

static void
forget(MlcQuery *query)
{
	if (query->plan)
		SPI_freeplan(query->plan);
	if (query->context)
		MemoryContextDelete(query->context);
	query->plan = NULL;
	query->context = NULL;
	hash_search(queries, &query->hash, HASH_REMOVE, NULL);
}

/* Makes room for one more. */
static void
sweep(void)
{
	HASH_SEQ_STATUS status;
	MlcQuery   *query;

	if (hash_get_num_entries(queries) < QUERIES)
		return;
	hash_seq_init(&status, queries);
	while ((query = hash_seq_search(&status)) != NULL)
		if (query->busy == 0)
			forget(query);
}

static bool
is_same(MlcQuery *query, const char *text)
{
	return query->role == GetUserId() && strcmp(query->text, text) == 0 &&
		strcmp(query->path, namespace_search_path) == 0;
}

/* The query with this text, prepared. */
static MlcQuery *
find(const char *text)
{
	MlcQuery   *query;
	bool		found;
	uint64		hash;

	if (queries == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(uint64);
		ctl.entrysize = sizeof(MlcQuery);
		ctl.hcxt = CacheMemoryContext;
		queries = hash_create("mlcache queries", 64, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}

	/* of two with one hash the second takes another */
	for (uint64 seed = 0;; seed++)
	{
		hash = hash_bytes_extended((const unsigned char *) text, strlen(text),
								   seed);
		hash = hash_bytes_extended((const unsigned char *) namespace_search_path,
								   strlen(namespace_search_path),
								   hash + GetUserId());
		query = hash_search(queries, &hash, HASH_FIND, NULL);
		if (query == NULL || is_same(query, text))
			break;
	}
	if (query)
		return query;

	sweep();
	query = hash_search(queries, &hash, HASH_ENTER, &found);
	memset((char *) query + sizeof(query->hash), 0,
		   sizeof(MlcQuery) - sizeof(query->hash));
	PG_TRY();
	{
		query->context = AllocSetContextCreate(CacheMemoryContext,
											   "mlcache query",
											   ALLOCSET_SMALL_SIZES);
		query->text = MemoryContextStrdup(query->context, text);
		query->path = MemoryContextStrdup(query->context, namespace_search_path);
		query->role = GetUserId();
		query->busy++;			/* planning may run functions that fetch */
		prepare(query);
		query->busy--;
		query->fresh = true;
	}
	PG_CATCH();
	{
		forget(query);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return query;
}

/* ---- a call ---- */

/*
 * Has the plan cache bring the query up to date, then checks the rights and
 * looks what it depends on.  False: it must be prepared again.
 */
static bool
check(MlcQuery *query)
{
	Findings	found = {NULL, InvalidOid, false};
	Oid			toast;
	CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(query->plan));
	CachedPlan *plan = SPI_plan_get_cached_plan(query->plan);

	query->uncacheable = "It has no single plan.";
	if (plan == NULL)
		return true;
	if (!MLC_FAULT_SKIP("fetch-rights"))
		mlc_check_permissions(linitial_node(PlannedStmt, plan->stmt_list));
	ReleaseCachedPlan(plan, CurrentResourceOwner);
	GetTempNamespaceState(&found.temp, &toast);
	(void) look((Node *) linitial(source->query_list), &found);
	if (source->dependsOnRLS)
		found.why = "It reads a table with row security.";
	query->uncacheable = found.why;
	if (found.shadowed && query->busy == 0 && !query->fresh)
		return false;
	query->fresh = false;
	if (query->uncacheable && !query->told)
		ereport(NOTICE,
				(errmsg("mlcache.fetch() does not cache the result of this query"),
				 errdetail("%s", query->uncacheable)));
	query->told = query->uncacheable != NULL;
	return true;
}

MlcQuery *
mlc_query_open(const char *text, int nparams)
{
	MemoryContext caller = CurrentMemoryContext;
	MlcQuery   *query;

	SPI_connect();
	query = find(text);
	if (query->nparams != nparams)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query of mlcache.fetch() has %d parameter(s), but %d were given",
						query->nparams, nparams),
				 errhint("params => ARRAY['text of $1', 'text of $2']")));
	if (!check(query))
	{
		forget(query);
		query = find(text);
		(void) check(query);
	}
	query->caller = caller;
	query->busy++;
	return query;
}

const char *
mlc_query_uncacheable(MlcQuery *query)
{
	return query->uncacheable;
}

text *
mlc_query_run(MlcQuery *query, char **params, Snapshot snapshot)
{
	MemoryContext caller = query->caller;
	Datum	   *values = palloc(sizeof(Datum) * Max(query->nparams, 1));
	char	   *nulls = palloc(Max(query->nparams, 1));
	StringInfoData json;
	TupleDesc	desc;
	MemoryContext row;
	text	   *result;
	int			rc;

	for (int i = 0; i < query->nparams; i++)
	{
		nulls[i] = params[i] ? ' ' : 'n';
		values[i] = InputFunctionCall(&query->input[i], params[i],
									  query->ioparams[i], -1);
	}
	rc = SPI_execute_snapshot(query->plan, values, nulls, snapshot,
							  InvalidSnapshot, true, false, 0);
	if (rc != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("the query of mlcache.fetch() failed: %s",
						SPI_result_code_string(rc))));

	desc = BlessTupleDesc(SPI_tuptable->tupdesc);
	row = AllocSetContextCreate(CurrentMemoryContext, "mlcache row",
								ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(row);
		Datum		tuple = heap_copy_tuple_as_datum(SPI_tuptable->vals[i], desc);
		text	   *object = DatumGetTextPP(DirectFunctionCall1(row_to_json, tuple));

		CHECK_FOR_INTERRUPTS();
		if (i > 0)
			appendStringInfoString(&json, ",\n ");
		appendBinaryStringInfo(&json, VARDATA_ANY(object),
							   VARSIZE_ANY_EXHDR(object));
		MemoryContextSwitchTo(old);
		MemoryContextReset(row);
	}
	appendStringInfoChar(&json, ']');

	result = MemoryContextAllocHuge(caller, (Size) json.len + VARHDRSZ);
	SET_VARSIZE(result, json.len + VARHDRSZ);
	memcpy(VARDATA(result), json.data, json.len);
	SPI_freetuptable(SPI_tuptable);
	return result;
}

void
mlc_query_close(MlcQuery *query)
{
	query->busy--;
	SPI_finish();
}

void
mlc_query_abandon(MlcQuery *query)
{
	query->busy--;
}
