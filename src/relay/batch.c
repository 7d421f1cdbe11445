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
 * A spool cuts the events of one transaction into parts by a hash of the key,
 * each a temporary file, and brings the parts into memory one by one; a part
 * that does not fit is cut again by other bits of the hash.  The files are not
 * a transaction's (decoding and waiting for visibility run transactions of
 * their own while they are in use), which is why this is no tuplesort.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/grow.h"
#include "base/guc.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "relay/batch.h"
#include "storage/buffile.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

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
		batch->events = mlc_grow(batch->context, batch->events, batch->nevents,
								 &batch->size, sizeof(MlcBatchEvent));
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
		event->slot = -1;
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
mlc_batch_sweep(MlcBatch *batch, MlcRelayRule *rule, MlcOp op,
				const char *text, uint32 len,
				const char *payload, uint32 payloadlen, MlcVersion version)
{
	StringInfoData key;
	Size		before;

	if (batch->sweeps == NULL)
		batch->sweeps = mlc_batch_create(batch->context, "sweeps");
	before = batch->sweeps->bytes;

	/* a rule's servers are its own */
	initStringInfo(&key);
	appendStringInfoChar(&key, (char) op);
	appendBinaryStringInfo(&key, (const char *) &rule->id, sizeof(rule->id));
	appendBinaryStringInfo(&key, text, len);
	mlc_batch_add(batch->sweeps, rule, op, key.data, key.len, payload,
				  payloadlen, version);
	pfree(key.data);
	batch->bytes += batch->sweeps->bytes - before;
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
	batch->xids = mlc_grow(batch->context, batch->xids, batch->nxids,
						   &batch->xids_size, sizeof(TransactionId));
	batch->xids[batch->nxids++] = xid;
}

void
mlc_batch_committed(MlcBatch *batch, TimestampTz committed)
{
	batch->committed = Max(batch->committed, committed);
	if (batch->oldest == 0 || committed < batch->oldest)
		batch->oldest = committed;
}

bool
mlc_batch_is_empty(MlcBatch *batch)
{
	return batch->nevents == 0 && batch->purges == NIL && batch->sweeps == NULL;
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
	if (from->committed != 0)
	{
		mlc_batch_committed(batch, from->oldest);
		mlc_batch_committed(batch, from->committed);
	}
	mlc_batch_reset(from);
}

/* ---- spool ---- */

#define SPOOL_BITS 6			/* of the hash, for a cut */
#define SPOOL_PARTS (1 << SPOOL_BITS)
#define SPOOL_DEPTH (64 / SPOOL_BITS)	/* cuts until the hash is used up */

typedef struct SpoolPart
{
	BufFile    *file;			/* NULL: nothing went there */
	int			depth;			/* how many cuts made it */
} SpoolPart;

typedef struct SpoolPurge
{
	MlcRelayRule *rule;
	int64		seq;			/* events before it are dead */
} SpoolPurge;

/* A record is this, the key, the payload. */
typedef struct SpoolRecord
{
	int64		seq;
	MlcRelayRule *rule;
	MlcOp		op;
	bool		has_payload;
	uint32		keylen;
	uint32		payloadlen;
} SpoolRecord;

struct MlcSpool
{
	MemoryContext context;
	ResourceOwner owner;
	int64		seq;
	List	   *purges;			/* of SpoolPurge */
	SpoolPart	parts[SPOOL_PARTS];
	List	   *todo;			/* of SpoolPart, while it is emptied */
	MlcBatch   *work;			/* the part in memory */
	int			next;			/* its first event that has not been moved */
	StringInfoData record;		/* key and payload of the record in hand */
};

MlcSpool *
mlc_spool_begin(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "mlcache spool",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MlcSpool   *spool = palloc0(sizeof(MlcSpool));

	spool->context = context;
	spool->owner = CurrentResourceOwner;
	spool->work = mlc_batch_create(context, "spool");
	initStringInfo(&spool->record);
	for (int i = 0; i < SPOOL_PARTS; i++)
		spool->parts[i].depth = 1;
	MemoryContextSwitchTo(old);
	return spool;
}

/* Appends a record to the part it belongs to after so many cuts. */
static void
append(MlcSpool *spool, SpoolPart *parts, int depth, SpoolRecord *record,
	   const char *key, const char *payload)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) key,
										   record->keylen, 0);
	SpoolPart  *part = &parts[(hash >> ((depth - 1) * SPOOL_BITS)) &
							  (SPOOL_PARTS - 1)];
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext old = MemoryContextSwitchTo(spool->context);

	CurrentResourceOwner = spool->owner;
	if (part->file == NULL)
		part->file = BufFileCreateTemp(true);
	BufFileWrite(part->file, record, sizeof(SpoolRecord));
	BufFileWrite(part->file, unconstify(char *, key), record->keylen);
	if (record->payloadlen > 0)
		BufFileWrite(part->file, unconstify(char *, payload), record->payloadlen);
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
}

