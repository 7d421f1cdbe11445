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
 * A relay may know less than a server holds: a rule that was detached while the
 * slot was lost, or that a recovery to a point in history has undone.  So each
 * server remembers the templates whose keys it may have, beside its state.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "miscadmin.h"
#include "redis/cluster.h"
#include "redis/command.h"
#include "relay/free.h"
#include "relay/group.h"
#include "relay/purge.h"
#include "utils/memutils.h"

#define SCAN_COUNT "1000"
#define KEYS_A_CALL 500			/* of mlc_remove */

/* What the names of a scan are. */
typedef enum Names
{
	ENTRIES,
	GUARDS,
	KEPT						/* copies for readers that may have them stale */
} Names;

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

/* The key that a name stands for, if it is one of the rules'; else NULL. */
static char *
key_of(MlcReply *name, Names what, MlcRelayRule **rules, int nrules,
	   size_t *keylen)
{
	char	   *values[MLC_KEY_MAX_COLUMNS];
	char	   *key = name->str;

	*keylen = name->len;
	if (what == KEPT && name->len > 4)
		key = key_of_guard(name->str + 4, name->len - 4, keylen);
	else if (what == GUARDS)
		key = key_of_guard(name->str, name->len, keylen);
	for (int i = 0; key && i < nrules; i++)
		if (mlc_key_match(rules[i]->template, key, *keylen, values))
			return key;
	return NULL;
}

/* Strong keys may carry marks, which must stay. */
static bool
any_strong(MlcRelayRule **rules, int nrules)
{
	for (int i = 0; i < nrules; i++)
		if (rules[i]->consistency == MLC_STRONG)
			return true;
	return false;
}

/*
 * In a cluster keys are of many slots, some of which it may be receiving, or
 * have given away; marks stay.
 */
static bool
remove_keys(MlcTarget *target, const char **keys, size_t *lens, int n)
{
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	for (int from = 0; from < n; from += KEYS_A_CALL)
	{
		if (!mlc_group_ask_anyway(target))
			return false;
		mlc_command_reset(&cmd);
		mlc_command_add_cstr(&cmd, "FCALL");
		mlc_command_add_cstr(&cmd, "mlc_remove");
		mlc_command_add_cstr(&cmd, "0");
		mlc_command_add_cstr(&cmd, target->ns);
		mlc_command_add_cstr(&cmd, "");
		for (int i = from; i < Min(from + KEYS_A_CALL, n); i++)
			mlc_command_add(&cmd, keys[i], lens[i]);
		if (!mlc_target_good(target, mlc_command_call(&cmd, target->conn),
							 "mlc_remove"))
			return false;
	}
	return true;
}

/*
 * The same for copies that are kept: one that has gone with its slot is left to
 * its time to live.
 */
static bool
remove_kept(MlcTarget *target, const char **names, size_t *lens, int n)
{
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	for (int i = 0; i < n; i++)
	{
		MlcReply   *reply;

		mlc_command_reset(&cmd);
		mlc_command_add_cstr(&cmd, "UNLINK");
		mlc_command_add(&cmd, names[i], lens[i]);
		reply = mlc_command_call(&cmd, target->conn);
		if (reply && mlc_cluster_is_redirect(reply))
			continue;
		if (!mlc_target_good(target, reply, "removal"))
			return false;
	}
	return true;
}

/* Removes what belongs to the rules: names, or entries and leases of keys. */
static bool
remove_names(MlcTarget *target, MlcReply *names, Names what,
			 MlcRelayRule **rules, int nrules)
{
	bool		strong = what != KEPT && any_strong(rules, nrules);
	bool		by_key = strong || (what != KEPT && target->group);
	MlcCommand	cmd;
	int			n = 0;
	const char **keys = palloc(sizeof(char *) * Max(names->nelements, 1));
	size_t	   *lens = palloc(sizeof(size_t) * Max(names->nelements, 1));

	for (size_t i = 0; i < names->nelements; i++)
	{
		size_t		keylen;
		char	   *key = key_of(names->elements[i], what, rules, nrules,
								 &keylen);

		if (key == NULL)
			continue;
		keys[n] = by_key ? key : names->elements[i]->str;
		lens[n++] = by_key ? keylen : names->elements[i]->len;
	}
	if (n == 0)
		return true;
	if (target->group && what == KEPT)
		return remove_kept(target, keys, lens, n);
	if (target->group)
		return remove_keys(target, keys, lens, n);
	mlc_command_init(&cmd);
	if (strong)
	{
		mlc_command_add_cstr(&cmd, "FCALL");
		mlc_command_add_cstr(&cmd, "mlc_invalidate");
		mlc_command_add_int(&cmd, n);
	}
	else
		mlc_command_add_cstr(&cmd, "UNLINK");
	for (int i = 0; i < n; i++)
		mlc_command_add(&cmd, keys[i], lens[i]);
	if (strong)
	{
		mlc_command_add_cstr(&cmd, target->ns);
		mlc_command_add_cstr(&cmd, "");
	}
	return mlc_target_good(target, mlc_command_call(&cmd, target->conn),
						   "removal");
}

