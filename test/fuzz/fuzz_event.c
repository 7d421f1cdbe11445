/*-------------------------------------------------------------------------
 *
 * test/fuzz/fuzz_event.c
 *	  Messages: the reader stays within any bytes it is given, reads what the
 *	  encoder wrote, and accepts nothing that the encoder would not write.
 *
 * Input: a message, and at the same time the recipe of one.
 *
 *-------------------------------------------------------------------------
 */
#include "model/event.h"

#include "oracle.h"

int			LLVMFuzzerTestOneInput(const uint8_t * data, size_t size);

static const MlcOp ops[] = {
	MLC_OP_INVALIDATE, MLC_OP_UPDATE, MLC_OP_REPLICATE, MLC_OP_REFRESH,
	MLC_OP_SET, MLC_OP_DELETE, MLC_OP_TOUCH, MLC_OP_TAG, MLC_OP_PATTERN
};

/*
 * A body that opens is what the encoder makes of the parts it gives, and lies
 * within its bytes.
 */
static void
check_body(const char *data, uint32 len)
{
	MlcBody		body;
	StringInfoData again;
	const char *tags[64];
	uint32		lens[64];
	int			n = 0;

	if (!mlc_event_body_open(&body, data, len))
		return;
	CHECK(body.ttl >= 0);
	CHECK(body.value >= data && body.value + body.valuelen == data + len);
	if (body.ntags > 64)
		return;
	while (mlc_event_body_next_tag(&body, &tags[n], &lens[n]))
	{
		CHECK(tags[n] >= data && tags[n] + lens[n] <= body.value);
		n++;
	}
	CHECK(n == body.ntags);
	initStringInfo(&again);
	mlc_event_body_make(&again, body.ttl, n, tags, lens, body.value,
						body.valuelen);
	CHECK((uint32) again.len == len && memcmp(again.data, data, len) == 0);
	pfree(again.data);
}

/* Makes a body of up to two tags and a value, as the bytes say. */
static void
make_body(StringInfo out, const char *data, uint32 len)
{
	uint32		cut = len > 1 ? (unsigned char) data[0] % len : 0;
	const char *tags[2];
	uint32		lens[2];

	tags[0] = data;
	lens[0] = cut;
	tags[1] = data + cut;
	lens[1] = (len - cut) / 2;
	resetStringInfo(out);
	mlc_event_body_make(out, (int64) len << 20, (int) (len % 3), tags, lens,
						data, len);
	for (uint32 i = 0; i < (uint32) out->len; i++)
	{
		char	   *copy = malloc(i > 0 ? i : 1);

		memcpy(copy, out->data, i);
		check_body(copy, i);
		free(copy);
	}
	check_body(out->data, (uint32) out->len);
}

/*
 * Reads all of a message.  What was read goes back through the encoder into
 * "again" and must give the very bytes, as far as the reader came.
 * Returns the last answer of the reader: 0 or -1.
 */
static int
read_whole(const char *data, size_t len, StringInfo again)
{
	MlcMessageReader reader;
	MlcMessageSection section;
	MlcOp		op;
	const char *key;
	uint32		keylen;
	int			result;

	resetStringInfo(again);
	if (!mlc_event_message_open(&reader, data, len))
		return -1;
	mlc_event_message_begin(again);

	while ((result = mlc_event_message_next_section(&reader, &section)) > 0)
	{
		int32		nkeys = 0;

		CHECK(section.nkeys >= 0);
		CHECK((size_t) section.nkeys <= len / 5);
		mlc_event_message_section(again, &section);
		while ((result = mlc_event_message_next_key(&reader, &op, &key,
													&keylen)) > 0)
		{
			CHECK(key >= data && key + keylen <= data + len);
			CHECK((reader.body != NULL) == mlc_event_has_body(op));
			if (reader.body)
			{
				MlcBody		body;

				CHECK(reader.body + reader.bodylen <= data + len);
				CHECK(mlc_event_body_open(&body, reader.body, reader.bodylen));
				check_body(reader.body, reader.bodylen);
				mlc_event_message_body(again, op, key, keylen, reader.body,
									   reader.bodylen);
			}
			else
				mlc_event_message_key(again, op, key, keylen);
			nkeys++;
		}
		if (result < 0)
			break;
		CHECK(nkeys == section.nkeys);
	}

	CHECK((size_t) again->len <= len);
	CHECK(memcmp(again->data, data, (size_t) again->len) == 0);
	if (result == 0)
		CHECK((size_t) again->len == len);
	else
	{
		/* once malformed, always malformed */
		CHECK(mlc_event_message_next_key(&reader, &op, &key, &keylen) == -1);
		CHECK(mlc_event_message_next_section(&reader, &section) == -1);
	}
	return result;
}

/* Reads a few keys of each section only: the rest is skipped. */
static int
read_some(const char *data, size_t len, int some, int *nsections)
{
	MlcMessageReader reader;
	MlcMessageSection section;
	int			result;

	*nsections = 0;
	if (!mlc_event_message_open(&reader, data, len))
		return -1;
	while ((result = mlc_event_message_next_section(&reader, &section)) > 0)
	{
		(*nsections)++;
		for (int i = 0; i < some; i++)
		{
			MlcOp		op;
			const char *key;
			uint32		keylen;

			if (mlc_event_message_next_key(&reader, &op, &key, &keylen) <= 0)
				break;
		}
	}
	return result;
}

