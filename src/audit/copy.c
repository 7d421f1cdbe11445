/*-------------------------------------------------------------------------
 *
 * audit/copy.c
 *	  One key as Redis has it, its row as the table has it, and what to think
 *	  of the two.
 *
 * A guard is read as redis/lua/mlcache.lua reads it, but more strictly: what
 * it would take for a guard that says nothing is garbage here, since nobody of
 * ours writes it.
 *
 * Must not: touch Redis or run queries.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "audit/copy.h"
#include "audit/seen.h"
#include "base/compat.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define GUARD_PREFIX "mlc:"
#define GUARD_PREFIX_LEN 4

/* ---- names ---- */

void
mlc_copy_key(MlcCopy *copy, const char *key, uint32 keylen)
{
	StringInfoData name;

	/* no larger than it gets: a page of them is to stay in the CPU's cache */
	name.len = name.cursor = 0;
	name.maxlen = keylen + GUARD_PREFIX_LEN + sizeof("{}");
	name.data = palloc(name.maxlen);
	mlc_key_guard(key, keylen, &name);
	memset(copy, 0, sizeof(*copy));
	copy->key = key;
	copy->keylen = keylen;
	copy->hash = mlc_seen_hash(key, keylen);
	copy->guard_name = name.data;
	copy->guard_namelen = name.len;
}

bool
mlc_copy_name(MlcCopy *copy, MlcRule *rule, const char *name, size_t len,
			  bool *is_guard)
{
	char	   *values[MLC_KEY_MAX_COLUMNS];
	const char *key = name;
	size_t		keylen = len;

	*is_guard = len > GUARD_PREFIX_LEN &&
		memcmp(name, GUARD_PREFIX, GUARD_PREFIX_LEN) == 0;
	if (*is_guard)
	{
		key += GUARD_PREFIX_LEN;
		keylen -= GUARD_PREFIX_LEN;
		if (!rule->template->tagged)
		{
			if (keylen < 3 || key[0] != '{' || key[keylen - 1] != '}')
				return false;
			key++;
			keylen -= 2;
		}
	}
	if (keylen == 0 || keylen > MLC_KEY_MAX_LEN ||
		!pg_verifymbstr(key, keylen, true) ||
		!mlc_key_match(rule->template, key, keylen, values))
		return false;
	for (int i = 0; i < rule->template->ncolumns; i++)
		pfree(values[i]);
	mlc_copy_key(copy, key, keylen);
	return !*is_guard || (copy->guard_namelen == len &&
						  memcmp(copy->guard_name, name, len) == 0);
}

/* ---- guards ---- */

static bool
has_only(const char *text, size_t len, const char *allowed)
{
	for (size_t i = 0; i < len; i++)
		if (strchr(allowed, text[i]) == NULL || text[i] == '\0')
			return false;
	return true;
}

void
mlc_copy_parse_guard(MlcCopy *copy, MlcVersion future)
{
	const char *field[8];
	size_t		len[8];
	const char *at = copy->guard;
	const char *end = at + copy->guardlen;
	const char *tags;

	copy->kind = MLC_GUARD_NONE;
	if (copy->guard == NULL)
		return;
	copy->kind = MLC_GUARD_GARBAGE;
	for (int i = 0; i < 8; i++)
	{
		const char *bar = memchr(at, '|', end - at);

		if ((bar == NULL) != (i == 7))
			return;
		field[i] = at;
		len[i] = (bar ? bar : end) - at;
		at = bar + 1;
	}

	/* lo | hi | floor | flags | token | deadline | nonce | marks */
	tags = memchr(field[3], 'G', len[3]);
	if (tags)
	{
		if (!has_only(tags + 1, field[3] + len[3] - (tags + 1), "0123456789abcdef"))
			return;
		len[3] = tags - field[3];
	}
	if (!has_only(field[3], len[3], "AT") ||
		!has_only(field[5], len[5], "0123456789"))
		return;
	if (len[0] != 0 || len[1] != 0)
	{
		if (!mlc_version_parse(field[0], len[0], &copy->lo) ||
			!mlc_version_parse(field[1], len[1], &copy->hi) ||
			mlc_version_compare(copy->lo, copy->hi) > 0 ||
			len[4] != 0 || len[6] != 0 || len[7] != 0)
			return;

		/* a version that is yet to come */
		if (copy->hi.tli == future.tli &&
			mlc_version_compare(copy->hi, future) > 0)
			return;
		copy->kind = len[3] > 0 ? MLC_GUARD_ABSENT : MLC_GUARD_ENTRY;
	}
	else if (len[7] > 0)
		copy->kind = MLC_GUARD_MARKS;
	else if (len[4] > 0 && len[5] > 0)
		copy->kind = MLC_GUARD_LEASE;
}

