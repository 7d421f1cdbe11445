/*-------------------------------------------------------------------------
 *
 * mlcache.c
 *	  Where the library begins: settings, shared memory, hooks, workers.
 *
 * Without preloading the library still loads, so that CREATE EXTENSION and
 * check_setup() can tell what is missing; everything else then says so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/guc.h"
#include "capture/attach.h"
#include "capture/xact.h"
#include "fmgr.h"
#include "lock/lock.h"
#include "miscadmin.h"
#include "relay/launcher.h"
#include "shm/commits.h"
#include "shm/consistency.h"
#include "shm/heat.h"
#include "shm/history.h"
#include "shm/l1.h"
#include "shm/progress.h"
#include "shm/segment.h"
#include "shm/stats.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	mlc_guc_define();
	if (!process_shared_preload_libraries_in_progress)
		return;
	mlc_segment_init();
	mlc_stats_init();
	mlc_history_init();
	mlc_l1_init();
	mlc_commits_init();
	mlc_heat_init();
	mlc_progress_init();
	mlc_consistency_init();
	mlc_xact_init();
	mlc_attach_init();
	mlc_lock_init();
	mlc_launcher_register();
}
