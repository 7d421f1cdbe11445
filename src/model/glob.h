/*-------------------------------------------------------------------------
 *
 * model/glob.h
 *	  Globs as Redis knows them.
 *
 * Touches neither catalogs nor Redis; compiles with FRONTEND for the fuzzers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_MODEL_GLOB_H
#define MLC_MODEL_GLOB_H

/*
 * Does the text match, as Redis' SCAN ... MATCH would say?  * any bytes, ? one,
 * [abc], [a-z], [^a] one of a class, \ takes away a meaning.  Bytes, whatever
 * the encoding.  The glob must be whole (below).
 */
extern bool mlc_glob_match(const char *glob, size_t globlen,
						   const char *text, size_t len);

/* Does it end outside of a class, and behind what its last \ escapes? */
extern bool mlc_glob_is_whole(const char *glob, size_t len);

#endif							/* MLC_MODEL_GLOB_H */
