/*-------------------------------------------------------------------------
 *
 * capture/check.c
 *	  The checks of attach(): one clear error each, before anything changes.
 *	  What the surroundings must have is in capture/ready.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "base/compat.h"
#include "capture/check.h"
#include "capture/ready.h"
#include "capture/trigger.h"
#include "capture/unique.h"
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "model/bind.h"
#include "read/free.h"
#include "read/load.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#define LOADER_MAX 3000			/* bytes */
#define FILTER_MAX 1000

const char *
mlc_check_capture_name(MlcCapture capture)
{
	return capture == MLC_CAPTURE_WAL ? "wal" : "trigger";
}

/* ---- words ---- */

static int
parse_action(const char *action)
{
	int			op = mlc_rule_action_parse(action);

	if (op < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown action \"%s\"", action),
				 errhint("Actions are invalidate, update, replicate and refresh.")));
	return op;
}

static int
parse_consistency(const char *consistency)
{
	int			value = mlc_rule_consistency_parse(consistency);

	if (value < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown consistency \"%s\"", consistency),
				 errhint("Levels are strong, eventual and weak.")));
	return value;
}

static void
check_words(const MlcAttach *attach)
{
	if (attach->capture && strcmp(attach->capture, "wal") != 0 &&
		strcmp(attach->capture, "trigger") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown capture \"%s\"", attach->capture),
				 errhint("Captures are wal and trigger; leave it out and attach picks one.")));
	if (strcmp(attach->on_unreachable, "error") != 0 &&
		strcmp(attach->on_unreachable, "degrade") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown value \"%s\" of on_unreachable",
						attach->on_unreachable),
				 errhint("Values are error and degrade.")));
}

/*
 * A rule must fit on a page: what is moved out of line is vacuumed without
 * regard to decoding.  The same limits stand as constraints in the script,
 * which hold for a restored dump.
 */
static void
check_sizes(const MlcAttach *attach)
{
	if (attach->loader && strlen(attach->loader) > LOADER_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("loader of a cache rule is too long"),
				 errdetail("It has %zu bytes; at most %d are possible.",
						   strlen(attach->loader), LOADER_MAX),
				 errhint("Make it a function, and call that.")));
	if (attach->filter && strlen(attach->filter) > FILTER_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("filter of a cache rule is too long"),
				 errdetail("It has %zu bytes; at most %d are possible.",
						   strlen(attach->filter), FILTER_MAX),
				 errhint("Make it a function, and call that.")));
}

/* ---- the table ---- */

static void
refuse_table(Relation relation, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" cannot have cache rules",
					RelationGetRelationName(relation)),
			 errdetail("%s", why)));
}

static void
check_leaf_storage(Relation relation)
{
	switch (relation->rd_rel->relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
			break;
		case RELKIND_FOREIGN_TABLE:
			refuse_table(relation, "Changes of foreign tables are not in WAL.");
			break;
		case RELKIND_VIEW:
		case RELKIND_MATVIEW:
			refuse_table(relation, "Views have no changes of their own; attach the tables they read.");
			break;
		default:
			refuse_table(relation, "It is not a table.");
	}
	if (relation->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		refuse_table(relation, "Changes of unlogged tables are not in WAL.");
	if (relation->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse_table(relation, "Temporary tables are visible to one session only.");
}

static void
check_storage(Relation relation)
{
	List	   *tree;
	ListCell   *lc;

	check_leaf_storage(relation);
	if (relation->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return;
	tree = find_all_inheritors(RelationGetRelid(relation), AccessShareLock, NULL);
	foreach(lc, tree)
	{
		Relation	leaf = table_open(lfirst_oid(lc), NoLock);

		check_leaf_storage(leaf);
		table_close(leaf, NoLock);
	}
}

void
mlc_check_table(Relation relation)
{
	check_storage(relation);
	if (relation->rd_rel->relkind == RELKIND_RELATION &&
		has_subclass(RelationGetRelid(relation)))
		refuse_table(relation, "Other tables inherit from it, and their rows would be missed; partitioned tables are fine.");
	if (relation->rd_rel->relrowsecurity)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" cannot have cache rules",
						RelationGetRelationName(relation)),
				 errdetail("The table has row security, which a shared copy in a cache cannot keep.")));
}

