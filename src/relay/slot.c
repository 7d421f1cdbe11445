/*-------------------------------------------------------------------------
 *
 * relay/slot.c
 *	  Decoding inside the server, record by record, without waiting.
 *
 * The shape is that of pg_logical_slot_get_changes(), with two differences:
 * the decoding context lives as long as the relay does, and the page reader
 * says "not yet" instead of waiting, so that the relay decides when to sleep.
 * Decoding needs a resource owner outside any transaction, and clobbers
 * CurrentResourceOwner, so both are put right around each record.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "access/xlogutils.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "relay/once.h"
#include "relay/relay.h"
#include "relay/slot.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#define MAX_DEATHS 2			/* over one record of WAL */

static LogicalDecodingContext *decoding = NULL;
static XLogRecPtr read_up_to = InvalidXLogRecPtr;	/* flushed, and read */
static XLogRecPtr started_at = InvalidXLogRecPtr;
static bool positioned = false; /* has a record been read since the rewind? */

/*
 * Reads a page of WAL up to what has been flushed.  With no more there it
 * returns -1 without an error message, which XLogReadRecord() turns into
 * "no record"; the next call begins at the same record again.
 */
static int
read_page(XLogReaderState *state, XLogRecPtr targetPagePtr, int reqLen,
		  XLogRecPtr targetRecPtr, char *cur_page)
{
	XLogRecPtr	flushed;
	TimeLineID	currTLI;
	TimeLineID	tli;
	WALReadError errinfo;
	int			count;

	if (!RecoveryInProgress())
		flushed = GetFlushRecPtr(&currTLI);
	else
		flushed = GetXLogReplayRecPtr(&currTLI);

	XLogReadDetermineTimeline(state, targetPagePtr, reqLen, currTLI);
	tli = state->currTLI;
	if (tli != currTLI)
		flushed = state->currTLIValidUntil;

	if (targetPagePtr + XLOG_BLCKSZ <= flushed)
		count = XLOG_BLCKSZ;
	else if (targetPagePtr + reqLen > flushed)
	{
		read_up_to = flushed;
		return -1;
	}
	else
		count = flushed - targetPagePtr;

	if (!WALRead(state, cur_page, targetPagePtr, XLOG_BLCKSZ, tli, &errinfo))
		WALReadRaiseError(&errinfo);
	return count;
}

/* The same, for finding the start point, where waiting is the task. */
static int
read_page_wait(XLogReaderState *state, XLogRecPtr targetPagePtr, int reqLen,
			   XLogRecPtr targetRecPtr, char *cur_page)
{
	for (;;)
	{
		int			count = read_page(state, targetPagePtr, reqLen,
									  targetRecPtr, cur_page);

		if (count >= 0)
			return count;
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 10, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

const char *
mlc_slot_name(Oid dbid)
{
	static char name[NAMEDATALEN];

	snprintf(name, sizeof(name), "mlcache_%u", dbid);
	return name;
}

static void
create(const char *name)
{
	LogicalDecodingContext *ctx;

	MLC_SLOT_CREATE(name, true, RS_EPHEMERAL, false, mlc_failover_slot);
	ctx = CreateInitDecodingContext("mlcache", NIL, false, InvalidXLogRecPtr,
									XL_ROUTINE(.page_read = read_page_wait,
											   .segment_open = wal_segment_open,
											   .segment_close = wal_segment_close),
									NULL, NULL, NULL);
	DecodingContextFindStartpoint(ctx);
	FreeDecodingContext(ctx);
	ReplicationSlotPersist();
}

void
mlc_slot_check_deaths(void)
{
	MlcRelayShared *shared = mlc_relay->shared;
	XLogRecPtr	died_at = pg_atomic_exchange_u64(&shared->decoding, 0);

	if (died_at == InvalidXLogRecPtr || died_at != shared->died_at)
		shared->deaths = 0;
	shared->died_at = died_at;
	if (died_at == InvalidXLogRecPtr || ++shared->deaths < MAX_DEATHS ||
		MLC_FAULT_SKIP("relay-deaths"))
		return;
	shared->deaths = 0;
	ereport(WARNING,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("mlcache: WAL at %X/%X cannot be decoded",
					LSN_FORMAT_ARGS(died_at)),
			 errdetail("The slot is made anew, and every cache of this database is purged."),
			 errhint("The errors of the relays before tell why.")));
	mlc_slot_drop();
}

bool
mlc_slot_acquire(void)
{
	const char *name = mlc_slot_name(MyDatabaseId);
	ResourceOwner owner = CurrentResourceOwner;

	CheckLogicalDecodingRequirements();

	if (SearchNamedReplicationSlot(name, true) != NULL)
	{
		MLC_SLOT_ACQUIRE(name, false);
		if (!XLogRecPtrIsInvalid(MyReplicationSlot->data.restart_lsn) &&
			!MLC_SLOT_IS_INVALIDATED(MyReplicationSlot))
		{
			mlc_slot_set_failover();
			return false;
		}
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replication slot \"%s\" has lost WAL that it needed", name),
				 errdetail("The slot is made anew, and every cache of this database is purged.")));
		ReplicationSlotRelease();
		ReplicationSlotDrop(name, true);
	}
	create(name);
	CurrentResourceOwner = owner;
	return true;
}

