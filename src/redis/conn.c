/*-------------------------------------------------------------------------
 *
 * redis/conn.c
 *	  One connection to one Redis server: commands and replies.
 *
 * A reply is parsed only once it is complete (redis/reply.c), straight into
 * the caller's memory context.  So an interrupt that is thrown out of a wait
 * leaves no half-built reply behind: the connection stays in step, with the
 * replies it still owes counted in "pending", and the caller may go on
 * writing (the release of an aborted transaction does).
 *
 * Commands are laid out here, in malloc()ed memory.  Nothing throws for
 * trouble with the network or with that memory: the first error is kept as
 * text, the socket goes.  So append and push may be called in a commit
 * callback.
 *
 * Locks: none.  Must not: touch catalogs, need a transaction, or block
 * anywhere but in mlc_wire_wait() and mlc_conn_wait().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "miscadmin.h"
#include "redis/wire.h"
#include "utils/builtins.h"

/* An output buffer larger than this is not kept once it is empty. */
#define KEEP_SIZE (1024 * 1024)

const char *
mlc_conn_error(MlcConn *conn)
{
	return conn->error;
}

int
mlc_conn_sqlstate(MlcConn *conn)
{
	return conn->sqlstate != 0 ? conn->sqlstate : ERRCODE_CONNECTION_FAILURE;
}

