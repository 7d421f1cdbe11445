/*-------------------------------------------------------------------------
 *
 * redis/wire.c
 *	  A connection's waits, and the bytes that it moves.
 *
 * The socket is non-blocking and every wait is ours: on the process latch, the
 * socket and a timeout together.
 *
 * Reading goes with writing: a server that cannot get rid of its replies
 * stops reading commands, so whoever only writes a long pipeline waits for
 * ever.
 *
 * Plain text goes between our buffers and the socket.  Under TLS hiredis stands
 * in between, with buffers of its own.  Nothing throws for trouble with the
 * network or with memory: the first error is kept as text, and the connection
 * is dead.  Complete replies may stand in the input buffer even then ("max number
 * of clients reached" comes with a hangup).
 *
 * One wait event set a connection is kept: building one for every wait, as
 * WaitLatchOrSocket() does, costs a third of a round trip.
 *
 * Locks: none.  Must not: block anywhere but in mlc_wire_wait().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "base/compat.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "redis/tls.h"
#include "redis/wire.h"

/* Room there is for reading, at least. */
#define READ_SIZE (16 * 1024)

/* Reads in a row before anything else gets its turn. */
#define MAX_READS 64

/* What hiredis is given at once: it moves all that is left at every write. */
#define WRITE_SIZE (64 * 1024)

/* A buffer larger than this is not kept once it is empty. */
#define KEEP_SIZE (1024 * 1024)

/* How long to look for a reply before sleeping, in us; see mlc_wire_look(). */
#define LOOK_MAX 60
#define LOOK_STEP 20

/* Replies that are slept for before it is tried again. */
#define LOOK_RETRY 256

void
mlc_wire_set_error(MlcConn *conn, int sqlstate, const char *fmt,...)
{
	va_list		args;

	if (conn->error[0] != '\0')
		return;
	va_start(args, fmt);
	vsnprintf(conn->error, sizeof(conn->error), fmt, args);
	va_end(args);
	conn->sqlstate = sqlstate;
}

static void
set_dead(MlcConn *conn, int sqlstate, const char *what, const char *reason)
{
	mlc_wire_set_error(conn, sqlstate, "%s Redis at %s: %s", what, conn->where,
					   reason);
	conn->dead = true;
}

void
mlc_wire_free(MlcBuffer *buffer)
{
	free(buffer->data);
	memset(buffer, 0, sizeof(*buffer));
}

bool
mlc_wire_reserve(MlcBuffer *buffer, size_t more)
{
	size_t		used = buffer->end - buffer->start;
	size_t		size;
	char	   *bigger;

	if (used == 0 && buffer->size > KEEP_SIZE)
		mlc_wire_free(buffer);
	if (used == 0)
		buffer->start = buffer->end = 0;
	if (buffer->end + more <= buffer->size)
		return true;
	if (buffer->start >= buffer->size / 2 && used > 0)
	{
		/* at least as much has been dealt with as is moved now */
		memmove(buffer->data, buffer->data + buffer->start, used);
		buffer->start = 0;
		buffer->end = used;
	}
	size = Max(buffer->size, 4096);
	while (size < buffer->end + more)
		size *= 2;
	if (size == buffer->size)
		return true;
	bigger = realloc(buffer->data, size);
	if (bigger == NULL)
		return false;
	buffer->data = bigger;
	buffer->size = size;
	return true;
}

int
mlc_wire_elapsed_ms(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return (int) INSTR_TIME_GET_MILLISEC(now);
}

/* Makes the wait event set say what we wait for.  May throw. */
static void
prepare_waits(MlcConn *conn, uint32 events)
{
	if (conn->waits == NULL)
	{
		conn->waits = mlc_create_wait_event_set(3);
		conn->waits_latch = MyLatch;
		AddWaitEventToSet(conn->waits, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch,
						  NULL);
		if (IsUnderPostmaster)
			AddWaitEventToSet(conn->waits, WL_EXIT_ON_PM_DEATH,
							  PGINVALID_SOCKET, NULL, NULL);
		conn->waits_socket = AddWaitEventToSet(conn->waits, events,
											   conn->redis->fd, NULL, NULL);
		conn->waits_events = events;
	}
	if (conn->waits_latch != MyLatch)
	{
		ModifyWaitEvent(conn->waits, 0, WL_LATCH_SET, MyLatch);
		conn->waits_latch = MyLatch;
	}
	if (conn->waits_events != events)
	{
		ModifyWaitEvent(conn->waits, conn->waits_socket, events, NULL);
		conn->waits_events = events;
	}
}

/* Waits once, up to timeout ms: WL_LATCH_SET, socket events, or 0. */
uint32
mlc_wire_wait_once(MlcConn *conn, uint32 events, long timeout)
{
	WaitEvent	occurred[3];
	uint32		result = 0;
	int			n;

	prepare_waits(conn, events);
	n = WaitEventSetWait(conn->waits, timeout, occurred, lengthof(occurred),
						 PG_WAIT_EXTENSION);
	for (int i = 0; i < n; i++)
		result |= occurred[i].events;
	return result;
}

/*
 * Waits until the socket is ready for one of events, or timeout ms have
 * passed since start: false.  May throw on an interrupt.  A latch that was
 * set for somebody else is set again, so that no wakeup is swallowed.
 */
