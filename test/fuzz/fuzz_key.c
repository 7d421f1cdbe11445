/*-------------------------------------------------------------------------
 *
 * test/fuzz/fuzz_key.c
 *	  Key templates: every promise of model/key.h, on any template and values.
 *
 * Input: fields that end in a zero byte: a template, another template, a key,
 * a mask, then values, sixteen for one row and sixteen for another.  A value
 * that is missing is NULL; one that begins with \001 stands for its rest a
 * twenty times over.
 *
 *-------------------------------------------------------------------------
 */
#include "model/key.h"

#include "oracle.h"

#include <ctype.h>

int			LLVMFuzzerTestOneInput(const uint8_t * data, size_t size);

typedef struct Row
{
	char	   *values[MLC_KEY_MAX_COLUMNS];
} Row;

/* The next field, as a C string of its own; NULL when there is none. */
static char *
next_field(const uint8_t * *data, size_t *size)
{
	size_t		len;
	char	   *field;

	if (*size == 0)
		return NULL;
	len = strnlen((const char *) *data, *size);
	field = malloc(len + 1);
	memcpy(field, *data, len);
	field[len] = '\0';
	if (len < *size)
		len++;
	*data += len;
	*size -= len;
	return field;
}

static void
next_row(const uint8_t * *data, size_t *size, Row *row)
{
	for (int i = 0; i < MLC_KEY_MAX_COLUMNS; i++)
	{
		char	   *value = next_field(data, size);

		if (value != NULL && value[0] == '\001')
		{
			size_t		len = strlen(value + 1);
			char	   *many = malloc(len * 20 + 1);

			for (int j = 0; j < 20; j++)
				memcpy(many + len * (size_t) j, value + 1, len);
			many[len * 20] = '\0';
			free(value);
			value = many;
		}
		row->values[i] = value;
	}
}

static void
free_row(Row *row)
{
	for (int i = 0; i < MLC_KEY_MAX_COLUMNS; i++)
		free(row->values[i]);
}

/*
 * A template taken apart and put together again is what was written, it keeps
 * within its limits, and it has a key.
 */
static void
check_parse(const MlcTemplate *template, const char *text)
{
	StringInfoData again;
	StringInfoData key;
	int			ncolumns = 0;
	int			literal = 0;

	initStringInfo(&again);
	initStringInfo(&key);
	CHECK(template->nparts > 0);
	for (int i = 0; i < template->nparts; i++)
	{
		const MlcKeyPart *part = &template->parts[i];

		if (part->is_column)
		{
			CHECK(part->column >= 0 && part->column < template->ncolumns);
			CHECK(strcmp(part->text, template->columns[part->column]) == 0);
			CHECK((size_t) part->len == strlen(part->text) && part->len > 0);
			/* in order of appearance */
			CHECK(part->column <= ncolumns);
			if (part->column == ncolumns)
				ncolumns++;
			appendStringInfo(&again, "{%s}", part->text);
			appendStringInfoChar(&key, 'x');
			continue;
		}
		CHECK(part->len > 0);
		literal += part->len;
		appendBinaryStringInfo(&key, part->text, part->len);
		for (int j = 0; j < part->len; j++)
		{
			CHECK(!iscntrl((unsigned char) part->text[j]));
			appendStringInfoChar(&again, part->text[j]);
			if (part->text[j] == '{' || part->text[j] == '}')
				appendStringInfoChar(&again, part->text[j]);
		}
	}
	CHECK(ncolumns == template->ncolumns);
	CHECK(ncolumns > 0 && ncolumns <= MLC_KEY_MAX_COLUMNS);
	for (int i = 0; i < ncolumns; i++)
	{
		for (int j = 0; j < i; j++)
			CHECK(strcmp(template->columns[i], template->columns[j]) != 0);
	}
	CHECK(strcmp(again.data, text) == 0);
	CHECK(again.len <= MLC_KEY_MAX_TEMPLATE && literal <= MLC_KEY_MAX_LITERAL);
	CHECK(oracle_key_valid(key.data, (size_t) key.len));
	pfree(again.data);
	pfree(key.data);
}