static void
check_table(Relation relation)
{
	if (!mlc_is_table_owner(RelationGetRelid(relation), GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
					   RelationGetRelationName(relation));
	if (IsCatalogRelation(relation) ||
		RelationGetRelid(relation) == mlc_rule_relid())
		refuse_table(relation, "It is a catalog.");
	mlc_check_table(relation);
}

/* ---- the template ---- */

static MlcTemplate *
check_template(const MlcAttach *attach, Relation relation)
{
	MlcKeyError error;
	MlcTemplate *template = mlc_key_parse(attach->key, &error);

	if (template == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("invalid key template '%s'", attach->key),
				 errdetail("%s", error.detail),
				 error.hint ? errhint("%s", error.hint) : 0));
	if (!template->parts[0].is_column &&
		template->parts[0].text[0] == MLC_FETCH_PREFIX)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("invalid key template '%s'", attach->key),
				 errdetail("Keys that begin with \"%c\" are kept for mlcache.fetch().",
						   MLC_FETCH_PREFIX)));
	if (template->parts[0].is_column)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("invalid key template '%s'", attach->key),
				 errdetail("It must begin with literal text, by which its keys are told from others in Redis."),
				 errhint("Write a prefix: '%s:%s'.",
						 RelationGetRelationName(relation), attach->key)));

	for (int i = 0; i < template->ncolumns; i++)
	{
		HeapTuple	tuple = SearchSysCacheAttName(RelationGetRelid(relation),
												  template->columns[i]);

		if (!HeapTupleIsValid(tuple))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of the key template does not exist in \"%s\"",
							template->columns[i],
							RelationGetRelationName(relation)),
					 errdetail("The template is '%s'.", attach->key)));
		if (((Form_pg_attribute) GETSTRUCT(tuple))->attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					 errmsg("system column \"%s\" cannot be part of a key",
							template->columns[i])));
		ReleaseSysCache(tuple);
	}
	for (int i = 0; i < attach->ncolumns; i++)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(relation),
										attach->columns[i]);

		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" does not exist in \"%s\"",
							attach->columns[i],
							RelationGetRelationName(relation))));
		for (int j = 0; j < i; j++)
			if (strcmp(attach->columns[j], attach->columns[i]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" is named twice in columns",
								attach->columns[i])));
	}
	return template;
}

static void
check_others(const MlcAttach *attach, MlcRule *rule, Relation relation)
{
	bool		has_values = rule->action == MLC_OP_UPDATE ||
	rule->action == MLC_OP_REPLICATE;
	bool		degrade = strcmp(attach->on_unreachable, "degrade") == 0;
	ListCell   *lc;

	foreach(lc, mlc_rule_all())
	{
		MlcRule    *other = lfirst(lc);
		bool		other_has_values = other->action == MLC_OP_UPDATE ||
		other->action == MLC_OP_REPLICATE;

		if (other->relid == rule->relid && strcmp(other->key, rule->key) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("table \"%s\" already has the cache rule '%s'",
							RelationGetRelationName(relation), rule->key),
					 errhint("SELECT mlcache.detach('%s', '%s');",
							 RelationGetRelationName(relation), rule->key)));
		if ((rule->consistency == MLC_STRONG) != (other->consistency == MLC_STRONG) &&
			mlc_key_overlap(rule->template, other->template))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("key template '%s' may give the same keys as rule '%s' of \"%s\"",
							rule->key, other->key, get_rel_name(other->relid)),
					 errdetail("A key is strong for all the rules that feed it, or for none."),
					 errhint("Use one consistency for both, or another prefix.")));
		if (rule->consistency == MLC_STRONG && degrade != other->degrade &&
			mlc_key_overlap(rule->template, other->template))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("key template '%s' may give the same keys as rule '%s' of \"%s\"",
							rule->key, other->key, get_rel_name(other->relid)),
					 errdetail("What happens to a key when its Redis is out of reach is the same for all the rules that feed it."),
					 errhint("Use one on_unreachable for both, or another prefix.")));
		if ((has_values || other_has_values) &&
			mlc_key_overlap(rule->template, other->template))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("key template '%s' may give the same keys as rule '%s' of \"%s\"",
							rule->key, other->key, get_rel_name(other->relid)),
					 errdetail("Actions update and replicate need keys that a single rule feeds."),
					 errhint("Use action => 'invalidate' for both, or another prefix.")));
	}
}

