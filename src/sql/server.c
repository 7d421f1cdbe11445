/*-------------------------------------------------------------------------
 *
 * sql/server.c
 *	  SQL: the validator of the foreign data wrapper, pause, resume.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "capture/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "redis/server.h"
#include "shm/segment.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(mlc_fdw_validator);
PG_FUNCTION_INFO_V1(mlc_pause);
PG_FUNCTION_INFO_V1(mlc_resume);

/* mlcache.fdw_validator(options, catalog) */
Datum
mlc_fdw_validator(PG_FUNCTION_ARGS)
{
	mlc_server_validate(untransformRelOptions(PG_GETARG_DATUM(0)),
						PG_GETARG_OID(1));
	PG_RETURN_VOID();
}

/* Adds the server to the paused ones, or takes it out; idempotent. */
static void
set_paused(Name server, bool paused)
{
	Oid			serverid = get_foreign_server_oid(NameStr(*server), false);
	Relation	relation;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	mlc_segment_require();
	if (!list_member_oid(mlc_server_all(), serverid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a Redis server of mlcache",
						NameStr(*server))));

	relation = table_open(get_relname_relid("paused_server",
											get_namespace_oid("mlcache", false)),
						  ShareRowExclusiveLock);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(server));
	scan = systable_beginscan(relation, InvalidOid, false, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (paused && !HeapTupleIsValid(tuple))
	{
		Datum		value = NameGetDatum(server);
		bool		isnull = false;

		CatalogTupleInsert(relation,
						   heap_form_tuple(RelationGetDescr(relation), &value,
										   &isnull));
	}
	else if (!paused && HeapTupleIsValid(tuple))
		CatalogTupleDelete(relation, &tuple->t_self);
	systable_endscan(scan);
	table_close(relation, NoLock);
	mlc_xact_wake_at_commit();
}

/* mlcache.pause(server) */
Datum
mlc_pause(PG_FUNCTION_ARGS)
{
	set_paused(PG_GETARG_NAME(0), true);
	PG_RETURN_VOID();
}

/* mlcache.resume(server) */
Datum
mlc_resume(PG_FUNCTION_ARGS)
{
	set_paused(PG_GETARG_NAME(0), false);
	PG_RETURN_VOID();
}
