/*-------------------------------------------------------------------------
 *
 * relay/stream.c
 *	  Events as they go into the stream mlc:events, for whoever follows it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "redis/command.h"
#include "relay/deliver.h"
#include "relay/group.h"

#define STREAM "mlc:events"

void
mlc_stream_append(MlcTarget *target, MlcOp op, MlcRelayRule *rule,
				  const char *key, uint32 keylen, const char *payload,
				  uint32 payloadlen, MlcVersion version)
{
	char		text[MLC_VERSION_LEN + 1];
	MlcBody		body;
	MlcCommand	cmd;

	mlc_version_print(version, text);
	mlc_command_init(&cmd);
	mlc_command_add_cstr(&cmd, "XADD");
	mlc_command_add_cstr(&cmd, STREAM);
	mlc_command_add_cstr(&cmd, "MAXLEN");
	mlc_command_add_cstr(&cmd, "~");
	mlc_command_add_int(&cmd, target->stream);
	mlc_command_add_cstr(&cmd, "*");
	mlc_command_add_cstr(&cmd, "op");
	mlc_command_add_cstr(&cmd, mlc_event_op_name(op));
	if (key)
	{
		mlc_command_add_cstr(&cmd, mlc_event_key_name(op));
		mlc_command_add(&cmd, key, keylen);
	}
	mlc_command_add_cstr(&cmd, "version");
	mlc_command_add_cstr(&cmd, text);
	mlc_command_add_cstr(&cmd, "rule");
	mlc_command_add_int(&cmd, rule->id);
	if (mlc_event_has_body(op) &&
		mlc_event_body_open(&body, payload, payloadlen))
	{
		payload = op == MLC_OP_SET ? body.value : NULL;
		payloadlen = body.valuelen;
	}
	if (payload)
	{
		mlc_command_add_cstr(&cmd, "payload");
		mlc_command_add(&cmd, payload, payloadlen);
	}
	mlc_command_append(&cmd, target->conn);
	mlc_target_expect(target, MLC_EXPECT_STREAM);
}

static int
by_version(const void *a, const void *b)
{
	return mlc_version_compare((*(MlcBatchEvent *const *) a)->version,
							   (*(MlcBatchEvent *const *) b)->version);
}

void
mlc_stream_events(MlcTarget *target, MlcBatch *batch)
{
	MlcBatch   *parts[2] = {batch, batch->sweeps};
	MlcBatchEvent **events = palloc(sizeof(MlcBatchEvent *) *
									Max(batch->nevents + (batch->sweeps ? batch->sweeps->nevents : 0), 1));
	int			n = 0;

	for (int part = 0; part < 2 && parts[part]; part++)
		for (int i = 0; i < parts[part]->nevents; i++)
		{
			MlcBatchEvent *event = &parts[part]->events[i];

			if (!event->dead && event->op != MLC_OP_FETCHED &&
				mlc_target_concerns(target, event->rule, event->version))
				events[n++] = event;
		}
	qsort(events, n, sizeof(MlcBatchEvent *), by_version);
	for (int i = 0; i < n; i++)
	{
		uint32		len;
		const char *text = mlc_batch_text(events[i], &len);

		mlc_stream_append(target, events[i]->op, events[i]->rule, text, len,
						  events[i]->payload, events[i]->payloadlen,
						  events[i]->version);
	}
}

bool
mlc_stream_has(MlcTarget *target)
{
	return target->stream > 0 &&
		mlc_group_owns(target, STREAM, strlen(STREAM));
}
