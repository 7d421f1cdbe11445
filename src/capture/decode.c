/*-------------------------------------------------------------------------
 *
 * capture/decode.c
 *	  The output plugin "mlcache": WAL changes of ruled tables to events.
 *
 * For every changed row the rules of its relation are found with one hash
 * probe; under `wal` capture the keys are rendered from the tuples, under
 * `trigger` capture they come with the transaction's logical message.  What
 * cannot be known exactly (a key column outside the replica identity, a
 * message that is missing) becomes a purge of the whole rule: costly, never
 * wrong.  Changes of mlcache.rule itself purge the key space of the rule that
 * came or went; that cannot be forged, unlike a message.
 *
 * Runs under a historic snapshot: only catalogs and user catalog tables may be
 * read, nothing may wait, no SPI.  See contrib/test_decoding for the shape.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/timeline.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "base/compat.h"
#include "base/fault.h"
#include "capture/decode.h"
#include "capture/payload.h"
#include "model/bind.h"
#include "model/disguise.h"
#include "read/match.h"
#include "nodes/parsenodes.h"
#include "replication/logical.h"
#include "replication/output_plugin.h"
#include "utils/memutils.h"
#include "utils/rel.h"

typedef struct DecodeData
{
	MemoryContext change;		/* reset for every change */
	MlcSink    *sink;			/* NULL: JSON lines */
	StringInfoData key;
	StringInfoData oldkey;

	/* the transaction at hand */
	bool		begun;
	ReorderBufferTXN *txn;
	MlcVersion	version;
	List	   *changed;		/* ids of trigger rules whose tables changed */
	List	   *covered;		/* ids of rules that a message spoke for */
	List	   *purged;			/* ids of rules that are purged already */
	MemoryContext transaction;	/* those lists; reset at commit */
} DecodeData;

MlcSink    *mlc_decode_sink = NULL;

extern PGDLLEXPORT void _PG_output_plugin_init(OutputPluginCallbacks *cb);

/* The timelines that led to the present one, which is the first in the list. */
static List *
timeline_history(void)
{
	static TimeLineID current = 0;
	static List *history = NIL;
	TimeLineID	now;

	if (RecoveryInProgress())
		(void) GetXLogReplayRecPtr(&now);
	else
		now = GetWALInsertionTimeLine();

	if (now != current)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		list_free_deep(history);
		history = NIL;
		history = readTimeLineHistory(now);
		current = now;
		MemoryContextSwitchTo(old);
	}
	return history;
}

TimeLineID
mlc_decode_timeline(XLogRecPtr lsn)
{
	List	   *history = timeline_history();

	if (list_length(history) <= 1)
		return ((TimeLineHistoryEntry *) linitial(history))->tli;
	return tliOfPointInHistory(lsn, history);
}

XLogRecPtr
mlc_decode_timeline_begin(void)
{
	return ((TimeLineHistoryEntry *) linitial(timeline_history()))->begin;
}

static void
startup_cb(LogicalDecodingContext *ctx, OutputPluginOptions *opt, bool is_init)
{
	DecodeData *data = palloc0(sizeof(DecodeData));
	ListCell   *lc;

	foreach(lc, ctx->output_plugin_options)
	{
		DefElem    *option = lfirst(lc);

		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown option \"%s\" of output plugin mlcache",
						option->defname),
				 errdetail("The plugin takes no options.")));
	}

	data->change = AllocSetContextCreate(ctx->context, "mlcache change",
										 ALLOCSET_DEFAULT_SIZES);
	data->transaction = AllocSetContextCreate(ctx->context,
											  "mlcache transaction",
											  ALLOCSET_SMALL_SIZES);
	data->sink = mlc_decode_sink;
	if (data->sink == NULL && IsTransactionState())
		mlc_rule_look_at_present();
	initStringInfo(&data->key);
	initStringInfo(&data->oldkey);
	ctx->output_plugin_private = data;
	opt->output_type = OUTPUT_PLUGIN_TEXTUAL_OUTPUT;
	opt->receive_rewrites = false;
}

static void
begin_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	DecodeData *data = ctx->output_plugin_private;

	MemoryContextReset(data->transaction);
	data->changed = data->covered = data->purged = NIL;
	data->txn = txn;
	data->version.tli = mlc_decode_timeline(txn->final_lsn);
	data->version.lsn = txn->end_lsn;
	if (data->sink)
		data->sink->begin(data->sink, txn, data->version);
}

