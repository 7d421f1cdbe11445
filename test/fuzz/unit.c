/*-------------------------------------------------------------------------
 *
 * test/fuzz/unit.c
 *	  Cases with a name: every refusal of a template, the edges of keys,
 *	  versions, messages and JSON.
 *
 * Prints TAP; exits 1 if anything is not ok.  Frees what it allocates, so that
 * valgrind can tell a leak.
 *
 *-------------------------------------------------------------------------
 */
#include "model/event.h"
#include "model/glob.h"
#include "model/key.h"

#include "oracle.h"

static int	ntests = 0;
static int	nfailed = 0;

static void ok(bool passed, const char *name,...)
			__attribute__((format(printf, 2, 3)));

static void
ok(bool passed, const char *name,...)
{
	va_list		args;

	printf("%sok %d - ", passed ? "" : "not ", ++ntests);
	va_start(args, name);
	vprintf(name, args);
	va_end(args);
	printf("\n");
	if (!passed)
		nfailed++;
}

static void
is_text(const char *got, const char *expected, const char *name)
{
	bool		same = strcmp(got, expected) == 0;

	ok(same, "%s", name);
	if (!same)
		printf("# got:      %s\n# expected: %s\n", got, expected);
}

/* A text of n times the same byte, to be freed. */
static char *
many(char c, size_t n)
{
	char	   *text = malloc(n + 1);

	memset(text, c, n);
	text[n] = '\0';
	return text;
}

/* ----------
 * Templates
 * ----------
 */

static void
refuses(const char *text, int position, const char *detail, bool hint)
{
	MlcKeyError error = {NULL, NULL, -2};
	MlcTemplate *template = mlc_key_parse(text, &error);
	bool		refused = template == NULL;

	ok(refused && strstr(error.detail, detail) != NULL &&
	   (error.hint != NULL) == hint && error.position == position,
	   "refused: '%.60s': %s", text, detail);
	if (refused && (strstr(error.detail, detail) == NULL ||
					(error.hint != NULL) != hint ||
					error.position != position))
		printf("# got: %s hint %s position %d\n", error.detail,
			   error.hint ? error.hint : "none", error.position);
	if (!refused)
		pfree(template);
}

static MlcTemplate *
parsed(const char *text)
{
	MlcKeyError error = {NULL, NULL, -2};
	MlcTemplate *template = mlc_key_parse(text, &error);

	if (template == NULL)
	{
		printf("Bail out! '%s' was refused: %s\n", text, error.detail);
		exit(1);
	}
	return template;
}

static void
accepts(const char *text, int ncolumns, bool tagged)
{
	MlcKeyError error = {NULL, NULL, -2};
	MlcTemplate *template = mlc_key_parse(text, &error);

	ok(template != NULL && template->ncolumns == ncolumns &&
	   template->tagged == tagged, "accepted: '%.60s', %d column(s), %s",
	   text, ncolumns, tagged ? "tagged" : "not tagged");
	if (template == NULL)
		printf("# %s\n", error.detail);
	else
		pfree(template);
}

