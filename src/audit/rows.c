/*-------------------------------------------------------------------------
 *
 * audit/rows.c
 *	  Rows of many keys at once, as the rule's loader gives them.
 *
 * A rule that caches the row is read by one join of the keys, as an array of
 * each column, with the table; a rule with a loader of its own key by key.
 *
 * A key is told apart by the text that its types write: one that they would
 * write otherwise, or cannot read at all, is of no row.  Where equal values
 * have several texts, the row found must render the very key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "audit/rows.h"
#include "base/compat.h"
#include "capture/unique.h"
#include "catalog/pg_inherits.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "model/bind.h"
#include "model/disguise.h"
#include "read/load.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

/* A column of the key. */
typedef struct Column
{
	Oid			type;
	int32		typmod;
	Oid			array_type;
	int16		len;
	bool		byval;
	char		align;
	Oid			ioparam;
	FmgrInfo	input;
	FmgrInfo	output;
} Column;

struct MlcRows
{
	MlcRule    *rule;
	Relation	relation;
	MemoryContext context;		/* of all this */
	MemoryContext batch;		/* of one call */
	int			ncolumns;
	Column		columns[MLC_KEY_MAX_COLUMNS];
	bool		exact;			/* equal keys have equal texts */
	bool		comparable;
	SPIPlanPtr	plan;			/* of the join; NULL: key by key */
	SPITupleTable *table;		/* of the last join: payloads lie in it */
	Portal		portal;			/* of the walk */
};

/* What the join gives before the key's columns. */
#define JOIN_NUMBER 1
#define JOIN_XMIN 2
#define JOIN_TID 3
#define JOIN_TABLEOID 4
#define JOIN_PAYLOAD 5

/* As the owner; and the few keys of a page are looked up, whatever it costs. */
static void
put_on(MlcDisguise *disguise, MlcRows *rows)
{
	mlc_disguise_put_on(disguise, rows->rule->relid);
	(void) set_config_option("enable_hashjoin", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("enable_mergejoin", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static char *
join_query(MlcRows *rows)
{
	MlcRule    *rule = rows->rule;
	StringInfoData query;

	initStringInfo(&query);
	appendStringInfoString(&query, "SELECT k.n, r.xmin, r.ctid, r.tableoid, ");
	mlc_load_payload(rule, &query);
	for (int i = 0; i < rows->ncolumns && !rows->exact; i++)
		appendStringInfo(&query, ", r.%s",
						 quote_identifier(rule->template->columns[i]));
	appendStringInfoString(&query, " FROM ROWS FROM (");
	for (int i = 0; i < rows->ncolumns; i++)
		appendStringInfo(&query, "%spg_catalog.unnest($%d)", i > 0 ? ", " : "",
						 i + 1);
	appendStringInfoString(&query, ") WITH ORDINALITY AS k(");
	for (int i = 0; i < rows->ncolumns; i++)
		appendStringInfo(&query, "c%d, ", i + 1);
	appendStringInfoString(&query, "n) JOIN ");
	mlc_load_table(rule, &query);
	for (int i = 0; i < rows->ncolumns; i++)
		appendStringInfo(&query, " %s r.%s OPERATOR(pg_catalog.=) k.c%d",
						 i > 0 ? "AND" : "ON",
						 quote_identifier(rule->template->columns[i]), i + 1);
	return query.data;
}

static void
prepare_join(MlcRows *rows)
{
	Oid			types[MLC_KEY_MAX_COLUMNS];

	for (int i = 0; i < rows->ncolumns; i++)
	{
		types[i] = rows->columns[i].array_type;
		if (!OidIsValid(types[i]))
			return;				/* key by key, then */
	}
	rows->plan = SPI_prepare(join_query(rows), rows->ncolumns, types);
	if (rows->plan == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not prepare the audit of cache rule %d: %s",
						rows->rule->id, SPI_result_code_string(SPI_result))));
}

static void
look_at_columns(MlcRows *rows)
{
	MlcBinding	binding;
	const char *missing;

	if (!mlc_bind_rule(rows->rule, rows->relation, &binding, &missing))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of cache rule %d does not exist",
						missing, rows->rule->id)));
	rows->ncolumns = rows->rule->template->ncolumns;
	rows->exact = true;
	for (int i = 0; i < rows->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rows->relation),
											  binding.attnums[i] - 1);
		Column	   *column = &rows->columns[i];
		Oid			function;
		bool		varlena;

		column->type = att->atttypid;
		column->typmod = att->atttypmod;
		column->array_type = get_array_type(att->atttypid);
		get_typlenbyvalalign(att->atttypid, &column->len, &column->byval,
							 &column->align);
		getTypeInputInfo(att->atttypid, &function, &column->ioparam);
		fmgr_info_cxt(function, &column->input, rows->context);
		getTypeOutputInfo(att->atttypid, &function, &varlena);
		fmgr_info_cxt(function, &column->output, rows->context);
		rows->exact = rows->exact &&
			mlc_load_is_exact(att->atttypid, att->attcollation);
	}
	rows->comparable = rows->rule->loader != NULL ||
		mlc_unique_covers(rows->relation, binding.attnums, rows->ncolumns);
}

