/*-------------------------------------------------------------------------
 *
 * sql/audit.c
 *	  SQL: audit, stat_get_progress, stat_get_consistency.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "audit/audit.h"
#include "base/compat.h"
#include "base/guc.h"
#include "capture/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "model/version.h"
#include "shm/consistency.h"
#include "shm/progress.h"
#include "shm/segment.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(mlc_sql_audit);
PG_FUNCTION_INFO_V1(mlc_stat_get_progress);
PG_FUNCTION_INFO_V1(mlc_stat_get_consistency);

#define ADMIN_ROLE "mlcache_admin"
#define AUDIT_COLUMNS 8
#define TOLD_MAX 8192			/* bytes of findings in an error's context */

typedef struct Report
{
	ReturnSetInfo *rsinfo;
	bool		repair;
	const MlcAudit *audit;
	char	   *table;
	StringInfoData found;		/* the first of them, for an error's context */
} Report;

/* The owner of the table and mlcache_admin may audit; the latter may repair. */
static void
check_rights(Oid relid, bool repair)
{
	bool		admin = has_privs_of_role(GetUserId(), get_role_oid(ADMIN_ROLE, false));

	if (repair && !admin)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to repair cached copies"),
				 errdetail("An audit that repairs needs the role mlcache_admin."),
				 errhint("GRANT mlcache_admin TO %s;",
						 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
	if (!admin && !mlc_is_table_owner(relid, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to audit table \"%s\"",
						get_rel_name(relid)),
				 errdetail("An audit shows keys: only the owner of the table and the role mlcache_admin may see them."),
				 errhint("GRANT mlcache_admin TO %s;",
						 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}

static void
check_transaction(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("an audit is not possible on a standby"),
				 errdetail("What has been applied is known on the primary only."),
				 errhint("Call the function on the primary.")));
	mlc_segment_require();

	/* what this transaction has written is in its snapshots, and nowhere else */
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("an audit is not possible in a transaction that has written"),
				 errdetail("Its own changes have not reached any cache."),
				 errhint("COMMIT;")));
}

static List *
rules_of(Oid relid)
{
	List	   *rules = NIL;
	ListCell   *lc;

	if (!OidIsValid(mlc_rule_relid()) || get_rel_name(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	foreach(lc, mlc_rule_all())
	{
		MlcRule    *rule = lfirst(lc);

		if (rule->relid == relid)
			rules = lappend(rules, rule);
	}
	return rules;
}

/* One row of the result; the repair takes effect when the transaction commits. */
static void
put_finding(void *arg, const MlcFinding *finding)
{
	Report	   *report = arg;
	MlcRule    *rule = finding->rule;
	Datum		values[AUDIT_COLUMNS];
	bool		nulls[AUDIT_COLUMNS] = {false};
	char		version[MLC_VERSION_LEN + 1];
	StringInfoData detail;
	int			n = 0;

	initStringInfo(&detail);
	appendStringInfoString(&detail, finding->detail);
	if (finding->has_cached && finding->verdict != MLC_VERDICT_FRESH)
	{
		mlc_version_print(finding->hi, version);
		appendStringInfo(&detail, " What is cached is no newer than %s.", version);
	}
	if (TransactionIdIsValid(finding->xmin))
	{
		appendStringInfo(&detail, " Transaction %u wrote the row", finding->xmin);
		if (finding->committed != 0)
			appendStringInfo(&detail, " and committed at %s",
							 timestamptz_to_str(finding->committed));
		appendStringInfoChar(&detail, '.');
	}
	if (report->repair)
		mlc_xact_add(rule, rule->action == MLC_OP_REPLICATE ||
					 rule->action == MLC_OP_REFRESH ? MLC_OP_REFRESH :
					 MLC_OP_INVALIDATE, finding->key, finding->keylen,
					 NULL, 0);

	if (report->found.len < TOLD_MAX)
		appendStringInfo(&report->found, "\n%.*s is %s on server %s",
						 (int) finding->keylen, finding->key,
						 mlc_verdict_name(finding->verdict), finding->server);

	values[n++] = PointerGetDatum(cstring_to_text_with_len(finding->key,
														   finding->keylen));
	values[n++] = CStringGetTextDatum(mlc_verdict_name(finding->verdict));
	nulls[n] = !finding->has_cached;
	mlc_version_print(finding->lo, version);
	values[n++] = CStringGetTextDatum(version);
	nulls[n] = !finding->has_row;
	mlc_version_print(finding->row, version);
	values[n++] = CStringGetTextDatum(version);
	nulls[n] = finding->committed == 0;
	values[n++] = finding->committed == 0 ? (Datum) 0 :
		DirectFunctionCall2(timestamp_mi,
							TimestampTzGetDatum(GetCurrentTimestamp()),
							TimestampTzGetDatum(finding->committed));
	values[n++] = CStringGetTextDatum(detail.data);
	values[n++] = Int32GetDatum(rule->id);
	values[n++] = DirectFunctionCall1(namein, CStringGetDatum(finding->server));
	Assert(n == AUDIT_COLUMNS);
	tuplestore_putvalues(report->rsinfo->setResult, report->rsinfo->setDesc,
						 values, nulls);
}

static char *
describe_counts(const MlcAudit *audit)
{
	StringInfoData list;
	int64		compared = audit->unsettled;

	initStringInfo(&list);
	for (int i = 0; i < MLC_VERDICTS; i++)
	{
		if (i != MLC_VERDICT_MISSING)
			compared += audit->counts[i];
		if (audit->counts[i] > 0)
			appendStringInfo(&list, "%s" INT64_FORMAT " %s", list.len > 0 ? ", " : "",
							 audit->counts[i], mlc_verdict_name(i));
	}
	return psprintf(INT64_FORMAT " cached keys compared%s%s", compared,
					list.len > 0 ? ": " : "", list.data);
}

/* Rows of a function that fails are lost: the error tells what was found. */
static void
tell_findings(void *arg)
{
	Report	   *report = arg;

	errcontext("audit of \"%s\", not finished: %s%s%s", report->table,
			   describe_counts(report->audit), report->found.data,
			   report->found.len >= TOLD_MAX ? "\n..." : "");
}

static void
say_counts(Report *report)
{
	const MlcAudit *audit = report->audit;

	ereport(NOTICE,
			(errmsg("audit of \"%s\": %s", report->table,
					describe_counts(audit))));
	if (audit->unsettled > 0)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg(INT64_FORMAT " keys differ and could not be judged",
						audit->unsettled),
				 errdetail("The relay had not applied what their rows show within %d ms, or a loader gives something else each time.",
						   audit->timeout),
				 errhint("See mlcache.stat_servers, then call the function again.")));
}

