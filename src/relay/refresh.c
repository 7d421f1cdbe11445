/*-------------------------------------------------------------------------
 *
 * relay/refresh.c
 *	  Reloads derived documents after the relay has invalidated them.
 *
 * The invalidation is what correctness rests on, and it is ordered and
 * acknowledged; a reload only warms.  So it may be dropped: when its target is
 * away, when another reader holds the lease, when the loader fails or takes
 * longer than mlcache.refresh_timeout (a warning a minute), and when more wait
 * than the queue holds.  And deliveries come first: with WAL to decode a turn
 * ends after BUDGET, be it in the middle of what was taken from the queue.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/wal.h"
#include "capture/decode.h"
#include "common/hashfn.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "read/load.h"
#include "redis/command.h"
#include "relay/group.h"
#include "relay/refresh.h"
#include "relay/relay.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#define QUEUE_MAX 65536
#define KEYS_A_TURN 64
#define BUDGET 3				/* ms a turn while WAL waits */
#define LEASE_MS "5000"
#define WARN_PAUSE 60000		/* ms */

typedef struct Wish
{
	uint32		hash;			/* hash key: one wish a key */
	dlist_node	node;			/* of the queue, until it is taken */
	int32		rule;
	uint64		mask;
	bool		replica;		/* of a rule that keeps every row cached */
	uint32		keylen;
	char	   *key;
} Wish;

static MemoryContext context = NULL;
static HTAB *wishes = NULL;

/*
 * First come, first served, so that keys which change all the time keep nobody
 * waiting for ever; and replicas before all others, which readers fill as well.
 */
static dlist_head replicas = DLIST_STATIC_INIT(replicas);
static dlist_head others = DLIST_STATIC_INIT(others);
static Wish taken[KEYS_A_TURN]; /* out of the queue, not loaded yet */
static int	ntaken = 0;
static int	nreplicas = 0;		/* wishes for replicas, taken or not */

/* Tells audits whether a replica that is missing may be on its way. */
static void
tell(void)
{
	pg_atomic_write_u32(&mlc_relay->shared->reloads, nreplicas);
	if (nreplicas == 0)
		pg_atomic_fetch_add_u64(&mlc_relay->shared->reloaded, 1);
}

void
mlc_refresh_queue(MlcBatch *batch)
{
	for (int i = 0; i < batch->nevents; i++)
	{
		MlcBatchEvent *event = &batch->events[i];
		uint32		hash;
		Wish	   *wish;
		bool		found;

		if (event->dead || event->op != MLC_OP_REFRESH)
			continue;
		if (wishes == NULL)
		{
			HASHCTL		ctl;

			context = AllocSetContextCreate(TopMemoryContext, "mlcache refresh",
											ALLOCSET_DEFAULT_SIZES);
			memset(&ctl, 0, sizeof(ctl));
			ctl.keysize = sizeof(uint32);
			ctl.entrysize = sizeof(Wish);
			ctl.hcxt = context;
			wishes = hash_create("mlcache refresh", 256, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		}
		if (hash_get_num_entries(wishes) >= QUEUE_MAX)
			break;
		hash = hash_bytes((const unsigned char *) event->key, event->keylen);
		wish = hash_search(wishes, &hash, HASH_ENTER, &found);
		if (found)
		{
			/* the same key mostly; another one is left to its readers */
			wish->mask |= event->rule->mask;
			if (event->rule->replicate && !wish->replica)
			{
				wish->replica = true;
				nreplicas++;
				dlist_delete(&wish->node);
				dlist_push_tail(&replicas, &wish->node);
			}
			continue;
		}
		wish->rule = event->rule->id;
		wish->mask = event->rule->mask;
		wish->replica = event->rule->replicate;
		nreplicas += wish->replica;
		dlist_push_tail(wish->replica ? &replicas : &others, &wish->node);
		wish->keylen = event->keylen;
		wish->key = MemoryContextAlloc(context, event->keylen + 1);
		memcpy(wish->key, event->key, event->keylen + 1);
	}
	tell();
}

int
mlc_refresh_pending(void)
{
	return wishes ? (int) hash_get_num_entries(wishes) + ntaken : 0;
}

/* Takes a lease for the relay; false: somebody else loads, or may not. */
static bool
take_lease(MlcTarget *target, Wish *wish, const char *token, char **applied)
{
	MlcCommand	cmd;
	MlcReply   *reply;

	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_get");
	mlc_command_add_cstr(&cmd, "1");
	mlc_command_add(&cmd, wish->key, wish->keylen);
	mlc_command_add_cstr(&cmd, token);
	mlc_command_add_cstr(&cmd, LEASE_MS);
	mlc_command_add_cstr(&cmd, target->ns);
	reply = mlc_command_call(&cmd, target->conn);
	if (reply == NULL)
	{
		mlc_target_fail(target, mlc_conn_error(target->conn));
		return false;
	}
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements < 2 ||
		reply->elements[0]->type != MLC_REPLY_STRING ||
		strcmp(reply->elements[0]->str, "lease") != 0)
		return false;
	*applied = reply->elements[1]->str;
	return true;
}

