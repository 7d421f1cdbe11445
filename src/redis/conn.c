/*-------------------------------------------------------------------------
 *
 * redis/conn.c
 *	  One connection to one Redis server.
 *
 * hiredis connects, moves bytes and parses replies; its socket is
 * non-blocking and every wait is ours: on the process latch, the socket and
 * a timeout together.  What makes that safe:
 *
 * A reply is parsed only once it is complete (redis/reply.c), straight into
 * the caller's memory context.  So an interrupt that is thrown out of a wait
 * leaves no half-built reply behind: the connection stays in step, with the
 * replies it still owes counted in "pending", and the caller may go on
 * writing (the release of an aborted transaction does).
 *
 * Reading goes with writing: a server that cannot get rid of its replies
 * stops reading commands, so whoever only writes a long pipeline waits for
 * ever.
 *
 * Commands are laid out here, in malloc()ed memory, and handed to hiredis in
 * pieces: its own output buffer moves all that is left at every write.
 * Nothing throws for trouble with the network or with that memory: the first
 * error is kept as text, the socket goes.  So append and push may be called
 * in a commit callback.
 *
 * What the server answers to AUTH is never quoted, since a server that does
 * not know the command quotes its arguments.
 *
 * One wait event set a connection is kept: building one for every wait, as
 * WaitLatchOrSocket() does, costs a third of a round trip.
 *
 * Locks: none.  Must not: touch catalogs, need a transaction, or block
 * anywhere but in wait_io() -- with one exception, getaddrinfo() inside
 * hiredis, which a host name (not an address) brings upon itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/compat.h"
#include "base/fault.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "redis/reply.h"
#include "redis/sentinel.h"
#include "redis/tls.h"

/* What hiredis reads at once: fewer bytes mean that there were no more. */
#define MLC_CONN_READ_SIZE (16 * 1024)

/* Reads in a row before anything else gets its turn. */
#define MLC_CONN_MAX_READS 64

/* What hiredis is given at once to write. */
#define MLC_CONN_WRITE_SIZE (64 * 1024)

/* How long to look for a reply before sleeping, in us; see look_awhile(). */
#define MLC_CONN_LOOK_MAX 60
#define MLC_CONN_LOOK_STEP 20

/* Replies that are slept for before it is tried again. */
#define MLC_CONN_LOOK_RETRY 256

/* How long to wait for a sentinel before its timeouts are looked at, in ms. */
#define SEARCH_STEP 50

/* An output buffer larger than this is not kept once it is empty. */
#define MLC_CONN_KEEP_SIZE (1024 * 1024)

/* How far opening has come. */
typedef enum Phase
{
	PHASE_CLOSED,
	PHASE_SEARCH,				/* Sentinel is asked where the master is */
	PHASE_CONNECT,
	PHASE_TLS,
	PHASE_LOGIN,
	PHASE_OPEN
} Phase;

/* What the replies to a login answer, in this order. */
typedef enum Login
{
	LOGIN_AUTH,
	LOGIN_SELECT,
	LOGIN_PING,
	LOGIN_ROLE,					/* with Sentinel only */
	LOGIN_DONE
} Login;

struct MlcConn
{
	MemoryContext context;
	MlcRedisOptions options;
	redisContext *redis;		/* NULL when closed */
	MlcTls	   *tls;			/* of redis; NULL: plain text */
	Phase		phase;
	instr_time	since;			/* opening: when this phase began, or a reply
								 * came */
	uint32		awaits;			/* opening: events on the socket */
	Login		login;			/* the reply that comes next */
	bool		dead;			/* I/O failed: only replies read are left */
	int			pending;		/* replies owed */
	MlcReplyScan scan;			/* of the next reply */
	char	   *out;			/* commands not yet given to hiredis; malloc */
	size_t		out_size;
	size_t		out_start;
	size_t		out_end;
	WaitEventSet *waits;		/* latch, postmaster, socket; made when needed */
	int			waits_socket;	/* position of the socket in it */
	uint32		waits_events;	/* what it waits for on the socket */
	Latch	   *waits_latch;
	int			patience;		/* us that look_awhile() looks */
	int			impatient;		/* how often it has not looked */
	MlcSearch  *search;			/* for the master; NULL but in its phase */
	pg_atomic_uint64 *epoch_now;	/* Sentinel's, in shared memory; or NULL */
	uint64		epoch;			/* of the master that this one was made to */
	int			sqlstate;		/* of error */
	char		error[256];
	char		where[128];		/* for messages: host:port or path */
	MemoryContextCallback on_reset;
};