static void
test_parse(void)
{
	StringInfoData text;
	char	   *long_text;

	refuses("", -1, "is empty", true);
	refuses("product", -1, "names no column", true);
	refuses("product:{{id}}", -1, "names no column", true);
	refuses("product:{id", 8, "opened and not closed", true);
	refuses("product:{", 8, "opened and not closed", true);
	refuses("product:{i{d}", 8, "opened and not closed", true);
	refuses("product:id}", 10, "closed that was not opened", true);
	refuses("product:{{id}", 12, "closed that was not opened", true);
	refuses("product:{id}}", 12, "closed that was not opened", true);
	refuses("product:{}", 8, "has no name", true);
	refuses("{a}:{}", 4, "has no name", true);
	refuses("{a}{b}", 3, "Between two columns", true);
	refuses("{a}{a}", 3, "Between two columns", true);
	refuses("p:{a}-{b}", 6, "Between two columns", true);
	refuses("p:{a}%25{b}", 8, "Between two columns", true);
	refuses("p:{a}\xc3\xa9{b}", 7, "Between two columns", true);
	refuses("p:{a}AZaz09_.~@+=,-{b}", 19, "Between two columns", true);
	refuses("p:{a}:{b}-{c}", 10, "Between two columns", true);
	refuses("mlc:{a}", -1, "begin with \"mlc:\"", true);
	refuses("mlc:{{{a}}}:x", -1, "begin with \"mlc:\"", true);
	refuses("{{{a}}}", -1, "whole key is one hash tag", true);
	refuses("{{user:{a}:{b}}}", -1, "whole key is one hash tag", true);
	refuses("a}}b:{c}", -1, "no hash tag", true);
	refuses("{{}}b:{c}", -1, "no hash tag", true);
	refuses("}}a{{b:{c}", -1, "no hash tag", true);
	refuses("a:\n{b}", 2, "control character", false);
	refuses("a:{b}\x7f", 5, "control character", false);
	refuses("a:{b}\x1f", 5, "control character", false);

	/* sixteen columns and no more; a column named again is no new one */
	initStringInfo(&text);
	for (int i = 0; i < MLC_KEY_MAX_COLUMNS; i++)
		appendStringInfo(&text, ":{c%d}", i);
	accepts(text.data, MLC_KEY_MAX_COLUMNS, false);
	appendStringInfoString(&text, ":{c0}:{c15}");
	accepts(text.data, MLC_KEY_MAX_COLUMNS, false);
	appendStringInfoString(&text, ":{more}");
	refuses(text.data, text.len - 6, "more than 16 columns", false);

	/* literal text: 1024 bytes and no more, a doubled brace being one */
	resetStringInfo(&text);
	long_text = many('x', MLC_KEY_MAX_LITERAL);
	appendStringInfo(&text, "%s{id}", long_text);
	accepts(text.data, 1, false);
	appendStringInfoChar(&text, 'y');
	refuses(text.data, text.len - 1, "1024 bytes of literal", false);
	resetStringInfo(&text);
	appendStringInfo(&text, "{{{id}}}%s", long_text + 2);
	accepts(text.data, 1, true);
	free(long_text);

	/* the text as a whole */
	resetStringInfo(&text);
	long_text = many('c', MLC_KEY_MAX_TEMPLATE - 2);
	appendStringInfo(&text, "{%s}", long_text);
	accepts(text.data, 1, false);
	free(long_text);
	appendStringInfoChar(&text, ':');
	refuses(text.data, -1, "longer than 8192", false);
	pfree(text.data);

	accepts("product:{id}", 1, false);
	accepts("price:{region}:{sku}", 2, false);
	accepts("{id}", 1, false);
	accepts("{region}:{sku}", 2, false);
	accepts("u:{{{user_id}}}:cart", 1, true);
	accepts("{{{a}}}:{b}", 2, true);
	accepts("{{a}}{b}", 1, true);
	accepts("x{{{a}}}", 1, true);
	accepts("a}}b{{{c}}}d", 1, true);
	accepts("a{{b:{c}", 1, false);
	accepts("a b:{c d}", 1, false);
	accepts("*?[a]\\:{id}", 1, false);
	accepts("MLC:{id}", 1, false);
	accepts("mlc{id}", 1, false);
	accepts("a:{x}:b:{x}", 1, false);
	accepts("{a}x:y{b}", 2, false);
}

/* ----------
 * Rendering and matching
 * ----------
 */

/* Renders two values; expected is NULL where there must be no key. */
static void
renders(const char *text, const char *v0, const char *v1, const char *expected)
{
	MlcTemplate *template = parsed(text);
	const char *values[MLC_KEY_MAX_COLUMNS] = {v0, v1};
	char	   *back[MLC_KEY_MAX_COLUMNS];
	StringInfoData out;
	MlcRender	result;

	initStringInfo(&out);
	appendStringInfoString(&out, "<");
	result = mlc_key_render(template, values, &out);
	if (expected == NULL)
	{
		ok(result == MLC_RENDER_NULL && strcmp(out.data, "<") == 0 &&
		   out.len == 1, "no key: '%s' of '%s', '%s'", text,
		   v0 ? v0 : "NULL", v1 ? v1 : "NULL");
	}
	else
	{
		bool		passed = result == MLC_RENDER_OK &&
		strcmp(out.data + 1, expected) == 0 &&
		(size_t) out.len == strlen(expected) + 1;

		ok(passed, "'%s' renders '%s'", text, expected);
		if (!passed)
			printf("# got: %d %s\n", result, out.data);
		passed = mlc_key_match(template, out.data + 1,
							   (size_t) out.len - 1, back);
		for (int i = 0; passed && i < template->ncolumns; i++)
		{
			if (strcmp(back[i], values[i]) != 0)
				printf("# column %d: %s\n", i, back[i]);
			else
			{
				pfree(back[i]);
				continue;
			}
			passed = false;
		}
		ok(passed, "'%s' matches '%s'", text, expected);
	}
	pfree(out.data);
	pfree(template);
}

static void
no_match(const char *text, const char *key)
{
	MlcTemplate *template = parsed(text);
	char	   *values[MLC_KEY_MAX_COLUMNS];
	size_t		len = strlen(key);
	char	   *copy = malloc(len > 0 ? len : 1);

	memcpy(copy, key, len);		/* valgrind watches its end */
	ok(!mlc_key_match(template, copy, len, values),
	   "'%s' does not match '%s'", text, key);
	free(copy);
	pfree(template);
}

