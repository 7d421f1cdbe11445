/*-------------------------------------------------------------------------
 *
 * audit/remote.h
 *	  What a Redis has for the keys of a rule, read without leaving a trace:
 *	  no lease is taken, nothing is written.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_REMOTE_H
#define MLC_AUDIT_REMOTE_H

#include "postgres.h"

#include "audit/copy.h"
#include "model/rule.h"
#include "read/link.h"
#include "redis/conn.h"

#define MLC_REMOTE_PAGE 512		/* names a step of a scan looks at */

typedef struct MlcRemote
{
	MlcLink    *link;
	MlcConn    *conn;
	Oid			serverid;
	const char *server;			/* its name */
	int64		compared;		/* so far, for the error message */
} MlcRemote;

/* A step of a scan: names, and where to go on ("0": nowhere). */
typedef struct MlcRemotePage
{
	const char *cursor;
	size_t		n;
	MlcReply  **names;
} MlcRemotePage;

/*
 * Connects.  All of these raise the connection's own SQLSTATE (class 08) when
 * Redis cannot be reached, is lost, or answers what it should not; everything
 * is allocated in the current context.
 */
extern void mlc_remote_open(MlcRemote *remote, MlcLink *link);

/*
 * A server itself, or the masters of a cluster.  ERROR 08001 where no node
 * tells.
 */
extern List *mlc_remote_nodes(MlcLink *server);

/* The number of keys in its database. */
extern int64 mlc_remote_size(MlcRemote *remote);

/*
 * Asks; the answers are read in the order of the questions.  What is appended
 * is on its way after mlc_remote_flush().
 */
extern void mlc_remote_ask_page(MlcRemote *remote, const char *cursor,
								const char *pattern, int count);
extern void mlc_remote_page(MlcRemote *remote, MlcRemotePage *page);
extern void mlc_remote_ask_copies(MlcRemote *remote, MlcCopy *copies, int n);
extern void mlc_remote_copies(MlcRemote *remote, MlcCopy *copies, int n);
extern void mlc_remote_ask_guards(MlcRemote *remote, MlcCopy *copies, int n);
extern int64 mlc_remote_guards(MlcRemote *remote, int n);	/* that exist */
extern void mlc_remote_flush(MlcRemote *remote);

/* The types of keys, "none" for what is not there. */
extern void mlc_remote_types(MlcRemote *remote, MlcCopy **copies, int n,
							 const char **types);

#endif							/* MLC_AUDIT_REMOTE_H */
