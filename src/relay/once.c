/*-------------------------------------------------------------------------
 *
 * relay/once.c
 *	  Which large transactions change no row twice.
 *
 * Nobody may see what a transaction wrote on its way, so a value may only be
 * sent before the transaction's other changes are known if it is the last of
 * its row.  Most large transactions change each row once: all their values are.
 * A change that supersedes a row version of the transaction's own making says
 * that one is not.  Decoding no longer tells which version that was; WAL does,
 * and each record passes by here before the commit at which it is decoded.  So
 * the versions that a transaction makes are remembered, and looked up when it
 * supersedes one.
 *
 * What is remembered is exact, a bit a row version, or given up: then nothing
 * is known of that transaction.  Likewise where its first record has not
 * passed by, with subtransactions, and with changes of the catalogs, since
 * TRUNCATE and whatever rewrites a table end row versions in other ways.
 *
 * Each transaction gets a slot for its first steps, by its xid, and loses it to
 * another one with the same remainder.  Few ever need a table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam_xlog.h"
#include "access/htup_details.h"
#include "access/rmgr.h"
#include "access/xact.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "relay/once.h"
#include "relay/relay.h"

#define SLOTS 64
#define FIRST_STEPS 64			/* before a transaction gets a table */
#define TABLES 4
#define SHARE 8					/* of relay_work_mem, for a table */
#define WORDS ((MaxHeapTuplesPerPage + 64) / 64)

/* The row versions that a transaction has made in one block. */
typedef struct Made
{
	uint64		block;			/* of which relation, and which one */
	uint64		rows[WORDS];	/* by line pointer */
	char		status;
} Made;

#define SH_PREFIX madetable
#define SH_ELEMENT_TYPE Made
#define SH_KEY_TYPE uint64
#define SH_KEY block
#define SH_HASH_KEY(tb, key) \
	hash_combine(murmurhash32((uint32) (key)), murmurhash32((uint32) ((key) >> 32)))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#include "lib/simplehash.h"

typedef struct Step
{
	uint64		block;
	OffsetNumber row;
	bool		makes;			/* else it supersedes */
} Step;

typedef struct Slot
{
	TransactionId xid;
	XLogRecPtr	since;			/* its first record that passed by */
	int			nsteps;
	Step		steps[FIRST_STEPS];
} Slot;

typedef struct Large
{
	TransactionId xid;			/* invalid: free */
	XLogRecPtr	since;
	madetable_hash *table;		/* NULL: given up, or a row changes twice */
} Large;

static Slot slots[SLOTS];
static Large larges[TABLES];
static int	nlarge = 0;
static int	victim = 0;			/* the table to go where all are taken */

static void
give_up(Large *large)
{
	if (large->table)
		madetable_destroy(large->table);
	large->table = NULL;
}

static Large *
find_large(TransactionId xid)
{
	for (int i = 0; nlarge > 0 && i < TABLES; i++)
		if (larges[i].xid == xid)
			return &larges[i];
	return NULL;
}

static void
end_large(TransactionId xid)
{
	Large	   *large = find_large(xid);

	if (large == NULL)
		return;
	give_up(large);
	large->xid = InvalidTransactionId;
	nlarge--;
}

static void
step(Large *large, const Step *step)
{
	uint64		bit = UINT64CONST(1) << (step->row % 64);
	int			word = step->row / 64;
	Size		limit = (Size) mlc_relay_work_mem * 1024 / SHARE / sizeof(Made);
	Made	   *made;
	bool		found;

	if (large->table == NULL)
		return;
	if (step->makes)
	{
		if (word >= WORDS || large->table->members >= limit)
		{
			give_up(large);
			return;
		}
		made = madetable_insert(large->table, step->block, &found);
		if (!found)
			memset(made->rows, 0, sizeof(made->rows));
		made->rows[word] |= bit;
	}
	else
	{
		made = madetable_lookup(large->table, step->block);
		if (made && word < WORDS && (made->rows[word] & bit) != 0 &&
			!MLC_FAULT_SKIP("relay-once"))
			give_up(large);
	}
}

static Large *
make_large(Slot *slot)
{
	Large	   *large = find_large(InvalidTransactionId);

	if (nlarge == 0)
		large = &larges[0];
	if (large == NULL)
	{
		large = &larges[victim++ % TABLES];
		end_large(large->xid);
	}
	large->xid = slot->xid;
	large->since = slot->since;
	large->table = madetable_create(mlc_relay->context, 256, NULL);
	nlarge++;
	for (int i = 0; i < slot->nsteps; i++)
		step(large, &slot->steps[i]);
	slot->xid = InvalidTransactionId;
	return large;
}

