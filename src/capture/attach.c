/*-------------------------------------------------------------------------
 *
 * capture/attach.c
 *	  From attach() to a stored rule, and what DDL does to it afterwards.
 *
 * attach() sees to it that the relay has its slot, and holds off writers of the
 * table while it stores the rule, so every later change commits after the rule
 * did and is decoded with it.  The rule's
 * row in WAL makes the relay purge the key space, so a rule starts with
 * nothing cached; the same goes for detach().
 *
 * The checks are in capture/check.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "capture/attach.h"
#include "capture/check.h"
#include "capture/ready.h"
#include "capture/trigger.h"
#include "capture/unique.h"
#include "capture/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "model/bind.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#define TRIGGER_NAME "mlcache_capture"
#define SLOT_TIMEOUT 3000		/* ms that attach() waits for the slot */

/* Bytes of a rule's row; past toast_tuple_target it would be moved out of line. */
#define RULE_SIZE_MAX 8000

static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;

/* ---- the catalog ---- */

static Datum
names_datum(int n, char **names, bool *isnull)
{
	Datum	   *elems = palloc(sizeof(Datum) * Max(n, 1));

	*isnull = n == 0;
	if (n == 0)
		return (Datum) 0;
	for (int i = 0; i < n; i++)
	{
		Name		name = palloc0(sizeof(NameData));

		namestrcpy(name, names[i]);
		elems[i] = NameGetDatum(name);
	}
	return PointerGetDatum(construct_array(elems, n, NAMEOID, NAMEDATALEN,
										   false, TYPALIGN_CHAR));
}

