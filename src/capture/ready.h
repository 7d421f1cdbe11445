/*-------------------------------------------------------------------------
 *
 * capture/ready.h
 *	  Is there what rules need, here and in Redis?
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_READY_H
#define MLC_CAPTURE_READY_H

#include "postgres.h"

#include "redis/conn.h"
#include "redis/server.h"

/* ERROR 55000 unless logical decoding can work; the hint is the line to type. */
extern void mlc_ready_prerequisites(void);

/* Is the plugin allowed, as far as this server asks? */
extern bool mlc_ready_plugin_allowed(void);

/* The line to type after mlc_conn_open() failed, in the current context. */
extern const char *mlc_ready_connection_fix(MlcServer *server, MlcConn *conn);

/*
 * ERROR unless these servers, or all there are where n is 0, are Redis servers
 * that the caller may use; connects to each once.
 */
extern void mlc_ready_servers(char **servers, int n);

#endif							/* MLC_CAPTURE_READY_H */
