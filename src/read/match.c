/*-------------------------------------------------------------------------
 *
 * read/match.c
 *	  From a key to the rule that loads it, and who may read it.
 *
 * Every template begins with literal text (attach sees to that).  Rules are
 * grouped by it in a hash table; a key is looked up once for each length that
 * such a text has, so the cost grows with the number of different lengths and
 * not of rules.  Within a group the templates are tried in the order of their
 * ids.
 *
 * The table is built anew when any rule came, went or changed.  The old one
 * stays until the end of the transaction, since somebody up the stack may
 * hold a rule of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/fault.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "read/match.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/syscache.h"

/* Rules whose templates begin with the same literal. */
typedef struct Group
{
	uint32		hash;
	uint32		len;			/* 0: slot is free */
	const char *text;
	int			first;			/* into rules */
	int			n;
} Group;

static MemoryContext table_context = NULL;
static uint64 table_changes = 0;
static int	nrules = 0;
static MlcRule **rules = NULL;	/* ordered by literal, then by id */
static uint32 group_mask = 0;
static Group *groups = NULL;	/* open addressing */
static int	nlengths = 0;
static uint32 *lengths = NULL;	/* of literals, without repetitions */

/* ---- the table ---- */

static int
by_literal(const void *a, const void *b)
{
	const MlcRule *x = *(MlcRule *const *) a;
	const MlcRule *y = *(MlcRule *const *) b;
	const MlcKeyPart *p = &x->template->parts[0];
	const MlcKeyPart *q = &y->template->parts[0];
	int			order;

	if (p->len != q->len)
		return p->len < q->len ? -1 : 1;
	order = memcmp(p->text, q->text, p->len);
	if (order != 0)
		return order;
	return x->id < y->id ? -1 : x->id > y->id;
}

static bool
same_literal(const MlcRule *x, const MlcRule *y)
{
	const MlcKeyPart *p = &x->template->parts[0];
	const MlcKeyPart *q = &y->template->parts[0];

	return p->len == q->len && memcmp(p->text, q->text, p->len) == 0;
}

static void
enter_group(int first, int n)
{
	const MlcKeyPart *part = &rules[first]->template->parts[0];
	uint32		hash = hash_bytes((const unsigned char *) part->text, part->len);
	uint32		i = hash & group_mask;

	while (groups[i].len != 0)
		i = (i + 1) & group_mask;
	groups[i].hash = hash;
	groups[i].len = part->len;
	groups[i].text = part->text;
	groups[i].first = first;
	groups[i].n = n;
	if (nlengths == 0 || lengths[nlengths - 1] != (uint32) part->len)
		lengths[nlengths++] = part->len;
}

