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

/* How far the next reply in the input buffer is known to be complete. */
typedef struct MlcReplyScan
{
	size_t		pos;			/* bytes seen, from the start of the reply */
	int64		missing;		/* values still to come; 1 at the start */
} MlcReplyScan;

typedef enum MlcReplyState
{
	MLC_REPLY_PARTIAL,
	MLC_REPLY_COMPLETE,
	MLC_REPLY_MALFORMED
} MlcReplyState;

/* From now on reader builds MlcReply trees in the current context. */
extern void mlc_reply_install(redisReader *reader);

extern void mlc_reply_scan_begin(MlcReplyScan *scan);
extern MlcReplyState mlc_reply_scan(MlcReplyScan *scan,
									const redisReader *reader);

#endif							/* MLC_REDIS_REPLY_H */