/* ---------- failing and closing ---------- */

static void set_error(MlcConn *conn, int sqlstate, const char *fmt,...) pg_attribute_printf(3, 4);

/* Keeps the first error of a connection; later ones follow from it. */
static void
set_error(MlcConn *conn, int sqlstate, const char *fmt,...)
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
static void
set_dead(MlcConn *conn, const char *what)
{
	const char *reason = conn->tls ? mlc_tls_error() : NULL;

	if (reason == NULL)
		reason = conn->redis->errstr[0] != '\0' ?
			conn->redis->errstr : "unknown error";
	set_error(conn,
			  conn->redis->err == REDIS_ERR_PROTOCOL ?
			  ERRCODE_PROTOCOL_VIOLATION : ERRCODE_CONNECTION_FAILURE,
			  "%s Redis at %s: %s", what, conn->where, reason);
	conn->redis->err = 0;
	conn->dead = true;
}

void
mlc_conn_close(MlcConn *conn)
{
	if (conn->waits != NULL)
	{
		FreeWaitEventSet(conn->waits);
		conn->waits = NULL;
	}
	if (conn->redis != NULL)
	{
		redisFree(conn->redis);
		ReleaseExternalFD();
	}
	if (conn->search != NULL)
		mlc_sentinel_end(conn->search);
	conn->redis = NULL;
	conn->search = NULL;
	conn->tls = NULL;
	conn->phase = PHASE_CLOSED;
	conn->awaits = 0;
	free(conn->out);
	conn->out = NULL;
	conn->out_size = conn->out_start = conn->out_end = 0;
	conn->dead = false;
	conn->pending = 0;
	mlc_reply_scan_begin(&conn->scan);
}

static void
close_on_reset(void *arg)
{
	mlc_conn_close(arg);
}

/* ---------- waiting and moving bytes ---------- */

