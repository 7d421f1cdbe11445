/*-------------------------------------------------------------------------
 *
 * capture/xact.c
 *	  The dirty set of a transaction: keys that triggers collected.
 *
 * The set is an append-only list of events with a hash to find a key's last
 * one.  A savepoint remembers the list's length; rolling it back cuts the list
 * there.  Within a savepoint's part of the list a key's event is replaced in
 * place, so the list grows with the number of keys and not of changes.
 *
 * At PRE_COMMIT and PRE_PREPARE the last event of every key goes into WAL as
 * transactional logical messages: durable exactly when the transaction is,
 * met by the relay in commit order.  Keys of strong rules are put under
 * quarantine (capture/strong.c), for which the servers have that time.  At
 * COMMIT that ends, and the relay is woken through its latch; nothing there
 * may fail, wait or allocate.
 *
 * All of it lives in TopTransactionContext.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "capture/strong.h"
#include "capture/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "model/glob.h"
#include "read/free.h"
#include "replication/message.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* A message is cut where it grows past this. */
#define MESSAGE_SIZE (256 * 1024)

typedef struct DirtyRule
{
	int32		id;
	int64		secret;
	bool		all;			/* the whole rule goes */
	int			all_level;		/* nest level that said so */
	bool		strong;
	bool		degrade;
	int64		ttl;
	int			nservers;		/* of a strong rule; 0: all */
	char	  **servers;
} DirtyRule;

typedef struct DirtyKey
{
	int			rule;			/* index into rules */
	MlcOp		op;
	uint32		keylen;
	uint32		bodylen;
	int			previous;		/* this key's event before; -1: none */
	uint64		turn;			/* order of the calls */
	char	   *key;
	char	   *body;			/* NULL: none; the row, where the op has none */
} DirtyKey;

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

typedef struct Savepoint
{
	int			level;
	int			nkeys;			/* length of the list when it began */
} Savepoint;

typedef struct DirtySet
{
	MemoryContext context;
	uint64		turn;			/* of the last call */
	int			nrules;
	int			rules_size;
	DirtyRule  *rules;
	int			nkeys;
	int			keys_size;
	DirtyKey   *keys;
	int			npatterns;		/* of them, patterns */
	Size		bytes;
	keytable_hash *table;
	int			nsavepoints;
	int			savepoints_size;
	Savepoint  *savepoints;
} DirtySet;

static DirtySet *dirty = NULL;
static bool written = false;	/* what there was to write for the commit */
static bool wake_wanted = false;
static MlcRelayShared *held = NULL; /* the relay, for attach() */
static XLogRecPtr last_commit = InvalidXLogRecPtr;

static DirtySet *
dirty_set(void)
{
	MemoryContext context;

	if (dirty)
		return dirty;
	context = AllocSetContextCreate(TopTransactionContext, "mlcache dirty set",
									ALLOCSET_DEFAULT_SIZES);
	dirty = MemoryContextAllocZero(context, sizeof(DirtySet));
	dirty->context = context;
	return dirty;
}

/* Makes room for one more element in an array of the dirty set. */
static void *
grow(DirtySet *set, void *array, int n, int *size, Size element)
{
	if (n < *size)
		return array;
	*size = Max(8, *size * 2);
	if (array == NULL)
		return MemoryContextAlloc(set->context, *size * element);
	return repalloc_huge(array, *size * element);
}

static void
check_not_written(void)
{
	if (written && !MLC_FAULT_SKIP("capture-late"))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot change a cached table while the transaction commits"),
				 errdetail("The keys of this transaction have been written to WAL already."),
				 errhint("Make the trigger fire before the transaction commits.")));
}

/* The rule itself may be gone by the time of the commit. */
static void
copy_servers(DirtySet *set, DirtyRule *entry, const MlcRule *rule)
{
	MemoryContext old = MemoryContextSwitchTo(set->context);

	entry->servers = palloc(sizeof(char *) * Max(rule->nservers, 1));
	for (int i = 0; i < rule->nservers; i++)
		entry->servers[i] = pstrdup(rule->servers[i]);
	entry->nservers = rule->nservers;
	MemoryContextSwitchTo(old);
}

