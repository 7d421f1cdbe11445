/*-------------------------------------------------------------------------
 *
 * model/key.c
 *	  Key templates: parse, validate, render, match, glob, guard, overlap.
 *
 * The alphabet of values is the whole idea.  A value is written with the
 * bytes of value_byte[] only, and between two columns there is a literal byte
 * outside of them (part->stop).  So in a key the first such byte after the
 * start of a value is the separator: matching needs no backtracking, one key
 * has one reading, and rendering is injective.
 *
 * Rendering runs for every changed row: one table look-up a byte, straight
 * into the StringInfo.
 *
 * No locks, no catalogs.  No errors but those of palloc().
 *
 *-------------------------------------------------------------------------
 */
#include "model/key.h"

#define OWN_PREFIX "mlc:"		/* begins our names in Redis, and no key */
#define OWN_PREFIX_LEN 4
#define STATE_PREFIX "state:"	/* after the former: the state of a server */
#define STATE_PREFIX_LEN 6

#define ESCAPE_BYTES 3			/* %XX */

/* Where a key's hash tag is: see find_tag(). */
typedef struct HashTag
{
	const char *open;			/* the brace, or NULL: no tag */
	const char *close;
} HashTag;

/* A template as overlap sees it: a byte, or ANY_VALUE. */
#define ANY_VALUE (-1)

/*
 * Bytes that a value shows as they are: [A-Za-z0-9_.~@+=,-] and UTF-8 above
 * ASCII.
 */
#define X16 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1
static const uint8 plain_byte[256] = {
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, /* + , - . */
	1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, /* 0-9 = */
	1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, /* @ A-O */
	1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, /* P-Z _ */
	0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, /* a-o */
	1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0, /* p-z ~ */
	X16, X16, X16, X16, X16, X16, X16, X16
};
#undef X16

static const char upper_hex[] = "0123456789ABCDEF";

/* Can this byte stand in a rendered value? */
static inline bool
value_byte(char c)
{
	return plain_byte[(unsigned char) c] || c == '%';
}

/* ----------
 * Keys and their guards
 * ----------
 */

/*
 * Finds the part of a key that Redis Cluster hashes: from the first '{' to the
 * first '}' after it, if there is something between ("Redis cluster
 * specification", hash tags).
 */
static inline HashTag
find_tag(const char *key, size_t len)
{
	HashTag		tag = {NULL, NULL};
	const char *open = memchr(key, '{', len);
	const char *close;

	if (open == NULL)
		return tag;
	close = memchr(open + 1, '}', len - (size_t) (open + 1 - key));
	if (close == NULL || close == open + 1)
		return tag;
	tag.open = open;
	tag.close = close;
	return tag;
}

/*
 * NULL if a key gets along with its guard, else a sentence that says why not.
 * The reasons are in key.h; what passes has a guard in its own slot, and no
 * other key has that guard.
 */
static const char *
key_fault(const char *key, size_t len)
{
	HashTag		tag;

	if (len == 0)
		return "The key is empty.";
	if (len >= OWN_PREFIX_LEN &&
		memcmp(key, OWN_PREFIX, OWN_PREFIX_LEN) == 0)
		return "Keys that begin with \"mlc:\" are mlcache's own.";

	tag = find_tag(key, len);
	if (tag.open == NULL)
	{
		if (memchr(key, '}', len) != NULL)
			return "The key has a closing brace but no hash tag, so its guard would be in another slot.";
	}
	else if (tag.open == key && tag.close == key + len - 1)
		return "The whole key is one hash tag, so it would share its guard with the key without braces.";
	else if (len >= STATE_PREFIX_LEN &&
			 memcmp(key, STATE_PREFIX, STATE_PREFIX_LEN) == 0)
		return "Keys with a hash tag that begin with \"state:\" would have mlcache's own keys as guards.";

	return NULL;
}

bool
mlc_key_check(const char *key, size_t len, MlcKeyError *error)
{
	const char *fault;

	if (len > MLC_KEY_MAX_LEN)
		fault = "The key is longer than 65535 bytes.";
	else
		fault = key_fault(key, len);
	if (fault == NULL)
		return true;

	error->detail = fault;
	error->hint = NULL;
	error->position = -1;
	return false;
}

