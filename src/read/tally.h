/*-------------------------------------------------------------------------
 *
 * read/tally.h
 *	  Counts what a call of get or mget did.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_READ_TALLY_H
#define MLC_READ_TALLY_H

#include "postgres.h"

#include "read/get.h"

/*
 * A call has been answered; cached: it might use the cache; start: of
 * mlc_stats_now(), 0: it is not timed.  Hits in L1 were counted by rule when
 * they were found.
 */
extern void mlc_tally_reads(const MlcRead *reads, int n, bool cached,
							uint64 start);

#endif							/* MLC_READ_TALLY_H */
