/*-------------------------------------------------------------------------
 *
 * capture/strong.h
 *	  What a commit under strong rules does beside WAL: quarantine before,
 *	  release after.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_STRONG_H
#define MLC_CAPTURE_STRONG_H

#include "postgres.h"

#include "model/version.h"

/*
 * Bytes of rows that a commit writes through to a server: so much goes into a
 * socket at once, and what does not is no release.
 */
#define MLC_STRONG_PAYLOADS (16 * 1024)

typedef struct MlcStrongKey
{
	const char *key;
	uint32		len;
	uint32		payloadlen;
	const char *payload;		/* the row; NULL: the key is only released */
	int64		ttl;			/* ms; 0: none */
} MlcStrongKey;

/* What the transaction changed under one strong rule. */
typedef struct MlcStrongRule
{
	int			nservers;		/* 0: all */
	char	  **servers;
	bool		degrade;		/* on_unreachable */
	bool		all;			/* the whole rule, not keys */
	int			nkeys;
	MlcStrongKey *keys;
} MlcStrongRule;

/*
 * At PRE_COMMIT or PRE_PREPARE: puts this transaction's mark on every key, on
 * every server of its rule, and closes their lines in L1; a rule as a whole
 * closes the server instead.  One round trip a server, which lasts until
 * mlc_strong_await(): the message is written meanwhile.  What rules refers to
 * must live as long as the transaction.
 *
 * Both raise 08xxx when a server cannot be reached, or refuses; a WARNING
 * instead where every rule of that server says so (degrade).  Interruptible.
 */
extern void mlc_strong_quarantine(MlcStrongRule *rules, int nrules,
								  bool prepare);
extern void mlc_strong_await(void);

/*
 * In the callback of COMMIT (version: this commit's) or ABORT (NULL): ends the
 * marks and opens L1.  Never throws, waits or allocates with palloc; what could
 * not be sent is left to the relay's sweep.  False: there was no quarantine, or
 * it could not be ended everywhere.
 */
extern bool mlc_strong_release(const MlcVersion *version);

/* In the callback of PREPARE: the marks stay. */
extern void mlc_strong_prepared(void);

#endif							/* MLC_CAPTURE_STRONG_H */
