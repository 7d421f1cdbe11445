/*-------------------------------------------------------------------------
 *
 * relay/batch.c
 *	  Batches: events coalesced by key, and the spool for what is too large.
 *
 * Within a batch a key has one event, the last.  That is allowed since a batch
 * is one step for every reader: `applied` moves from before its first to after
 * its last transaction.  A purge kills the rule's earlier events, so purges
 * can all be carried out before the events.
 *
 * A spool is a tuplesort by (key, sequence) with a fixed budget of memory.
 * Its files belong to the resource owner that was current when it began.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "base/guc.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "relay/batch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/tuplesort.h"

typedef struct EventEntry
{
	uint32		hash;			/* of the key */
	int			first;			/* first event of the chain */
	char		status;
} EventEntry;

#define SH_PREFIX eventtable
#define SH_ELEMENT_TYPE EventEntry
#define SH_KEY_TYPE uint32
#define SH_KEY hash
#define SH_HASH_KEY(tb, key) (key)
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#include "lib/simplehash.h"

MlcBatch *
mlc_batch_create(MemoryContext parent, const char *name)
{
	MlcBatch   *batch = MemoryContextAllocZero(parent, sizeof(MlcBatch));

	batch->context = AllocSetContextCreate(parent, "mlcache batch",
										   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSetIdentifier(batch->context, name);
	return batch;
}

void
mlc_batch_reset(MlcBatch *batch)
{
	MemoryContext context = batch->context;

	MemoryContextReset(context);
	memset(batch, 0, sizeof(MlcBatch));
	batch->context = context;
}

/*
 * What a key's two events come to.  A reload must not get lost under a plain
 * invalidation by another rule; otherwise the last one stands.
 */
static bool
keeps_old(MlcOp old, MlcOp new)
{
	return old == MLC_OP_REFRESH && new == MLC_OP_INVALIDATE;
}

void
mlc_batch_add(MlcBatch *batch, MlcRelayRule *rule, MlcOp op,
			  const char *key, uint32 keylen,
			  const char *payload, uint32 payloadlen, MlcVersion version)
{
	uint32		hash = hash_bytes((const unsigned char *) key, keylen);
	EventEntry *entry;
	MlcBatchEvent *event = NULL;
	bool		found;

	if (batch->table == NULL)
		batch->table = eventtable_create(batch->context, 256, NULL);
	entry = eventtable_insert(batch->table, hash, &found);
	if (!found)
		entry->first = -1;

	for (int i = entry->first; i >= 0; i = batch->events[i].next)
	{
		MlcBatchEvent *candidate = &batch->events[i];

		if (candidate->keylen == keylen && !candidate->dead &&
			memcmp(candidate->key, key, keylen) == 0)
		{
			event = candidate;
			break;
		}
	}
	if (event == NULL)
	{
		if (batch->nevents == batch->size)
		{
			batch->size = Max(256, batch->size * 2);
			if (batch->events == NULL)
				batch->events = MemoryContextAllocHuge(batch->context,
													   sizeof(MlcBatchEvent) * batch->size);
			else
				batch->events = repalloc_huge(batch->events,
											  sizeof(MlcBatchEvent) * batch->size);
		}
		event = &batch->events[batch->nevents];
		event->key = MemoryContextAlloc(batch->context, keylen + 1);
		memcpy(event->key, key, keylen);
		event->key[keylen] = '\0';
		event->keylen = keylen;
		event->payload = NULL;
		event->payloadlen = 0;
		event->dead = false;
		event->op = op;
		event->rule = rule;
		event->next = entry->first;
		entry->first = batch->nevents++;
		batch->bytes += keylen + sizeof(MlcBatchEvent) + sizeof(EventEntry);
	}
	else
	{
		/* merging: what is here may be newer than what comes */
		if (mlc_version_compare(event->version, version) > 0)
		{
			if (keeps_old(op, event->op))
				event->op = op;
			return;
		}
		if (!keeps_old(event->op, op))
		{
			event->op = op;
			event->rule = rule;
		}
	}

	event->version = version;
	if (event->payload)
	{
		pfree(event->payload);
		event->payload = NULL;
		batch->bytes -= event->payloadlen;
		event->payloadlen = 0;
	}
	if (payload)
	{
		event->payload = MemoryContextAllocHuge(batch->context, payloadlen + 1);
		memcpy(event->payload, payload, payloadlen);
		event->payload[payloadlen] = '\0';
		event->payloadlen = payloadlen;
		batch->bytes += payloadlen;
	}
	if (mlc_version_compare(version, batch->applying) > 0)
		batch->applying = version;
}

void
mlc_batch_purge(MlcBatch *batch, MlcRelayRule *rule, MlcVersion version)
{
	MemoryContext old;
	MlcBatchPurge *purge = NULL;
	ListCell   *lc;

	for (int i = 0; i < batch->nevents; i++)
		if (batch->events[i].rule == rule)
			batch->events[i].dead = true;

	foreach(lc, batch->purges)
		if (((MlcBatchPurge *) lfirst(lc))->rule == rule)
		purge = lfirst(lc);
	if (purge == NULL)
	{
		old = MemoryContextSwitchTo(batch->context);
		purge = palloc(sizeof(MlcBatchPurge));
		purge->rule = rule;
		batch->purges = lappend(batch->purges, purge);
		MemoryContextSwitchTo(old);
	}
	purge->version = version;
	if (mlc_version_compare(version, batch->applying) > 0)
		batch->applying = version;
}

void
mlc_batch_add_xid(MlcBatch *batch, TransactionId xid)
{
	if (batch->nxids == batch->xids_size)
	{
		batch->xids_size = Max(64, batch->xids_size * 2);
		if (batch->xids == NULL)
			batch->xids = MemoryContextAlloc(batch->context,
											 sizeof(TransactionId) * batch->xids_size);
		else
			batch->xids = repalloc(batch->xids,
								   sizeof(TransactionId) * batch->xids_size);
	}
	batch->xids[batch->nxids++] = xid;
}

bool
mlc_batch_is_empty(MlcBatch *batch)
{
	return batch->nevents == 0 && batch->purges == NIL;
}

bool
mlc_batch_is_full(MlcBatch *batch)
{
	return batch->nevents >= MLC_BATCH_EVENTS ||
		batch->bytes >= MLC_BATCH_BYTES ||
		batch->nxids >= 4 * MLC_BATCH_EVENTS;
}

void
mlc_batch_merge(MlcBatch *batch, MlcBatch *from)
{
	ListCell   *lc;

	foreach(lc, from->purges)
	{
		MlcBatchPurge *purge = lfirst(lc);

		mlc_batch_purge(batch, purge->rule, purge->version);
	}
	for (int i = 0; i < from->nevents; i++)
	{
		MlcBatchEvent *event = &from->events[i];

		if (!event->dead)
			mlc_batch_add(batch, event->rule, event->op, event->key,
						  event->keylen, event->payload, event->payloadlen,
						  event->version);
	}
	if (from->committed > batch->committed)
		batch->committed = from->committed;
	mlc_batch_reset(from);
}

/* ---- spool ---- */

typedef struct SpoolPurge
{
	MlcRelayRule *rule;
	int64		seq;			/* events before it are dead */
} SpoolPurge;

struct MlcSpool
{
	MemoryContext context;
	ResourceOwner owner;
	Tuplesortstate *sort;
	TupleDesc	desc;
	TupleTableSlot *slot;		/* the tuple in hand */
	TupleTableSlot *ahead;		/* the one after it */
	bool		have;			/* is there one in hand? */
	int64		seq;
	List	   *purges;
};

#define SPOOL_KEY 1
#define SPOOL_SEQ 2
#define SPOOL_RULE 3			/* the MlcRelayRule's address */
#define SPOOL_OP 4
#define SPOOL_PAYLOAD 5

MlcSpool *
mlc_spool_begin(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "mlcache spool",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MlcSpool   *spool = palloc0(sizeof(MlcSpool));
	AttrNumber	attnums[2] = {SPOOL_KEY, SPOOL_SEQ};
	Oid			operators[2] = {TextLessOperator, Int8LessOperator};
	Oid			collations[2] = {C_COLLATION_OID, InvalidOid};
	bool		nulls_first[2] = {false, false};

	spool->context = context;
	spool->owner = CurrentResourceOwner;
	spool->desc = CreateTemplateTupleDesc(5);
	TupleDescInitEntry(spool->desc, SPOOL_KEY, "key", TEXTOID, -1, 0);
	TupleDescInitEntryCollation(spool->desc, SPOOL_KEY, C_COLLATION_OID);
	TupleDescInitEntry(spool->desc, SPOOL_SEQ, "seq", INT8OID, -1, 0);
	TupleDescInitEntry(spool->desc, SPOOL_RULE, "rule", INT8OID, -1, 0);
	TupleDescInitEntry(spool->desc, SPOOL_OP, "op", CHAROID, -1, 0);
	TupleDescInitEntry(spool->desc, SPOOL_PAYLOAD, "payload", TEXTOID, -1, 0);
	spool->slot = MakeSingleTupleTableSlot(spool->desc, &TTSOpsMinimalTuple);
	spool->ahead = MakeSingleTupleTableSlot(spool->desc, &TTSOpsMinimalTuple);
	spool->sort = tuplesort_begin_heap(spool->desc, 2, attnums, operators,
									   collations, nulls_first,
									   mlc_relay_work_mem, NULL,
									   TUPLESORT_NONE);
	MemoryContextSwitchTo(old);
	return spool;
}

void
mlc_spool_put(MlcSpool *spool, MlcRelayRule *rule, MlcOp op,
			  const char *key, uint32 keylen,
			  const char *payload, uint32 payloadlen)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext old = MemoryContextSwitchTo(spool->context);
	TupleTableSlot *slot = spool->slot;
	text	   *keytext = cstring_to_text_with_len(key, keylen);
	text	   *payloadtext = NULL;

	ExecClearTuple(slot);
	slot->tts_values[SPOOL_KEY - 1] = PointerGetDatum(keytext);
	slot->tts_values[SPOOL_SEQ - 1] = Int64GetDatum(spool->seq++);
	slot->tts_values[SPOOL_RULE - 1] = Int64GetDatum((int64) (uintptr_t) rule);
	slot->tts_values[SPOOL_OP - 1] = CharGetDatum(op);
	memset(slot->tts_isnull, 0, sizeof(bool) * 5);
	if (payload)
	{
		payloadtext = cstring_to_text_with_len(payload, payloadlen);
		slot->tts_values[SPOOL_PAYLOAD - 1] = PointerGetDatum(payloadtext);
	}
	else
		slot->tts_isnull[SPOOL_PAYLOAD - 1] = true;
	ExecStoreVirtualTuple(slot);

	CurrentResourceOwner = spool->owner;
	tuplesort_puttupleslot(spool->sort, slot);
	CurrentResourceOwner = owner;

	ExecClearTuple(slot);
	pfree(keytext);
	if (payloadtext)
		pfree(payloadtext);
	MemoryContextSwitchTo(old);
}

