/*-------------------------------------------------------------------------
 *
 * model/event.c
 *	  Encoding and reading of the logical message; the JSON line.
 *
 * The message is written by our own triggers and read back from WAL, but
 * anybody may put bytes of his choosing under our prefix.  So the reader takes
 * nothing on trust: every length is held against what is left before it is
 * used, and once a message has been found malformed it stays so.
 *
 * No locks.  Reading neither allocates nor raises: callable in decoding
 * callbacks.  Writing allocates only where the StringInfo must grow.
 *
 *-------------------------------------------------------------------------
 */
#include "model/event.h"

#include "port/pg_bswap.h"

#define MESSAGE_MAGIC 'M'
#define MESSAGE_FORMAT 1

#define SECTION_BYTES (4 + 8 + 1 + 4)
#define KEY_BYTES (1 + 4)		/* before the key itself */
#define BODY_LEN_BYTES 4		/* before the body itself */
#define BODY_BYTES (8 + 4)		/* of a body, before its tags */
#define TAG_BYTES 4				/* before the tag itself */

#define JSON_ESCAPE_BYTES 6		/* \u00XX */
#define JSON_PIECE 1024			/* bytes escaped between looks at the room */

/* keys_left of a reader that has met something malformed */
#define MALFORMED (-1)

/*
 * How a byte stands in a JSON string: 0 as it is, 'u' as \u00XX, anything
 * else after a backslash (RFC 8259, section 7).
 */
static const char json_escape[256] = {
	['\x00'] = 'u',['\x01'] = 'u',['\x02'] = 'u',['\x03'] = 'u',
	['\x04'] = 'u',['\x05'] = 'u',['\x06'] = 'u',['\x07'] = 'u',
	['\b'] = 'b',['\t'] = 't',['\n'] = 'n',['\x0b'] = 'u',
	['\f'] = 'f',['\r'] = 'r',['\x0e'] = 'u',['\x0f'] = 'u',
	['\x10'] = 'u',['\x11'] = 'u',['\x12'] = 'u',['\x13'] = 'u',
	['\x14'] = 'u',['\x15'] = 'u',['\x16'] = 'u',['\x17'] = 'u',
	['\x18'] = 'u',['\x19'] = 'u',['\x1a'] = 'u',['\x1b'] = 'u',
	['\x1c'] = 'u',['\x1d'] = 'u',['\x1e'] = 'u',['\x1f'] = 'u',
	['"'] = '"',['\\'] = '\\',
};

static inline char *
put_uint32(char *at, uint32 value)
{
	value = pg_hton32(value);
	memcpy(at, &value, sizeof(value));
	return at + sizeof(value);
}

static inline uint32
get_uint32(const char *at)
{
	uint32		value;

	memcpy(&value, at, sizeof(value));
	return pg_ntoh32(value);
}

/* May a key of a message carry this op? */
static inline bool
is_key_op(unsigned char op)
{
	return op == MLC_OP_INVALIDATE || op == MLC_OP_UPDATE ||
		op == MLC_OP_REPLICATE || op == MLC_OP_REFRESH ||
		op == MLC_OP_DELETE || mlc_event_has_body((MlcOp) op) ||
		op == MLC_OP_TAG || op == MLC_OP_PATTERN;
}

/* ---- bodies ---- */

void
mlc_event_body_make(StringInfo out, int64 ttl, int32 ntags,
					const char *const *tags, const uint32 *lens,
					const char *value, uint32 valuelen)
{
	char		head[BODY_BYTES];
	char	   *at = head;

	Assert(ttl >= 0 && ntags >= 0);
	at = put_uint32(at, (uint32) ((uint64) ttl >> 32));
	at = put_uint32(at, (uint32) ttl);
	put_uint32(at, (uint32) ntags);
	appendBinaryStringInfo(out, head, sizeof(head));
	for (int32 i = 0; i < ntags; i++)
	{
		char		len[TAG_BYTES];

		put_uint32(len, lens[i]);
		appendBinaryStringInfo(out, len, sizeof(len));
		appendBinaryStringInfo(out, tags[i], (int) lens[i]);
	}
	appendBinaryStringInfo(out, value, (int) valuelen);
}

bool
mlc_event_body_open(MlcBody *body, const char *data, uint32 len)
{
	const char *end = data + len;
	uint32		ntags;

	if (len < BODY_BYTES)
		return false;
	body->ttl = (int64) (((uint64) get_uint32(data) << 32) |
						 get_uint32(data + 4));
	ntags = get_uint32(data + 8);
	body->tags = data + BODY_BYTES;
	body->value = body->tags;

	/* the value begins where the last tag ends */
	for (uint32 i = 0; i < ntags; i++)
	{
		uint32		taglen;

		if (end - body->value < TAG_BYTES)
			return false;
		taglen = get_uint32(body->value);
		body->value += TAG_BYTES;
		if (taglen > (size_t) (end - body->value))
			return false;
		body->value += taglen;
	}
	body->valuelen = (uint32) (end - body->value);
	body->ntags = body->tags_left = (int32) ntags;
	return body->ttl >= 0;
}

