/*-------------------------------------------------------------------------
 *
 * redis/open.c
 *	  Making a connection, opening it and closing it.
 *
 * Opening goes in phases: where the master is (Sentinel only), connect, TLS,
 * login.  Each goes as far as it can without waiting, so that the relay can
 * open many at once.
 *
 * What the server answers to AUTH is never quoted, since a server that does
 * not know the command quotes its arguments.
 *
 * Locks: none.  Must not: touch catalogs, need a transaction, or block but in
 * mlc_conn_open() -- with one exception, getaddrinfo() inside hiredis, which a
 * host name (not an address) brings upon itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/fault.h"
#include "redis/sentinel.h"
#include "redis/tls.h"
#include "redis/wire.h"
#include "storage/fd.h"
#include "utils/memutils.h"

/* How long to wait for a sentinel before its timeouts are looked at, in ms. */
#define SEARCH_STEP 50

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
	conn->phase = MLC_PHASE_CLOSED;
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
		mlc_wire_set_error(conn, ERRCODE_INSUFFICIENT_RESOURCES,
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
		mlc_wire_set_error(conn, ERRCODE_OUT_OF_MEMORY,
						   "could not connect to Redis at %s: out of memory",
						   conn->where);
		return false;
	}
	if (conn->redis->err != 0)
	{
		mlc_wire_set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
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
begin_phase(MlcConn *conn, MlcConnPhase phase, uint32 awaits)
{
	/* connecting and the TLS handshake share a timeout */
	if (phase != MLC_PHASE_TLS)
		INSTR_TIME_SET_CURRENT(conn->since);
	conn->phase = phase;
	conn->awaits = awaits;
	return true;
}

static int
phase_timeout(MlcConn *conn)
{
	return conn->phase == MLC_PHASE_LOGIN ? conn->options.timeout :
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

	conn->login = options->password != NULL ? MLC_LOGIN_AUTH :
		options->database != 0 ? MLC_LOGIN_SELECT : MLC_LOGIN_PING;
	return begin_phase(conn, MLC_PHASE_LOGIN, WL_SOCKET_READABLE);
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
		mlc_wire_set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
						   "Redis at %s does not say whether it is the master: %s",
						   conn->where, reply->str);
	else
		mlc_wire_set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
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
		case MLC_LOGIN_AUTH:
			if (reply->type != MLC_REPLY_STATUS)
			{
				mlc_wire_set_error(conn, refused, "Redis at %s refused to log in: %s",
								   conn->where, auth_error(reply, code, sizeof(code)));
				return false;
			}
			conn->login = conn->options.database != 0 ? MLC_LOGIN_SELECT : MLC_LOGIN_PING;
			return true;

		case MLC_LOGIN_SELECT:
			if (reply->type == MLC_REPLY_ERROR &&
				strcmp(error_code(reply, code, sizeof(code)), "NOAUTH") != 0)
			{
				mlc_wire_set_error(conn, refused, "Redis at %s refused database %d: %s",
								   conn->where, conn->options.database, reply->str);
				return false;
			}
			conn->login = MLC_LOGIN_PING;
			return true;

		case MLC_LOGIN_ROLE:
			conn->login = MLC_LOGIN_DONE;
			return accept_role(conn, reply);

		case MLC_LOGIN_PING:
		case MLC_LOGIN_DONE:
			break;
	}
	conn->login = conn->options.sentinel != NULL ? MLC_LOGIN_ROLE : MLC_LOGIN_DONE;
	if (reply->type != MLC_REPLY_ERROR)
		return true;
	error_code(reply, code, sizeof(code));
	if (strcmp(code, "NOPERM") == 0)
		return true;
	if (strcmp(code, "NOAUTH") == 0)
		mlc_wire_set_error(conn, refused, "Redis at %s asks for a password and none is given",
						   conn->where);
	else
		mlc_wire_set_error(conn, refused, "Redis at %s does not serve: %s", conn->where,
						   reply->str);
	return false;
}

