/*-------------------------------------------------------------------------
 *
 * redis/wire.h
 *	  The inside of a connection: shared by wire.c, open.c and conn.c only.
 *
 * wire.c waits and moves bytes; open.c makes connections, opens and closes
 * them; conn.c lays out commands and takes replies.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_REDIS_WIRE_H
#define MLC_REDIS_WIRE_H

#include "postgres.h"

#include "port/atomics.h"
#include "portability/instr_time.h"
#include "redis/conn.h"
#include "redis/reply.h"
#include "storage/latch.h"

/* How far opening has come. */
typedef enum MlcConnPhase
{
	MLC_PHASE_CLOSED,
	MLC_PHASE_SEARCH,			/* Sentinel is asked where the master is */
	MLC_PHASE_CONNECT,
	MLC_PHASE_TLS,
	MLC_PHASE_LOGIN,
	MLC_PHASE_OPEN
} MlcConnPhase;

/* What the replies to a login answer, in this order. */
typedef enum MlcConnLogin
{
	MLC_LOGIN_AUTH,
	MLC_LOGIN_SELECT,
	MLC_LOGIN_PING,
	MLC_LOGIN_ROLE,				/* with Sentinel only */
	MLC_LOGIN_DONE
} MlcConnLogin;

struct MlcConn
{
	MemoryContext context;
	MlcRedisOptions options;
	redisContext *redis;		/* NULL when closed */
	struct MlcTls *tls;			/* of redis; NULL: plain text */
	MlcConnPhase phase;
	instr_time	since;			/* opening: when this phase began, or a reply
								 * came */
	uint32		awaits;			/* opening: events on the socket */
	MlcConnLogin login;			/* the reply that comes next */
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
	int			trust;			/* that mlc_wire_look() pays; 0: it does not */
	unsigned int slept;			/* replies that it was not asked for since */
	struct MlcSearch *search;	/* for the master; NULL but in its phase */
	pg_atomic_uint64 *epoch_now;	/* Sentinel's, in shared memory; or NULL */
	uint64		epoch;			/* of the master that this one was made to */
	int			sqlstate;		/* of error */
	char		error[256];
	char		where[128];		/* for messages: host:port or path */
	MemoryContextCallback on_reset;
};

/* Keeps the first error of a connection; later ones follow from it. */
extern void mlc_wire_set_error(MlcConn *conn, int sqlstate, const char *fmt,...) pg_attribute_printf(3, 4);

/*
 * The socket is of no more use; what is for "could not send to", say.  Complete
 * replies may stand in the input buffer ("max number of clients reached" comes
 * with a hangup).
 */
extern void mlc_wire_set_dead(MlcConn *conn, const char *what);

extern int	mlc_wire_elapsed_ms(instr_time start);

/* Waits once, up to timeout ms: WL_LATCH_SET, socket events, or 0. */
extern uint32 mlc_wire_wait_once(MlcConn *conn, uint32 events, long timeout);

/*
 * Waits until the socket is ready for one of events, or timeout ms have
 * passed since start: false.  May throw on an interrupt.
 */
extern bool mlc_wire_wait(MlcConn *conn, uint32 events, instr_time start,
						  int timeout);

/* Writes what the socket takes.  False: dead. */
extern bool mlc_wire_write(MlcConn *conn);

/* Reads what has arrived, within reason.  False: dead. */
extern bool mlc_wire_read(MlcConn *conn);

/* Looks for input for as long as going to sleep and waking up would take. */
extern void mlc_wire_look(MlcConn *conn);

#endif							/* MLC_REDIS_WIRE_H */
