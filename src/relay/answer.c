/*-------------------------------------------------------------------------
 *
 * relay/answer.c
 *	  One Redis: which replies are in flight, and what they say.
 *
 * Every command that is laid out says here what it expects; every single reply
 * is checked against that, and a wrong one fails the target.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/fault.h"
#include "base/grow.h"
#include "relay/deliver.h"
#include "relay/free.h"
#include "relay/group.h"
#include "relay/refresh.h"
#include "utils/memutils.h"

#define SEND_BYTES (64 * 1024)	/* sent while the rest is still laid out */
#define OOM_PAUSE 1000			/* ms without values once Redis was full */

static void
expect(MlcTarget *target, MlcExpect what, int nevents, uint32 number)
{
	target->expect = mlc_grow(target->context, target->expect, target->nexpect,
							  &target->expect_size, sizeof(MlcExpected));
	target->expect[target->nexpect].what = what;
	target->expect[target->nexpect].number = number;
	target->expect[target->nexpect++].nevents = nevents;

	/* Redis need not wait for the last command; trouble is met later */
	if (mlc_conn_unsent(target->conn) >= SEND_BYTES && !target->held)
		(void) mlc_conn_push(target->conn);
}

void
mlc_answer_expect(MlcTarget *target, MlcExpect what, int nevents)
{
	expect(target, what, nevents, 0);
}

void
mlc_answer_expect_number(MlcTarget *target, MlcExpect what, uint32 number)
{
	expect(target, what, 0, number);
}

void
mlc_target_expect(MlcTarget *target, MlcExpect what)
{
	expect(target, what, 0, 0);
}

void
mlc_answer_remember(MlcTarget *target, MlcBatchEvent *event)
{
	target->sent = mlc_grow(target->context, target->sent, target->nsent,
							&target->sent_size, sizeof(MlcBatchEvent *));
	target->sent[target->nsent++] = event;
}

void
mlc_answer_forget(MlcTarget *target)
{
	target->nexpect = target->expect_next = 0;
	target->nsent = target->sent_next = 0;
	target->told_at = 0;
	target->held = false;
}

/* Counts what a scripted call did: {set, skipped, deleted}. */
static bool
count_applied(MlcTarget *target, MlcReply *reply)
{
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements < 3)
		return false;
	for (size_t i = 0; i < reply->nelements; i++)
		if (reply->elements[i]->type != MLC_REPLY_INTEGER)
			return false;
	target->stat->updated += reply->elements[0]->integer;
	target->stat->skipped += reply->elements[1]->integer;
	target->stat->invalidated += reply->elements[2]->integer;
	return true;
}

/*
 * What a reply of a cluster says of keys that are not where we sent them.
 * True if it says that of all.
 */
static bool
take_redirects(MlcTarget *target, MlcExpected *expected, MlcReply *reply)
{
	bool		all = mlc_cluster_is_redirect(reply);
	int			first = target->sent_next;

	target->sent_next += expected->nevents;

	/* the events may be gone, and it gets all of them once more */
	if (target->aside)
		return all && expected->nevents > 0;
	for (int i = 0; i < expected->nevents && all; i++)
		mlc_group_add_detour(target->group, target->sent[first + i]);
	if (expected->what == MLC_EXPECT_DELIVER && reply->type == MLC_REPLY_ARRAY)
		for (size_t i = 3; i < reply->nelements; i++)
		{
			int64		number = reply->elements[i]->integer;

			if (number >= 1 && number <= expected->nevents)
				mlc_group_add_detour(target->group, target->sent[first + number - 1]);
		}
	return all && expected->nevents > 0;
}