static void
emit(LogicalDecodingContext *ctx, const MlcRule *rule, MlcOp op,
	 StringInfo key, StringInfo payload)
{
	DecodeData *data = ctx->output_plugin_private;
	MlcEvent	event;

	event.op = op;
	event.rule = rule->id;
	event.key = key ? key->data : NULL;
	event.keylen = key ? key->len : 0;
	event.payload = payload ? payload->data : NULL;
	event.payloadlen = payload ? payload->len : 0;

	if (data->sink)
	{
		if (rule->stat)
			pg_atomic_fetch_add_u64(&rule->stat->events, 1);
		data->sink->event(data->sink, &event, rule);
		return;
	}
	OutputPluginPrepareWrite(ctx, true);
	mlc_event_json(ctx->out, &event, data->version);
	OutputPluginWrite(ctx, true);
}

/* All that the rule is about goes. */
static void
emit_all(LogicalDecodingContext *ctx, const MlcRule *rule)
{
	StringInfoData tag;

	if (rule->id == MLC_RULE_FREE)
		return;
	if (rule->tag == NULL)
	{
		emit(ctx, rule, MLC_OP_TRUNCATE, NULL, NULL);
		return;
	}
	initStringInfo(&tag);
	appendStringInfoString(&tag, rule->tag);
	emit(ctx, rule, MLC_OP_TAG, &tag, NULL);
}

/* Purges a rule, or emits its tag, once a transaction. */
static void
purge(LogicalDecodingContext *ctx, const MlcRule *rule)
{
	DecodeData *data = ctx->output_plugin_private;
	MemoryContext old;

	if (list_member_int(data->purged, rule->id))
		return;
	old = MemoryContextSwitchTo(data->transaction);
	data->purged = lappend_int(data->purged, rule->id);
	MemoryContextSwitchTo(old);
	if (data->sink && rule->stat && rule->tag == NULL)
		pg_atomic_fetch_add_u64(&rule->stat->purges, 1);
	emit_all(ctx, rule);
}

static void
note(DecodeData *data, List **list, int32 id)
{
	MemoryContext old;

	if (list_member_int(*list, id))
		return;
	old = MemoryContextSwitchTo(data->transaction);
	*list = lappend_int(*list, id);
	MemoryContextSwitchTo(old);
}

static bool
key_is_missing(MlcBinding *binding, HeapTuple tuple, TupleDesc desc)
{
	for (int i = 0; i < binding->rule->template->ncolumns; i++)
		if (mlc_payload_is_missing(tuple, desc, binding->attnums[i]))
			return true;
	return false;
}

/* Renders; false, after counting or purging, when there is no key. */
static bool
render(LogicalDecodingContext *ctx, MlcBinding *binding, HeapTuple tuple,
	   TupleDesc desc, StringInfo out)
{
	DecodeData *data = ctx->output_plugin_private;

	resetStringInfo(out);
	if (key_is_missing(binding, tuple, desc))
	{
		purge(ctx, binding->rule);
		return false;
	}
	switch (mlc_bind_render(binding, tuple, desc, out))
	{
		case MLC_RENDER_OK:
			return true;
		case MLC_RENDER_NULL:
			if (data->sink && binding->rule->stat)
				pg_atomic_fetch_add_u64(&binding->rule->stat->null_keys, 1);
			return false;
		case MLC_RENDER_TOO_LONG:
			/* such a key cannot be cached, so there is nothing to remove */
			return false;
	}
	return false;
}

/* The event for a row as it is now. */
static void
emit_new(LogicalDecodingContext *ctx, MlcBinding *binding, HeapTuple tuple,
		 TupleDesc desc, StringInfo key)
{
	MlcRule    *rule = binding->rule;
	StringInfoData payload;

	if (rule->action != MLC_OP_UPDATE && rule->action != MLC_OP_REPLICATE)
	{
		emit(ctx, rule, rule->action, key, NULL);
		return;
	}
	initStringInfo(&payload);
	if (!mlc_payload_runs_functions(binding, desc) &&
		mlc_payload_render(binding, tuple, desc, &payload))
		emit(ctx, rule, rule->action, key, &payload);
	else

		/*
		 * Not all of the row is in WAL, or its text is not to be had here:
		 * what must be there is loaded again.
		 */
		emit(ctx, rule, rule->action == MLC_OP_REPLICATE ? MLC_OP_REFRESH :
			 MLC_OP_INVALIDATE, key, NULL);
}

