/*-------------------------------------------------------------------------
 *
 * test/bench/driver.c
 *	  Talks to Redis as fast as one connection can: fills it before a
 *	  measurement, and measures what its own commands cost without PostgreSQL.
 *
 *	  driver SOCKET fill PREFIX N BYTES GUARD	entries PREFIX1 .. PREFIXN of
 *						BYTES bytes; with GUARD 1 also the guard that a fill
 *						leaves, at a version before any real one
 *	  driver SOCKET unlink PREFIX N BATCH GUARD	removes them in the order of
 *						bench_write(), BATCH entries (and guards) a command
 *	  driver SOCKET apply PREFIX N BATCH BYTES NS	sets them by mlc_apply, in
 *						the same order, BATCH entries a call
 *	  driver SOCKET set PREFIX N BYTES			sets them by SET, likewise
 *
 * Prints seconds from the first command to the last reply.  BATCHES_IN_FLIGHT
 * commands, or 1000 single ones, are in flight; every reply is checked.
 *
 *-------------------------------------------------------------------------
 */
#include <hiredis.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCHES_IN_FLIGHT 16
#define SINGLES_IN_FLIGHT 1000
#define FILL_BATCH 64
#define MAX_BATCH 1024
#define MAX_NAME 128

#define OLD_GUARD "000000010000000000000001|000000010000000000000001||||||"
#define NEW_VERSION "0000000100000fffffffffff"

static redisContext *conn;
static int	in_flight = 0;
static int	depth = BATCHES_IN_FLIGHT;

static void
die(const char *what)
{
	fprintf(stderr, "driver: %s\n", what);
	exit(1);
}

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void
take_reply(void)
{
	redisReply *reply;

	if (redisGetReply(conn, (void **) &reply) != REDIS_OK)
		die(conn->errstr);
	if (reply->type == REDIS_REPLY_ERROR)
		die(reply->str);
	freeReplyObject(reply);
	in_flight--;
}

static void
send_argv(int argc, const char **argv, const size_t *lens)
{
	if (redisAppendCommandArgv(conn, argc, argv, lens) != REDIS_OK)
		die(conn->errstr);
	if (++in_flight >= depth)
		take_reply();
}

static void
finish(void)
{
	while (in_flight > 0)
		take_reply();
}

/* 1 .. n in the order in which bench_write() writes them */
static int *
written_order(int n)
{
	int		   *ids = malloc(sizeof(int) * n);

	for (int i = 0; i < n; i++)
		ids[i] = 1 + (int64_t) i * 611953 % n;
	return ids;
}

/*
 * 1 .. n in another random order, so that what is written next lies somewhere
 * else in Redis's memory.
 */
static int *
filled_order(int n)
{
	int		   *ids = malloc(sizeof(int) * n);
	uint64_t	state = 88172645463325252ULL;

	for (int i = 0; i < n; i++)
		ids[i] = i + 1;
	for (int i = n - 1; i > 0; i--)
	{
		int			j,
					t;

		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		j = state % (i + 1);
		t = ids[i];
		ids[i] = ids[j];
		ids[j] = t;
	}
	return ids;
}

/* A command under way: words that are copied into one buffer. */
static const char *argv[4 * MAX_BATCH + 8];
static size_t lens[4 * MAX_BATCH + 8];
static int	argc;
static char names[2 * MAX_BATCH][MAX_NAME];
static int	nnames;

static void
add(const char *word, size_t len)
{
	argv[argc] = word;
	lens[argc++] = len;
}

static void
add_text(const char *word)
{
	add(word, strlen(word));
}

static void
add_name(const char *format, const char *prefix, int id)
{
	add(names[nnames], snprintf(names[nnames], MAX_NAME, format, prefix, id));
	nnames++;
}

static void
begin(const char *command)
{
	argc = nnames = 0;
	add_text(command);
}

static char *
payload_of(int bytes)
{
	char	   *payload = malloc(bytes + 1);

	memset(payload, 'x', bytes);
	payload[bytes] = '\0';
	return payload;
}

static void
fill(const char *prefix, int n, int bytes, bool guard)
{
	char	   *payload = payload_of(bytes);
	int		   *ids = filled_order(n);

	for (int i = 0; i < n;)
	{
		begin("MSET");
		for (int j = 0; j < FILL_BATCH && i < n; j++, i++)
		{
			add_name("%s%d", prefix, ids[i]);
			add(payload, bytes);
			if (guard)
			{
				add_name("mlc:{%s%d}", prefix, ids[i]);
				add_text(OLD_GUARD);
			}
		}
		send_argv(argc, argv, lens);
	}
}

static void
unlink_all(const char *prefix, int n, int batch, bool guard)
{
	int		   *ids = written_order(n);

	for (int i = 0; i < n;)
	{
		begin("UNLINK");
		for (int j = 0; j < batch && i < n; j++, i++)
		{
			add_name("%s%d", prefix, ids[i]);
			if (guard)
				add_name("mlc:{%s%d}", prefix, ids[i]);
		}
		send_argv(argc, argv, lens);
	}
}

static void
set_all(const char *prefix, int n, int bytes)
{
	char	   *payload = payload_of(bytes);
	int		   *ids = written_order(n);

	depth = SINGLES_IN_FLIGHT;
	for (int i = 0; i < n; i++)
	{
		begin("SET");
		add_name("%s%d", prefix, ids[i]);
		add(payload, bytes);
		send_argv(argc, argv, lens);
	}
}

static void
apply_all(const char *prefix, int n, int batch, int bytes, const char *ns)
{
	char	   *payload = payload_of(bytes);
	int		   *ids = written_order(n);
	redisReply *nonce = redisCommand(conn, "HGET mlc:state:%s nonce", ns);
	char		count[16];

	if (nonce == NULL || nonce->type != REDIS_REPLY_STRING)
		die("there is no such namespace");
	for (int i = 0; i < n;)
	{
		int			keys = n - i < batch ? n - i : batch;

		begin("FCALL");
		add_text("mlc_apply");
		snprintf(count, sizeof(count), "%d", keys);
		add_text(count);
		for (int j = 0; j < keys; j++, i++)
			add_name("%s%d", prefix, ids[i]);
		add_text(ns);
		add(nonce->str, nonce->len);
		add("u", 1);
		add("0", 1);
		add_text(NEW_VERSION);
		for (int j = 0; j < keys; j++)
			add(payload, bytes);
		send_argv(argc, argv, lens);
	}
}

int
main(int n, char **words)
{
	double		began;

	if (n < 5)
		die("usage: see the source");
	conn = redisConnectUnix(words[1]);
	if (conn == NULL || conn->err)
		die(conn ? conn->errstr : "out of memory");
	began = now();
	if (strcmp(words[2], "fill") == 0 && n == 7)
		fill(words[3], atoi(words[4]), atoi(words[5]), words[6][0] == '1');
	else if (strcmp(words[2], "unlink") == 0 && n == 7)
		unlink_all(words[3], atoi(words[4]), atoi(words[5]), words[6][0] == '1');
	else if (strcmp(words[2], "set") == 0 && n == 6)
		set_all(words[3], atoi(words[4]), atoi(words[5]));
	else if (strcmp(words[2], "apply") == 0 && n == 8)
		apply_all(words[3], atoi(words[4]), atoi(words[5]), atoi(words[6]), words[7]);
	else
		die("usage: see the source");
	finish();
	printf("%.6f\n", now() - began);
	return 0;
}
