/*-------------------------------------------------------------------------
 *
 * capture/dirty.c
 *	  The dirty set of a transaction: keys that triggers collected.
 *
 * The set is an append-only list of events with a hash to find a key's last
 * one.  A savepoint remembers the list's length; rolling it back cuts the list
 * there.  Within a savepoint's part of the list a key's event is replaced in
 * place, so the list grows with the number of keys and not of changes.
 *
 * All of it lives in TopTransactionContext, and ends with that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/grow.h"
#include "base/guc.h"
#include "capture/dirty.h"
#include "common/hashfn.h"
#include "model/glob.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Hash from (rule, key) to the last event; the key is the event's index. */
typedef struct KeyEntry
{
	uint32		hash;			/* of rule and key */
	int			index;			/* of the last event with this hash */
	char		status;
} KeyEntry;

#define SH_PREFIX keytable
#define SH_ELEMENT_TYPE KeyEntry
#define SH_KEY_TYPE uint32
#define SH_KEY hash
#define SH_HASH_KEY(tb, key) (key)
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#include "lib/simplehash.h"

MlcDirtySet *
mlc_dirty_begin(void)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext,
												  "mlcache dirty set",
												  ALLOCSET_DEFAULT_SIZES);
	MlcDirtySet *set = MemoryContextAllocZero(context, sizeof(MlcDirtySet));

	set->context = context;
	return set;
}

/* The rule itself may be gone by the time of the commit. */
static void
copy_servers(MlcDirtySet *set, MlcDirtyRule *entry, const MlcRule *rule)
{
	MemoryContext old = MemoryContextSwitchTo(set->context);

	entry->servers = palloc(sizeof(char *) * Max(rule->nservers, 1));
	for (int i = 0; i < rule->nservers; i++)
		entry->servers[i] = pstrdup(rule->servers[i]);
	entry->nservers = rule->nservers;
	MemoryContextSwitchTo(old);
}

int
mlc_dirty_touch(MlcDirtySet *set, const MlcRule *rule)
{
	MlcDirtyRule *entry;

	for (int i = 0; i < set->nrules; i++)
		if (set->rules[i].id == rule->id)
			return i;

	set->rules = mlc_grow(set->context, set->rules, set->nrules, &set->rules_size,
						  sizeof(MlcDirtyRule));
	entry = &set->rules[set->nrules];
	entry->id = rule->id;
	entry->secret = rule->secret;
	entry->all = false;
	entry->all_level = 0;
	entry->strong = rule->consistency == MLC_STRONG;
	entry->degrade = rule->degrade;
	entry->ttl = rule->ttl;
	entry->nservers = 0;
	if (entry->strong)
		copy_servers(set, entry, rule);
	return set->nrules++;
}

/* Remembers the list's length at the start of the current savepoint. */
static void
mark_savepoint(MlcDirtySet *set)
{
	int			level = GetCurrentTransactionNestLevel();

	if (level <= 1 ||
		(set->nsavepoints > 0 &&
		 set->savepoints[set->nsavepoints - 1].level >= level))
		return;
	set->savepoints = mlc_grow(set->context, set->savepoints, set->nsavepoints,
							   &set->savepoints_size, sizeof(MlcDirtyLevel));
	set->savepoints[set->nsavepoints].level = level;
	set->savepoints[set->nsavepoints].nkeys = set->nkeys;
	set->nsavepoints++;
}

void
mlc_dirty_add_all(MlcDirtySet *set, const MlcRule *rule)
{
	int			ruleno = mlc_dirty_touch(set, rule);	/* may move the array */
	MlcDirtyRule *entry = &set->rules[ruleno];

	if (!entry->all)
	{
		entry->all = true;
		entry->all_level = GetCurrentTransactionNestLevel();
	}
}

static uint32
hash_key(int32 rule, const char *key, uint32 keylen)
{
	return hash_combine(hash_bytes((const unsigned char *) key, keylen),
						murmurhash32(rule));
}

/* Is the event about this very key, tag or pattern? */
static bool
is_about(const MlcDirtyKey *event, int ruleno, MlcOp op, const char *key,
		 uint32 keylen)
{
	return event->rule == ruleno && event->keylen == keylen &&
		memcmp(event->key, key, keylen) == 0 &&
		(event->op == op || !(mlc_event_is_sweep(event->op) ||
							  mlc_event_is_sweep(op)));
}

static char *
copy_bytes(MlcDirtySet *set, const char *data, uint32 len)
{
	char	   *copy = MemoryContextAllocHuge(set->context, (Size) len + 1);

	memcpy(copy, data, len);
	copy[len] = '\0';
	return copy;
}