static void
apply_binding(LogicalDecodingContext *ctx, MlcBinding *binding,
			  Relation relation, ReorderBufferChange *change)
{
	DecodeData *data = ctx->output_plugin_private;
	TupleDesc	desc = RelationGetDescr(relation);
	MlcRule    *rule = binding->rule;
	HeapTuple	newtuple = MLC_CHANGE_TUPLE(change->data.tp.newtuple);
	HeapTuple	oldtuple = MLC_CHANGE_TUPLE(change->data.tp.oldtuple);
	bool		have_new = false;

	if (binding->broken)
	{
		purge(ctx, rule);
		return;
	}

	/* a rule by tag: whatever the change, it is the same event */
	if (rule->tag && rule->capture == MLC_CAPTURE_WAL)
	{
		if (!MLC_FAULT_SKIP("decode-tag"))
			purge(ctx, rule);
		return;
	}

	if (rule->capture == MLC_CAPTURE_TRIGGER)
	{
		/* keys come with the message; payloads, if any, from here */
		note(data, &data->changed, rule->id);
		if (newtuple && (rule->action == MLC_OP_UPDATE ||
						 rule->action == MLC_OP_REPLICATE) &&
			render(ctx, binding, newtuple, desc, &data->key))
			emit_new(ctx, binding, newtuple, desc, &data->key);
		return;
	}

	switch (change->action)
	{
		case REORDER_BUFFER_CHANGE_INSERT:
			if (newtuple && render(ctx, binding, newtuple, desc, &data->key))
				emit_new(ctx, binding, newtuple, desc, &data->key);
			break;

		case REORDER_BUFFER_CHANGE_UPDATE:
			if (newtuple == NULL || !binding->identity)
			{
				purge(ctx, rule);
				break;
			}

			/*
			 * The old key is logged when a column of the identity changed, or
			 * lies in TOAST; a key column that is missing from the new tuple
			 * is unchanged, and then in the old one.
			 */
			if (oldtuple && key_is_missing(binding, newtuple, desc))
			{
				if (render(ctx, binding, oldtuple, desc, &data->oldkey))
					emit(ctx, rule, mlc_rule_leave_op(rule), &data->oldkey, NULL);
				purge(ctx, rule);
				break;
			}
			have_new = render(ctx, binding, newtuple, desc, &data->key);
			if (oldtuple && render(ctx, binding, oldtuple, desc, &data->oldkey) &&
				(!have_new || data->oldkey.len != data->key.len ||
				 memcmp(data->oldkey.data, data->key.data, data->key.len) != 0) &&
				!MLC_FAULT_SKIP("decode-old-key"))
				emit(ctx, rule, mlc_rule_leave_op(rule), &data->oldkey, NULL);
			if (have_new)
				emit_new(ctx, binding, newtuple, desc, &data->key);
			break;

		case REORDER_BUFFER_CHANGE_DELETE:
			if (oldtuple == NULL || !binding->identity)
				purge(ctx, rule);
			else if (render(ctx, binding, oldtuple, desc, &data->oldkey))
				emit(ctx, rule, mlc_rule_leave_op(rule), &data->oldkey, NULL);
			break;

		default:
			break;
	}
}

/* A rule came, went or changed: its key space starts empty. */
static void
rule_changed(LogicalDecodingContext *ctx, Relation relation,
			 ReorderBufferChange *change)
{
	TupleDesc	desc = RelationGetDescr(relation);
	HeapTuple	newtuple = MLC_CHANGE_TUPLE(change->data.tp.newtuple);
	HeapTuple	oldtuple = MLC_CHANGE_TUPLE(change->data.tp.oldtuple);

	if (MLC_FAULT_SKIP("decode-rule"))
		return;
	if (oldtuple)
		emit_all(ctx, mlc_rule_from_tuple(oldtuple, desc));
	if (newtuple)
		emit_all(ctx, mlc_rule_from_tuple(newtuple, desc));
}

/* The text of some types depends on search_path. */
static void
apply_disguised(LogicalDecodingContext *ctx, MlcBinding *binding,
				Relation relation, ReorderBufferChange *change)
{
	MlcDisguise disguise;

	if (!binding->disguise || MLC_FAULT_SKIP("decode-disguise"))
	{
		apply_binding(ctx, binding, relation, change);
		return;
	}
	mlc_disguise_put_on_decoding(&disguise, binding->rule->relid);
	apply_binding(ctx, binding, relation, change);
	mlc_disguise_take_off(&disguise);
}

static void
change_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
		  Relation relation, ReorderBufferChange *change)
{
	DecodeData *data = ctx->output_plugin_private;
	MlcRelationRules *rules = mlc_rule_lookup(relation);
	MemoryContext old;
	int			nestlevel = -1;

	if (rules == NULL && RelationGetRelid(relation) != mlc_rule_relid())
		return;

	/* the relay has pinned its settings; a session that peeks has not */
	if (data->sink == NULL)
		nestlevel = mlc_disguise_pin_formats();
	old = MemoryContextSwitchTo(data->change);
	if (rules == NULL)
		rule_changed(ctx, relation, change);
	else
		for (int i = 0; i < rules->nbindings; i++)
			apply_disguised(ctx, &rules->bindings[i], relation, change);
	MemoryContextSwitchTo(old);
	if (nestlevel >= 0)
		mlc_disguise_unpin(nestlevel);
	MemoryContextReset(data->change);
}

