/*-------------------------------------------------------------------------
 *
 * relay/purge.c
 *	  Removes entries by rule: SCAN, match the template, UNLINK.
 *
 * SCAN returns whatever was there from its start to its end.  Guards go first:
 * with its guard a lease dies, so nothing that was loaded before can be filled
 * afterwards; a lease that is given meanwhile was given after the change that
 * asked for the purge had become visible.  Names are matched against the
 * template letter by letter, since a glob would take foreign keys along.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "redis/command.h"
#include "relay/purge.h"
#include "utils/memutils.h"

#define SCAN_COUNT "1000"

/* The key that a guard belongs to, in the current context; NULL: none. */
static char *
key_of_guard(const char *guard, size_t len, size_t *keylen)
{
	StringInfoData again;
	const char *candidates[2];
	size_t		lens[2];
	int			n = 0;

	if (len < 5 || memcmp(guard, "mlc:", 4) != 0)
		return NULL;
	if (guard[4] == '{' && guard[len - 1] == '}')
	{
		candidates[n] = guard + 5;
		lens[n++] = len - 6;
	}
	candidates[n] = guard + 4;
	lens[n++] = len - 4;

	initStringInfo(&again);
	for (int i = 0; i < n; i++)
	{
		resetStringInfo(&again);
		mlc_key_guard(candidates[i], lens[i], &again);
		if (again.len == (int) len && memcmp(again.data, guard, len) == 0)
		{
			*keylen = lens[i];
			return pnstrdup(candidates[i], lens[i]);
		}
	}
	return NULL;
}

static bool
belongs(MlcReply *name, bool guards, MlcRelayRule **rules, int nrules)
{
	char	   *values[MLC_KEY_MAX_COLUMNS];
	char	   *key = name->str;
	size_t		keylen = name->len;

	if (guards)
		key = key_of_guard(name->str, name->len, &keylen);
	for (int i = 0; key && i < nrules; i++)
		if (mlc_key_match(rules[i]->template, key, keylen, values))
			return true;
	return false;
}

/* One step of a scan.  The next cursor is copied; false: the target is down. */
static bool
step(MlcTarget *target, char *cursor, size_t size, const char *glob,
	 bool guards, MlcRelayRule **rules, int nrules)
{
	MlcReply   *reply;
	MlcReply   *names;
	MlcCommand	unlink;

	reply = mlc_command_simple(target->conn, "SCAN", cursor, "MATCH", glob,
							   "COUNT", SCAN_COUNT, NULL);
	if (!mlc_target_good(target, reply, "SCAN"))
		return false;
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements != 2 ||
		reply->elements[0]->type != MLC_REPLY_STRING ||
		reply->elements[1]->type != MLC_REPLY_ARRAY)
	{
		mlc_target_fail(target, "SCAN: unexpected reply");
		return false;
	}
	strlcpy(cursor, reply->elements[0]->str, size);
	names = reply->elements[1];

	mlc_command_init(&unlink);
	mlc_command_add_cstr(&unlink, "UNLINK");
	for (size_t i = 0; i < names->nelements; i++)
		if (belongs(names->elements[i], guards, rules, nrules))
			mlc_command_add(&unlink, names->elements[i]->str,
							names->elements[i]->len);
	return unlink.argc == 1 ||
		mlc_target_good(target, mlc_command_call(&unlink, target->conn),
						"UNLINK");
}

static bool
scan(MlcTarget *target, const char *glob, bool guards, MlcRelayRule **rules,
	 int nrules)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "mlcache purge",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	char		cursor[32] = "0";
	bool		done;

	do
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		done = step(target, cursor, sizeof(cursor), glob, guards, rules, nrules);
	} while (done && strcmp(cursor, "0") != 0);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return done;
}

bool
mlc_purge_rule(MlcTarget *target, MlcRelayRule *rule)
{
	return scan(target, rule->guard_glob, true, &rule, 1) &&
		scan(target, rule->glob, false, &rule, 1);
}

bool
mlc_purge_all(MlcTarget *target, HTAB *rules)
{
	int			nrules = 0;
	MlcRelayRule **all = palloc(sizeof(MlcRelayRule *) *
								Max(hash_get_num_entries(rules), 1));
	HASH_SEQ_STATUS status;
	MlcRelayRule *rule;

	hash_seq_init(&status, rules);
	while ((rule = hash_seq_search(&status)) != NULL)
		all[nrules++] = rule;
	return scan(target, "mlc:*", true, all, nrules) &&
		scan(target, "*", false, all, nrules);
}