void
mlc_spool_purge(MlcSpool *spool, MlcRelayRule *rule)
{
	MemoryContext old = MemoryContextSwitchTo(spool->context);
	SpoolPurge *purge = palloc(sizeof(SpoolPurge));

	purge->rule = rule;
	purge->seq = spool->seq;
	spool->purges = lappend(spool->purges, purge);
	MemoryContextSwitchTo(old);
}

static bool
fetch(MlcSpool *spool, TupleTableSlot *slot)
{
	ResourceOwner owner = CurrentResourceOwner;
	bool		found;

	CurrentResourceOwner = spool->owner;
	found = tuplesort_gettupleslot(spool->sort, true, true, slot, NULL);
	CurrentResourceOwner = owner;
	if (found)
		slot_getallattrs(slot);
	return found;
}

void
mlc_spool_sort(MlcSpool *spool)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext old = MemoryContextSwitchTo(spool->context);

	CurrentResourceOwner = spool->owner;
	tuplesort_performsort(spool->sort);
	CurrentResourceOwner = owner;
	spool->have = fetch(spool, spool->slot);
	MemoryContextSwitchTo(old);
}

static bool
same_key(TupleTableSlot *a, TupleTableSlot *b)
{
	text	   *akey = DatumGetTextPP(a->tts_values[SPOOL_KEY - 1]);
	text	   *bkey = DatumGetTextPP(b->tts_values[SPOOL_KEY - 1]);

	return VARSIZE_ANY_EXHDR(akey) == VARSIZE_ANY_EXHDR(bkey) &&
		memcmp(VARDATA_ANY(akey), VARDATA_ANY(bkey),
			   VARSIZE_ANY_EXHDR(akey)) == 0;
}