static int
elapsed_ms(instr_time start)
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
static uint32
wait_once(MlcConn *conn, uint32 events, long timeout)
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
static bool
wait_io(MlcConn *conn, uint32 events, instr_time start, int timeout)
{
	bool		woken = false;
	bool		ready = false;

	for (;;)
	{
		int			left = timeout - elapsed_ms(start);
		uint32		occurred;

		CHECK_FOR_INTERRUPTS();
		occurred = wait_once(conn, events, Max(left, 0));
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
static bool
write_some(MlcConn *conn)
{
	redisContext *redis = conn->redis;

	for (;;)
	{
		size_t		left = conn->out_end - conn->out_start;
		int			rc = REDIS_OK;
		int			done;

		if (sdslen(redis->obuf) == 0)
		{
			size_t		piece = Min(left, MLC_CONN_WRITE_SIZE);

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
			set_dead(conn, "could not send to");
			return false;
		}
		if (!done)
			return true;
	}
}

/* Reads what has arrived, within reason.  False: dead. */
static bool
read_some(MlcConn *conn)
{
	redisReader *reader = conn->redis->reader;

	for (int i = 0; i < MLC_CONN_MAX_READS; i++)
	{
		size_t		before = reader->len;

		if (conn->tls)
			mlc_tls_forget();
		if (redisBufferRead(conn->redis) != REDIS_OK)
		{
			set_dead(conn, "could not read from");
			return false;
		}
		if (reader->len < before + MLC_CONN_READ_SIZE)
			break;
	}
	return true;
}

/*
 * Looks for input for as long as going to sleep and waking up would take.
 * Whether that pays is learnt as spinlocks do (s_lock.c): replies that come in
 * time prolong the next look, others shorten it, down to nothing on a machine
 * that is busy.
 */
static void
look_awhile(MlcConn *conn)
{
	size_t		before = conn->redis->reader->len;
	instr_time	start;
	instr_time	now;

	if (conn->patience == 0 && ++conn->impatient < MLC_CONN_LOOK_RETRY)
		return;
	conn->impatient = 0;
	INSTR_TIME_SET_CURRENT(start);
	do
	{
		if (!read_some(conn))
			return;
		if (conn->redis->reader->len > before)
		{
			conn->patience = Min(conn->patience + MLC_CONN_LOOK_STEP, MLC_CONN_LOOK_MAX);
			return;
		}
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
	} while ((int64) INSTR_TIME_GET_MICROSEC(now) < Max(conn->patience, MLC_CONN_LOOK_STEP));
	conn->patience /= 2;
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
	set_error(conn, ERRCODE_PROTOCOL_VIOLATION,
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
	set_error(conn, ERRCODE_CONNECTION_FAILURE,
			  "Redis at %s is not the master any more", conn->where);
	conn->dead = true;
}

/* Takes the complete reply out of the buffer.  NULL: closed. */
static MlcReply *
take_reply(MlcConn *conn)
{
	void	   *reply = NULL;

	if (redisGetReplyFromReader(conn->redis, &reply) != REDIS_OK ||
		reply == NULL)
	{
		set_dead(conn, "could not parse a reply of");
		mlc_conn_close(conn);
		return NULL;
	}
	mlc_reply_scan_begin(&conn->scan);
	conn->pending--;
	if (conn->options.sentinel)
		look_for_demotion(conn, reply);
	return reply;
}

/* The next reply; timeout is in ms of silence. */
static MlcReply *
wait_reply(MlcConn *conn, int timeout)
{
	instr_time	start;

	if (conn->redis == NULL)
	{
		set_error(conn, ERRCODE_CONNECTION_DOES_NOT_EXIST,
				  "connection to Redis at %s is closed", conn->where);
		return NULL;
	}
	if (conn->pending <= 0)
	{
		set_error(conn, ERRCODE_PROTOCOL_VIOLATION,
				  "no reply of Redis at %s is outstanding", conn->where);
		mlc_conn_close(conn);
		return NULL;
	}

	if (!reply_complete(conn) && !conn->dead && !write_some(conn))
		(void) read_some(conn); /* it may have said why it hung up */
	if (!conn->dead && !reply_complete(conn))
		look_awhile(conn);
	INSTR_TIME_SET_CURRENT(start);
	while (!conn->dead && !reply_complete(conn))
	{
		size_t		unsent = mlc_conn_unsent(conn);
		size_t		received = conn->redis->reader->len;

		if (!wait_io(conn,
					 WL_SOCKET_READABLE |
					 (unsent > 0 ? WL_SOCKET_WRITEABLE : 0),
					 start, timeout))
		{
			set_error(conn, ERRCODE_CONNECTION_FAILURE,
					  "Redis at %s did not answer within %d ms",
					  conn->where, timeout);
			mlc_conn_close(conn);
			return NULL;
		}
		(void) write_some(conn);
		(void) read_some(conn);
		if (mlc_conn_unsent(conn) < unsent ||
			conn->redis->reader->len != received)
			INSTR_TIME_SET_CURRENT(start);
	}
	if (!reply_complete(conn))
	{
		mlc_conn_close(conn);
		return NULL;
	}
	return take_reply(conn);
}

/* ---------- opening ---------- */

/* The first word of an error reply ("WRONGPASS"). */
static const char *
error_code(const MlcReply *reply, char *buf, size_t size)
{
	size_t		i;

	for (i = 0; i < size - 1 && i < reply->len; i++)
	{
		if (reply->str[i] < 'A' || reply->str[i] > 'Z')
			break;
		buf[i] = reply->str[i];
	}
	buf[i] = '\0';
	return buf;
}

/*
 * What may be quoted of the answer to AUTH: the texts that we know, or else
 * the first word.
 */
static const char *
auth_error(const MlcReply *reply, char *buf, size_t size)
{
	static const char *const known[] = {
		"ERR max number of clients reached",
		"ERR AUTH <password> called without any password configured",
		"WRONGPASS invalid username-password pair or user is disabled."
	};

	if (reply->type != MLC_REPLY_ERROR)
		return "no status";
	for (size_t i = 0; i < lengthof(known); i++)
	{
		if (strncmp(reply->str, known[i], strlen(known[i])) == 0)
			return known[i];
	}
	return error_code(reply, buf, size);
}

static bool
start_connecting(MlcConn *conn)
{
	const MlcRedisOptions *options = &conn->options;
	int			on = 1;

	if (!AcquireExternalFD())
	{
		set_error(conn, ERRCODE_INSUFFICIENT_RESOURCES,
				  "could not connect to Redis at %s: too many open files",
				  conn->where);
		return false;
	}
	if (options->path != NULL)
		conn->redis = redisConnectUnixNonBlock(options->path);
	else
		conn->redis = redisConnectNonBlock(options->host, options->port);
	if (conn->redis == NULL)
	{
		ReleaseExternalFD();
		set_error(conn, ERRCODE_OUT_OF_MEMORY,
				  "could not connect to Redis at %s: out of memory",
				  conn->where);
		return false;
	}
	if (conn->redis->err != 0)
	{
		set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
				  "could not connect to Redis at %s: %s",
				  conn->where, conn->redis->errstr);
		return false;
	}
	mlc_reply_install(conn->redis->reader);
	(void) fcntl(conn->redis->fd, F_SETFD, FD_CLOEXEC);
	if (options->path == NULL)
		(void) setsockopt(conn->redis->fd, SOL_SOCKET, SO_KEEPALIVE, &on,
						  sizeof(on));
	return true;
}

static bool
begin_phase(MlcConn *conn, Phase phase, uint32 awaits)
{
	/* connecting and the TLS handshake share a timeout */
	if (phase != PHASE_TLS)
		INSTR_TIME_SET_CURRENT(conn->since);
	conn->phase = phase;
	conn->awaits = awaits;
	return true;
}

static int
phase_timeout(MlcConn *conn)
{
	return conn->phase == PHASE_LOGIN ? conn->options.timeout :
		conn->options.connect_timeout;
}

/*
 * AUTH, SELECT and PING in one round trip.  PING tells a server that wants a
 * password from us, is loading, or has no room, before anybody counts on it.
 */
static bool
begin_login(MlcConn *conn)
{
	const MlcRedisOptions *options = &conn->options;
	const char *argv[3];
	int			argc = 0;

	if (options->password != NULL)
	{
		argv[argc++] = "AUTH";
		if (options->username != NULL)
			argv[argc++] = options->username;
		argv[argc++] = options->password;
		mlc_conn_append(conn, argc, argv, NULL);
	}
	if (options->database != 0)
	{
		char		number[16];

		snprintf(number, sizeof(number), "%d", options->database);
		argv[0] = "SELECT";
		argv[1] = number;
		mlc_conn_append(conn, 2, argv, NULL);
	}
	argv[0] = "PING";
	mlc_conn_append(conn, 1, argv, NULL);
	if (options->sentinel != NULL)
	{
		argv[0] = "ROLE";
		mlc_conn_append(conn, 1, argv, NULL);
	}

	conn->login = options->password != NULL ? LOGIN_AUTH :
		options->database != 0 ? LOGIN_SELECT : LOGIN_PING;
	return begin_phase(conn, PHASE_LOGIN, WL_SOCKET_READABLE);
}

/* Sentinel may be behind: the server itself must say that it is a master. */
static bool
accept_role(MlcConn *conn, const MlcReply *reply)
{
	if (reply->type == MLC_REPLY_ARRAY && reply->nelements > 0 &&
		reply->elements[0]->str &&
		strcmp(reply->elements[0]->str, "master") == 0)
		return true;
	if (MLC_FAULT_SKIP("conn-role"))
		return true;
	if (reply->type == MLC_REPLY_ERROR)
		set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
				  "Redis at %s does not say whether it is the master: %s",
				  conn->where, reply->str);
	else
		set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
				  "Redis at %s is not the master", conn->where);
	return false;
}

