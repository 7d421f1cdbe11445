/*-------------------------------------------------------------------------
 *
 * model/event.h
 *	  What travels from a committed change to the caches, and its two wire
 *	  forms: the logical message that trigger capture writes into WAL, and
 *	  the JSON line that the output plugin prints.
 *
 * Anybody may call pg_logical_emit_message(), so a message is believed only
 * when it knows the rule's secret; and payloads of rules are taken from the
 * rows, never from it.  What mlcache.set() caches under keys of no rule has no
 * other place to come from: it travels under the secret of the database.
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

/* The same for probes of the auditor, which are the relay's business only. */
#define MLC_PROBE_PREFIX "mlcache.probe"

typedef enum MlcOp
{
	MLC_OP_INVALIDATE = 'i',	/* the entry goes */
	MLC_OP_UPDATE = 'u',		/* the entry, if there is one, gets payload */
	MLC_OP_REPLICATE = 'r',		/* the entry gets payload, present or not */
	MLC_OP_REFRESH = 'f',		/* the entry goes, then the relay reloads it */
	MLC_OP_TRUNCATE = 't',		/* all entries of the rule go; no key */

	/* keys of no rule */
	MLC_OP_SET = 's',			/* the entry gets what the body says */
	MLC_OP_DELETE = 'd',		/* the entry goes */
	MLC_OP_TOUCH = 'e',			/* the entry, if there is one, lives on */

	/* many keys at once */
	MLC_OP_TAG = 'g',			/* what was filled with a tag, the key */
	MLC_OP_PATTERN = 'p',		/* what matches a glob, the key */
	MLC_OP_FETCHED = 'k'		/* what fetch() cached under the key; inside
								 * the relay only */
} MlcOp;

/* Does the op carry a body beside its key? */
static inline bool
mlc_event_has_body(MlcOp op)
{
	return op == MLC_OP_SET || op == MLC_OP_TOUCH;
}

/* Is it about keys that it does not name? */
static inline bool
mlc_event_is_sweep(MlcOp op)
{
	return op == MLC_OP_TAG || op == MLC_OP_PATTERN || op == MLC_OP_FETCHED;
}

typedef struct MlcEvent
{
	MlcOp		op;
	int32		rule;
	const char *key;			/* not NUL-terminated; NULL for truncate */
	uint32		keylen;
	const char *payload;		/* NULL unless update or replicate; the body
								 * of a set or touch */
	uint32		payloadlen;
} MlcEvent;

/*
 * The body of a set or touch:
 *
 *	 int64 ttl (ms, 0: none), int32 ntags, ntags times (int32 length, bytes),
 *	 then the value until the end.		All integers big-endian.
 */
typedef struct MlcBody
{
	int64		ttl;			/* ms; 0: none */
	int32		ntags;
	const char *value;
	uint32		valuelen;

	/* of mlc_event_body_next_tag() */
	const char *tags;
	int32		tags_left;
} MlcBody;

/* Appends a body. */
extern void mlc_event_body_make(StringInfo out, int64 ttl, int32 ntags,
								const char *const *tags, const uint32 *lens,
								const char *value, uint32 valuelen);

/* False if it is malformed (never reads beyond len).  Keeps data. */
extern bool mlc_event_body_open(MlcBody *body, const char *data, uint32 len);

/* The next tag of an opened body; false: no more. */
extern bool mlc_event_body_next_tag(MlcBody *body, const char **tag,
									uint32 *len);

/*
 * A message: one section a rule.
 *
 *	 byte 'M', byte 1 (format), then sections until the end:
 *	 int32 rule, int64 secret, byte flags, int32 nkeys, nkeys times
 *	 (byte op, int32 keylen, key bytes[, int32 bodylen, body]).
 *	 All integers big-endian.
 *
 * op is MLC_OP_INVALIDATE for a key that a row left or that has no payload
 * to take from the row, or the rule's own action for a key that a row has now.
 * In the section of no rule (MLC_RULE_FREE) it is what was called.
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
	const char *body;			/* of the key read last; NULL: none */
	uint32		bodylen;
} MlcMessageReader;

extern void mlc_event_message_begin(StringInfo out);
extern void mlc_event_message_section(StringInfo out,
									  const MlcMessageSection *section);
extern void mlc_event_message_key(StringInfo out, MlcOp op,
								  const char *key, uint32 keylen);

/* The same for an op that carries a body. */
extern void mlc_event_message_body(StringInfo out, MlcOp op,
								   const char *key, uint32 keylen,
								   const char *body, uint32 bodylen);

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

/*
 * "invalidate", "update", "replicate", "refresh", "truncate", "set", "delete",
 * "touch", "invalidate_tag", "invalidate_pattern".
 */
extern const char *mlc_event_op_name(MlcOp op);

/* What a consumer finds an event's key under: "key", "tag" or "pattern". */
extern const char *mlc_event_key_name(MlcOp op);

/*
 * Appends one JSON object without a line feed:
 * {"op":"update","key":"product:42","version":"...","rule":1,"payload":"..."}
 * payload is a JSON string (the payload's text, escaped), absent when NULL.
 * Key is absent for truncate, and called "tag" or "pattern" where it is one.  A
 * set has "ttl" (ms) and "tags" where it has them, a touch "ttl".  Keys are valid UTF-8 or ASCII by construction;
 * bytes below 0x20, '"' and '\' are escaped.
 */
extern void mlc_event_json(StringInfo out, const MlcEvent *event,
						   MlcVersion version);

#endif							/* MLC_MODEL_EVENT_H */