void
mlc_key_guard(const char *key, size_t len, StringInfo out)
{
	bool		tagged = find_tag(key, len).open != NULL;

	enlargeStringInfo(out, (int) len + OWN_PREFIX_LEN + 2);
	appendBinaryStringInfo(out, OWN_PREFIX, OWN_PREFIX_LEN);
	if (!tagged)
		appendStringInfoCharMacro(out, '{');
	appendBinaryStringInfo(out, key, (int) len);
	if (!tagged)
		appendStringInfoCharMacro(out, '}');
}

/* ----------
 * Parsing
 * ----------
 */

static MlcTemplate *
refuse(MlcTemplate *template, MlcKeyError *error, int position,
	   const char *detail, const char *hint)
{
	if (template != NULL)
		pfree(template);
	error->detail = detail;
	error->hint = hint;
	error->position = position;
	return NULL;
}

/* The index of a column, entered if it is new; -1 if there are too many. */
static int
column_index(MlcTemplate *template, const char *name)
{
	for (int i = 0; i < template->ncolumns; i++)
	{
		if (strcmp(template->columns[i], name) == 0)
			return i;
	}
	if (template->ncolumns == MLC_KEY_MAX_COLUMNS)
		return -1;
	template->columns[template->ncolumns] = name;
	return template->ncolumns++;
}

/* The key of a template whose columns all have this value. */
static void
render_all(const MlcTemplate *template, const char *value, StringInfo out)
{
	const char *values[MLC_KEY_MAX_COLUMNS];
	MlcRender	result PG_USED_FOR_ASSERTS_ONLY;

	for (int i = 0; i < template->ncolumns; i++)
		values[i] = value;
	resetStringInfo(out);
	result = mlc_key_render(template, values, out);
	Assert(result == MLC_RENDER_OK);
}

/*
 * Sets tagged and check; returns what is wrong with every key of the template,
 * or NULL.
 *
 * Braces come from literals alone, so two probes tell everything about hash
 * tags: all columns filled, and all empty.  With some empty, a tag is empty,
 * or the whole key, only if it is with all empty.  The prefix needs a look of
 * its own: any value may complete it.
 */
static const char *
probe_keys(MlcTemplate *template)
{
	const MlcKeyPart *first = &template->parts[0];
	int			head = first->is_column ? 0 : first->len;
	StringInfoData key;
	const char *fault;

	template->check = false;
	initStringInfo(&key);

	render_all(template, "x", &key);
	fault = key_fault(key.data, key.len);
	template->tagged = find_tag(key.data, key.len).open != NULL;

	render_all(template, "", &key);
	if (key_fault(key.data, key.len) != NULL)
		template->check = true;
	if (head < OWN_PREFIX_LEN &&
		(head == 0 || memcmp(first->text, OWN_PREFIX, head) == 0))
		template->check = true;
	if (template->tagged && head < STATE_PREFIX_LEN &&
		(head == 0 || memcmp(first->text, STATE_PREFIX, head) == 0))
		template->check = true;

	pfree(key.data);
	return fault;
}