/* Is the answer to a part of the login good? */
static bool
accept_login(MlcConn *conn, const MlcReply *reply)
{
	const int	refused = ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION;
	char		code[32];

	switch (conn->login)
	{
		case LOGIN_AUTH:
			if (reply->type != MLC_REPLY_STATUS)
			{
				set_error(conn, refused, "Redis at %s refused to log in: %s",
						  conn->where, auth_error(reply, code, sizeof(code)));
				return false;
			}
			conn->login = conn->options.database != 0 ? LOGIN_SELECT : LOGIN_PING;
			return true;

		case LOGIN_SELECT:
			if (reply->type == MLC_REPLY_ERROR &&
				strcmp(error_code(reply, code, sizeof(code)), "NOAUTH") != 0)
			{
				set_error(conn, refused, "Redis at %s refused database %d: %s",
						  conn->where, conn->options.database, reply->str);
				return false;
			}
			conn->login = LOGIN_PING;
			return true;

		case LOGIN_ROLE:
			conn->login = LOGIN_DONE;
			return accept_role(conn, reply);

		case LOGIN_PING:
		case LOGIN_DONE:
			break;
	}
	conn->login = conn->options.sentinel != NULL ? LOGIN_ROLE : LOGIN_DONE;
	if (reply->type != MLC_REPLY_ERROR)
		return true;
	error_code(reply, code, sizeof(code));
	if (strcmp(code, "NOPERM") == 0)
		return true;
	if (strcmp(code, "NOAUTH") == 0)
		set_error(conn, refused, "Redis at %s asks for a password and none is given",
				  conn->where);
	else
		set_error(conn, refused, "Redis at %s does not serve: %s", conn->where,
				  reply->str);
	return false;
}

