/*-------------------------------------------------------------------------
 *
 * redis/conn.h
 *	  One connection to one Redis server: connect, authenticate, pipeline,
 *	  read replies.  hiredis does the protocol; this room does the waiting.
 *
 * All waits go through the process latch (MyLatch): cancel and shutdown work
 * at any moment (CHECK_FOR_INTERRUPTS, which may throw).  Network trouble and
 * protocol trouble never throw: the functions return false or NULL, the
 * connection is closed, and mlc_conn_error() tells why, without a secret.
 * Usable from any process with a latch, in or outside a transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_REDIS_CONN_H
#define MLC_REDIS_CONN_H

#include "postgres.h"
#include "utils/timestamp.h"

/* A node by which a cluster can be found, or a sentinel. */
typedef struct MlcSeed
{
	char	   *host;
	int			port;
} MlcSeed;

typedef struct MlcRedisOptions
{
	char	   *host;			/* NULL when path is set */
	int			port;
	char	   *path;			/* unix socket, or NULL */
	int			database;		/* SELECTed when not 0 */
	char	   *username;		/* NULL: default user */
	char	   *password;		/* NULL: no AUTH */
	bool		tls;			/* rediss:// */
	char	   *ca_file;		/* whom we trust; NULL: the system's */
	char	   *cert_file;		/* who we are, or NULL */
	char	   *key_file;		/* of cert_file */
	char	   *server_name;	/* in the server's certificate; NULL: host */
	bool		no_verify;		/* encrypt only */
	int			connect_timeout;	/* ms */
	int			timeout;		/* ms, for one reply to arrive */
	int			nseeds;			/* of a Redis Cluster; 0: it is none */
	MlcSeed    *seeds;
	char	   *sentinel;		/* what Sentinel calls the master; NULL: none */
	int			nsentinels;		/* who knows where it is */
	MlcSeed    *sentinels;
	char	   *sentinel_username;	/* to log in there; NULL: default user */
	char	   *sentinel_password;	/* NULL: no AUTH */
} MlcRedisOptions;

typedef enum MlcReplyType
{
	MLC_REPLY_STRING,
	MLC_REPLY_STATUS,
	MLC_REPLY_ERROR,
	MLC_REPLY_INTEGER,
	MLC_REPLY_NIL,
	MLC_REPLY_ARRAY
} MlcReplyType;

typedef struct MlcReply
{
	MlcReplyType type;
	int64		integer;
	char	   *str;			/* string, status, error; NUL-terminated */
	size_t		len;
	size_t		nelements;
	struct MlcReply **elements;
} MlcReply;

/* A string as a text, in the reply's own memory: valid as long as that is. */
static inline text *
mlc_reply_text(const MlcReply *reply)
{
	return (text *) (reply->str - VARHDRSZ);
}

typedef struct MlcConn MlcConn;

/*
 * Parses redis://host[:port][/db], unix:///path/to/socket[?db=n] and
 * rediss://.  Fills options (strings in the current context) with defaults
 * for what the URL leaves out.  Returns NULL, or what is wrong as a sentence
 * for errdetail.  A user name or password in the URL is refused: they belong
 * into the user mapping.
 */
extern const char *mlc_conn_parse_url(const char *url, MlcRedisOptions *options);

/*
 * The same for a cluster: redis://host[:port][,host[:port]...]; fills seeds, and
 * host and port with the first of them.
 */
extern const char *mlc_conn_parse_seeds(const char *url, MlcRedisOptions *options);

/*
 * The same for Sentinel: redis://host[:port][,host[:port]...][/db], port 26379
 * by default; fills sentinels and database.
 */
extern const char *mlc_conn_parse_sentinels(const char *url,
											MlcRedisOptions *options);

/* Creates a closed connection; options are copied.  Freed with context. */
extern MlcConn *mlc_conn_create(MemoryContext context,
								const MlcRedisOptions *options);

/*
 * Connects, authenticates, selects.  False on failure.  Already open: true.
 * With Sentinel it asks first who is the master, and whether that one agrees.
 */
extern bool mlc_conn_open(MlcConn *conn);

/*
 * The same without waiting (but for the name of a host to be resolved): begins
 * to open, or goes on.  While it is OPENING call again when the socket has one
 * of the events that it awaits (WL_SOCKET_...), and once in a while, for the
 * timeouts.
 */
typedef enum MlcConnOpening
{
	MLC_CONN_FAILED,
	MLC_CONN_OPENING,
	MLC_CONN_OPENED
} MlcConnOpening;

extern MlcConnOpening mlc_conn_open_nowait(MlcConn *conn);
extern uint32 mlc_conn_awaits(MlcConn *conn);

extern void mlc_conn_close(MlcConn *conn);
extern bool mlc_conn_is_open(MlcConn *conn);

/* False: Sentinel has replaced the master that it is connected to. */
extern bool mlc_conn_is_current(MlcConn *conn);

/*
 * The last error, without secrets; "" if none.  It is the first one since the
 * connection was opened: the cause, not what followed from it.
 */
extern const char *mlc_conn_error(MlcConn *conn);

/*
 * Its errcode: 08001 not reachable, 08004 the server refused us (password,
 * database, loading, full), 08006 lost or silent, 08P01 not Redis' protocol.
 */
extern int	mlc_conn_sqlstate(MlcConn *conn);

/* The host it was made for, or Sentinel has named; NULL for a unix socket. */
extern const char *mlc_conn_host(MlcConn *conn);
extern int	mlc_conn_port(MlcConn *conn);

/* For WaitEventSet / WaitLatchOrSocket; PGINVALID_SOCKET when closed. */
extern pgsocket mlc_conn_socket(MlcConn *conn);

/*
 * The peer has closed, sent what nobody asked for, or been replaced?  Never waits; true
 * means the connection has been closed here, too.  For idle connections; replies
 * that are owed are read.
 */
extern bool mlc_conn_check_closed(MlcConn *conn);

/* Appends one command to the output buffer; nothing is sent yet. */
extern void mlc_conn_append(MlcConn *conn, int argc, const char *const *argv,
							const size_t *argvlen);

/* Bytes not yet written; replies not yet read. */
extern size_t mlc_conn_unsent(MlcConn *conn);
extern int	mlc_conn_pending(MlcConn *conn);

/*
 * Writes what the socket takes now, reads what has arrived (so that neither
 * side's buffers can wedge a long pipeline), never waits.  False on failure.
 */
extern bool mlc_conn_push(MlcConn *conn);

/*
 * The same for who will ask for the replies: reads only where not all could be
 * written.
 */
extern bool mlc_conn_send(MlcConn *conn);

/* Reads what has arrived, and writes nothing.  False on failure. */
extern bool mlc_conn_receive(MlcConn *conn);

/*
 * The next reply, allocated in the current context, waiting up to
 * options.timeout ms of silence.  NULL: failed, the connection is closed.
 * Sends what is unsent meanwhile.  An error reply (-ERR ...) is a reply.
 */
extern MlcReply *mlc_conn_reply(MlcConn *conn);

/* The same for one that is of no interest, whatever it says.  False: failed. */
extern bool mlc_conn_skip(MlcConn *conn);

/* Is the next reply complete in the input buffer (so _reply won't wait)? */
extern bool mlc_conn_ready(MlcConn *conn);

/*
 * Waits until the socket can be read (or written, when something is unsent),
 * the latch is set, or options.timeout has passed.  False when not open.
 */
extern bool mlc_conn_wait(MlcConn *conn);

/* The same, but for so many ms at most. */
extern bool mlc_conn_wait_for(MlcConn *conn, int timeout);

#endif							/* MLC_REDIS_CONN_H */
