/*-------------------------------------------------------------------------
 *
 * shm/heat.c
 *	  Which keys are read most: a bounded sketch in shared memory.
 *
 * HeavyGuardian (Yang, Gong, Zhang, Zou, Shi, Li: "HeavyGuardian: Separate and
 * Guard Hot Items in Data Streams", KDD 2018), of which only the guards are
 * kept: a key belongs to one bucket of a few cells.  A key that has no cell
 * wears down the weakest one of its bucket, with a probability that falls
 * exponentially with that cell's count, and takes its place when nothing is
 * left of it.  So cold keys come and go at the bottom, and a hot one is hardly
 * ever driven out.  Once in a while all counts are halved, as TinyLFU does
 * (Einziger, Friedman, Manes, ACM ToS 2017), so that yesterday's hot keys make
 * room.
 *
 * One read in MLC_HEAT_SAMPLE is counted, at random distances; the others cost
 * a decrement.  All databases share the sketch.
 *
 * The launcher keeps it in a file, written whole under another name and then
 * renamed, so that there is always a whole one or none; a checksum tells what a
 * crash of the machine left.
 *
 * Locks: one, a leaf.  A reader does not wait for it: what it cannot count at
 * once it does not count.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/area.h"
#include "base/fault.h"
#include "base/guc.h"
#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "shm/heat.h"
#include "storage/fd.h"
#include "storage/lwlock.h"

#define WAYS 8					/* cells of a bucket */
#define BASE 1.08				/* of the probability to wear a cell down */
#define SURE 400				/* a count that nothing wears down */
#define AGE_AFTER 10			/* samples a cell, then all counts are halved */

#define FILE_MAGIC 0x4d4c4348	/* "MLCH" */
#define FILE_VERSION 1
#define FILE_TEMP MLC_HEAT_FILE ".tmp"

typedef struct Cell
{
	Oid			dbid;
	uint32		count;			/* 0: free */
	uint32		hash;
	uint16		keylen;
	char		key[MLC_HEAT_MAX_KEY];
} Cell;

/* Everything is written under the lock. */
typedef struct Heat
{
	LWLock	   *lock;
	uint32		nbuckets;		/* a power of two */
	uint64		samples;		/* since counts were halved */
	Cell		cells[FLEXIBLE_ARRAY_MEMBER];
} Heat;

typedef struct FileHeader
{
	uint32		magic;
	uint32		version;
	uint32		ncells;
} FileHeader;

int			mlc_heat_skip = 0;

static Heat *heat = NULL;

/* ---- memory ---- */

static uint32
count_buckets(void)
{
	uint32		n = 1;

	while (n * 2 * WAYS <= (uint32) mlc_max_hot_keys)
		n *= 2;
	return n;
}

static Size
heat_size(void)
{
	if (mlc_max_hot_keys == 0)
		return 0;
	return offsetof(Heat, cells) + sizeof(Cell) * WAYS * count_buckets();
}

static void
attach(void *memory, bool found, LWLockPadded *locks)
{
	heat = memory;
	if (found)
		return;
	memset(heat, 0, heat_size());
	heat->lock = &locks->lock;
	heat->nbuckets = count_buckets();
}

static const MlcArea area = {
	.name = "mlcache heat",
	.size = heat_size,
	.tranche = "mlcache_heat",
	.attach = attach
};

void
mlc_heat_init(void)
{
	mlc_area_want(&area);
}

static inline int
count_cells(void)
{
	return WAYS * heat->nbuckets;
}

/* ---- counting ---- */

static uint32
hash_key(Oid dbid, const char *key, uint32 keylen)
{
	return (uint32) hash_bytes_extended((const unsigned char *) key, keylen, dbid);
}

/* The key's cell, or the weakest one of its bucket; *own tells which. */
static Cell *
find_cell(Oid dbid, uint32 hash, const char *key, uint32 keylen, bool *own)
{
	Cell	   *bucket = &heat->cells[WAYS * (hash & (heat->nbuckets - 1))];
	Cell	   *weakest = bucket;

	*own = true;
	for (Cell *cell = bucket; cell < bucket + WAYS; cell++)
	{
		if (cell->count > 0 && cell->hash == hash && cell->dbid == dbid &&
			cell->keylen == keylen && memcmp(cell->key, key, keylen) == 0)
			return cell;
		if (cell->count < weakest->count)
			weakest = cell;
	}
	*own = false;
	return weakest;
}