static bool
begin_tls(MlcConn *conn)
{
	char		error[256];

	conn->tls = mlc_tls_start(conn->redis, &conn->options, error, sizeof(error));
	if (conn->tls != NULL)
		return begin_phase(conn, PHASE_TLS, 0);
	set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
			  "could not connect to Redis at %s: %s", conn->where, error);
	return false;
}

static void
set_where(MlcConn *conn)
{
	const MlcRedisOptions *options = &conn->options;

	if (options->path != NULL)
		snprintf(conn->where, sizeof(conn->where), "%s", options->path);
	else
		snprintf(conn->where, sizeof(conn->where),
				 strchr(options->host, ':') ? "[%s]:%d" : "%s:%d",
				 options->host, options->port);
}

/*
 * The phases.  Each goes as far as it can without waiting, and begins the next
 * one when it is over.  False: failed.
 */
static bool
go_on_searching(MlcConn *conn)
{
	MlcMaster	master;

	switch (mlc_sentinel_go_on(conn->search, &master))
	{
		case MLC_CONN_OPENING:
			conn->awaits = mlc_sentinel_awaits(conn->search);
			return true;
		case MLC_CONN_FAILED:
			set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
					  "no sentinel tells where \"%s\" is: %s",
					  conn->options.sentinel, mlc_sentinel_error(conn->search));
			return false;
		case MLC_CONN_OPENED:
			break;
	}
	conn->epoch = master.epoch;
	conn->options.port = master.port;
	pfree(conn->options.host);
	conn->options.host = MemoryContextStrdup(conn->context, master.host);
	set_where(conn);
	mlc_sentinel_end(conn->search);
	conn->search = NULL;
	return start_connecting(conn) &&
		begin_phase(conn, PHASE_CONNECT, WL_SOCKET_WRITEABLE);
}

static bool
go_on_connecting(MlcConn *conn)
{
	struct pollfd poll_fd = {.fd = conn->redis->fd,.events = POLLOUT};
	int			err = 0;
	socklen_t	len = sizeof(err);

	if (poll(&poll_fd, 1, 0) <= 0)
		return true;
	if (getsockopt(conn->redis->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0)
		err = errno;
	if (err == 0)
		return conn->options.tls ? begin_tls(conn) : begin_login(conn);
	set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
			  "could not connect to Redis at %s: %s", conn->where,
			  strerror(err));
	return false;
}

static bool
go_on_shaking_hands(MlcConn *conn)
{
	char		error[256];
	int			events = mlc_tls_handshake(conn->tls, error, sizeof(error));

	if (events == 0)
		return begin_login(conn);
	conn->awaits = events;
	if (events > 0)
		return true;
	set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
			  "could not connect to Redis at %s: %s", conn->where, error);
	return false;
}

static bool
go_on_logging_in(MlcConn *conn)
{
	/* a server that hangs up may have said why */
	if (!conn->dead)
		(void) write_some(conn);
	if (!conn->dead)
		(void) read_some(conn);
	while (conn->login != LOGIN_DONE && reply_complete(conn))
	{
		MlcReply   *reply = take_reply(conn);

		if (reply == NULL || !accept_login(conn, reply))
			return false;
		INSTR_TIME_SET_CURRENT(conn->since);
	}
	if (conn->login == LOGIN_DONE)
		return begin_phase(conn, PHASE_OPEN, 0);
	conn->awaits = WL_SOCKET_READABLE |
		(mlc_conn_unsent(conn) > 0 ? WL_SOCKET_WRITEABLE : 0);
	return !conn->dead;
}