/* Gives an event another op and body. */
static void
change(MlcDirtySet *set, MlcDirtyKey *event, MlcOp op, const char *body,
	   uint32 bodylen)
{
	char	   *copy = body ? copy_bytes(set, body, bodylen) : NULL;

	if (event->body)
		pfree(event->body);
	set->bytes = set->bytes - event->bodylen + bodylen;
	event->op = op;
	event->body = copy;
	event->bodylen = bodylen;
	event->turn = ++set->turn;
}

/* The key's last event among those with its hash; NULL: none. */
static MlcDirtyKey *
find_among(MlcDirtySet *set, KeyEntry *entry, int ruleno, MlcOp op,
		   const char *key, uint32 keylen)
{
	for (int i = entry ? entry->index : -1; i >= 0; i = set->keys[i].previous)
		if (is_about(&set->keys[i], ruleno, op, key, keylen))
			return &set->keys[i];
	return NULL;
}

static MlcDirtyKey *
find(MlcDirtySet *set, int ruleno, MlcOp op, const char *key, uint32 keylen)
{
	if (set->table == NULL)
		return NULL;
	return find_among(set, keytable_lookup(set->table,
										   hash_key(set->rules[ruleno].id, key, keylen)),
					  ruleno, op, key, keylen);
}

static void
add(MlcDirtySet *set, int ruleno, MlcOp op, const char *key, uint32 keylen,
	const char *body, uint32 bodylen)
{
	int			segment = 0;
	KeyEntry   *entry;
	MlcDirtyKey *event;
	bool		found;

	mark_savepoint(set);
	if (set->nsavepoints > 0)
		segment = set->savepoints[set->nsavepoints - 1].nkeys;
	if (set->table == NULL)
		set->table = keytable_create(set->context, 64, NULL);

	entry = keytable_insert(set->table,
							hash_key(set->rules[ruleno].id, key, keylen), &found);
	if (!found)
		entry->index = -1;

	/* replace this key's event if it belongs to the same savepoint */
	event = find_among(set, entry, ruleno, op, key, keylen);
	if (event && event - set->keys >= segment)
	{
		change(set, event, op, body, bodylen);
		return;
	}

	set->keys = mlc_grow(set->context, set->keys, set->nkeys, &set->keys_size,
						 sizeof(MlcDirtyKey));
	event = &set->keys[set->nkeys];
	memset(event, 0, sizeof(*event));
	event->rule = ruleno;
	event->keylen = keylen;
	event->key = copy_bytes(set, key, keylen);
	change(set, event, op, body, bodylen);
	if (op == MLC_OP_PATTERN)
		set->npatterns++;
	event->previous = entry->index;
	entry->index = set->nkeys++;
	set->bytes += keylen + sizeof(MlcDirtyKey) + sizeof(KeyEntry);
}

void
mlc_dirty_add(MlcDirtySet *set, const MlcRule *rule, MlcOp op, const char *key,
			  uint32 keylen, const char *row, uint32 rowlen)
{
	int			ruleno = mlc_dirty_touch(set, rule);

	if (set->rules[ruleno].all)
		return;
	if (set->bytes + keylen > (Size) mlc_capture_work_mem * 1024)
		mlc_dirty_add_all(set, rule);
	else if (set->bytes + keylen + rowlen > (Size) mlc_capture_work_mem * 1024)
		add(set, ruleno, op, key, keylen, NULL, 0);
	else
		add(set, ruleno, op, key, keylen, row, rowlen);
}

/* Has a pattern been invalidated since then that the key matches? */
static bool
matches_pattern(MlcDirtySet *set, const char *key, uint32 keylen, uint64 turn)
{
	for (int i = 0; i < set->nkeys && set->npatterns > 0; i++)
	{
		MlcDirtyKey *event = &set->keys[i];

		if (event->op == MLC_OP_PATTERN && event->turn > turn &&
			mlc_glob_match(event->key, event->keylen, key, keylen))
			return true;
	}
	return false;
}

bool
mlc_dirty_is_overtaken(MlcDirtySet *set, const MlcDirtyKey *event)
{
	MlcBody		body;
	const char *tag;
	uint32		len;

	if (event->op == MLC_OP_SET &&
		matches_pattern(set, event->key, event->keylen, event->turn))
		return true;
	if (event->op != MLC_OP_SET ||
		!mlc_event_body_open(&body, event->body, event->bodylen))
		return false;
	while (mlc_event_body_next_tag(&body, &tag, &len))
	{
		MlcDirtyKey *later = find(set, event->rule, MLC_OP_TAG, tag, len);

		if (later && later->turn > event->turn)
			return true;
	}
	return false;
}

