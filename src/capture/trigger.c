/*-------------------------------------------------------------------------
 *
 * capture/trigger.c
 *	  The row trigger of trigger capture: changed rows to keys.
 *
 * One trigger a table serves all its rules, found through the same cache that
 * decoding uses.  It renders old and new key, evaluates the rule's filter, and
 * adds the keys to the dirty set, with the row where a strong commit may write
 * it through.  It fires ALWAYS, whatever session_replication_role says, and
 * never speaks to Redis.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/fault.h"
#include "capture/payload.h"
#include "capture/strong.h"
#include "capture/trigger.h"
#include "capture/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "model/bind.h"
#include "model/disguise.h"
#include "model/rule.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(mlc_capture);

/* A position in the filter is none in the statement that uses it. */
static void
filter_error(void *arg)
{
	int			position = geterrposition();

	errcontext("filter of a cache rule");
	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery((const char *) arg);
}

static Node *
parse_filter(const char *filter, Relation relation)
{
	StringInfoData sql;
	List	   *parsed;
	SelectStmt *select;
	ResTarget  *target;
	ParseState *pstate;
	ParseNamespaceItem *item;
	Node	   *expr;
	ErrorContextCallback callback;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT (%s)", filter);
	callback.callback = filter_error;
	callback.arg = sql.data;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	parsed = raw_parser(sql.data, RAW_PARSE_DEFAULT);
	if (list_length(parsed) != 1 ||
		!IsA(linitial_node(RawStmt, parsed)->stmt, SelectStmt))
		goto not_an_expression;
	select = (SelectStmt *) linitial_node(RawStmt, parsed)->stmt;
	if (list_length(select->targetList) != 1 || select->fromClause ||
		select->whereClause || select->valuesLists || select->withClause ||
		select->sortClause || select->limitCount || select->groupClause ||
		select->intoClause || select->op != SETOP_NONE)
		goto not_an_expression;
	target = linitial_node(ResTarget, select->targetList);

	pstate = make_parsestate(NULL);
	pstate->p_sourcetext = sql.data;
	item = addRangeTableEntryForRelation(pstate, relation, AccessShareLock,
										 NULL, false, true);
	addNSItemToQuery(pstate, item, true, true, true);
	expr = transformExpr(pstate, target->val, EXPR_KIND_TRIGGER_WHEN);
	expr = coerce_to_boolean(pstate, expr, "filter");
	assign_expr_collations(pstate, expr);
	expr = (Node *) expression_planner((Expr *) expr);
	error_context_stack = callback.previous;
	return expr;

not_an_expression:
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("filter of a cache rule must be one expression"),
			 errdetail("The filter is: %s", filter)));
	return NULL;				/* keep the compiler quiet */
}

void
mlc_trigger_check_filter(const char *filter, Relation relation)
{
	MlcDisguise disguise;

	mlc_disguise_put_on(&disguise, RelationGetRelid(relation));
	(void) parse_filter(filter, relation);
	mlc_disguise_take_off(&disguise);
}

/* In the disguise, so that names mean the same whoever writes to the table. */
static void
prepare_filter(MlcBinding *binding, Relation relation, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	MlcDisguise disguise;
	Node	   *expr;

	mlc_disguise_put_on(&disguise, binding->rule->relid);
	expr = parse_filter(binding->rule->filter, relation);
	binding->filter_varies = contain_mutable_functions(expr);
	binding->estate = CreateExecutorState();
	MemoryContextSwitchTo(binding->estate->es_query_cxt);
	binding->filter = ExecPrepareExpr((Expr *) expr, binding->estate);
	mlc_disguise_take_off(&disguise);
	MemoryContextSwitchTo(old);
}

/* Does the row satisfy the rule's filter?  NULL means no. */
static bool
passes(MlcBinding *binding, TupleTableSlot *slot)
{
	ExprContext *econtext;
	bool		result;

	if (binding->rule->filter == NULL)
		return true;
	econtext = GetPerTupleExprContext(binding->estate);
	econtext->ecxt_scantuple = slot;
	result = ExecQual(binding->filter, econtext);
	ResetExprContext(econtext);
	return result;
}

/* Did an UPDATE change nothing that the rule looks at? */
static bool
is_untouched(MlcBinding *binding, TupleDesc desc, HeapTuple a, HeapTuple b)
{
	MlcRule    *rule = binding->rule;

	if (rule->ncolumns == 0 || rule->filter || rule->loader ||
		binding->payload_desc == NULL)
		return false;
	for (int i = 0; i < binding->npayload + rule->template->ncolumns; i++)
	{
		AttrNumber	attnum = i < binding->npayload ?
		binding->payload_attnums[i] :
		binding->attnums[i - binding->npayload];
		Form_pg_attribute att = TupleDescAttr(desc, attnum - 1);
		bool		anull,
					bnull;
		Datum		avalue = heap_getattr(a, attnum, desc, &anull);
		Datum		bvalue = heap_getattr(b, attnum, desc, &bnull);

		if (anull != bnull ||
			(!anull && !datum_image_eq(avalue, bvalue, att->attbyval,
									   att->attlen)))
			return false;
	}
	return true;
}