static Datum
text_datum(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

static int64
random_secret(void)
{
	int64		secret;

	if (!pg_strong_random(&secret, sizeof(secret)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random number")));
	return secret;
}

/*
 * A row of mlcache.rule as one of the view mlcache.rules, which has fewer
 * columns, and intervals for ms.
 */
static Datum
as_seen(HeapTuple tuple, TupleDesc catalog, TupleDesc view)
{
	Datum	   *values = palloc(sizeof(Datum) * view->natts);
	bool	   *nulls = palloc(sizeof(bool) * view->natts);

	for (int i = 0; i < view->natts; i++)
	{
		int			n = 0;

		while (strcmp(NameStr(TupleDescAttr(catalog, n)->attname),
					  NameStr(TupleDescAttr(view, i)->attname)) != 0)
			if (++n == catalog->natts)
				elog(ERROR, "mlcache.rule has no column \"%s\"",
					 NameStr(TupleDescAttr(view, i)->attname));
		values[i] = heap_getattr(tuple, n + 1, catalog, &nulls[i]);
		if (TupleDescAttr(view, i)->atttypid == INTERVALOID && !nulls[i])
		{
			Interval   *interval = palloc0(sizeof(Interval));

			interval->time = DatumGetInt64(values[i]) * 1000;
			values[i] = IntervalPGetDatum(interval);
		}
	}
	return HeapTupleGetDatum(heap_form_tuple(view, values, nulls));
}

/* The rule as a row of the view. */
static Datum
store(const MlcAttach *attach, MlcCapture capture, TupleDesc view)
{
	Oid			nsp = get_namespace_oid("mlcache", false);
	Relation	catalog = table_open(mlc_rule_relid(), RowExclusiveLock);
	Datum		values[MLC_RULE_NATTS];
	bool		nulls[MLC_RULE_NATTS] = {false};
	int32		id;
	HeapTuple	tuple;
	Datum		row;

	if (RelationGetNumberOfAttributes(catalog) != MLC_RULE_NATTS)
		elog(ERROR, "mlcache.rule has %d columns, expected %d",
			 RelationGetNumberOfAttributes(catalog), MLC_RULE_NATTS);

	id = (int32) nextval_internal(get_relname_relid("rule_id_seq", nsp), false);
#define SET(attnum, value) values[(attnum) - 1] = (value)
#define NULLS(attnum) &nulls[(attnum) - 1]
	SET(MLC_RULE_ID, Int32GetDatum(id));
	SET(MLC_RULE_RELATION, ObjectIdGetDatum(attach->relid));
	SET(MLC_RULE_KEY, text_datum(attach->key, NULLS(MLC_RULE_KEY)));
	SET(MLC_RULE_ACTION, CStringGetTextDatum(attach->action));
	SET(MLC_RULE_CONSISTENCY, CStringGetTextDatum(attach->consistency));
	SET(MLC_RULE_CAPTURE, CStringGetTextDatum(mlc_check_capture_name(capture)));
	SET(MLC_RULE_TTL, Int64GetDatum(attach->ttl));
	*NULLS(MLC_RULE_TTL) = attach->ttl == 0;
	SET(MLC_RULE_NEGATIVE_TTL, Int64GetDatum(attach->negative_ttl));
	*NULLS(MLC_RULE_NEGATIVE_TTL) = attach->negative_ttl == 0;
	SET(MLC_RULE_COLUMNS, names_datum(attach->ncolumns, attach->columns,
									  NULLS(MLC_RULE_COLUMNS)));
	SET(MLC_RULE_LOADER, text_datum(attach->loader, NULLS(MLC_RULE_LOADER)));
	SET(MLC_RULE_FILTER, text_datum(attach->filter, NULLS(MLC_RULE_FILTER)));
	SET(MLC_RULE_ON_UNREACHABLE, CStringGetTextDatum(attach->on_unreachable));
	SET(MLC_RULE_SERVERS, names_datum(attach->nservers, attach->servers,
									  NULLS(MLC_RULE_SERVERS)));
	SET(MLC_RULE_SECRET, Int64GetDatum(random_secret()));
	SET(MLC_RULE_STALE, Int64GetDatum(attach->stale));
	*NULLS(MLC_RULE_STALE) = attach->stale == 0;
	SET(MLC_RULE_TAG, text_datum(attach->tag, NULLS(MLC_RULE_TAG)));
#undef SET
#undef NULLS

	tuple = heap_form_tuple(RelationGetDescr(catalog), values, nulls);
	if (tuple->t_len > RULE_SIZE_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cache rule is too large"),
				 errdetail("Its texts and names take %u bytes; at most %d are possible.",
						   tuple->t_len, RULE_SIZE_MAX),
				 errhint("Make the loader a function, or name fewer columns.")));
	CatalogTupleInsert(catalog, tuple);
	row = as_seen(tuple, RelationGetDescr(catalog), view);
	table_close(catalog, NoLock);
	return row;
}

/* Sessions and decoding look the table's rules up anew. */
static void
forget_cached(Oid relid)
{
	List	   *tree = find_all_inheritors(relid, NoLock, NULL);
	ListCell   *lc;

	foreach(lc, tree)
		CacheInvalidateRelcacheByRelid(lfirst_oid(lc));
	CacheInvalidateRelcacheByRelid(mlc_rule_relid());
}

void
mlc_attach_restored(void)
{
	ListCell   *lc;

	CommandCounterIncrement();
	foreach(lc, mlc_rule_every())
		forget_cached(((MlcRule *) lfirst(lc))->relid);

	/* without the library the launcher will look at its start */
	if (mlc_shared == NULL)
		return;
	(void) mlc_segment_relay(MyDatabaseId, true);
	mlc_xact_wake_at_commit();
}

/* Rules whose relation is relid, in the current context. */
static List *
rules_of(Oid relid)
{
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, mlc_rule_every())
	{
		MlcRule    *rule = lfirst(lc);

		if (rule->relid == relid)
			found = lappend(found, rule);
	}
	return found;
}

/* ---- the trigger ---- */

/* Was the trigger made for a table of which this one is a partition? */
static bool
is_cloned(Oid trigger)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	bool		cloned = false;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(trigger));
	scan = systable_beginscan(catalog, TriggerOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		cloned = OidIsValid(((Form_pg_trigger) GETSTRUCT(tuple))->tgparentid);
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return cloned;
}

/* Removes the table's own trigger, and so those of its partitions. */
static void
drop_trigger(Oid relid)
{
	ObjectAddress address;
	Oid			trigger = get_trigger_oid(relid, TRIGGER_NAME, true);

	if (!OidIsValid(trigger) || is_cloned(trigger))
		return;
	ObjectAddressSet(address, TriggerRelationId, trigger);
	performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
}

