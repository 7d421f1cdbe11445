/*-------------------------------------------------------------------------
 *
 * model/version.h
 *	  The version of a cached value: (timeline, commit end LSN).
 *
 * Printed as 24 lower-case hex digits, 8 of timeline and 16 of LSN, so that
 * comparing the text compares the version.  Touches neither catalogs nor
 * Redis; compiles with FRONTEND for the fuzzers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_MODEL_VERSION_H
#define MLC_MODEL_VERSION_H

#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif
#include "access/xlogdefs.h"

#define MLC_VERSION_LEN 24

typedef struct MlcVersion
{
	TimeLineID	tli;			/* the record's own timeline */
	XLogRecPtr	lsn;			/* end of the commit record */
} MlcVersion;

/* Writes MLC_VERSION_LEN digits and a terminating zero into buf. */
extern void mlc_version_print(MlcVersion version, char *buf);

/*
 * Reads exactly MLC_VERSION_LEN hex digits (upper case is refused, since the
 * text form is compared as text).  False, with *version untouched, for
 * anything else.
 */
extern bool mlc_version_parse(const char *text, size_t len, MlcVersion *version);

/* <0, 0, >0 as a is before, at or after b. */
extern int	mlc_version_compare(MlcVersion a, MlcVersion b);

static inline MlcVersion
mlc_version_later(MlcVersion a, MlcVersion b)
{
	return mlc_version_compare(a, b) >= 0 ? a : b;
}

#endif							/* MLC_MODEL_VERSION_H */
