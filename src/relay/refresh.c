/*-------------------------------------------------------------------------
 *
 * relay/refresh.c
 *	  Reloads derived documents after the relay has invalidated them.
 *
 * The invalidation is what correctness rests on, and it is ordered and
 * acknowledged; a reload only warms.  So it may be dropped: when its target is
 * away, when another reader holds the lease, when the loader fails or takes
 * longer than mlcache.refresh_timeout (a warning a minute), and when more wait
 * than the queue holds.
 *
 * A few keys at a time are taken from the queue.  All servers are asked for
 * leases, the keys are loaded, once for all servers, and filled; nothing waits
 * for an answer, so that a server which gives none holds up no other.  And
 * deliveries come first: with WAL to decode a turn ends after BUDGET, be it in
 * the middle of what was taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/fault.h"
#include "base/grow.h"
#include "base/guc.h"
#include "base/wal.h"
#include "capture/decode.h"
#include "common/hashfn.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "read/load.h"
#include "redis/command.h"
#include "relay/deliver.h"
#include "relay/group.h"
#include "relay/refresh.h"
#include "relay/relay.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#define QUEUE_MAX 65536
#define TAKE_MAX 64				/* keys out of the queue at a time */
#define TAKE_MORE 20			/* ms that they took, up to which more are */
#define TAKE_LESS 100			/* or less, so that leases do not grow old */
#define BUDGET 3				/* ms a turn while WAL waits */
#define LEASE_WAIT 500			/* ms that others wait for a server's leases */
#define LEASE_MS 5000
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
static int	nreplicas = 0;		/* wishes for replicas, taken or not */

/* Out of the queue, and not done with. */
static Wish taken[TAKE_MAX];
static int	ntaken = 0;
static int	nloaded = 0;		/* so many of them are */
static int	take_next = 1;		/* how many to take */
static int64 loading;			/* us that was spent on them */
static TimestampTz asked_at;	/* when leases for them were asked for */

/* What one server says of one of them. */
typedef struct Lease
{
	MlcTarget  *target;			/* NULL: its connection is gone */
	int			wish;			/* in taken */
	bool		waiting;		/* for the answer to a question or a fill */
	char		applied[MLC_VERSION_LEN + 1];	/* "": no lease */
} Lease;

static Lease *leases = NULL;
static int	nleases = 0;
static int	leases_size = 0;
static int	nwaiting = 0;
static bool asking = false;		/* what is waited for is leases */
static uint32 first_number = 0; /* of leases[0], among all there ever were */

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

/* ---- answers ---- */

static void
stop_waiting(Lease *lease)
{
	nwaiting -= lease->waiting;
	lease->waiting = false;
}

void
mlc_refresh_answered(MlcTarget *target, MlcExpect what, uint32 number,
					 const MlcReply *reply)
{
	uint32		at = number - first_number;
	Lease	   *lease;

	/* others may not have waited for it */
	if (at >= (uint32) nleases || !leases[at].waiting ||
		leases[at].target != target)
		return;
	lease = &leases[at];
	stop_waiting(lease);
	if (what == MLC_EXPECT_LEASE && reply->type == MLC_REPLY_ARRAY &&
		reply->nelements >= 2 &&
		reply->elements[0]->type == MLC_REPLY_STRING &&
		strcmp(reply->elements[0]->str, "lease") == 0 &&
		reply->elements[1]->type == MLC_REPLY_STRING &&
		reply->elements[1]->len == MLC_VERSION_LEN)
		strlcpy(lease->applied, reply->elements[1]->str, sizeof(lease->applied));
}

void
mlc_refresh_forget(MlcTarget *target)
{
	for (int i = 0; i < nleases; i++)
		if (leases[i].target == target)
		{
			stop_waiting(&leases[i]);
			leases[i].target = NULL;
		}
}

/* Leases of a server that keeps the others waiting are not waited for. */
static void
forgo_late_leases(void)
{
	bool		late;

	if (!asking || nwaiting == 0)
		return;
	late = TimestampDifferenceExceeds(asked_at, GetCurrentTimestamp(), LEASE_WAIT);
	for (int i = 0; i < nleases; i++)
		if (leases[i].waiting && (late || leases[i].target->aside))
			stop_waiting(&leases[i]);
}

/* ---- questions and fills ---- */

static const char *
token(void)
{
	return psprintf("relay-%d", MyProcPid);
}