/* The table's partitions, upper ones first; locked against writers. */
static List *
partitions(Oid relid)
{
	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return NIL;
	return list_delete_oid(find_all_inheritors(relid, ShareRowExclusiveLock,
											   NULL), relid);
}

/*
 * The trigger of a partitioned table is cloned to its partitions, where one
 * of their own would be in the way.
 */
static void
make_trigger(Relation relation)
{
	CreateTrigStmt *stmt;
	ListCell   *lc;

	if (OidIsValid(get_trigger_oid(RelationGetRelid(relation), TRIGGER_NAME,
								   true)))
		return;
	foreach(lc, partitions(RelationGetRelid(relation)))
		drop_trigger(lfirst_oid(lc));

	stmt = makeNode(CreateTrigStmt);
	stmt->trigname = TRIGGER_NAME;
	stmt->relation = NULL;
	stmt->funcname = list_make2(makeString("mlcache"), makeString("capture"));
	stmt->row = true;
	stmt->timing = TRIGGER_TYPE_AFTER;
	stmt->events = TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE |
		TRIGGER_TYPE_DELETE;
	(void) CreateTriggerFiringOn(stmt, NULL, RelationGetRelid(relation),
								 InvalidOid, InvalidOid, InvalidOid,
								 InvalidOid, InvalidOid, NULL, false, false,
								 TRIGGER_FIRES_ALWAYS);
	CommandCounterIncrement();
}

static bool
has_trigger_rules(Oid relid)
{
	ListCell   *lc;

	foreach(lc, rules_of(relid))
		if (((MlcRule *) lfirst(lc))->capture == MLC_CAPTURE_TRIGGER)
		return true;
	return false;
}

/* Removes the trigger; partitions with rules of their own get their own. */
static void
forgo_trigger(Oid relid)
{
	ListCell   *lc;

	drop_trigger(relid);
	foreach(lc, partitions(relid))
	{
		Relation	partition;

		if (!has_trigger_rules(lfirst_oid(lc)))
			continue;
		partition = table_open(lfirst_oid(lc), NoLock);
		make_trigger(partition);
		table_close(partition, NoLock);
	}
}

/* ---- attach and detach ---- */

/*
 * The relay's slot comes before the rule: then nothing that changes once the
 * table is attached is missed.  The slot waits for the transactions that write
 * when it is made, so this comes before we are one of them, and before we hold
 * a lock that one of them might wait for.  Locks taken earlier in the
 * transaction are why it does not wait for ever.
 */
static void
await_slot(const MlcAttach *attach)
{
	MlcRelayShared *relay;
	bool		writes = TransactionIdIsValid(GetTopTransactionIdIfAny());

	mlc_ready_prerequisites();

	/* who may not attach is told so later, and starts nothing */
	if (!mlc_is_table_owner(attach->relid, GetUserId()) ||
		!mlc_relay_enabled || MLC_FAULT_SKIP("attach-slot"))
		return;
	relay = mlc_segment_relay(MyDatabaseId, true);
	mlc_xact_hold_relay(relay);
	if (mlc_segment_await_slot(relay, writes ? 0 :
							   MLC_FAULT_SKIP("attach-deadline") ? PG_INT32_MAX :
							   SLOT_TIMEOUT) ||
		strcmp(attach->action, "replicate") != 0)
		return;
	ereport(NOTICE,
			(errmsg("rows are replicated from the moment the replication slot exists"),
			 writes ?
			 errdetail("It is made after this transaction, since that has written already.") :
			 errdetail("It waits for transactions that have begun before."),
			 errhint("SELECT mlcache.wait_applied(mlcache.last_commit_version()) waits for it.")));
}

Datum
mlc_attach_rule(const MlcAttach *attach, TupleDesc view)
{
	Relation	relation;
	MlcCapture	capture;
	Datum		rule;

	mlc_segment_require();
	await_slot(attach);
	relation = table_open(attach->relid, ShareRowExclusiveLock);

	/* one at a time, so that each sees the rules that are there */
	LockRelationOid(mlc_rule_relid(), ShareUpdateExclusiveLock);
	capture = mlc_check_attach(attach, relation);

	rule = store(attach, capture, view);
	if (capture == MLC_CAPTURE_TRIGGER)
		make_trigger(relation);
	forget_cached(attach->relid);
	table_close(relation, NoLock);

	(void) mlc_segment_relay(MyDatabaseId, true);
	mlc_xact_wake_at_commit();
	return rule;
}

