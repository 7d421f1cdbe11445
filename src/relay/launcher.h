/*-------------------------------------------------------------------------
 *
 * relay/launcher.h
 *	  The launcher: sees to it that every database with rules has a relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_LAUNCHER_H
#define MLC_RELAY_LAUNCHER_H

#include "postgres.h"

/* Registers the launcher, and the worker for standbys.  From _PG_init, while preloading. */
extern void mlc_launcher_register(void);

/* Asks for a relay in a database; acted upon when the launcher wakes. */
extern void mlc_launcher_want(Oid dbid);

extern PGDLLEXPORT void mlc_launcher_main(Datum arg);

/* A worker that looks once for what a standby has no use for. */
extern PGDLLEXPORT void mlc_standby_main(Datum arg);

#endif							/* MLC_RELAY_LAUNCHER_H */