/*
 * What the commit may write through of a row; false: nothing.  Triggers of others
 * may have changed the row again, and events come in no order of versions then:
 * what is not the last version is nothing to cache.
 */
static bool
render_payload(MlcBinding *binding, HeapTuple tuple, TupleDesc desc,
			   StringInfo payload)
{
	uint16		infomask = tuple->t_data->t_infomask;

	if (!mlc_rule_writes_through(binding->rule) ||
		((infomask & HEAP_XMAX_INVALID) == 0 &&
		 !HEAP_XMAX_IS_LOCKED_ONLY(infomask) &&
		 !MLC_FAULT_SKIP("capture-last-version")))
		return false;
	initStringInfo(payload);
	return mlc_payload_render(binding, tuple, desc, payload) &&
		payload->len <= MLC_STRONG_PAYLOADS;
}

/* op of a row that was there, or of one that is. */
static void
add(MlcBinding *binding, MlcOp op, bool is_new, HeapTuple tuple, TupleDesc desc,
	StringInfo key)
{
	StringInfoData payload;
	bool		has_payload;

	resetStringInfo(key);
	switch (mlc_bind_render(binding, tuple, desc, key))
	{
		case MLC_RENDER_OK:
			has_payload = is_new &&
				render_payload(binding, tuple, desc, &payload);
			mlc_xact_add(binding->rule, op, key->data, key->len,
						 has_payload ? payload.data : NULL,
						 has_payload ? payload.len : 0);
			break;
		case MLC_RENDER_NULL:
			if (binding->rule->stat)
				pg_atomic_fetch_add_u64(&binding->rule->stat->null_keys, 1);
			break;
		case MLC_RENDER_TOO_LONG:
			break;
	}
}

static void
capture(MlcBinding *binding, TriggerData *trigdata, StringInfo key)
{
	MlcRule    *rule = binding->rule;
	Relation	relation = trigdata->tg_relation;
	TupleDesc	desc = RelationGetDescr(relation);
	bool		is_update = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event);
	bool		has_old = is_update || TRIGGER_FIRED_BY_DELETE(trigdata->tg_event);
	HeapTuple	oldtuple = has_old ? trigdata->tg_trigtuple : NULL;
	HeapTuple	newtuple = is_update ? trigdata->tg_newtuple :
	has_old ? NULL : trigdata->tg_trigtuple;
	TupleTableSlot *newslot = is_update ? trigdata->tg_newslot :
	trigdata->tg_trigslot;

	mlc_xact_touch(rule);
	if (binding->broken)
	{
		mlc_xact_add_all(rule);
		return;
	}
	if (rule->tag)
	{
		if ((oldtuple && passes(binding, trigdata->tg_trigslot)) ||
			(newtuple && passes(binding, newslot)))
			mlc_xact_add_all(rule);
		return;
	}
	if (is_update && is_untouched(binding, desc, oldtuple, newtuple))
		return;

	/*
	 * The old key first: where both are the same, the event of the new row is
	 * the last and stands.  A row that passes the filter neither before nor
	 * after concerns nobody.
	 */
	if (oldtuple && passes(binding, trigdata->tg_trigslot))
		add(binding, mlc_rule_leave_op(rule), false, oldtuple, desc, key);
	if (newtuple && passes(binding, newslot))
		add(binding, rule->action, true, newtuple, desc, key);
}

/* Does what is made of a row depend on who makes it, and on settings? */
static bool
wants_disguise(MlcBinding *binding, Relation relation)
{
	return binding->pin_format || binding->disguise ||
		binding->filter_varies ||
		(mlc_rule_writes_through(binding->rule) && !binding->broken &&
		 mlc_payload_wants_pin(binding, RelationGetDescr(relation)));
}

static void
capture_disguised(MlcRelationRules *rules, MlcBinding *binding,
				  TriggerData *trigdata, StringInfo key)
{
	MlcDisguise disguise;

	if (binding->rule->filter && binding->filter == NULL && !binding->broken)
		prepare_filter(binding, trigdata->tg_relation, rules->context);
	if (!wants_disguise(binding, trigdata->tg_relation) ||
		MLC_FAULT_SKIP("capture-disguise"))
	{
		capture(binding, trigdata, key);
		return;
	}
	mlc_disguise_put_on(&disguise, binding->rule->relid);
	capture(binding, trigdata, key);
	mlc_disguise_take_off(&disguise);
}

/*
 * mlcache.capture(): AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW.
 * ERROR 39P01 when called otherwise.
 */
Datum
mlc_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	MlcRelationRules *rules;
	StringInfoData key;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("mlcache.capture() must be called as an AFTER ROW trigger"),
				 errhint("Let mlcache.attach() create the trigger.")));

	rules = mlc_rule_lookup(trigdata->tg_relation);
	if (rules == NULL)
		return PointerGetDatum(NULL);

	mlc_rule_busy++;
	initStringInfo(&key);
	for (int i = 0; i < rules->nbindings; i++)
	{
		MlcBinding *binding = &rules->bindings[i];

		if (binding->rule->capture == MLC_CAPTURE_TRIGGER)
			capture_disguised(rules, binding, trigdata, &key);
	}
	mlc_rule_busy--;

	return PointerGetDatum(NULL);
}