/* Is it the one with this key, or this tag?  Without either any will do. */
static bool
is_named(const MlcRule *rule, const char *key, const char *tag)
{
	if (key)
		return rule->tag == NULL && strcmp(rule->key, key) == 0;
	return tag == NULL || (rule->tag && strcmp(rule->tag, tag) == 0);
}

int
mlc_attach_remove(Oid relid, const char *key, const char *tag)
{
	Relation	catalog;
	SysScanDesc scan;
	ScanKeyData scankey;
	HeapTuple	tuple;
	int			removed = 0;
	bool		needs_trigger = false;

	mlc_segment_require();
	LockRelationOid(relid, ShareRowExclusiveLock);
	if (!mlc_is_table_owner(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(relid));

	catalog = table_open(mlc_rule_relid(), RowExclusiveLock);
	ScanKeyInit(&scankey, MLC_RULE_RELATION, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, InvalidOid, false, NULL, 1, &scankey);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		MlcRule    *rule = mlc_rule_from_tuple(tuple, RelationGetDescr(catalog));

		if (is_named(rule, key, tag))
		{
			CatalogTupleDelete(catalog, &tuple->t_self);
			removed++;
		}
		else if (rule->capture == MLC_CAPTURE_TRIGGER)
			needs_trigger = true;
	}
	systable_endscan(scan);
	table_close(catalog, NoLock);

	if (removed > 0)
	{
		CommandCounterIncrement();
		if (!needs_trigger)
			forgo_trigger(relid);
		forget_cached(relid);
		mlc_xact_wake_at_commit();
	}
	return removed;
}

/* ---- DDL ---- */

/* Rules of the relation, of what it is a partition of, and of its own. */
static List *
rules_around(Oid relid)
{
	List	   *tree = find_all_inheritors(relid, NoLock, NULL);
	List	   *found = NIL;
	ListCell   *lc;

	if (get_rel_relispartition(relid))
		tree = list_concat_unique_oid(tree, get_partition_ancestors(relid));
	foreach(lc, tree)
		found = list_concat(found, rules_of(lfirst_oid(lc)));
	return found;
}

/* Nothing may inherit from a table with rules. */
static void
check_parents(Oid relid)
{
	Relation	catalog = table_open(InheritsRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, InheritsRelidSeqnoIndexId, true, NULL,
							  1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Oid			parent = ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent;
		Relation	relation;

		if (rules_of(parent) == NIL)
			continue;
		relation = table_open(parent, AccessShareLock);
		mlc_check_table(relation);
		table_close(relation, NoLock);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

void
mlc_attach_after_ddl(Oid relid, bool purge)
{
	ListCell   *lc;

	if (!OidIsValid(mlc_rule_relid()) || mlc_shared == NULL)
		return;
	check_parents(relid);
	foreach(lc, rules_around(relid))
	{
		MlcRule    *rule = lfirst(lc);
		Relation	relation = table_open(rule->relid, AccessShareLock);
		MlcBinding	binding;
		const char *missing;

		if (!mlc_bind_rule(rule, relation, &binding, &missing))
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("column \"%s\" of table \"%s\" is used by cache rule '%s'",
							missing, RelationGetRelationName(relation), rule->key),
					 errhint("SELECT mlcache.detach('%s', '%s'), change the table, and attach it again.",
							 RelationGetRelationName(relation), rule->key)));
		if (rule->filter)
			mlc_trigger_check_filter(rule->filter, relation);
		mlc_check_table(relation);
		if (purge)
		{
			forget_cached(rule->relid);
			mlc_xact_add_all(rule);
		}
		table_close(relation, NoLock);
	}
}

