/*-------------------------------------------------------------------------
 *
 * capture/xact.c
 *	  What happens with the dirty set of a transaction at its end.
 *
 * At PRE_COMMIT and PRE_PREPARE the last event of every key goes into WAL as
 * transactional logical messages: durable exactly when the transaction is,
 * met by the relay in commit order.  Keys of strong rules are put under
 * quarantine (capture/strong.c), for which the servers have that time.  At
 * COMMIT that ends, and the relay is woken through its latch; nothing there
 * may fail, wait or allocate.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/compat.h"
#include "base/fault.h"
#include "capture/dirty.h"
#include "capture/strong.h"
#include "capture/xact.h"
#include "miscadmin.h"
#include "read/free.h"
#include "replication/message.h"
#include "utils/memutils.h"

/* A message is cut where it grows past this. */
#define MESSAGE_SIZE (256 * 1024)

static MlcDirtySet *dirty = NULL;
static bool written = false;	/* what there was to write for the commit */
static bool wake_wanted = false;
static MlcRelayShared *held = NULL; /* the relay, for attach() */
static XLogRecPtr last_commit = InvalidXLogRecPtr;

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

/* To add to; the first call of a transaction makes it. */
static MlcDirtySet *
need_set(void)
{
	check_not_written();
	if (dirty == NULL)
		dirty = mlc_dirty_begin();
	return dirty;
}

void
mlc_xact_touch(const MlcRule *rule)
{
	(void) mlc_dirty_touch(need_set(), rule);
}

void
mlc_xact_add(const MlcRule *rule, MlcOp op, const char *key, uint32 keylen,
			 const char *row, uint32 rowlen)
{
	mlc_dirty_add(need_set(), rule, op, key, keylen, row, rowlen);
}

void
mlc_xact_add_all(const MlcRule *rule)
{
	mlc_dirty_add_all(need_set(), rule);
}

void
mlc_xact_add_free(MlcOp op, const char *key, uint32 keylen,
				  const char *body, uint32 bodylen)
{
	MlcDirtySet *set = need_set();
	MlcRule    *rule = mlc_rule_by_id(MLC_RULE_FREE);

	if (rule == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the row of mlcache.rule that stands for free keys is missing"),
				 errhint("DROP EXTENSION mlcache; CREATE EXTENSION mlcache;")));
	mlc_dirty_add_free(set, rule, op, key, keylen, body, bodylen);
}

/* The place of free keys in the set; -1: they have none. */
static int
free_rule(void)
{
	for (int i = 0; dirty && i < dirty->nrules; i++)
		if (dirty->rules[i].id == MLC_RULE_FREE)
			return i;
	return -1;
}

/* For mlc_free_pending: what this transaction has made of a free key. */
static bool
pending(const char *key, uint32 keylen, text * *value)
{
	int			ruleno = free_rule();

	*value = NULL;
	return ruleno >= 0 && mlc_dirty_pending(dirty, ruleno, key, keylen, value);
}

/* For mlc_free_is_writing. */
static bool
is_writing(void)
{
	return free_rule() >= 0;
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
write_rule(MlcDirtySet *set, int ruleno, StringInfo message)
{
	MlcDirtyRule *rule = &set->rules[ruleno];
	MlcDirtyKey *event = rule->all ? NULL : mlc_dirty_next(set, ruleno, NULL);
	StringInfoData keys;
	MlcMessageSection section;

	section.rule = rule->id;
	section.secret = rule->secret;
	section.flags = rule->all ? MLC_MESSAGE_ALL : 0;
	initStringInfo(&keys);
	do
	{
		section.nkeys = 0;
		resetStringInfo(&keys);
		for (; event && keys.len < MESSAGE_SIZE;
			 event = mlc_dirty_next(set, ruleno, event))
		{
			if (mlc_dirty_is_overtaken(set, event))
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
	} while (event);
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
collect_strong(MlcDirtySet *set, int ruleno, MlcStrongRule *strong)
{
	MlcDirtyRule *rule = &set->rules[ruleno];

	memset(strong, 0, sizeof(*strong));
	strong->nservers = rule->nservers;
	strong->servers = rule->servers;
	strong->degrade = rule->degrade;
	strong->all = rule->all;
	if (rule->all)
		return;
	strong->keys = MemoryContextAllocHuge(set->context,
										  sizeof(MlcStrongKey) * Max(set->nkeys, 1));
	for (MlcDirtyKey *event = mlc_dirty_next(set, ruleno, NULL); event;
		 event = mlc_dirty_next(set, ruleno, event))
	{
		MlcStrongKey *key = &strong->keys[strong->nkeys++];

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

static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid,
				 SubTransactionId parentSubid, void *arg)
{
	if (dirty == NULL)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		mlc_dirty_abort_level(dirty, GetCurrentTransactionNestLevel());
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		mlc_dirty_commit_level(dirty, GetCurrentTransactionNestLevel());
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
