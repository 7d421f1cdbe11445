/*-------------------------------------------------------------------------
 *
 * relay/intake.c
 *	  The sink: decoded events go into batches.
 *
 * Called while decoding, under a historic snapshot: only queues.  Changes of
 * weak rules are held back in a batch of their own.
 *
 * Large transactions.  Values and reloads must come out once a key, with the
 * last one, since nobody may see what a transaction wrote on its way; beyond
 * mlcache.relay_work_mem they go to a spool on disk, and out at the end.  To
 * remove an entry twice does no harm, so removals of rules that do nothing
 * else are sent batch by batch while the transaction is still being decoded.
 * So are values, where the transaction changes no row twice (once.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "base/guc.h"
#include "model/key.h"
#include "relay/once.h"
#include "relay/relay.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define POLL_EVENTS 256			/* from one look at the sockets to the next */

static MlcRelayRule *
make_rule(const MlcRule *rule)
{
	MlcRelayRule *entry;
	bool		found;
	MemoryContext old;
	StringInfoData glob;
	MlcKeyError error;

	entry = hash_search(mlc_relay->rules, &rule->id, HASH_FIND, NULL);
	if (entry)
		return entry;

	old = MemoryContextSwitchTo(mlc_relay->context);
	entry = hash_search(mlc_relay->rules, &rule->id, HASH_ENTER, &found);
	memset((char *) entry + sizeof(entry->id), 0,
		   sizeof(*entry) - sizeof(entry->id));
	if (rule->id != MLC_RULE_FREE && rule->tag == NULL)
	{
		entry->template = mlc_key_parse(rule->key, &error);
		entry->key = pstrdup(rule->key);
		initStringInfo(&glob);
		mlc_key_names_glob(entry->template, &glob);
		entry->names_glob = glob.data;
	}
	entry->ttl = rule->ttl;
	entry->stale = rule->stale;
	entry->consistency = rule->consistency;
	entry->degrade = rule->degrade;
	entry->invalidate = rule->action == MLC_OP_INVALIDATE &&
		rule->id != MLC_RULE_FREE;
	entry->refresh = rule->action == MLC_OP_REFRESH;
	entry->replicate = rule->action == MLC_OP_REPLICATE ||
		rule->id == MLC_RULE_FREE;
	entry->by_rows = rule->capture == MLC_CAPTURE_WAL &&
		(rule->action == MLC_OP_UPDATE || rule->action == MLC_OP_REPLICATE);
	entry->nservers = rule->nservers;
	if (rule->nservers > 0)
	{
		entry->servers = palloc(sizeof(char *) * rule->nservers);
		for (int i = 0; i < rule->nservers; i++)
			entry->servers[i] = pstrdup(rule->servers[i]);
	}
	MemoryContextSwitchTo(old);
	return entry;
}

/* The targets a rule fans out to, kept until targets change. */
static void
resolve_mask(MlcRelayRule *rule)
{
	rule->mask = 0;
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];
		bool		named = rule->nservers == 0;

		for (int j = 0; j < rule->nservers && !named; j++)
			named = strcmp(rule->servers[j], target->name) == 0;
		if (named)
			rule->mask |= UINT64CONST(1) << target->number;
	}
	rule->mask_generation = mlc_relay->rules_generation;
}

void
mlc_intake_resolve_all(void)
{
	HASH_SEQ_STATUS status;
	MlcRelayRule *rule;

	hash_seq_init(&status, mlc_relay->rules);
	while ((rule = hash_seq_search(&status)) != NULL)
		resolve_mask(rule);
}

static void
sink_begin(MlcSink *sink, const ReorderBufferTXN *txn, MlcVersion version)
{
	mlc_relay->in_transaction = true;
	mlc_relay->xid = txn->xid;
	mlc_relay->version = version;
	mlc_relay->committed = txn->xact_time.commit_time;
	mlc_relay->had_events = false;
	mlc_relay->once = mlc_once_holds(txn);
	mlc_relay->must_wait = false;
	mlc_relay->transactions++;
	mlc_batch_add_xid(mlc_relay->current, txn->xid);
}

/* May it be sent before the transaction's other events are known? */
static bool
is_final(MlcOp op, const MlcRelayRule *rule)
{
	bool		final = op == MLC_OP_INVALIDATE && rule->invalidate;

	if (mlc_relay->once && rule->by_rows)
		final = op == MLC_OP_UPDATE || op == MLC_OP_REPLICATE ||
			op == MLC_OP_INVALIDATE;
	return final && !MLC_FAULT_SKIP("relay-stream");
}

static void
move_to_spool(MlcBatch *batch)
{
	for (int i = 0; i < batch->nevents; i++)
	{
		MlcBatchEvent *event = &batch->events[i];

		if (event->dead || is_final(event->op, event->rule) ||
			mlc_version_compare(event->version, mlc_relay->version) != 0)
			continue;
		mlc_spool_put(mlc_relay->spool, event->rule, event->op, event->key,
					  event->keylen, event->payload, event->payloadlen);
		event->dead = true;
	}
}