static void
begin_call(MlcCommand *cmd, const char *function, Wish *wish)
{
	mlc_command_init(cmd);
	mlc_command_add_cstr(cmd, "FCALL");
	mlc_command_add_cstr(cmd, function);
	mlc_command_add_cstr(cmd, "1");
	mlc_command_add(cmd, wish->key, wish->keylen);
}

static void
end_call(MlcCommand *cmd, Lease *lease, MlcExpect what)
{
	MlcTarget  *target = lease->target;

	if (mlc_target_is_idle(target))
	{
		mlc_answer_forget(target);
		target->sent_at = GetCurrentTimestamp();
	}
	mlc_command_append(cmd, target->conn);
	lease->waiting = true;
	nwaiting++;
	mlc_answer_expect_number(target, what, first_number + (lease - leases));
}

static Lease *
new_lease(MlcTarget *target, int wish)
{
	Lease	   *lease;

	leases = mlc_grow(context, leases, nleases, &leases_size, sizeof(Lease));
	lease = &leases[nleases++];
	lease->target = target;
	lease->wish = wish;
	lease->waiting = false;
	lease->applied[0] = '\0';
	return lease;
}

static void
push(MlcTarget *target)
{
	if (mlc_target_is_live(target) && mlc_conn_unsent(target->conn) > 0 &&
		!mlc_conn_push(target->conn))
		mlc_target_fail(target, mlc_conn_error(target->conn));
}

/* Asks a server for leases of what it is to have. */
static void
ask_target(MlcTarget *target)
{
	MlcCommand	cmd;

	if (target->state != MLC_TARGET_ARMED || target->aside)
		return;
	for (int i = 0; i < ntaken; i++)
	{
		Wish	   *wish = &taken[i];

		if ((wish->mask & (UINT64CONST(1) << target->number)) == 0 ||
			!mlc_group_owns(target, wish->key, wish->keylen))
			continue;
		begin_call(&cmd, "mlc_get", wish);
		mlc_command_add_cstr(&cmd, token());
		mlc_command_add_int(&cmd, LEASE_MS);
		mlc_command_add_cstr(&cmd, target->ns);
		end_call(&cmd, new_lease(target, i), MLC_EXPECT_LEASE);
	}
	push(target);
}

static void
ask(MlcTarget **targets, int ntargets)
{
	asking = true;
	asked_at = GetCurrentTimestamp();
	for (int i = 0; i < ntargets; i++)
		ask_target(targets[i]);
}

static void
fill(Lease *lease, MlcRule *rule, MlcLoad found, const char *payload,
	 uint32 payloadlen, const char *hi)
{
	MlcCommand	cmd;
	bool		absent = found == MLC_LOAD_ABSENT;

	begin_call(&cmd, "mlc_fill", &taken[lease->wish]);
	mlc_command_add_cstr(&cmd, token());
	mlc_command_add(&cmd, absent ? "" : payload, absent ? 0 : payloadlen);
	if (absent && rule->negative_ttl == 0)
		mlc_command_add_int(&cmd, mlc_negative_ttl);
	else
		mlc_command_add_int(&cmd, absent ? rule->negative_ttl : rule->ttl);
	mlc_command_add_cstr(&cmd, lease->applied);
	mlc_command_add_cstr(&cmd, hi);
	mlc_command_add_cstr(&cmd, absent ? "1" : "0");
	mlc_command_add_cstr(&cmd, lease->target->ns);
	end_call(&cmd, lease, MLC_EXPECT_FILL);
}

/* Readers need not wait for a lease that we have no use for. */
static void
give_back(Lease *lease)
{
	MlcCommand	cmd;

	if (MLC_FAULT_SKIP("relay-refresh-give-back"))
		return;
	begin_call(&cmd, "mlc_invalidate", &taken[lease->wish]);
	mlc_command_add_cstr(&cmd, lease->target->ns);
	mlc_command_add_cstr(&cmd, "");
	end_call(&cmd, lease, MLC_EXPECT_FILL);
}

/* ---- loading ---- */

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

/* What goes wrong is the loader's fault: a warning, and FOREIGN. */
static MlcLoad
try_load(Wish *wish, MlcRule *rule, char **payload, uint32 *payloadlen, char *hi)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile MlcLoad found = MLC_LOAD_FOREIGN;

	StartTransactionCommand();
	XactReadOnly = true;		/* a loader has no business to write */
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		MlcRule    *current = mlc_rule_by_id(wish->rule);

		if (current)
		{
			*rule = *current;
			enable_timeout_after(STATEMENT_TIMEOUT, mlc_refresh_timeout);
			found = load(rule, wish, payload, payloadlen, hi);
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
	return found;
}