static bool
is_purged(MlcSpool *spool, TupleTableSlot *slot)
{
	MlcRelayRule *rule = (MlcRelayRule *) (uintptr_t)
	DatumGetInt64(slot->tts_values[SPOOL_RULE - 1]);
	ListCell   *lc;

	foreach(lc, spool->purges)
	{
		SpoolPurge *purge = lfirst(lc);

		if (purge->rule == rule &&
			DatumGetInt64(slot->tts_values[SPOOL_SEQ - 1]) < purge->seq)
			return true;
	}
	return false;
}

bool
mlc_spool_fill(MlcSpool *spool, MlcBatch *batch, MlcVersion version)
{
	MemoryContext old = MemoryContextSwitchTo(spool->context);

	while (spool->have && !mlc_batch_is_full(batch))
	{
		bool		more = fetch(spool, spool->ahead);
		TupleTableSlot *slot = spool->slot;

		/* the last event of a key is the one that stands */
		if ((!more || !same_key(slot, spool->ahead)) && !is_purged(spool, slot))
		{
			text	   *key = DatumGetTextPP(slot->tts_values[SPOOL_KEY - 1]);
			text	   *payload = slot->tts_isnull[SPOOL_PAYLOAD - 1] ? NULL :
			DatumGetTextPP(slot->tts_values[SPOOL_PAYLOAD - 1]);

			mlc_batch_add(batch,
						  (MlcRelayRule *) (uintptr_t)
						  DatumGetInt64(slot->tts_values[SPOOL_RULE - 1]),
						  DatumGetChar(slot->tts_values[SPOOL_OP - 1]),
						  VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key),
						  payload ? VARDATA_ANY(payload) : NULL,
						  payload ? VARSIZE_ANY_EXHDR(payload) : 0,
						  version);
		}
		spool->slot = spool->ahead;
		spool->ahead = slot;
		spool->have = more;
	}
	MemoryContextSwitchTo(old);
	return spool->have;
}

void
mlc_spool_end(MlcSpool *spool)
{
	ResourceOwner owner = CurrentResourceOwner;

	CurrentResourceOwner = spool->owner;
	ExecDropSingleTupleTableSlot(spool->slot);
	ExecDropSingleTupleTableSlot(spool->ahead);
	tuplesort_end(spool->sort);
	CurrentResourceOwner = owner;
	MemoryContextDelete(spool->context);
}
