/*-------------------------------------------------------------------------
 *
 * redis/wire.c
 *	  A connection's waits, and the bytes that it moves.
 *
 * hiredis moves the bytes; its socket is non-blocking and every wait is ours:
 * on the process latch, the socket and a timeout together.
 *
 * Reading goes with writing: a server that cannot get rid of its replies
 * stops reading commands, so whoever only writes a long pipeline waits for
 * ever.
 *
 * Commands are handed to hiredis in pieces: its own output buffer moves all
 * that is left at every write.  Nothing throws for trouble with the network:
 * the first error is kept as text, and the socket is dead.
 *
 * One wait event set a connection is kept: building one for every wait, as
 * WaitLatchOrSocket() does, costs a third of a round trip.
 *
 * Locks: none.  Must not: block anywhere but in mlc_wire_wait().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/resource.h>

#include "base/compat.h"
#include "base/guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "redis/tls.h"
#include "redis/wire.h"

/* What hiredis reads at once: fewer bytes mean that there were no more. */
#define READ_SIZE (16 * 1024)

/* Reads in a row before anything else gets its turn. */
#define MAX_READS 64

/* What hiredis is given at once to write. */
#define WRITE_SIZE (64 * 1024)

/* Replies that are slept for, once looking for them has not paid. */
#define LOOK_RETRY 256

/* Looks that have paid in a row count up to here; one that has not, for so many. */
#define LOOK_TRUST 8
#define LOOK_DOUBT 4

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

/*
 * The socket is of no more use, but complete replies may stand in the input
 * buffer ("max number of clients reached" comes with a hangup).
 */
void
mlc_wire_set_dead(MlcConn *conn, const char *what)
{
	const char *reason = conn->tls ? mlc_tls_error() : NULL;

	if (reason == NULL)
		reason = conn->redis->errstr[0] != '\0' ?
			conn->redis->errstr : "unknown error";
	mlc_wire_set_error(conn,
					   conn->redis->err == REDIS_ERR_PROTOCOL ?
					   ERRCODE_PROTOCOL_VIOLATION : ERRCODE_CONNECTION_FAILURE,
					   "%s Redis at %s: %s", what, conn->where, reason);
	conn->redis->err = 0;
	conn->dead = true;
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

/* Writes what the socket takes.  False: dead. */
bool
mlc_wire_write(MlcConn *conn)
{
	redisContext *redis = conn->redis;

	for (;;)
	{
		size_t		left = conn->out_end - conn->out_start;
		int			rc = REDIS_OK;
		int			done;

		if (sdslen(redis->obuf) == 0)
		{
			size_t		piece = Min(left, WRITE_SIZE);

			if (left == 0)
				return true;
			rc = redisAppendFormattedCommand(redis,
											 conn->out + conn->out_start,
											 piece);
			conn->out_start += piece;
		}
		if (conn->tls)
			mlc_tls_forget();
		if (rc != REDIS_OK || redisBufferWrite(redis, &done) != REDIS_OK)
		{
			mlc_wire_set_dead(conn, "could not send to");
			return false;
		}
		if (!done)
			return true;
	}
}

/* Reads what has arrived, within reason.  False: dead. */
bool
mlc_wire_read(MlcConn *conn)
{
	redisReader *reader = conn->redis->reader;

	for (int i = 0; i < MAX_READS; i++)
	{
		size_t		before = reader->len;

		if (conn->tls)
			mlc_tls_forget();
		if (redisBufferRead(conn->redis) != REDIS_OK)
		{
			mlc_wire_set_dead(conn, "could not read from");
			return false;
		}
		if (reader->len < before + READ_SIZE)
			break;
	}
	return true;
}

/* How often this process has had to give up its CPU. */
static long
preemptions(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_nivcsw : 0;
}

/* Looks for input for mlcache.redis_spin us, if that long.  False: none, or dead. */
static bool
look(MlcConn *conn)
{
	size_t		before = conn->redis->reader->len;
	instr_time	start;
	instr_time	now;

	INSTR_TIME_SET_CURRENT(start);
	do
	{
		if (!mlc_wire_read(conn))
			return false;
		if (conn->redis->reader->len > before)
			return true;
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
	} while ((int64) INSTR_TIME_GET_MICROSEC(now) < mlc_redis_spin);
	return false;
}

/*
 * Looks for input instead of going to sleep at once: an idle CPU takes as long
 * to wake as Redis takes to answer.  That pays where the reply comes in time and
 * nobody else wants the CPU.  Whether it does is learnt, as spinlocks learn it
 * (s_lock.c): on a machine that is busy, or with a Redis that is far away, one
 * look in LOOK_RETRY replies is what it costs.
 */
void
mlc_wire_look(MlcConn *conn)
{
	long		preempted;

	if (mlc_redis_spin == 0)
		return;
	if (conn->trust == 0 && conn->slept++ % LOOK_RETRY != 0)
		return;
	preempted = preemptions();
	if (look(conn) && preemptions() == preempted)
		conn->trust = Min(conn->trust + 1, LOOK_TRUST);
	else
		conn->trust = Max(conn->trust - LOOK_DOUBT, 0);
}