static void
fill(MlcTarget *target, Wish *wish, const char *token, MlcRule *rule,
	 MlcLoad found, const char *payload, uint32 payloadlen,
	 const char *lo, const char *hi)
{
	MlcCommand	cmd;
	MlcReply   *reply;
	bool		absent = found == MLC_LOAD_ABSENT;

	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_fill");
	mlc_command_add_cstr(&cmd, "1");
	mlc_command_add(&cmd, wish->key, wish->keylen);
	mlc_command_add_cstr(&cmd, token);
	mlc_command_add(&cmd, absent ? "" : payload, absent ? 0 : payloadlen);
	if (absent && rule->negative_ttl == 0)
		mlc_command_add_int(&cmd, mlc_negative_ttl);
	else
		mlc_command_add_int(&cmd, absent ? rule->negative_ttl : rule->ttl);
	mlc_command_add_cstr(&cmd, lo);
	mlc_command_add_cstr(&cmd, hi);
	mlc_command_add_cstr(&cmd, absent ? "1" : "0");
	mlc_command_add_cstr(&cmd, target->ns);
	reply = mlc_command_call(&cmd, target->conn);
	if (reply == NULL)
		mlc_target_fail(target, mlc_conn_error(target->conn));
}

/*
 * Loads with a new snapshot; hi is the insert position read after it.  WAL is
 * flushed up to there: a commit that nobody has flushed may yet be lost in a
 * crash.
 */
static MlcLoad
load(MlcRule *rule, Wish *wish, char **payload, uint32 *payloadlen,
	 char *hi)
{
	MlcVersion	version;
	MlcLoad		found;

	PushActiveSnapshot(GetLatestSnapshot());
	version.lsn = mlc_wal_insert_end();
	version.tli = mlc_decode_timeline(version.lsn);
	mlc_version_print(version, hi);
	MLC_FAULT("relay-reload");
	found = mlc_load_key(rule, wish->key, wish->keylen, payload, payloadlen);
	PopActiveSnapshot();
	if (found != MLC_LOAD_FOREIGN)
		XLogFlush(version.lsn);
	return found;
}

static void
warn(int32 rule, const char *message)
{
	static TimestampTz last = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(last, now, WARN_PAUSE))
		return;
	last = now;
	ereport(WARNING,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("mlcache: the loader of rule %d failed", rule),
			 errdetail("%s", message)));
}

static void
reload(MlcTarget *target, Wish *wish)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *token = psprintf("relay-%d", MyProcPid);
	char	   *applied;
	char	   *payload = NULL;
	uint32		payloadlen = 0;
	char		hi[MLC_VERSION_LEN + 1];
	MlcLoad		found = MLC_LOAD_FOREIGN;
	MlcRule    *rule;
	MlcRule		copy;

	if (!take_lease(target, wish, token, &applied))
		return;

	StartTransactionCommand();
	XactReadOnly = true;		/* a loader has no business to write */
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		rule = mlc_rule_by_id(wish->rule);
		if (rule)
		{
			copy = *rule;
			enable_timeout_after(STATEMENT_TIMEOUT, mlc_refresh_timeout);
			found = load(rule, wish, &payload, &payloadlen, hi);
			disable_timeout(STATEMENT_TIMEOUT, false);
		}
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		disable_timeout(STATEMENT_TIMEOUT, false);
		AbortCurrentTransaction();
		MemoryContextSwitchTo(caller);

		/* shutdown and cancel are not the loader's fault */
		if (error->elevel >= FATAL ||
			error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			ReThrowError(error);
		warn(wish->rule, error->message);
		found = MLC_LOAD_FOREIGN;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;

	if (found == MLC_LOAD_FOREIGN)
		return;

	fill(target, wish, token, &copy, found, payload, payloadlen, applied, hi);
}

/* Takes wishes out of the queue, the next one last. */
static void
take(void)
{
	int			n = Min(KEYS_A_TURN, (int) hash_get_num_entries(wishes));

	for (int i = n - 1; i >= 0; i--)
	{
		dlist_head *queue = dlist_is_empty(&replicas) ? &others : &replicas;
		Wish	   *wish = dlist_container(Wish, node, dlist_pop_head_node(queue));

		taken[i] = *wish;
		hash_search(wishes, &wish->hash, HASH_REMOVE, NULL);
	}
	ntaken = n;
}

/* Is there WAL that nobody has decoded yet? */
static bool
commits_wait(void)
{
	return mlc_relay->caught_up < GetFlushRecPtr(NULL) ||
		mlc_relay->caught_up < pg_atomic_read_u64(&mlc_relay->shared->want_lsn);
}

void
mlc_refresh_run(MlcTarget **targets, int ntargets)
{
	TimestampTz began = GetCurrentTimestamp();

	if (ntaken == 0 && mlc_refresh_pending() > 0)
		take();
	while (ntaken > 0)
	{
		Wish		wish = taken[--ntaken];

		for (int i = 0; i < ntargets; i++)
			if ((wish.mask & (UINT64CONST(1) << targets[i]->number)) != 0 &&
				targets[i]->state == MLC_TARGET_ARMED && !targets[i]->aside &&
				mlc_group_owns(targets[i], wish.key, wish.keylen))
			{
				/* a publication may be on its way */
				while (!mlc_target_poll(targets[i]) &&
					   mlc_target_is_live(targets[i]))
					(void) mlc_conn_wait(targets[i]->conn);
				if (mlc_target_is_idle(targets[i]))
					reload(targets[i], &wish);
			}
		pfree(wish.key);
		nreplicas -= wish.replica;
		if (commits_wait() && !MLC_FAULT_SKIP("relay-refresh-budget") &&
			TimestampDifferenceExceeds(began, GetCurrentTimestamp(), BUDGET))
			break;
	}
	tell();
}
