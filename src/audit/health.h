/*-------------------------------------------------------------------------
 *
 * audit/health.h
 *	  Findings: what is not as it should be, and what to do about it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_HEALTH_H
#define MLC_AUDIT_HEALTH_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "shm/history.h"

typedef enum MlcFindingKind
{
	MLC_FINDING_RELAY,
	MLC_FINDING_SERVER_DOWN,
	MLC_FINDING_GIVEN_UP,
	MLC_FINDING_SLOT,
	MLC_FINDING_POLICY,
	MLC_FINDING_SEEDS_GONE,
	MLC_FINDING_VIOLATIONS,
	MLC_FINDING_NOT_UNIQUE,
	MLC_FINDING_LAG,
	MLC_FINDING_RETAINED,
	MLC_FINDING_MEMORY,
	MLC_FINDING_SEEDS_FEW,
	MLC_FINDING_CLOCK,
	MLC_FINDING_HIT_RATIO,
	MLC_FINDING_LOCKS,
	MLC_FINDING_PAUSED,
	MLC_FINDING_FRAGMENTATION,
	MLC_FINDING_L1,
	MLC_FINDING_NEVER_HIT,
	MLC_FINDING_CATCH_UP,
	MLC_FINDING_NEVER_READ
} MlcFindingKind;

typedef struct MlcHealthFinding
{
	MlcFindingKind kind;
	const char *subject;		/* a server, a rule's key, ... */
	char	   *detail;			/* sentences */
	char	   *advice;			/* the line to type */
} MlcHealthFinding;

extern const char *mlc_finding_name(MlcFindingKind kind);
extern const char *mlc_finding_severity(MlcFindingKind kind);

/* Does the monitor raise an alert for it? */
extern bool mlc_finding_alerts(MlcFindingKind kind);

/* Is it raised already?  It then ends a little below where it began. */
typedef bool (*MlcFindingRaised) (MlcFindingKind kind, const char *subject);

/*
 * What the monitor looks at each second: this server's own memory, the slot,
 * and its looks at Redis.  List of MlcHealthFinding, worst first, in the current
 * context.  In a transaction with a snapshot.
 */
extern List *mlc_health_check(MlcRelayShared *relay, MlcHistory *history,
							  const MlcRedisLook *looks, int nlooks,
							  MlcFindingRaised raised);

/*
 * The same with a fresh look at each Redis, and what concerns single rules.
 * Takes a second for each Redis that does not answer.
 */
extern List *mlc_health_check_all(void);

/* The replication slot of this database. */
typedef struct MlcSlotLook
{
	int64		retained;		/* bytes of WAL; -1: there is no slot */
	int64		left;			/* bytes until it is lost; -1: no limit */
	bool		lost;			/* or about to be */
} MlcSlotLook;

/* In a transaction with a snapshot. */
extern void mlc_health_look_at_slot(MlcSlotLook *look);

#endif							/* MLC_AUDIT_HEALTH_H */
