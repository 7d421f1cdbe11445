/*-------------------------------------------------------------------------
 *
 * model/rule.c
 *	  Rules as mlcache.rule has them, and the cache of them by relation.
 *
 * One hash probe on the relation's Oid answers "are there rules?" for every
 * changed row, also when there are none.  An entry is marked invalid by the
 * relcache callback and rebuilt at the next lookup: attach and detach send a
 * relcache invalidation for the relation and all its partitions, which
 * logical decoding replays at the right place in commit order.
 *
 * Nothing here writes.  The callback must not touch the catalogs, so it only
 * marks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "model/bind.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

typedef struct RuleById
{
	int32		id;				/* hash key */
	bool		valid;
	MemoryContext context;
	MlcRule    *rule;			/* NULL: there is none */
} RuleById;

static HTAB *by_relation = NULL;
static HTAB *by_id = NULL;
static MemoryContext cache_context = NULL;
static Oid	rule_relid = InvalidOid;
static Oid	rule_relation_index = InvalidOid;
static Oid	present_rule_relid = InvalidOid;
static bool present_is_known = false;
static bool rule_relid_is_gone = false;
static Oid	rule_id_index = InvalidOid;

/*
 * Somebody evaluates expressions with a binding in hand (see rule.h).  What an
 * invalidation makes obsolete meanwhile waits in garbage.
 */
int			mlc_rule_busy = 0;
uint64		mlc_rule_changes = 0;
static List *garbage = NIL;

#define SWEEP_ABOVE 8192		/* cached relations */

static void
discard(MemoryContext context)
{
	MemoryContext old;

	if (context == NULL)
		return;
	if (mlc_rule_busy == 0)
	{
		MemoryContextDelete(context);
		return;
	}
	old = MemoryContextSwitchTo(cache_context);
	garbage = lappend(garbage, context);
	MemoryContextSwitchTo(old);
}

/* Frees what is obsolete: garbage, and relations that are likely gone. */
static void
sweep(void)
{
	HASH_SEQ_STATUS status;
	MlcRelationRules *entry;
	ListCell   *lc;

	if (mlc_rule_busy > 0)
		return;
	foreach(lc, garbage)
		MemoryContextDelete(lfirst(lc));
	list_free(garbage);
	garbage = NIL;

	if (hash_get_num_entries(by_relation) <= SWEEP_ABOVE)
		return;
	hash_seq_init(&status, by_relation);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->valid)
			continue;
		discard(entry->context);
		hash_search(by_relation, &entry->relid, HASH_REMOVE, NULL);
	}
}

static void
relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;

	rule_relid_is_gone = false;
	if (OidIsValid(relid) && relid != rule_relid)
	{
		MlcRelationRules *entry;

		entry = hash_search(by_relation, &relid, HASH_FIND, NULL);
		if (entry)
			entry->valid = false;
	}
	else
	{
		MlcRelationRules *entry;

		rule_relid = InvalidOid;
		mlc_rule_changes++;
		hash_seq_init(&status, by_relation);
		while ((entry = hash_seq_search(&status)) != NULL)
			entry->valid = false;
	}

	/* rules found by id are few and cheap to find again */
	{
		RuleById   *entry;

		hash_seq_init(&status, by_id);
		while ((entry = hash_seq_search(&status)) != NULL)
			entry->valid = false;
	}
}

