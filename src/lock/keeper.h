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

/* Has it started.  WARNING 53400, and false, when there is no worker slot. */
extern bool mlc_keeper_start(MlcKeeper *keeper);

/*
 * Starts keepers that died while sessions of their database hold locks, or have
 * released some that Redis has not been told of.  For the launcher, which a
 * dying keeper wakes.
 */
extern void mlc_keeper_revive(bool (*database_exists) (Oid dbid));

extern PGDLLEXPORT void mlc_keeper_main(Datum arg);

#endif							/* MLC_LOCK_KEEPER_H */
