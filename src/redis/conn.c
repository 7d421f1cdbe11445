/*-------------------------------------------------------------------------
 *
 * redis/conn.c
 *	  One connection to one Redis server.
 *
 * hiredis formats commands, moves bytes and parses replies; its socket is
 * non-blocking and every wait is ours: on the process latch, the socket and
 * a timeout together.  Three habits make that safe:
 *
 * A reply is parsed only once all of its bytes have arrived (reply_complete
 * walks the headers without allocating), and then in one go, straight into
 * the caller's memory context.  So an interrupt that is thrown out of a wait
 * leaves no half-built reply behind: the connection stays in step, with the
 * replies it still owes counted in "pending", and the caller may go on
 * writing (the release of an aborted transaction does).
 *
 * Reading goes with writing: a server that cannot get rid of its replies
 * stops reading commands, so whoever only writes a long pipeline waits for
 * ever.
 *
 * Nothing here throws for trouble with the network or with memory that
 * hiredis asks for: the first error is kept as text, the socket goes.  What
 * the server answers to AUTH is never quoted, since a server that does not
 * know the command quotes its arguments.
 *
 * Locks: none.  Must not: touch catalogs, need a transaction, or block
 * anywhere but in wait_io() -- with one exception, getaddrinfo() inside
 * hiredis, which a host name (not an address) brings upon itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <hiredis/hiredis.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "redis/conn.h"

#define MLC_CONN_DEFAULT_PORT 6379
#define MLC_CONN_DEFAULT_CONNECT_TIMEOUT 1000	/* ms */
#define MLC_CONN_DEFAULT_TIMEOUT 1000	/* ms */

/* One push() takes at most so many reads (of 16 kB each) before it returns. */
#define MLC_CONN_MAX_READS 64

/* A header line ("$123\r\n") is short; an error or a status is not endless. */
#define MLC_CONN_MAX_LINE 65536

struct MlcConn
{
	MlcRedisOptions options;
	redisContext *redis;		/* NULL when closed */
	bool		dead;			/* I/O failed: only replies read are left */
	int			pending;		/* replies owed */
	size_t		scan_pos;		/* bytes of the next reply known complete ... */
	int64		scan_left;		/* ... and how many values it still lacks */
	int			sqlstate;		/* of error */
	char		error[256];
	char		where[128];		/* for messages: host:port or path */
	MemoryContextCallback on_reset;
};

/* ---------- replies, built by hiredis in our memory ---------- */

/*
 * All of these run inside redisReaderGetReply(): no throwing across hiredis'
 * frames, so an allocation that fails gives NULL, which hiredis reports.
 */
