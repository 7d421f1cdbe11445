/*-------------------------------------------------------------------------
 *
 * audit/report.c
 *	  One page that shows how things are.
 *
 * The page (report.html) draws itself: its script reads one JSON document that
 * stands in it, and fetches nothing.  The document is made by one query over
 * the views, with the caller's rights.  In it "<" is written as an escape, so
 * that no name or error text can end the script element or begin another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "audit/report.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define MARK "@DATA@"			/* where the document goes */

/* Each column of the row is a part of the document. */
static const char query[] =
"SELECT row_to_json(d) FROM (SELECT"
" current_database() AS database, now() AS at,"
" current_setting('server_version') AS postgres,"
" (SELECT extversion FROM pg_extension WHERE extname = 'mlcache') AS version,"
" (SELECT min(since) FROM mlcache.stat) AS since,"
" (SELECT coalesce(json_agg(json_build_array("
"  round(extract(epoch FROM at), 3), seconds, lag_ms, lag_mb, retained_mb,"
"  apply_p50, apply_p99, hits, misses, events, evictions, checked,"
"  violations, down)), '[]') FROM mlcache.stat_history) AS history,"
" (SELECT coalesce(json_agg(h), '[]') FROM mlcache.health() h) AS findings,"
" (SELECT json_agg(s) FROM mlcache.stat s) AS stat,"
" (SELECT coalesce(json_agg(s), '[]') FROM mlcache.stat_servers s) AS servers,"
" (SELECT json_agg(r) FROM (SELECT s.*, r.consistency, r.action"
"  FROM mlcache.stat_rules s LEFT JOIN mlcache.rules r USING (id)"
"  ORDER BY s.hits_l1 + s.hits_l2 + s.misses DESC, s.id LIMIT 100) r) AS rules,"
" (SELECT json_agg(l) FROM mlcache.stat_l1 l) AS l1,"
" (SELECT json_agg(c) FROM mlcache.consistency c) AS consistency,"
" (SELECT json_agg(k) FROM mlcache.hot_keys(20) k) AS hot_keys) d";

/* The document; in the current context. */
static char *
document(void)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *json;
	char	   *copy;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	if (SPI_execute(query, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not gather the report");
	json = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	copy = MemoryContextStrdup(context, json);
	SPI_finish();
	return copy;
}

char *
mlc_report(void)
{
	const char *mark = strstr(mlc_report_text, MARK);
	char	   *json = document();
	StringInfoData page;

	Assert(mark != NULL);
	initStringInfo(&page);
	appendBinaryStringInfo(&page, mlc_report_text, mark - mlc_report_text);
	for (const char *p = json; *p; p++)
	{
		if (*p == '<')
			appendStringInfoString(&page, "\\u003c");
		else
			appendStringInfoChar(&page, *p);
	}
	appendStringInfoString(&page, mark + strlen(MARK));
	return page.data;
}