static MlcTemplate *
parse(const char *text)
{
	MlcKeyError error = {NULL, NULL, -2};
	MlcTemplate *template = mlc_key_parse(text, &error);

	if (template != NULL)
	{
		check_parse(template, text);
		return template;
	}
	CHECK(error.detail != NULL && error.detail[0] != '\0');
	CHECK(error.position >= -1 && error.position < (int) strlen(text) + 1);
	return NULL;
}

/* What a row's key must be.  False if it has none: *why says what is wrong. */
static bool
expected_key(const MlcTemplate *template, const Row *row, StringInfo key,
			 MlcRender *why)
{
	resetStringInfo(key);
	*why = MLC_RENDER_NULL;
	for (int i = 0; i < template->ncolumns; i++)
	{
		if (row->values[i] == NULL)
			return false;
	}
	for (int i = 0; i < template->nparts; i++)
	{
		const MlcKeyPart *part = &template->parts[i];

		if (part->is_column)
			oracle_value(row->values[part->column], key);
		else
			appendBinaryStringInfo(key, part->text, part->len);

		/* as soon as can be: a few bytes of input can ask for megabytes */
		if (key->len > MLC_KEY_MAX_LEN)
		{
			*why = MLC_RENDER_TOO_LONG;
			return false;
		}
	}
	return oracle_key_valid(key->data, (size_t) key->len);
}

static void
check_values(const MlcTemplate *template, const char *key, size_t len,
			 const Row *row)
{
	char	   *values[MLC_KEY_MAX_COLUMNS];

	CHECK(mlc_key_match(template, key, len, values));
	for (int i = 0; i < template->ncolumns; i++)
	{
		CHECK(strcmp(values[i], row->values[i]) == 0);
		pfree(values[i]);
	}
}

/*
 * Renders a row behind bytes that must stay, and checks the key in every way.
 * True if there is a key.
 */
static bool
check_row(const MlcTemplate *template, const Row *row, StringInfo key)
{
	StringInfoData out;
	StringInfoData guard;
	StringInfoData again;
	MlcRender	why;
	MlcRender	result;
	MlcKeyError error = {NULL, NULL, -2};
	bool		has_key = expected_key(template, row, key, &why);

	initStringInfo(&out);
	appendStringInfoString(&out, "before");
	result = mlc_key_render(template, (const char *const *) row->values, &out);
	CHECK(strncmp(out.data, "before", 6) == 0);
	CHECK(out.data[out.len] == '\0');
	if (!has_key)
	{
		CHECK(result == why);
		CHECK(out.len == 6);

		/* what is no key for rendering is none for matching */
		if (why == MLC_RENDER_NULL)
		{
			char	   *values[MLC_KEY_MAX_COLUMNS];
			bool		complete = true;

			for (int i = 0; i < template->ncolumns; i++)
				complete &= row->values[i] != NULL;
			if (complete)
			{
				CHECK(!mlc_key_match(template, key->data, (size_t) key->len,
									 values));
				CHECK(!mlc_key_check(key->data, (size_t) key->len, &error));
				CHECK(error.detail != NULL);
			}
		}
		pfree(out.data);
		return false;
	}
	CHECK(result == MLC_RENDER_OK);
	CHECK(out.len == key->len + 6);
	CHECK(memcmp(out.data + 6, key->data, (size_t) key->len) == 0);
	pfree(out.data);

	check_values(template, key->data, (size_t) key->len, row);
	CHECK(mlc_key_check(key->data, (size_t) key->len, &error));

	initStringInfo(&guard);
	initStringInfo(&again);
	mlc_key_guard(key->data, (size_t) key->len, &guard);
	oracle_guard(key->data, (size_t) key->len, &again);
	CHECK(strcmp(guard.data, again.data) == 0);
	CHECK(oracle_slot(guard.data, (size_t) guard.len) ==
		  oracle_slot(key->data, (size_t) key->len));

	resetStringInfo(&again);
	mlc_key_glob(template, &again);
	CHECK(oracle_glob(again.data, (size_t) again.len,
					  key->data, (size_t) key->len));
	resetStringInfo(&again);
	mlc_key_names_glob(template, &again);
	CHECK(oracle_glob(again.data, (size_t) again.len,
					  key->data, (size_t) key->len));
	CHECK(oracle_glob(again.data, (size_t) again.len,
					  guard.data, (size_t) guard.len));

	pfree(guard.data);
	pfree(again.data);
	return true;
}

