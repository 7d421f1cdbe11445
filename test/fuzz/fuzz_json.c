/*-------------------------------------------------------------------------
 *
 * test/fuzz/fuzz_json.c
 *	  The JSON line: it parses, strictly, and says what the event said, byte
 *	  by byte; and it is one line.
 *
 * Input: op, rule, version, length of the key, key, payload.
 *
 *-------------------------------------------------------------------------
 */
#include "model/event.h"

#include "oracle.h"

int			LLVMFuzzerTestOneInput(const uint8_t * data, size_t size);

static bool
is(StringInfo got, const char *text, size_t len)
{
	return (size_t) got->len == len && memcmp(got->data, text, len) == 0;
}

/* Reads a member's name; there is a comma before all but the first. */
static bool
member(OracleJson *json, const char *name, StringInfo scratch)
{
	return oracle_json_string(json, scratch) &&
		is(scratch, name, strlen(name)) && oracle_json_token(json, ':');
}

int
LLVMFuzzerTestOneInput(const uint8_t * data, size_t size)
{
	static const struct
	{
		MlcOp		op;
		const char *name;
	}			ops[] = {
		{MLC_OP_INVALIDATE, "invalidate"}, {MLC_OP_UPDATE, "update"},
		{MLC_OP_REPLICATE, "replicate"}, {MLC_OP_REFRESH, "refresh"},
		{MLC_OP_TRUNCATE, "truncate"}
	};
	const char *name;
	MlcEvent	event = {0};
	MlcVersion	version;
	char		digits[MLC_VERSION_LEN + 1];
	StringInfoData out;
	StringInfoData got;
	OracleJson	json;
	char	   *key;
	char	   *payload = NULL;
	long		rule;

	if (size < 18)
		return 0;
	event.op = ops[data[0] % 5].op;
	name = ops[data[0] % 5].name;
	memcpy(&event.rule, data + 1, 4);
	memcpy(&version.tli, data + 5, 4);
	memcpy(&version.lsn, data + 9, 8);
	event.keylen = data[17];
	data += 18;
	size -= 18;
	if (event.keylen > size)
		event.keylen = (uint32) size;

	/* of their exact sizes, so that reading beyond them is seen */
	key = malloc(event.keylen > 0 ? event.keylen : 1);
	memcpy(key, data, event.keylen);
	event.key = event.op == MLC_OP_TRUNCATE ? NULL : key;
	if (event.op == MLC_OP_UPDATE || event.op == MLC_OP_REPLICATE)
	{
		event.payloadlen = (uint32) (size - event.keylen);
		payload = malloc(event.payloadlen > 0 ? event.payloadlen : 1);
		memcpy(payload, data + event.keylen, event.payloadlen);
		event.payload = payload;
	}

	initStringInfo(&out);
	initStringInfo(&got);
	appendStringInfoString(&out, "before");
	mlc_event_json(&out, &event, version);
	CHECK(strncmp(out.data, "before", 6) == 0);
	CHECK(out.data[out.len] == '\0');
	CHECK(memchr(out.data, '\n', (size_t) out.len) == NULL);

	json.at = out.data + 6;
	json.end = out.data + out.len;
	CHECK(oracle_json_token(&json, '{'));
	CHECK(member(&json, "op", &got));
	CHECK(oracle_json_string(&json, &got) && is(&got, name, strlen(name)));
	if (event.key != NULL)
	{
		CHECK(oracle_json_token(&json, ','));
		CHECK(member(&json, "key", &got));
		CHECK(oracle_json_string(&json, &got));
		CHECK(is(&got, event.key, event.keylen));
	}
	CHECK(oracle_json_token(&json, ','));
	CHECK(member(&json, "version", &got));
	CHECK(oracle_json_string(&json, &got));
	mlc_version_print(version, digits);
	CHECK(is(&got, digits, MLC_VERSION_LEN));
	CHECK(oracle_json_token(&json, ','));
	CHECK(member(&json, "rule", &got));
	CHECK(oracle_json_int(&json, &rule) && rule == event.rule);
	if (event.payload != NULL)
	{
		CHECK(oracle_json_token(&json, ','));
		CHECK(member(&json, "payload", &got));
		CHECK(oracle_json_string(&json, &got));
		CHECK(is(&got, event.payload, event.payloadlen));
	}
	CHECK(oracle_json_token(&json, '}'));
	CHECK(json.at == json.end);

	pfree(out.data);
	pfree(got.data);
	free(key);
	free(payload);
	return 0;
}
