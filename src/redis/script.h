/*-------------------------------------------------------------------------
 *
 * redis/script.h
 *	  The Redis function library "mlcache": its text (lua/mlcache.lua, built
 *	  into this module), its version, and loading it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_REDIS_SCRIPT_H
#define MLC_REDIS_SCRIPT_H

#include "redis/conn.h"

/* The library's text, as FUNCTION LOAD takes it. */
extern const char mlc_script_text[];

/*
 * Makes sure that the server runs our version of the library: asks for the
 * version (FCALL_RO mlc_version), and loads with REPLACE when it is missing or
 * older.  A newer one is left alone when it says that it is compatible.
 * False with *error (current context) when Redis is too old (below 7),
 * refuses, or the connection failed.
 */
extern bool mlc_script_ensure(MlcConn *conn, char **error);

#endif							/* MLC_REDIS_SCRIPT_H */
