/*-------------------------------------------------------------------------
 *
 * capture/decode.h
 *	  The output plugin: decoded changes become events.
 *
 * Any logical consumer gets JSON lines.  The relay sets a sink before it
 * creates its decoding context and gets the events as structures instead.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_DECODE_H
#define MLC_CAPTURE_DECODE_H

#include "postgres.h"

#include "model/event.h"
#include "model/rule.h"
#include "utils/timestamp.h"

struct ReorderBufferTXN;

/*
 * Where events go inside the relay.  Called under a historic snapshot: no
 * SPI, no waiting.  What the pointers reach is good during the call only.
 */
typedef struct MlcSink
{
	void		(*begin) (struct MlcSink *sink,
						  const struct ReorderBufferTXN *txn,
						  MlcVersion version);
	void		(*event) (struct MlcSink *sink, const MlcEvent *event,
						  const MlcRule *rule);
	void		(*commit) (struct MlcSink *sink);
} MlcSink;

/* Set by the relay around CreateDecodingContext(); NULL elsewhere. */
extern MlcSink *mlc_decode_sink;

/* The timeline that a position of WAL belongs to. */
extern TimeLineID mlc_decode_timeline(XLogRecPtr lsn);

/* Where the timeline that this server is on began; 0/0 for the first one. */
extern XLogRecPtr mlc_decode_timeline_begin(void);

#endif							/* MLC_CAPTURE_DECODE_H */