MlcTemplate *
mlc_key_parse(const char *text, MlcKeyError *error)
{
	static const char *const brace_hint =
	"Write a column as {name}, and a brace that is part of the key twice: {{ or }}.";
	MlcTemplate *template;
	MlcKeyPart *part = NULL;
	size_t		len = strlen(text);
	size_t		nbraces = 0;
	size_t		parts_at = MAXALIGN(sizeof(MlcTemplate));
	size_t		store_at;
	char	   *store;
	int			literal_len = 0;
	const char *fault;

	if (len == 0)
		return refuse(NULL, error, -1, "The template is empty.",
					  "Name at least one column, as in 'product:{id}'.");
	if (len > MLC_KEY_MAX_TEMPLATE)
		return refuse(NULL, error, -1,
					  "The template is longer than 8192 bytes.", NULL);

	/*
	 * One chunk: the template, its parts (at most one a brace, and one more),
	 * then their texts, which with a zero for each column need no more than
	 * the template's own text: a column's braces are left out.
	 */
	for (size_t i = 0; i < len; i++)
		nbraces += (text[i] == '{' || text[i] == '}');
	store_at = parts_at + (nbraces + 1) * sizeof(MlcKeyPart);
	template = palloc0(store_at + len + 1);
	template->parts = (MlcKeyPart *) ((char *) template + parts_at);
	store = (char *) template + store_at;

	for (size_t pos = 0; pos < len;)
	{
		char		c = text[pos];

		if (c == '{' && text[pos + 1] != '{')
		{
			size_t		name_len = strcspn(text + pos + 1, "{}");
			int			column;

			if (text[pos + 1 + name_len] != '}')
				return refuse(template, error, (int) pos,
							  "A brace is opened and not closed.", brace_hint);
			if (name_len == 0)
				return refuse(template, error, (int) pos,
							  "A column has no name.", brace_hint);

			memcpy(store, text + pos + 1, name_len);	/* zero stands there */
			column = column_index(template, store);
			if (column < 0)
				return refuse(template, error, (int) pos,
							  "The template names more than 16 columns.",
							  NULL);
			if (template->nparts > 0 &&
				(part->is_column ||
				 (template->nparts > 1 && part->stop < 0)))
				return refuse(template, error, (int) pos,
							  "Between two columns there must be a byte that their values never show.",
							  "Put a separator such as ':' between them, as in 'price:{region}:{sku}'.");

			part = &template->parts[template->nparts++];
			part->is_column = true;
			part->text = template->columns[column];
			part->len = (int) name_len;
			part->column = column;
			part->stop = -1;
			store += name_len + 1;
			pos += name_len + 2;
			continue;
		}

		if (c == '}' && text[pos + 1] != '}')
			return refuse(template, error, (int) pos,
						  "A brace is closed that was not opened.",
						  brace_hint);
		if ((unsigned char) c < 0x20 || c == 0x7f)
			return refuse(template, error, (int) pos,
						  "The template contains a control character.",
						  NULL);
		if (literal_len == MLC_KEY_MAX_LITERAL)
			return refuse(template, error, (int) pos,
						  "The template has more than 1024 bytes of literal text.",
						  NULL);

		if (part == NULL || part->is_column)
		{
			part = &template->parts[template->nparts++];
			part->text = store;
			part->stop = -1;
		}
		if (part->stop < 0 && !value_byte(c))
			part->stop = part->len;
		*store++ = c;
		part->len++;
		literal_len++;
		pos += (c == '{' || c == '}') ? 2 : 1;
	}

	if (template->ncolumns == 0)
		return refuse(template, error, -1, "The template names no column.",
					  "Name a column in single braces, as in 'product:{id}'.");

	fault = probe_keys(template);
	if (fault != NULL)
		return refuse(template, error, -1, fault,
					  "A hash tag is part of a key, as in 'cart:{{{user_id}}}'; a plain key needs no literal braces, as in 'cart:{user_id}'.");

	return template;
}

/* ----------
 * Rendering
 * ----------
 */

static inline void
reserve(StringInfo out, size_t bytes)
{
	if ((size_t) (out->maxlen - out->len) <= bytes)
		enlargeStringInfo(out, (int) bytes);
}