static void
take_cell(Cell *cell, Oid dbid, uint32 hash, const char *key, uint32 keylen,
		  uint32 count)
{
	cell->dbid = dbid;
	cell->hash = hash;
	cell->count = count;
	cell->keylen = keylen;
	memcpy(cell->key, key, keylen);
}

static void
grow_old(void)
{
	for (int i = 0; i < count_cells(); i++)
		heat->cells[i].count /= 2;
	heat->samples = 0;
}

void
mlc_heat_count(const char *key, uint32 keylen)
{
	uint32		hash;
	Cell	   *cell;
	bool		own;

	mlc_heat_skip = pg_prng_uint64_range(&pg_global_prng_state, 0,
										 2 * MLC_HEAT_SAMPLE - 2);
	if (heat == NULL || keylen > MLC_HEAT_MAX_KEY)
		return;
	hash = hash_key(MyDatabaseId, key, keylen);
	if (!LWLockConditionalAcquire(heat->lock, LW_EXCLUSIVE))
		return;
	cell = find_cell(MyDatabaseId, hash, key, keylen, &own);
	if (own)
		cell->count++;
	else
	{
		if (cell->count > 0 && cell->count < SURE &&
			pg_prng_double(&pg_global_prng_state) < pow(BASE, -(double) cell->count))
			cell->count--;
		if (cell->count == 0)
			take_cell(cell, MyDatabaseId, hash, key, keylen, 1);
	}
	if (++heat->samples >= (uint64) AGE_AFTER * count_cells())
		grow_old();
	LWLockRelease(heat->lock);
}

/* ---- looking ---- */

static int
hottest_first(const void *a, const void *b)
{
	const MlcHotKey *x = a;
	const MlcHotKey *y = b;

	if (x->reads != y->reads)
		return x->reads > y->reads ? -1 : 1;
	return strcmp(x->key, y->key);
}

int
mlc_heat_top(Oid dbid, int n, MlcHotKey **keys)
{
	Cell	   *copy;
	int			found = 0;

	if (heat == NULL)
		return 0;

	/* nothing that takes long, or may fail, under the lock */
	copy = palloc_extended(sizeof(Cell) * count_cells(), MCXT_ALLOC_HUGE);
	*keys = palloc_extended(sizeof(MlcHotKey) * count_cells(), MCXT_ALLOC_HUGE);
	LWLockAcquire(heat->lock, LW_SHARED);
	memcpy(copy, heat->cells, sizeof(Cell) * count_cells());
	LWLockRelease(heat->lock);
	for (int i = 0; i < count_cells(); i++)
	{
		MlcHotKey  *hot = &(*keys)[found];

		if (copy[i].count == 0 || copy[i].dbid != dbid)
			continue;
		hot->key = pnstrdup(copy[i].key, copy[i].keylen);
		hot->keylen = copy[i].keylen;
		hot->reads = (uint64) copy[i].count * MLC_HEAT_SAMPLE;
		found++;
	}
	pfree(copy);
	qsort(*keys, found, sizeof(MlcHotKey), hottest_first);
	return Min(found, n);
}

int
mlc_heat_databases(Oid **dbids)
{
	int			n = 0;

	if (heat == NULL)
		return 0;
	*dbids = palloc(sizeof(Oid) * count_cells());
	LWLockAcquire(heat->lock, LW_SHARED);
	for (int i = 0; i < count_cells(); i++)
	{
		int			at = 0;

		if (heat->cells[i].count == 0)
			continue;
		while (at < n && (*dbids)[at] != heat->cells[i].dbid)
			at++;
		if (at == n)
			(*dbids)[n++] = heat->cells[i].dbid;
	}
	LWLockRelease(heat->lock);
	return n;
}

/* ---- the file ---- */

static void
complain(const char *what)
{
	ereport(LOG,
			(errcode_for_file_access(),
			 errmsg("mlcache: could not %s file \"%s\": %m", what, FILE_TEMP)));
}