/* A table goes, and its rules with it. */
static void
table_dropped(Oid relid)
{
	Relation	catalog = table_open(mlc_rule_relid(), RowExclusiveLock);
	SysScanDesc scan;
	ScanKeyData scankey;
	HeapTuple	tuple;
	ListCell   *lc;

	ScanKeyInit(&scankey, MLC_RULE_RELATION, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, InvalidOid, false, NULL, 1, &scankey);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		CatalogTupleDelete(catalog, &tuple->t_self);
		mlc_xact_wake_at_commit();
	}
	systable_endscan(scan);
	table_close(catalog, NoLock);

	/* the rows of a partition vanish from its root */
	if (get_rel_relispartition(relid))
		foreach(lc, get_partition_ancestors(relid))
	{
		ListCell   *lc2;

		foreach(lc2, rules_of(lfirst_oid(lc)))
			mlc_xact_add_all(lfirst(lc2));
	}
}

static void
column_dropped(Oid relid, int attnum)
{
	char	   *name = get_attname(relid, attnum, true);
	ListCell   *lc;

	foreach(lc, name ? rules_of(relid) : NIL)
	{
		MlcRule    *rule = lfirst(lc);
		bool		used = false;

		for (int i = 0; i < rule->template->ncolumns; i++)
			used |= strcmp(rule->template->columns[i], name) == 0;
		for (int i = 0; i < rule->ncolumns; i++)
			used |= strcmp(rule->columns[i], name) == 0;
		if (used)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop column \"%s\" of table \"%s\" because cache rule '%s' uses it",
							name, get_rel_name(relid), rule->key),
					 errhint("SELECT mlcache.detach('%s', '%s');",
							 get_rel_name(relid), rule->key)));
	}
}

/*
 * Decoding hears of a TRUNCATE after the commit, strong rules have to know
 * before.  The first call for a table named in the command comes without a
 * lock; where that had to be waited for there is a second one, which sees what
 * others have committed meanwhile.
 */
static void
table_truncated(Oid relid)
{
	ListCell   *lc;

	foreach(lc, rules_around(relid))
	{
		MlcRule    *rule = lfirst(lc);

		if (rule->consistency == MLC_STRONG)
			mlc_xact_add_all(rule);
	}
}

static void
object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
			  void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if ((access != OAT_DROP && access != OAT_TRUNCATE) ||
		classId != RelationRelationId || !IsTransactionState() || mlc_shared == NULL ||
		!OidIsValid(mlc_rule_relid()) || objectId == mlc_rule_relid())
		return;
	switch (get_rel_relkind(objectId))
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
			break;
		case RELKIND_INDEX:
		case RELKIND_PARTITIONED_INDEX:
			if (access == OAT_DROP)
				mlc_unique_index_dropped(objectId, ((ObjectAccessDrop *) arg)->dropflags);
			return;
		default:
			return;
	}
	if (access == OAT_TRUNCATE)
		table_truncated(objectId);
	else if (subId == 0)
		table_dropped(objectId);
	else
		column_dropped(objectId, subId);
}

/*
 * DETACH PARTITION CONCURRENTLY takes the rows away in a transaction of its
 * own, before the event trigger is asked.
 */
static void
check_detach(Node *utility)
{
	AlterTableStmt *stmt = castNode(AlterTableStmt, utility);
	Oid			relid;
	List	   *tree;
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_DetachPartition &&
			castNode(PartitionCmd, cmd->def)->concurrent)
			break;
	}
	if (lc == NULL || !OidIsValid(mlc_rule_relid()))
		return;
	relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	if (!OidIsValid(relid))
		return;
	tree = list_make1_oid(relid);
	if (get_rel_relispartition(relid))
		tree = list_concat(tree, get_partition_ancestors(relid));
	foreach(lc, tree)
		if (rules_of(lfirst_oid(lc)) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot detach a partition of \"%s\" concurrently because \"%s\" has cache rules",
						get_rel_name(relid), get_rel_name(lfirst_oid(lc))),
				 errdetail("The partition's rows would go while their entries are still in the cache."),
				 errhint("Leave out CONCURRENTLY.")));
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	if (IsA(pstmt->utilityStmt, AlterTableStmt) && mlc_shared != NULL)
		check_detach(pstmt->utilityStmt);
	if (prev_process_utility)
		prev_process_utility(pstmt, query, read_only, context, params, env,
							 dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only, context, params, env,
								dest, qc);
}

void
mlc_attach_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access;
	mlc_unique_init();
}