/* Any key: if it matches, it is what its values render to. */
static void
check_key(const MlcTemplate *template, const char *key, size_t len)
{
	char	   *untouched = (char *) template;
	char	   *values[MLC_KEY_MAX_COLUMNS];
	StringInfoData again;
	MlcRender	result;
	char	   *copy;

	for (int i = 0; i < MLC_KEY_MAX_COLUMNS; i++)
		values[i] = untouched;

	/* of its exact size, so that reading beyond it is seen */
	copy = malloc(len > 0 ? len : 1);
	memcpy(copy, key, len);
	if (!mlc_key_match(template, copy, len, values))
	{
		for (int i = 0; i < MLC_KEY_MAX_COLUMNS; i++)
			CHECK(values[i] == untouched);
		free(copy);
		return;
	}
	initStringInfo(&again);
	result = mlc_key_render(template, (const char *const *) values, &again);
	CHECK(result == MLC_RENDER_OK);
	CHECK((size_t) again.len == len && memcmp(again.data, key, len) == 0);
	for (int i = 0; i < template->ncolumns; i++)
		pfree(values[i]);
	pfree(again.data);
	free(copy);
}

/* A key's guard tells the key. */
static void
check_guards_differ(StringInfo a, StringInfo b)
{
	StringInfoData ga;
	StringInfoData gb;

	if (!oracle_key_valid(a->data, (size_t) a->len) ||
		!oracle_key_valid(b->data, (size_t) b->len))
		return;
	initStringInfo(&ga);
	initStringInfo(&gb);
	mlc_key_guard(a->data, (size_t) a->len, &ga);
	mlc_key_guard(b->data, (size_t) b->len, &gb);
	CHECK((strcmp(ga.data, gb.data) == 0) == (strcmp(a->data, b->data) == 0));
	pfree(ga.data);
	pfree(gb.data);
}

/* What has a key in common overlaps, whichever way one asks. */
static void
check_overlap(const MlcTemplate *a, const MlcTemplate *b, bool common_key)
{
	int			steps[2] = {1, 1};
	bool		answer;

	/* long templates take long and show nothing that short ones do not */
	for (int i = 0; i < a->nparts; i++)
		steps[0] += a->parts[i].is_column ? 1 : a->parts[i].len;
	for (int i = 0; i < b->nparts; i++)
		steps[1] += b->parts[i].is_column ? 1 : b->parts[i].len;
	if (steps[0] * steps[1] > 1000)
		return;

	answer = mlc_key_overlap(a, b);
	CHECK(mlc_key_overlap(b, a) == answer);
	CHECK(answer || !common_key);
}

/* Has this key both templates?  Then they overlap. */
static void
check_common_key(const MlcTemplate *a, const MlcTemplate *b, StringInfo key)
{
	char	   *values[MLC_KEY_MAX_COLUMNS];

	if (!mlc_key_match(b, key->data, (size_t) key->len, values))
		return;
	for (int i = 0; i < b->ncolumns; i++)
		pfree(values[i]);
	check_overlap(a, b, true);
}

static bool
masked(const char *mask, int *bit)
{
	size_t		len = strlen(mask);
	int			n = (*bit)++;

	if (len == 0)
		return false;
	return (mask[(size_t) (n / 8) % len] >> (n % 8)) & 1;
}

/*
 * A template that has this row's key too: some columns become the value they
 * have, some literal text at the ends and around separators becomes a column.
 */
