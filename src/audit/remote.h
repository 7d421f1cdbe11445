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
#define MLC_REMOTE_ASKED 4		/* questions under way at most */

typedef enum MlcQuestionKind
{
	MLC_ASK_PAGE,
	MLC_ASK_COPIES,
	MLC_ASK_GUARDS
} MlcQuestionKind;

/* What has been asked; all of it is the caller's until it is answered. */
typedef struct MlcQuestion
{
	MlcQuestionKind kind;
	MlcCopy    *copies;
	int			n;				/* of copies, or names to look at */
	const char *cursor;			/* of a page */
	const char *pattern;
} MlcQuestion;

typedef struct MlcRemote
{
	MlcLink    *link;			/* NULL: L1, which is not asked here */
	Oid			serverid;
	const char *server;			/* its name */
	int64		compared;		/* so far, for the error message */

	/* where a server that is lost is waited for */
	int			patience;		/* ms; 0: it is not */
	char		nonce[64];		/* of the process that we read; "": no such */
	int			outages;		/* so far */
	int			restarts;		/* of those after which it was another process */
	bool		cursor_is_old;	/* of that; the scan is to begin again */
	int			nasked;
	MlcQuestion asked[MLC_REMOTE_ASKED];
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
 *
 * patience: for how many ms a server that is lost later on is waited for, each
 * time.  Once it serves again what was not answered is asked again, in the
 * order in which it was; a scan begins again where the process is another one.
 */
extern void mlc_remote_open(MlcRemote *remote, MlcLink *link, int patience);

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