/* Never waits.  What it allocates is left in the current context. */
static bool
go_on_opening(MlcConn *conn)
{
	Phase		before;

	do
	{
		bool		good = true;

		before = conn->phase;
		if (before == PHASE_SEARCH)
			good = go_on_searching(conn);
		else if (before == PHASE_CONNECT)
			good = go_on_connecting(conn);
		else if (before == PHASE_TLS)
			good = go_on_shaking_hands(conn);
		else if (before == PHASE_LOGIN)
			good = go_on_logging_in(conn);
		if (!good)
			return false;
	} while (conn->phase != before);

	/* a search looks after its time itself */
	if (conn->phase == PHASE_OPEN || conn->phase == PHASE_SEARCH ||
		elapsed_ms(conn->since) < phase_timeout(conn))
		return true;
	if (conn->phase == PHASE_LOGIN)
		set_error(conn, ERRCODE_CONNECTION_FAILURE,
				  "Redis at %s did not answer within %d ms", conn->where,
				  conn->options.timeout);
	else
		set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
				  conn->phase == PHASE_TLS ?
				  "Redis at %s did not finish the TLS handshake within %d ms" :
				  "could not connect to Redis at %s within %d ms",
				  conn->where, conn->options.connect_timeout);
	return false;
}

static void
copy_sentinels(MlcConn *conn, const MlcRedisOptions *options)
{
	MlcRedisOptions *copy = &conn->options;
	MemoryContext old = MemoryContextSwitchTo(conn->context);

	copy->sentinel = pstrdup(options->sentinel);
	copy->sentinels = palloc(options->nsentinels * sizeof(MlcSeed));
	for (int i = 0; i < options->nsentinels; i++)
	{
		copy->sentinels[i].host = pstrdup(options->sentinels[i].host);
		copy->sentinels[i].port = options->sentinels[i].port;
	}
	if (options->sentinel_username)
		copy->sentinel_username = pstrdup(options->sentinel_username);
	if (options->sentinel_password)
		copy->sentinel_password = pstrdup(options->sentinel_password);
	MemoryContextSwitchTo(old);
	conn->epoch_now = mlc_sentinel_epoch(copy);
}

MlcConn *
mlc_conn_create(MemoryContext context, const MlcRedisOptions *options)
{
	MlcConn    *conn = MemoryContextAllocZero(context, sizeof(MlcConn));
	MlcRedisOptions *copy = &conn->options;

	Assert((options->host == NULL) != (options->path == NULL));
	conn->context = context;
	*copy = *options;
	copy->nseeds = 0;
	copy->seeds = NULL;
	if (options->sentinel != NULL)
		copy_sentinels(conn, options);
	if (options->host != NULL)
		copy->host = MemoryContextStrdup(context, options->host);
	if (options->path != NULL)
		copy->path = MemoryContextStrdup(context, options->path);
	if (options->username != NULL)
		copy->username = MemoryContextStrdup(context, options->username);
	if (options->password != NULL)
		copy->password = MemoryContextStrdup(context, options->password);
	if (options->ca_file != NULL)
		copy->ca_file = MemoryContextStrdup(context, options->ca_file);
	if (options->cert_file != NULL)
		copy->cert_file = MemoryContextStrdup(context, options->cert_file);
	if (options->key_file != NULL)
		copy->key_file = MemoryContextStrdup(context, options->key_file);
	if (options->server_name != NULL)
		copy->server_name = MemoryContextStrdup(context, options->server_name);
	set_where(conn);
	mlc_reply_scan_begin(&conn->scan);
	conn->on_reset.func = close_on_reset;
	conn->on_reset.arg = conn;
	MemoryContextRegisterResetCallback(context, &conn->on_reset);
	return conn;
}

/* Begins to open what is not being opened yet. */
static bool
begin_opening(MlcConn *conn)
{
	if (conn->phase != PHASE_CLOSED && !conn->dead)
		return true;
	mlc_conn_close(conn);
	conn->error[0] = '\0';
	conn->sqlstate = 0;
	if (conn->options.sentinel != NULL)
	{
		conn->search = mlc_sentinel_begin(&conn->options);
		return begin_phase(conn, PHASE_SEARCH, 0);
	}
	return start_connecting(conn) &&
		begin_phase(conn, PHASE_CONNECT, WL_SOCKET_WRITEABLE);
}

/* Waits for what it awaits; when the time is up, what goes on says so. */
static void
wait_opening(MlcConn *conn)
{
	MlcConn    *sentinel = conn->search ? mlc_sentinel_conn(conn->search) : NULL;

	if (sentinel)
	{
		instr_time	now;

		INSTR_TIME_SET_CURRENT(now);
		(void) wait_io(sentinel, conn->awaits, now, SEARCH_STEP);
	}
	else
		(void) wait_io(conn, conn->awaits, conn->since, phase_timeout(conn));
}