static void
check_bytes(const char *data, size_t len)
{
	StringInfoData again;
	int			whole;

	/* of its exact size, so that reading beyond it is seen */
	char	   *copy = malloc(len > 0 ? len : 1);

	memcpy(copy, data, len);
	initStringInfo(&again);
	whole = read_whole(copy, len, &again);
	for (int some = 0; some < 3; some++)
	{
		int			nsections;

		CHECK(read_some(copy, len, some, &nsections) == whole);
	}
	pfree(again.data);
	free(copy);
}

/* Builds a message as the bytes say and reads it back. */
static void
check_recipe(const uint8_t * data, size_t size)
{
	StringInfoData message;
	StringInfoData again;
	MlcMessageReader reader;
	MlcMessageSection sections[4];
	struct
	{
		MlcOp		op;
		const char *key;
		uint32		len;
	}			keys[4][8];
	StringInfoData body;
	int			nsections = 0;
	size_t		ends[4 + 4 * 8 + 1];
	int			nends = 0;
	size_t		at = 0;

	initStringInfo(&message);
	initStringInfo(&again);
	initStringInfo(&body);
	mlc_event_message_begin(&message);
	ends[nends++] = (size_t) message.len;
	while (nsections < 4 && at + 14 <= size)
	{
		MlcMessageSection *section = &sections[nsections];

		memcpy(&section->rule, data + at, 4);
		memcpy(&section->secret, data + at + 4, 8);
		section->flags = data[at + 12] & MLC_MESSAGE_ALL;
		section->nkeys = data[at + 13] % 8;
		at += 14;
		mlc_event_message_section(&message, section);
		if (section->nkeys == 0)
			ends[nends++] = (size_t) message.len;
		for (int i = 0; i < section->nkeys; i++)
		{
			uint32		len = at < size ? data[at++] : 0;

			if (len > size - at)
				len = (uint32) (size - at);
			keys[nsections][i].op = ops[len % lengthof(ops)];
			keys[nsections][i].key = (const char *) data + at;
			keys[nsections][i].len = len;
			if (mlc_event_has_body(keys[nsections][i].op))
			{
				make_body(&body, (const char *) data + at, len);
				mlc_event_message_body(&message, keys[nsections][i].op,
									   (const char *) data + at, len,
									   body.data, (uint32) body.len);
			}
			else
				mlc_event_message_key(&message, keys[nsections][i].op,
									  (const char *) data + at, len);
			CHECK(message.data[message.len] == '\0');
			at += len;
		}
		if (section->nkeys > 0)
			ends[nends++] = (size_t) message.len;
		nsections++;
	}

	CHECK(mlc_event_message_open(&reader, message.data, (size_t) message.len));
	for (int s = 0; s < nsections; s++)
	{
		MlcMessageSection got;
		MlcOp		op;
		const char *key;
		uint32		len;

		CHECK(mlc_event_message_next_section(&reader, &got) == 1);
		CHECK(got.rule == sections[s].rule);
		CHECK(got.secret == sections[s].secret);
		CHECK(got.flags == sections[s].flags);
		CHECK(got.nkeys == sections[s].nkeys);
		for (int i = 0; i < got.nkeys; i++)
		{
			CHECK(mlc_event_message_next_key(&reader, &op, &key, &len) == 1);
			CHECK(op == keys[s][i].op && len == keys[s][i].len);
			CHECK(memcmp(key, keys[s][i].key, len) == 0);
			if (mlc_event_has_body(op))
			{
				make_body(&body, key, len);
				CHECK(reader.bodylen == (uint32) body.len);
				CHECK(memcmp(reader.body, body.data, reader.bodylen) == 0);
			}
		}
		CHECK(mlc_event_message_next_key(&reader, &op, &key, &len) == 0);
	}
	{
		MlcMessageSection none;

		CHECK(mlc_event_message_next_section(&reader, &none) == 0);
		CHECK(mlc_event_message_next_section(&reader, &none) == 0);
	}

	/*
	 * Cut anywhere, the message is malformed, except between sections.
	 */
	if (message.len < 100)
	{
		for (size_t cut = 0; cut < (size_t) message.len; cut++)
		{
			char	   *copy = malloc(cut > 0 ? cut : 1);
			bool		whole = false;

			for (int i = 0; i < nends; i++)
				whole |= ends[i] == cut;
			memcpy(copy, message.data, cut);
			CHECK(read_whole(copy, cut, &again) == (whole ? 0 : -1));
			free(copy);
		}
	}

	/* Change one byte: anything may come out, within the bytes. */
	if (size > 2 && message.len > 0)
	{
		message.data[(data[0] * 256 + data[1]) % message.len] ^= (char) data[2];
		check_bytes(message.data, (size_t) message.len);
	}

	pfree(message.data);
	pfree(again.data);
	pfree(body.data);
}

int
LLVMFuzzerTestOneInput(const uint8_t * data, size_t size)
{
	check_bytes((const char *) data, size);
	check_recipe(data, size);
	return 0;
}