static void
test_render(void)
{
	char		all[256];
	StringInfoData expected;

	renders("product:{id}", "42", NULL, "product:42");
	renders("product:{id}", "", NULL, "product:");
	renders("product:{id}", NULL, NULL, NULL);
	renders("{a}:{b}", "x", NULL, NULL);
	renders("{a}:{b}", NULL, "x", NULL);
	renders("{b}:{a}:{b}", "1", "2", "1:2:1");
	renders("price:{region}:{sku}", "eu:west", "a b", "price:eu%3Awest:a%20b");
	renders("p:{a}", "50%", NULL, "p:50%25");
	renders("p:{a}", "%41", NULL, "p:%2541");
	renders("p:{a}", "{x}", NULL, "p:%7Bx%7D");
	renders("p:{a}", "*?[]\\^", NULL, "p:%2A%3F%5B%5D%5C%5E");
	renders("p:{a}", "\001\t\n\x1f\x7f", NULL, "p:%01%09%0A%1F%7F");
	renders("p:{a}", "Z\xc3\xbcrich", NULL, "p:Z\xc3\xbcrich");
	renders("p:{a}", "_.~@+=,-", NULL, "p:_.~@+=,-");
	renders("{a}ab:cd{b}", "1ab", "cd2", "1abab:cdcd2");
	renders("{a}%:{b}", "%", "x", "%25%:x");
	renders("{id}.json", "a.json", NULL, "a.json.json");

	/* hash tags, and where a value decides that there is no key */
	renders("u:{{{id}}}:cart", "42", NULL, "u:{42}:cart");
	renders("u:{{{id}}}:cart", "", NULL, NULL);
	renders("u:{{{a}:{b}}}", "", "", "u:{:}");
	renders("{{a}}{id}", "7", NULL, "{a}7");
	renders("{{a}}{id}", "", NULL, NULL);
	renders("{id}{{a}}", "", NULL, NULL);
	renders("{id}{{a}}{x}", "", "1", "{a}1");
	renders("{id}{{a}}{x}", "", "", NULL);
	renders("{id}", "", NULL, NULL);
	renders("{id}", "x", NULL, "x");
	renders("{region}:{sku}", "mlc", "1", NULL);
	renders("{region}:{sku}", "mlcx", "1", "mlcx:1");
	renders("{region}:{sku}", "ml", "1", "ml:1");
	renders("m{a}:{b}", "lc", "x", NULL);
	renders("m{a}:{b}", "l", "c", "ml:c");
	renders("mlc{a}:{b}", "", "x", NULL);
	renders("{a}mlc:{b}", "", "x", NULL);
	renders("{a}mlc:{b}", "y", "x", "ymlc:x");
	no_match("u:{{{id}}}:cart", "u:{}:cart");
	no_match("{{a}}{id}", "{a}");
	no_match("{id}", "");
	no_match("{region}:{sku}", "mlc:1");
	no_match("{a}mlc:{b}", "mlc:x");

	/* what is not letter by letter what would be rendered */
	no_match("p:{a}", "p:%3a");
	no_match("p:{a}", "p:%41");
	no_match("p:{a}", "p:%00");
	no_match("p:{a}", "p:%C3%BC");
	no_match("p:{a}", "p:%");
	no_match("p:{a}", "p:%3");
	no_match("p:{a}", "p:%G0");
	no_match("p:{a}:{b}", "p:%3:x");
	no_match("p:{a}", "p:/0");
	no_match("p:{a}", "p:%/A");
	no_match("p:{a}", "p:%2/");
	no_match("p:{a}", "p:%2`");
	no_match("p:{a}", "p:%0G");
	no_match("p:{a}", "p:a b");
	no_match("p:{a}", "p:a:b");
	no_match("p:{a}", "p:{a}");
	no_match("p:{a}", "p");
	no_match("p:{a}", "");
	no_match("p:{a}", "q:1");
	no_match("p:{a}:x", "p:1:y");
	no_match("p:{a}:x", "p:1:xx");
	no_match("p:{a}:x", "p:1");
	no_match("p:{a}:x", "p:");
	no_match("{a}.json", "json");
	no_match("{a}:{b}", "x");
	no_match("{a}ab:{b}", "b:x");
	no_match("{a}ab:{b}", "xb:x");
	no_match("{a}:{b}:{a}", "1:2:3");
	no_match("{a}:{b}:{a}", "1:2:11");
	no_match("{a}:{b}:{a}", "11:2:1");

	/* every byte that a text can hold */
	for (int c = 1; c < 256; c++)
		all[c - 1] = (char) c;
	all[255] = '\0';
	initStringInfo(&expected);
	appendStringInfoString(&expected, "p:");
	oracle_value(all, &expected);
	renders("p:{a}", all, NULL, expected.data);
	pfree(expected.data);
}

