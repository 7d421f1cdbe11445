/*-------------------------------------------------------------------------
 *
 * capture/dirty.h
 *	  The dirty set of a transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_DIRTY_H
#define MLC_CAPTURE_DIRTY_H

#include "postgres.h"

#include "model/event.h"
#include "model/rule.h"

/* What the commit has to know of a rule, which may be gone by then. */
typedef struct MlcDirtyRule
{
	int32		id;
	int64		secret;
	bool		all;			/* the whole rule goes */
	int			all_level;		/* nest level that said so */
	bool		strong;
	bool		degrade;
	int64		ttl;
	int			nservers;		/* of a strong rule; 0: all */
	char	  **servers;
} MlcDirtyRule;

/* An event of a key, a tag or a pattern. */
typedef struct MlcDirtyKey
{
	int			rule;			/* index into rules */
	MlcOp		op;
	uint32		keylen;
	uint32		bodylen;
	int			previous;		/* this key's event before; -1: none */
	uint64		turn;			/* order of the calls */
	char	   *key;
	char	   *body;			/* NULL: none; the row, where the op has none */
} MlcDirtyKey;

/* A savepoint. */
typedef struct MlcDirtyLevel
{
	int			level;			/* nest level */
	int			nkeys;			/* length of the list when it began */
} MlcDirtyLevel;

typedef struct MlcDirtySet
{
	MemoryContext context;
	uint64		turn;			/* of the last call */
	int			nrules;
	int			rules_size;
	MlcDirtyRule *rules;
	int			nkeys;
	int			keys_size;
	MlcDirtyKey *keys;
	int			npatterns;		/* of them, patterns */
	Size		bytes;
	struct keytable_hash *table;	/* of the last events */
	int			nsavepoints;
	int			savepoints_size;
	MlcDirtyLevel *savepoints;
} MlcDirtySet;

/* An empty set, in TopTransactionContext. */
extern MlcDirtySet *mlc_dirty_begin(void);

/* The rule's place in the set, which it gets if it has none. */
extern int	mlc_dirty_touch(MlcDirtySet *set, const MlcRule *rule);

/* As their namesakes in capture/xact.h; rule: the one of free keys. */
extern void mlc_dirty_add_all(MlcDirtySet *set, const MlcRule *rule);
extern void mlc_dirty_add(MlcDirtySet *set, const MlcRule *rule, MlcOp op,
						  const char *key, uint32 keylen,
						  const char *row, uint32 rowlen);
extern void mlc_dirty_add_free(MlcDirtySet *set, const MlcRule *rule, MlcOp op,
							   const char *key, uint32 keylen,
							   const char *body, uint32 bodylen);

/*
 * The rule's events, one a key: the last one.  after: the one that came before,
 * NULL: none.
 */
extern MlcDirtyKey *mlc_dirty_next(MlcDirtySet *set, int ruleno,
								   const MlcDirtyKey *after);

/*
 * Of a set: has it been invalidated since, by tag or pattern?  The relay cannot
 * tell, since a transaction has one version.
 */
extern bool mlc_dirty_is_overtaken(MlcDirtySet *set, const MlcDirtyKey *event);

/*
 * Does the set say what becomes of a free key?  *value: what it is set to, in
 * the current context; NULL: it goes.
 */
extern bool mlc_dirty_pending(MlcDirtySet *set, int ruleno, const char *key,
							  uint32 keylen, text * *value);

/* Cuts the list where the savepoint of this nest level began. */
extern void mlc_dirty_abort_level(MlcDirtySet *set, int level);

/* The savepoint's part of the list becomes its parent's. */
extern void mlc_dirty_commit_level(MlcDirtySet *set, int level);

#endif							/* MLC_CAPTURE_DIRTY_H */