bool
mlc_slot_is_failover(void)
{
	bool	   *failover = MLC_SLOT_FAILOVER(MyReplicationSlot);

	return failover != NULL && *failover;
}

void
mlc_slot_set_failover(void)
{
	bool	   *failover = MLC_SLOT_FAILOVER(MyReplicationSlot);

	if (failover == NULL ||
		(*failover == mlc_failover_slot && !MLC_SLOT_IS_SYNCED(MyReplicationSlot)))
		return;
	SpinLockAcquire(&MyReplicationSlot->mutex);
	*failover = mlc_failover_slot;
	MLC_SLOT_SET_OWN(MyReplicationSlot);
	SpinLockRelease(&MyReplicationSlot->mutex);
	ReplicationSlotMarkDirty();
	ReplicationSlotSave();
}

void
mlc_slot_drop(void)
{
	if (decoding)
	{
		FreeDecodingContext(decoding);
		decoding = NULL;
	}
	if (MyReplicationSlot)
		ReplicationSlotRelease();
	if (SearchNamedReplicationSlot(mlc_slot_name(MyDatabaseId), true) != NULL)
		ReplicationSlotDrop(mlc_slot_name(MyDatabaseId), true);
}

/*
 * PostgreSQL takes who decodes for one that looks at catalogs only, which the
 * slot keeps: rows that its snapshots see may be pruned under it.  The relay loads
 * rows, too, and would find none where one has just been updated.
 */
static void
keep_rows(void)
{
	if (MLC_FAULT_SKIP("relay-keep-rows"))
		return;
	LWLockAcquire(ProcArrayLock, LW_EXCLUSIVE);
	MyProc->statusFlags &= ~PROC_IN_LOGICAL_DECODING;
	ProcGlobal->statusFlags[MyProc->pgxactoff] = MyProc->statusFlags;
	LWLockRelease(ProcArrayLock);
}

void
mlc_slot_rewind(MlcSink *sink, XLogRecPtr start)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	if (decoding)
		FreeDecodingContext(decoding);
	decoding = NULL;
	mlc_once_forget();

	start = Max(start, mlc_slot_confirmed());

	/*
	 * A slot that came along when this server was promoted holds WAL of
	 * another timeline.  What it says was replayed here, and every cache is
	 * purged: a history begins no earlier than the timeline.
	 */
	if (!MLC_FAULT_SKIP("relay-timeline"))
		start = Max(start, mlc_decode_timeline_begin());
	mlc_decode_sink = sink;
	decoding = CreateDecodingContext(start, NIL, false,
									 XL_ROUTINE(.page_read = read_page,
												.segment_open = wal_segment_open,
												.segment_close = wal_segment_close),
									 NULL, NULL, NULL);
	mlc_decode_sink = NULL;
	keep_rows();
	XLogBeginRead(decoding->reader, MyReplicationSlot->data.restart_lsn);
	started_at = start;
	positioned = false;
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;
}

bool
mlc_slot_read(void)
{
	ResourceOwner owner = CurrentResourceOwner;
	char	   *error = NULL;
	XLogRecord *record;
	MemoryContext old;

	/* at the end of what is flushed: the reader would begin the page anew */
	if (positioned && !RecoveryInProgress())
	{
		static XLogRecPtr flushed = InvalidXLogRecPtr;	/* at least */
		XLogRecPtr	end = decoding->reader->EndRecPtr;

		if (end >= flushed)
			flushed = GetFlushRecPtr(NULL);
		if (end >= flushed)
		{
			read_up_to = flushed;
			return false;
		}
	}

	/* the reader keeps buffers of its own, made when it first needs them */
	old = MemoryContextSwitchTo(decoding->context);

	/* WAL that is not there kills as surely as what cannot be decoded */
	pg_atomic_write_u64(&mlc_relay->shared->decoding,
						decoding->reader->EndRecPtr);
	record = XLogReadRecord(decoding->reader, &error);
	if (error)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read WAL at %X/%X: %s",
						LSN_FORMAT_ARGS(decoding->reader->EndRecPtr), error)));
	if (record != NULL)
	{
		pg_atomic_write_u64(&mlc_relay->shared->decoding,
							decoding->reader->ReadRecPtr);
		mlc_once_see(decoding->reader);
		LogicalDecodingProcessRecord(decoding, decoding->reader);
		mlc_once_seen(decoding->reader);
		positioned = true;
	}
	pg_atomic_write_u64(&mlc_relay->shared->decoding, 0);
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
	return record != NULL;
}

XLogRecPtr
mlc_slot_read_up_to(void)
{
	return read_up_to;
}

XLogRecPtr
mlc_slot_confirmed(void)
{
	return MyReplicationSlot->data.confirmed_flush;
}

XLogRecPtr
mlc_slot_position(void)
{
	if (!positioned)
		return started_at;
	return Max(decoding->reader->EndRecPtr, started_at);
}

