/*-------------------------------------------------------------------------
 *
 * lock/manager.c
 *	  Locks as PostgreSQL's lock manager has them.
 *
 * Queue, deadlock detection and release at the death of a backend are its
 * own.  The tag is of the type USERLOCK, which nothing else uses, with a hash
 * of the path, so it never meets an advisory lock; two names of one hash share
 * a lock, which costs a wait and nothing else.  Its method is that of advisory
 * locks: DISCARD ALL and pg_advisory_unlock_all() let go of it.
 *
 * Modes: exclusive ExclusiveLock, shared ShareLock; intents RowExclusiveLock
 * and RowShareLock.  Their conflicts are those of Gray's hierarchical locks.
 *
 * A bounded wait uses lock_timeout, for the one call.  Its ERROR is caught
 * without a savepoint: nothing but the lock manager has run, which has cleaned
 * up before it threw, and a lock that a savepoint of ours handed to its parent
 * would belong to another resource owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "common/hashfn.h"
#include "lock/manager.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"

#define MLC_LOCK_MARK 77		/* field4; as good as any */

/* The first len bytes of a name as a tag of this database. */
static void
set_tag(LOCKTAG *tag, const char *name, size_t len)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) name, len, 0);

	tag->locktag_field1 = MyDatabaseId;
	tag->locktag_field2 = (uint32) (hash >> 32);
	tag->locktag_field3 = (uint32) hash;
	tag->locktag_field4 = MLC_LOCK_MARK;
	tag->locktag_type = LOCKTAG_USERLOCK;
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

/*
 * The next path of a name, top down: its length; 0 at the end.  Start with 0.
 */
static size_t
next_path(const char *name, size_t len)
{
	const char *colon;

	if (name[len] == '\0' && len > 0)
		return 0;
	colon = strchr(name + len + (len > 0 ? 1 : 0), ':');
	return colon ? (size_t) (colon - name) : strlen(name);
}

static LOCKMODE
mode_of(const char *name, size_t len, bool shared)
{
	if (name[len] == '\0')
		return shared ? ShareLock : ExclusiveLock;
	return shared ? RowShareLock : RowExclusiveLock;
}

/* Gives back the first n paths of a name. */
static void
unlock(const char *name, bool shared, bool xact, int n)
{
	LOCKTAG		tag;

	for (size_t len = next_path(name, 0); len > 0 && n > 0;
		 len = next_path(name, len), n--)
	{
		set_tag(&tag, name, len);
		(void) LockRelease(&tag, mode_of(name, len, shared), !xact);
	}
}

/* Waits for one lock until the given time; false: not had. */
static bool
wait_for(LOCKTAG *tag, LOCKMODE mode, bool xact, TimestampTz until)
{
	MemoryContext context = CurrentMemoryContext;
	int			users = LockTimeout;
	int64		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													   until);
	bool		ours;
	volatile bool had = true;

	if (left <= 0)
		return false;
	ours = users == 0 || left < users;
	PG_TRY();
	{
		if (ours)
			LockTimeout = (int) Min(left, PG_INT32_MAX);
		(void) LockAcquire(tag, mode, !xact, false);
	}
	PG_CATCH();
	{
		LockTimeout = users;
		if (!ours || geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		had = false;
	}
	PG_END_TRY();
	LockTimeout = users;
	return had;
}

bool
mlc_manager_lock(const char *name, bool shared, bool xact, TimestampTz until,
				 void (*before_wait) (void *arg), void *arg)
{
	volatile int n = 0;
	volatile bool had = true;

	PG_TRY();
	{
		bool		waited = false;

		for (size_t len = next_path(name, 0); len > 0;
			 len = next_path(name, len))
		{
			LOCKTAG		tag;
			LOCKMODE	mode = mode_of(name, len, shared);

			set_tag(&tag, name, len);
			if (LockAcquire(&tag, mode, !xact, true) == LOCKACQUIRE_NOT_AVAIL)
			{
				if (!waited && until > GetCurrentTimestamp())
					before_wait(arg);
				waited = true;
				if (!wait_for(&tag, mode, xact, until))
				{
					had = false;
					break;
				}
			}
			n++;
		}
	}
	PG_CATCH();
	{
		if (!xact)
			unlock(name, shared, false, n);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (!had)
		unlock(name, shared, xact, n);
	return had;
}

void
mlc_manager_unlock(const char *name, bool shared, bool xact)
{
	unlock(name, shared, xact, PG_INT32_MAX);
}

bool
mlc_manager_holds(const char *name, bool shared)
{
	LOCKTAG		tag;
	size_t		len = strlen(name);

	set_tag(&tag, name, len);
	return mlc_lock_held_by_me(&tag, mode_of(name, len, shared));
}
