/*-------------------------------------------------------------------------
 *
 * shm/history.c
 *	  Rings of samples in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/area.h"
#include "miscadmin.h"
#include "shm/history.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

static MlcHistory *histories = NULL;

static Size
history_bytes(void)
{
	return mul_size(sizeof(MlcHistory), MLC_MAX_HISTORIES);
}

static void
attach(void *memory, bool found, LWLockPadded *locks)
{
	histories = memory;
	if (found)
		return;
	memset(histories, 0, history_bytes());
	for (int i = 0; i < MLC_MAX_HISTORIES; i++)
		LWLockInitialize(&histories[i].lock, locks->lock.tranche);
}

static const MlcArea area = {
	.name = "mlcache history",
	.size = history_bytes,
	.tranche = "mlcache_history",
	.attach = attach
};

void
mlc_history_init(void)
{
	mlc_area_want(&area);
}

MlcHistory *
mlc_history_mine(bool create)
{
	static MlcHistory *mine = NULL;

	if (mine || histories == NULL)
		return mine;
	LWLockAcquire(mlc_shared->lock, create ? LW_EXCLUSIVE : LW_SHARED);
	for (int i = 0; i < MLC_MAX_HISTORIES && mine == NULL; i++)
	{
		MlcHistory *history = &histories[i];

		if (history->dbid == InvalidOid && create)
			history->dbid = MyDatabaseId;
		if (history->dbid == MyDatabaseId)
			mine = history;
	}
	LWLockRelease(mlc_shared->lock);
	return mine;
}

/* Adds one stretch of time to another. */
static void
merge(MlcSample *sum, const MlcSample *sample)
{
	sum->at = sample->at;
	sum->insert_lsn = sample->insert_lsn;
	sum->lag_ms = Max(sum->lag_ms, sample->lag_ms);
	sum->lag_mb = Max(sum->lag_mb, sample->lag_mb);
	sum->retained_mb = Max(sum->retained_mb, sample->retained_mb);
	sum->apply_p50 = Max(sum->apply_p50, sample->apply_p50);
	sum->apply_p99 = Max(sum->apply_p99, sample->apply_p99);
	sum->hits += sample->hits;
	sum->misses += sample->misses;
	sum->events += sample->events;
	sum->evictions += sample->evictions;
	sum->checked += sample->checked;
	sum->violations += sample->violations;
	sum->down = Max(sum->down, sample->down);
}

/* The last so many samples as one; there are so many. */
static void
sum_up(MlcHistory *history, uint32 n, MlcSample *sum)
{
	memset(sum, 0, sizeof(*sum));
	sum->retained_mb = sum->apply_p50 = sum->apply_p99 = -1;
	for (uint32 i = history->nseconds - n; i < history->nseconds; i++)
		merge(sum, &history->seconds[i % MLC_SECONDS]);
}

void
mlc_history_add(MlcHistory *history, const MlcSample *sample)
{
	LWLockAcquire(&history->lock, LW_EXCLUSIVE);
	history->seconds[history->nseconds++ % MLC_SECONDS] = *sample;
	if (history->nseconds % 60 == 0)
		sum_up(history, 60, &history->minutes[history->nminutes++ % MLC_MINUTES]);
	LWLockRelease(&history->lock);
}

/* The first sample of a ring past a position; 0: none is. */
static TimestampTz
first_past(const MlcSample *ring, uint32 n, uint32 size, XLogRecPtr lsn)
{
	for (uint32 i = n > size ? n - size : 0; i < n; i++)
		if (ring[i % size].insert_lsn > lsn)
			return ring[i % size].at;
	return 0;
}

double
mlc_history_behind(MlcHistory *history, XLogRecPtr lsn, TimestampTz now)
{
	TimestampTz since;
	TimestampTz oldest;

	LWLockAcquire(&history->lock, LW_SHARED);
	since = first_past(history->seconds, history->nseconds, MLC_SECONDS, lsn);
	/* a ring that begins past it knows no beginning */
	oldest = first_past(history->minutes, history->nminutes, MLC_MINUTES, lsn);
	LWLockRelease(&history->lock);
	if (oldest != 0 && oldest < since)
		since = oldest;
	return since == 0 ? 0 : Max(now - since, 0) / 1000.0;
}

int
mlc_history_sum(MlcHistory *history, int seconds, MlcSample *sum)
{
	LWLockAcquire(&history->lock, LW_SHARED);
	seconds = Min(seconds, (int) Min(history->nseconds, MLC_SECONDS));
	sum_up(history, seconds, sum);
	LWLockRelease(&history->lock);
	return seconds;
}
