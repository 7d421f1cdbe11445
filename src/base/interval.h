/*-------------------------------------------------------------------------
 *
 * base/interval.h
 *	  Intervals as milliseconds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_BASE_INTERVAL_H
#define MLC_BASE_INTERVAL_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* An interval in ms, a month being 30 days; saturates at INT64 limits / 2. */
static inline int64
mlc_interval_ms(const Interval *interval)
{
	double		ms = interval->time / 1000.0 +
	(interval->day + interval->month * 30.0) * 86400000.0;

	if (ms > (double) (PG_INT64_MAX / 2))
		return PG_INT64_MAX / 2;
	if (ms < (double) (PG_INT64_MIN / 2))
		return PG_INT64_MIN / 2;
	return (int64) ms;
}

#endif							/* MLC_BASE_INTERVAL_H */
