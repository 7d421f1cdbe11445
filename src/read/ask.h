/*-------------------------------------------------------------------------
 *
 * read/ask.h
 *	  Asking Redis for keys: a look, then leases.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_READ_ASK_H
#define MLC_READ_ASK_H

#include "postgres.h"

#include "read/get.h"

/* Redis takes strings up to 512 MB; this leaves room for the rest. */
#define MLC_FILL_MAX ((uint32) 511 * 1024 * 1024)

/*
 * Asks for the reads whose state is MLC_READ_ASK, until each has an answer, or
 * those that somebody else loads have been waited for long enough
 * (mlcache.lease_wait).  Afterwards none is in that state.  The caller's leases
 * have the token's name.  Never throws for trouble with Redis.
 */
extern void mlc_ask(MlcRead *reads, int n, const char *token,
					const MlcBound *bound);

/* Does content that is no older than version meet the bound? */
extern bool mlc_ask_new_enough(const MlcBound *bound, MlcVersion version);

/* The version that is element i of an answer; false: it is none. */
extern bool mlc_ask_version(const MlcReply *reply, size_t i,
							MlcVersion *version);

#endif							/* MLC_READ_ASK_H */