/*
 * mlcache.audit(relation, sample, repair): one row a copy that is not what it
 * should be.  ERROR 42704 where the table has no rules, 22023 for a sample
 * that is no share, 42501 without the right, 25001 in a transaction that has
 * written, 25006 on a standby, class 08 when a Redis is lost.
 */
Datum
mlc_sql_audit(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MlcAudit	audit;
	Report		report;
	ErrorContextCallback context;
	Oid			relid;
	List	   *rules;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("arguments of mlcache.audit must not be null")));
	relid = PG_GETARG_OID(0);
	memset(&audit, 0, sizeof(audit));
	audit.sample = PG_GETARG_FLOAT8(1);
	if (isnan(audit.sample) || audit.sample < 0 || audit.sample > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sample must be between 0 and 1"),
				 errdetail("It is the share of the keys to compare: 0.01 is one in a hundred.")));
	audit.timeout = mlc_audit_timeout;
	audit.report = put_finding;
	audit.arg = &report;
	memset(&report, 0, sizeof(report));
	report.rsinfo = rsinfo;
	report.repair = PG_GETARG_BOOL(2);
	report.audit = &audit;
	initStringInfo(&report.found);

	rules = rules_of(relid);
	check_rights(relid, report.repair);
	check_transaction();
	if (rules == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" has no cache rules", get_rel_name(relid)),
				 errhint("Attach one, or name the table that it is attached to; see mlcache.rules.")));
	report.table = get_rel_name(relid);
	context.callback = tell_findings;
	context.arg = &report;
	context.previous = error_context_stack;
	error_context_stack = &context;
	foreach(lc, rules)
		mlc_audit_rule(&audit, lfirst(lc));
	error_context_stack = context.previous;
	say_counts(&report);
	return (Datum) 0;
}

/* mlcache.stat_get_progress() */
Datum
mlc_stat_get_progress(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MlcProgressRow *rows;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	mlc_segment_require();
	n = mlc_progress_list(&rows);
	for (int i = 0; i < n; i++)
	{
		Datum		values[8];
		bool		nulls[8] = {false};

		values[0] = Int32GetDatum(rows[i].pid);
		values[1] = CStringGetTextDatum(rows[i].activity);
		values[2] = ObjectIdGetDatum(rows[i].relid);
		values[3] = Int64GetDatum(rows[i].done);
		nulls[4] = rows[i].total == 0;
		values[4] = Int64GetDatum(rows[i].total);
		values[5] = Float8GetDatum(rows[i].rate);
		values[6] = CStringGetTextDatum(rows[i].failed ? "failed" : "running");
		nulls[7] = rows[i].failed == 0;
		values[7] = TimestampTzGetDatum(rows[i].failed);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* mlcache.stat_get_consistency() */
Datum
mlc_stat_get_consistency(PG_FUNCTION_ARGS)
{
	static const char *const names[MLC_WINDOWS] = {
		[MLC_LAST_MINUTE] = "1 min",
		[MLC_LAST_HOUR] = "1 h",
		[MLC_LAST_DAY] = "1 day",
	};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	mlc_segment_require();
	for (int i = 0; i < MLC_WINDOWS; i++)
	{
		MlcCoherence window;
		Datum		values[9];
		bool		nulls[9] = {false};
		double		times[4];

		mlc_consistency_read(i, &window);
		values[0] = DirectFunctionCall3(interval_in, CStringGetDatum(names[i]),
										ObjectIdGetDatum(InvalidOid),
										Int32GetDatum(-1));
		values[1] = Int64GetDatum(window.checked);
		values[2] = Int64GetDatum(window.violations);
		values[3] = Int64GetDatum(window.probes);
		values[4] = Int64GetDatum(window.overdue);
		times[0] = window.p50;
		times[1] = window.p99;
		times[2] = window.p999;
		times[3] = window.max;
		for (int j = 0; j < 4; j++)
		{
			nulls[5 + j] = times[j] < 0;
			values[5 + j] = Float8GetDatum(times[j]);
		}
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
