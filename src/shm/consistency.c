/*-------------------------------------------------------------------------
 *
 * shm/consistency.c
 *	  How coherent the caches were.
 *
 * Each window is a ring of 60 seconds, 60 minutes or 24 hours.  A slot knows
 * which second (minute, hour) it is of, so what is too old is found out when
 * it is read or written over; nobody has to turn the rings.
 *
 * Times are kept in a histogram of four buckets an octave, so a percentile is
 * off by an eighth at most.
 *
 * Locks: one a database, a leaf, for the moment of an update or a copy.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/area.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "shm/consistency.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#define DATABASES 16			/* that are remembered */
#define SLOTS 60				/* the longest ring */
#define SUB_BITS 2
#define SUB (1 << SUB_BITS)		/* buckets an octave */
#define FIRST_BIT 4				/* shorter than 16 us counts as that */
#define LAST_BIT 26				/* longer than 67 s, too */
#define BUCKETS ((LAST_BIT - FIRST_BIT + 1) * SUB)

/* One second, minute or hour. */
typedef struct Slot
{
	int64		number;			/* since the epoch; 0: none */
	int64		checked;
	int64		violations;
	uint32		probes;
	uint32		overdue;
	int64		max;			/* us */
	uint32		buckets[BUCKETS];
} Slot;

typedef struct Database
{
	Oid			dbid;			/* claimed once, under all's lock, never freed */
	int64		checked;		/* since the start of the server */
	int64		violations;
	Slot		rings[MLC_WINDOWS][SLOTS];
} Database;

typedef struct Shared
{
	LWLock	   *lock;
	Database	databases[DATABASES];
} Shared;

static const struct
{
	int			slots;
	int64		width;			/* us */
}			rings[MLC_WINDOWS] = {
	[MLC_LAST_MINUTE] = {60, USECS_PER_SEC},
	[MLC_LAST_HOUR] = {60, USECS_PER_MINUTE},
	[MLC_LAST_DAY] = {24, USECS_PER_HOUR},
};

static Shared *shared = NULL;

static Size
shared_size(void)
{
	return sizeof(Shared);
}

static void
attach(void *memory, bool found, LWLockPadded *locks)
{
	shared = memory;
	if (found)
		return;
	memset(shared, 0, sizeof(Shared));
	shared->lock = &locks->lock;
}

static const MlcArea area = {
	.name = "mlcache consistency",
	.size = shared_size,
	.tranche = "mlcache_consistency",
	.attach = attach
};

void
mlc_consistency_init(void)
{
	mlc_area_want(&area);
}

/* Under the lock.  NULL: there is none, or there are too many. */
static Database *
mine(bool create)
{
	for (int i = 0; i < DATABASES; i++)
	{
		Database   *database = &shared->databases[i];

		if (database->dbid == MyDatabaseId)
			return database;
		if (database->dbid == InvalidOid)
		{
			if (!create)
				return NULL;
			database->dbid = MyDatabaseId;
			return database;
		}
	}
	return NULL;
}

/* The slot of now, emptied if it was of another time. */
static Slot *
slot_of_now(Database *database, MlcWindowKind kind, TimestampTz now)
{
	int64		number = now / rings[kind].width;
	Slot	   *slot = &database->rings[kind][number % rings[kind].slots];

	if (slot->number != number)
	{
		memset(slot, 0, sizeof(*slot));
		slot->number = number;
	}
	return slot;
}

void
mlc_consistency_checked(int64 checked, int64 violations)
{
	TimestampTz now = GetCurrentTimestamp();
	Database   *database;

	if (shared == NULL || (checked == 0 && violations == 0))
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	database = mine(true);
	if (database)
	{
		database->checked += checked;
		database->violations += violations;
		for (int i = 0; i < MLC_WINDOWS; i++)
		{
			Slot	   *slot = slot_of_now(database, i, now);

			slot->checked += checked;
			slot->violations += violations;
		}
	}
	LWLockRelease(shared->lock);
}

static int
bucket_of(int64 us)
{
	int			octave;

	if (us < (1 << FIRST_BIT))
		return 0;
	octave = pg_leftmost_one_pos64(us);
	if (octave > LAST_BIT)
		return BUCKETS - 1;
	return (octave - FIRST_BIT) * SUB + ((us >> (octave - SUB_BITS)) & (SUB - 1));
}

/* The middle of a bucket, us. */
static double
middle_of(int bucket)
{
	double		step = (double) (INT64CONST(1) << (bucket / SUB + FIRST_BIT - SUB_BITS));

	return (SUB + bucket % SUB + 0.5) * step;
}

void
mlc_consistency_probe(int64 us)
{
	TimestampTz now = GetCurrentTimestamp();
	Database   *database;

	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	database = mine(true);
	for (int i = 0; database && i < MLC_WINDOWS; i++)
	{
		Slot	   *slot = slot_of_now(database, i, now);

		slot->probes++;
		if (us < 0)
			slot->overdue++;
		else
		{
			slot->buckets[bucket_of(us)]++;
			slot->max = Max(slot->max, us);
		}
	}
	LWLockRelease(shared->lock);
}

/* ms within which that share of the probes arrived; -1: none did. */
static double
percentile(const int64 *buckets, int64 arrived, int64 max, double share)
{
	int64		seen = 0;

	for (int i = 0; i < BUCKETS; i++)
	{
		seen += buckets[i];
		if (seen > 0 && seen >= arrived * share)
			return Min(middle_of(i), (double) max) / 1000.0;
	}
	return -1;
}

void
mlc_consistency_read(MlcWindowKind kind, MlcCoherence *result)
{
	int64		oldest = GetCurrentTimestamp() / rings[kind].width -
	rings[kind].slots;
	int64		buckets[BUCKETS] = {0};
	int64		arrived = 0;
	int64		max = -1;
	Database   *database;

	memset(result, 0, sizeof(*result));
	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_SHARED);
	database = mine(false);
	for (int i = 0; database && i < rings[kind].slots; i++)
	{
		Slot	   *slot = &database->rings[kind][i];

		if (slot->number <= oldest)
			continue;
		result->checked += slot->checked;
		result->violations += slot->violations;
		result->probes += slot->probes;
		result->overdue += slot->overdue;
		if (slot->probes > slot->overdue)
			max = Max(max, slot->max);
		for (int j = 0; j < BUCKETS; j++)
			buckets[j] += slot->buckets[j];
	}
	LWLockRelease(shared->lock);
	arrived = result->probes - result->overdue;
	result->p50 = percentile(buckets, arrived, max, 0.5);
	result->p99 = percentile(buckets, arrived, max, 0.99);
	result->p999 = percentile(buckets, arrived, max, 0.999);
	result->max = max < 0 ? -1 : max / 1000.0;
}

void
mlc_consistency_totals(uint64 *checked, uint64 *violations)
{
	Database   *database;

	*checked = *violations = 0;
	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_SHARED);
	database = mine(false);
	if (database)
	{
		*checked = database->checked;
		*violations = database->violations;
	}
	LWLockRelease(shared->lock);
}

void
mlc_consistency_reset(void)
{
	Database   *database;

	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	database = mine(false);
	if (database)
	{
		database->checked = database->violations = 0;
		memset(database->rings, 0, sizeof(database->rings));
	}
	LWLockRelease(shared->lock);
}
