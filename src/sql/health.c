/*-------------------------------------------------------------------------
 *
 * sql/health.c
 *	  SQL: health, report, stat_get_history.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "audit/health.h"
#include "audit/report.h"
#include "fmgr.h"
#include "funcapi.h"
#include "shm/history.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(mlc_health);
PG_FUNCTION_INFO_V1(mlc_report_page);
PG_FUNCTION_INFO_V1(mlc_stat_get_history);

/* mlcache.health(): one row a finding, worst first; none when all is well. */
Datum
mlc_health(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	mlc_segment_require();
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("there is no relay during recovery"),
				 errhint("Ask the primary.")));
	foreach(lc, mlc_health_check_all())
	{
		MlcHealthFinding *finding = lfirst(lc);
		Datum		values[5];
		bool		nulls[5] = {false};

		values[0] = CStringGetTextDatum(mlc_finding_severity(finding->kind));
		values[1] = CStringGetTextDatum(finding->subject);
		values[2] = CStringGetTextDatum(mlc_finding_name(finding->kind));
		values[3] = CStringGetTextDatum(finding->detail);
		values[4] = CStringGetTextDatum(finding->advice);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* mlcache.report(): HTML. */
Datum
mlc_report_page(PG_FUNCTION_ARGS)
{
	mlc_segment_require();
	PG_RETURN_TEXT_P(cstring_to_text(mlc_report()));
}

static void
put_sample(ReturnSetInfo *rsinfo, const MlcSample *sample, int seconds)
{
	Datum		values[14];
	bool		nulls[14] = {false};
	int			n = 0;

	values[n++] = TimestampTzGetDatum(sample->at);
	values[n++] = Int32GetDatum(seconds);
	values[n++] = Float4GetDatum(sample->lag_ms);
	values[n++] = Float4GetDatum(sample->lag_mb);
	nulls[n] = sample->retained_mb < 0;
	values[n++] = Float4GetDatum(sample->retained_mb);
	nulls[n] = sample->apply_p50 < 0;
	values[n++] = Float4GetDatum(sample->apply_p50);
	nulls[n] = sample->apply_p99 < 0;
	values[n++] = Float4GetDatum(sample->apply_p99);
	values[n++] = Int64GetDatum(sample->hits);
	values[n++] = Int64GetDatum(sample->misses);
	values[n++] = Int64GetDatum(sample->events);
	values[n++] = Int64GetDatum(sample->evictions);
	values[n++] = Int64GetDatum(sample->checked);
	values[n++] = Int64GetDatum(sample->violations);
	values[n++] = Int32GetDatum(sample->down);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* mlcache.stat_get_history(): seconds, then minutes, each in order. */
Datum
mlc_stat_get_history(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MlcHistory *history;
	MlcSample  *copy;
	uint32		nseconds;
	uint32		nminutes;

	InitMaterializedSRF(fcinfo, 0);
	mlc_segment_require();
	history = mlc_history_mine(false);
	if (history == NULL)
		return (Datum) 0;
	copy = palloc(sizeof(MlcSample) * (MLC_SECONDS + MLC_MINUTES));
	LWLockAcquire(&history->lock, LW_SHARED);
	nseconds = history->nseconds;
	nminutes = history->nminutes;
	memcpy(copy, history->seconds, sizeof(history->seconds));
	memcpy(copy + MLC_SECONDS, history->minutes, sizeof(history->minutes));
	LWLockRelease(&history->lock);

	for (uint32 i = nseconds - Min(nseconds, MLC_SECONDS); i < nseconds; i++)
		put_sample(rsinfo, &copy[i % MLC_SECONDS], 1);
	for (uint32 i = nminutes - Min(nminutes, MLC_MINUTES); i < nminutes; i++)
		put_sample(rsinfo, &copy[MLC_SECONDS + i % MLC_MINUTES], 60);
	return (Datum) 0;
}