static int
touch(DirtySet *set, const MlcRule *rule)
{
	DirtyRule  *entry;

	for (int i = 0; i < set->nrules; i++)
		if (set->rules[i].id == rule->id)
			return i;

	set->rules = grow(set, set->rules, set->nrules, &set->rules_size,
					  sizeof(DirtyRule));
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

void
mlc_xact_touch(const MlcRule *rule)
{
	DirtySet   *set = dirty_set();

	check_not_written();
	(void) touch(set, rule);
}

/* Remembers the list's length at the start of the current savepoint. */
static void
mark_savepoint(DirtySet *set)
{
	int			level = GetCurrentTransactionNestLevel();

	if (level <= 1 ||
		(set->nsavepoints > 0 &&
		 set->savepoints[set->nsavepoints - 1].level >= level))
		return;
	set->savepoints = grow(set, set->savepoints, set->nsavepoints,
						   &set->savepoints_size, sizeof(Savepoint));
	set->savepoints[set->nsavepoints].level = level;
	set->savepoints[set->nsavepoints].nkeys = set->nkeys;
	set->nsavepoints++;
}

void
mlc_xact_add_all(const MlcRule *rule)
{
	DirtySet   *set = dirty_set();
	DirtyRule  *entry;
	int			ruleno;

	check_not_written();
	ruleno = touch(set, rule);	/* may move the array */
	entry = &set->rules[ruleno];
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
is_about(const DirtyKey *event, int ruleno, MlcOp op, const char *key,
		 uint32 keylen)
{
	return event->rule == ruleno && event->keylen == keylen &&
		memcmp(event->key, key, keylen) == 0 &&
		(event->op == op || !(mlc_event_is_sweep(event->op) ||
							  mlc_event_is_sweep(op)));
}

static char *
copy_bytes(DirtySet *set, const char *data, uint32 len)
{
	char	   *copy = MemoryContextAllocHuge(set->context, (Size) len + 1);

	memcpy(copy, data, len);
	copy[len] = '\0';
	return copy;
}

/* Gives an event another op and body. */
static void
change(DirtySet *set, DirtyKey *event, MlcOp op, const char *body,
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
static DirtyKey *
find_among(DirtySet *set, KeyEntry *entry, int ruleno, MlcOp op,
		   const char *key, uint32 keylen)
{
	for (int i = entry ? entry->index : -1; i >= 0; i = set->keys[i].previous)
		if (is_about(&set->keys[i], ruleno, op, key, keylen))
			return &set->keys[i];
	return NULL;
}

static DirtyKey *
find(DirtySet *set, int ruleno, MlcOp op, const char *key, uint32 keylen)
{
	if (set->table == NULL)
		return NULL;
	return find_among(set, keytable_lookup(set->table,
										   hash_key(set->rules[ruleno].id, key, keylen)),
					  ruleno, op, key, keylen);
}

static void
add(DirtySet *set, int ruleno, MlcOp op, const char *key, uint32 keylen,
	const char *body, uint32 bodylen)
{
	int			segment = 0;
	KeyEntry   *entry;
	DirtyKey   *event;
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

	set->keys = grow(set, set->keys, set->nkeys, &set->keys_size,
					 sizeof(DirtyKey));
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
	set->bytes += keylen + sizeof(DirtyKey) + sizeof(KeyEntry);
}

void
mlc_xact_add(const MlcRule *rule, MlcOp op, const char *key, uint32 keylen,
			 const char *row, uint32 rowlen)
{
	DirtySet   *set = dirty_set();
	int			ruleno;

	check_not_written();
	ruleno = touch(set, rule);
	if (set->rules[ruleno].all)
		return;
	if (set->bytes + keylen > (Size) mlc_capture_work_mem * 1024)
		mlc_xact_add_all(rule);
	else if (set->bytes + keylen + rowlen > (Size) mlc_capture_work_mem * 1024)
		add(set, ruleno, op, key, keylen, NULL, 0);
	else
		add(set, ruleno, op, key, keylen, row, rowlen);
}

/* Has a pattern been invalidated since then that the key matches? */
static bool
matches_pattern(DirtySet *set, const char *key, uint32 keylen, uint64 turn)
{
	for (int i = 0; i < set->nkeys && set->npatterns > 0; i++)
	{
		DirtyKey   *event = &set->keys[i];

		if (event->op == MLC_OP_PATTERN && event->turn > turn &&
			mlc_glob_match(event->key, event->keylen, key, keylen))
			return true;
	}
	return false;
}

/*
 * Of a set: has it been invalidated since, by tag or pattern?  The relay cannot
 * tell, since a transaction has one version.
 */
static bool
is_overtaken(DirtySet *set, const DirtyKey *event)
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
		DirtyKey   *later = find(set, event->rule, MLC_OP_TAG, tag, len);

		if (later && later->turn > event->turn)
			return true;
	}
	return false;
}

/* A touch after a set of the same transaction is a set with another ttl. */
static void
add_touch(DirtySet *set, int ruleno, const char *key, uint32 keylen,
		  const char *body, uint32 bodylen)
{
	DirtyKey   *event = find(set, ruleno, MLC_OP_TOUCH, key, keylen);
	MlcBody		touched;
	MlcBody		old;
	StringInfoData head;
	char	   *merged;

	if (event == NULL || event->op == MLC_OP_TOUCH)
		add(set, ruleno, MLC_OP_TOUCH, key, keylen, body, bodylen);
	if (event == NULL || event->op != MLC_OP_SET ||
		!mlc_event_body_open(&touched, body, bodylen) ||
		!mlc_event_body_open(&old, event->body, event->bodylen) ||
		is_overtaken(set, event))
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
mlc_xact_add_free(MlcOp op, const char *key, uint32 keylen,
				  const char *body, uint32 bodylen)
{
	DirtySet   *set = dirty_set();
	MlcRule    *rule = mlc_rule_by_id(MLC_RULE_FREE);

	check_not_written();
	if (rule == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the row of mlcache.rule that stands for free keys is missing"),
				 errhint("DROP EXTENSION mlcache; CREATE EXTENSION mlcache;")));
	if (set->bytes + keylen + bodylen > (Size) mlc_capture_work_mem * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the transaction sets more than mlcache.capture_work_mem holds"),
				 errdetail("It is %d kB.", mlc_capture_work_mem),
				 errhint("Set less in one transaction, or SET mlcache.capture_work_mem to more.")));
	if (op == MLC_OP_TOUCH)
		add_touch(set, touch(set, rule), key, keylen, body, bodylen);
	else
		add(set, touch(set, rule), op, key, keylen, body, bodylen);
}

