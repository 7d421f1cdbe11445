/*-------------------------------------------------------------------------
 *
 * redis/command.h
 *	  Building commands (argv only, binary safe) and checking replies.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_REDIS_COMMAND_H
#define MLC_REDIS_COMMAND_H

#include "redis/conn.h"

/* A command under construction.  Arguments are referenced, not copied. */
typedef struct MlcCommand
{
	int			argc;
	int			size;
	const char **argv;
	size_t	   *argvlen;
} MlcCommand;

extern void mlc_command_init(MlcCommand *cmd);	/* in the current context */
extern void mlc_command_reset(MlcCommand *cmd);
extern void mlc_command_add(MlcCommand *cmd, const char *arg, size_t len);
extern void mlc_command_add_cstr(MlcCommand *cmd, const char *arg);

/* A number's text is allocated in the current context. */
extern void mlc_command_add_int(MlcCommand *cmd, int64 value);
extern void mlc_command_append(MlcCommand *cmd, MlcConn *conn);

/* Append, send, wait: one round trip.  NULL as mlc_conn_reply(). */
extern MlcReply *mlc_command_call(MlcCommand *cmd, MlcConn *conn);

/* The same from a NULL-terminated list of C strings. */
extern MlcReply *mlc_command_simple(MlcConn *conn, const char *arg,...);

#endif							/* MLC_REDIS_COMMAND_H */