static void
check_relative(const MlcTemplate *template, const Row *row, const char *mask,
			   StringInfo key)
{
	StringInfoData text;
	MlcTemplate *relative;
	MlcKeyError error;
	int			bit = 0;

	initStringInfo(&text);
	for (int i = 0; i < template->nparts; i++)
	{
		const MlcKeyPart *part = &template->parts[i];
		int			j = 0;

		if (part->is_column)
		{
			if (masked(mask, &bit))
				oracle_value(row->values[part->column], &text);
			else
				appendStringInfo(&text, "{%s}", part->text);
			continue;
		}
		while (j < part->len)
		{
			int			from = j;

			while (j < part->len && oracle_plain((unsigned char) part->text[j]))
				j++;
			/* a run between separators, or at one of the ends */
			if (j > from && (from > 0 || i == 0) &&
				(j < part->len || i == template->nparts - 1) &&
				masked(mask, &bit))
				appendStringInfo(&text, "{new%d}", bit);
			else
				appendBinaryStringInfo(&text, part->text + from, j - from);
			if (j < part->len)
			{
				char		c = part->text[j++];

				appendStringInfoChar(&text, c);
				if (c == '{' || c == '}')
					appendStringInfoChar(&text, c);
			}
		}
	}

	relative = mlc_key_parse(text.data, &error);
	if (relative != NULL)
	{
		check_common_key(template, relative, key);
		pfree(relative);
	}
	pfree(text.data);
}

int
LLVMFuzzerTestOneInput(const uint8_t * data, size_t size)
{
	char	   *text_a = next_field(&data, &size);
	char	   *text_b = next_field(&data, &size);
	char	   *any = next_field(&data, &size);
	char	   *mask = next_field(&data, &size);
	MlcTemplate *a = text_a != NULL ? parse(text_a) : NULL;
	MlcTemplate *b = text_b != NULL ? parse(text_b) : NULL;
	StringInfoData key1;
	StringInfoData key2;
	StringInfoData key_b;
	Row			row1;
	Row			row2;

	next_row(&data, &size, &row1);
	next_row(&data, &size, &row2);
	initStringInfo(&key1);
	initStringInfo(&key2);
	initStringInfo(&key_b);

	if (a != NULL)
	{
		bool		has1 = check_row(a, &row1, &key1);
		bool		has2 = check_row(a, &row2, &key2);

		check_overlap(a, a, true);
		if (has1 && has2)
		{
			bool		same = true;

			for (int i = 0; i < a->ncolumns; i++)
				same &= strcmp(row1.values[i], row2.values[i]) == 0;
			CHECK((strcmp(key1.data, key2.data) == 0) == same);
			check_guards_differ(&key1, &key2);
		}
		if (has1 && mask != NULL)
			check_relative(a, &row1, mask, &key1);
		if (any != NULL)
			check_key(a, any, strlen(any));

		/* a key that is nearly one of ours */
		if (has1 && key1.len > 0 && mask != NULL && strlen(mask) > 2)
		{
			int			at = ((unsigned char) mask[0] * 256 +
							  (unsigned char) mask[1]) % key1.len;
			char		was = key1.data[at];

			key1.data[at] = mask[2];
			check_key(a, key1.data, (size_t) key1.len);
			key1.data[at] = was;
			check_key(a, key1.data, (size_t) at);
		}
		if (b != NULL)
		{
			check_overlap(a, b, false);
			if (has1)
				check_common_key(a, b, &key1);
			if (check_row(b, &row1, &key_b))
			{
				check_common_key(b, a, &key_b);
				if (has1)
					check_guards_differ(&key1, &key_b);
			}
		}
	}
	if (any != NULL)
	{
		MlcKeyError error;

		CHECK(mlc_key_check(any, strlen(any), &error) ==
			  oracle_key_valid(any, strlen(any)));
	}

	pfree(key1.data);
	pfree(key2.data);
	pfree(key_b.data);
	free_row(&row1);
	free_row(&row2);
	if (a != NULL)
		pfree(a);
	if (b != NULL)
		pfree(b);
	free(text_a);
	free(text_b);
	free(any);
	free(mask);
	return 0;
}
