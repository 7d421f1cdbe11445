/*-------------------------------------------------------------------------
 *
 * lock/lock.c
 *	  Locks of this session.
 *
 * The order is PostgreSQL's lock manager (lock/manager.c), then Redis
 * (lock/remote.c), then the fencing token: drawn while the lock is held, it
 * is greater than that of every holder before.  Each lock has a slot in shared
 * memory (lock/registry.c), from which the keeper renews it.
 *
 * What the session holds stands in lock/held.c, which ends locks with their
 * transactions.  The next session of this server need not wait for the keeper
 * to tell Redis, since there sessions never block each other; a late release is
 * told from a present holder by the serial.
 *
 * Escalation: a session that holds more locks below one path than
 * mlcache.lock_escalation_threshold tries, without waiting, to take the path
 * itself, and gives the many back.
 *
 * Locks: none of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "base/fault.h"
#include "base/guc.h"
#include "lock/fence.h"
#include "lock/held.h"
#include "lock/keeper.h"
#include "lock/lock.h"
#include "lock/manager.h"
#include "lock/remote.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shm/segment.h"
#include "storage/latch.h"

#define POLL_MIN 1				/* ms between two questions to Redis */
#define POLL_MAX 20
#define POLL_GRACE 2000			/* a waiter that does not ask again is gone */

static int64 last_serial = 0;

/* ---------- acquiring ---------- */

/* A request under way. */
typedef struct Attempt
{
	const MlcLockRequest *request;
	TimestampTz until;
	bool		waits;			/* entered into the wait-for graph */
} Attempt;

static void
report_deadlock(const char *cycle)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
			 errmsg("deadlock detected"),
			 errdetail("%s", cycle),
			 errhint("Sessions are named pg-PID-start; other owners name themselves.")));
}

/* Before this session waits in PostgreSQL's lock manager. */
static void
enter_wait(void *arg)
{
	Attempt    *attempt = arg;
	int64		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													   attempt->until);
	char	   *cycle;

	/* nobody waits for a session that holds nothing */
	if (hash_get_num_entries(mlc_held) == 0 || MLC_FAULT_SKIP("lock-wait-graph"))
		return;
	attempt->waits = true;
	if (mlc_remote_wait(attempt->request->name, mlc_held_owner,
						attempt->request->shared, left + POLL_GRACE, &cycle))
		report_deadlock(cycle);
}

static void
nap(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Asks Redis until it says yes; false: not in time. */
static bool
ask_redis(Attempt *attempt, MlcLockSlot *slot)
{
	const MlcLockRequest *request = attempt->request;
	int64		pause = POLL_MIN;

	for (;;)
	{
		TimestampTz start = GetCurrentTimestamp();
		int64		left = attempt->until <= start ? 0 :
		TimestampDifferenceMilliseconds(start, attempt->until);
		char	   *cycle;

		pg_atomic_write_u64(&slot->deadline, start + request->ttl * 1000);
		attempt->waits |= left > 0;
		switch (mlc_remote_lock(request->name, mlc_held_owner, request->shared,
								request->ttl,
								left > 0 ? Min(left, POLL_GRACE) + POLL_GRACE : 0,
								slot->serial, &cycle))
		{
			case MLC_REMOTE_OK:
				attempt->waits = false;
				return true;
			case MLC_REMOTE_DEADLOCK:
				report_deadlock(cycle);
				break;
			case MLC_REMOTE_BUSY:
				break;
		}
		if (left <= 0)
			return false;
		nap(Min(pause, left));
		pause = Min(pause * 2, POLL_MAX);
	}
}

static MlcLockSlot *
claim_slot(const MlcLockRequest *request)
{
	MlcKeeper  *keeper = mlc_registry_keeper();
	bool		start = false;
	MlcLockSlot *slot = mlc_registry_claim(keeper, &start);

	strlcpy(slot->name, request->name, sizeof(slot->name));
	strlcpy(slot->owner, mlc_held_owner, sizeof(slot->owner));
	slot->serial = ++last_serial;
	slot->shared = request->shared;
	slot->xact = request->xact;
	slot->ttl = request->ttl;
	if (start && !mlc_keeper_start(keeper))
	{
		mlc_registry_free(slot);
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("nobody could renew the lock"),
				 errhint("Increase max_worker_processes and restart the server.")));
	}
	return slot;
}

/* The keeper may sleep for longer than this lock lives. */
static void
tell_keeper(MlcLockSlot *slot)
{
	TimestampTz renew = (TimestampTz) pg_atomic_read_u64(&slot->deadline) -
	slot->ttl * 1000 / 3 * 2;

	pg_memory_barrier();
	if (renew < (TimestampTz) pg_atomic_read_u64(&mlc_registry_keeper()->next_look))
		mlc_registry_wake();
}

