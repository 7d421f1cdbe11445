/*-------------------------------------------------------------------------
 *
 * capture/unique.c
 *	  The unique index that makes a key one row's, as some rules need it.
 *
 * No dependency would do: which index it is does not matter, as long as there
 * is one, and ALTER TABLE drops indexes to build them again.  So a transaction
 * may drop them as it likes (its lock on the table keeps others out), and what
 * it leaves is looked at before it commits: by hooks, which run whatever is set
 * for event triggers and session_replication_role.
 *
 * DROP INDEX CONCURRENTLY commits on its way, so it is asked beforehand.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "capture/unique.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "model/bind.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* A table that has lost a unique index in this transaction. */
typedef struct Loss
{
	Oid			relid;
	NameData	index;
} Loss;

static List *losses = NIL;		/* in TopTransactionContext */

/* As mlc_unique_covers(), with one of the indexes left out. */
static bool
covers_without(Relation relation, Oid without, const AttrNumber *attnums, int n)
{
	List	   *indexes = RelationGetIndexList(relation);
	bool		unique = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = RelationIdGetRelation(lfirst_oid(lc));
		Form_pg_index form = index->rd_index;
		bool		covered = form->indisunique && form->indisvalid &&
		form->indisready && lfirst_oid(lc) != without &&
		heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) &&
		heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL);

		for (int i = 0; i < form->indnkeyatts && covered; i++)
		{
			bool		found = false;

			for (int j = 0; j < n; j++)
				found |= form->indkey.values[i] == attnums[j];
			covered = found;
		}
		unique |= covered;
		RelationClose(index);
	}
	return unique;
}

bool
mlc_unique_covers(Relation relation, const AttrNumber *attnums, int n)
{
	return covers_without(relation, InvalidOid, attnums, n);
}

bool
mlc_unique_is_needed(const MlcRule *rule)
{
	return rule->action == MLC_OP_UPDATE || rule->action == MLC_OP_REPLICATE ||
		(rule->action == MLC_OP_REFRESH && rule->loader == NULL);
}

/* What cannot be looked at is no reason to refuse anything. */
static bool
is_kept_without(MlcRule *rule, Oid without)
{
	Relation	relation;
	MlcBinding	binding;
	const char *missing;
	bool		kept = true;

	if (!mlc_unique_is_needed(rule))
		return true;
	relation = try_table_open(rule->relid, AccessShareLock);
	if (relation == NULL)
		return true;
	if (mlc_bind_rule(rule, relation, &binding, &missing))
		kept = covers_without(relation, without, binding.attnums,
							  rule->template->ncolumns);
	table_close(relation, AccessShareLock);
	return kept;
}

bool
mlc_unique_is_kept(MlcRule *rule)
{
	return is_kept_without(rule, InvalidOid);
}

/* Raises where a rule of the table needs what it has lost, or is to lose. */
static void
check_table(Loss *loss, Oid without)
{
	ListCell   *lc;

	foreach(lc, mlc_rule_all())
	{
		MlcRule    *rule = lfirst(lc);
		char	   *table = get_rel_name(rule->relid);

		if (rule->relid != loss->relid || is_kept_without(rule, without))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop index \"%s\" because cache rule '%s' of table \"%s\" needs it",
						NameStr(loss->index), rule->key, table),
				 errdetail("No other unique index consists of columns of the template only, so a key could be several rows'."),
				 errhint("SELECT mlcache.detach('%s', '%s'); and attach it again with action => 'invalidate', if it is to stay.",
						 table, rule->key)));
	}
}

void
mlc_unique_index_dropped(Oid indexid, int dropflags)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(indexid));
	Form_pg_index form;
	Loss	   *loss;
	bool		matters;

	if (!HeapTupleIsValid(tuple))
		return;
	form = (Form_pg_index) GETSTRUCT(tuple);

	/* what is not valid has made nothing unique: REINDEX CONCURRENTLY */
	matters = form->indisunique && form->indisvalid &&
		get_rel_persistence(indexid) != RELPERSISTENCE_TEMP;
	if (matters)
	{
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		loss = palloc(sizeof(Loss));
		loss->relid = form->indrelid;
		namestrcpy(&loss->index, get_rel_name(indexid));
		if ((dropflags & PERFORM_DELETION_CONCURRENTLY) == 0)
			losses = lappend(losses, loss);
		MemoryContextSwitchTo(old);
		if ((dropflags & PERFORM_DELETION_CONCURRENTLY) != 0)
			check_table(loss, indexid);
	}
	ReleaseSysCache(tuple);
}

static void
xact_callback(XactEvent event, void *arg)
{
	ListCell   *lc;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (losses != NIL && OidIsValid(mlc_rule_relid()))
				foreach(lc, losses)
					check_table(lfirst(lc), InvalidOid);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			losses = NIL;
			break;
		default:
			break;
	}
}

void
mlc_unique_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}