/* Checks one reply against what was expected; NULL or what is wrong. */
static const char *
check(MlcTarget *target, MlcExpected *expected, MlcReply *reply)
{
	MlcExpect	what = expected->what;

	/* whatever it says: a reload only warms */
	if (what == MLC_EXPECT_LEASE || what == MLC_EXPECT_FILL)
	{
		mlc_refresh_answered(target, what, expected->number, reply);
		return NULL;
	}
	if (target->group && take_redirects(target, expected, reply))
		return NULL;
	if (reply->type == MLC_REPLY_ERROR &&
		!(what == MLC_EXPECT_FREE && strncmp(reply->str, "NOPERM", 6) == 0) &&
		what != MLC_EXPECT_NEWS)
	{
		/* a full Redis still takes removals: send those next time */
		if (strncmp(reply->str, "OOM", 3) == 0)
			target->oom_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															OOM_PAUSE);
		if (MLC_FAULT_SKIP("relay-reply"))
			return NULL;
		return psprintf("Redis answered: %s", reply->str);
	}
	switch (what)
	{
		case MLC_EXPECT_PUBLISH:
			if (reply->type != MLC_REPLY_INTEGER)
				return "mlc_publish: unexpected reply";
			if (reply->integer != 1 && target->state == MLC_TARGET_ARMED)
				return "It is not armed any more; it was restarted or promoted.";
			break;
		case MLC_EXPECT_UNLINK:
			if (reply->type != MLC_REPLY_INTEGER)
				return "UNLINK: unexpected reply";
			break;
		case MLC_EXPECT_APPLY:
		case MLC_EXPECT_DELIVER:
			if (!count_applied(target, reply))
				return "mlc_apply or mlc_deliver: unexpected reply";
			break;
		case MLC_EXPECT_STREAM:
			if (reply->type != MLC_REPLY_STRING)
				return "XADD: unexpected reply";
			break;
		case MLC_EXPECT_FREE:
			return mlc_free_sent(target, reply);
		case MLC_EXPECT_SWEEP:
			return mlc_free_swept(target, reply);
		case MLC_EXPECT_TIDY:
			return mlc_free_tidied(target, reply);
		case MLC_EXPECT_ASKING:
			break;
		case MLC_EXPECT_NEWS:
			mlc_group_take_news(target, reply);
			break;
		case MLC_EXPECT_LEASE:
		case MLC_EXPECT_FILL:
			break;				/* see above */
	}
	return NULL;
}

bool
mlc_target_poll(MlcTarget *target)
{
	static MemoryContext context = NULL;
	MemoryContext old;
	int			before = target->expect_next;

	if (!mlc_target_is_live(target))
		return false;
	if (target->expect_next == target->nexpect)
		return true;

	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "mlcache replies",
										ALLOCSET_DEFAULT_SIZES);
	if (!(target->held ? mlc_conn_receive(target->conn) :
		  mlc_conn_push(target->conn)))
	{
		mlc_target_fail(target, mlc_conn_error(target->conn));
		return false;
	}
	old = MemoryContextSwitchTo(context);
	while (target->expect_next < target->nexpect &&
		   mlc_conn_ready(target->conn))
	{
		MlcReply   *reply = mlc_conn_reply(target->conn);
		const char *wrong;

		if (reply == NULL)
			wrong = mlc_conn_error(target->conn);
		else
			wrong = check(target, &target->expect[target->expect_next], reply);
		if (wrong)
		{
			mlc_target_fail(target, wrong);
			break;
		}
		target->expect_next++;
	}
	if (target->expect_next > before)
		target->sent_at = GetCurrentTimestamp();
	MemoryContextSwitchTo(old);
	MemoryContextReset(context);

	if (!mlc_target_is_live(target))
		return false;
	if (target->expect_next < target->nexpect)
	{
		if (!mlc_conn_is_open(target->conn))
			mlc_target_fail(target, mlc_conn_error(target->conn));
		else if (TimestampDifferenceExceeds(target->sent_at,
											GetCurrentTimestamp(),
											target->options.timeout))
			mlc_target_fail(target, "Redis did not answer in time.");
		return false;
	}
	target->known = target->published;
	return true;
}
