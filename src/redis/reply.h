/*-------------------------------------------------------------------------
 *
 * redis/reply.h
 *	  From the bytes that a server sent to MlcReply: for redis/wire.h only.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_REDIS_REPLY_H
#define MLC_REDIS_REPLY_H

#include "postgres.h"

#include "redis/conn.h"

/* How far the next reply is known to be complete, and what it will take. */
typedef struct MlcReplyScan
{
	size_t		pos;			/* bytes seen, from the start of the reply */
	int64		missing;		/* values still to come; 1 at the start */
	size_t		memory;			/* bytes of what has been seen, once built */
} MlcReplyScan;

typedef enum MlcReplyState
{
	MLC_REPLY_PARTIAL,
	MLC_REPLY_COMPLETE,
	MLC_REPLY_MALFORMED
} MlcReplyState;

extern void mlc_reply_scan_begin(MlcReplyScan *scan);

/* Goes on with the reply that begins at start, of which len bytes are there. */
extern MlcReplyState mlc_reply_scan(MlcReplyScan *scan, const char *start,
									size_t len);

/*
 * The complete reply at start, in the current context: one piece of memory.
 * NULL: it is malformed after all, or there is no memory (*no_memory).
 */
extern MlcReply *mlc_reply_build(const MlcReplyScan *scan, const char *start,
								 bool *no_memory);

#endif							/* MLC_REDIS_REPLY_H */
