/*-------------------------------------------------------------------------
 *
 * read/warm.c
 *	  Filling caches ahead: a relation's rows, or the keys that were hot.
 *
 * Nothing but reads: each batch of keys goes through mlc_get_many(), so it is
 * filled under leases, or not at all.  Rows are only read, so no writer waits.
 *
 * After a start a worker of each database waits until a server is armed, then
 * reads the keys that were hot before (shm/heat.c), hottest first.
 *
 * Locks: none are held across a batch, other than the relation's for reading.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/guc.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "model/disguise.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "read/get.h"
#include "read/load.h"
#include "read/match.h"
#include "read/warm.h"
#include "shm/heat.h"
#include "shm/progress.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#define BATCH 100
#define LOOK_AGAIN 200			/* ms between two looks whether a server
								 * serves */
#define WAIT_AT_MOST 600		/* s for one that does */

/* ---- a relation ---- */

static char *
key_query(MlcRule *rule, const char *filter, int64 limit)
{
	StringInfoData query;

	initStringInfo(&query);
	appendStringInfoString(&query, "SELECT ");
	for (int i = 0; i < rule->template->ncolumns; i++)
		appendStringInfo(&query, "%sr.%s", i > 0 ? ", " : "",
						 quote_identifier(rule->template->columns[i]));
	appendStringInfoString(&query, " FROM ");
	mlc_load_table(rule, &query);
	if (filter)
		appendStringInfo(&query, " WHERE (%s\n)", filter);
	if (limit >= 0)
		appendStringInfo(&query, " LIMIT " INT64_FORMAT, limit);
	return query.data;
}

/* The keys of the rows that were fetched; returns how many there are. */
static int
render_keys(MlcRule *rule, MlcRead *reads)
{
	char	   *texts[MLC_KEY_MAX_COLUMNS];
	int			n = 0;
	MlcDisguise disguise;

	mlc_disguise_put_on(&disguise, rule->relid);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		StringInfoData key;

		for (int i = 0; i < rule->template->ncolumns; i++)
			texts[i] = SPI_getvalue(SPI_tuptable->vals[row],
									SPI_tuptable->tupdesc, i + 1);
		initStringInfo(&key);
		if (mlc_key_render(rule->template, (const char *const *) texts,
						   &key) != MLC_RENDER_OK)
			continue;

		/* several rows of one key often lie side by side */
		if (n > 0 && reads[n - 1].keylen == (uint32) key.len &&
			memcmp(reads[n - 1].key, key.data, key.len) == 0)
			continue;
		reads[n].key = key.data;
		reads[n].keylen = key.len;
		n++;
	}
	mlc_disguise_take_off(&disguise);
	return n;
}

/* How many were filled; *vain: all could have been, and none was. */
static int
count_filled(MlcRead *reads, int n, bool *vain)
{
	int			filled = 0;

	*vain = n > 0;
	for (int i = 0; i < n; i++)
	{
		filled += reads[i].source == MLC_FROM_LOAD;
		*vain &= reads[i].source == MLC_FROM_ROW && reads[i].own;
	}
	return filled;
}

/* Rows under a cursor, their keys read batch by batch. */
static int64
warm_rule(MlcRule *rule, const char *filter, int64 limit, bool *vain)
{
	MemoryContext batch = AllocSetContextCreate(CurrentMemoryContext,
												"mlcache warm",
												ALLOCSET_DEFAULT_SIZES);
	int64		filled = 0;
	SPIPlanPtr	plan;
	Portal		portal;

	SPI_connect();
	plan = SPI_prepare(key_query(rule, filter, limit), 0, NULL);
	if (plan == NULL || !SPI_is_cursor_plan(plan))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("filter must be one expression")));

	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	*vain = false;
	while (!*vain)
	{
		MlcRead		reads[BATCH];
		MemoryContext old;
		int64		rows;
		int			n;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, BATCH);
		rows = SPI_processed;
		if (rows == 0)
			break;
		old = MemoryContextSwitchTo(batch);
		n = render_keys(rule, reads);
		SPI_freetuptable(SPI_tuptable);
		mlc_get_many(reads, n, NULL);
		filled += count_filled(reads, n, vain);
		MemoryContextSwitchTo(old);
		MemoryContextReset(batch);
		mlc_progress_add(rows);
	}
	SPI_cursor_close(portal);
	SPI_finish();
	MemoryContextDelete(batch);
	return filled;
}

