/*-------------------------------------------------------------------------
 *
 * relay/group.h
 *	  A Redis Cluster as the relay sees it: a target for each master, the map
 *	  of slots, and what the masters owe each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_GROUP_H
#define MLC_RELAY_GROUP_H

#include "postgres.h"

#include "redis/cluster.h"
#include "redis/server.h"
#include "relay/target.h"

#define MLC_ROUNDS 2			/* after which no key has been passed by,
								 * unless its slot went on meanwhile */

struct MlcGroup
{
	MemoryContext context;
	MlcServer  *server;
	MemoryContext map_context;	/* of map; NULL: nobody has told us yet */
	MlcClusterMap *map;
	MemoryContext news_context; /* of news */
	MlcClusterMap *news;		/* a map that nobody has looked at; NULL: none */
	bool		news_due;		/* it is to be asked for */
	bool		stale;			/* the map is to be asked for, members may
								 * have changed */
	bool		failed;			/* of the batch in flight, a key could not be
								 * delivered: all of it again */
	bool		moved;			/* slots may have gone from one member to
								 * another while some were away */
	bool		announced;		/* every master knows what the batch at hand
								 * applies: commands may go out */
	int			rounds;			/* of scans for the batch in flight */
	int			ndetours;		/* keys that were not where the map says */
	int			detours_size;
	MlcBatchEvent **detours;
	List	   *touches;		/* of MlcBatchEvent: the same, not to be
								 * removed */
	List	   *lost;			/* of MlcLost: indexes that were not there */
};

/* Indexes of a tag in a slot that is not where the map says, or on its way. */
typedef struct MlcLost
{
	char	   *name;			/* as in MlcSweep */
	char		version[MLC_VERSION_LEN + 1];
	char	   *number;			/* in the index's name */
	int			slot;
} MlcLost;

/* In a transaction; with one target, whose node is not known yet. */
extern MlcGroup *mlc_group_create(Oid serverid);
extern void mlc_group_destroy(MlcGroup *group);

/*
 * Asks for the map where one is needed, and makes the targets what it says.
 * With nothing in flight.
 */
extern void mlc_group_look(void);

/*
 * Once a second a member is asked for the map, as soon as one is idle and
 * without waiting; the answer is looked at when nothing is in flight.
 */
extern void mlc_group_want_news(void);
extern void mlc_group_look_for_news(void);
extern void mlc_group_take_news(MlcTarget *target, MlcReply *reply);

/* A new map in a context of its own; NULL with *error. */
extern MlcClusterMap *mlc_group_ask_for_map(MlcGroup *group,
											MemoryContext *context, char **error);

/* Takes the map; members keep their places in it. */
extern void mlc_group_take_map(MlcGroup *group, MlcClusterMap *map,
							   MemoryContext context);

/* Are the masters the same, whatever their slots? */
extern bool mlc_group_same_nodes(MlcGroup *group, MlcClusterMap *map);

/* Is the key in a slot of this target?  True for what is no cluster. */
extern bool mlc_group_owns(MlcTarget *target, const char *key, uint32 keylen);
extern bool mlc_group_owns_event(MlcTarget *target, MlcBatchEvent *event);

/* The slot of an event's key, be it one of the batch's sweeps. */
extern int	mlc_group_slot(MlcBatchEvent *event);

/*
 * May what was delivered be called applied?  Not while a master is away or set
 * aside: keys may come from there with their slot, and must be no older than
 * that.
 */
extern bool mlc_group_may_advance(MlcTarget *target);

/* ---- place.c ---- */

/*
 * After mlc_script_ensure(): finds the slot that the state of this node is in,
 * or is to be in.  *replaced: it began in another slot, where the target knows
 * it to stand.  False: the target is down.
 */
extern bool mlc_group_place(MlcTarget *target, bool *replaced);

/* ---- group.c ---- */

/* After a target was connected: what follows for the other members. */
extern void mlc_group_joined(MlcTarget *target, bool purged);

/*
 * The next command to a master of a cluster is also about keys that it is just
 * receiving.  False: the target is down.  Nothing for what is no cluster.
 */
extern bool mlc_group_ask_anyway(MlcTarget *target);

/*
 * Tells all masters what is about to be applied, and carries out the purges of
 * the batch.  With nothing in flight before.
 */
extern void mlc_group_announce(MlcGroup *group, MlcBatch *batch);

/*
 * Waits until all of them know, but for those that say nothing and are set
 * aside.  That must be before the first command to any, since a key may go from
 * one to another in between; commands are laid out meanwhile, and held.
 */
extern void mlc_group_wait_announced(MlcTarget *target);

/*
 * All replies to the batch are in.  True: its patterns are on their way once
 * more, for keys that went from one master to another past the scans of both.
 */
extern bool mlc_group_sweep_again(MlcBatch *batch);

/* Everything is about to be decoded again.  With nothing in flight. */
extern void mlc_group_begin_again(void);

/* ---- detour.c ---- */

/* This event of the batch in flight found no key at its node. */
extern void mlc_group_add_detour(MlcGroup *group, MlcBatchEvent *event);

/* The same for a key of which there is no event: it is removed. */
extern void mlc_group_add_detour_key(MlcGroup *group, const char *key, size_t len);

/* The same for all that a tag's index in a slot leads to. */
extern void mlc_group_add_lost(MlcGroup *group, MlcSweep *sweep,
							   const char *number);

/*
 * Has the masters that are idle remove the keys that were added, and forgets
 * these.  For a purge, with nothing in flight.
 */
extern void mlc_group_remove_detours(MlcGroup *group);

/* All replies to the batch are in: delivers what was not where it should be. */
extern void mlc_group_settle(void);


#endif							/* MLC_RELAY_GROUP_H */
