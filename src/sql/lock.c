/*-------------------------------------------------------------------------
 *
 * sql/lock.c
 *	  SQL: lock_acquire, lock_acquire_xact, lock_release, lock_renew,
 *	  lock_holders, lock_token, lock_namespace, lock_check, stat_get_locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/interval.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lock/fence.h"
#include "lock/lock.h"
#include "lock/remote.h"
#include "miscadmin.h"
#include "shm/segment.h"
#include "shm/stats.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(mlc_sql_lock_acquire);
PG_FUNCTION_INFO_V1(mlc_sql_lock_acquire_xact);
PG_FUNCTION_INFO_V1(mlc_sql_lock_release);
PG_FUNCTION_INFO_V1(mlc_sql_lock_renew);
PG_FUNCTION_INFO_V1(mlc_sql_lock_holders);
PG_FUNCTION_INFO_V1(mlc_sql_lock_token);
PG_FUNCTION_INFO_V1(mlc_sql_lock_namespace);
PG_FUNCTION_INFO_V1(mlc_sql_lock_check);
PG_FUNCTION_INFO_V1(mlc_stat_get_locks);

#define MAX_TTL ((int64) 86400 * 1000)	/* ms */

static char *
need_name(FunctionCallInfo fcinfo)
{
	text	   *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of a lock must not be NULL")));
	name = PG_GETARG_TEXT_PP(0);
	return text_to_cstring(name);
}

/* An interval argument as ms, min to a day. */
static int64
need_ms(FunctionCallInfo fcinfo, int n, const char *what, int64 min)
{
	int64		ms;

	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", what)));
	ms = mlc_interval_ms(PG_GETARG_INTERVAL_P(n));
	if (ms < min || ms > MAX_TTL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is out of range", what),
				 errdetail("It must be from %lld ms to one day.",
						   (long long) min)));
	return ms;
}

static Datum
acquire(FunctionCallInfo fcinfo, bool xact)
{
	MlcLockRequest request;
	int64		token;
	uint64		start;

	request.name = need_name(fcinfo);
	request.ttl = need_ms(fcinfo, 1, "ttl", 100);
	request.wait = need_ms(fcinfo, 2, "wait", 0);
	request.shared = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	request.xact = xact;
	start = mlc_stats_now();
	token = mlc_lock_acquire(&request);
	if (token == 0)
		PG_RETURN_NULL();
	mlc_stats_since(MLC_TIME_LOCK, start);
	PG_RETURN_INT64(token);
}

/* mlcache.lock_acquire(name, ttl, wait, shared): token, or NULL. */
Datum
mlc_sql_lock_acquire(PG_FUNCTION_ARGS)
{
	return acquire(fcinfo, false);
}

/* mlcache.lock_acquire_xact(name, ttl, wait, shared) */
Datum
mlc_sql_lock_acquire_xact(PG_FUNCTION_ARGS)
{
	return acquire(fcinfo, true);
}

/* mlcache.lock_release(name) */
Datum
mlc_sql_lock_release(PG_FUNCTION_ARGS)
{
	mlc_lock_release(need_name(fcinfo));
	PG_RETURN_VOID();
}

/* mlcache.lock_renew(name, ttl): until when it is held. */
Datum
mlc_sql_lock_renew(PG_FUNCTION_ARGS)
{
	char	   *name = need_name(fcinfo);
	int64		ttl = PG_ARGISNULL(1) ? 0 : need_ms(fcinfo, 1, "ttl", 100);

	PG_RETURN_TIMESTAMPTZ(mlc_lock_renew(name, ttl));
}

/* mlcache.lock_token(): the next fencing token, for holders outside. */
Datum
mlc_sql_lock_token(PG_FUNCTION_ARGS)
{
	mlc_segment_require();
	PG_RETURN_INT64(mlc_fence_next());
}

/* mlcache.lock_namespace(): the first argument of Redis' lock functions. */
Datum
mlc_sql_lock_namespace(PG_FUNCTION_ARGS)
{
	mlc_segment_require();
	PG_RETURN_TEXT_P(cstring_to_text(mlc_remote_namespace()));
}

/* mlcache.lock_check(token): ERROR when this session has lost its lock. */
Datum
mlc_sql_lock_check(PG_FUNCTION_ARGS)
{
	mlc_lock_check_token(PG_GETARG_INT64(0));
	PG_RETURN_VOID();
}

/* mlcache.lock_holders(name): as Redis has them. */
Datum
mlc_sql_lock_holders(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *name = need_name(fcinfo);
	MlcReply   *reply;

	mlc_segment_require();
	mlc_lock_check_name(name);
	InitMaterializedSRF(fcinfo, 0);
	reply = mlc_remote_holders(name);
	for (size_t i = 0; i + 4 < reply->nelements; i += 5)
	{
		MlcReply  **element = &reply->elements[i];
		Datum		values[6];
		bool		nulls[6] = {0};
		char		mode = element[1]->str[0];
		bool		inside = element[4]->str[0] == 'i';
		int			pid = 0;

		if (inside)
			(void) sscanf(element[0]->str, "pg-%d-", &pid);
		values[0] = CStringGetTextDatum(element[0]->str);
		values[1] = CStringGetTextDatum(mode == 'X' ? "exclusive" :
										mode == 'S' ? "shared" :
										mode == 'x' ? "intent exclusive" :
										"intent shared");
		values[2] = CStringGetTextDatum(element[2]->str);
		values[3] = TimestampTzGetDatum(GetCurrentTimestamp() +
										element[3]->integer * 1000);
		values[4] = BoolGetDatum(inside);
		values[5] = Int32GetDatum(pid);
		nulls[5] = pid == 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* mlcache.stat_get_locks(): what sessions of this database hold. */
Datum
mlc_stat_get_locks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			n;

	mlc_segment_require();
	InitMaterializedSRF(fcinfo, 0);
	n = mlc_lock_shared->nslots;
	for (int i = 0; i < n; i++)
	{
		MlcLockSlot *slot = &mlc_lock_shared->slots[i];
		MlcLockSlot copy;
		uint32		state;
		Datum		values[8];
		bool		nulls[8] = {0};

		LWLockAcquire(mlc_lock_shared->lock, LW_SHARED);
		state = pg_atomic_read_u32(&slot->state);
		copy = *slot;
		LWLockRelease(mlc_lock_shared->lock);
		if ((state != MLC_LOCK_HELD && state != MLC_LOCK_LOST) ||
			copy.dbid != MyDatabaseId)
			continue;
		values[0] = CStringGetTextDatum(copy.name);
		values[1] = CStringGetTextDatum(copy.shared ? "shared" : "exclusive");
		values[2] = CStringGetTextDatum(copy.xact ? "transaction" : "session");
		values[3] = Int32GetDatum(copy.pid);
		values[4] = Int64GetDatum((int64) pg_atomic_read_u64(&copy.token));
		values[5] = Int64GetDatum(copy.ttl);
		values[6] = TimestampTzGetDatum((TimestampTz) pg_atomic_read_u64(&copy.deadline));
		values[7] = BoolGetDatum(state == MLC_LOCK_LOST);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