/* For mlc_free_pending: what this transaction has made of a free key. */
static bool
pending(const char *key, uint32 keylen, text * *value)
{
	DirtyKey   *event = NULL;
	MlcBody		body;

	*value = NULL;
	if (dirty == NULL)
		return false;
	for (int i = 0; i < dirty->nrules && event == NULL; i++)
		if (dirty->rules[i].id == MLC_RULE_FREE)
			event = find(dirty, i, MLC_OP_SET, key, keylen);
	if (event == NULL || event->op == MLC_OP_TOUCH)
		return matches_pattern(dirty, key, keylen, 0);
	if (event->op == MLC_OP_SET && !is_overtaken(dirty, event) &&
		mlc_event_body_open(&body, event->body, event->bodylen))
		*value = cstring_to_text_with_len(body.value, body.valuelen);
	return true;
}

/* For mlc_free_is_writing. */
static bool
is_writing(void)
{
	for (int i = 0; dirty && i < dirty->nrules; i++)
		if (dirty->rules[i].id == MLC_RULE_FREE)
			return true;
	return false;
}

/* Is there a later event for the key of event i? */
static bool
is_superseded(DirtySet *set, int i)
{
	DirtyKey   *event = &set->keys[i];

	return find(set, event->rule, event->op, event->key,
				event->keylen) != event;
}

static void
flush_message(StringInfo message)
{
	(void) MLC_LOG_MESSAGE(MLC_MESSAGE_PREFIX, message->data, message->len, true);
	resetStringInfo(message);
	mlc_event_message_begin(message);
}