static void
check_action(const MlcAttach *attach, MlcRule *rule, MlcBinding *binding,
			 Relation relation)
{
	bool		unique = mlc_unique_covers(relation, binding->attnums,
										   rule->template->ncolumns);

	if (attach->stale > 0 && rule->consistency == MLC_STRONG)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a strong rule takes no stale"),
				 errdetail("Its readers never get a copy that has been removed."),
				 errhint("Leave stale out, or say consistency => 'eventual'.")));
	if (rule->action == MLC_OP_REPLICATE && rule->consistency == MLC_STRONG)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("action \"replicate\" cannot be strong"),
				 errdetail("Replicated entries are made after the commit, when a later one may be visible already."),
				 errhint("Use action => 'invalidate'.")));
	switch (rule->action)
	{
		case MLC_OP_UPDATE:
		case MLC_OP_REPLICATE:
			if (!unique)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("key template '%s' is not unique, as action \"%s\" requires",
								rule->key, attach->action),
						 errdetail("No unique index of \"%s\" consists of columns of the template only, so a key could be several rows'.",
								   RelationGetRelationName(relation)),
						 errhint("Use action => 'invalidate', or put the primary key into the template.")));
			if (rule->loader)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("action \"%s\" takes the row itself, not a loader",
								attach->action),
						 errhint("Use action => 'refresh' with a loader.")));
			if (rule->filter)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("action \"%s\" cannot be combined with a filter",
								attach->action),
						 errdetail("Values are taken from WAL, where a filter cannot be evaluated."),
						 errhint("Use action => 'invalidate' or 'refresh'.")));
			break;
		case MLC_OP_REFRESH:
			if (!unique && !rule->loader)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("action \"refresh\" needs a loader here"),
						 errdetail("Key template '%s' is not unique, so the row alone does not say what to cache.",
								   rule->key),
						 errhint("Add loader => 'SELECT ...' with $1 for the first column of the template.")));
			break;
		default:
			break;
	}
	if (rule->loader)
		mlc_load_check(rule);
	if (rule->filter)
		mlc_trigger_check_filter(rule->filter, relation);
}

/* ---- rules by tag ---- */

#define TAG_MAX 1024			/* bytes */

static void
check_key_or_tag(const MlcAttach *attach)
{
	if (attach->key && attach->tag)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a rule has a key or a tag, not both"),
				 errhint("Attach the table twice.")));
	if (attach->key == NULL && attach->tag == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("key must not be null"),
				 errdetail("A rule has a key or a tag.")));
	if (attach->tag && (attach->tag[0] == '\0' || strlen(attach->tag) > TAG_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a tag must have 1 to %d bytes", TAG_MAX)));
}

/* It says which entries a change concerns, and nothing about their content. */
static void
check_tag(const MlcAttach *attach, MlcRule *rule, Relation relation)
{
	const char *unfit =
	rule->action != MLC_OP_INVALIDATE ? "action" :
	attach->ttl > 0 ? "ttl" : attach->negative_ttl > 0 ? "negative_ttl" :
	attach->stale > 0 ? "stale" :
	attach->ncolumns > 0 ? "columns" : attach->loader ? "loader" : NULL;
	ListCell   *lc;

	if (unfit)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a rule by tag takes no %s", unfit),
				 errdetail("It removes what was filled with the tag; what is cached is up to those who fill.")));
	if (rule->consistency == MLC_STRONG)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a rule by tag cannot be strong"),
				 errdetail("Which keys have the tag is not known before the commit."),
				 errhint("Leave consistency out.")));
	foreach(lc, mlc_rule_every())
	{
		MlcRule    *other = lfirst(lc);

		if (other->tag && other->relid == rule->relid &&
			strcmp(other->tag, rule->tag) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("table \"%s\" already has the cache rule by tag '%s'",
							RelationGetRelationName(relation), rule->tag),
					 errhint("SELECT mlcache.detach('%s', tag => '%s');",
							 RelationGetRelationName(relation), rule->tag)));
	}
	if (rule->filter)
		mlc_trigger_check_filter(rule->filter, relation);
}

/* ---- capture ---- */

