/*-------------------------------------------------------------------------
 *
 * redis/command.c
 *	  Building commands: argument vectors, never formatted text, so that a
 *	  key or a payload may hold any byte.
 *
 * Nothing here knows a command's meaning.  Locks: none.  Must not: write to
 * the socket other than through conn, or throw for trouble with the network.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "redis/command.h"

#define MLC_COMMAND_INITIAL_SIZE 16

void
mlc_command_init(MlcCommand *cmd)
{
	cmd->argc = 0;
	cmd->size = MLC_COMMAND_INITIAL_SIZE;
	cmd->argv = palloc(cmd->size * sizeof(*cmd->argv));
	cmd->argvlen = palloc(cmd->size * sizeof(*cmd->argvlen));
}

/* Empties it for another command; the arrays are kept. */
void
mlc_command_reset(MlcCommand *cmd)
{
	cmd->argc = 0;
}

/* arg must live until the command is appended; it may hold any byte. */
void
mlc_command_add(MlcCommand *cmd, const char *arg, size_t len)
{
	if (cmd->argc == cmd->size)
	{
		int			size = cmd->size * 2;

		cmd->argv = repalloc(cmd->argv, size * sizeof(*cmd->argv));
		cmd->argvlen = repalloc(cmd->argvlen, size * sizeof(*cmd->argvlen));
		cmd->size = size;
	}
	cmd->argv[cmd->argc] = arg;
	cmd->argvlen[cmd->argc] = len;
	cmd->argc++;
}

void
mlc_command_add_cstr(MlcCommand *cmd, const char *arg)
{
	mlc_command_add(cmd, arg, strlen(arg));
}

void
mlc_command_add_int(MlcCommand *cmd, int64 value)
{
	char	   *text = palloc(MAXINT8LEN + 1);

	mlc_command_add(cmd, text, pg_lltoa(value, text));
}

/* The bytes are copied into the connection; cmd may be used again at once. */
void
mlc_command_append(MlcCommand *cmd, MlcConn *conn)
{
	mlc_conn_append(conn, cmd->argc, cmd->argv, cmd->argvlen);
}

/*
 * Replies that an interrupted predecessor left unread are read and dropped
 * first: they are in the way of ours.
 */
MlcReply *
mlc_command_call(MlcCommand *cmd, MlcConn *conn)
{
	mlc_command_append(cmd, conn);
	while (mlc_conn_pending(conn) > 1)
	{
		if (mlc_conn_reply(conn) == NULL)
			return NULL;
	}
	return mlc_conn_reply(conn);
}

MlcReply *
mlc_command_simple(MlcConn *conn, const char *arg,...)
{
	MlcCommand	cmd;
	MlcReply   *reply;
	va_list		args;

	mlc_command_init(&cmd);
	va_start(args, arg);
	for (; arg != NULL; arg = va_arg(args, const char *))
		mlc_command_add_cstr(&cmd, arg);
	va_end(args);
	reply = mlc_command_call(&cmd, conn);
	pfree(cmd.argv);
	pfree(cmd.argvlen);
	return reply;
}