/* Writes one section, or several where a message would grow too long. */
static void
write_rule(DirtySet *set, int ruleno, StringInfo message)
{
	DirtyRule  *rule = &set->rules[ruleno];
	StringInfoData keys;
	MlcMessageSection section;
	int			i = 0;

	section.rule = rule->id;
	section.secret = rule->secret;
	section.flags = rule->all ? MLC_MESSAGE_ALL : 0;
	initStringInfo(&keys);
	do
	{
		section.nkeys = 0;
		resetStringInfo(&keys);
		for (; i < set->nkeys && !rule->all && keys.len < MESSAGE_SIZE; i++)
		{
			DirtyKey   *event = &set->keys[i];

			if (event->rule != ruleno || is_superseded(set, i))
				continue;
			if (is_overtaken(set, event))
				mlc_event_message_key(&keys, MLC_OP_DELETE, event->key,
									  event->keylen);
			else if (event->body && mlc_event_has_body(event->op))
				mlc_event_message_body(&keys, event->op, event->key,
									   event->keylen, event->body,
									   event->bodylen);
			else
				mlc_event_message_key(&keys, event->op, event->key,
									  event->keylen);
			section.nkeys++;
		}
		mlc_event_message_section(message, &section);
		appendBinaryStringInfo(message, keys.data, keys.len);
		if (message->len > MESSAGE_SIZE)
			flush_message(message);
	} while (i < set->nkeys && !rule->all);
	pfree(keys.data);
}

static void
write_messages(void)
{
	StringInfoData message;
	int			empty;

	if (dirty == NULL || dirty->nrules == 0)
		return;
	MLC_FAULT("capture-before-message");
	initStringInfo(&message);
	mlc_event_message_begin(&message);
	empty = message.len;
	for (int i = 0; i < dirty->nrules; i++)
		write_rule(dirty, i, &message);
	if (message.len > empty)
		flush_message(&message);
	pfree(message.data);
}

/* The keys of one strong rule, each once. */
static void
collect_strong(DirtySet *set, int ruleno, MlcStrongRule *strong)
{
	DirtyRule  *rule = &set->rules[ruleno];

	memset(strong, 0, sizeof(*strong));
	strong->nservers = rule->nservers;
	strong->servers = rule->servers;
	strong->degrade = rule->degrade;
	strong->all = rule->all;
	if (rule->all)
		return;
	strong->keys = MemoryContextAllocHuge(set->context,
										  sizeof(MlcStrongKey) * Max(set->nkeys, 1));
	for (int i = 0; i < set->nkeys; i++)
	{
		DirtyKey   *event = &set->keys[i];
		MlcStrongKey *key;

		if (event->rule != ruleno || is_superseded(set, i))
			continue;
		key = &strong->keys[strong->nkeys++];
		key->key = event->key;
		key->len = event->keylen;
		key->payload = event->body;
		key->payloadlen = event->bodylen;
		key->ttl = rule->ttl;
	}
}

static void
quarantine(bool prepare)
{
	MlcStrongRule *strong;
	int			n = 0;

	if (dirty == NULL || dirty->nrules == 0)
		return;
	strong = MemoryContextAlloc(dirty->context,
								sizeof(MlcStrongRule) * dirty->nrules);
	for (int i = 0; i < dirty->nrules; i++)
	{
		if (!dirty->rules[i].strong)
			continue;
		collect_strong(dirty, i, &strong[n]);
		if (strong[n].all || strong[n].nkeys > 0)
			n++;
	}
	if (n > 0)
		mlc_strong_quarantine(strong, n, prepare);
}

/* Ends marks.  True: there is nothing left for the relay to do in a hurry. */
static bool
release_commit(void)
{
	MlcVersion	version = {
		.tli = GetWALInsertionTimeLine(),
		.lsn = XactLastCommitEnd
	};
	bool		only_strong = dirty != NULL;

	for (int i = 0; only_strong && i < dirty->nrules; i++)
		only_strong = dirty->rules[i].strong;
	return mlc_strong_release(&version) && only_strong;
}