static void
test_limits(void)
{
	MlcTemplate *template = parsed("{a}:{b}");
	StringInfoData out;
	const char *values[MLC_KEY_MAX_COLUMNS] = {NULL};
	char	   *back[MLC_KEY_MAX_COLUMNS];
	char	   *fits = many('x', MLC_KEY_MAX_LEN - 2);
	char	   *wide = many(' ', (MLC_KEY_MAX_LEN - 3) / 3);
	char	   *huge = many('x', 4 * 1024 * 1024);
	char	   *too_wide = many(' ', MLC_KEY_MAX_LEN / 3 + 1);
	bool		matched;

	initStringInfo(&out);
	appendStringInfoString(&out, "<");

	values[0] = fits;
	values[1] = "y";
	ok(mlc_key_render(template, values, &out) == MLC_RENDER_OK &&
	   out.len == 1 + MLC_KEY_MAX_LEN, "a key of 65535 bytes renders");
	matched = mlc_key_match(template, out.data + 1, MLC_KEY_MAX_LEN, back);
	ok(matched, "and matches");
	if (matched)
	{
		pfree(back[0]);
		pfree(back[1]);
	}
	appendStringInfoChar(&out, 'y');
	ok(!mlc_key_match(template, out.data + 1, MLC_KEY_MAX_LEN + 1, back),
	   "one of 65536 does not match");
	out.len = 1;
	out.data[1] = '\0';

	values[1] = "yz";
	ok(mlc_key_render(template, values, &out) == MLC_RENDER_TOO_LONG &&
	   out.len == 1 && strcmp(out.data, "<") == 0,
	   "a key of 65536 bytes is too long and leaves nothing behind");
	values[0] = wide;
	values[1] = "";
	ok(mlc_key_render(template, values, &out) == MLC_RENDER_OK,
	   "escapes count as three bytes: still fits");
	out.len = 1;
	out.data[1] = '\0';
	values[0] = too_wide;
	ok(mlc_key_render(template, values, &out) == MLC_RENDER_TOO_LONG &&
	   strcmp(out.data, "<") == 0, "escapes count as three bytes: too long");
	pfree(out.data);

	initStringInfo(&out);
	values[0] = huge;
	ok(mlc_key_render(template, values, &out) == MLC_RENDER_TOO_LONG &&
	   out.maxlen < 4096, "a value of megabytes is refused before room is made");
	values[1] = NULL;
	ok(mlc_key_render(template, values, &out) == MLC_RENDER_NULL,
	   "NULL wins over too long");

	pfree(out.data);

	/* room is made for escapes, wherever the StringInfo happens to end */
	matched = true;
	for (size_t len = 1; len < 3000; len += 50)
	{
		char	   *blanks = many(' ', len);

		initStringInfo(&out);
		values[0] = values[1] = blanks;
		matched &= mlc_key_render(template, values, &out) == MLC_RENDER_OK &&
			(size_t) out.len == 6 * len + 1;
		pfree(out.data);
		free(blanks);
	}
	ok(matched, "values of 1 to 3000 blanks");

	pfree(template);
	free(fits);
	free(wide);
	free(huge);
	free(too_wide);
}

/* ----------
 * Guards, globs, overlap, keys made by users
 * ----------
 */

static void
guards(const char *key, const char *expected)
{
	StringInfoData out;

	initStringInfo(&out);
	mlc_key_guard(key, strlen(key), &out);
	is_text(out.data, expected, expected);
	ok(oracle_slot(out.data, (size_t) out.len) ==
	   oracle_slot(key, strlen(key)), "'%s' is in the slot of its key", out.data);
	pfree(out.data);
}

static void
globs(const char *text, const char *glob, const char *names_glob)
{
	MlcTemplate *template = parsed(text);
	StringInfoData out;

	initStringInfo(&out);
	mlc_key_glob(template, &out);
	is_text(out.data, glob, glob);
	resetStringInfo(&out);
	mlc_key_names_glob(template, &out);
	is_text(out.data, names_glob, names_glob);
	pfree(out.data);
	pfree(template);
}

static void
overlaps(const char *a, const char *b, bool expected)
{
	MlcTemplate *ta = parsed(a);
	MlcTemplate *tb = parsed(b);

	ok(mlc_key_overlap(ta, tb) == expected &&
	   mlc_key_overlap(tb, ta) == expected, "'%s' and '%s' %s", a, b,
	   expected ? "overlap" : "do not overlap");
	pfree(ta);
	pfree(tb);
}

static void
key_refused(const char *key, const char *detail)
{
	MlcKeyError error = {NULL, NULL, -2};
	bool		passed = mlc_key_check(key, strlen(key), &error);

	ok(!passed && strstr(error.detail, detail) != NULL &&
	   error.position == -1, "key '%s' refused: %s", key, detail);
}

static void
key_passes(const char *key)
{
	MlcKeyError error = {NULL, NULL, -2};

	ok(mlc_key_check(key, strlen(key), &error) && error.position == -2,
	   "key '%s' passes", key);
}

