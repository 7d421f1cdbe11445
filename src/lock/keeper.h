/*-------------------------------------------------------------------------
 *
 * lock/keeper.h
 *	  The worker that renews this database's locks in Redis, and releases
 *	  those whose session could not.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_LOCK_KEEPER_H
#define MLC_LOCK_KEEPER_H

#include "postgres.h"

#include "lock/registry.h"

/* Has it started.  ERROR 53400 when there is no worker slot. */
extern void mlc_keeper_start(MlcKeeper *keeper);

extern PGDLLEXPORT void mlc_keeper_main(Datum arg);

#endif							/* MLC_LOCK_KEEPER_H */
