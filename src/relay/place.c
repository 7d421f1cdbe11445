/*-------------------------------------------------------------------------
 *
 * relay/place.c
 *	  Where the state of a master of a Redis Cluster lies.
 *
 * The state key has a hash tag, a number, that puts it into one of the slots
 * that the master has; so it goes to the replica with everything else.  The
 * node's function library is told the tag and forgets it when the process
 * ends, as it forgets the arming.  When the slot leaves, the state begins anew
 * in another one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "redis/command.h"
#include "relay/group.h"
#include "relay/relay.h"

static void
set_tag(MlcTarget *target, int slot)
{
	snprintf(target->tag, sizeof(target->tag), "%u", mlc_cluster_tag(slot));
}

/* A slot of this node: the last one, and others where that did not do. */
static int
pick_slot(MlcTarget *target)
{
	MlcClusterMap *map = target->group->map;
	int			skip = target->place_tries % map->nodes[target->node].nslots;

	for (int slot = MLC_SLOTS - 1; slot >= 0; slot--)
		if (map->owner[slot] == target->node && skip-- == 0)
			return slot;
	return 0;
}

static char *
state_key(MlcTarget *target)
{
	return psprintf("mlc:state:{%s}%s", target->tag, target->ns);
}

typedef enum Whereabouts
{
	HERE, ELSEWHERE, UNKNOWN
} Whereabouts;

/* Is the state still where we, or the node itself, remember it?  False: down. */
static bool
look_for_state(MlcTarget *target, Whereabouts *result)
{
	MlcReply   *reply;

	*result = UNKNOWN;
	if (target->tag[0] == '\0')
	{
		reply = mlc_command_simple(target->conn, "FCALL", "mlc_placed", "0",
								   target->ns, NULL);
		if (!mlc_target_good(target, reply, "mlc_placed"))
			return false;
		if (reply->type == MLC_REPLY_STRING && reply->len > 0)
			strlcpy(target->tag, reply->str, sizeof(target->tag));
	}
	if (target->tag[0] == '\0')
		return true;
	reply = mlc_command_simple(target->conn, "EXISTS", state_key(target), NULL);
	if (reply && mlc_cluster_is_redirect(reply))
	{
		*result = ELSEWHERE;
		return true;
	}
	if (!mlc_target_good(target, reply, "EXISTS"))
		return false;
	if (reply->type == MLC_REPLY_INTEGER && reply->integer == 1)
		*result = HERE;
	return true;
}

/*
 * The node has forgotten where its state is (a promoted replica has): looks
 * into all of its slots.  Of several the oldest counts, since a state that
 * came with a slot from another master is no newer than what came with it.
 */
static bool
find_state(MlcTarget *target)
{
	MlcClusterMap *map = target->group->map;
	MlcCommand	cmd;
	char		best[MLC_VERSION_LEN + 1] = "";
	int			found = -1;

	mlc_command_init(&cmd);
	for (int slot = 0; slot < MLC_SLOTS; slot++)
	{
		if (map->owner[slot] != target->node)
			continue;
		set_tag(target, slot);
		mlc_command_reset(&cmd);
		mlc_command_add_cstr(&cmd, "HGET");
		mlc_command_add_cstr(&cmd, state_key(target));
		mlc_command_add_cstr(&cmd, "applied");
		mlc_command_append(&cmd, target->conn);
	}
	for (int slot = 0; slot < MLC_SLOTS; slot++)
	{
		MlcReply   *reply;

		if (map->owner[slot] != target->node)
			continue;
		reply = mlc_conn_reply(target->conn);
		if (reply && mlc_cluster_is_redirect(reply))
			continue;
		if (!mlc_target_good(target, reply, "HGET"))
			return false;
		if (reply->type != MLC_REPLY_STRING || reply->len != MLC_VERSION_LEN)
			continue;
		if (best[0] == '\0' || strcmp(reply->str, best) < 0)
		{
			strlcpy(best, reply->str, sizeof(best));
			found = slot;
		}
	}
	target->tag[0] = '\0';
	if (found >= 0)
		set_tag(target, found);
	return true;
}

/* A state that went with its slot means nothing there; if it stays, no harm. */
static void
remove_state(MlcGroup *group, const char *key)
{
	for (int i = 0; i < mlc_relay->ntargets; i++)
	{
		MlcTarget  *target = mlc_relay->targets[i];

		if (target->group == group && mlc_target_is_idle(target) &&
			mlc_group_owns(target, key, strlen(key)))
			(void) mlc_command_simple(target->conn, "UNLINK", key, NULL);
	}
}

/* Goes on in another slot, if this very process still serves for us. */
static bool
replace_state(MlcTarget *target, bool *replaced)
{
	char		nonce[MLC_NONCE_LEN + 1];
	char		applied[MLC_VERSION_LEN + 1];
	char	   *old = state_key(target);
	MlcReply   *reply;

	set_tag(target, pick_slot(target));
	mlc_target_new_nonce(nonce);
	mlc_version_print(target->applied, applied);
	reply = mlc_command_simple(target->conn, "FCALL", "mlc_replace", "0",
							   target->ns, target->nonce, nonce, target->tag,
							   psprintf(UINT64_FORMAT, GetSystemIdentifier()),
							   applied, NULL);
	if (!mlc_target_good(target, reply, "mlc_replace"))
		return false;
	*replaced = reply->type == MLC_REPLY_INTEGER && reply->integer == 1;
	if (*replaced)
	{
		strlcpy(target->nonce, nonce, sizeof(target->nonce));
		target->published = target->applying = target->applied;
		remove_state(target->group, old);
	}
	return true;
}

static bool
place(MlcTarget *target, bool *replaced)
{
	Whereabouts state;

	if (!look_for_state(target, &state))
		return false;
	if (state == ELSEWHERE && target->nonce[0] != '\0' &&
		!replace_state(target, replaced))
		return false;
	if (*replaced)
		return true;
	if (state != HERE && !find_state(target))
		return false;
	if (target->tag[0] == '\0')
		set_tag(target, pick_slot(target));
	return mlc_target_good(target,
						   mlc_command_simple(target->conn, "FCALL", "mlc_place",
											  "0", target->ns, target->tag, NULL),
						   "mlc_place");
}

bool
mlc_group_place(MlcTarget *target, bool *replaced)
{
	*replaced = false;
	if (target->node < 0)
	{
		mlc_target_fail(target, "It is no master.");
		return false;
	}
	if (place(target, replaced))
		return true;
	target->tag[0] = '\0';
	target->place_tries++;
	return false;
}