MlcRender
mlc_key_render(const MlcTemplate *template, const char *const *values,
			   StringInfo out)
{
	const MlcKeyPart *end = template->parts + template->nparts;
	int			start = out->len;

	for (int i = 0; i < template->ncolumns; i++)
	{
		if (values[i] == NULL)
			return MLC_RENDER_NULL;
	}

	for (const MlcKeyPart *part = template->parts; part < end; part++)
	{
		char	   *to;

		if (part->is_column)
		{
			const unsigned char *from;
			size_t		len;

			from = (const unsigned char *) values[part->column];
			len = strnlen((const char *) from, MLC_KEY_MAX_LEN + 1);
			if (len > MLC_KEY_MAX_LEN)
				goto too_long;
			reserve(out, len * ESCAPE_BYTES);
			to = out->data + out->len;
			for (; *from != '\0'; from++)
			{
				if (likely(plain_byte[*from]))
					*to++ = (char) *from;
				else
				{
					*to++ = '%';
					*to++ = upper_hex[*from >> 4];
					*to++ = upper_hex[*from & 0x0f];
				}
			}
		}
		else
		{
			reserve(out, (size_t) part->len);
			to = out->data + out->len;
			memcpy(to, part->text, (size_t) part->len);
			to += part->len;
		}
		out->len = (int) (to - out->data);
		if (out->len - start > MLC_KEY_MAX_LEN)
			goto too_long;
	}
	out->data[out->len] = '\0';

	if (unlikely(template->check) &&
		key_fault(out->data + start, (size_t) (out->len - start)) != NULL)
	{
		out->len = start;
		out->data[start] = '\0';
		return MLC_RENDER_NULL;
	}
	return MLC_RENDER_OK;

too_long:
	out->len = start;
	out->data[start] = '\0';
	return MLC_RENDER_TOO_LONG;
}

/* ----------
 * Matching
 * ----------
 */

static inline int
upper_hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/*
 * The byte that an escape at "at" stands for, or -1 if rendering would not
 * have written it: too short, no upper-case hex, or a byte that needs none.
 * Zero is in no value, and bytes from 0x80 on are plain.
 */
static inline int
unescape(const char *at, const char *end)
{
	int			high;
	int			low;
	int			c;

	if (end - at < ESCAPE_BYTES)
		return -1;
	high = upper_hex_digit(at[1]);
	low = upper_hex_digit(at[2]);
	if (high < 0 || low < 0)
		return -1;
	c = (high << 4) | low;
	return (c == 0 || plain_byte[c]) ? -1 : c;
}

/* Is this what rendering makes of some value? */
static bool
is_rendered_value(const char *at, const char *end)
{
	while (at < end)
	{
		if (*at == '%')
		{
			if (unescape(at, end) < 0)
				return false;
			at += ESCAPE_BYTES;
		}
		else if (plain_byte[(unsigned char) *at])
			at++;
		else
			return false;
	}
	return true;
}

bool
mlc_key_match(const MlcTemplate *template, const char *key, size_t len,
			  char **values)
{
	const char *at = key;
	const char *end = key + len;
	const char *found[MLC_KEY_MAX_COLUMNS] = {NULL};
	size_t		found_len[MLC_KEY_MAX_COLUMNS];

	if (len > MLC_KEY_MAX_LEN)
		return false;

	for (int i = 0; i < template->nparts; i++)
	{
		const MlcKeyPart *part = &template->parts[i];
		const char *value_end;
		size_t		value_len;

		if (!part->is_column)
		{
			if (end - at < part->len ||
				memcmp(at, part->text, (size_t) part->len) != 0)
				return false;
			at += part->len;
			continue;
		}

		/*
		 * Where does the value end?  The last one leaves room for the literal
		 * at the end.  Any other ends before the literal that follows, whose
		 * stop is the first byte that is in no value.
		 */
		if (i + 2 < template->nparts)
		{
			const MlcKeyPart *next = part + 1;

			value_end = at;
			while (value_end < end && value_byte(*value_end))
				value_end++;
			if (value_end - at < next->stop)
				return false;
			value_end -= next->stop;
		}
		else
		{
			int			tail = i + 1 < template->nparts ? part[1].len : 0;

			if (end - at < tail)
				return false;
			value_end = end - tail;
		}

		value_len = (size_t) (value_end - at);
		if (found[part->column] == NULL)
		{
			if (!is_rendered_value(at, value_end))
				return false;
			found[part->column] = at;
			found_len[part->column] = value_len;
		}
		else if (found_len[part->column] != value_len ||
				 memcmp(found[part->column], at, value_len) != 0)
			return false;
		at = value_end;
	}
	Assert(at == end);			/* the last column saw to that */

	if (template->check && key_fault(key, len) != NULL)
		return false;

	for (int i = 0; i < template->ncolumns; i++)
	{
		const char *from = found[i];
		const char *from_end = from + found_len[i];
		char	   *to = palloc(found_len[i] + 1);

		values[i] = to;
		while (from < from_end)
		{
			if (*from == '%')
			{
				*to++ = (char) unescape(from, from_end);
				from += ESCAPE_BYTES;
			}
			else
				*to++ = *from++;
		}
		*to = '\0';
	}
	return true;
}