static void
test_keys(void)
{
	char	   *long_key = many('k', MLC_KEY_MAX_LEN + 1);
	MlcKeyError error;

	guards("product:42", "mlc:{product:42}");
	guards("u:{42}:cart", "mlc:u:{42}:cart");
	guards("a}b{c}d", "mlc:a}b{c}d");
	guards("a{b", "mlc:{a{b}");
	guards("{{a}}", "mlc:{{a}}");
	guards("{a}{b}", "mlc:{a}{b}");
	guards("x{a}{}", "mlc:x{a}{}");

	key_passes("product:42");
	key_passes("u:{42}:cart");
	key_passes("{a}b");
	key_passes("b{a}");
	key_passes("{a}b}");
	key_passes("{{a}}");
	key_passes("a{b");
	key_passes("mlc");
	key_passes("mlcx:1");
	key_refused("", "is empty");
	key_refused("mlc:", "mlcache's own");
	key_refused("mlc:{x}", "mlcache's own");
	key_refused("{42}", "whole key is one hash tag");
	key_refused("{4{2}", "whole key is one hash tag");
	key_refused("foo}bar", "no hash tag");
	key_refused("a{}b", "no hash tag");
	key_refused("a{}{b}", "no hash tag");
	key_refused("}", "no hash tag");
	key_refused("}{", "no hash tag");
	ok(mlc_key_check(long_key, MLC_KEY_MAX_LEN, &error),
	   "a key of 65535 bytes passes");
	ok(!mlc_key_check(long_key, MLC_KEY_MAX_LEN + 1, &error) &&
	   strstr(error.detail, "65535") != NULL, "one of 65536 is refused");
	free(long_key);

	globs("product:{id}", "product:*", "*product:**");
	globs("u:{{{id}}}:cart", "u:{*}:cart", "*u:{*}:cart*");
	globs("a*b?c[d]e\\f:{id}:{x}", "a\\*b\\?c\\[d\\]e\\\\f:*:*",
		  "*a\\*b\\?c\\[d\\]e\\\\f:*:**");
	globs("a^b-c:{id}", "a^b-c:*", "*a^b-c:**");

	overlaps("product:{id}", "product:{sku}", true);
	overlaps("product:{id}", "order:{id}", false);
	overlaps("product:{id}", "product:{id}:x", false);
	overlaps("product:{id}", "product:x{id}", true);
	overlaps("product:{id}", "{table}:42", true);
	overlaps("product:{id}", "{anything}", false);
	overlaps("p{x}", "{y}q", true);
	overlaps("p:{x}", "{y}:q", true);
	overlaps("p:{x}:r", "{y}:q:{z}", true);
	overlaps("p:{x}:r", "{y}:q:s{z}", false);
	overlaps("p{x}:r", "{y}q:{z}", true);
	overlaps("a:{x}", "a{x}", false);
	overlaps("a:{x}b", "a:b{x}", true);
	overlaps("a:{x} {y}", "a:{x}", false);
	overlaps("a:{x}%20", "a:{x}0", true);
	overlaps("u:{{{x}}}", "u:{x}", false);
	overlaps("a:{x}:b:{x}", "a:1:b:2{y}", true);
}

/* ----------
 * Versions
 * ----------
 */

static void
version_refused(const char *text, size_t len, const char *name)
{
	MlcVersion	version = {7, 77};

	ok(!mlc_version_parse(text, len, &version) && version.tli == 7 &&
	   version.lsn == 77, "version refused: %s", name);
}

static void
test_version(void)
{
	static const MlcVersion rising[] = {
		{0, 0}, {0, 1}, {1, 0}, {1, 9}, {1, 10}, {1, UINT64CONST(0xffffffff)},
		{1, UINT64CONST(0x100000000)}, {1, UINT64CONST(0x8000000000000000)},
		{1, UINT64CONST(0xffffffffffffffff)}, {2, 0}, {9, 5}, {10, 5},
		{0x7fffffff, 1}, {0x80000000, 1}, {0xffffffff, 0}
	};
	char		text[MLC_VERSION_LEN + 2];
	char		other[MLC_VERSION_LEN + 1];
	MlcVersion	version = {1, UINT64CONST(0x0123456789abcdef)};
	bool		ordered = true;
	bool		same = true;

	text[MLC_VERSION_LEN + 1] = '!';
	mlc_version_print(version, text);
	is_text(text, "000000010123456789abcdef", "a version prints");
	ok(text[MLC_VERSION_LEN + 1] == '!', "within its 25 bytes");

	for (int i = 0; i < (int) lengthof(rising); i++)
	{
		MlcVersion	again = {7, 77};

		mlc_version_print(rising[i], text);
		same &= mlc_version_parse(text, MLC_VERSION_LEN, &again) &&
			mlc_version_compare(again, rising[i]) == 0;
		for (int j = 0; j < (int) lengthof(rising); j++)
		{
			int			by_version = mlc_version_compare(rising[i], rising[j]);
			int			by_text;

			mlc_version_print(rising[j], other);
			by_text = strcmp(text, other);
			ordered &= (by_version < 0) == (i < j) &&
				(by_version > 0) == (i > j) &&
				(by_text < 0) == (i < j) && (by_text > 0) == (i > j);
		}
	}
	ok(same, "versions are read as they were printed");
	ok(ordered, "versions and their texts are in the same order");

	version_refused("", 0, "empty");
	version_refused("00000001000000000000000", 23, "23 digits");
	version_refused("0000000100000000000000000", 25, "25 digits");
	version_refused("00000001000000000000000A", 24, "upper case");
	version_refused("0000000A0000000000000000", 24, "upper-case timeline");
	version_refused("00000001000000000000000g", 24, "a letter beyond f");
	version_refused("0000000100000000 0000000", 24, "a blank");
	version_refused("0x0000010000000000000000", 24, "0x");
	version_refused("00000001/000000000000000", 24, "a slash");
	version_refused("00000001:000000000000000", 24, "a colon");
	version_refused("00000001`000000000000000", 24, "a backtick");
	version_refused("-0000001000000000000000a", 24, "a sign");
}

