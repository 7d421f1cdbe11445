/*-------------------------------------------------------------------------
 *
 * test/fuzz/oracle.h
 *	  What the harnesses hold the code against: the same questions answered in
 *	  another way, from the specifications and not from the code under test.
 *
 * Slow and plain on purpose.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_FUZZ_ORACLE_H
#define MLC_FUZZ_ORACLE_H

#include "postgres_fe.h"
#include "lib/stringinfo.h"

/* Fails the run, whatever the build's flags: libFuzzer keeps the input. */
#define CHECK(condition) \
	((condition) ? (void) 0 : oracle_fail(#condition, __FILE__, __LINE__))

/*
 * Many of these are used by one harness only.  None is of interest to the
 * fuzzer, which would spend its time on counting bits of CRCs.
 */
#ifdef __clang__
#define ORACLE static inline \
	__attribute__((unused, no_sanitize("coverage")))
#else
#define ORACLE static inline __attribute__((unused))
#endif

ORACLE void
oracle_fail(const char *condition, const char *file, int line)
{
	fprintf(stderr, "%s:%d: check failed: %s\n", file, line, condition);
	abort();
}

/*
 * CRC16-XMODEM of Redis Cluster (specification, appendix A): polynomial
 * 0x1021, initial value 0, nothing reflected.  A byte at a time, from a table
 * that is made bit by bit.
 */
ORACLE		uint16
oracle_crc16(const char *data, size_t len)
{
	static uint16 table[256];
	uint16		crc = 0;

	for (int byte = 0; byte < 256 && table[255] == 0; byte++)
	{
		uint16		rest = (uint16) (byte << 8);

		for (int bit = 0; bit < 8; bit++)
			rest = (uint16) ((rest & 0x8000) ? (rest << 1) ^ 0x1021 : rest << 1);
		table[byte] = rest;
	}
	for (size_t i = 0; i < len; i++)
		crc = (uint16) ((crc << 8) ^
						table[((crc >> 8) ^ (unsigned char) data[i]) & 0xff]);
	return crc;
}

/* The slot of a key: of its hash tag if it has one (specification, "hash tags"). */
ORACLE int
oracle_slot(const char *key, size_t len)
{
	for (size_t open = 0; open < len; open++)
	{
		if (key[open] != '{')
			continue;
		for (size_t close = open + 1; close < len; close++)
		{
			if (key[close] != '}')
				continue;
			if (close > open + 1)
				return oracle_crc16(key + open + 1, close - open - 1) % 16384;
			break;
		}
		break;
	}
	return oracle_crc16(key, len) % 16384;
}

/*
 * Does a text match a Redis glob?  The pattern language as the manual of KEYS
 * tells it: * ? [abc] [^abc] [a-z] and a backslash before what is meant
 * literally.  The usual two-pointer search: on a mismatch the last star takes
 * one byte more.
 */
ORACLE bool
oracle_glob_one(const char *glob, size_t glen, size_t *g, char c)
{
	size_t		at = *g;

	if (glob[at] == '?')
	{
		*g = at + 1;
		return true;
	}
	if (glob[at] == '[')
	{
		bool		negated = false;
		bool		found = false;

		at++;
		if (at < glen && glob[at] == '^')
		{
			negated = true;
			at++;
		}
		while (at < glen && glob[at] != ']')
		{
			unsigned char low;
			unsigned char high;

			if (glob[at] == '\\' && at + 1 < glen)
				at++;
			low = high = (unsigned char) glob[at++];
			if (at + 1 < glen && glob[at] == '-')
			{
				high = (unsigned char) glob[at + 1];
				at += 2;
			}
			if (low > high)
			{
				unsigned char swap = low;

				low = high;
				high = swap;
			}
			if ((unsigned char) c >= low && (unsigned char) c <= high)
				found = true;
		}
		*g = at < glen ? at + 1 : at;
		return found != negated;
	}
	if (glob[at] == '\\' && at + 1 < glen)
		at++;
	*g = at + 1;
	return glob[at] == c;
}

ORACLE bool
oracle_glob(const char *glob, size_t glen, const char *text, size_t tlen)
{
	size_t		g = 0;
	size_t		t = 0;
	bool		starred = false;
	size_t		star_g = 0;
	size_t		star_t = 0;

	while (t < tlen || g < glen)
	{
		if (g < glen && glob[g] == '*')
		{
			starred = true;
			star_g = ++g;
			star_t = t;
			continue;
		}
		if (g < glen && t < tlen && oracle_glob_one(glob, glen, &g, text[t]))
		{
			t++;
			continue;
		}
		if (!starred || star_t >= tlen)
			return false;
		g = star_g;
		t = ++star_t;
	}
	return true;
}

/* The alphabet of values, as key.h tells it. */
ORACLE bool
oracle_plain(unsigned char c)
{
	return c >= 0x80 ||
		(c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
		(c >= '0' && c <= '9') ||
		(c != '\0' && strchr("_.~@+=,-", c) != NULL);
}

/* A value as it stands in a key. */
ORACLE void
oracle_value(const char *value, StringInfo out)
{
	for (; *value != '\0'; value++)
	{
		if (oracle_plain((unsigned char) *value))
			appendStringInfoChar(out, *value);
		else
			appendStringInfo(out, "%%%02X", (unsigned char) *value);
	}
}

/* The guard's name, as key.h tells it. */
ORACLE void
oracle_guard(const char *key, size_t len, StringInfo out)
{
	bool		tagged = false;
	const char *open = memchr(key, '{', len);

	if (open != NULL && open + 1 < key + len && open[1] != '}')
		tagged = memchr(open, '}', (size_t) (key + len - open)) != NULL;
	appendStringInfoString(out, tagged ? "mlc:" : "mlc:{");
	appendBinaryStringInfo(out, key, (int) len);
	if (!tagged)
		appendStringInfoChar(out, '}');
}

/*
 * Is the guard in the key's slot?  Equal slots by chance (one in 16384) prove
 * nothing, so where the guard adds the braces they must enclose all of the key.
 */
ORACLE bool
oracle_guard_placed(const char *key, size_t len)
{
	StringInfoData guard;
	bool		placed;

	initStringInfo(&guard);
	oracle_guard(key, len, &guard);
	placed = oracle_slot(guard.data, (size_t) guard.len) ==
		oracle_slot(key, len);
	if ((size_t) guard.len == len + 6 &&
		(len == 0 || memchr(key, '}', len) != NULL))
		placed = false;
	pfree(guard.data);
	return placed;
}

/*
 * May this key have an entry?  By the effect and not by the shape: it must not
 * be ours, its guard must be in its slot, and must not also be the guard of
 * what stands between the key's first and last byte.
 */
ORACLE bool
oracle_key_valid(const char *key, size_t len)
{
	bool		valid;

	if (len == 0 || len > 65535 || (len >= 4 && memcmp(key, "mlc:", 4) == 0))
		return false;

	valid = oracle_guard_placed(key, len);
	if (len >= 6 && memcmp(key, "state:", 6) == 0 && memchr(key, '}', len))
		valid = false;			/* "mlc:state:{x}" is no guard */
	if (valid && len > 2 && key[0] == '{' && key[len - 1] == '}' &&
		oracle_guard_placed(key + 1, len - 2))
	{
		StringInfoData guard;
		StringInfoData other;

		initStringInfo(&guard);
		initStringInfo(&other);
		oracle_guard(key, len, &guard);
		oracle_guard(key + 1, len - 2, &other);
		if (other.len == guard.len &&
			memcmp(other.data, guard.data, (size_t) guard.len) == 0)
			valid = false;
		pfree(guard.data);
		pfree(other.data);
	}
	return valid;
}

/* ----------
 * JSON: a strict reader (RFC 8259) of flat objects of strings and integers
 * ----------
 */

typedef struct OracleJson
{
	const char *at;
	const char *end;
} OracleJson;

/* Reads a string, decoded, into out; false if it is none. */
ORACLE bool
oracle_json_string(OracleJson *json, StringInfo out)
{
	resetStringInfo(out);
	if (json->at == json->end || *json->at++ != '"')
		return false;
	while (json->at < json->end)
	{
		unsigned char c = (unsigned char) *json->at++;
		unsigned int code = 0;

		if (c == '"')
			return true;
		if (c < 0x20)
			return false;
		if (c != '\\')
		{
			appendStringInfoChar(out, (char) c);
			continue;
		}
		if (json->at == json->end)
			return false;
		switch (c = (unsigned char) *json->at++)
		{
			case '"':
			case '\\':
			case '/':
				appendStringInfoChar(out, (char) c);
				break;
			case 'b':
				appendStringInfoChar(out, '\b');
				break;
			case 'f':
				appendStringInfoChar(out, '\f');
				break;
			case 'n':
				appendStringInfoChar(out, '\n');
				break;
			case 'r':
				appendStringInfoChar(out, '\r');
				break;
			case 't':
				appendStringInfoChar(out, '\t');
				break;
			case 'u':
				for (int i = 0; i < 4; i++)
				{
					const char *digit;

					if (json->at == json->end || *json->at == '\0')
						return false;
					digit = strchr("0123456789abcdefABCDEF", *json->at);
					if (digit == NULL)
						return false;
					json->at++;
					code = code * 16 + (unsigned int)
						(digit - "0123456789abcdefABCDEF" > 15 ?
						 *digit - 'A' + 10 :
						 *digit > '9' ? *digit - 'a' + 10 : *digit - '0');
				}
				/* we never escape what is not ASCII */
				if (code > 0x7f)
					return false;
				appendStringInfoChar(out, (char) code);
				break;
			default:
				return false;
		}
	}
	return false;
}

ORACLE bool
oracle_json_token(OracleJson *json, char c)
{
	if (json->at == json->end || *json->at != c)
		return false;
	json->at++;
	return true;
}

/* An integer without leading zeros. */
ORACLE bool
oracle_json_int(OracleJson *json, long *value)
{
	const char *from = json->at;
	const char *digits;
	char		buf[24];

	if (json->at < json->end && *json->at == '-')
		json->at++;
	digits = json->at;
	while (json->at < json->end && *json->at >= '0' && *json->at <= '9')
		json->at++;
	if (json->at == digits || (*digits == '0' && json->at > digits + 1) ||
		json->at - from >= (long) sizeof(buf))
		return false;
	memcpy(buf, from, (size_t) (json->at - from));
	buf[json->at - from] = '\0';
	*value = strtol(buf, NULL, 10);
	return true;
}

#endif							/* MLC_FUZZ_ORACLE_H */