static bool
has_lease(Lease *lease, int wish)
{
	return lease->wish == wish && lease->applied[0] != '\0' &&
		lease->target != NULL && !lease->target->aside;
}

/* Loads what was taken at this place, and fills all who have given a lease. */
static void
reload(int at)
{
	char	   *payload = NULL;
	uint32		payloadlen = 0;
	char		hi[MLC_VERSION_LEN + 1];
	MlcLoad		found;
	MlcRule		rule;
	bool		any = false;

	for (int i = 0; i < nleases && !any; i++)
		any = has_lease(&leases[i], at);
	if (!any)
		return;
	found = try_load(&taken[at], &rule, &payload, &payloadlen, hi);
	for (int i = 0; i < nleases; i++)
	{
		if (!has_lease(&leases[i], at))
			continue;
		if (found == MLC_LOAD_FOREIGN)
			give_back(&leases[i]);
		else
			fill(&leases[i], &rule, found, payload, payloadlen, hi);
	}
}

/* ---- a round: take, ask, load, fill ---- */

static void
take(void)
{
	int			n = MLC_FAULT_SKIP("relay-refresh-budget") ? TAKE_MAX : take_next;

	n = Min(n, (int) hash_get_num_entries(wishes));
	for (int i = 0; i < n; i++)
	{
		dlist_head *queue = dlist_is_empty(&replicas) ? &others : &replicas;
		Wish	   *wish = dlist_container(Wish, node, dlist_pop_head_node(queue));

		taken[i] = *wish;
		hash_search(wishes, &wish->hash, HASH_REMOVE, NULL);
	}
	ntaken = n;
	loading = 0;
}

/* Takes leave of those that are loaded. */
static void
drop_loaded(void)
{
	for (int i = 0; i < nloaded; i++)
	{
		nreplicas -= taken[i].replica;
		pfree(taken[i].key);
	}
	ntaken -= nloaded;
	memmove(taken, taken + nloaded, sizeof(Wish) * ntaken);
	nloaded = 0;

	/* answers that are still to come are nobody's */
	first_number += nleases;
	nleases = nwaiting = 0;
	tell();
}

/* As many next time as can be loaded in a moment. */
static void
finish(void)
{
	if (loading < TAKE_MORE * 1000)
		take_next = Min(2 * take_next, TAKE_MAX);
	else if (loading > TAKE_LESS * 1000)
		take_next = Max(take_next / 2, 1);
	drop_loaded();
}

/* Is there WAL that nobody has decoded yet? */
static bool
commits_wait(void)
{
	return mlc_relay->caught_up < GetFlushRecPtr(NULL) ||
		mlc_relay->caught_up < pg_atomic_read_u64(&mlc_relay->shared->want_lsn);
}

/* May they run out while the next one is loaded?  The first is tried anyway. */
static bool
leases_are_old(void)
{
	int			limit = LEASE_MS - (nloaded > 0 ? mlc_refresh_timeout : 0);

	return TimestampDifferenceExceeds(asked_at, GetCurrentTimestamp(), limit) &&
		!MLC_FAULT_SKIP("relay-refresh-old");
}

/* Loads until all that was taken is, or a turn is over. */
static void
load_some(void)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz now = began;

	mlc_upkeep_forget_catalogs();
	while (nloaded < ntaken && !leases_are_old())
	{
		reload(nloaded++);
		now = GetCurrentTimestamp();
		if (commits_wait() && !MLC_FAULT_SKIP("relay-refresh-budget") &&
			TimestampDifferenceExceeds(began, now, BUDGET))
			break;
	}
	loading += now - began;
	mlc_upkeep_forget_catalogs();
}

bool
mlc_refresh_is_waiting(void)
{
	return nwaiting > 0 && (asking || nloaded == ntaken);
}

void
mlc_refresh_run(MlcTarget **targets, int ntargets)
{
	forgo_late_leases();
	if (ntaken == 0 && mlc_refresh_pending() > 0)
	{
		take();
		ask(targets, ntargets);
	}
	if (ntaken == 0 || mlc_refresh_is_waiting())
		return;
	asking = false;
	if (nloaded < ntaken)
	{
		load_some();
		for (int i = 0; i < ntargets; i++)
			push(targets[i]);
	}
	if (nloaded == ntaken && nwaiting == 0)
		finish();
	else if (nloaded < ntaken && leases_are_old())
	{
		drop_loaded();
		ask(targets, ntargets);
	}
}
