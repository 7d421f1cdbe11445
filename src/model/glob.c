/*-------------------------------------------------------------------------
 *
 * model/glob.c
 *	  Globs as Redis knows them: stringmatchlen() of its util.c, for globs
 *	  that are whole.
 *
 * A star is tried with ever longer texts; where what follows it does not match
 * up to the next star, only that last star need take more.  So time is at most
 * the product of both lengths.
 *
 * No locks, no allocation, no errors.
 *
 *-------------------------------------------------------------------------
 */
#include "model/version.h"

#include "model/glob.h"

/*
 * Steps over one element that stands for one byte.  *matches: for this one?
 * False: the glob ends in the middle of it.
 */
static bool
element(const char **at, const char *end, unsigned char byte, bool *matches)
{
	const char *p = *at;
	bool		negated;
	bool		found = false;

	*matches = false;
	if (*p == '\\')
	{
		if (end - p < 2)
			return false;
		*matches = (unsigned char) p[1] == byte;
		*at = p + 2;
		return true;
	}
	if (*p != '[')
	{
		*matches = *p == '?' || (unsigned char) *p == byte;
		*at = p + 1;
		return true;
	}

	p++;
	negated = p < end && *p == '^';
	if (negated)
		p++;
	for (;;)
	{
		if (p >= end)
			return false;
		if (*p == ']')
			break;
		if (*p == '\\' && end - p >= 2)
		{
			found |= (unsigned char) p[1] == byte;
			p += 2;
		}
		else if (end - p >= 3 && p[1] == '-')
		{
			unsigned char low = Min((unsigned char) p[0], (unsigned char) p[2]);
			unsigned char high = Max((unsigned char) p[0], (unsigned char) p[2]);

			found |= byte >= low && byte <= high;
			p += 3;
		}
		else
			found |= (unsigned char) *p++ == byte;
	}
	*matches = found != negated;
	*at = p + 1;
	return true;
}

bool
mlc_glob_is_whole(const char *glob, size_t len)
{
	const char *at = glob;
	const char *end = glob + len;
	bool		matches;

	while (at < end)
		if (!element(&at, end, 0, &matches))
			return false;
	return true;
}

bool
mlc_glob_match(const char *glob, size_t globlen, const char *text, size_t len)
{
	const char *end = glob + globlen;
	const char *text_end = text + len;
	const char *after_star = NULL;	/* the last star met, and */
	const char *star_text = NULL;	/* what it does not take (yet) */

	for (;;)
	{
		if (glob < end && *glob == '*')
		{
			after_star = ++glob;
			star_text = text;
		}
		else if (text == text_end)
			return glob == end;
		else
		{
			bool		matches = false;

			if (glob < end && element(&glob, end, (unsigned char) *text, &matches) &&
				matches)
				text++;
			else if (after_star == NULL)
				return false;
			else
			{
				glob = after_star;
				text = ++star_text;
			}
		}
	}
}
