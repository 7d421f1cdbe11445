/*-------------------------------------------------------------------------
 *
 * audit/recheck.h
 *	  Suspects: copies that differ from their rows, until it is known why.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_RECHECK_H
#define MLC_AUDIT_RECHECK_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "audit/audit.h"
#include "audit/remote.h"
#include "audit/rows.h"

typedef struct MlcSuspects MlcSuspects;

/* In the current context.  A remote without a connection stands for L1. */
extern MlcSuspects *mlc_recheck_begin(MlcAudit *audit, MlcRule *rule,
									  MlcRows *rows, MlcRemote *remote);

/*
 * A suspect.  ordered: read from Redis first, then its row with a new snapshot,
 * then position, the end of WAL.  Otherwise the row was read first, and proves
 * nothing but that it was there.
 */
extern void mlc_recheck_add(MlcSuspects *suspects, const MlcCopy *copy,
							MlcVerdict verdict, bool ordered,
							XLogRecPtr position);

extern int	mlc_recheck_count(MlcSuspects *suspects);

/*
 * Reads all suspects again once the relay has applied what their rows showed,
 * as often as it takes, and reports the guilty.  Nothing may be in flight on
 * the connection.
 */
extern void mlc_recheck_settle(MlcSuspects *suspects);

/* Has a server applied all up to a position?  Waits up to timeout, ms. */
extern bool mlc_recheck_wait(Oid serverid, XLogRecPtr position, int timeout);

#endif							/* MLC_AUDIT_RECHECK_H */
