/*-------------------------------------------------------------------------
 *
 * relay/free.c
 *	  Delivering what concerns keys of no rule, and tags.
 *
 * A key that is set goes out as one call that also enters it into its indexes
 * (lua/tag.lua), so that no entry is there which an invalidation of its tags
 * would miss.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "read/free.h"
#include "redis/command.h"
#include "relay/free.h"
#include "utils/memutils.h"

#define CURSOR_LEN 24
#define SCAN_COUNT "1000"
#define UNTAG_COUNT "200"		/* members that one call looks at */
#define LAST_VERSION "ffffffffffffffffffffffff"

/* The index of that kind and text on this server. */
static void
add_index(MlcCommand *cmd, MlcTarget *target, char kind, const char *text,
		  uint32 len)
{
	StringInfoData name;

	initStringInfo(&name);
	mlc_free_index(&name, target->ns, kind, text, len);
	mlc_command_add(cmd, name.data, name.len);
}

bool
mlc_free_send(MlcTarget *target, MlcBatchEvent *event, bool full)
{
	char		version[MLC_VERSION_LEN + 1];
	MlcBody		body;
	MlcCommand	cmd;
	const char *tag;
	uint32		len;

	if (event->op != MLC_OP_SET || full ||
		!mlc_event_body_open(&body, event->payload, event->payloadlen))
		return false;
	mlc_version_print(event->version, version);
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "FCALL");
	mlc_command_add_cstr(&cmd, "mlc_set");
	mlc_command_add_int(&cmd, 2 + body.ntags);
	mlc_command_add(&cmd, event->key, event->keylen);
	add_index(&cmd, target, MLC_INDEX_FREE, NULL, 0);
	while (mlc_event_body_next_tag(&body, &tag, &len))
		add_index(&cmd, target, MLC_INDEX_TAG, tag, len);
	mlc_command_add_cstr(&cmd, target->ns);
	mlc_command_add_cstr(&cmd, target->nonce);
	mlc_command_add(&cmd, version, MLC_VERSION_LEN);
	mlc_command_add_int(&cmd, body.ttl);
	mlc_command_add(&cmd, body.value, body.valuelen);
	mlc_command_append(&cmd, target->conn);
	mlc_target_expect(target, MLC_EXPECT_APPLY);
	return true;
}

bool
mlc_free_any(MlcTarget *target)
{
	StringInfoData name;
	MlcReply   *reply;

	initStringInfo(&name);
	mlc_free_index(&name, target->ns, MLC_INDEX_FREE, NULL, 0);
	reply = mlc_command_simple(target->conn, "EXISTS", name.data, NULL);
	return reply == NULL || reply->type != MLC_REPLY_INTEGER ||
		reply->integer > 0;
}

/* ---- purging ---- */

/* The two parts of what a scan answers; false: the target is down. */
static bool
page(MlcTarget *target, MlcReply *reply, const char *what, char *cursor,
	 size_t size, MlcReplyType type)
{
	if (!mlc_target_good(target, reply, what))
		return false;
	if (reply->type != MLC_REPLY_ARRAY || reply->nelements != 2 ||
		reply->elements[0]->type != MLC_REPLY_STRING ||
		reply->elements[1]->type != type)
	{
		mlc_target_fail(target, psprintf("%s: unexpected reply", what));
		return false;
	}
	strlcpy(cursor, reply->elements[0]->str, size);
	return true;
}

/* Removes all that an index leads to, and the index. */
static bool
purge_index(MlcTarget *target, const char *index)
{
	char		cursor[CURSOR_LEN] = "0";

	do
	{
		CHECK_FOR_INTERRUPTS();
		if (!page(target,
				  mlc_command_simple(target->conn, "FCALL", "mlc_untag", "1",
									 index, target->ns, LAST_VERSION, cursor,
									 UNTAG_COUNT, NULL),
				  "mlc_untag", cursor, sizeof(cursor), MLC_REPLY_INTEGER))
			return false;
	} while (strcmp(cursor, "0") != 0);
	return mlc_target_good(target,
						   mlc_command_simple(target->conn, "UNLINK", index, NULL),
						   "UNLINK");
}

bool
mlc_free_purge(MlcTarget *target)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "mlcache purge",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	char		cursor[CURSOR_LEN] = "0";
	bool		good;

	do
	{
		MlcReply   *reply;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		reply = mlc_command_simple(target->conn, "SCAN", cursor, "MATCH",
								   psprintf("mlc:tag:%s:*", target->ns),
								   "COUNT", SCAN_COUNT, NULL);
		good = page(target, reply, "SCAN", cursor, sizeof(cursor),
					MLC_REPLY_ARRAY);
		for (size_t i = 0; good && i < reply->elements[1]->nelements; i++)
		{
			MlcReply   *name = reply->elements[1]->elements[i];

			/* no name of ours has a zero in it */
			if (name->type == MLC_REPLY_STRING && strlen(name->str) == name->len)
				good = purge_index(target, name->str);
		}
	} while (good && strcmp(cursor, "0") != 0);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return good;
}
