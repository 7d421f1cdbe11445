/*-------------------------------------------------------------------------
 *
 * relay/worker.h
 *	  The relay of one database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_WORKER_H
#define MLC_RELAY_WORKER_H

#include "postgres.h"

/* arg: the index of its MlcRelayShared. */
extern PGDLLEXPORT void mlc_relay_main(Datum arg);

#endif							/* MLC_RELAY_WORKER_H */