bool
mlc_conn_check_closed(MlcConn *conn)
{
	bool		owed = conn->pending > 0;
	char		byte;
	ssize_t		rc;

	if (conn->redis == NULL)
		return true;
	do
	{
		rc = owed ? 1 : recv(conn->redis->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	} while (rc < 0 && errno == EINTR);

	if (!mlc_conn_is_current(conn))
		mlc_wire_set_error(conn, ERRCODE_CONNECTION_FAILURE,
						   "Redis at %s is not the master any more", conn->where);
	else if (rc == 0)
		mlc_wire_set_error(conn, ERRCODE_CONNECTION_FAILURE,
						   "could not read from Redis at %s: server closed the connection",
						   conn->where);
	else if (rc < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
		mlc_wire_set_error(conn, ERRCODE_CONNECTION_FAILURE,
						   "could not read from Redis at %s: %s", conn->where,
						   strerror(errno));
	else if ((conn->tls || owed) && rc > 0 && !conn->dead && !mlc_wire_read(conn))
		;						/* mlc_wire_read() has said why */
	else if (conn->pending == 0 &&
			 ((rc > 0 && !conn->tls) || conn->redis->reader->len > conn->redis->reader->pos))
		mlc_wire_set_error(conn, ERRCODE_PROTOCOL_VIOLATION,
						   "Redis at %s sent what nobody asked for", conn->where);
	else if (!conn->dead)
		return false;
	mlc_conn_close(conn);
	return true;
}

/* Makes room for more bytes at the end of the output.	False: no memory. */
static bool
reserve(MlcConn *conn, size_t more)
{
	size_t		used = conn->out_end - conn->out_start;
	size_t		size = Max(conn->out_size, 4096);
	char	   *bigger;

	if (used == 0)
	{
		conn->out_start = conn->out_end = 0;
		if (conn->out_size > KEEP_SIZE)
		{
			free(conn->out);
			conn->out = NULL;
			conn->out_size = 0;
			size = 4096;
		}
	}
	if (conn->out_end + more <= conn->out_size)
		return true;
	if (conn->out_start >= conn->out_size / 2 && used > 0)
	{
		/* at least as much has been sent as is moved now */
		memmove(conn->out, conn->out + conn->out_start, used);
		conn->out_start = 0;
		conn->out_end = used;
	}
	while (size < conn->out_end + more)
		size *= 2;
	if (size == conn->out_size)
		return true;
	bigger = realloc(conn->out, size);
	if (bigger == NULL)
		return false;
	conn->out = bigger;
	conn->out_size = size;
	return true;
}

/* "*3\r\n" or "$5\r\n"; room is reserved. */
static void
put_header(MlcConn *conn, char type, size_t number)
{
	char	   *out = conn->out + conn->out_end;
	int			len;

	out[0] = type;
	len = 1 + pg_ulltoa_n(number, out + 1);
	out[len++] = '\r';
	out[len++] = '\n';
	conn->out_end += len;
}

/* In a commit callback, too: never throws, never allocates with palloc. */
void
mlc_conn_append(MlcConn *conn, int argc, const char *const *argv,
				const size_t *argvlen)
{
	const size_t header = 1 + MAXINT8LEN + 2;
	size_t		size = header;

	if (conn->redis == NULL || conn->dead)
		return;
	for (int i = 0; i < argc; i++)
		size += header + (argvlen ? argvlen[i] : strlen(argv[i])) + 2;
	if (!reserve(conn, size))
	{
		mlc_wire_set_error(conn, ERRCODE_OUT_OF_MEMORY,
						   "could not send to Redis at %s: out of memory",
						   conn->where);
		conn->dead = true;
		return;
	}

	put_header(conn, '*', argc);
	for (int i = 0; i < argc; i++)
	{
		size_t		len = argvlen ? argvlen[i] : strlen(argv[i]);

		put_header(conn, '$', len);
		memcpy(conn->out + conn->out_end, argv[i], len);
		memcpy(conn->out + conn->out_end + len, "\r\n", 2);
		conn->out_end += len + 2;
	}
	conn->pending++;
}

size_t
mlc_conn_unsent(MlcConn *conn)
{
	if (conn->redis == NULL)
		return 0;
	return conn->out_end - conn->out_start + sdslen(conn->redis->obuf);
}

int
mlc_conn_pending(MlcConn *conn)
{
	return conn->pending;
}

bool
mlc_conn_push(MlcConn *conn)
{
	if (conn->redis == NULL)
		return false;
	if (conn->dead || !mlc_wire_write(conn) || !mlc_wire_read(conn))
	{
		mlc_conn_close(conn);
		return false;
	}
	return true;
}

bool
mlc_conn_send(MlcConn *conn)
{
	if (conn->redis != NULL && !conn->dead && mlc_wire_write(conn) &&
		mlc_conn_unsent(conn) == 0)
		return true;
	return mlc_conn_push(conn);
}

bool
mlc_conn_receive(MlcConn *conn)
{
	if (conn->redis == NULL)
		return false;
	if (conn->dead || !mlc_wire_read(conn))
	{
		mlc_conn_close(conn);
		return false;
	}
	return true;
}

/* Is the next reply in the input buffer?  Malformed input: dead. */
static bool
reply_complete(MlcConn *conn)
{
	switch (mlc_reply_scan(&conn->scan, conn->redis->reader))
	{
		case MLC_REPLY_PARTIAL:
			return false;
		case MLC_REPLY_COMPLETE:
			return true;
		case MLC_REPLY_MALFORMED:
			break;
	}
	mlc_wire_set_error(conn, ERRCODE_PROTOCOL_VIOLATION,
					   "what answers at %s does not speak the Redis protocol",
					   conn->where);
	conn->dead = true;
	return false;
}

/* A master that has become a replica is not written to again. */
static void
look_for_demotion(MlcConn *conn, const MlcReply *reply)
{
	if (reply->type != MLC_REPLY_ERROR ||
		strncmp(reply->str, "READONLY ", 9) != 0)
		return;
	mlc_wire_set_error(conn, ERRCODE_CONNECTION_FAILURE,
					   "Redis at %s is not the master any more", conn->where);
	conn->dead = true;
}

/* The next reply is out of the buffer. */
static void
count_reply(MlcConn *conn)
{
	mlc_reply_scan_begin(&conn->scan);
	conn->pending--;
}

/* Takes the complete reply out of the buffer.  NULL: closed. */
static MlcReply *
take_reply(MlcConn *conn)
{
	MlcReply   *reply = mlc_reply_take(&conn->scan, conn->redis->reader);

	if (reply == NULL)
	{
		redisReader *reader = conn->redis->reader;

		mlc_wire_set_error(conn, reader->err == 0 ? ERRCODE_OUT_OF_MEMORY :
						   ERRCODE_PROTOCOL_VIOLATION,
						   "could not parse a reply of Redis at %s: %s",
						   conn->where,
						   reader->err == 0 ? "out of memory" : reader->errstr);
		mlc_conn_close(conn);
		return NULL;
	}
	count_reply(conn);
	if (conn->options.sentinel)
		look_for_demotion(conn, reply);
	return reply;
}

/* Waits for the reply, as long as the server goes on sending it. */
static void
wait_reply(MlcConn *conn)
{
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	while (!conn->dead && !reply_complete(conn))
	{
		size_t		unsent = mlc_conn_unsent(conn);
		size_t		received = conn->redis->reader->len;

		if (!mlc_wire_wait(conn,
						   WL_SOCKET_READABLE |
						   (unsent > 0 ? WL_SOCKET_WRITEABLE : 0),
						   start, conn->options.timeout))
		{
			mlc_wire_set_error(conn, ERRCODE_CONNECTION_FAILURE,
							   "Redis at %s did not answer within %d ms",
							   conn->where, conn->options.timeout);
			mlc_conn_close(conn);
			return;
		}
		(void) mlc_wire_write(conn);
		(void) mlc_wire_read(conn);
		if (mlc_conn_unsent(conn) < unsent ||
			conn->redis->reader->len != received)
			INSTR_TIME_SET_CURRENT(start);
	}
}

/* Has the next reply arrived, now or after a wait?  False: closed. */
static bool
await_reply(MlcConn *conn)
{
	if (conn->redis == NULL)
	{
		mlc_wire_set_error(conn, ERRCODE_CONNECTION_DOES_NOT_EXIST,
						   "connection to Redis at %s is closed", conn->where);
		return false;
	}
	if (conn->pending <= 0)
	{
		mlc_wire_set_error(conn, ERRCODE_PROTOCOL_VIOLATION,
						   "no reply of Redis at %s is outstanding", conn->where);
		mlc_conn_close(conn);
		return false;
	}

	if (reply_complete(conn))
		return true;
	if (!conn->dead && !mlc_wire_write(conn))
		(void) mlc_wire_read(conn); /* it may have said why it hung up */
	if (!conn->dead)
		mlc_wire_look(conn);
	if (!conn->dead && !reply_complete(conn))
		wait_reply(conn);
	if (conn->redis != NULL && reply_complete(conn))
		return true;
	mlc_conn_close(conn);
	return false;
}

MlcReply *
mlc_conn_reply(MlcConn *conn)
{
	return await_reply(conn) ? take_reply(conn) : NULL;
}

bool
mlc_conn_skip(MlcConn *conn)
{
	redisReader *reader;

	if (!await_reply(conn))
		return false;
	reader = conn->redis->reader;

	/* an error may say something of the connection */
	if (reader->buf[reader->pos] == '-')
		return take_reply(conn) != NULL;
	reader->pos += conn->scan.pos;
	count_reply(conn);
	return true;
}

bool
mlc_conn_ready(MlcConn *conn)
{
	return conn->redis != NULL && conn->pending > 0 && reply_complete(conn);
}

bool
mlc_conn_wait_for(MlcConn *conn, int timeout)
{
	uint32		events = WL_SOCKET_READABLE;

	if (!mlc_conn_is_open(conn))
		return false;
	if (mlc_conn_unsent(conn) > 0)
		events |= WL_SOCKET_WRITEABLE;
	if (mlc_wire_wait_once(conn, events, timeout) & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return true;
}

bool
mlc_conn_wait(MlcConn *conn)
{
	return mlc_conn_wait_for(conn, conn->options.timeout);
}
