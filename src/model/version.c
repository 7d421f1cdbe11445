/*-------------------------------------------------------------------------
 *
 * model/version.c
 *	  Printing, reading and comparing versions.
 *
 * Lower-case hex in fixed width, timeline first: memcmp() of two texts orders
 * them as mlc_version_compare() does, in C, in Lua and in SQL (COLLATE "C").
 * Must not accept a text that it would not print.
 *
 * No locks, no allocation, no errors: callable anywhere, commit callbacks
 * included.
 *
 *-------------------------------------------------------------------------
 */
#include "model/version.h"

#define TLI_DIGITS 8
#define LSN_DIGITS 16

static void
print_hex(uint64 value, int digits, char *buf)
{
	static const char hex[] = "0123456789abcdef";

	for (int i = digits - 1; i >= 0; i--)
	{
		buf[i] = hex[value & 0x0f];
		value >>= 4;
	}
}

static bool
parse_hex(const char *text, int digits, uint64 *value)
{
	uint64		result = 0;

	for (int i = 0; i < digits; i++)
	{
		char		c = text[i];

		if (c >= '0' && c <= '9')
			result = (result << 4) | (uint64) (c - '0');
		else if (c >= 'a' && c <= 'f')
			result = (result << 4) | (uint64) (c - 'a' + 10);
		else
			return false;
	}

	*value = result;
	return true;
}

void
mlc_version_print(MlcVersion version, char *buf)
{
	print_hex(version.tli, TLI_DIGITS, buf);
	print_hex(version.lsn, LSN_DIGITS, buf + TLI_DIGITS);
	buf[MLC_VERSION_LEN] = '\0';
}

bool
mlc_version_parse(const char *text, size_t len, MlcVersion *version)
{
	uint64		tli;
	uint64		lsn;

	if (len != MLC_VERSION_LEN ||
		!parse_hex(text, TLI_DIGITS, &tli) ||
		!parse_hex(text + TLI_DIGITS, LSN_DIGITS, &lsn))
		return false;

	version->tli = (TimeLineID) tli;
	version->lsn = (XLogRecPtr) lsn;
	return true;
}

int
mlc_version_compare(MlcVersion a, MlcVersion b)
{
	if (a.tli != b.tli)
		return a.tli < b.tli ? -1 : 1;
	if (a.lsn != b.lsn)
		return a.lsn < b.lsn ? -1 : 1;
	return 0;
}