/*
 * The transaction at hand is too large: what it has queued so far goes to the
 * spool, since a version may have one value a key only.
 */
static void
begin_spool(void)
{
	ResourceOwner owner = CurrentResourceOwner;

	CurrentResourceOwner = AuxProcessResourceOwner;
	mlc_relay->spool = mlc_spool_begin(mlc_relay->context);
	CurrentResourceOwner = owner;
	move_to_spool(mlc_relay->current);
	move_to_spool(mlc_relay->weak);
	mlc_relay->spilled++;
	mlc_relay->must_wait = false;
}

/* For tests of what finds a lost change: "lose-KEY=skip". */
static bool
is_lost(const MlcEvent *event)
{
	char		name[64];

	if (likely(mlc_fault_points == NULL || mlc_fault_points[0] == '\0') ||
		event->key == NULL)
		return false;
	snprintf(name, sizeof(name), "lose-%.*s", (int) event->keylen, event->key);
	return mlc_fault_skip(name);
}

/* While a large transaction is decoded, Redis is to get what it has room for. */
static void
keep_sending(void)
{
	static uint32 nevents = 0;

	if (mlc_relay->in_flight && ++nevents % POLL_EVENTS == 0)
		mlc_flow_poll();
}

static void
sink_event(MlcSink *sink, const MlcEvent *event, const MlcRule *rule)
{
	MlcRelayRule *target_rule = mlc_intake_rule(rule);
	MlcBatch   *batch = mlc_relay->current;
	bool		final;

	mlc_relay->had_events = true;
	keep_sending();
	if (is_lost(event))
		return;

	if (event->op == MLC_OP_TRUNCATE)
	{
		mlc_batch_purge(mlc_relay->current, target_rule, mlc_relay->version);
		mlc_batch_purge(mlc_relay->weak, target_rule, mlc_relay->version);
		list_free_deep(mlc_relay->weak->purges);
		mlc_relay->weak->purges = NIL;
		if (mlc_relay->spool)
			mlc_spool_purge(mlc_relay->spool, target_rule);
		return;
	}

	if (mlc_batch_is_sweep(event->op))
	{
		mlc_batch_sweep(batch, target_rule, event->op, event->key,
						event->keylen, event->payload, event->payloadlen,
						mlc_relay->version);
		mlc_batch_committed(batch, mlc_relay->committed);
		return;
	}

	/* by itself, since a rule's event may replace that of the key */
	if (rule->id == MLC_RULE_FREE && event->op == MLC_OP_INVALIDATE)
		mlc_batch_sweep(batch, target_rule, MLC_OP_FETCHED, event->key,
						event->keylen, NULL, 0, mlc_relay->version);

	final = is_final(event->op, target_rule);
	if (mlc_relay->spool && !final)
	{
		mlc_spool_put(mlc_relay->spool, target_rule, event->op, event->key,
					  event->keylen, event->payload, event->payloadlen);
		return;
	}

	if (target_rule->consistency == MLC_WEAK && mlc_weak_window > 0)
	{
		batch = mlc_relay->weak;
		if (batch->nevents == 0)
		{
			mlc_relay->weak_since = GetCurrentTimestamp();
			mlc_relay->weak_before = mlc_relay->position;
		}
	}
	mlc_batch_add(batch, target_rule, event->op, event->key, event->keylen,
				  event->payload, event->payloadlen, mlc_relay->version);
	mlc_batch_committed(batch, mlc_relay->committed);

	mlc_relay->must_wait |= !final;

	if (mlc_relay->must_wait && mlc_relay->current->bytes + mlc_relay->weak->bytes >
		(Size) mlc_relay_work_mem * 1024)
		begin_spool();
	if (final && !mlc_relay->must_wait &&
		(mlc_batch_is_full(mlc_relay->current) ||
		 mlc_batch_is_full(mlc_relay->weak)))
		mlc_flow_stream();
}

static void
sink_commit(MlcSink *sink)
{
	mlc_relay->in_transaction = false;
	if (mlc_relay->had_events)
	{
		mlc_relay->current->transactions++;
		mlc_batch_committed(mlc_relay->current, mlc_relay->committed);
		mlc_relay->current->applying = mlc_relay->version;
	}
}

MlcRelayRule *
mlc_intake_rule(const MlcRule *rule)
{
	MlcRelayRule *entry = make_rule(rule);

	if (entry->mask_generation != mlc_relay->rules_generation)
		resolve_mask(entry);
	return entry;
}

void
mlc_intake_init(void)
{
	mlc_relay->sink.begin = sink_begin;
	mlc_relay->sink.event = sink_event;
	mlc_relay->sink.commit = sink_commit;
}