static MlcReply *
make_reply(const redisReadTask *task, MlcReplyType type, size_t extra)
{
	MlcReply   *reply;

	reply = MemoryContextAllocExtended(CurrentMemoryContext,
									   sizeof(MlcReply) + extra,
									   MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (reply == NULL)
		return NULL;
	reply->type = type;
	reply->integer = 0;
	reply->str = NULL;
	reply->len = 0;
	reply->nelements = 0;
	reply->elements = NULL;
	if (task->parent != NULL)
	{
		MlcReply   *parent = task->parent->obj;

		parent->elements[task->idx] = reply;
	}
	return reply;
}

static void *
make_string(const redisReadTask *task, char *str, size_t len)
{
	MlcReplyType type = MLC_REPLY_STRING;
	MlcReply   *reply;

	if (task->type == REDIS_REPLY_ERROR)
		type = MLC_REPLY_ERROR;
	else if (task->type == REDIS_REPLY_STATUS)
		type = MLC_REPLY_STATUS;
	reply = make_reply(task, type, len + 1);
	if (reply == NULL)
		return NULL;
	reply->str = (char *) (reply + 1);
	reply->len = len;
	memcpy(reply->str, str, len);
	reply->str[len] = '\0';
	return reply;
}

/* The count is an int in hiredis 0.x, a size_t from 1.0 on. */
#if HIREDIS_MAJOR >= 1
static void *
make_array(const redisReadTask *task, size_t nelements)
#else
static void *
make_array(const redisReadTask *task, int nelements)
#endif
{
	size_t		size = nelements * sizeof(MlcReply *);
	MlcReply   *reply = make_reply(task, MLC_REPLY_ARRAY, size);

	if (reply == NULL)
		return NULL;
	reply->nelements = nelements;
	reply->elements = (MlcReply **) (reply + 1);
	memset(reply->elements, 0, size);
	return reply;
}

static void *
make_integer(const redisReadTask *task, long long value)
{
	MlcReply   *reply = make_reply(task, MLC_REPLY_INTEGER, 0);

	if (reply != NULL)
		reply->integer = value;
	return reply;
}

static void *
make_nil(const redisReadTask *task)
{
	return make_reply(task, MLC_REPLY_NIL, 0);
}

/* Only after an error; what was built goes with its memory context. */
static void
drop_reply(void *reply)
{
}

static redisReplyObjectFunctions reply_functions = {
	.createString = make_string,
	.createArray = make_array,
	.createInteger = make_integer,
	.createNil = make_nil,
	.freeObject = drop_reply
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
	set_error(conn,
			  conn->redis->err == REDIS_ERR_PROTOCOL ?
			  ERRCODE_PROTOCOL_VIOLATION : ERRCODE_CONNECTION_FAILURE,
			  "%s Redis at %s: %s", what, conn->where,
			  conn->redis->errstr[0] != '\0' ?
			  conn->redis->errstr : "unknown error");
	conn->redis->err = 0;
	conn->dead = true;
}

void
mlc_conn_close(MlcConn *conn)
{
	if (conn->redis != NULL)
	{
		redisFree(conn->redis);
		ReleaseExternalFD();
	}
	conn->redis = NULL;
	conn->dead = false;
	conn->pending = 0;
	conn->scan_pos = 0;
	conn->scan_left = 1;
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

/*
 * Waits until the socket is ready for one of events, or timeout ms have
 * passed since start: false.  May throw on an interrupt.  A latch that was
 * set for somebody else is set again, so that no wakeup is swallowed.
 */
static bool
wait_io(MlcConn *conn, int events, instr_time start, int timeout)
{
	bool		woken = false;
	bool		ready = false;

	for (;;)
	{
		int			left = timeout - elapsed_ms(start);
		int			rc;

		CHECK_FOR_INTERRUPTS();
		rc = WaitLatchOrSocket(MyLatch,
							   events | WL_LATCH_SET | WL_TIMEOUT |
							   WL_EXIT_ON_PM_DEATH,
							   conn->redis->fd, Max(left, 0),
							   PG_WAIT_EXTENSION);
		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			woken = true;
			CHECK_FOR_INTERRUPTS();
		}
		if (rc & events)
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
	int			done;

	if (mlc_conn_unsent(conn) > 0 &&
		redisBufferWrite(conn->redis, &done) != REDIS_OK)
	{
		set_dead(conn, "could not send to");
		return false;
	}
	return true;
}

/* Reads what has arrived, at most max_reads times.  False: dead. */
static bool
read_some(MlcConn *conn, int max_reads)
{
	redisReader *reader = conn->redis->reader;

	while (max_reads-- > 0)
	{
		size_t		before = reader->len;

		if (redisBufferRead(conn->redis) != REDIS_OK)
		{
			set_dead(conn, "could not read from");
			return false;
		}
		if (reader->len == before)
			break;
	}
	return true;
}

/*
 * Is the next reply in the input buffer from its first to its last byte?  A
 * reply is a tree of values, each with a header line that says how many bytes
 * or values follow; counting the values that are missing is all it takes, and
 * where the count stood is kept, so that a long reply is walked once.
 * Malformed input: dead.
 */
static bool
reply_complete(MlcConn *conn)
{
	redisReader *reader = conn->redis->reader;
	const char *buf = reader->buf + reader->pos;
	size_t		len = reader->len - reader->pos;

	while (conn->scan_left > 0)
	{
		const char *line = buf + conn->scan_pos;
		size_t		avail = len - conn->scan_pos;
		const char *lf;
		int64		number = 0;

		if (avail == 0)
			return false;
		lf = memchr(line, '\n', Min(avail, MLC_CONN_MAX_LINE));
		if (lf == NULL)
		{
			if (avail < MLC_CONN_MAX_LINE)
				return false;
			goto malformed;
		}
		if (lf - line < 2 || lf[-1] != '\r')
			goto malformed;
		if (*line == '$' || *line == '*')
		{
			const char *digit = line + 1;
			bool		negative = (*digit == '-');

			if (negative)
				digit++;
			if (lf - 1 - digit < 1 || lf - 1 - digit > 10)
				goto malformed;
			for (; digit < lf - 1; digit++)
			{
				if (*digit < '0' || *digit > '9')
					goto malformed;
				number = number * 10 + (*digit - '0');
			}
			if (negative)
			{
				if (number != 1)
					goto malformed;
				number = -1;
			}
		}
		if (*line == '$' && number >= 0)
		{
			size_t		size = lf + 1 - line + number + 2;

			if (avail < size)
				return false;
			conn->scan_pos += size;
		}
		else if (*line == '$' || *line == '*' || *line == '+' ||
				 *line == '-' || *line == ':')
		{
			conn->scan_pos += lf + 1 - line;
			if (*line == '*' && number > 0)
				conn->scan_left += number;
		}
		else
			goto malformed;
		conn->scan_left--;
	}
	return true;

malformed:
	set_error(conn, ERRCODE_PROTOCOL_VIOLATION,
			  "what is at %s does not speak the Redis protocol", conn->where);
	conn->dead = true;
	return false;
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
	conn->scan_pos = 0;
	conn->scan_left = 1;
	conn->pending--;
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

	if (!reply_complete(conn) && !conn->dead)
	{
		if (!write_some(conn))
			(void) read_some(conn, MLC_CONN_MAX_READS);
		INSTR_TIME_SET_CURRENT(start);
		while (!reply_complete(conn) && !conn->dead)
		{
			int			events = WL_SOCKET_READABLE;
			size_t		unsent = mlc_conn_unsent(conn);
			size_t		received = conn->redis->reader->len;

			if (unsent > 0)
				events |= WL_SOCKET_WRITEABLE;
			if (!wait_io(conn, events, start, timeout))
			{
				set_error(conn, ERRCODE_CONNECTION_FAILURE,
						  "Redis at %s did not answer within %d ms",
						  conn->where, timeout);
				mlc_conn_close(conn);
				return NULL;
			}
			if (!write_some(conn))
				(void) read_some(conn, MLC_CONN_MAX_READS);
			else
				(void) read_some(conn, unsent > 0 ? MLC_CONN_MAX_READS : 1);
			if (mlc_conn_unsent(conn) < unsent ||
				conn->redis->reader->len != received)
				INSTR_TIME_SET_CURRENT(start);
		}
	}
	if (!reply_complete(conn))
	{
		mlc_conn_close(conn);
		return NULL;
	}
	return take_reply(conn);
}

/* ---------- opening ---------- */

/* The first word of an error reply ("WRONGPASS"): all that is safe to quote. */
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
	conn->redis->reader->fn = &reply_functions;
	(void) fcntl(conn->redis->fd, F_SETFD, FD_CLOEXEC);
	if (options->path == NULL)
		(void) setsockopt(conn->redis->fd, SOL_SOCKET, SO_KEEPALIVE, &on,
						  sizeof(on));
	return true;
}

static bool
finish_connecting(MlcConn *conn)
{
	instr_time	start;
	int			err = 0;
	socklen_t	len = sizeof(err);

	INSTR_TIME_SET_CURRENT(start);
	if (!wait_io(conn, WL_SOCKET_WRITEABLE, start,
				 conn->options.connect_timeout))
	{
		set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
				  "could not connect to Redis at %s within %d ms",
				  conn->where, conn->options.connect_timeout);
		return false;
	}
	if (getsockopt(conn->redis->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0)
		err = errno;
	if (err != 0)
	{
		set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
				  "could not connect to Redis at %s: %s", conn->where,
				  strerror(err));
		return false;
	}
	return true;
}

