/*-------------------------------------------------------------------------
 *
 * read/tally.c
 *	  Counts what a call of get or mget did: each key for its rule, and the
 *	  call as a whole under the slowest of its sources, since that is what
 *	  the caller waited for.
 *
 * A read that must not use the cache is no miss: it is told apart, so that a
 * hit ratio says how good the cache is, not how much is written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "read/tally.h"
#include "shm/stats.h"

void
mlc_tally_reads(const MlcRead *reads, int n, bool cached, uint64 start)
{
	MlcSource	slowest = MLC_FROM_NOWHERE;

	for (int i = 0; i < n; i++)
	{
		const MlcRead *read = &reads[i];

		slowest = Max(slowest, read->source);
		if (read->source < MLC_FROM_L2 || read->rule == NULL)
			continue;			/* such as keys of no rule */
		if (read->source == MLC_FROM_L2)
			mlc_stats_rule(read->rule->id, MLC_RULE_HITS_L2, 1);
		else if (read->source > MLC_FROM_L2)
			mlc_stats_rule(read->rule->id,
						   cached ? MLC_RULE_MISSES : MLC_RULE_BYPASSED, 1);
	}
	switch (slowest)
	{
		case MLC_FROM_NOWHERE:
			break;
		case MLC_FROM_L1:
			mlc_stats_hit_call(start);
			break;
		case MLC_FROM_L2:
		case MLC_FROM_STALE:
			mlc_stats_since(MLC_TIME_GET_L2, start);
			break;
		case MLC_FROM_LOAD:
			mlc_stats_since(MLC_TIME_GET_LOAD, start);
			break;
		case MLC_FROM_ROW:
			mlc_stats_since(MLC_TIME_GET_ROW, start);
			break;
	}
}
