/*-------------------------------------------------------------------------
 *
 * relay/deliver.c
 *	  One Redis: send a batch as one pipeline, in the order that it must have.
 *
 * A batch goes out as one pipeline: first the publication of `applying` (a
 * compare-and-set that also carries the `applied` of the batch before), then
 * the commands.  `applied` moves here when every reply was good, and on the
 * server with the next publication, so that it never claims what an unread
 * error would deny.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "miscadmin.h"
#include "redis/command.h"
#include "relay/deliver.h"
#include "relay/free.h"
#include "relay/group.h"
#include "relay/purge.h"
#include "shm/stats.h"

static void
append_publish(MlcTarget *target, MlcVersion applying)
{
	char		before[MLC_VERSION_LEN + 1];
	char		applied[MLC_VERSION_LEN + 1];
	char		next[MLC_VERSION_LEN + 1];
	MlcCommand	cmd;

	if (mlc_version_compare(applying, target->applied) < 0)
		applying = target->applied;
	if (mlc_version_compare(applying, target->applying) < 0)
		applying = target->applying;
	mlc_version_print(target->applying, before);
	mlc_version_print(target->applied, applied);
	mlc_version_print(applying, next);

	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_publish");
	mlc_command_add_cstr(&cmd, "0");
	mlc_command_add_cstr(&cmd, target->ns);
	mlc_command_add_cstr(&cmd, target->nonce);
	mlc_command_add_cstr(&cmd, before);
	mlc_command_add_cstr(&cmd, applied);
	mlc_command_add_cstr(&cmd, next);
	mlc_command_append(&cmd, target->conn);
	mlc_target_expect(target, MLC_EXPECT_PUBLISH);

	target->applying = applying;
	target->published = target->applied;
	target->sent_at = GetCurrentTimestamp();
}

void
mlc_target_announce(MlcTarget *target, MlcVersion applying)
{
	/* the answer to a heartbeat may be on its way */
	if (target->expect_next == target->nexpect)
		mlc_answer_forget(target);
	append_publish(target, applying);
	target->told_at = target->nexpect;
	if (!mlc_conn_push(target->conn))
		mlc_target_fail(target, mlc_conn_error(target->conn));
}

void
mlc_target_ask_for_map(MlcTarget *target)
{
	MlcCommand	cmd;

	Assert(mlc_target_is_idle(target));
	mlc_answer_forget(target);
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "CLUSTER");
	mlc_command_add_cstr(&cmd, "SLOTS");
	mlc_command_append(&cmd, target->conn);
	mlc_target_expect(target, MLC_EXPECT_NEWS);
	target->sent_at = GetCurrentTimestamp();
	if (!mlc_conn_push(target->conn))
		mlc_target_fail(target, mlc_conn_error(target->conn));
}

bool
mlc_target_publish(MlcTarget *target)
{
	Assert(mlc_target_is_idle(target));
	mlc_answer_forget(target);
	append_publish(target, target->applied);
	if (mlc_conn_push(target->conn))
		return true;
	mlc_target_fail(target, mlc_conn_error(target->conn));
	return false;
}

bool
mlc_target_concerns(MlcTarget *target, MlcRelayRule *rule, MlcVersion version)
{
	return (rule->mask & (UINT64CONST(1) << target->number)) != 0 &&
		mlc_version_compare(version, target->applied) > 0;
}

/* Purges wait for their own replies, so applying is published first. */
static bool
send_purges(MlcTarget *target, MlcBatch *batch)
{
	ListCell   *lc;

	foreach(lc, batch->purges)
	{
		MlcBatchPurge *purge = lfirst(lc);

		if (!mlc_target_concerns(target, purge->rule, purge->version))
			continue;
		while (!mlc_target_poll(target))
		{
			if (!mlc_target_is_live(target))
				return false;
			(void) mlc_conn_wait(target->conn);
		}
		if (target->group == NULL && !mlc_purge_rule(target, purge->rule))
			return false;
		mlc_answer_forget(target);
		if (mlc_stream_has(target))
			mlc_stream_append(target, MLC_OP_TRUNCATE, purge->rule, NULL, 0,
							  NULL, 0, purge->version);
		LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
		target->stat->purges++;
		LWLockRelease(mlc_shared->lock);
	}
	return true;
}

bool
mlc_target_send(MlcTarget *target, MlcBatch *batch)
{
	bool		held_back;
	bool		oom = target->oom_until > GetCurrentTimestamp() &&
	!MLC_FAULT_SKIP("relay-oom");

	MLC_FAULT("relay-before-applying");
	target->fresh = false;
	if (target->expect_next == target->nexpect)
		mlc_answer_forget(target);
	target->held = target->group && !target->group->announced;

	/* what follows allocates in the batch's context, reset with it */
	MemoryContextSwitchTo(batch->context);
	if (target->group == NULL)
		append_publish(target, batch->applying);
	if (batch->purges != NIL)
	{
		if (!mlc_conn_push(target->conn))
		{
			mlc_target_fail(target, mlc_conn_error(target->conn));
			return false;
		}
		if (!send_purges(target, batch))
			return false;
	}

	if (!oom)
		mlc_layout_keeps(target, batch);
	held_back = mlc_layout_events(target, batch, oom);
	mlc_free_send_sweeps(target, batch, false);
	if (mlc_stream_has(target) && !oom)
		mlc_stream_events(target, batch);
	else if (mlc_stream_has(target) && (batch->nevents > 0 || batch->sweeps))
		held_back = true;
	mlc_group_wait_announced(target);
	MLC_FAULT("relay-before-send");
	if (!mlc_conn_push(target->conn))
	{
		mlc_target_fail(target, mlc_conn_error(target->conn));
		return false;
	}

	/* what we have lost before that is not its silence */
	target->sent_at = GetCurrentTimestamp();
	MLC_FAULT("relay-after-send");

	if (held_back)
	{
		/*
		 * A replicated entry must exist, and the stream must not have gaps,
		 * so this batch is not done: wait for the removals, then come again.
		 */
		while (!target->aside && !mlc_target_poll(target))
		{
			if (!mlc_target_is_live(target))
				return false;
			(void) mlc_conn_wait(target->conn);
		}
		mlc_target_fail(target, "Redis is out of memory; replicated values and the stream are held back.");
		return false;
	}
	return true;
}

void
mlc_target_advance(MlcTarget *target, MlcVersion version,
				   TimestampTz committed, TimestampTz oldest)
{
	if (mlc_version_compare(version, target->applied) <= 0 ||
		!mlc_group_may_advance(target))
		return;
	target->applied = version;
	LWLockAcquire(mlc_shared->lock, LW_EXCLUSIVE);
	target->stat->applied_tli = version.tli;
	target->stat->applied_lsn = version.lsn;
	if (committed != 0)
	{
		double		lag = (GetCurrentTimestamp() - oldest) / 1000.0;

		mlc_stats_add(MLC_TIME_APPLY, (uint64) Max(lag * 1e6, 0));
		target->stat->applied_commit = committed;
		target->stat->batches++;
		target->stat->lag_ms = lag;
		if (lag > target->stat->lag_ms_max)
			target->stat->lag_ms_max = lag;
	}
	LWLockRelease(mlc_shared->lock);
}