/* ----------
 * Globs
 * ----------
 */

void
mlc_key_glob(const MlcTemplate *template, StringInfo out)
{
	for (int i = 0; i < template->nparts; i++)
	{
		const MlcKeyPart *part = &template->parts[i];

		if (part->is_column)
		{
			appendStringInfoChar(out, '*');
			continue;
		}
		for (int j = 0; j < part->len; j++)
		{
			char		c = part->text[j];

			if (strchr("*?[]\\", c) != NULL)
				appendStringInfoChar(out, '\\');
			appendStringInfoChar(out, c);
		}
	}
}

void
mlc_key_names_glob(const MlcTemplate *template, StringInfo out)
{
	appendStringInfoChar(out, '*');
	mlc_key_glob(template, out);
	appendStringInfoChar(out, '*');
}

/* ----------
 * Overlap
 * ----------
 */

/* A template as a sequence of bytes and ANY_VALUE; returns its length. */
static int
flatten(const MlcTemplate *template, int **tokens)
{
	int			n = 0;

	for (int i = 0; i < template->nparts; i++)
		n += template->parts[i].is_column ? 1 : template->parts[i].len;
	*tokens = palloc(sizeof(int) * n);

	n = 0;
	for (int i = 0; i < template->nparts; i++)
	{
		const MlcKeyPart *part = &template->parts[i];

		if (part->is_column)
			(*tokens)[n++] = ANY_VALUE;
		else
		{
			for (int j = 0; j < part->len; j++)
				(*tokens)[n++] = (unsigned char) part->text[j];
		}
	}
	return n;
}

/* Can ANY_VALUE take this token? */
static inline bool
value_takes(int token)
{
	return token == ANY_VALUE || value_byte((char) token);
}

/*
 * Is there a text that both patterns match?  Dynamic programming over their
 * prefixes: row[j] tells, for the first i tokens of one, whether they have a
 * text in common with the first j of the other.  Columns count as "any bytes
 * of values", each on its own, so the answer is "yes" for some templates that
 * have no key in common, for instance because of a column named twice.
 *
 * Time is the product of the lengths, at most some four million steps, memory
 * a row: for attach, not for a hot path.
 */
bool
mlc_key_overlap(const MlcTemplate *a, const MlcTemplate *b)
{
	int		   *as;
	int		   *bs;
	int			an = flatten(a, &as);
	int			bn = flatten(b, &bs);
	bool	   *row = palloc(sizeof(bool) * (bn + 1));
	bool		result;

	for (int i = 0; i <= an; i++)
	{
		bool		diagonal = false;	/* row[j - 1] of the row above */

		for (int j = 0; j <= bn; j++)
		{
			bool		above = i > 0 && row[j];
			bool		left = j > 0 && row[j - 1];
			bool		met = i == 0 && j == 0;

			/* a's token is an empty value, or part of b's value */
			if (above &&
				(as[i - 1] == ANY_VALUE ||
				 (j > 0 && bs[j - 1] == ANY_VALUE && value_takes(as[i - 1]))))
				met = true;
			/* the same the other way round */
			if (left &&
				(bs[j - 1] == ANY_VALUE ||
				 (i > 0 && as[i - 1] == ANY_VALUE && value_takes(bs[j - 1]))))
				met = true;
			/* the same byte in both */
			if (diagonal && as[i - 1] == bs[j - 1])
				met = true;

			diagonal = above;
			row[j] = met;
		}
	}
	result = row[bn];

	pfree(row);
	pfree(as);
	pfree(bs);
	return result;
}