uint64
mlc_slot_retained(void)
{
	XLogRecPtr	restart = MyReplicationSlot->data.restart_lsn;
	XLogRecPtr	now = GetXLogWriteRecPtr();

	return restart == InvalidXLogRecPtr || now < restart ? 0 : now - restart;
}

int64
mlc_slot_usage(Oid dbid, int *used, int *max)
{
	const char *name = mlc_slot_name(dbid);
	XLogRecPtr	now = RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) :
	GetXLogWriteRecPtr();
	int64		retained = -1;
	int			count = 0;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];
		XLogRecPtr	restart;

		if (!slot->in_use)
			continue;
		count++;
		if (strcmp(NameStr(slot->data.name), name) != 0)
			continue;
		SpinLockAcquire(&slot->mutex);
		restart = slot->data.restart_lsn;
		SpinLockRelease(&slot->mutex);
		retained = XLogRecPtrIsInvalid(restart) || now < restart ? 0 :
			(int64) (now - restart);
	}
	LWLockRelease(ReplicationSlotControlLock);
	if (used)
		*used = count;
	if (max)
		*max = max_replication_slots;
	return retained;
}

void
mlc_slot_give_up(Oid dbid)
{
	int64		retained;

	if (mlc_slot_max_retained < 0)
		return;
	retained = mlc_slot_usage(dbid, NULL, NULL);
	if (retained <= (int64) mlc_slot_max_retained * 1024 * 1024)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("replication slot \"%s\" is given up", mlc_slot_name(dbid)),
			 errdetail("No relay runs, and the slot holds more than %d MB of WAL (mlcache.slot_max_retained). Every cache of the database is purged when a relay runs again.",
					   mlc_slot_max_retained)));
	ReplicationSlotDrop(mlc_slot_name(dbid), true);
}

/* Takes the name of the nth slot if a relay that was here has left it. */
static bool
is_left_behind(int n, NameData *name)
{
	ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[n];
	bool		found;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	SpinLockAcquire(&slot->mutex);
	found = slot->in_use && slot->active_pid == 0 &&
		slot->data.persistency == RS_PERSISTENT &&
		SlotIsLogical(slot) && !MLC_SLOT_IS_SYNCED(slot);
	SpinLockRelease(&slot->mutex);
	if (found)
	{
		*name = slot->data.name;
		found = strcmp(NameStr(*name), mlc_slot_name(slot->data.database)) == 0 &&
			strcmp(NameStr(slot->data.plugin), "mlcache") == 0;
	}
	LWLockRelease(ReplicationSlotControlLock);
	return found;
}

void
mlc_slot_drop_left_behind(void)
{
	NameData	name;

	for (int i = 0; i < max_replication_slots && RecoveryInProgress(); i++)
	{
		if (!is_left_behind(i, &name))
			continue;
		ReplicationSlotDrop(NameStr(name), true);
		ereport(LOG,
				(errmsg("mlcache: dropped replication slot \"%s\", which this server has from when it was a primary",
						NameStr(name))));
	}
}

void
mlc_slot_confirm(XLogRecPtr lsn)
{
	if (lsn <= MyReplicationSlot->data.confirmed_flush)
		return;
	LogicalConfirmReceivedLocation(lsn);
	ReplicationSlotMarkDirty();

	/*
	 * A standby that has synchronized the slot refuses an older position,
	 * which a crash of this server would bring back, and then synchronizes
	 * none of the slots that come after it.
	 */
	if (mlc_slot_is_failover() && !MLC_FAULT_SKIP("relay-save-slot"))
		ReplicationSlotSave();
}

void
mlc_slot_wait_visible(void)
{
	VirtualTransactionId *vxids;
	int			nvxids;
	TransactionId *xids;
	int			nxids = 0;
	Snapshot	snapshot;

	/*
	 * A backend is marked as delaying checkpoints from before it inserts its
	 * commit record until its fate is in clog.  Once those of now are
	 * through, every commit in WAL is known to clog; those that a snapshot
	 * still holds for running are the ones to wait for.
	 */
	vxids = GetVirtualXIDsDelayingChkpt(&nvxids, DELAY_CHKPT_START);
	while (nvxids > 0 &&
		   HaveVirtualXIDsDelayingChkpt(vxids, nvxids, DELAY_CHKPT_START))
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000L);
	}
	pfree(vxids);

	StartTransactionCommand();
	snapshot = GetTransactionSnapshot();
	xids = MemoryContextAlloc(TopMemoryContext,
							  sizeof(TransactionId) * Max(snapshot->xcnt, 1));
	for (uint32 i = 0; i < snapshot->xcnt; i++)
		if (TransactionIdDidCommit(snapshot->xip[i]))
			xids[nxids++] = snapshot->xip[i];
	CommitTransactionCommand();

	for (int i = 0; i < nxids; i++)
		while (TransactionIdIsInProgress(xids[i]))
		{
			CHECK_FOR_INTERRUPTS();
			pg_usleep(1000L);
		}
	pfree(xids);
}
