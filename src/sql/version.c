/*-------------------------------------------------------------------------
 *
 * sql/version.c
 *	  SQL: last_commit_version, wait_applied, fault_lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "base/fault.h"
#include "base/interval.h"
#include "base/wal.h"
#include "capture/decode.h"
#include "capture/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "model/version.h"
#include "pgstat.h"
#include "shm/segment.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(mlc_last_commit_version);
PG_FUNCTION_INFO_V1(mlc_fill_version);
PG_FUNCTION_INFO_V1(mlc_wait_applied);
PG_FUNCTION_INFO_V1(mlc_fault_lock);

/* mlcache.last_commit_version(): 24 hex digits, or NULL. */
Datum
mlc_last_commit_version(PG_FUNCTION_ARGS)
{
	MlcVersion	version;
	char		text[MLC_VERSION_LEN + 1];

	version.lsn = mlc_xact_last_commit();
	if (XLogRecPtrIsInvalid(version.lsn))
		PG_RETURN_NULL();
	version.tli = mlc_decode_timeline(version.lsn);
	mlc_version_print(version, text);
	PG_RETURN_TEXT_P(cstring_to_text(text));
}

/*
 * mlcache.fill_version(): the upper bound of what a snapshot taken before can
 * have seen, for mlc_fill.  WAL is flushed up to it, so that what was loaded
 * cannot be undone by a crash.  On a standby its replay position.
 */
Datum
mlc_fill_version(PG_FUNCTION_ARGS)
{
	MlcVersion	version;
	char		text[MLC_VERSION_LEN + 1];

	if (RecoveryInProgress())
		version.lsn = GetXLogReplayRecPtr(NULL);
	else
	{
		version.lsn = mlc_wal_insert_end();
		XLogFlush(version.lsn);
	}
	version.tli = mlc_decode_timeline(version.lsn);
	mlc_version_print(version, text);
	PG_RETURN_TEXT_P(cstring_to_text(text));
}

/*
 * Is it applied?  What an earlier timeline had beyond the switch is nowhere
 * any more, since caches are purged when the timeline changes: that is applied.
 */
static bool
is_applied(MlcRelayShared *relay, MlcVersion version)
{
	MlcVersion	applied;

	applied.lsn = pg_atomic_read_u64(&relay->applied_lsn);
	if (applied.lsn == InvalidXLogRecPtr)
		return false;
	applied.tli = mlc_decode_timeline(applied.lsn);
	return mlc_version_compare(applied, version) >= 0;
}

/* A relay that runs or is to run; ERROR if there will be none. */
static void
require_relay(MlcRelayShared *relay)
{
	bool		wanted = false;

	if (relay)
	{
		LWLockAcquire(mlc_shared->lock, LW_SHARED);
		wanted = relay->wanted;
		LWLockRelease(mlc_shared->lock);
	}
	if (!wanted)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no relay runs in this database"),
				 errdetail("A relay runs where tables are attached.")));
}

/*
 * mlcache.wait_applied(version, timeout): true once every server has applied
 * all commits up to version; false when the timeout (NULL: none) has passed.
 * ERROR 22P02 for what is no version, 55000 without a relay.
 */
Datum
mlc_wait_applied(PG_FUNCTION_ARGS)
{
	MlcRelayShared *relay;
	MlcVersion	version;
	volatile TimestampTz end = 0;
	char	   *input;
	bool		reached;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	input = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (!mlc_version_parse(input, strlen(input), &version))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid version \"%s\"", input),
				 errdetail("A version has 24 lower-case hex digits."),
				 errhint("Take it from mlcache.last_commit_version().")));
	mlc_segment_require();
	relay = mlc_segment_my_relay();
	if (relay == NULL)
		require_relay(relay);
	if (!PG_ARGISNULL(1))
		end = GetCurrentTimestamp() +
			mlc_interval_ms(PG_GETARG_INTERVAL_P(1)) * 1000;

	pg_atomic_fetch_add_u32(&relay->hurry, 1);
	PG_TRY();
	{
		mlc_segment_wake(relay);
		ConditionVariablePrepareToSleep(&relay->progress);
		while (!(reached = is_applied(relay, version)))
		{
			long		left = -1;

			require_relay(relay);

			if (end != 0)
			{
				left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);
				if (left <= 0)
					break;
			}
			if (left < 0)
				ConditionVariableSleep(&relay->progress, PG_WAIT_EXTENSION);
			else
				(void) ConditionVariableTimedSleep(&relay->progress, left,
												   PG_WAIT_EXTENSION);
		}
		ConditionVariableCancelSleep();
	}
	PG_FINALLY();
	{
		pg_atomic_fetch_sub_u32(&relay->hurry, 1);
	}
	PG_END_TRY();
	PG_RETURN_BOOL(reached);
}

/* mlcache.fault_lock(point): arguments for pg_advisory_lock(int, int). */
Datum
mlc_fault_lock(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	uint32		key1,
				key2;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	mlc_fault_lock_key(text_to_cstring(PG_GETARG_TEXT_PP(0)), &key1, &key2);
	values[0] = Int32GetDatum((int32) key1);
	values[1] = Int32GetDatum((int32) key2);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}