/*
 * AUTH, SELECT and PING in one round trip.  PING tells a server that wants a
 * password from us, is loading, or has no room, before anybody counts on it.
 */
static bool
log_in(MlcConn *conn)
{
	const MlcRedisOptions *options = &conn->options;
	MlcReply   *reply;
	char		code[32];

	if (options->password != NULL)
	{
		const char *argv[3];
		int			argc = 0;

		argv[argc++] = "AUTH";
		if (options->username != NULL)
			argv[argc++] = options->username;
		argv[argc++] = options->password;
		mlc_conn_append(conn, argc, argv, NULL);
	}
	if (options->database != 0)
	{
		const char *argv[2];
		char		number[16];

		snprintf(number, sizeof(number), "%d", options->database);
		argv[0] = "SELECT";
		argv[1] = number;
		mlc_conn_append(conn, 2, argv, NULL);
	}
	{
		const char *argv[1] = {"PING"};

		mlc_conn_append(conn, 1, argv, NULL);
	}

	if (options->password != NULL)
	{
		reply = wait_reply(conn, options->timeout);
		if (reply == NULL)
			return false;
		if (reply->type != MLC_REPLY_STATUS)
		{
			if (reply->type != MLC_REPLY_ERROR)
				code[0] = '\0';
			else
				error_code(reply, code, sizeof(code));
			set_error(conn,
					  ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION,
					  "Redis at %s refused the user name or password%s%s%s",
					  conn->where, code[0] ? " (" : "", code,
					  code[0] ? ")" : "");
			return false;
		}
	}
	if (options->database != 0)
	{
		reply = wait_reply(conn, options->timeout);
		if (reply == NULL)
			return false;
		if (reply->type == MLC_REPLY_ERROR &&
			strcmp(error_code(reply, code, sizeof(code)), "NOAUTH") != 0)
		{
			set_error(conn,
					  ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION,
					  "Redis at %s refused database %d: %s", conn->where,
					  options->database, reply->str);
			return false;
		}
	}
	reply = wait_reply(conn, options->timeout);
	if (reply == NULL)
		return false;
	if (reply->type != MLC_REPLY_ERROR)
		return true;
	error_code(reply, code, sizeof(code));
	if (strcmp(code, "NOPERM") == 0)
		return true;
	if (strcmp(code, "NOAUTH") == 0)
		set_error(conn,
				  ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION,
				  "Redis at %s asks for a password and none is given",
				  conn->where);
	else
		set_error(conn,
				  ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION,
				  "Redis at %s does not serve: %s", conn->where, reply->str);
	return false;
}