/* A touch after a set of the same transaction is a set with another ttl. */
static void
add_touch(MlcDirtySet *set, int ruleno, const char *key, uint32 keylen,
		  const char *body, uint32 bodylen)
{
	MlcDirtyKey *event = find(set, ruleno, MLC_OP_TOUCH, key, keylen);
	MlcBody		touched;
	MlcBody		old;
	StringInfoData head;
	char	   *merged;

	if (event == NULL || event->op == MLC_OP_TOUCH)
		add(set, ruleno, MLC_OP_TOUCH, key, keylen, body, bodylen);
	if (event == NULL || event->op != MLC_OP_SET ||
		!mlc_event_body_open(&touched, body, bodylen) ||
		!mlc_event_body_open(&old, event->body, event->bodylen) ||
		mlc_dirty_is_overtaken(set, event))
		return;

	/* all but the ttl, with which a body begins, is as it was */
	merged = copy_bytes(set, event->body, event->bodylen);
	initStringInfo(&head);
	mlc_event_body_make(&head, touched.ttl, 0, NULL, NULL, "", 0);
	memcpy(merged, head.data, sizeof(touched.ttl));
	pfree(head.data);
	add(set, ruleno, MLC_OP_SET, key, keylen, merged, event->bodylen);
	pfree(merged);
}

void
mlc_dirty_add_free(MlcDirtySet *set, const MlcRule *rule, MlcOp op,
				   const char *key, uint32 keylen, const char *body,
				   uint32 bodylen)
{
	if (set->bytes + keylen + bodylen > (Size) mlc_capture_work_mem * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the transaction sets more than mlcache.capture_work_mem holds"),
				 errdetail("It is %d kB.", mlc_capture_work_mem),
				 errhint("Set less in one transaction, or SET mlcache.capture_work_mem to more.")));
	if (op == MLC_OP_TOUCH)
		add_touch(set, mlc_dirty_touch(set, rule), key, keylen, body, bodylen);
	else
		add(set, mlc_dirty_touch(set, rule), op, key, keylen, body, bodylen);
}

bool
mlc_dirty_pending(MlcDirtySet *set, int ruleno, const char *key, uint32 keylen,
				  text * *value)
{
	MlcDirtyKey *event = find(set, ruleno, MLC_OP_SET, key, keylen);
	MlcBody		body;

	*value = NULL;
	if (event == NULL || event->op == MLC_OP_TOUCH)
		return matches_pattern(set, key, keylen, 0);
	if (event->op == MLC_OP_SET && !mlc_dirty_is_overtaken(set, event) &&
		mlc_event_body_open(&body, event->body, event->bodylen))
		*value = cstring_to_text_with_len(body.value, body.valuelen);
	return true;
}

MlcDirtyKey *
mlc_dirty_next(MlcDirtySet *set, int ruleno, const MlcDirtyKey *after)
{
	for (int i = after ? after - set->keys + 1 : 0; i < set->nkeys; i++)
	{
		MlcDirtyKey *event = &set->keys[i];

		if (event->rule == ruleno &&
			find(set, ruleno, event->op, event->key, event->keylen) == event)
			return event;
	}
	return NULL;
}

void
mlc_dirty_abort_level(MlcDirtySet *set, int level)
{
	int			keep = set->nkeys;

	while (set->nsavepoints > 0 &&
		   set->savepoints[set->nsavepoints - 1].level >= level)
		keep = set->savepoints[--set->nsavepoints].nkeys;

	while (set->nkeys > keep)
	{
		MlcDirtyKey *event = &set->keys[--set->nkeys];
		KeyEntry   *entry;

		entry = keytable_lookup(set->table,
								hash_key(set->rules[event->rule].id,
										 event->key, event->keylen));
		entry->index = event->previous;
		set->bytes -= event->keylen + event->bodylen + sizeof(MlcDirtyKey) +
			sizeof(KeyEntry);
		pfree(event->key);
		if (event->body)
			pfree(event->body);
		if (event->op == MLC_OP_PATTERN)
			set->npatterns--;
	}

	/* rules stay touched: an empty section does no harm */
	for (int i = 0; i < set->nrules; i++)
		if (set->rules[i].all && set->rules[i].all_level >= level)
			set->rules[i].all = false;
}

void
mlc_dirty_commit_level(MlcDirtySet *set, int level)
{
	if (set->nsavepoints > 0 &&
		set->savepoints[set->nsavepoints - 1].level == level)
	{
		if (level == 2 ||
			(set->nsavepoints > 1 &&
			 set->savepoints[set->nsavepoints - 2].level == level - 1))
			set->nsavepoints--;
		else
			set->savepoints[set->nsavepoints - 1].level = level - 1;
	}
	for (int i = 0; i < set->nrules; i++)
	{
		if (set->rules[i].all_level == level)
			set->rules[i].all_level = level - 1;
	}
}