bool
mlc_conn_open(MlcConn *conn)
{
	MemoryContext scratch;
	MemoryContext old;
	volatile bool ok = false;

	if (mlc_conn_is_open(conn))
		return true;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "mlcache login",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		ok = begin_opening(conn) && go_on_opening(conn);
		while (ok && conn->phase != PHASE_OPEN)
		{
			wait_opening(conn);
			ok = go_on_opening(conn);
		}
	}
	PG_FINALLY();
	{
		/* half logged in is not open */
		if (!ok || conn->phase != PHASE_OPEN)
			mlc_conn_close(conn);
		MemoryContextSwitchTo(old);
		MemoryContextDelete(scratch);
	}
	PG_END_TRY();
	return ok;
}

MlcConnOpening
mlc_conn_open_nowait(MlcConn *conn)
{
	MemoryContext scratch;
	MemoryContext old;
	bool		ok;

	if (mlc_conn_is_open(conn))
		return MLC_CONN_OPENED;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "mlcache login",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(scratch);
	ok = begin_opening(conn) && go_on_opening(conn);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	if (!ok)
	{
		mlc_conn_close(conn);
		return MLC_CONN_FAILED;
	}
	return conn->phase == PHASE_OPEN ? MLC_CONN_OPENED : MLC_CONN_OPENING;
}

uint32
mlc_conn_awaits(MlcConn *conn)
{
	return conn->awaits;
}

bool
mlc_conn_is_open(MlcConn *conn)
{
	return conn->phase == PHASE_OPEN && !conn->dead;
}

bool
mlc_conn_is_current(MlcConn *conn)
{
	return conn->epoch_now == NULL ||
		pg_atomic_read_u64(conn->epoch_now) == conn->epoch ||
		MLC_FAULT_SKIP("conn-current");
}

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

const char *
mlc_conn_host(MlcConn *conn)
{
	return conn->options.host;
}

int
mlc_conn_port(MlcConn *conn)
{
	return conn->options.port;
}

pgsocket
mlc_conn_socket(MlcConn *conn)
{
	if (conn->search)
		return mlc_conn_socket(mlc_sentinel_conn(conn->search));
	return conn->redis != NULL ? conn->redis->fd : PGINVALID_SOCKET;
}

/* ---------- commands and replies ---------- */

bool
mlc_conn_check_closed(MlcConn *conn)
{
	char		byte;
	ssize_t		rc;

	if (conn->redis == NULL)
		return true;
	do
	{
		rc = recv(conn->redis->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	} while (rc < 0 && errno == EINTR);

	if (!mlc_conn_is_current(conn))
		set_error(conn, ERRCODE_CONNECTION_FAILURE,
				  "Redis at %s is not the master any more", conn->where);
	else if (rc == 0)
		set_error(conn, ERRCODE_CONNECTION_FAILURE,
				  "could not read from Redis at %s: server closed the connection",
				  conn->where);
	else if (rc < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
		set_error(conn, ERRCODE_CONNECTION_FAILURE,
				  "could not read from Redis at %s: %s", conn->where,
				  strerror(errno));
	else if (conn->tls && rc > 0 && !conn->dead && !read_some(conn))
		;						/* read_some() has said why */
	else if (conn->pending == 0 &&
			 ((rc > 0 && !conn->tls) || conn->redis->reader->len > conn->redis->reader->pos))
		set_error(conn, ERRCODE_PROTOCOL_VIOLATION,
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
		if (conn->out_size > MLC_CONN_KEEP_SIZE)
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
		set_error(conn, ERRCODE_OUT_OF_MEMORY,
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
	if (conn->dead || !write_some(conn) || !read_some(conn))
	{
		mlc_conn_close(conn);
		return false;
	}
	return true;
}

MlcReply *
mlc_conn_reply(MlcConn *conn)
{
	return wait_reply(conn, conn->options.timeout);
}

bool
mlc_conn_ready(MlcConn *conn)
{
	return conn->redis != NULL && conn->pending > 0 && reply_complete(conn);
}

bool
mlc_conn_wait(MlcConn *conn)
{
	uint32		events = WL_SOCKET_READABLE;

	if (!mlc_conn_is_open(conn))
		return false;
	if (mlc_conn_unsent(conn) > 0)
		events |= WL_SOCKET_WRITEABLE;
	if (wait_once(conn, events, conn->options.timeout) & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return true;
}