MlcConn *
mlc_conn_create(MemoryContext context, const MlcRedisOptions *options)
{
	MlcConn    *conn = MemoryContextAllocZero(context, sizeof(MlcConn));
	MlcRedisOptions *copy = &conn->options;

	*copy = *options;
	if (options->host != NULL)
		copy->host = MemoryContextStrdup(context, options->host);
	if (options->path != NULL)
		copy->path = MemoryContextStrdup(context, options->path);
	if (options->username != NULL)
		copy->username = MemoryContextStrdup(context, options->username);
	if (options->password != NULL)
		copy->password = MemoryContextStrdup(context, options->password);
	if (options->path != NULL)
		snprintf(conn->where, sizeof(conn->where), "%s", options->path);
	else if (strchr(options->host, ':') != NULL)
		snprintf(conn->where, sizeof(conn->where), "[%s]:%d", options->host,
				 options->port);
	else
		snprintf(conn->where, sizeof(conn->where), "%s:%d", options->host,
				 options->port);

	conn->scan_left = 1;
	conn->on_reset.func = close_on_reset;
	conn->on_reset.arg = conn;
	MemoryContextRegisterResetCallback(context, &conn->on_reset);
	return conn;
}

bool
mlc_conn_open(MlcConn *conn)
{
	MemoryContext scratch;
	MemoryContext old;
	volatile bool ok = false;

	if (mlc_conn_is_open(conn))
		return true;
	mlc_conn_close(conn);
	conn->error[0] = '\0';
	conn->sqlstate = 0;
	if (conn->options.tls)
	{
		set_error(conn, ERRCODE_FEATURE_NOT_SUPPORTED,
				  "could not connect to Redis at %s: mlcache was built without TLS support",
				  conn->where);
		return false;
	}

	scratch = AllocSetContextCreate(CurrentMemoryContext, "mlcache login",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		ok = start_connecting(conn) && finish_connecting(conn) &&
			log_in(conn);
	}
	PG_FINALLY();
	{
		/* half logged in is not open */
		if (!ok)
			mlc_conn_close(conn);
		MemoryContextSwitchTo(old);
		MemoryContextDelete(scratch);
	}
	PG_END_TRY();
	return ok;
}