static bool
begin_tls(MlcConn *conn)
{
	char		error[256];

	conn->tls = mlc_tls_start(conn->redis, &conn->options, error, sizeof(error));
	if (conn->tls != NULL)
		return begin_phase(conn, MLC_PHASE_TLS, 0);
	mlc_wire_set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
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
			mlc_wire_set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
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
		begin_phase(conn, MLC_PHASE_CONNECT, WL_SOCKET_WRITEABLE);
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
	mlc_wire_set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
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
	mlc_wire_set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
					   "could not connect to Redis at %s: %s", conn->where, error);
	return false;
}

static bool
go_on_logging_in(MlcConn *conn)
{
	/* a server that hangs up may have said why */
	if (!conn->dead)
		(void) mlc_wire_write(conn);
	if (!conn->dead)
		(void) mlc_wire_read(conn);
	while (conn->login != MLC_LOGIN_DONE && mlc_conn_ready(conn))
	{
		MlcReply   *reply = mlc_conn_reply(conn);

		if (reply == NULL || !accept_login(conn, reply))
			return false;
		INSTR_TIME_SET_CURRENT(conn->since);
	}
	if (conn->login == MLC_LOGIN_DONE)
		return begin_phase(conn, MLC_PHASE_OPEN, 0);
	conn->awaits = WL_SOCKET_READABLE |
		(mlc_conn_unsent(conn) > 0 ? WL_SOCKET_WRITEABLE : 0);
	return !conn->dead;
}

/* Never waits.  What it allocates is left in the current context. */
static bool
go_on_opening(MlcConn *conn)
{
	MlcConnPhase before;

	do
	{
		bool		good = true;

		before = conn->phase;
		if (before == MLC_PHASE_SEARCH)
			good = go_on_searching(conn);
		else if (before == MLC_PHASE_CONNECT)
			good = go_on_connecting(conn);
		else if (before == MLC_PHASE_TLS)
			good = go_on_shaking_hands(conn);
		else if (before == MLC_PHASE_LOGIN)
			good = go_on_logging_in(conn);
		if (!good)
			return false;
	} while (conn->phase != before);

	/* a search looks after its time itself */
	if (conn->phase == MLC_PHASE_OPEN || conn->phase == MLC_PHASE_SEARCH ||
		mlc_wire_elapsed_ms(conn->since) < phase_timeout(conn))
		return true;
	if (conn->phase == MLC_PHASE_LOGIN)
		mlc_wire_set_error(conn, ERRCODE_CONNECTION_FAILURE,
						   "Redis at %s did not answer within %d ms", conn->where,
						   conn->options.timeout);
	else
		mlc_wire_set_error(conn, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
						   conn->phase == MLC_PHASE_TLS ?
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
	if (conn->phase != MLC_PHASE_CLOSED && !conn->dead)
		return true;
	mlc_conn_close(conn);
	conn->error[0] = '\0';
	conn->sqlstate = 0;
	if (conn->options.sentinel != NULL)
	{
		conn->search = mlc_sentinel_begin(&conn->options);
		return begin_phase(conn, MLC_PHASE_SEARCH, 0);
	}
	return start_connecting(conn) &&
		begin_phase(conn, MLC_PHASE_CONNECT, WL_SOCKET_WRITEABLE);
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
		(void) mlc_wire_wait(sentinel, conn->awaits, now, SEARCH_STEP);
	}
	else
		(void) mlc_wire_wait(conn, conn->awaits, conn->since, phase_timeout(conn));
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
		while (ok && conn->phase != MLC_PHASE_OPEN)
		{
			wait_opening(conn);
			ok = go_on_opening(conn);
		}
	}
	PG_FINALLY();
	{
		/* half logged in is not open */
		if (!ok || conn->phase != MLC_PHASE_OPEN)
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
	return conn->phase == MLC_PHASE_OPEN ? MLC_CONN_OPENED : MLC_CONN_OPENING;
}

uint32
mlc_conn_awaits(MlcConn *conn)
{
	return conn->awaits;
}

bool
mlc_conn_is_open(MlcConn *conn)
{
	return conn->phase == MLC_PHASE_OPEN && !conn->dead;
}

bool
mlc_conn_is_current(MlcConn *conn)
{
	return conn->epoch_now == NULL ||
		pg_atomic_read_u64(conn->epoch_now) == conn->epoch ||
		MLC_FAULT_SKIP("conn-current");
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