/* ----------
 * Messages
 * ----------
 */

/* One section with one key, as bytes. */
#define HEAD "M\x01"
#define SECTION "\x00\x00\x00\x05" "\x01\x02\x03\x04\x05\x06\x07\x08" "\x00"
#define ONE "\x00\x00\x00\x01"
#define KEY "i" "\x00\x00\x00\x02" "ab"

static void
opens(const char *data, size_t len, bool expected, const char *name)
{
	MlcMessageReader reader;

	ok(mlc_event_message_open(&reader, data, len) == expected,
	   "a message %s: %s", expected ? "opens" : "does not open", name);
}

/* What the reader says after it has read all that it can. */
static void
reads(const char *data, size_t len, int nkeys, int expected, const char *name)
{
	char	   *copy = malloc(len);
	MlcMessageReader reader;
	MlcMessageSection section;
	MlcOp		op;
	const char *key;
	uint32		keylen;
	int			got = 0;
	int			result = -2;

	memcpy(copy, data, len);	/* valgrind watches its end */
	if (mlc_event_message_open(&reader, copy, len))
	{
		while ((result = mlc_event_message_next_section(&reader,
														&section)) > 0)
		{
			while ((result = mlc_event_message_next_key(&reader, &op, &key,
														&keylen)) > 0)
				got++;
			if (result < 0)
				break;
		}
		if (result < 0 &&
			(mlc_event_message_next_key(&reader, &op, &key, &keylen) != -1 ||
			 mlc_event_message_next_section(&reader, &section) != -1))
			result = -3;
	}
	ok(result == expected && got == nkeys, "%s: %d key(s), then %s", name,
	   nkeys, expected == 0 ? "the end" : "malformed");
	if (result != expected || got != nkeys)
		printf("# got: %d key(s), result %d\n", got, result);
	free(copy);
}

#define READS(bytes, nkeys, expected, name) \
	reads(bytes, sizeof(bytes) - 1, nkeys, expected, name)

