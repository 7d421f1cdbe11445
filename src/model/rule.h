/*-------------------------------------------------------------------------
 *
 * model/rule.h
 *	  Rules: what attach stored, and the cache that finds them by relation.
 *
 * Rules live in mlcache.rule, a user catalog table, so that the same lookup
 * works with the snapshot of a session and with the historic snapshot of
 * logical decoding: a change is always seen with the rules of its own time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_MODEL_RULE_H
#define MLC_MODEL_RULE_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "model/event.h"
#include "model/key.h"
#include "nodes/pg_list.h"
#include "shm/segment.h"
#include "utils/relcache.h"

/* Attribute numbers of mlcache.rule. */
#define MLC_RULE_ID 1
#define MLC_RULE_RELATION 2
#define MLC_RULE_KEY 3
#define MLC_RULE_ACTION 4
#define MLC_RULE_CONSISTENCY 5
#define MLC_RULE_CAPTURE 6
#define MLC_RULE_TTL 7			/* ms */
#define MLC_RULE_NEGATIVE_TTL 8 /* ms */
#define MLC_RULE_COLUMNS 9
#define MLC_RULE_LOADER 10
#define MLC_RULE_FILTER 11
#define MLC_RULE_ON_UNREACHABLE 12
#define MLC_RULE_SERVERS 13
#define MLC_RULE_SECRET 14
#define MLC_RULE_TAG 15
#define MLC_RULE_STALE 16		/* ms */
#define MLC_RULE_NATTS 16

/*
 * The id of a row of mlcache.rule that is no rule: it stands for the keys that
 * no rule gives, and has the secret of the messages that set them.
 */
#define MLC_RULE_FREE 0

/* For counters and lines of L1: stands for what mlcache.fetch() has cached. */
#define MLC_RULE_FETCHED (-1)

typedef enum MlcConsistency
{
	MLC_STRONG = 's',
	MLC_EVENTUAL = 'e',
	MLC_WEAK = 'w'
} MlcConsistency;

typedef enum MlcCapture
{
	MLC_CAPTURE_WAL = 'w',
	MLC_CAPTURE_TRIGGER = 't'
} MlcCapture;

typedef struct MlcRule
{
	int32		id;
	Oid			relid;			/* the relation named in attach */
	char	   *key;			/* the template's text; the tag of a rule by
								 * tag; "" for MLC_RULE_FREE */
	MlcTemplate *template;		/* without parts unless the rule gives keys */
	char	   *tag;			/* NULL unless this is a rule by tag */
	MlcOp		action;
	MlcConsistency consistency;
	MlcCapture	capture;
	int64		ttl;			/* ms; 0: none */
	int64		negative_ttl;	/* ms; 0: none */
	int64		stale;			/* ms that a removed copy may be read; 0: none */
	int			ncolumns;		/* payload columns; 0: all */
	char	  **columns;
	char	   *loader;			/* a query, or NULL: the row */
	char	   *filter;			/* an expression, or NULL */
	int			nservers;		/* 0: all */
	char	  **servers;
	bool		degrade;		/* on_unreachable: strong commits go on */
	int64		secret;
	MlcRuleStat *stat;			/* may be NULL */
} MlcRule;

/* The rules that concern a relation. */
typedef struct MlcRelationRules
{
	Oid			relid;			/* hash key */
	bool		valid;
	MemoryContext context;		/* NULL while there are no rules */
	int			nbindings;
	struct MlcBinding *bindings;	/* see model/bind.h */
} MlcRelationRules;

/*
 * Raised by whoever runs expressions while it holds a binding, lowered after,
 * and set to 0 at the end of a transaction: keeps invalidated bindings alive.
 */
extern int	mlc_rule_busy;

/* Moves whenever any rule may have come, gone or changed. */
extern uint64 mlc_rule_changes;

/*
 * The rules that a change of this relation concerns, NULL if there are none.
 * Works under a historic snapshot.  Owned by the cache; good until the next
 * call for the same relation after an invalidation.
 */
extern MlcRelationRules *mlc_rule_lookup(Relation relation);

/* A rule by its id, NULL if it is not there (any more). */
extern MlcRule *mlc_rule_by_id(int32 id);

/* Is it there?  Asks the catalog, and leaves the cache as it is. */
extern bool mlc_rule_exists(int32 id);

/* The Oid of mlcache.rule, InvalidOid where the extension is missing. */
extern Oid	mlc_rule_relid(void);

/*
 * Remembers which mlcache.rule is there now, for decoding what was before.  In
 * a transaction, outside decoding.
 */
extern void mlc_rule_look_at_present(void);

/* Builds a rule from a row of mlcache.rule, in the current context. */
extern MlcRule *mlc_rule_from_tuple(HeapTuple tuple, TupleDesc desc);

/*
 * All rules that give keys, in the current context; the caller is in a
 * transaction.
 */
extern List *mlc_rule_all(void);

/* The same with the rules by tag. */
extern List *mlc_rule_every(void);

/*
 * What happens to a key that a row left: a derived document is made again,
 * everything else goes.
 */
static inline MlcOp
mlc_rule_leave_op(const MlcRule *rule)
{
	return rule->action == MLC_OP_REFRESH ? MLC_OP_REFRESH : MLC_OP_INVALIDATE;
}

/*
 * May the release of a commit put the new row where its quarantine has removed
 * the old one?  Not where others may commit without a quarantine.
 */
static inline bool
mlc_rule_writes_through(const MlcRule *rule)
{
	return rule->consistency == MLC_STRONG && rule->action == MLC_OP_UPDATE &&
		!rule->degrade;
}

/* One letter of the catalog to a word and back; -1 for an unknown word. */
extern const char *mlc_rule_consistency_name(MlcConsistency consistency);
extern int	mlc_rule_consistency_parse(const char *name);
extern int	mlc_rule_action_parse(const char *name);

#endif							/* MLC_MODEL_RULE_H */