bool
mlc_wire_wait(MlcConn *conn, uint32 events, instr_time start, int timeout)
{
	bool		woken = false;
	bool		ready = false;

	for (;;)
	{
		int			left = timeout - mlc_wire_elapsed_ms(start);
		uint32		occurred;

		CHECK_FOR_INTERRUPTS();
		occurred = mlc_wire_wait_once(conn, events, Max(left, 0));
		if (occurred & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			woken = true;
			CHECK_FOR_INTERRUPTS();
		}
		if (occurred & events)
		{
			ready = true;
			break;
		}
		if (left <= 0)
			break;
	}
	if (woken)
		SetLatch(MyLatch);
	return ready;
}

/* ---- plain text ---- */

static bool
would_block(void)
{
	return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* How much has come, 0 if nothing has; -1: dead. */
static ssize_t
read_plain(MlcConn *conn)
{
	ssize_t		n = recv(conn->redis->fd, conn->in.data + conn->in.end,
						 conn->in.size - conn->in.end, 0);

	if (n > 0)
		return n;
	if (n < 0 && would_block())
		return 0;
	set_dead(conn, ERRCODE_CONNECTION_FAILURE, "could not read from",
			 n < 0 ? strerror(errno) : "Server closed the connection");
	return -1;
}

static bool
write_plain(MlcConn *conn)
{
	while (conn->out.end > conn->out.start)
	{
		ssize_t		n = send(conn->redis->fd, conn->out.data + conn->out.start,
							 conn->out.end - conn->out.start, MSG_NOSIGNAL);

		if (n < 0 && would_block())
			return true;
		if (n < 0)
		{
			set_dead(conn, ERRCODE_CONNECTION_FAILURE, "could not send to",
					 strerror(errno));
			return false;
		}
		conn->out.start += n;
	}
	return true;
}

/* ---- TLS ---- */

static void
set_dead_of_tls(MlcConn *conn, const char *what)
{
	const char *reason = mlc_tls_error();

	if (reason == NULL)
		reason = conn->redis->errstr[0] != '\0' ?
			conn->redis->errstr : "unknown error";
	set_dead(conn, ERRCODE_CONNECTION_FAILURE, what, reason);
	conn->redis->err = 0;
}

/* As read_plain(), which made room; what hiredis has read becomes ours. */
static ssize_t
read_tls(MlcConn *conn)
{
	redisReader *reader;
	size_t		n;

	mlc_tls_forget();
	if (redisBufferRead(conn->redis) != REDIS_OK)
	{
		set_dead_of_tls(conn, "could not read from");
		return -1;
	}
	reader = conn->redis->reader;
	n = reader->len - reader->pos;
	if (n == 0)
		return 0;
	conn->redis->reader = redisReaderCreate();
	if (conn->redis->reader == NULL || !mlc_wire_reserve(&conn->in, n))
	{
		redisReaderFree(reader);
		set_dead(conn, ERRCODE_OUT_OF_MEMORY, "could not read from",
				 "out of memory");
		return -1;
	}
	memcpy(conn->in.data + conn->in.end, reader->buf + reader->pos, n);
	redisReaderFree(reader);
	return n;
}

static bool
write_tls(MlcConn *conn)
{
	redisContext *redis = conn->redis;

	for (;;)
	{
		int			rc = REDIS_OK;
		int			done;

		if (sdslen(redis->obuf) == 0)
		{
			size_t		piece = Min(conn->out.end - conn->out.start, WRITE_SIZE);

			if (piece == 0)
				return true;
			rc = redisAppendFormattedCommand(redis,
											 conn->out.data + conn->out.start,
											 piece);
			conn->out.start += piece;
		}
		mlc_tls_forget();
		if (rc != REDIS_OK || redisBufferWrite(redis, &done) != REDIS_OK)
		{
			set_dead_of_tls(conn, "could not send to");
			return false;
		}
		if (!done)
			return true;
	}
}

/* ---- either ---- */

bool
mlc_wire_write(MlcConn *conn)
{
	return conn->tls ? write_tls(conn) : write_plain(conn);
}

bool
mlc_wire_read(MlcConn *conn)
{
	for (int i = 0; i < MAX_READS; i++)
	{
		ssize_t		n;
		size_t		room;

		if (!mlc_wire_reserve(&conn->in, READ_SIZE))
		{
			set_dead(conn, ERRCODE_OUT_OF_MEMORY, "could not read from",
					 "out of memory");
			return false;
		}
		room = conn->tls ? READ_SIZE : conn->in.size - conn->in.end;
		n = conn->tls ? read_tls(conn) : read_plain(conn);
		if (n < 0)
			return false;
		conn->in.end += n;
		if (n < (ssize_t) room)
			break;				/* there was no more */
	}
	return true;
}

/*
 * Looks for input for as long as going to sleep and waking up would take.
 * Whether that pays is learnt as spinlocks do (s_lock.c): replies that come in
 * time prolong the next look, others shorten it, down to nothing on a machine
 * that is busy.
 */
void
mlc_wire_look(MlcConn *conn)
{
	size_t		before = conn->in.end - conn->in.start;
	instr_time	start;
	instr_time	now;

	if (conn->patience == 0 && ++conn->impatient < LOOK_RETRY)
		return;
	conn->impatient = 0;
	INSTR_TIME_SET_CURRENT(start);
	do
	{
		if (!mlc_wire_read(conn))
			return;
		if (conn->in.end - conn->in.start > before)
		{
			conn->patience = Min(conn->patience + LOOK_STEP, LOOK_MAX);
			return;
		}
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
	} while ((int64) INSTR_TIME_GET_MICROSEC(now) < Max(conn->patience, LOOK_STEP));
	conn->patience /= 2;
}