static void
init(void)
{
	HASHCTL		ctl;

	if (by_relation)
		return;

	cache_context = AllocSetContextCreate(CacheMemoryContext, "mlcache rules",
										  ALLOCSET_DEFAULT_SIZES);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(RuleById);
	ctl.hcxt = cache_context;
	by_id = hash_create("mlcache rules by id", 64, &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(MlcRelationRules);
	by_relation = hash_create("mlcache rules by relation", 128, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
}

Oid
mlc_rule_relid(void)
{
	Oid			nsp;

	init();
	if (!OidIsValid(rule_relid) && !rule_relid_is_gone)
	{
		nsp = get_namespace_oid("mlcache", true);
		if (OidIsValid(nsp))
		{
			rule_relation_index = get_relname_relid("rule_relation_idx", nsp);
			rule_id_index = get_relname_relid("rule_pkey", nsp);
			rule_relid = get_relname_relid("rule", nsp);
		}

		/*
		 * In the past there may be the table of an extension that has been
		 * dropped since.  Its file is gone, so its rules cannot be known any
		 * more; nor do they count.
		 */
		if (HistoricSnapshotActive() && present_is_known &&
			rule_relid != present_rule_relid)
		{
			rule_relid = InvalidOid;
			rule_relid_is_gone = true;
		}
	}
	return rule_relid;
}

void
mlc_rule_look_at_present(void)
{
	Assert(!HistoricSnapshotActive());
	init();
	rule_relid = InvalidOid;
	rule_relid_is_gone = false;
	present_rule_relid = mlc_rule_relid();
	present_is_known = true;
}

const char *
mlc_rule_consistency_name(MlcConsistency consistency)
{
	switch (consistency)
	{
		case MLC_STRONG:
			return "strong";
		case MLC_EVENTUAL:
			return "eventual";
		case MLC_WEAK:
			return "weak";
	}
	return "?";
}

int
mlc_rule_consistency_parse(const char *name)
{
	if (strcmp(name, "strong") == 0)
		return MLC_STRONG;
	if (strcmp(name, "eventual") == 0)
		return MLC_EVENTUAL;
	if (strcmp(name, "weak") == 0)
		return MLC_WEAK;
	return -1;
}

int
mlc_rule_action_parse(const char *name)
{
	if (strcmp(name, "invalidate") == 0)
		return MLC_OP_INVALIDATE;
	if (strcmp(name, "update") == 0)
		return MLC_OP_UPDATE;
	if (strcmp(name, "replicate") == 0)
		return MLC_OP_REPLICATE;
	if (strcmp(name, "refresh") == 0)
		return MLC_OP_REFRESH;
	return -1;
}

/* A text column of a rule, NULL for SQL NULL, in the current context. */
static char *
text_column(HeapTuple tuple, TupleDesc desc, int attnum)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, attnum, desc, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static int64
int8_column(HeapTuple tuple, TupleDesc desc, int attnum)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, attnum, desc, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

static int
names_column(HeapTuple tuple, TupleDesc desc, int attnum, char ***names)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, attnum, desc, &isnull);
	Datum	   *elems;
	int			n;

	if (isnull)
		return 0;
	deconstruct_array(DatumGetArrayTypeP(value), NAMEOID, NAMEDATALEN, false,
					  TYPALIGN_CHAR, &elems, NULL, &n);
	*names = palloc(sizeof(char *) * Max(n, 1));
	for (int i = 0; i < n; i++)
		(*names)[i] = pstrdup(NameStr(*DatumGetName(elems[i])));
	return n;
}

MlcRule *
mlc_rule_from_tuple(HeapTuple tuple, TupleDesc desc)
{
	MlcRule    *rule = palloc0(sizeof(MlcRule));
	MlcKeyError error;
	bool		isnull;

	rule->id = DatumGetInt32(heap_getattr(tuple, MLC_RULE_ID, desc, &isnull));
	rule->relid = DatumGetObjectId(heap_getattr(tuple, MLC_RULE_RELATION,
												desc, &isnull));
	rule->key = text_column(tuple, desc, MLC_RULE_KEY);
	rule->tag = text_column(tuple, desc, MLC_RULE_TAG);
	if (rule->key)
		rule->template = mlc_key_parse(rule->key, &error);
	else
	{
		rule->key = rule->tag ? rule->tag : pstrdup("");
		rule->template = palloc0(sizeof(MlcTemplate));
	}
	if (rule->template == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("cache rule %d has an invalid key template", rule->id),
				 errdetail("%s", error.detail)));
	rule->action = mlc_rule_action_parse(text_column(tuple, desc, MLC_RULE_ACTION));
	rule->consistency = mlc_rule_consistency_parse(text_column(tuple, desc, MLC_RULE_CONSISTENCY));
	rule->capture = text_column(tuple, desc, MLC_RULE_CAPTURE)[0];
	rule->ttl = int8_column(tuple, desc, MLC_RULE_TTL);
	rule->negative_ttl = int8_column(tuple, desc, MLC_RULE_NEGATIVE_TTL);
	rule->stale = int8_column(tuple, desc, MLC_RULE_STALE);
	rule->ncolumns = names_column(tuple, desc, MLC_RULE_COLUMNS, &rule->columns);
	rule->loader = text_column(tuple, desc, MLC_RULE_LOADER);
	rule->filter = text_column(tuple, desc, MLC_RULE_FILTER);
	rule->nservers = names_column(tuple, desc, MLC_RULE_SERVERS, &rule->servers);
	rule->degrade = strcmp(text_column(tuple, desc, MLC_RULE_ON_UNREACHABLE), "degrade") == 0;
	rule->secret = int8_column(tuple, desc, MLC_RULE_SECRET);
	rule->stat = mlc_segment_rule_stat(MyDatabaseId, rule->id);
	return rule;
}

/*
 * Rules whose column attnum equals value, or all when attnum is 0, in the
 * current context.  The index is used where the column has one.
 */
