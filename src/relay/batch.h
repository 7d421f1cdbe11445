/*-------------------------------------------------------------------------
 *
 * relay/batch.h
 *	  Decoded events on their way to the targets: coalesced by key, bounded
 *	  in memory, spilled to disk where one transaction is larger than that.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_BATCH_H
#define MLC_RELAY_BATCH_H

#include "postgres.h"

#include "model/rule.h"
#include "nodes/pg_list.h"

#define MLC_BATCH_EVENTS 4096	/* a batch is full at so many keys */
#define MLC_BATCH_BYTES (2 * 1024 * 1024)	/* or at so many bytes */

/* What sending needs to know of a rule; lives as long as the relay. */
typedef struct MlcRelayRule
{
	int32		id;				/* hash key */
	MlcTemplate *template;		/* NULL: it gives no keys */
	const char *key;			/* its text */
	char	   *names_glob;		/* of its keys, and all that is named by them */
	int64		ttl;			/* ms; 0: none */
	int64		stale;			/* ms that what is removed is kept; 0: not */
	MlcConsistency consistency;
	bool		degrade;		/* strong, but a commit may leave no marks */
	bool		invalidate;		/* its action, and all it does */
	bool		refresh;
	bool		replicate;		/* its events make entries */
	bool		by_rows;		/* its values are those of the rows, and one
								 * row gives a key */
	int			nservers;		/* 0: all */
	char	  **servers;
	uint64		mask;			/* of targets; see mask_generation */
	uint32		mask_generation;
} MlcRelayRule;

typedef struct MlcBatchEvent
{
	MlcOp		op;
	bool		dead;			/* overtaken by a purge of its rule */
	MlcRelayRule *rule;
	char	   *key;
	uint32		keylen;
	uint32		payloadlen;
	char	   *payload;
	MlcVersion	version;
	int			next;			/* same hash; -1: none */
	int			slot;			/* of a cluster; -1: not looked up yet */
} MlcBatchEvent;

typedef struct MlcBatchPurge
{
	MlcRelayRule *rule;
	MlcVersion	version;
} MlcBatchPurge;

typedef struct MlcBatch
{
	MemoryContext context;		/* reset with the batch */
	int			nevents;
	int			size;
	MlcBatchEvent *events;
	Size		bytes;
	void	   *table;			/* key -> event */
	List	   *purges;			/* of MlcBatchPurge; they come first */
	struct MlcBatch *sweeps;	/* tags, patterns and touches; they come last.
								 * NULL: none.  For their texts see below */
	int			nxids;
	int			xids_size;
	TransactionId *xids;		/* commits to be seen before it is sent */
	MlcVersion	applying;		/* the highest version in it */
	TimestampTz committed;		/* commit time of the last transaction */
	TimestampTz oldest;			/* and of the first; 0: none had events */
	int			transactions;
} MlcBatch;

extern MlcBatch *mlc_batch_create(MemoryContext parent, const char *name);
extern void mlc_batch_reset(MlcBatch *batch);

/* A transaction with events in the batch committed at this time. */
extern void mlc_batch_committed(MlcBatch *batch, TimestampTz committed);

/*
 * Adds a tag, pattern or touch, or replaces its event by the same rule.
 * Copies.
 */
extern void mlc_batch_sweep(MlcBatch *batch, MlcRelayRule *rule, MlcOp op,
							const char *text, uint32 len,
							const char *payload, uint32 payloadlen,
							MlcVersion version);

/* Does the event belong there? */
static inline bool
mlc_batch_is_sweep(MlcOp op)
{
	return mlc_event_is_sweep(op) || op == MLC_OP_TOUCH;
}

/* What stands before the text in the key of an event of sweeps. */
#define MLC_SWEEP_HEAD ((uint32) (1 + sizeof(int32)))

/* The key, tag or pattern of an event, wherever it stands. */
static inline const char *
mlc_batch_text(const MlcBatchEvent *event, uint32 *len)
{
	uint32		head = mlc_batch_is_sweep(event->op) ? MLC_SWEEP_HEAD : 0;

	*len = event->keylen - head;
	return event->key + head;
}

/* Adds an event, or replaces the one of the same key.  Copies. */
extern void mlc_batch_add(MlcBatch *batch, MlcRelayRule *rule, MlcOp op,
						  const char *key, uint32 keylen,
						  const char *payload, uint32 payloadlen,
						  MlcVersion version);

/* Purges a rule: what the batch holds of it is dead. */
extern void mlc_batch_purge(MlcBatch *batch, MlcRelayRule *rule,
							MlcVersion version);
extern void mlc_batch_add_xid(MlcBatch *batch, TransactionId xid);
extern bool mlc_batch_is_empty(MlcBatch *batch);
extern bool mlc_batch_is_full(MlcBatch *batch);

/* Appends what from holds to batch, then resets from. */
extern void mlc_batch_merge(MlcBatch *batch, MlcBatch *from);

/*
 * A spool takes the events of one transaction that is larger than
 * mlcache.relay_work_mem: it keeps them on disk, sorted out by key, so that
 * each key comes out once, with its last event.
 */
typedef struct MlcSpool MlcSpool;

extern MlcSpool *mlc_spool_begin(MemoryContext parent);
extern void mlc_spool_put(MlcSpool *spool, MlcRelayRule *rule, MlcOp op,
						  const char *key, uint32 keylen,
						  const char *payload, uint32 payloadlen);
extern void mlc_spool_purge(MlcSpool *spool, MlcRelayRule *rule);

/* Between put and fill, once. */
extern void mlc_spool_finish(MlcSpool *spool);

/* Moves events into the batch until it is full; false at the end. */
extern bool mlc_spool_fill(MlcSpool *spool, MlcBatch *batch,
						   MlcVersion version);
extern void mlc_spool_end(MlcSpool *spool);

#endif							/* MLC_RELAY_BATCH_H */
