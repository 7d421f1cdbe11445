/*-------------------------------------------------------------------------
 *
 * capture/check.h
 *	  What attach() refuses, and which capture it picks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_CHECK_H
#define MLC_CAPTURE_CHECK_H

#include "postgres.h"

#include "capture/attach.h"
#include "redis/server.h"

/*
 * Raises ERROR for whatever cannot be right, connects to each server once,
 * and returns the capture, with a NOTICE that says which and why.
 */
extern MlcCapture mlc_check_attach(const MlcAttach *attach, Relation relation);

/*
 * ERROR 42809 unless every change of the relation and its partitions is in
 * WAL, and nothing else inherits from it; 0A000 if it has row security.
 */
extern void mlc_check_table(Relation relation);

/* ERROR 55000 unless logical decoding can work; the hint is the line to type. */
extern void mlc_check_prerequisites(void);

/* Is the plugin allowed, as far as this server asks? */
extern bool mlc_check_plugin_allowed(void);

/* The line to type after mlc_conn_open() failed, in the current context. */
extern const char *mlc_check_connection_fix(MlcServer *server, MlcConn *conn);

extern const char *mlc_check_capture_name(MlcCapture capture);

#endif							/* MLC_CAPTURE_CHECK_H */
