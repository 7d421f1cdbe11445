/*-------------------------------------------------------------------------
 *
 * audit/alert.c
 *	  Findings become alerts: one when a condition begins, one when it ends.
 *
 * A condition begins, or ends, when two looks in a row say so; and once it has
 * ended it does not begin again before mlcache.alert_pause is over.  What is
 * raised stands in shared memory, so a monitor that is started again does not
 * repeat it.
 *
 * Locks: that of the history, for each change of a state.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "audit/alert.h"
#include "base/guc.h"
#include "commands/async.h"
#include "commands/dbcommands.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#define CHANNEL "mlcache_alert"
#define LOOKS 2					/* in a row, before anything is said */
#define DETAIL_MAX 2000			/* bytes; a notification has less than 8000 */

static MlcAlertState *
find(MlcHistory *history, MlcFindingKind kind, const char *subject)
{
	for (int i = 0; i < history->nalerts; i++)
		if (history->alerts[i].kind == (int) kind &&
			strncmp(history->alerts[i].subject, subject,
					MLC_SUBJECT_LEN - 1) == 0)
			return &history->alerts[i];
	return NULL;
}

bool
mlc_alert_is_raised(MlcHistory *history, MlcFindingKind kind,
					const char *subject)
{
	MlcAlertState *state = find(history, kind, subject);

	return state && state->raised;
}

static void
field(StringInfo json, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(json, "%s\"%s\":", json->len > 1 ? "," : "", name);
	escape_json(json, pnstrdup(value, pg_mbcliplen(value, strlen(value),
												   DETAIL_MAX)));
}

/* To the log and to whoever listens.  finding: NULL when it is over. */
static void
say(const MlcAlertState *state, const MlcHealthFinding *finding, TimestampTz now)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	field(&json, "alert", mlc_finding_name((MlcFindingKind) state->kind));
	field(&json, "state", finding ? "begin" : "over");
	field(&json, "severity", mlc_finding_severity((MlcFindingKind) state->kind));
	field(&json, "subject", state->subject);
	field(&json, "database", get_database_name(MyDatabaseId));
	field(&json, "at", timestamptz_to_str(now));
	if (finding)
	{
		field(&json, "detail", finding->detail);
		field(&json, "advice", finding->advice);
	}
	else
		appendStringInfo(&json, ",\"lasted_s\":%.1f", (now - state->since) / 1e6);
	appendStringInfoChar(&json, '}');

	ereport(finding ? WARNING : LOG, (errmsg("mlcache alert: %s", json.data)));
	Async_Notify(CHANNEL, json.data);
}

/* A state for what has just been found; NULL: there are too many. */
static MlcAlertState *
enter(MlcHistory *history, MlcHealthFinding *finding)
{
	MlcAlertState *state = find(history, finding->kind, finding->subject);

	if (state || history->nalerts == MLC_MAX_ALERTS)
		return state;
	LWLockAcquire(&history->lock, LW_EXCLUSIVE);
	state = &history->alerts[history->nalerts];
	memset(state, 0, sizeof(*state));
	state->kind = finding->kind;
	strlcpy(state->subject, finding->subject, MLC_SUBJECT_LEN);
	history->nalerts++;
	LWLockRelease(&history->lock);
	return state;
}

static MlcHealthFinding *
finding_of(List *findings, const MlcAlertState *state)
{
	ListCell   *lc;

	foreach(lc, findings)
	{
		MlcHealthFinding *finding = lfirst(lc);

		if (finding->kind == (MlcFindingKind) state->kind &&
			strncmp(finding->subject, state->subject, MLC_SUBJECT_LEN - 1) == 0)
			return finding;
	}
	return NULL;
}

/* May what is over begin again? */
static bool
has_paused(const MlcAlertState *state, TimestampTz now)
{
	return state->since == 0 ||
		TimestampDifferenceExceeds(state->since, now, mlc_alert_pause);
}

/* One look at one condition; true: it can be forgotten. */
static bool
take_in(MlcAlertState *state, MlcHealthFinding *finding, TimestampTz now)
{
	if ((finding != NULL) == state->raised)
		state->looks = 0;
	else if (++state->looks >= LOOKS && (state->raised || has_paused(state, now)))
	{
		say(state, finding, now);
		state->raised = !state->raised;
		state->since = now;
		state->looks = 0;
	}
	return !state->raised && finding == NULL && has_paused(state, now);
}

void
mlc_alert_update(MlcHistory *history, List *findings)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, findings)
		if (mlc_finding_alerts(((MlcHealthFinding *) lfirst(lc))->kind))
		(void) enter(history, lfirst(lc));
	for (int i = history->nalerts - 1; i >= 0; i--)
	{
		MlcAlertState state = history->alerts[i];
		bool		forget = take_in(&state, finding_of(findings, &state), now);

		LWLockAcquire(&history->lock, LW_EXCLUSIVE);
		if (forget)
			history->alerts[i] = history->alerts[--history->nalerts];
		else
			history->alerts[i] = state;
		LWLockRelease(&history->lock);
	}
}