static void
test_message(void)
{
	StringInfoData out;
	MlcMessageSection section = {5, INT64CONST(0x0102030405060708), 0, 1};
	MlcMessageReader reader;
	MlcMessageSection got;
	MlcOp		op;
	const char *key;
	uint32		keylen;

	initStringInfo(&out);
	mlc_event_message_begin(&out);
	mlc_event_message_section(&out, &section);
	mlc_event_message_key(&out, MLC_OP_INVALIDATE, "ab", 2);
	ok((size_t) out.len == sizeof(HEAD SECTION ONE KEY) - 1 &&
	   memcmp(out.data, HEAD SECTION ONE KEY, (size_t) out.len) == 0,
	   "a message is the bytes that the header tells");

	/* a second section, of other numbers, behind keys that nobody reads */
	section.rule = -3;
	section.secret = PG_INT64_MIN;
	section.flags = MLC_MESSAGE_ALL;
	section.nkeys = 2;
	mlc_event_message_section(&out, &section);
	mlc_event_message_key(&out, MLC_OP_REPLICATE, "", 0);
	mlc_event_message_key(&out, MLC_OP_REFRESH, "x\0y", 3);
	ok(mlc_event_message_open(&reader, out.data, (size_t) out.len) &&
	   mlc_event_message_next_key(&reader, &op, &key, &keylen) == 0,
	   "before the first section there is no key");
	ok(mlc_event_message_next_section(&reader, &got) == 1 && got.rule == 5 &&
	   got.secret == INT64CONST(0x0102030405060708) && got.flags == 0 &&
	   got.nkeys == 1, "the first section");
	ok(mlc_event_message_next_section(&reader, &got) == 1 && got.rule == -3 &&
	   got.secret == PG_INT64_MIN && got.flags == MLC_MESSAGE_ALL &&
	   got.nkeys == 2, "the second, the first one's key being skipped");
	ok(mlc_event_message_next_key(&reader, &op, &key, &keylen) == 1 &&
	   op == MLC_OP_REPLICATE && keylen == 0, "its first key is empty");
	ok(mlc_event_message_next_key(&reader, &op, &key, &keylen) == 1 &&
	   op == MLC_OP_REFRESH && keylen == 3 && memcmp(key, "x\0y", 3) == 0,
	   "its second key has a zero byte");
	ok(mlc_event_message_next_key(&reader, &op, &key, &keylen) == 0 &&
	   mlc_event_message_next_section(&reader, &got) == 0 &&
	   mlc_event_message_next_section(&reader, &got) == 0, "and no more");
	pfree(out.data);

	opens("M\x01", 2, true, "no section");
	opens("M\x01", 1, false, "one byte");
	opens("", 0, false, "empty");
	opens("N\x01", 2, false, "other magic");
	opens("M\x02", 2, false, "other format");

	READS(HEAD, 0, 0, "no section");
	READS(HEAD SECTION ONE KEY, 1, 0, "one key");
	READS(HEAD SECTION "\x00\x00\x00\x00", 0, 0, "no key");
	READS(HEAD SECTION ONE KEY SECTION ONE KEY, 2, 0, "two sections");
	READS(HEAD SECTION "\x00\x00\x00", 0, -1, "a section cut short");
	READS(HEAD "\x00", 0, -1, "a section of one byte");
	READS(HEAD SECTION ONE, 0, -1, "a key that is missing");
	READS(HEAD SECTION ONE "i\x00\x00\x00", 0, -1, "a key cut in its length");
	READS(HEAD SECTION "\x00\x00\x00\x02" KEY "i\x00\x00\x00", 1, -1,
		  "a second key cut in its length");
	READS(HEAD KEY, 0, -1, "a key where a section should be");
	READS(HEAD SECTION ONE "i\x00\x00\x00\x02" "a", 0, -1, "a key cut short");
	READS(HEAD SECTION ONE "i\xff\xff\xff\xff" "ab", 0, -1,
		  "a key of negative length");
	READS(HEAD SECTION ONE "i\x80\x00\x00\x00" "ab", 0, -1,
		  "a key of 2^31 bytes");
	READS(HEAD SECTION ONE "t\x00\x00\x00\x02" "ab", 0, -1,
		  "a key with truncate");
	READS(HEAD SECTION ONE "z\x00\x00\x00\x02" "ab", 0, -1,
		  "a key with an unknown op");
	READS(HEAD SECTION "\x00\x00\x00\x02" KEY, 0, -1,
		  "more keys than there are bytes for");
	READS(HEAD SECTION "\x7f\xff\xff\xff" KEY, 0, -1, "2^31 - 1 keys");
	READS(HEAD SECTION "\xff\xff\xff\xff" KEY, 0, -1, "-1 keys");
	READS(HEAD SECTION ONE KEY "x", 1, -1, "bytes behind the end");
	READS(HEAD "\x00\x00\x00\x05" "\x01\x02\x03\x04\x05\x06\x07\x08" "\x02"
		  "\x00\x00\x00\x00", 0, -1, "an unknown flag");
	READS(HEAD "\x00\x00\x00\x05" "\x01\x02\x03\x04\x05\x06\x07\x08" "\x01"
		  "\x00\x00\x00\x00", 0, 0, "all keys of the rule");
	READS(HEAD SECTION "\x00\x00\x00\x02" KEY "z\x00\x00\x00\x00", 1, -1,
		  "a bad key behind a good one");
}

/* ----------
 * JSON
 * ----------
 */

static void
json_is(MlcOp op, int32 rule, const char *key, const char *payload,
		const char *expected)
{
	MlcVersion	version = {1, 0x2a};
	MlcEvent	event = {op, rule, key, key ? (uint32) strlen(key) : 0,
		payload, payload ? (uint32) strlen(payload) : 0
	};
	StringInfoData out;

	initStringInfo(&out);
	mlc_event_json(&out, &event, version);
	is_text(out.data, expected, expected);
	pfree(out.data);
}

#define V "\"version\":\"00000001000000000000002a\""

static void
test_json(void)
{
	json_is(MLC_OP_INVALIDATE, 1, "product:42", NULL,
			"{\"op\":\"invalidate\",\"key\":\"product:42\"," V ",\"rule\":1}");
	json_is(MLC_OP_UPDATE, 2, "k", "v",
			"{\"op\":\"update\",\"key\":\"k\"," V
			",\"rule\":2,\"payload\":\"v\"}");
	json_is(MLC_OP_REPLICATE, PG_INT32_MAX, "k", "",
			"{\"op\":\"replicate\",\"key\":\"k\"," V
			",\"rule\":2147483647,\"payload\":\"\"}");
	json_is(MLC_OP_REFRESH, PG_INT32_MIN, "k", NULL,
			"{\"op\":\"refresh\",\"key\":\"k\"," V ",\"rule\":-2147483648}");
	json_is(MLC_OP_TRUNCATE, 0, NULL, NULL,
			"{\"op\":\"truncate\"," V ",\"rule\":0}");
	json_is(MLC_OP_TRUNCATE, 0, "k", NULL,
			"{\"op\":\"truncate\"," V ",\"rule\":0}");
	json_is(MLC_OP_UPDATE, 1, "\"\\/", "{\"a\":\"b\\n\"}",
			"{\"op\":\"update\",\"key\":\"\\\"\\\\/\"," V
			",\"rule\":1,\"payload\":\"{\\\"a\\\":\\\"b\\\\n\\\"}\"}");
	json_is(MLC_OP_UPDATE, 1, "k", "\b\f\n\r\t\x01\x0b\x1f\x7f\xc3\xbc",
			"{\"op\":\"update\",\"key\":\"k\"," V ",\"rule\":1,\"payload\":"
			"\"\\b\\f\\n\\r\\t\\u0001\\u000b\\u001f\x7f\xc3\xbc\"}");

	/*
	 * Far more than the escaper makes room for at once, wherever the
	 * StringInfo happens to end.
	 */
	for (size_t before = 0; before < 8000; before += 400)
	{
		char	   *payload = many('\x02', 5000);
		MlcEvent	event = {MLC_OP_UPDATE, 1, "k", 1, payload, 5000};
		MlcVersion	version = {1, 1};
		StringInfoData out;
		StringInfoData back;
		OracleJson	json;

		payload[4999] = 'z';
		initStringInfo(&out);
		initStringInfo(&back);
		appendStringInfoSpaces(&out, (int) before);
		mlc_event_json(&out, &event, version);
		json.at = strstr(out.data, "\"payload\":") + strlen("\"payload\":");
		json.end = out.data + out.len;
		ok(oracle_json_string(&json, &back) &&
		   strcmp(back.data, payload) == 0 && oracle_json_token(&json, '}') &&
		   json.at == json.end, "5000 escaped bytes behind %zu others", before);
		pfree(out.data);
		pfree(back.data);
		free(payload);
	}
}