/* A step of the transaction that a record is of. */
static void
take(XLogReaderState *record, int block_id, OffsetNumber row, bool makes)
{
	TransactionId xid = XLogRecGetXid(record);
	Large	   *large = find_large(xid);
	Slot	   *slot = &slots[xid % SLOTS];
	MlcRelFile	file;
	BlockNumber block;
	Step		next;

	XLogRecGetBlockTag(record, block_id, &file, NULL, &block);
	next.block = (uint64) MLC_REL_FILE_NUMBER(file) << 32 | block;
	next.row = row;
	next.makes = makes;
	if (large == NULL && slot->nsteps < FIRST_STEPS)
		slot->steps[slot->nsteps++] = next;
	else
		step(large ? large : make_large(slot), &next);
}

static void
see_update(XLogReaderState *record)
{
	xl_heap_update *update = (xl_heap_update *) XLogRecGetData(record);

	take(record, XLogRecHasBlockRef(record, 1) ? 1 : 0, update->old_offnum, false);
	if (update->flags & XLH_UPDATE_CONTAINS_NEW_TUPLE)
		take(record, 0, update->new_offnum, true);
}

static void
see_heap(XLogReaderState *record)
{
	switch (XLogRecGetInfo(record) & XLOG_HEAP_OPMASK)
	{
		case XLOG_HEAP_INSERT:
			{
				xl_heap_insert *insert = (xl_heap_insert *) XLogRecGetData(record);

				if ((insert->flags & XLH_INSERT_CONTAINS_NEW_TUPLE) &&
					!(insert->flags & XLH_INSERT_ON_TOAST_RELATION))
					take(record, 0, insert->offnum, true);
				break;
			}
		case XLOG_HEAP_UPDATE:
		case XLOG_HEAP_HOT_UPDATE:
			see_update(record);
			break;
		case XLOG_HEAP_DELETE:
			take(record, 0, ((xl_heap_delete *) XLogRecGetData(record))->offnum,
				 false);
			break;
		default:
			break;
	}
}

static void
see_multi_insert(XLogReaderState *record)
{
	xl_heap_multi_insert *insert = (xl_heap_multi_insert *) XLogRecGetData(record);
	bool		fresh = (XLogRecGetInfo(record) & XLOG_HEAP_INIT_PAGE) != 0;

	if (!(insert->flags & XLH_INSERT_CONTAINS_NEW_TUPLE))
		return;
	for (int i = 0; i < insert->ntuples; i++)
		take(record, 0, fresh ? FirstOffsetNumber + i : insert->offsets[i], true);
}

void
mlc_once_see(XLogReaderState *record)
{
	TransactionId xid = XLogRecGetXid(record);
	Slot	   *slot = &slots[xid % SLOTS];

	if (!TransactionIdIsValid(xid))
		return;
	if (slot->xid != xid && find_large(xid) == NULL)
	{
		slot->xid = xid;
		slot->since = record->ReadRecPtr;
		slot->nsteps = 0;
	}
	if (XLogRecGetRmid(record) == RM_HEAP_ID)
		see_heap(record);
	else if (XLogRecGetRmid(record) == RM_HEAP2_ID &&
			 (XLogRecGetInfo(record) & XLOG_HEAP_OPMASK) == XLOG_HEAP2_MULTI_INSERT)
		see_multi_insert(record);
}

void
mlc_once_seen(XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record);
	TransactionId xid = XLogRecGetXid(record);

	if (nlarge == 0 || XLogRecGetRmid(record) != RM_XACT_ID)
		return;
	switch (info & XLOG_XACT_OPMASK)
	{
		case XLOG_XACT_COMMIT_PREPARED:
			{
				xl_xact_parsed_commit parsed;

				ParseCommitRecord(info, (xl_xact_commit *) XLogRecGetData(record),
								  &parsed);
				xid = parsed.twophase_xid;
				break;
			}
		case XLOG_XACT_ABORT_PREPARED:
			{
				xl_xact_parsed_abort parsed;

				ParseAbortRecord(info, (xl_xact_abort *) XLogRecGetData(record),
								 &parsed);
				xid = parsed.twophase_xid;
				break;
			}
		case XLOG_XACT_COMMIT:
		case XLOG_XACT_ABORT:
			break;
		default:
			return;
	}
	if (TransactionIdIsValid(xid))
		end_large(xid);
}

bool
mlc_once_holds(const ReorderBufferTXN *txn)
{
	Large	   *large = find_large(txn->xid);

	return large && large->table && large->since <= txn->first_lsn &&
		txn->nsubtxns == 0 && !rbtxn_has_catalog_changes(txn);
}

void
mlc_once_forget(void)
{
	for (int i = 0; i < TABLES; i++)
		if (TransactionIdIsValid(larges[i].xid))
			end_large(larges[i].xid);
	memset(slots, 0, sizeof(slots));
}