static void
raise_to(pg_atomic_uint64 *position, XLogRecPtr to)
{
	uint64		now = pg_atomic_read_u64(position);

	while (now < to && !pg_atomic_compare_exchange_u64(position, &now, to))
		;
}

/*
 * Tells the relay how far WAL has to be read, and wakes it; what is in no
 * hurry does not shorten its nap.  A transaction without an xid of its own may
 * have written a commit, too: COMMIT PREPARED.
 */
static void
notice_commit(bool hurry)
{
	MlcRelayShared *relay;

	if (XactLastCommitEnd == last_commit)
		return;
	last_commit = XactLastCommitEnd;
	relay = mlc_segment_my_relay();
	if (relay == NULL)
		return;
	raise_to(&relay->want_lsn, last_commit);
	if (hurry)
	{
		raise_to(&relay->hurry_lsn, last_commit);
		mlc_segment_wake(relay);
	}
	else
		mlc_segment_wake_idle(relay);
}

static void
end_transaction(void)
{
	if (held)
		pg_atomic_fetch_sub_u32(&held->holds, 1);
	held = NULL;
	dirty = NULL;
	written = wake_wanted = false;
	mlc_rule_busy = 0;
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			if (wake_wanted)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has attached or detached cache rules")));
			/* FALLTHROUGH */
		case XACT_EVENT_PRE_COMMIT:
			quarantine(event == XACT_EVENT_PRE_PREPARE);
			write_messages();
			written = true;
			mlc_strong_await();
			break;

		case XACT_EVENT_COMMIT:
			if (wake_wanted)
				mlc_segment_want_relay();
			notice_commit(!release_commit());
			end_transaction();
			break;

		case XACT_EVENT_ABORT:
			(void) mlc_strong_release(NULL);
			end_transaction();
			break;

		case XACT_EVENT_PREPARE:
			mlc_strong_prepared();
			end_transaction();
			break;

		default:
			break;
	}
}

/* Cuts the list where the savepoint began. */
static void
abort_savepoint(DirtySet *set, int level)
{
	int			keep = set->nkeys;

	while (set->nsavepoints > 0 &&
		   set->savepoints[set->nsavepoints - 1].level >= level)
		keep = set->savepoints[--set->nsavepoints].nkeys;

	while (set->nkeys > keep)
	{
		DirtyKey   *event = &set->keys[--set->nkeys];
		KeyEntry   *entry;

		entry = keytable_lookup(set->table,
								hash_key(set->rules[event->rule].id,
										 event->key, event->keylen));
		entry->index = event->previous;
		set->bytes -= event->keylen + event->bodylen + sizeof(DirtyKey) +
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

/* The savepoint's part of the list becomes its parent's. */
static void
commit_savepoint(DirtySet *set, int level)
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

static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid,
				 SubTransactionId parentSubid, void *arg)
{
	if (dirty == NULL)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		abort_savepoint(dirty, GetCurrentTransactionNestLevel());
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		commit_savepoint(dirty, GetCurrentTransactionNestLevel());
}

void
mlc_xact_probe(const MlcRule *rule, const char *key)
{
	MlcMessageSection section;
	StringInfoData message;

	section.rule = rule->id;
	section.secret = rule->secret;
	section.flags = 0;
	section.nkeys = 1;
	initStringInfo(&message);
	mlc_event_message_begin(&message);
	mlc_event_message_section(&message, &section);
	mlc_event_message_key(&message, MLC_OP_INVALIDATE, key, strlen(key));
	(void) MLC_LOG_MESSAGE(MLC_PROBE_PREFIX, message.data, message.len, true);
	pfree(message.data);
}

XLogRecPtr
mlc_xact_last_commit(void)
{
	return XactLastCommitEnd;
}

void
mlc_xact_wake_at_commit(void)
{
	wake_wanted = true;
}

void
mlc_xact_hold_relay(MlcRelayShared *relay)
{
	if (held)
		return;
	pg_atomic_fetch_add_u32(&relay->holds, 1);
	held = relay;
}

void
mlc_xact_init(void)
{
	mlc_free_pending = pending;
	mlc_free_is_writing = is_writing;
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}
