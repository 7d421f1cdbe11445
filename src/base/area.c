/*-------------------------------------------------------------------------
 *
 * base/area.c
 *	  Areas of shared memory: the hooks behind mlc_area_want().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/area.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#define MAX_AREAS 16

static const MlcArea *areas[MAX_AREAS];
static int	nareas = 0;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void
request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	for (int i = 0; i < nareas; i++)
	{
		const MlcArea *area = areas[i];

		if (area->size() == 0)
			continue;
		RequestAddinShmemSpace(MAXALIGN(area->size()));
		if (area->tranche)
			RequestNamedLWLockTranche(area->tranche,
									  area->count_locks ? area->count_locks() : 1);
	}
}

static void
startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < nareas; i++)
	{
		const MlcArea *area = areas[i];
		void	   *memory;
		bool		found;

		if (area->size() == 0)
			continue;
		memory = ShmemInitStruct(area->name, area->size(), &found);
		area->attach(memory, found,
					 area->tranche ? GetNamedLWLockTranche(area->tranche) : NULL);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
mlc_area_want(const MlcArea *area)
{
	Assert(process_shared_preload_libraries_in_progress);
	if (nareas == MAX_AREAS)
		elog(ERROR, "too many areas of shared memory");
	if (nareas == 0)
	{
		prev_shmem_request_hook = shmem_request_hook;
		shmem_request_hook = request;
		prev_shmem_startup_hook = shmem_startup_hook;
		shmem_startup_hook = startup;
	}
	areas[nareas++] = area;
}
