/*-------------------------------------------------------------------------
 *
 * test/fuzz/fuzz_version.c
 *	  Versions: what is printed is read back, what is read is what would be
 *	  printed, and text sorts as versions do.
 *
 * Input: a text, or two times twelve bytes of timeline and LSN.
 *
 *-------------------------------------------------------------------------
 */
#include "model/version.h"

#include "oracle.h"

int			LLVMFuzzerTestOneInput(const uint8_t * data, size_t size);

static int
sign(int n)
{
	return (n > 0) - (n < 0);
}

static MlcVersion
take(const uint8_t * data)
{
	MlcVersion	version;

	memcpy(&version.tli, data, 4);
	memcpy(&version.lsn, data + 4, 8);
	return version;
}

static void
check_print(MlcVersion version, char *text)
{
	MlcVersion	again = {0, 0};
	char		expected[64];

	mlc_version_print(version, text);
	sprintf(expected, "%08x%016llx", version.tli,
			(unsigned long long) version.lsn);
	CHECK(strcmp(text, expected) == 0);
	CHECK(mlc_version_parse(text, strlen(text), &again));
	CHECK(again.tli == version.tli && again.lsn == version.lsn);
}

int
LLVMFuzzerTestOneInput(const uint8_t * data, size_t size)
{
	MlcVersion	version = {7, 77};
	char	   *copy = malloc(size + 1);

	/* of its exact size, so that reading beyond it is seen */
	copy = realloc(copy, size > 0 ? size : 1);
	memcpy(copy, data, size);
	if (mlc_version_parse(copy, size, &version))
	{
		char		text[MLC_VERSION_LEN + 1];

		CHECK(size == MLC_VERSION_LEN);
		mlc_version_print(version, text);
		CHECK(memcmp(text, copy, size) == 0);
	}
	else
		CHECK(version.tli == 7 && version.lsn == 77);
	free(copy);

	if (size >= 24)
	{
		MlcVersion	a = take(data);
		MlcVersion	b = take(data + 12);
		char		at[MLC_VERSION_LEN + 1];
		char		bt[MLC_VERSION_LEN + 1];

		/* let timelines meet now and then */
		if (size > 24 && (data[24] & 1))
			b.tli = a.tli;
		check_print(a, at);
		check_print(b, bt);
		CHECK(sign(mlc_version_compare(a, b)) == sign(strcmp(at, bt)));
		CHECK(sign(mlc_version_compare(a, b)) ==
			  -sign(mlc_version_compare(b, a)));
		CHECK(mlc_version_compare(a, a) == 0);
	}
	return 0;
}
