/*-------------------------------------------------------------------------
 *
 * test/t/lib/late.c
 *	  A module that runs SQL while a transaction commits: after those callbacks
 *	  that were registered later, so load it before mlcache.  No SQL of
 *	  PostgreSQL's own runs so late; other extensions may.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static char *late_sql = NULL;

static void
at_commit(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT || late_sql == NULL ||
		late_sql[0] == '\0')
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	SPI_execute(late_sql, false, 0);
	SPI_finish();
	PopActiveSnapshot();
}

void
_PG_init(void)
{
	DefineCustomStringVariable("late.sql", "What runs before a commit.", NULL,
							   &late_sql, "", PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(at_commit, NULL);
}
