/*-------------------------------------------------------------------------
 *
 * relay/purge.c
 *	  Removes entries by rule: SCAN, match the template, UNLINK.
 *
 * SCAN returns whatever was there from its start to its end.  An entry and its
 * guard go together, whichever is met: with its guard a lease dies, so nothing
 * that was loaded before can be filled afterwards; a lease that is given
 * meanwhile was given after the change that asked for the purge had become
 * visible.  Names are matched against the template letter by letter, since a
 * glob would take foreign keys along.
 *
 * One pass over the keyspace finds entries, guards and copies that are kept,
 * since nothing else is delivered meanwhile.
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

/* A copy for readers that may have it stale is named by the guard. */
static bool
is_kept(MlcReply *name)
{
	return name->len > 8 && memcmp(name->str, "mlc:mlc:", 8) == 0;
}

/* The key that a name stands for, if it is one of the rules'; else NULL. */
static char *
key_of(MlcReply *name, MlcRelayRule **rules, int nrules, size_t *keylen)
{
	char	   *values[MLC_KEY_MAX_COLUMNS];
	char	   *key = name->str;

	*keylen = name->len;
	if (is_kept(name))
		key = key_of_guard(name->str + 4, name->len - 4, keylen);
	else if (name->len > 4 && memcmp(name->str, "mlc:", 4) == 0)
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

typedef struct KeyName
{
	const char *str;
	size_t		len;
} KeyName;

static int
compare_names(const void *a, const void *b)
{
	const KeyName *x = a;
	const KeyName *y = b;
	int			order = memcmp(x->str, y->str, Min(x->len, y->len));

	return order != 0 ? order : (x->len > y->len) - (x->len < y->len);
}

/* A key is met by its entry and by its guard.  How many are left. */
static int
without_duplicates(KeyName *keys, int n)
{
	int			last = 0;

	if (n < 2)
		return n;
	qsort(keys, n, sizeof(KeyName), compare_names);
	for (int i = 1; i < n; i++)
		if (compare_names(&keys[last], &keys[i]) != 0)
			keys[++last] = keys[i];
	return last + 1;
}

static void
add_names(MlcCommand *cmd, KeyName *names, int n)
{
	for (int i = 0; i < n; i++)
		mlc_command_add(cmd, names[i].str, names[i].len);
}

/* Entries and their guards. */
static bool
unlink_keys(MlcTarget *target, KeyName *keys, int n)
{
	StringInfoData guard;
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "UNLINK");
	for (int i = 0; i < n; i++)
	{
		initStringInfo(&guard);
		mlc_key_guard(keys[i].str, keys[i].len, &guard);
		mlc_command_add(&cmd, keys[i].str, keys[i].len);
		mlc_command_add(&cmd, guard.data, guard.len);
	}
	return n == 0 || mlc_target_good(target, mlc_command_call(&cmd, target->conn),
									 "removal");
}

/*
 * Entries and leases; marks stay.  In a cluster keys are of many slots, some of
 * which it may be receiving, or have given away.
 */
static bool
remove_keys(MlcTarget *target, KeyName *keys, int n)
{
	bool		node = target->group != NULL;
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	for (int from = 0; from < n; from += KEYS_A_CALL)
	{
		int			count = Min(KEYS_A_CALL, n - from);

		if (!mlc_group_ask_anyway(target))
			return false;
		mlc_command_reset(&cmd);
		mlc_command_add_cstr(&cmd, "FCALL");
		mlc_command_add_cstr(&cmd, node ? "mlc_remove" : "mlc_invalidate");
		mlc_command_add_int(&cmd, node ? 0 : count);
		if (!node)
			add_names(&cmd, keys + from, count);
		mlc_command_add_cstr(&cmd, target->ns);
		mlc_command_add_cstr(&cmd, "");
		if (node)
			add_names(&cmd, keys + from, count);
		if (!mlc_target_good(target, mlc_command_call(&cmd, target->conn),
							 "removal"))
			return false;
	}
	return true;
}

/*
 * Copies that are kept.  In a cluster they lie in many slots; one that has gone
 * with its slot is left to its time to live.
 */
static bool
remove_kept(MlcTarget *target, KeyName *names, int n)
{
	int			step = target->group ? 1 : n;
	MlcCommand	cmd;

	mlc_command_init(&cmd);
	for (int from = 0; from < n; from += step)
	{
		MlcReply   *reply;

		mlc_command_reset(&cmd);
		mlc_command_add_cstr(&cmd, "UNLINK");
		add_names(&cmd, names + from, step);
		reply = mlc_command_call(&cmd, target->conn);
		if (reply && target->group && mlc_cluster_is_redirect(reply))
			continue;
		if (!mlc_target_good(target, reply, "removal"))
			return false;
	}
	return true;
}

/* Removes what belongs to the rules. */
static bool
remove_names(MlcTarget *target, MlcReply *names, MlcRelayRule **rules, int nrules)
{
	KeyName    *keys = palloc(sizeof(KeyName) * Max(names->nelements, 1));
	KeyName    *kept = palloc(sizeof(KeyName) * Max(names->nelements, 1));
	int			nkeys = 0;
	int			nkept = 0;

	for (size_t i = 0; i < names->nelements; i++)
	{
		MlcReply   *name = names->elements[i];
		KeyName		key;

		key.str = key_of(name, rules, nrules, &key.len);
		if (key.str == NULL)
			continue;
		if (!is_kept(name))
			keys[nkeys++] = key;
		else
		{
			kept[nkept].str = name->str;
			kept[nkept++].len = name->len;
		}
	}
	nkeys = without_duplicates(keys, nkeys);
	return (target->group || any_strong(rules, nrules) ?
			remove_keys(target, keys, nkeys) :
			unlink_keys(target, keys, nkeys)) &&
		remove_kept(target, kept, nkept);
}

/* One step of a scan.  The next cursor is copied; false: the target is down. */
static bool
step(MlcTarget *target, char *cursor, size_t size, const char *glob,
	 MlcRelayRule **rules, int nrules)
{
	MlcReply   *reply;

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
	return remove_names(target, reply->elements[1], rules, nrules);
}

static bool
scan(MlcTarget *target, const char *glob, MlcRelayRule **rules, int nrules)
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
		done = step(target, cursor, sizeof(cursor), glob, rules, nrules);
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
	return scan(target, rule->names_glob, &rule, 1) &&
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
		scan(target, "*", all, nrules) &&
		remember(target, all, nknown, true, NULL);
}
