/*-------------------------------------------------------------------------
 *
 * model/key.h
 *	  Key templates: parse, validate, render, match.
 *
 * A template is literal text with columns in braces: 'product:{id}',
 * 'price:{region}:{sku}'.  A literal brace is written twice ('{{', '}}').
 * Literal text is taken as it stands; the value of a column is escaped so
 * that rendering is injective and the key can be matched again: every byte
 * outside [A-Za-z0-9_.~@+=,-] and below 0x80 becomes %XX (upper-case hex);
 * bytes from 0x80 on (UTF-8) stand as they are.  So a value never contains a
 * brace, a glob character, a colon, a blank or a control character.
 *
 * Two columns must be separated by literal text that holds at least one byte
 * that a value never shows.
 *
 * A key must get along with its guard, which lives in the same hash slot
 * under a name made from the key (mlc_key_guard).  So these are no keys:
 * the empty one; what begins with "mlc:", our own names; what is one hash tag
 * from end to end ('{42}'), since its guard is that of the bare key ('42');
 * what has a '}' but no hash tag, since the guard would land in another slot.
 * A template that renders only such keys is refused; where a value decides
 * (an empty one in '{{{id}}}:cart', or 'mlc' in '{region}:{sku}'), rendering
 * says that there is no key, and matching says no.
 *
 * Touches neither catalogs nor Redis; compiles with FRONTEND for the fuzzers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_MODEL_KEY_H
#define MLC_MODEL_KEY_H

#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif
#include "lib/stringinfo.h"

#define MLC_KEY_MAX_COLUMNS 16
#define MLC_KEY_MAX_LEN 65535	/* bytes in a rendered key */
#define MLC_KEY_MAX_LITERAL 1024	/* bytes of literal text in a template */
#define MLC_KEY_MAX_TEMPLATE 8192	/* bytes in a template's text */

typedef struct MlcKeyPart
{
	bool		is_column;
	const char *text;			/* literal, or the column's name */
	int			len;
	int			column;			/* index into columns, when is_column */
	int			stop;			/* literal: offset of the first byte that a
								 * value never shows, or -1 */
} MlcKeyPart;

typedef struct MlcTemplate
{
	int			nparts;
	MlcKeyPart *parts;
	int			ncolumns;		/* distinct columns, in order of appearance */
	const char *columns[MLC_KEY_MAX_COLUMNS];
	bool		tagged;			/* its keys have a hash tag of their own */
	bool		check;			/* values decide whether there is a key */
} MlcTemplate;

/* Why a template was refused: for errdetail and errhint. */
typedef struct MlcKeyError
{
	const char *detail;			/* a sentence; never NULL on failure */
	const char *hint;			/* a sentence, or NULL; both are constants */
	int			position;		/* byte offset in the text, or -1 */
} MlcKeyError;

typedef enum MlcRender
{
	MLC_RENDER_OK,
	MLC_RENDER_NULL,			/* there is no key: a column was NULL, or see
								 * the top of this file */
	MLC_RENDER_TOO_LONG			/* over MLC_KEY_MAX_LEN */
} MlcRender;

/*
 * Parses and validates.  Returns a template allocated, with all it points to,
 * as one chunk in the current context (pfree() frees it whole), or NULL with
 * *error filled.  Does not keep text.
 */
extern MlcTemplate *mlc_key_parse(const char *text, MlcKeyError *error);

/*
 * Appends the key to out.  values[i] is the text form of columns[i], NULL for
 * SQL NULL.  On a result other than MLC_RENDER_OK out holds what it held.
 * A NULL column wins over a key that would be too long.  Needs no transaction;
 * allocates only where out must grow.
 */
extern MlcRender mlc_key_render(const MlcTemplate *template,
								const char *const *values, StringInfo out);

/*
 * The reverse: does this key come from this template?  On true values[i] is
 * the unescaped text of columns[i] (each a chunk of its own in the current
 * context); on false values is untouched.  A key that would not be rendered
 * letter by letter from these values is no match.  The text of a value is as
 * valid in the database's encoding as the key is.
 */
extern bool mlc_key_match(const MlcTemplate *template, const char *key,
						  size_t len, char **values);

/*
 * May this key, made by a user and by no template, have an entry?  False, with
 * *error filled, for the empty key, keys over MLC_KEY_MAX_LEN and those that
 * do not get along with their guard (top of this file).  What mlc_key_render
 * gives always passes.
 */
extern bool mlc_key_check(const char *key, size_t len, MlcKeyError *error);

/*
 * Appends a Redis glob that matches every key of the template.  It may match
 * other keys too (a star takes a colon, a value does not): before removing
 * what it found ask mlc_key_match.
 */
extern void mlc_key_glob(const MlcTemplate *template, StringInfo out);

/*
 * The same for all names that hold a key of the template: besides itself its
 * guard, and the copy that is kept of it.
 */
extern void mlc_key_names_glob(const MlcTemplate *template, StringInfo out);

/*
 * Appends the name of a key's guard: "mlc:" and the key where the key has a
 * hash tag of its own (first '{', and a '}' after it with something between),
 * else "mlc:{", the key, "}".  For keys that mlc_key_check lets pass it is in
 * the key's slot, and no two keys have the same guard.
 */
extern void mlc_key_guard(const char *key, size_t len, StringInfo out);

/*
 * Might the two templates render the same key?  Never a false "no"; a false
 * "yes" is allowed.
 */
extern bool mlc_key_overlap(const MlcTemplate *a, const MlcTemplate *b);

#endif							/* MLC_MODEL_KEY_H */