bool
mlc_conn_is_open(MlcConn *conn)
{
	return conn->redis != NULL && !conn->dead;
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

pgsocket
mlc_conn_socket(MlcConn *conn)
{
	return conn->redis != NULL ? conn->redis->fd : PGINVALID_SOCKET;
}

/* ---------- commands and replies ---------- */

bool
mlc_conn_check_closed(MlcConn *conn)
{
	redisReader *reader;
	char		byte;
	ssize_t		rc;

	if (conn->redis == NULL)
		return true;
	reader = conn->redis->reader;
	do
	{
		rc = recv(conn->redis->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	} while (rc < 0 && errno == EINTR);

	if (rc < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		rc = 1;
	else if (rc < 0)
		set_error(conn, ERRCODE_CONNECTION_FAILURE,
				  "could not read from Redis at %s: %s", conn->where,
				  strerror(errno));
	else if (rc == 0)
		set_error(conn, ERRCODE_CONNECTION_FAILURE,
				  "could not read from Redis at %s: server closed the connection",
				  conn->where);
	else if (conn->pending == 0)
		rc = -1;

	if (conn->pending == 0 && rc > 0 && reader->len > reader->pos)
		rc = -1;
	if (rc > 0 && !conn->dead)
		return false;
	set_error(conn, ERRCODE_PROTOCOL_VIOLATION,
			  "Redis at %s sent what nobody asked for", conn->where);
	mlc_conn_close(conn);
	return true;
}

void
mlc_conn_append(MlcConn *conn, int argc, const char *const *argv,
				const size_t *argvlen)
{
	if (conn->redis == NULL || conn->dead)
		return;
	/* hiredis lacks the second const; it does not write */
	if (redisAppendCommandArgv(conn->redis, argc,
							   (const char **) argv,
							   argvlen) != REDIS_OK)
	{
		set_dead(conn, "could not build a command for");
		return;
	}
	conn->pending++;
}

size_t
mlc_conn_unsent(MlcConn *conn)
{
	if (conn->redis == NULL || conn->redis->obuf == NULL)
		return 0;
	return sdslen(conn->redis->obuf);
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
	if (conn->dead || !write_some(conn) ||
		!read_some(conn, MLC_CONN_MAX_READS))
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

/* ---------- addresses ---------- */

static bool
parse_number(const char *text, size_t len, long max, int *result)
{
	long		value = 0;

	if (len == 0 || len > 9)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			return false;
		value = value * 10 + (text[i] - '0');
	}
	if (value > max)
		return false;
	*result = (int) value;
	return true;
}

/* Undoes %XX in a path; NULL if malformed. */
static char *
percent_decode(const char *text, size_t len)
{
	char	   *result = palloc(len + 1);
	char	   *out = result;

	for (size_t i = 0; i < len; i++)
	{
		unsigned int byte;
		char		hex[3];

		if (text[i] != '%')
		{
			*out++ = text[i];
			continue;
		}
		if (i + 2 >= len)
			return NULL;
		hex[0] = text[i + 1];
		hex[1] = text[i + 2];
		hex[2] = '\0';
		if (strspn(hex, "0123456789abcdefABCDEF") != 2 ||
			sscanf(hex, "%2x", &byte) != 1 || byte == 0)
			return NULL;
		*out++ = (char) byte;
		i += 2;
	}
	*out = '\0';
	return result;
}

static const char *
parse_unix(const char *rest, MlcRedisOptions *options)
{
	struct sockaddr_un un;
	const char *query = strchr(rest, '?');
	size_t		len = query ? (size_t) (query - rest) : strlen(rest);

	if (rest[0] != '/')
		return "A unix URL has the form unix:///path/to/socket, without a host, user name or password.";
	if (query != NULL && (strncmp(query, "?db=", 4) != 0 ||
						  !parse_number(query + 4, strlen(query + 4), INT_MAX,
										&options->database)))
		return "The only parameter of a unix URL is ?db=, followed by the number of a database.";
	options->path = percent_decode(rest, len);
	if (options->path == NULL)
		return "A percent sign in the path must be followed by two hexadecimal digits, not 00.";
	if (strlen(options->path) >= sizeof(un.sun_path))
		return psprintf("The path of a unix socket can have at most %d bytes.",
						(int) sizeof(un.sun_path) - 1);
	return NULL;
}

static const char *
parse_tcp(const char *rest, MlcRedisOptions *options)
{
	const char *slash = strchr(rest, '/');
	const char *end = slash ? slash : rest + strlen(rest);
	const char *host = rest;
	const char *hostend;
	const char *port;

	if (memchr(rest, '@', end - rest) != NULL)
		return "A user name or password does not belong into the URL but into the options of the user mapping.";
	if (strpbrk(rest, "?#") != NULL)
		return "A URL of this kind takes no parameters.";
	if (*host == '[')
	{
		host++;
		hostend = memchr(host, ']', end - host);
		if (hostend == NULL)
			return "The bracket around an IPv6 address is not closed.";
		port = hostend + 1;
	}
	else
	{
		hostend = memchr(host, ':', end - host);
		if (hostend == NULL)
			hostend = end;
		port = hostend;
	}
	if (hostend == host)
		return "The URL names no host.";
	if (port < end)
	{
		if (*port != ':' ||
			!parse_number(port + 1, end - port - 1, 65535, &options->port) ||
			options->port == 0)
			return "After the host there is room for a colon and a port between 1 and 65535 (an IPv6 address goes into brackets).";
	}
	if (slash != NULL && slash[1] != '\0' &&
		!parse_number(slash + 1, strlen(slash + 1), INT_MAX,
					  &options->database))
		return "After the slash there is room for the number of a database only.";
	options->host = pnstrdup(host, hostend - host);
	return NULL;
}

const char *
mlc_conn_parse_url(const char *url, MlcRedisOptions *options)
{
	memset(options, 0, sizeof(*options));
	options->port = MLC_CONN_DEFAULT_PORT;
	options->connect_timeout = MLC_CONN_DEFAULT_CONNECT_TIMEOUT;
	options->timeout = MLC_CONN_DEFAULT_TIMEOUT;

	if (strncmp(url, "redis://", 8) == 0)
		return parse_tcp(url + 8, options);
	if (strncmp(url, "unix://", 7) == 0)
		return parse_unix(url + 7, options);
	if (strncmp(url, "rediss://", 9) == 0)
	{
		options->tls = true;
		return "mlcache was built without TLS support, so rediss:// cannot be used.";
	}
	return "The URL must begin with redis://, rediss:// or unix://.";
}
