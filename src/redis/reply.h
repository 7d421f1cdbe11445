/*-------------------------------------------------------------------------
 *
 * redis/reply.h
 *	  Between hiredis' reader and MlcReply: for redis/wire.h only.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_REDIS_REPLY_H
#define MLC_REDIS_REPLY_H

#include <hiredis/hiredis.h>

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

/* From now on reader builds MlcReply trees, by mlc_reply_take() only. */
extern void mlc_reply_install(redisReader *reader);

extern void mlc_reply_scan_begin(MlcReplyScan *scan);
extern MlcReplyState mlc_reply_scan(MlcReplyScan *scan,
									const redisReader *reader);

/*
 * Takes the complete reply out of reader: a tree in one piece of memory, in the
 * current context.  NULL: reader->err says why, or there is no memory.
 */
extern MlcReply *mlc_reply_take(const MlcReplyScan *scan, redisReader *reader);

#endif							/* MLC_REDIS_REPLY_H */