/* Takes a lock that this session does not hold; 0: not in time. */
static int64
acquire_new(const MlcLockRequest *request)
{
	MlcLockSlot *volatile slot;
	volatile bool locked = false;
	volatile bool asked = false;
	volatile int64 token = 0;
	Attempt		attempt = {request, 0, false};

	attempt.until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												request->wait);
	slot = claim_slot(request);
	PG_TRY();
	{
		if (mlc_manager_lock(request->name, request->shared, request->xact,
							 attempt.until, enter_wait, &attempt))
		{
			locked = true;
			asked = true;
			if (ask_redis(&attempt, slot))
			{
				MlcHeld    *lock;

				MLC_FAULT("lock-before-token");
				token = mlc_fence_next();
				pg_atomic_write_u64(&slot->token, token);
				/* somebody else's may have been drawn before it then */
				if (mlc_registry_is_lost(slot))
					mlc_held_report_lost(request->name);
				lock = mlc_held_add(slot, request->name, request->shared);
				mlc_held_enter(lock, request->xact);
				pg_atomic_write_u32(&slot->state, MLC_LOCK_HELD);
			}
		}
	}
	PG_CATCH();
	{
		if (locked && !request->xact)
			mlc_manager_unlock(request->name, request->shared, false);
		if (attempt.waits)
			mlc_remote_forget_wait(mlc_held_owner);
		if (asked)
			mlc_registry_abandon(slot); /* Redis may have said yes */
		else
			mlc_registry_free(slot);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (attempt.waits)
		mlc_remote_forget_wait(mlc_held_owner);
	if (token == 0)
	{
		if (locked)
			mlc_manager_unlock(request->name, request->shared, request->xact);
		mlc_registry_free(slot);
		return 0;
	}
	tell_keeper(slot);
	return token;
}

/* Takes once more what this session holds. */
static int64
acquire_again(const MlcLockRequest *request, MlcHeld *lock)
{
	mlc_held_check(lock);
	if (lock->shared && !request->shared)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("lock \"%s\" is held in shared mode", lock->name),
				 errdetail("Two holders that both ask for more would wait for each other."),
				 errhint("Release it first, or take it exclusively from the start.")));
	(void) mlc_manager_lock(lock->name, lock->shared, request->xact, 0, NULL,
							NULL);
	mlc_held_enter(lock, request->xact);
	return (int64) pg_atomic_read_u64(&lock->slot->token);
}

/* ---------- escalation ---------- */

/* Is this lock below the path, and could a lock on the path stand for it? */
static bool
is_below(MlcHeld *lock, const char *path, const MlcLockRequest *request)
{
	size_t		len = strlen(path);

	return strncmp(lock->name, path, len) == 0 && lock->name[len] == ':' &&
		(lock->sessions > 0) == !request->xact &&
		(lock->level > 0) == request->xact &&
		(!lock->shared || request->shared);
}

/* Gives back a lock for whose paths another one stands now. */
static void
give_back(MlcHeld *lock)
{
	while (lock->sessions > 0)
	{
		mlc_manager_unlock(lock->name, lock->shared, false);
		lock->sessions--;
	}
	/* a transaction's part in the lock manager ends with the transaction */
	mlc_held_drop(lock);
}

/*
 * Takes the path above instead, where many locks below it are held.  Returns
 * its token, or 0: it is not to be had now, or need not be.
 */
static int64
escalate(const MlcLockRequest *request)
{
	const char *colon = strrchr(request->name, ':');
	char		path[MLC_LOCK_NAME_LEN];
	MlcLockRequest above = *request;
	HASH_SEQ_STATUS status;
	MlcHeld    *lock;
	int			n = 0;
	int64		token;

	if (colon == NULL || mlc_lock_escalation_threshold == 0 ||
		hash_get_num_entries(mlc_held) < mlc_lock_escalation_threshold)
		return 0;
	strlcpy(path, request->name, colon - request->name + 1);
	hash_seq_init(&status, mlc_held);
	while ((lock = hash_seq_search(&status)) != NULL)
		n += is_below(lock, path, request);
	if (n < mlc_lock_escalation_threshold)
		return 0;

	above.name = path;
	above.wait = 0;
	token = acquire_new(&above);
	if (token == 0)
		return 0;
	hash_seq_init(&status, mlc_held);
	while ((lock = hash_seq_search(&status)) != NULL)
		if (is_below(lock, path, request))
			give_back(lock);
	return token;
}

int64
mlc_lock_acquire(const MlcLockRequest *request)
{
	MlcHeld    *lock;
	int64		token;

	mlc_segment_require();
	mlc_lock_check_name(request->name);
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("there are no locks during recovery"),
				 errhint("Ask the primary.")));
	mlc_held_begin();
	lock = mlc_held_find(request->name);
	if (lock)
		return acquire_again(request, lock);
	lock = mlc_held_cover(request->name);
	if (lock && (request->xact || lock->sessions > 0) &&
		(!lock->shared || request->shared))
	{
		mlc_held_check(lock);
		return (int64) pg_atomic_read_u64(&lock->slot->token);
	}
	token = escalate(request);
	return token ? token : acquire_new(request);
}