static bool
write_file(const void *cells, FileHeader *header, pg_crc32c crc)
{
	FILE	   *file = AllocateFile(FILE_TEMP, PG_BINARY_W);
	bool		fine;

	if (file == NULL)
	{
		complain("create");
		return false;
	}
	MLC_FAULT("heat-opened");
	fine = fwrite(header, sizeof(*header), 1, file) == 1;
	MLC_FAULT("heat-header");
	fine = fine && fwrite(cells, sizeof(Cell), header->ncells, file) == header->ncells &&
		fwrite(&crc, sizeof(crc), 1, file) == 1;
	MLC_FAULT("heat-written");
	if (FreeFile(file) != 0)
		fine = false;
	if (!fine)
		complain("write");
	return fine;
}

void
mlc_heat_save(void)
{
	FileHeader	header = {FILE_MAGIC, FILE_VERSION, 0};
	Cell	   *cells;
	pg_crc32c	crc;

	if (heat == NULL)
		return;
	cells = palloc_extended(sizeof(Cell) * count_cells(), MCXT_ALLOC_HUGE);
	LWLockAcquire(heat->lock, LW_SHARED);
	for (int i = 0; i < count_cells(); i++)
		if (heat->cells[i].count > 0)
			cells[header.ncells++] = heat->cells[i];
	LWLockRelease(heat->lock);

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, &header, sizeof(header));
	COMP_CRC32C(crc, cells, sizeof(Cell) * header.ncells);
	FIN_CRC32C(crc);
	if (!write_file(cells, &header, crc) || rename(FILE_TEMP, MLC_HEAT_FILE) != 0)
	{
		if (unlink(FILE_TEMP) != 0 && errno != ENOENT)
			complain("remove");
	}
	MLC_FAULT("heat-renamed");
	pfree(cells);
}

/* Reads what write_file() wrote; NULL: not whole. */
static Cell *
read_cells(FILE *file, uint32 *ncells)
{
	FileHeader	header;
	struct stat state;
	Cell	   *cells;
	pg_crc32c	crc;
	pg_crc32c	expected;

	if (fread(&header, sizeof(header), 1, file) != 1 ||
		header.magic != FILE_MAGIC || header.version != FILE_VERSION ||
		fstat(fileno(file), &state) != 0 ||
		(uint64) state.st_size != sizeof(header) + sizeof(crc) +
		(uint64) header.ncells * sizeof(Cell))
		return NULL;
	cells = palloc_extended(sizeof(Cell) * Max(header.ncells, 1),
							MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (cells == NULL ||
		fread(cells, sizeof(Cell), header.ncells, file) != header.ncells ||
		fread(&crc, sizeof(crc), 1, file) != 1)
		return NULL;
	INIT_CRC32C(expected);
	COMP_CRC32C(expected, &header, sizeof(header));
	COMP_CRC32C(expected, cells, sizeof(Cell) * header.ncells);
	FIN_CRC32C(expected);
	if (!EQ_CRC32C(crc, expected))
		return NULL;
	for (uint32 i = 0; i < header.ncells; i++)
		if (cells[i].keylen > MLC_HEAT_MAX_KEY)
			return NULL;
	*ncells = header.ncells;
	return cells;
}

void
mlc_heat_load(void)
{
	FILE	   *file;
	Cell	   *cells;
	uint32		ncells = 0;

	if (heat == NULL)
		return;
	file = AllocateFile(MLC_HEAT_FILE, PG_BINARY_R);
	if (file == NULL)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("mlcache: could not open file \"%s\": %m",
							MLC_HEAT_FILE)));
		return;
	}
	cells = read_cells(file, &ncells);
	FreeFile(file);
	if (cells == NULL)
	{
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("mlcache: ignoring file \"%s\", which is not whole",
						MLC_HEAT_FILE),
				 errdetail("Which keys were read most is learnt anew.")));
		return;
	}
	LWLockAcquire(heat->lock, LW_EXCLUSIVE);
	for (uint32 i = 0; i < ncells; i++)
	{
		Cell	   *from = &cells[i];
		uint32		hash = hash_key(from->dbid, from->key, from->keylen);
		bool		own;
		Cell	   *cell = find_cell(from->dbid, hash, from->key, from->keylen,
									 &own);

		if (own)
			cell->count += from->count;
		else if (from->count > cell->count)
			take_cell(cell, from->dbid, hash, from->key, from->keylen,
					  from->count);
	}
	LWLockRelease(heat->lock);
	pfree(cells);
}