void
mlc_copy_from_l1(MlcCopy *copy, MlcRule *rule, const MlcL1Hit *hit)
{
	MlcL1Hit	now;
	char	   *version;

	copy->entry = copy->guard = NULL;
	copy->entrylen = copy->guardlen = 0;
	copy->kind = MLC_GUARD_NONE;
	if (hit == NULL && mlc_l1_peek(copy->key, copy->keylen, &now))
		hit = &now;
	if (hit == NULL || hit->rule != rule->id)
		return;
	copy->kind = hit->absent ? MLC_GUARD_ABSENT : MLC_GUARD_ENTRY;
	copy->lo = copy->hi = hit->lo;
	if (!hit->absent)
	{
		copy->entry = VARDATA(hit->value);
		copy->entrylen = VARSIZE(hit->value) - VARHDRSZ;
	}

	/* the line's version takes the part of the guard */
	version = palloc(MLC_VERSION_LEN + 1);
	mlc_version_print(hit->lo, version);
	copy->guard = version;
	copy->guardlen = MLC_VERSION_LEN;
}

/* ---- judging ---- */

static bool
is_vouched_for(const MlcCopy *copy)
{
	return copy->kind == MLC_GUARD_ENTRY;
}

bool
mlc_copy_needs_row(const MlcCopy *copy)
{
	if (copy->entry)
		return is_vouched_for(copy);
	return copy->kind == MLC_GUARD_ABSENT || mlc_copy_may_be_missing(copy);
}

bool
mlc_copy_may_be_missing(const MlcCopy *copy)
{
	return copy->kept && copy->entry == NULL &&
		(copy->kind == MLC_GUARD_NONE || copy->kind == MLC_GUARD_ENTRY);
}

static bool
is_json(const char *text, size_t len)
{
	return len <= MaxAllocSize / 2 &&
		pg_verify_mbstr(GetDatabaseEncoding(), text, len, true) &&
		mlc_json_is_valid(text, len);
}

/* Both are valid JSON: do they say the same? */
static bool
mean_the_same(const char *a, size_t alen, const char *b, size_t blen)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool same = false;

	/* jsonb refuses more than JSON does, by an error */
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		Datum		x = DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(a, alen)));
		Datum		y = DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(b, blen)));

		same = compareJsonbContainers(&DatumGetJsonbP(x)->root,
									  &DatumGetJsonbP(y)->root) == 0;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (geterrcode() == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		same = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return same;
}

static MlcVerdict
compare(const MlcCopy *copy)
{
	const MlcRow *row = &copy->row;

	if (copy->entrylen == row->len &&
		memcmp(copy->entry, row->payload, row->len) == 0)
		return MLC_VERDICT_FRESH;
	if (!is_json(row->payload, row->len))
		return MLC_VERDICT_STALE;
	if (!is_json(copy->entry, copy->entrylen))
		return MLC_VERDICT_CORRUPT;
	if (mean_the_same(copy->entry, copy->entrylen, row->payload, row->len))
		return MLC_VERDICT_FRESH;
	return MLC_VERDICT_STALE;
}

MlcVerdict
mlc_copy_judge(const MlcCopy *copy, bool comparable)
{
	if (copy->type)
		return MLC_VERDICT_CORRUPT;
	if (copy->entry && !is_vouched_for(copy))
		return MLC_VERDICT_UNGUARDED;
	if (!copy->entry && copy->kind == MLC_GUARD_GARBAGE)
		return MLC_VERDICT_UNGUARDED;
	if (!mlc_copy_needs_row(copy))
		return MLC_VERDICT_NOTHING;
	if (mlc_copy_may_be_missing(copy))
		return copy->row.state == MLC_ROW_FOUND ? MLC_VERDICT_MISSING :
			MLC_VERDICT_NOTHING;
	if (!comparable || copy->row.state == MLC_ROW_MANY)
		return MLC_VERDICT_FRESH;
	if (copy->entry == NULL)
		return copy->row.state == MLC_ROW_FOUND ? MLC_VERDICT_STALE :
			MLC_VERDICT_FRESH;
	if (copy->row.state != MLC_ROW_FOUND)
		return MLC_VERDICT_ORPHAN;
	return compare(copy);
}

uint64
mlc_copy_digest(const MlcCopy *copy)
{
	uint64		digest = 0;

	if (copy->entry)
		digest = hash_bytes_extended((const unsigned char *) copy->entry,
									 copy->entrylen, 1);
	if (copy->guard)
		digest = hash_combine64(digest,
								hash_bytes_extended((const unsigned char *) copy->guard,
													copy->guardlen, 2));
	return digest;
}

const char *
mlc_verdict_name(MlcVerdict verdict)
{
	switch (verdict)
	{
		case MLC_VERDICT_FRESH:
			return "fresh";
		case MLC_VERDICT_STALE:
			return "stale";
		case MLC_VERDICT_MISSING:
			return "missing";
		case MLC_VERDICT_ORPHAN:
			return "orphan";
		case MLC_VERDICT_CORRUPT:
			return "corrupt";
		case MLC_VERDICT_UNGUARDED:
			return "unguarded";
		case MLC_VERDICT_NOTHING:
			return "nothing";
	}
	return "?";
}