/* Do all partitions identify rows by the key's columns? */
static bool
identity_covers(MlcRule *rule, Relation relation)
{
	List	   *tree = find_all_inheritors(RelationGetRelid(relation),
										   AccessShareLock, NULL);
	bool		covers = true;
	ListCell   *lc;

	foreach(lc, tree)
	{
		Relation	leaf = table_open(lfirst_oid(lc), NoLock);
		MlcBinding	binding;
		const char *missing;

		/* changes are those of leaves; what a root says does not matter */
		if (leaf->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
			covers = covers && mlc_bind_rule(rule, leaf, &binding, &missing) &&
				binding.identity;
		table_close(leaf, NoLock);
	}
	return covers;
}

static MlcCapture
pick_capture(const MlcAttach *attach, MlcRule *rule, Relation relation)
{
	bool		covers = rule->tag || identity_covers(rule, relation);
	MlcCapture	capture = MLC_CAPTURE_WAL;
	const char *why = rule->tag ?
	"every change of the table is in WAL, so nothing runs on the write path." :
	"the replica identity holds every column of the key, so nothing runs on the write path.";

	if (rule->filter)
	{
		capture = MLC_CAPTURE_TRIGGER;
		why = "a filter has to be evaluated where the row changes.";
	}
	else if (!covers)
	{
		capture = MLC_CAPTURE_TRIGGER;
		why = "the replica identity does not hold every column of the key.";
	}
	else if (rule->consistency == MLC_STRONG)
	{
		capture = MLC_CAPTURE_TRIGGER;
		why = "a strong rule puts keys under quarantine before the commit.";
	}
	else if (attach->capture && strcmp(attach->capture, "trigger") == 0)
	{
		capture = MLC_CAPTURE_TRIGGER;
		why = "it was asked for.";
	}

	if (attach->capture && strcmp(attach->capture, "wal") == 0 &&
		capture != MLC_CAPTURE_WAL)
	{
		if (rule->filter)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("capture \"wal\" cannot evaluate a filter"),
					 errhint("Leave capture out, or use capture => 'trigger'.")));
		if (rule->consistency == MLC_STRONG)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("capture \"wal\" cannot serve a strong rule"),
					 errdetail("Changed keys must be known before the commit."),
					 errhint("Leave capture out, or use capture => 'trigger'.")));
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("capture \"wal\" needs every column of the key in the replica identity of \"%s\"",
						RelationGetRelationName(relation)),
				 errdetail("Otherwise WAL does not tell which key a changed row had before."),
				 errhint("ALTER TABLE %s REPLICA IDENTITY FULL; or use capture => 'trigger'.",
						 RelationGetRelationName(relation))));
	}
	ereport(NOTICE,
			(errmsg(rule->tag ? "cache rule by tag '%s' uses capture \"%s\"" :
					"cache rule '%s' uses capture \"%s\"", rule->key,
					mlc_check_capture_name(capture)),
			 errdetail("Chosen because %s", why)));
	return capture;
}

MlcCapture
mlc_check_attach(const MlcAttach *attach, Relation relation)
{
	MlcRule		rule;
	MlcBinding	binding;
	const char *missing;

	mlc_ready_prerequisites();
	check_table(relation);
	check_words(attach);
	check_sizes(attach);

	memset(&rule, 0, sizeof(rule));
	rule.relid = attach->relid;
	check_key_or_tag(attach);
	rule.key = pstrdup(attach->key ? attach->key : attach->tag);
	rule.tag = attach->tag ? rule.key : NULL;
	rule.action = parse_action(attach->action);
	rule.consistency = parse_consistency(attach->consistency);
	rule.template = attach->key ? check_template(attach, relation) :
		palloc0(sizeof(MlcTemplate));
	rule.ncolumns = attach->ncolumns;
	rule.columns = attach->columns;
	rule.loader = attach->loader ? pstrdup(attach->loader) : NULL;
	rule.filter = attach->filter ? pstrdup(attach->filter) : NULL;
	if (!mlc_bind_rule(&rule, relation, &binding, &missing))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" does not exist in \"%s\"", missing,
						RelationGetRelationName(relation))));

	if (rule.tag)
		check_tag(attach, &rule, relation);
	else
	{
		check_action(attach, &rule, &binding, relation);
		check_others(attach, &rule, relation);
	}
	mlc_ready_servers(attach->servers, attach->nservers);
	return pick_capture(attach, &rule, relation);
}