MlcRows *
mlc_rows_open(MlcRule *rule)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "mlcache audit rows",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MlcRows    *rows = palloc0(sizeof(MlcRows));
	MlcDisguise disguise;

	rows->rule = rule;
	rows->context = context;
	rows->batch = AllocSetContextCreate(context, "mlcache audit batch",
										ALLOCSET_DEFAULT_SIZES);
	rows->relation = table_open(rule->relid, AccessShareLock);
	look_at_columns(rows);
	put_on(&disguise, rows);
	SPI_connect();
	if (rule->loader == NULL)
		prepare_join(rows);
	mlc_disguise_take_off(&disguise);
	MemoryContextSwitchTo(old);
	return rows;
}

void
mlc_rows_close(MlcRows *rows)
{
	MemoryContext old = CurrentMemoryContext;

	SPI_finish();
	MemoryContextSwitchTo(old);
	table_close(rows->relation, NoLock);
	MemoryContextDelete(rows->context);
}

bool
mlc_rows_are_comparable(MlcRows *rows)
{
	return rows->comparable;
}

/* ---- from keys to values ---- */

/* Is the key what rendering makes of these values? */
static bool
renders_again(MlcRows *rows, char **texts, const MlcCopy *copy)
{
	StringInfoData key;
	bool		same;

	initStringInfo(&key);
	same = mlc_key_render(rows->rule->template, (const char *const *) texts,
						  &key) == MLC_RENDER_OK &&
		key.len == (int) copy->keylen &&
		memcmp(key.data, copy->key, copy->keylen) == 0;
	pfree(key.data);
	return same;
}

/* Raises what the types' input functions raise. */
static bool
read_key(MlcRows *rows, const MlcCopy *copy, Datum *values)
{
	char	   *texts[MLC_KEY_MAX_COLUMNS];

	if (!mlc_key_match(rows->rule->template, copy->key, copy->keylen, texts))
		return false;
	for (int i = 0; i < rows->ncolumns; i++)
	{
		Column	   *column = &rows->columns[i];

		values[i] = InputFunctionCall(&column->input, texts[i], column->ioparam,
									  column->typmod);
		texts[i] = OutputFunctionCall(&column->output, values[i]);
	}
	return renders_again(rows, texts, copy);
}

/*
 * Reads keys until one raises an error that tells of a bad value; returns how
 * many were read.  values[column][number].
 */
static int
read_keys(MlcRows *rows, MlcCopy **copies, int n, Datum **values)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile int done = 0;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		while (done < n)
		{
			Datum		row[MLC_KEY_MAX_COLUMNS];

			copies[done]->row.state = read_key(rows, copies[done], row) ?
				MLC_ROW_NONE : MLC_ROW_FOREIGN;
			for (int i = 0; i < rows->ncolumns; i++)
				values[i][done] = copies[done]->row.state == MLC_ROW_NONE ? row[i] : 0;
			done++;
		}
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		int			class = ERRCODE_TO_CATEGORY(geterrcode());

		MemoryContextSwitchTo(context);
		if (class != ERRCODE_DATA_EXCEPTION &&
			class != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return done;
}

/* ---- from values to rows ---- */

/* The texts of the key's columns, which begin with attribute first. */
static void
column_texts(MlcRows *rows, HeapTuple tuple, TupleDesc desc, int first,
			 char **texts)
{
	for (int i = 0; i < rows->ncolumns; i++)
	{
		bool		isnull;
		Datum		value = SPI_getbinval(tuple, desc, first + i, &isnull);

		texts[i] = isnull ? NULL :
			OutputFunctionCall(&rows->columns[i].output, value);
	}
}