void
mlc_spool_put(MlcSpool *spool, MlcRelayRule *rule, MlcOp op,
			  const char *key, uint32 keylen,
			  const char *payload, uint32 payloadlen)
{
	SpoolRecord record;

	memset(&record, 0, sizeof(record));
	record.seq = spool->seq++;
	record.rule = rule;
	record.op = op;
	record.has_payload = payload != NULL;
	record.keylen = keylen;
	record.payloadlen = payloadlen;
	append(spool, spool->parts, 1, &record, key, payload);
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

/* Puts the parts that hold something in front of what is to be done. */
static void
enlist(MlcSpool *spool, SpoolPart *parts)
{
	MemoryContext old = MemoryContextSwitchTo(spool->context);

	for (int i = 0; i < SPOOL_PARTS; i++)
		if (parts[i].file)
		{
			SpoolPart  *part = palloc(sizeof(SpoolPart));

			*part = parts[i];
			spool->todo = lcons(part, spool->todo);
			parts[i].file = NULL;
		}
	MemoryContextSwitchTo(old);
}

void
mlc_spool_finish(MlcSpool *spool)
{
	enlist(spool, spool->parts);
}

static void
rewind_part(SpoolPart *part)
{
	if (BufFileSeek(part->file, 0, 0, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rewind temporary file of the mlcache relay: %m")));
}

static void
read_bytes(SpoolPart *part, void *to, size_t size)
{
	if (BufFileRead(part->file, to, size) != size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read temporary file of the mlcache relay: %m")));
}

/* The next record, its key and payload in spool->record; false at the end. */
static bool
read_record(MlcSpool *spool, SpoolPart *part, SpoolRecord *record)
{
	size_t		size = BufFileRead(part->file, record, sizeof(SpoolRecord));

	if (size == 0)
		return false;
	if (size != sizeof(SpoolRecord))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read temporary file of the mlcache relay: %m")));
	resetStringInfo(&spool->record);
	enlargeStringInfo(&spool->record, record->keylen + record->payloadlen);
	read_bytes(part, spool->record.data, record->keylen);
	if (record->payloadlen > 0)
		read_bytes(part, spool->record.data + record->keylen, record->payloadlen);
	return true;
}

static bool
is_purged(MlcSpool *spool, SpoolRecord *record)
{
	ListCell   *lc;

	foreach(lc, spool->purges)
	{
		SpoolPurge *purge = lfirst(lc);

		if (purge->rule == record->rule && record->seq < purge->seq)
			return true;
	}
	return false;
}

/* Cuts a part again. */
static void
split(MlcSpool *spool, SpoolPart *part)
{
	SpoolPart	parts[SPOOL_PARTS];
	SpoolRecord record;

	for (int i = 0; i < SPOOL_PARTS; i++)
	{
		parts[i].file = NULL;
		parts[i].depth = part->depth + 1;
	}
	rewind_part(part);
	while (read_record(spool, part, &record))
	{
		CHECK_FOR_INTERRUPTS();
		append(spool, parts, part->depth + 1, &record, spool->record.data,
			   spool->record.data + record.keylen);
	}
	enlist(spool, parts);
}

/* Brings a part into memory, or cuts it where it does not fit. */
static void
load(MlcSpool *spool, SpoolPart *part, MlcVersion version)
{
	SpoolRecord record;

	mlc_batch_reset(spool->work);
	spool->next = 0;
	rewind_part(part);
	while (read_record(spool, part, &record))
	{
		CHECK_FOR_INTERRUPTS();
		if (is_purged(spool, &record))
			continue;
		mlc_batch_add(spool->work, record.rule, record.op, spool->record.data,
					  record.keylen, record.has_payload ?
					  spool->record.data + record.keylen : NULL,
					  record.payloadlen, version);
		if (spool->work->bytes > (Size) mlc_relay_work_mem * 1024 &&
			spool->work->nevents > 1 && part->depth < SPOOL_DEPTH)
		{
			mlc_batch_reset(spool->work);
			split(spool, part);
			return;
		}
	}
}

bool
mlc_spool_fill(MlcSpool *spool, MlcBatch *batch, MlcVersion version)
{
	while (!mlc_batch_is_full(batch))
	{
		MlcBatchEvent *event;

		if (spool->next < spool->work->nevents)
		{
			event = &spool->work->events[spool->next++];
			mlc_batch_add(batch, event->rule, event->op, event->key,
						  event->keylen, event->payload, event->payloadlen,
						  version);
		}
		else if (spool->todo != NIL)
		{
			SpoolPart  *part = linitial(spool->todo);

			spool->todo = list_delete_first(spool->todo);
			load(spool, part, version);
			BufFileClose(part->file);
			pfree(part);
		}
		else
			break;
	}
	return spool->next < spool->work->nevents || spool->todo != NIL;
}

void
mlc_spool_end(MlcSpool *spool)
{
	ListCell   *lc;

	enlist(spool, spool->parts);
	foreach(lc, spool->todo)
		BufFileClose(((SpoolPart *) lfirst(lc))->file);
	MemoryContextDelete(spool->context);
}
