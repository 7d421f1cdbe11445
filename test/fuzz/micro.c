/*-------------------------------------------------------------------------
 *
 * test/fuzz/micro.c
 *	  How long a call takes: render, match, guard, message, JSON.
 *
 * Prints the median and the range of eleven rounds, in ns a call.  Asserts
 * nothing: the figures are for the machine at hand.
 *
 *-------------------------------------------------------------------------
 */
#include "model/event.h"
#include "model/key.h"

#include <time.h>

#define ROUNDS 11
#define CALLS 1000000

/* What the calls made, so that no compiler leaves them out. */
static volatile size_t sink;

static double
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec * 1e9 + (double) t.tv_nsec;
}

static int
compare_doubles(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/* Times "call" in rounds; out is emptied before each call. */
#define MEASURE(name, call) \
	do { \
		double		rounds[ROUNDS]; \
		for (int r = 0; r < ROUNDS; r++) \
		{ \
			double		start = now_ns(); \
			for (int n = 0; n < CALLS; n++) \
			{ \
				resetStringInfo(&out); \
				call; \
				sink += (size_t) out.len; \
			} \
			rounds[r] = (now_ns() - start) / CALLS; \
		} \
		qsort(rounds, ROUNDS, sizeof(double), compare_doubles); \
		printf("%-44s %7.1f ns  (%.1f .. %.1f)\n", name, rounds[ROUNDS / 2], \
			   rounds[0], rounds[ROUNDS - 1]); \
	} while (0)

static MlcTemplate *
parsed(const char *text)
{
	MlcKeyError error;
	MlcTemplate *template = mlc_key_parse(text, &error);

	if (template == NULL)
	{
		fprintf(stderr, "%s: %s\n", text, error.detail);
		exit(1);
	}
	return template;
}

static void
match(const MlcTemplate *template, const char *key)
{
	char	   *values[MLC_KEY_MAX_COLUMNS];

	if (!mlc_key_match(template, key, strlen(key), values))
		exit(1);
	for (int i = 0; i < template->ncolumns; i++)
		pfree(values[i]);
}

static void
read_message(StringInfo message)
{
	MlcMessageReader reader;
	MlcMessageSection section;
	MlcOp		op;
	const char *key;
	uint32		len;

	if (!mlc_event_message_open(&reader, message->data,
								(size_t) message->len) ||
		mlc_event_message_next_section(&reader, &section) != 1 ||
		mlc_event_message_next_key(&reader, &op, &key, &len) != 1)
		exit(1);
	sink += len;
}

int
main(void)
{
	static const char *const id[] = {"42"};
	static const char *const uuid[] = {"f81d4fae-7dec-11d0-a765-00a0c91e6bf6"};
	static const char *const two[] = {"eu-west", "SKU 1234/5"};
	static char payload[512];
	MlcTemplate *product = parsed("product:{id}");
	MlcTemplate *price = parsed("price:{region}:{sku}");
	MlcTemplate *cart = parsed("u:{{{user_id}}}:cart");
	MlcVersion	version = {1, 0x123456789a};
	MlcEvent	event = {MLC_OP_INVALIDATE, 1, "product:42", 10, NULL, 0};
	MlcMessageSection section = {1, 1, 0, 1};
	char		digits[MLC_VERSION_LEN + 1];
	StringInfoData out;
	StringInfoData message;

	initStringInfo(&out);
	MEASURE("nothing (the loop alone)", (void) 0);
	MEASURE("render product:{id}", mlc_key_render(product, id, &out));
	MEASURE("render product:{uuid}", mlc_key_render(product, uuid, &out));
	MEASURE("render price:{region}:{sku}, two escapes",
			mlc_key_render(price, two, &out));
	MEASURE("render u:{{{user_id}}}:cart, checked",
			mlc_key_render(cart, id, &out));
	MEASURE("match product:{id}", match(product, "product:42"));
	MEASURE("match price:{region}:{sku}",
			match(price, "price:eu-west:SKU%201234%2F5"));
	MEASURE("guard product:42", mlc_key_guard("product:42", 10, &out));
	MEASURE("version, print", mlc_version_print(version, digits));
	MEASURE("version, parse",
			(void) mlc_version_parse(digits, MLC_VERSION_LEN, &version));
	MEASURE("message, encode a key",
			mlc_event_message_key(&out, MLC_OP_INVALIDATE, "product:42", 10));

	initStringInfo(&message);
	mlc_event_message_begin(&message);
	mlc_event_message_section(&message, &section);
	mlc_event_message_key(&message, MLC_OP_INVALIDATE, "product:42", 10);
	MEASURE("message of one key, read", read_message(&message));

	MEASURE("JSON, invalidate", mlc_event_json(&out, &event, version));
	memset(payload, 'x', sizeof(payload));
	event.op = MLC_OP_UPDATE;
	event.payload = payload;
	event.payloadlen = sizeof(payload);
	MEASURE("JSON, update of 512 plain bytes",
			mlc_event_json(&out, &event, version));
	for (size_t i = 0; i < sizeof(payload); i += 8)
		payload[i] = '"';
	MEASURE("JSON, update of 512 bytes, 64 quotes",
			mlc_event_json(&out, &event, version));

	pfree(out.data);
	pfree(message.data);
	pfree(product);
	pfree(price);
	pfree(cart);
	return 0;
}