/* ---------- releasing, renewing ---------- */

/* ERROR: it is not this session's.  Tells whose it is. */
static void
report_not_held(const char *name)
{
	MlcHeld    *cover = mlc_held_cover(name);
	int			pid = 0;

	if (cover)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot release \"%s\" alone", name),
				 errdetail("This session holds \"%s\", which stands for all that lies below it.",
						   cover->name),
				 errhint("SELECT mlcache.lock_release('%s');", cover->name)));
	LWLockAcquire(mlc_lock_shared->lock, LW_SHARED);
	for (int i = 0; i < mlc_lock_shared->nslots && pid == 0; i++)
	{
		MlcLockSlot *slot = &mlc_lock_shared->slots[i];

		if (pg_atomic_read_u32(&slot->state) == MLC_LOCK_HELD &&
			slot->dbid == MyDatabaseId && strcmp(slot->name, name) == 0)
			pid = slot->pid;
	}
	LWLockRelease(mlc_lock_shared->lock);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("lock \"%s\" is not held by this session", name),
			 pid ? errdetail("It is held by the session with PID %d.", pid) : 0));
}

/* The lock, which must be this session's. */
static MlcHeld *
need_held(const char *name)
{
	MlcHeld    *lock;

	mlc_segment_require();
	mlc_lock_check_name(name);
	lock = mlc_held_find(name);
	if (lock && lock->level == 0 && !mlc_manager_holds(lock->name, lock->shared))
	{
		/* DISCARD ALL or pg_advisory_unlock_all() in this very transaction */
		mlc_held_drop(lock);
		lock = NULL;
	}
	if (lock == NULL)
		report_not_held(name);
	return lock;
}

void
mlc_lock_release(const char *name)
{
	MlcHeld    *lock = need_held(name);
	MlcLockSlot *slot = lock->slot;
	bool		shared = lock->shared;
	bool		lost;

	if (lock->sessions == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot release \"%s\" before the transaction ends", name),
				 errdetail("It was taken with mlcache.lock_acquire_xact().")));
	if (--lock->sessions > 0 || lock->level > 0)
	{
		mlc_manager_unlock(name, shared, false);
		return;
	}

	lost = mlc_registry_is_lost(slot);
	mlc_held_remove(name);
	PG_TRY();
	{
		lost |= !mlc_remote_unlock(name, mlc_held_owner, slot->serial);
	}
	PG_CATCH();
	{
		mlc_registry_abandon(slot);
		mlc_manager_unlock(name, shared, false);
		PG_RE_THROW();
	}
	PG_END_TRY();
	mlc_registry_free(slot);
	mlc_manager_unlock(name, shared, false);
	if (lost)
		mlc_held_report_lost(name);
}

TimestampTz
mlc_lock_renew(const char *name, int64 ttl)
{
	MlcHeld    *lock = need_held(name);
	MlcLockSlot *slot = lock->slot;
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz deadline;

	mlc_held_check(lock);
	if (ttl == 0)
		ttl = slot->ttl;
	if (!mlc_remote_renew(name, mlc_held_owner, ttl, slot->serial))
	{
		pg_atomic_write_u32(&slot->state, MLC_LOCK_LOST);
		mlc_held_report_lost(name);
	}
	deadline = start + ttl * 1000;
	LWLockAcquire(mlc_lock_shared->lock, LW_EXCLUSIVE);
	slot->ttl = ttl;
	pg_atomic_write_u64(&slot->deadline, deadline);
	LWLockRelease(mlc_lock_shared->lock);
	tell_keeper(slot);
	return deadline;
}

void
mlc_lock_check_token(int64 token)
{
	HASH_SEQ_STATUS status;
	MlcHeld    *lock;

	if (mlc_held == NULL)
		return;
	hash_seq_init(&status, mlc_held);
	while ((lock = hash_seq_search(&status)) != NULL)
	{
		if ((int64) pg_atomic_read_u64(&lock->slot->token) != token)
			continue;
		hash_seq_term(&status);
		mlc_held_check(lock);
		return;
	}
}

void
mlc_lock_check_name(const char *name)
{
	size_t		len = strlen(name);
	const char *wrong = NULL;

	if (len == 0)
		wrong = "It must not be empty.";
	else if (len >= MLC_LOCK_NAME_LEN)
		wrong = "It must not be longer than 255 bytes.";
	else if (name[0] == ':' || name[len - 1] == ':' || strstr(name, "::"))
		wrong = "It is a path: no part of it between colons may be empty.";
	for (const char *p = name; *p && !wrong; p++)
		if ((unsigned char) *p < ' ' || *p == 0x7f || *p == '{' || *p == '}')
			wrong = "It must not contain braces or control characters.";
	if (wrong)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid name of a lock"),
				 errdetail("%s", wrong),
				 errhint("A name is a path like account:42.")));
}

void
mlc_lock_init(void)
{
	mlc_registry_init();
	mlc_held_init();
}
