/*-------------------------------------------------------------------------
 *
 * audit/copy.h
 *	  One key as Redis has it, its row as the table has it, and what to think
 *	  of the two.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_COPY_H
#define MLC_AUDIT_COPY_H

#include "postgres.h"

#include "model/rule.h"
#include "model/version.h"
#include "shm/l1.h"
#include "storage/itemptr.h"

typedef enum MlcVerdict
{
	MLC_VERDICT_FRESH,
	MLC_VERDICT_STALE,			/* not what the row is */
	MLC_VERDICT_MISSING,		/* the rule keeps every row cached, not this */
	MLC_VERDICT_ORPHAN,			/* no row has this key */
	MLC_VERDICT_CORRUPT,		/* not even of the form that the rule gives */
	MLC_VERDICT_UNGUARDED,		/* written past the protocol */
	MLC_VERDICT_NOTHING			/* nothing is cached */
} MlcVerdict;

#define MLC_VERDICTS (MLC_VERDICT_UNGUARDED + 1)	/* that are reported */

/* What the guard says. */
typedef enum MlcGuardKind
{
	MLC_GUARD_NONE,
	MLC_GUARD_GARBAGE,
	MLC_GUARD_ENTRY,			/* vouches for an entry; lo and hi */
	MLC_GUARD_ABSENT,			/* there is no such row; lo and hi */
	MLC_GUARD_LEASE,
	MLC_GUARD_MARKS
} MlcGuardKind;

typedef enum MlcRowState
{
	MLC_ROW_NONE,
	MLC_ROW_FOUND,
	MLC_ROW_MANY,				/* nobody can say what the key should hold */
	MLC_ROW_FOREIGN				/* a key that no row can ever have */
} MlcRowState;

typedef struct MlcRow
{
	MlcRowState state;
	const char *payload;		/* FOUND; owned by the rows */
	uint32		len;
	Oid			tableoid;		/* of a rule without a loader: which tuple */
	ItemPointerData tid;
	TransactionId xmin;
} MlcRow;

typedef struct MlcCopy
{
	const char *key;
	uint32		keylen;
	uint64		hash;			/* see mlc_seen_hash() */
	const char *guard_name;
	uint32		guard_namelen;

	/* as Redis has it */
	const char *entry;			/* NULL: none, or no string */
	size_t		entrylen;
	const char *guard;			/* likewise */
	size_t		guardlen;
	const char *type;			/* of an entry that is no string, or NULL */
	bool		kept;			/* the rule keeps its row cached */

	/* what the guard says */
	MlcGuardKind kind;
	MlcVersion	lo;
	MlcVersion	hi;

	MlcRow		row;
} MlcCopy;

/* The rule's key, if the name is that of an entry or a guard of the rule. */
extern bool mlc_copy_name(MlcCopy *copy, MlcRule *rule, const char *name,
						  size_t len, bool *is_guard);

/* Fills key and guard's name; the key is not copied. */
extern void mlc_copy_key(MlcCopy *copy, const char *key, uint32 keylen);

/*
 * Fills in what L1 has for the key: hit, or where that is NULL, what is found
 * there now.  A line of another rule counts as none.
 */
extern void mlc_copy_from_l1(MlcCopy *copy, MlcRule *rule, const MlcL1Hit *hit);

/* Reads the guard's text; future is a position that no guard can know of. */
extern void mlc_copy_parse_guard(MlcCopy *copy, MlcVersion future);

/* Its row is to be kept cached, and nothing says why it is not. */
extern bool mlc_copy_may_be_missing(const MlcCopy *copy);

/* Does the verdict depend on the row? */
extern bool mlc_copy_needs_row(const MlcCopy *copy);

/*
 * What to think of it.  comparable: somebody can say what the key should hold.
 * JSON that says the same in other words is fresh.
 */
extern MlcVerdict mlc_copy_judge(const MlcCopy *copy, bool comparable);

/* Tells two readings of the same key apart. */
extern uint64 mlc_copy_digest(const MlcCopy *copy);

extern const char *mlc_verdict_name(MlcVerdict verdict);

#endif							/* MLC_AUDIT_COPY_H */