bool
mlc_event_body_next_tag(MlcBody *body, const char **tag, uint32 *len)
{
	if (body->tags_left == 0)
		return false;
	*len = get_uint32(body->tags);
	*tag = body->tags + TAG_BYTES;
	body->tags = *tag + *len;
	body->tags_left--;
	return true;
}

/* ---- messages ---- */

void
mlc_event_message_begin(StringInfo out)
{
	const char	head[2] = {MESSAGE_MAGIC, MESSAGE_FORMAT};

	appendBinaryStringInfo(out, head, sizeof(head));
}

void
mlc_event_message_section(StringInfo out, const MlcMessageSection *section)
{
	char		head[SECTION_BYTES];
	char	   *at = head;
	uint64		secret = (uint64) section->secret;

	Assert(section->nkeys >= 0);
	Assert((section->flags & ~MLC_MESSAGE_ALL) == 0);

	at = put_uint32(at, (uint32) section->rule);
	at = put_uint32(at, (uint32) (secret >> 32));
	at = put_uint32(at, (uint32) secret);
	*at++ = (char) section->flags;
	put_uint32(at, (uint32) section->nkeys);
	appendBinaryStringInfo(out, head, sizeof(head));
}

void
mlc_event_message_key(StringInfo out, MlcOp op, const char *key, uint32 keylen)
{
	char	   *at;

	Assert(is_key_op((unsigned char) op));
	Assert(keylen <= PG_INT32_MAX - KEY_BYTES);

	enlargeStringInfo(out, KEY_BYTES + (int) keylen);
	at = out->data + out->len;
	*at++ = (char) op;
	at = put_uint32(at, keylen);
	memcpy(at, key, keylen);
	at[keylen] = '\0';
	out->len += KEY_BYTES + (int) keylen;
}

void
mlc_event_message_body(StringInfo out, MlcOp op, const char *key,
					   uint32 keylen, const char *body, uint32 bodylen)
{
	char		len[BODY_LEN_BYTES];

	Assert(mlc_event_has_body(op));
	mlc_event_message_key(out, op, key, keylen);
	put_uint32(len, bodylen);
	appendBinaryStringInfo(out, len, sizeof(len));
	appendBinaryStringInfo(out, body, (int) bodylen);
}

bool
mlc_event_message_open(MlcMessageReader *reader, const char *data, size_t len)
{
	if (len < 2 || data[0] != MESSAGE_MAGIC || data[1] != MESSAGE_FORMAT)
		return false;

	reader->data = data;
	reader->len = len;
	reader->pos = 2;
	reader->keys_left = 0;
	reader->body = NULL;
	reader->bodylen = 0;
	return true;
}

int
mlc_event_message_next_section(MlcMessageReader *reader,
							   MlcMessageSection *section)
{
	const char *at;
	uint32		nkeys;
	size_t		left;
	int			result;

	do
	{
		MlcOp		op;
		const char *key;
		uint32		keylen;

		result = mlc_event_message_next_key(reader, &op, &key, &keylen);
	} while (result > 0);
	if (result < 0)
		return -1;

	left = reader->len - reader->pos;
	if (left == 0)
		return 0;
	if (left < SECTION_BYTES)
	{
		reader->keys_left = MALFORMED;
		return -1;
	}

	at = reader->data + reader->pos;
	section->rule = (int32) get_uint32(at);
	section->secret = (int64) (((uint64) get_uint32(at + 4) << 32) |
							   get_uint32(at + 8));
	section->flags = (uint8) at[12];
	nkeys = get_uint32(at + 13);
	left -= SECTION_BYTES;

	/*
	 * A count that the rest cannot hold is refused here, so that the caller
	 * may make room for as many keys as it says.  A flag that we do not know
	 * says something that we would miss.
	 */
	if (nkeys > PG_INT32_MAX || nkeys > left / KEY_BYTES ||
		(section->flags & ~MLC_MESSAGE_ALL) != 0)
	{
		reader->keys_left = MALFORMED;
		return -1;
	}

	section->nkeys = (int32) nkeys;
	reader->keys_left = (int32) nkeys;
	reader->pos += SECTION_BYTES;
	return 1;
}

/* Reads what comes behind the key; false: it is malformed. */
static bool
read_body(MlcMessageReader *reader, MlcOp op)
{
	size_t		left = reader->len - reader->pos;
	MlcBody		body;
	uint32		n = 0;

	reader->body = NULL;
	reader->bodylen = 0;
	if (!mlc_event_has_body(op))
		return true;
	if (left >= BODY_LEN_BYTES)
	{
		reader->body = reader->data + reader->pos + BODY_LEN_BYTES;
		n = get_uint32(reader->data + reader->pos);
		left -= BODY_LEN_BYTES;
	}
	if (reader->body == NULL || n > left || n > PG_INT32_MAX ||
		!mlc_event_body_open(&body, reader->body, n))
	{
		reader->keys_left = MALFORMED;
		return false;
	}
	reader->bodylen = n;
	reader->pos += BODY_LEN_BYTES + n;
	return true;
}