/* One step of a scan.  The next cursor is copied; false: the target is down. */
static bool
step(MlcTarget *target, char *cursor, size_t size, const char *glob,
	 Names what, MlcRelayRule **rules, int nrules)
{
	MlcReply   *reply;
	MlcReply   *names;

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
	return remove_names(target, names, what, rules, nrules);
}

static bool
scan(MlcTarget *target, const char *glob, Names what, MlcRelayRule **rules,
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
		done = step(target, cursor, sizeof(cursor), glob, what, rules, nrules);
	} while (done && strcmp(cursor, "0") != 0);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return done;
}

/* ---- what a server may hold ---- */

/*
 * Has the server remember the rules' templates, and these only if asked to;
 * *known: those that it knew, as texts.
 */
static bool
remember(MlcTarget *target, MlcRelayRule **rules, int nrules, bool only,
		 MlcReply **known)
{
	MlcCommand	cmd;
	MlcReply   *reply;

	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_templates");
	mlc_command_add_cstr(&cmd, "0");
	mlc_command_add_cstr(&cmd, target->ns);
	mlc_command_add_cstr(&cmd, only ? "1" : "0");
	for (int i = 0; i < nrules; i++)
		mlc_command_add_cstr(&cmd, rules[i]->key);
	reply = mlc_command_call(&cmd, target->conn);
	if (!mlc_target_good(target, reply, "mlc_templates"))
		return false;
	if (reply->type != MLC_REPLY_ARRAY)
	{
		mlc_target_fail(target, "mlc_templates: unexpected reply");
		return false;
	}
	if (known)
		*known = reply;
	return true;
}

/* The rules that give keys; with room for some more. */
static MlcRelayRule **
with_keys(HTAB *rules, int more, int *nrules)
{
	MlcRelayRule **all = palloc(sizeof(MlcRelayRule *) *
								(hash_get_num_entries(rules) + more + 1));
	HASH_SEQ_STATUS status;
	MlcRelayRule *rule;

	*nrules = 0;
	hash_seq_init(&status, rules);
	while ((rule = hash_seq_search(&status)) != NULL)
		if (rule->template)
			all[(*nrules)++] = rule;
	return all;
}

bool
mlc_purge_remember(MlcTarget *target, HTAB *rules)
{
	int			nrules;
	MlcRelayRule **all = with_keys(rules, 0, &nrules);

	return remember(target, all, nrules, false, NULL);
}

/* Adds a rule of which only the template is known, if it is one. */
static void
add_forgotten(MlcRelayRule **rules, int *nrules, const char *key)
{
	MlcKeyError error;
	MlcTemplate *template = mlc_key_parse(key, &error);

	if (template == NULL)
		return;
	rules[*nrules] = palloc0(sizeof(MlcRelayRule));
	rules[*nrules]->template = template;
	rules[*nrules]->key = key;
	rules[(*nrules)++]->consistency = MLC_EVENTUAL;
}

/* ---- purges ---- */

bool
mlc_purge_rule(MlcTarget *target, MlcRelayRule *rule)
{
	return scan(target, rule->guard_glob, GUARDS, &rule, 1) &&
		scan(target, rule->glob, ENTRIES, &rule, 1) &&
		(rule->kept_glob == NULL ||
		 scan(target, rule->kept_glob, KEPT, &rule, 1)) &&
		(rule->template == NULL || remember(target, &rule, 1, false, NULL));
}

bool
mlc_purge_all(MlcTarget *target, HTAB *rules)
{
	int			nknown;
	int			nrules;
	MlcReply   *known;
	MlcRelayRule **all;

	if (!remember(target, NULL, 0, false, &known))
		return false;
	all = with_keys(rules, (int) known->nelements, &nknown);
	nrules = nknown;
	for (size_t i = 0; i < known->nelements; i++)
		if (known->elements[i]->type == MLC_REPLY_STRING &&
			!MLC_FAULT_SKIP("relay-templates"))
			add_forgotten(all, &nrules, pstrdup(known->elements[i]->str));
	return mlc_free_purge(target) &&
		scan(target, "mlc:*", GUARDS, all, nrules) &&
		scan(target, "mlc:mlc:*", KEPT, all, nrules) &&
		scan(target, "*", ENTRIES, all, nrules) &&
		remember(target, all, nknown, true, NULL);
}