/* What the planner believes; 0: it does not know. */
static int64
estimate_rows(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	float4		rows = 0;

	if (HeapTupleIsValid(tuple))
	{
		rows = ((Form_pg_class) GETSTRUCT(tuple))->reltuples;
		ReleaseSysCache(tuple);
	}
	return rows > 0 ? (int64) rows : 0;
}

int64
mlc_warm_relation(Oid relid, const char *filter, int64 limit)
{
	int64		filled = 0;
	int64		total = estimate_rows(relid);
	int			nrules = 0;
	bool		vain = false;
	ListCell   *lc;

	if (!mlc_get_may_fill())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("warm() cannot run in a transaction that has written or keeps a snapshot"),
				 errdetail("Such a transaction fills no cache."),
				 errhint("Run it in a READ COMMITTED transaction of its own.")));
	foreach(lc, mlc_rule_all())
	{
		MlcRule    *rule = lfirst(lc);

		if (rule->relid != relid)
			continue;
		nrules++;
		if (vain || !mlc_match_check(rule->id))
			continue;
		mlc_progress_begin("warm", relid,
						   limit >= 0 && (total == 0 || limit < total) ? limit : total);
		filled += warm_rule(rule, filter, limit, &vain);
		mlc_progress_end();
	}
	if (nrules == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" has no cache rules", get_rel_name(relid)),
				 errhint("SELECT mlcache.attach('%s', key => 'prefix:{column}');",
						 get_rel_name(relid))));
	if (vain)
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("warm() stopped, since nothing can be filled"),
				 errdetail("No server gave leave to fill any key of a batch."),
				 errhint("SELECT * FROM mlcache.stat_servers;")));
	return filled;
}

/* ---- hot keys ---- */

void
mlc_warm_start(Oid dbid)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strcpy(worker.bgw_library_name, "mlcache");
	strcpy(worker.bgw_function_name, "mlc_warm_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "mlcache warmer for database %u", dbid);
	strcpy(worker.bgw_type, "mlcache warmer");
	worker.bgw_main_arg = ObjectIdGetDatum(dbid);
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no free worker slot for the mlcache warmer of database %u",
						dbid),
				 errhint("Increase max_worker_processes and restart the server.")));
}

static bool
someone_serves(void)
{
	MlcRelayShared *relay = mlc_segment_relay(MyDatabaseId, false);
	bool		serves = false;

	if (relay == NULL)
		return false;
	LWLockAcquire(mlc_shared->lock, LW_SHARED);
	for (int i = 0; i < MLC_MAX_TARGETS; i++)
		serves |= relay->targets[i].state == MLC_TARGET_ARMED;
	LWLockRelease(mlc_shared->lock);
	return serves;
}

static bool
wait_for_server(void)
{
	for (int i = 0; i < WAIT_AT_MOST * 1000 / LOOK_AGAIN; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (someone_serves())
			return true;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOOK_AGAIN, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	return false;
}

/* One batch; keys whose rule is gone are left out. */
static int
warm_keys(MlcHotKey *keys, int n)
{
	MlcRead		reads[BATCH];
	int			nreads = 0;
	int			filled;
	bool		vain;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < n; i++)
	{
		if (mlc_match_key(keys[i].key, keys[i].keylen) == NULL)
			continue;
		reads[nreads].key = keys[i].key;
		reads[nreads].keylen = keys[i].keylen;
		nreads++;
	}
	mlc_get_many(reads, nreads, NULL);
	filled = count_filled(reads, nreads, &vain);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return filled;
}

/* The same; a loader that fails costs a batch and a line in the log. */
static int
try_keys(MlcHotKey *keys, int n)
{
	volatile int filled = 0;

	PG_TRY();
	{
		filled = warm_keys(keys, n);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	return filled;
}

void
mlc_warm_main(Datum arg)
{
	MemoryContext context;
	MlcHotKey  *keys;
	int			n;
	int			filled = 0;

	pqsignal(SIGTERM, die);
	pqsignal(SIGUSR1, procsignal_sigusr1_handler);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid,
											  0);
	context = AllocSetContextCreate(TopMemoryContext, "mlcache warmer",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	/* as they were before anybody reads anew */
	n = mlc_heat_top(MyDatabaseId, INT_MAX, &keys);
	if (n == 0 || !wait_for_server())
		return;
	for (int at = 0; at < n; at += BATCH)
	{
		CHECK_FOR_INTERRUPTS();
		filled += try_keys(&keys[at], Min(BATCH, n - at));
		MemoryContextSwitchTo(context);
	}
	ereport(LOG,
			(errmsg("mlcache: of %d keys that were hot, %d have been filled",
					n, filled)));
}