static void
truncate_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, int nrelations,
			Relation relations[], ReorderBufferChange *change)
{
	if (MLC_FAULT_SKIP("decode-truncate"))
		return;
	for (int i = 0; i < nrelations; i++)
	{
		MlcRelationRules *rules = mlc_rule_lookup(relations[i]);

		if (rules == NULL)
			continue;
		for (int j = 0; j < rules->nbindings; j++)
			purge(ctx, rules->bindings[j].rule);
	}
}

/* What was called for a key of no rule, a tag or a pattern. */
static void
emit_free(LogicalDecodingContext *ctx, MlcRule *rule, MlcOp op,
		  StringInfo key, const char *body, uint32 bodylen)
{
	StringInfoData payload;

	/* a rule that came in the meantime has the key now */
	if (mlc_event_has_body(op) && mlc_match_key(key->data, key->len) &&
		!MLC_FAULT_SKIP("decode-set"))
		op = MLC_OP_INVALIDATE;
	if (!mlc_event_has_body(op))
	{
		emit(ctx, rule, op, key, NULL);
		return;
	}
	initStringInfo(&payload);
	appendBinaryStringInfo(&payload, body, bodylen);
	emit(ctx, rule, op, key, &payload);
}

static void
message_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, XLogRecPtr lsn,
		   bool transactional, const char *prefix, Size size,
		   const char *content)
{
	DecodeData *data = ctx->output_plugin_private;
	MlcMessageReader reader;
	MlcMessageSection section;
	MemoryContext old;
	bool		probe = strcmp(prefix, MLC_PROBE_PREFIX) == 0;
	int			result;

	if (!transactional ||
		(strcmp(prefix, MLC_MESSAGE_PREFIX) != 0 && !probe) ||
		(probe && data->sink == NULL) ||
		!mlc_event_message_open(&reader, content, size))
		return;

	old = MemoryContextSwitchTo(data->change);
	while ((result = mlc_event_message_next_section(&reader, &section)) > 0)
	{
		MlcRule    *rule = mlc_rule_by_id(section.rule);
		MlcOp		op;
		const char *key;
		uint32		keylen;

		/* not ours, or of a rule that is gone */
		if (rule == NULL || rule->secret != section.secret)
			continue;
		if (!probe)
			note(data, &data->covered, rule->id);
		if (section.flags & MLC_MESSAGE_ALL)
			purge(ctx, rule);
		while ((result = mlc_event_message_next_key(&reader, &op, &key, &keylen)) > 0)
		{
			resetStringInfo(&data->key);
			appendBinaryStringInfo(&data->key, key, keylen);
			if (rule->id == MLC_RULE_FREE)
			{
				emit_free(ctx, rule, op, &data->key, reader.body,
						  reader.bodylen);
				continue;
			}

			/* payloads were taken from the rows themselves */
			if (op == MLC_OP_UPDATE || op == MLC_OP_REPLICATE)
				continue;
			if (op != MLC_OP_REFRESH)
				op = MLC_OP_INVALIDATE;
			emit(ctx, rule, op, &data->key, NULL);
		}
		if (result < 0)
			break;
	}
	if (result < 0)
		ereport(WARNING,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("malformed mlcache message in WAL at %X/%X ignored",
						LSN_FORMAT_ARGS(lsn))));
	MemoryContextSwitchTo(old);
	MemoryContextReset(data->change);
}

static void
commit_cb(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
		  XLogRecPtr commit_lsn)
{
	DecodeData *data = ctx->output_plugin_private;
	ListCell   *lc;

	/* a captured table changed, and its trigger did not speak */
	foreach(lc, data->changed)
	{
		MlcRule    *rule;

		if (list_member_int(data->covered, lfirst_int(lc)) ||
			MLC_FAULT_SKIP("decode-uncovered"))
			continue;
		rule = mlc_rule_by_id(lfirst_int(lc));
		if (rule == NULL)
			continue;
		if (data->sink)
			ereport(LOG,
					(errmsg("transaction %u changed the table of cache rule %d without its trigger",
							txn->xid, rule->id),
					 errdetail("All entries of the rule are removed.")));
		purge(ctx, rule);
	}
	if (data->sink)
		data->sink->commit(data->sink);
}

void
_PG_output_plugin_init(OutputPluginCallbacks *cb)
{
	cb->startup_cb = startup_cb;
	cb->begin_cb = begin_cb;
	cb->change_cb = change_cb;
	cb->truncate_cb = truncate_cb;
	cb->message_cb = message_cb;
	cb->commit_cb = commit_cb;
}