int
mlc_event_message_next_key(MlcMessageReader *reader, MlcOp *op,
						   const char **key, uint32 *keylen)
{
	const char *at;
	size_t		left;
	uint32		n;

	if (reader->keys_left == 0)
		return 0;
	if (reader->keys_left == MALFORMED)
		return -1;

	at = reader->data + reader->pos;
	left = reader->len - reader->pos;
	if (left < KEY_BYTES || !is_key_op((unsigned char) at[0]))
	{
		reader->keys_left = MALFORMED;
		return -1;
	}
	left -= KEY_BYTES;
	n = get_uint32(at + 1);
	if (n > left || n > PG_INT32_MAX)
	{
		reader->keys_left = MALFORMED;
		return -1;
	}

	*op = (MlcOp) (unsigned char) at[0];
	*key = at + KEY_BYTES;
	*keylen = n;
	reader->pos += KEY_BYTES + n;
	reader->keys_left--;
	return read_body(reader, *op) ? 1 : -1;
}

const char *
mlc_event_op_name(MlcOp op)
{
	switch (op)
	{
		case MLC_OP_INVALIDATE:
			return "invalidate";
		case MLC_OP_UPDATE:
			return "update";
		case MLC_OP_REPLICATE:
			return "replicate";
		case MLC_OP_REFRESH:
			return "refresh";
		case MLC_OP_TRUNCATE:
			return "truncate";
		case MLC_OP_SET:
			return "set";
		case MLC_OP_DELETE:
			return "delete";
		case MLC_OP_FETCHED:
			break;
		case MLC_OP_TOUCH:
			return "touch";
		case MLC_OP_TAG:
			return "invalidate_tag";
		case MLC_OP_PATTERN:
			return "invalidate_pattern";
	}
	Assert(false);
	return "invalidate";		/* what is right for any entry */
}

/* Appends text as a JSON string, quotes included. */
static void
append_json_string(StringInfo out, const char *text, uint32 len)
{
	static const char hex[] = "0123456789abcdef";
	const unsigned char *at = (const unsigned char *) text;

	appendStringInfoCharMacro(out, '"');
	while (len > 0)
	{
		/* room for the worst case, a piece at a time */
		uint32		piece = Min(len, JSON_PIECE);
		char	   *to;

		enlargeStringInfo(out, (int) piece * JSON_ESCAPE_BYTES);
		to = out->data + out->len;
		for (const unsigned char *end = at + piece; at < end; at++)
		{
			char		escape = json_escape[*at];

			if (likely(escape == 0))
			{
				*to++ = (char) *at;
				continue;
			}
			*to++ = '\\';
			*to++ = escape;
			if (escape == 'u')
			{
				*to++ = '0';
				*to++ = '0';
				*to++ = hex[*at >> 4];
				*to++ = hex[*at & 0x0f];
			}
		}
		out->len = (int) (to - out->data);
		len -= piece;
	}
	appendStringInfoCharMacro(out, '"');
}

const char *
mlc_event_key_name(MlcOp op)
{
	return op == MLC_OP_TAG ? "tag" : op == MLC_OP_PATTERN ? "pattern" : "key";
}

/* Of a set or touch: its ttl, its tags, its value. */
static void
append_body(StringInfo out, const MlcEvent *event)
{
	MlcBody		body;
	const char *tag;
	uint32		len;
	bool		first = true;

	if (!mlc_event_body_open(&body, event->payload, event->payloadlen))
		return;
	if (body.ttl > 0)
		appendStringInfo(out, ",\"ttl\":" INT64_FORMAT, body.ttl);
	while (mlc_event_body_next_tag(&body, &tag, &len))
	{
		appendStringInfoString(out, first ? ",\"tags\":[" : ",");
		append_json_string(out, tag, len);
		first = false;
	}
	if (!first)
		appendStringInfoChar(out, ']');
	if (event->op == MLC_OP_SET)
	{
		appendStringInfoString(out, ",\"payload\":");
		append_json_string(out, body.value, body.valuelen);
	}
}

void
mlc_event_json(StringInfo out, const MlcEvent *event, MlcVersion version)
{
	char		digits[MLC_VERSION_LEN + 1];

	mlc_version_print(version, digits);

	appendStringInfoString(out, "{\"op\":\"");
	appendStringInfoString(out, mlc_event_op_name(event->op));
	appendStringInfoChar(out, '"');
	if (event->key != NULL && event->op != MLC_OP_TRUNCATE)
	{
		appendStringInfo(out, ",\"%s\":", mlc_event_key_name(event->op));
		append_json_string(out, event->key, event->keylen);
	}
	appendStringInfoString(out, ",\"version\":\"");
	appendBinaryStringInfo(out, digits, MLC_VERSION_LEN);
	appendStringInfo(out, "\",\"rule\":%d", event->rule);
	if (mlc_event_has_body(event->op))
		append_body(out, event);
	else if (event->payload != NULL)
	{
		appendStringInfoString(out, ",\"payload\":");
		append_json_string(out, event->payload, event->payloadlen);
	}
	appendStringInfoChar(out, '}');
}
