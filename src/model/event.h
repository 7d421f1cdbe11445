/*-------------------------------------------------------------------------
 *
 * model/event.h
 *	  What travels from a committed change to the caches, and its two wire
 *	  forms: the logical message that trigger capture writes into WAL, and
 *	  the JSON line that the output plugin prints.
 *
 * A message never carries a payload: anybody may call
 * pg_logical_emit_message(), so what it says is believed only as far as it
 * removes entries, and only when it knows the rule's secret.
 *
 * Touches neither catalogs nor Redis; compiles with FRONTEND for the fuzzers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_MODEL_EVENT_H
#define MLC_MODEL_EVENT_H

#include "model/version.h"
#include "lib/stringinfo.h"

/* The prefix of our logical messages. */
#define MLC_MESSAGE_PREFIX "mlcache"

typedef enum MlcOp
{
	MLC_OP_INVALIDATE = 'i',	/* the entry goes */
	MLC_OP_UPDATE = 'u',		/* the entry, if there is one, gets payload */
	MLC_OP_REPLICATE = 'r',		/* the entry gets payload, present or not */
	MLC_OP_REFRESH = 'f',		/* the entry goes, then the relay reloads it */
	MLC_OP_TRUNCATE = 't'		/* all entries of the rule go; no key */
} MlcOp;

typedef struct MlcEvent
{
	MlcOp		op;
	int32		rule;
	const char *key;			/* not NUL-terminated; NULL for truncate */
	uint32		keylen;
	const char *payload;		/* NULL unless update or replicate */
	uint32		payloadlen;
} MlcEvent;

/*
 * A message: one section a rule.
 *
 *	 byte 'M', byte 1 (format), then sections until the end:
 *	 int32 rule, int64 secret, byte flags, int32 nkeys, nkeys times
 *	 (byte op, int32 keylen, key bytes).		All integers big-endian.
 *
 * op is MLC_OP_INVALIDATE for a key that a row left or that has no payload
 * to take from the row, or the rule's own action for a key that a row has now.
 * MLC_MESSAGE_ALL says that the transaction touched too many keys: the whole
 * rule goes.
 */
#define MLC_MESSAGE_ALL 0x01

typedef struct MlcMessageSection
{
	int32		rule;
	int64		secret;
	uint8		flags;
	int32		nkeys;
} MlcMessageSection;

typedef struct MlcMessageReader
{
	const char *data;
	size_t		len;
	size_t		pos;
	int32		keys_left;		/* of the current section */
} MlcMessageReader;

extern void mlc_event_message_begin(StringInfo out);
extern void mlc_event_message_section(StringInfo out,
									  const MlcMessageSection *section);
extern void mlc_event_message_key(StringInfo out, MlcOp op,
								  const char *key, uint32 keylen);

/* False if this is no message of ours or of a format we do not know. */
extern bool mlc_event_message_open(MlcMessageReader *reader,
								   const char *data, size_t len);

/*
 * Next section / next key of the current section.  1: got one; 0: no more;
 * -1: the message is malformed (never reads beyond len).  Keys that were not
 * read are skipped by the next call of _next_section.
 */
extern int	mlc_event_message_next_section(MlcMessageReader *reader,
										   MlcMessageSection *section);
extern int	mlc_event_message_next_key(MlcMessageReader *reader, MlcOp *op,
									   const char **key, uint32 *keylen);

/* "invalidate", "update", "replicate", "refresh", "truncate". */
extern const char *mlc_event_op_name(MlcOp op);

/*
 * Appends one JSON object without a line feed:
 * {"op":"update","key":"product:42","version":"...","rule":1,"payload":"..."}
 * payload is a JSON string (the payload's text, escaped), absent when NULL.
 * Key is absent for truncate.  Keys are valid UTF-8 or ASCII by construction;
 * bytes below 0x20, '"' and '\' are escaped.
 */
extern void mlc_event_json(StringInfo out, const MlcEvent *event,
						   MlcVersion version);

#endif							/* MLC_MODEL_EVENT_H */
