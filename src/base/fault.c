/*-------------------------------------------------------------------------
 *
 * base/fault.c
 *	  Named stop points for tests.
 *
 * Debian's builds have no injection points, so this stands in on every
 * version.  A point that waits takes the advisory lock in share mode and lets
 * go of it at once: it passes when nobody holds the lock exclusively.  It must
 * not be placed where an ERROR would be a PANIC.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "base/fault.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"

#define MLC_FAULT_CLASS 0x6d6c63	/* "mlc" */

/* Finds "name=action" in the setting; false if the point is not named. */
static bool
find_action(const char *name, char *action, size_t size)
{
	size_t		namelen = strlen(name);
	const char *p = mlc_fault_points;

	while (p && *p)
	{
		size_t		len;

		p += strspn(p, ", ");
		len = strcspn(p, ", ");
		if (len > namelen + 1 && strncmp(p, name, namelen) == 0 &&
			p[namelen] == '=')
		{
			strlcpy(action, p + namelen + 1, Min(size, len - namelen));
			return true;
		}
		p += len;
	}
	return false;
}

void
mlc_fault_lock_key(const char *name, uint32 *key1, uint32 *key2)
{
	*key1 = MLC_FAULT_CLASS;
	*key2 = hash_bytes((const unsigned char *) name, strlen(name));
}

static void
wait_at(const char *name)
{
	LOCKTAG		tag;
	uint32		key1,
				key2;

	mlc_fault_lock_key(name, &key1, &key2);

	/* the tag of pg_advisory_lock(int, int) in this database */
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, key1, key2, 2);
	(void) LockAcquire(&tag, ShareLock, true, false);
	LockRelease(&tag, ShareLock, true);
}

void
mlc_fault_point(const char *name)
{
	char		action[16];

	if (!find_action(name, action, sizeof(action)))
		return;

	if (strcmp(action, "wait") == 0)
		wait_at(name);
	else if (strcmp(action, "error") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("fault point \"%s\" reached", name)));
	else if (strcmp(action, "exit") == 0)
		ereport(FATAL,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("fault point \"%s\" reached", name)));
	else if (strcmp(action, "kill") == 0)
		kill(getpid(), SIGKILL);
}

bool
mlc_fault_skip(const char *name)
{
	char		action[16];

	return find_action(name, action, sizeof(action)) &&
		strcmp(action, "skip") == 0;
}