/* ----------
 * The oracles themselves, against figures from elsewhere
 * ----------
 */

static bool
glob(const char *pattern, const char *text)
{
	return oracle_glob(pattern, strlen(pattern), text, strlen(text));
}

static void
test_oracles(void)
{
	ok(oracle_crc16("123456789", 9) == 0x31c3,
	   "oracle: CRC16 of the specification");
	ok(oracle_slot("foo", 3) == 12182 && oracle_slot("bar", 3) == 5061,
	   "oracle: slots as CLUSTER KEYSLOT gives them");
	ok(oracle_slot("{user1000}.following", 20) ==
	   oracle_slot("user1000", 8) &&
	   oracle_slot("foo{{bar}}zap", 13) == oracle_slot("{bar", 4) &&
	   oracle_slot("foo{bar}{zap}", 13) == oracle_slot("bar", 3) &&
	   oracle_slot("foo{}{bar}", 10) ==
	   oracle_crc16("foo{}{bar}", 10) % 16384,
	   "oracle: hash tags of the specification");
	ok(glob("h?llo", "hallo") && !glob("h?llo", "hllo") &&
	   glob("h*llo", "heeeello") && glob("h[ae]llo", "hello") &&
	   !glob("h[ae]llo", "hillo") && glob("h[^e]llo", "hallo") &&
	   !glob("h[^e]llo", "hello") && glob("h[a-b]llo", "hbllo") &&
	   !glob("h\\*llo", "hxllo") && glob("h\\*llo", "h*llo") &&
	   glob("*", "") && glob("a*b*c", "aXbXbXc") && !glob("a*b*c", "aXbX") &&
	   !glob("", "a") && glob("", "") && !glob("a", ""),
	   "oracle: globs of the manual");
}

/* Every glob and text of a few letters, against the oracle. */
static void
test_glob(void)
{
	static const char letters[] = "ab*?[]^-\\";
	int			nletters = (int) strlen(letters);
	int			ncompared = 0;
	int			nwrong = 0;
	const char *wrong = "";

	for (int n = 0; n < nletters * nletters * nletters * nletters; n++)
	{
		char		pattern[5] = {0};
		int			rest = n;
		int			len = 1 + n % 4;

		for (int i = 0; i < len; i++, rest /= nletters)
			pattern[i] = letters[rest % nletters];
		if (!mlc_glob_is_whole(pattern, (size_t) len))
			continue;
		for (int t = 0; t < 64; t++)
		{
			char		text[4] = {0};

			for (int i = 0, left = t; i < 3 && left > 0; i++, left /= 4)
				text[i] = "\0ab-"[left % 4] ? "\0ab-"[left % 4] : 'a';
			ncompared++;
			if (mlc_glob_match(pattern, (size_t) len, text, strlen(text)) !=
				glob(pattern, text))
			{
				nwrong++;
				wrong = strdup(pattern);
			}
		}
	}
	ok(nwrong == 0 && ncompared > 100000,
	   "globs: %d of %d are not what the oracle says, as '%s'", nwrong,
	   ncompared, wrong);
	ok(!mlc_glob_is_whole("a[b", 3) && !mlc_glob_is_whole("a\\", 2) &&
	   !mlc_glob_is_whole("[a-]", 4) && !mlc_glob_is_whole("[^", 2) &&
	   mlc_glob_is_whole("[a\\]]", 5) && mlc_glob_is_whole("]", 1),
	   "globs: what ends in the middle");
}

int
main(void)
{
	test_oracles();
	test_glob();
	test_parse();
	test_render();
	test_limits();
	test_keys();
	test_version();
	test_message();
	test_json();
	printf("1..%d\n", ntests);
	return nfailed > 0 ? 1 : 0;
}