static List *
scan(Oid catalog, int attnum, Datum value)
{
	List	   *rules = NIL;
	Relation	relation = table_open(catalog, AccessShareLock);
	Oid			index = InvalidOid;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	if (attnum == MLC_RULE_RELATION)
	{
		index = rule_relation_index;
		ScanKeyInit(&key, attnum, BTEqualStrategyNumber, F_OIDEQ, value);
	}
	else if (attnum == MLC_RULE_ID)
	{
		index = rule_id_index;
		ScanKeyInit(&key, attnum, BTEqualStrategyNumber, F_INT4EQ, value);
	}

	scan = systable_beginscan(relation, index, OidIsValid(index), NULL,
							  attnum == 0 ? 0 : 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		rules = lappend(rules, mlc_rule_from_tuple(tuple,
												   RelationGetDescr(relation)));
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return rules;
}

bool
mlc_rule_exists(int32 id)
{
	Oid			catalog = mlc_rule_relid();

	return OidIsValid(catalog) &&
		scan(catalog, MLC_RULE_ID, Int32GetDatum(id)) != NIL;
}

List *
mlc_rule_every(void)
{
	Oid			catalog = mlc_rule_relid();
	List	   *rules = OidIsValid(catalog) ? scan(catalog, 0, (Datum) 0) : NIL;
	ListCell   *lc;

	foreach(lc, rules)
		if (((MlcRule *) lfirst(lc))->id == MLC_RULE_FREE)
		rules = foreach_delete_current(rules, lc);
	return rules;
}

List *
mlc_rule_all(void)
{
	List	   *rules = mlc_rule_every();
	ListCell   *lc;

	foreach(lc, rules)
		if (((MlcRule *) lfirst(lc))->tag)
		rules = foreach_delete_current(rules, lc);
	return rules;
}

static void
load(MlcRelationRules *entry, Relation relation)
{
	Oid			catalog = mlc_rule_relid();
	MemoryContext context;
	MemoryContext old;
	List	   *rules = NIL;
	MlcBinding *bindings = NULL;
	int			n = 0;
	ListCell   *lc;

	/* the rule table itself is handled by decode, and has no rules */
	if (!OidIsValid(catalog) || IsCatalogRelation(relation) ||
		RelationGetRelid(relation) == catalog)
	{
		entry->nbindings = 0;
		return;
	}

	context = AllocSetContextCreate(cache_context, "mlcache relation rules",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	rules = scan(catalog, MLC_RULE_RELATION,
				 ObjectIdGetDatum(RelationGetRelid(relation)));
	if (relation->rd_rel->relispartition)
	{
		List	   *ancestors = get_partition_ancestors(RelationGetRelid(relation));

		foreach(lc, ancestors)
			rules = list_concat(rules, scan(catalog, MLC_RULE_RELATION,
											ObjectIdGetDatum(lfirst_oid(lc))));
	}
	if (rules != NIL)
		bindings = palloc(sizeof(MlcBinding) * list_length(rules));
	foreach(lc, rules)
	{
		MlcBinding *binding = &bindings[n++];
		const char *missing;

		if (!mlc_bind_rule(lfirst(lc), relation, binding, &missing))
			binding->broken = true;
	}
	MemoryContextSwitchTo(old);

	entry->nbindings = n;
	if (n == 0)
		MemoryContextDelete(context);
	else
	{
		entry->context = context;
		entry->bindings = bindings;
	}
}

MlcRelationRules *
mlc_rule_lookup(Relation relation)
{
	Oid			relid = RelationGetRelid(relation);
	MlcRelationRules *entry;
	bool		found;

	if (unlikely(by_relation == NULL))
		init();

	entry = hash_search(by_relation, &relid, HASH_ENTER, &found);
	if (!found)
	{
		entry->valid = true;	/* so that the sweep spares it */
		entry->context = NULL;
		entry->nbindings = 0;
		entry->bindings = NULL;
		sweep();
		entry->valid = false;
	}
	if (unlikely(!entry->valid))
	{
		discard(entry->context);
		entry->context = NULL;
		entry->nbindings = 0;
		entry->bindings = NULL;

		/* an invalidation that comes in while we load must not be lost */
		entry->valid = true;
		PG_TRY();
		{
			load(entry, relation);
		}
		PG_CATCH();
		{
			entry->valid = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	return entry->nbindings > 0 ? entry : NULL;
}

MlcRule *
mlc_rule_by_id(int32 id)
{
	Oid			catalog = mlc_rule_relid();
	RuleById   *entry;
	bool		found;

	if (!OidIsValid(catalog))
		return NULL;

	entry = hash_search(by_id, &id, HASH_ENTER, &found);
	if (!found)
	{
		entry->valid = false;
		entry->context = NULL;
		entry->rule = NULL;
	}
	if (!entry->valid)
	{
		MemoryContext old;
		List	   *rules;

		if (entry->context)
			MemoryContextReset(entry->context);
		else
			entry->context = AllocSetContextCreate(cache_context,
												   "mlcache rule",
												   ALLOCSET_SMALL_SIZES);
		entry->rule = NULL;
		entry->valid = true;
		old = MemoryContextSwitchTo(entry->context);
		PG_TRY();
		{
			rules = scan(catalog, MLC_RULE_ID, Int32GetDatum(id));
		}
		PG_CATCH();
		{
			entry->valid = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
		if (rules != NIL)
			entry->rule = linitial(rules);
		MemoryContextSwitchTo(old);
	}
	return entry->rule;
}