static void
build(uint64 changes)
{
	MemoryContext context = AllocSetContextCreate(CacheMemoryContext,
												  "mlcache keys",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *all = mlc_rule_all();
	uint32		size = 16;
	ListCell   *lc;

	/* nothing of the table may be used until it is complete */
	if (table_context)
		MemoryContextSetParent(table_context, TopTransactionContext);
	table_context = NULL;
	nrules = nlengths = 0;

	rules = palloc(sizeof(MlcRule *) * Max(list_length(all), 1));
	foreach(lc, all)
	{
		MlcRule    *rule = lfirst(lc);

		if (!rule->template->parts[0].is_column)
			rules[nrules++] = rule;
	}
	qsort(rules, nrules, sizeof(MlcRule *), by_literal);
	while (size < 2 * (uint32) nrules)
		size *= 2;
	group_mask = size - 1;
	groups = palloc0(sizeof(Group) * size);
	lengths = palloc(sizeof(uint32) * Max(nrules, 1));
	for (int i = 0, first = 0; i < nrules; i++)
		if (i + 1 == nrules || !same_literal(rules[first], rules[i + 1]))
		{
			enter_group(first, i + 1 - first);
			first = i + 1;
		}
	MemoryContextSwitchTo(old);
	table_context = context;
	table_changes = changes;
}

static void
refresh(void)
{
	/* finding the catalog first makes later changes count */
	if (!OidIsValid(mlc_rule_relid()))
	{
		nrules = nlengths = 0;
		return;
	}
	if (table_context == NULL || table_changes != mlc_rule_changes)
		build(mlc_rule_changes);
}

static MlcRule *
match_group(Group *group, const char *key, uint32 keylen)
{
	char	   *values[MLC_KEY_MAX_COLUMNS];

	for (int i = group->first; i < group->first + group->n; i++)
		if (mlc_key_match(rules[i]->template, key, keylen, values))
			return rules[i];
	return NULL;
}

MlcRule *
mlc_match_key(const char *key, uint32 keylen)
{
	MlcRule    *found = NULL;

	refresh();
	for (int i = 0; i < nlengths && lengths[i] <= keylen; i++)
	{
		uint32		hash = hash_bytes((const unsigned char *) key, lengths[i]);

		for (uint32 at = hash & group_mask; groups[at].len != 0;
			 at = (at + 1) & group_mask)
		{
			Group	   *group = &groups[at];
			MlcRule    *rule;

			if (group->hash != hash || group->len != lengths[i] ||
				memcmp(group->text, key, group->len) != 0)
				continue;
			rule = match_group(group, key, keylen);
			if (rule && (found == NULL || rule->id < found->id))
				found = rule;
			break;
		}
	}
	return found;
}

MlcRule *
mlc_match_relation(Oid relid, int ncolumns)
{
	MlcRule    *found = NULL;

	refresh();
	for (int i = 0; i < nrules; i++)
		if (rules[i]->relid == relid && rules[i]->loader == NULL &&
			rules[i]->ncolumns == 0 &&
			rules[i]->template->ncolumns == ncolumns &&
			(found == NULL || rules[i]->id < found->id))
			found = rules[i];
	return found;
}

/* ---- rights ---- */

/* What is known of a rule and a role; found by the rule's id. */
typedef struct Verdict
{
	int32		rule;			/* 0: none */
	Oid			role;
	uint64		generation;
} Verdict;

#define VERDICTS 256

static Verdict verdicts[VERDICTS];
static uint64 generation = 0;	/* 0: callbacks are not registered yet */

static void
relation_changed(Datum arg, Oid relid)
{
	generation++;
}

static void
role_changed(Datum arg, int cacheid, uint32 hash)
{
	generation++;
}

static void
refuse(MlcRule *rule)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for cache rule '%s'", rule->key),
			 errdetail("It shows columns of table \"%s\" that this role may not read.",
					   get_rel_name(rule->relid)),
			 errhint("GRANT SELECT ON %s TO %s;",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(rule->relid)),
												get_rel_name(rule->relid)),
					 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}

static bool
column_is_readable(Oid relid, const char *name)
{
	AttrNumber	attnum = get_attnum(relid, name);

	return attnum != InvalidAttrNumber &&
		pg_attribute_aclcheck(relid, attnum, GetUserId(),
							  ACL_SELECT) == ACLCHECK_OK;
}

static void
check_rights(MlcRule *rule)
{
	bool		fine = true;

	if (check_enable_rls(rule->relid, GetUserId(), true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for cache rule '%s'", rule->key),
				 errdetail("Table \"%s\" has row security, which a shared copy in a cache cannot keep.",
						   get_rel_name(rule->relid))));
	if (pg_class_aclcheck(rule->relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return;
	if (rule->loader || rule->ncolumns == 0)
		fine = pg_attribute_aclcheck_all(rule->relid, GetUserId(), ACL_SELECT,
										 ACLMASK_ALL) == ACLCHECK_OK;
	for (int i = 0; i < rule->ncolumns && fine; i++)
		fine = column_is_readable(rule->relid, rule->columns[i]);
	for (int i = 0; i < rule->template->ncolumns && fine; i++)
		fine = column_is_readable(rule->relid, rule->template->columns[i]);
	if (!fine)
		refuse(rule);
}

bool
mlc_match_check(int32 id)
{
	Verdict    *verdict = &verdicts[(uint32) id % VERDICTS];
	uint64		before;
	MlcRule    *rule;

	if (likely(verdict->rule == id && verdict->role == GetUserId() &&
			   verdict->generation == generation && generation != 0))
		return true;

	if (generation == 0)
	{
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHOID, role_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, role_changed, (Datum) 0);
		generation = 1;
	}
	before = generation;
	rule = mlc_rule_by_id(id);
	if (rule == NULL || get_rel_name(rule->relid) == NULL)
		return false;
	if (!MLC_FAULT_SKIP("get-rights"))
		check_rights(rule);
	verdict->rule = id;
	verdict->role = GetUserId();
	verdict->generation = before;
	return true;
}