static void
take_row(MlcRows *rows, HeapTuple tuple, MlcCopy **copies)
{
	TupleDesc	desc = rows->table->tupdesc;
	bool		isnull;
	int64		number = DatumGetInt64(SPI_getbinval(tuple, desc, JOIN_NUMBER, &isnull));
	MlcCopy    *copy = copies[number - 1];
	MlcRow	   *row = &copy->row;
	Datum		payload;
	text	   *value;

	if (!rows->exact)
	{
		char	   *texts[MLC_KEY_MAX_COLUMNS];

		column_texts(rows, tuple, desc, JOIN_PAYLOAD + 1, texts);
		if (!renders_again(rows, texts, copy))
			return;
	}
	if (row->state != MLC_ROW_NONE)
	{
		row->state = MLC_ROW_MANY;
		return;
	}
	row->state = MLC_ROW_FOUND;
	row->xmin = DatumGetTransactionId(SPI_getbinval(tuple, desc, JOIN_XMIN, &isnull));
	row->tid = *(ItemPointer) DatumGetPointer(SPI_getbinval(tuple, desc, JOIN_TID, &isnull));
	row->tableoid = DatumGetObjectId(SPI_getbinval(tuple, desc, JOIN_TABLEOID, &isnull));
	payload = SPI_getbinval(tuple, desc, JOIN_PAYLOAD, &isnull);
	value = DatumGetTextPP(payload);
	row->payload = VARDATA_ANY(value);
	row->len = VARSIZE_ANY_EXHDR(value);
}

static void
join(MlcRows *rows, MlcCopy **copies, int n, Datum **values)
{
	Datum		arrays[MLC_KEY_MAX_COLUMNS];
	int			rc;

	for (int i = 0; i < rows->ncolumns; i++)
	{
		Column	   *column = &rows->columns[i];

		arrays[i] = PointerGetDatum(construct_array(values[i], n, column->type,
													column->len, column->byval,
													column->align));
	}
	rc = SPI_execute_snapshot(rows->plan, arrays, NULL, GetActiveSnapshot(),
							  InvalidSnapshot, true, false, 0);
	if (rc != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("the audit of cache rule %d failed: %s", rows->rule->id,
						SPI_result_code_string(rc))));
	rows->table = SPI_tuptable;
	for (uint64 i = 0; i < SPI_processed; i++)
		take_row(rows, rows->table->vals[i], copies);
}

static void
load_one(MlcRows *rows, MlcCopy *copy)
{
	char	   *payload;
	uint32		len;
	bool		own;
	MlcLoad		found = mlc_load_row(rows->rule, copy->key, copy->keylen,
									 &payload, &len, &own);

	if (found == MLC_LOAD_FOUND)
	{
		copy->row.state = MLC_ROW_FOUND;
		copy->row.payload = payload;
		copy->row.len = len;
	}
	else if (!own)
		copy->row.state = MLC_ROW_MANY;
}

void
mlc_rows_load(MlcRows *rows, MlcCopy *copies, int n)
{
	MlcCopy   **wanted;
	Datum	   *values[MLC_KEY_MAX_COLUMNS];
	int			nwanted = 0;
	int			nkeys = 0;
	MemoryContext old;
	MlcDisguise disguise;

	if (rows->table)
		SPI_freetuptable(rows->table);
	rows->table = NULL;
	if (!rows->comparable)
		return;
	MemoryContextReset(rows->batch);
	old = MemoryContextSwitchTo(rows->batch);
	wanted = palloc(sizeof(MlcCopy *) * n);
	for (int i = 0; i < n; i++)
		if (mlc_copy_needs_row(&copies[i]))
			wanted[nwanted++] = &copies[i];
	for (int i = 0; i < rows->ncolumns; i++)
		values[i] = palloc(sizeof(Datum) * n);

	put_on(&disguise, rows);
	for (int done = 0; done < nwanted;)
	{
		Datum	   *rest[MLC_KEY_MAX_COLUMNS];

		for (int i = 0; i < rows->ncolumns; i++)
			rest[i] = values[i] + done;
		done += read_keys(rows, wanted + done, nwanted - done, rest);
		if (done < nwanted)
			wanted[done++]->row.state = MLC_ROW_FOREIGN;
	}

	/* only keys that a row can have */
	for (int i = 0; i < nwanted; i++)
	{
		if (wanted[i]->row.state == MLC_ROW_FOREIGN)
			continue;
		wanted[nkeys] = wanted[i];
		for (int j = 0; j < rows->ncolumns; j++)
			values[j][nkeys] = values[j][i];
		nkeys++;
	}
	if (rows->plan && nkeys > 0)
		join(rows, wanted, nkeys, values);
	mlc_disguise_take_off(&disguise);
	for (int i = 0; i < nkeys && !rows->plan; i++)
		load_one(rows, wanted[i]);
	MemoryContextSwitchTo(old);
}

