/*-------------------------------------------------------------------------
 *
 * capture/marks.h
 *	  The commands of a strong commit: marks, and their end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_MARKS_H
#define MLC_CAPTURE_MARKS_H

#include "postgres.h"

#include "capture/strong.h"
#include "read/link.h"
#include "redis/command.h"

#define MLC_OWNER_LEN 40

/* One Redis that this commit concerns. */
typedef struct MlcStrongServer
{
	MlcLink    *link;
	bool		degrade;		/* all of its rules say so */
	bool		tell;			/* none of them does */
	bool		close;			/* a rule as a whole is concerned */
	bool		asked;			/* marks may stand there */
	bool		sent;			/* its answers are still to be taken */
	int			nkeys;
	int			size;
	MlcStrongKey *keys;			/* sorted, each once */
	uint32		payloads;		/* bytes of them */
	int			nredirected;	/* of a cluster: keys that are elsewhere */
	bool	   *redirected;
	int			ncalls;
	MlcCommand *quarantines;	/* the close comes last */
	int			nreleases;
	MlcCommand *releases;
} MlcStrongServer;

typedef struct MlcStrongCommit
{
	uint64		start;			/* of the quarantine */
	bool		writes_through; /* payloads go with the release */
	char		owner[MLC_OWNER_LEN];
	char		version[MLC_VERSION_LEN + 1];
	int			nservers;
	MlcStrongServer *servers;
	bool		closed_all;		/* L1 as a whole */
	int			nclosed;
	uint32	   *closed;			/* handles of keys closed in L1 */
} MlcStrongCommit;

/* "xid-nonce": whom a mark belongs to.  Assigns an xid. */
extern void mlc_marks_name_owner(char *owner);

/* A server of the commit, made where it was none yet; good until the next. */
extern MlcStrongServer *mlc_marks_server(MlcStrongCommit *commit,
										 MlcLink *link);

/* The same, but always a new one: what was sent to the old one has been sent. */
extern MlcStrongServer *mlc_marks_new_server(MlcStrongCommit *commit,
											 MlcLink *link);

/* What follows refers to key and rule; see mlc_strong_quarantine(). */
extern void mlc_marks_add_key(MlcStrongCommit *commit, MlcStrongServer *server,
							  const MlcStrongKey *key);
extern void mlc_marks_add_rule(MlcStrongCommit *commit, MlcLink *link,
							   MlcStrongRule *rule);

/* Makes all commands, in the order in which they go out. */
extern void mlc_marks_lay_out(MlcStrongCommit *commit, MlcStrongServer *server);

/*
 * Release i as it is to be sent, the version being known by now if it has
 * committed.  Allocates nothing.
 */
extern MlcCommand *mlc_marks_release(MlcStrongServer *server, int i,
									 bool committed);

#endif							/* MLC_CAPTURE_MARKS_H */
