/*-------------------------------------------------------------------------
 *
 * audit/audit.h
 *	  Compares what is cached with the rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_AUDIT_H
#define MLC_AUDIT_AUDIT_H

#include "postgres.h"

#include "audit/copy.h"
#include "audit/remote.h"
#include "datatype/timestamp.h"
#include "model/rule.h"

/* A copy that is proven not to be what it should. */
typedef struct MlcFinding
{
	MlcRule    *rule;
	const char *server;
	const char *key;
	uint32		keylen;
	MlcVerdict	verdict;
	bool		has_cached;		/* lo and hi are known */
	MlcVersion	lo;				/* what is cached is no older, */
	MlcVersion	hi;				/* and no newer */
	bool		has_row;
	MlcVersion	row;			/* the row was committed no later */
	TransactionId xmin;			/* who wrote the row; invalid: not known */
	TimestampTz committed;		/* when; 0: not known */
	const char *detail;			/* a sentence */
} MlcFinding;

typedef struct MlcAudit
{
	/* set by the caller */
	double		sample;			/* share of the keys, 0 to 1 */
	int			timeout;		/* ms to wait for the relay */
	void		(*report) (void *arg, const MlcFinding *finding);
	void	   *arg;

	/* counted */
	int64		compared;		/* at first sight, fresh or not */
	int64		counts[MLC_VERDICTS];
	int64		explained;		/* differed at first, rightly */
	int64		unsettled;		/* nobody can say: the relay was too far
								 * behind */

	/* of those, what shm/consistency has been told of */
	int64		told_checked;
	int64		told_violations;
} MlcAudit;

/*
 * Audits one rule on all its servers.  In a transaction that has written
 * nothing; locks the table in ACCESS SHARE mode.  What is passed to report is
 * good during the call.  Raises class 08 when a Redis is lost, 57014 when it
 * is cancelled, and what the rule's loader raises.
 */
extern void mlc_audit_rule(MlcAudit *audit, MlcRule *rule);

/*
 * Audits what some names, of entries or guards on a server, stand for.  The
 * rule is the one that loads their keys.
 */
extern void mlc_audit_names(MlcAudit *audit, MlcRule *rule, MlcRemote *remote,
							MlcReply **names, int n);

/* Audits lines of L1, which are the rule's. */
extern void mlc_audit_l1(MlcAudit *audit, MlcRule *rule, MlcL1Copy *lines,
						 int n);

#endif							/* MLC_AUDIT_AUDIT_H */