/* ---- the walk ---- */

bool
mlc_rows_can_walk(MlcRows *rows)
{
	return rows->comparable && rows->plan != NULL;
}

int64
mlc_rows_estimate(MlcRows *rows)
{
	List	   *relids = list_make1_oid(rows->rule->relid);
	double		total = 0;
	ListCell   *lc;

	if (rows->relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		relids = find_all_inheritors(rows->rule->relid, AccessShareLock, NULL);
	foreach(lc, relids)
	{
		Relation	relation = table_open(lfirst_oid(lc), AccessShareLock);

		if (RELKIND_HAS_TABLE_AM(relation->rd_rel->relkind))
		{
			BlockNumber pages;
			double		tuples;
			double		visible;

			table_relation_estimate_size(relation, NULL, &pages, &tuples, &visible);
			total += tuples;
		}
		table_close(relation, NoLock);
	}
	return (int64) total;
}

static void
open_walk(MlcRows *rows)
{
	MlcRule    *rule = rows->rule;
	StringInfoData query;
	SPIPlanPtr	plan;

	initStringInfo(&query);
	appendStringInfoString(&query, "SELECT r.xmin, r.ctid, r.tableoid, ");
	mlc_load_payload(rule, &query);
	for (int i = 0; i < rows->ncolumns; i++)
		appendStringInfo(&query, ", r.%s",
						 quote_identifier(rule->template->columns[i]));
	appendStringInfoString(&query, " FROM ");
	mlc_load_table(rule, &query);
	if (rule->filter)
		appendStringInfo(&query, " WHERE (SELECT (%s\n) FROM (SELECT r.*) AS %s) IS TRUE",
						 rule->filter,
						 quote_identifier(get_rel_name(rule->relid)));
	plan = SPI_prepare(query.data, 0, NULL);
	if (plan == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not prepare the audit of cache rule %d: %s",
						rule->id, SPI_result_code_string(SPI_result))));
	rows->portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
}

int
mlc_rows_next(MlcRows *rows, MlcCopy *copies, int max, bool *more)
{
	MemoryContext context = CurrentMemoryContext;
	MlcDisguise disguise;
	StringInfoData key;
	int			n = 0;

	put_on(&disguise, rows);
	if (rows->portal == NULL)
		open_walk(rows);
	SPI_cursor_fetch(rows->portal, true, max);
	*more = SPI_processed > 0;
	MemoryContextSwitchTo(context);
	initStringInfo(&key);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		char	   *texts[MLC_KEY_MAX_COLUMNS];
		MlcCopy    *copy = &copies[n];
		text	   *payload;
		bool		isnull;

		column_texts(rows, tuple, desc, 5, texts);
		resetStringInfo(&key);
		if (mlc_key_render(rows->rule->template, (const char *const *) texts,
						   &key) != MLC_RENDER_OK)
			continue;
		mlc_copy_key(copy, pnstrdup(key.data, key.len), key.len);
		copy->row.state = MLC_ROW_FOUND;
		copy->row.xmin = DatumGetTransactionId(SPI_getbinval(tuple, desc, 1, &isnull));
		copy->row.tid = *(ItemPointer) DatumGetPointer(SPI_getbinval(tuple, desc, 2, &isnull));
		copy->row.tableoid = DatumGetObjectId(SPI_getbinval(tuple, desc, 3, &isnull));
		payload = DatumGetTextPP(SPI_getbinval(tuple, desc, 4, &isnull));
		copy->row.len = VARSIZE_ANY_EXHDR(payload);
		copy->row.payload = pnstrdup(VARDATA_ANY(payload), copy->row.len);
		n++;
	}
	SPI_freetuptable(SPI_tuptable);
	if (!*more)
	{
		SPI_cursor_close(rows->portal);
		rows->portal = NULL;
	}
	mlc_disguise_take_off(&disguise);
	return n;
}
