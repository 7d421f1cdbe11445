/*-------------------------------------------------------------------------
 *
 * test/bench/latency.c
 *	  From a commit acknowledged to its effect seen by somebody else, at a
 *	  steady low rate; the same clock and the same kind of waiting for all.
 *
 *	  latency redis SOCKET PREFIX TABLE ROWS RATE COUNT	the effect is that the
 *						entry PREFIX<id> goes: Redis tells its subscribers
 *	  latency decoder SLOT PREFIX TABLE ROWS RATE COUNT	the effect is that the
 *						change comes out of a slot of test_decoding
 *
 * One row after the other is updated (libpq's environment says where), and the
 * next only once the effect was seen.  Prints COUNT lines: microseconds, close to
 * none where the effect was there before the writer had its answer.
 *
 *-------------------------------------------------------------------------
 */
#include <hiredis.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PATIENCE 10000			/* ms until an effect counts as lost */

static redisContext *writer;	/* puts entries there */
static redisContext *events;	/* hears of their removal */
static PGconn *stream;			/* of the slot */

static void
die(const char *what)
{
	fprintf(stderr, "latency: %s\n", what);
	exit(1);
}

static int64_t
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000LL + ts.tv_nsec / 1000;
}

static void
sleep_until(int64_t us)
{
	struct timespec ts = {us / 1000000, us % 1000000 * 1000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) != 0)
		;
}

static void
wait_readable(int fd)
{
	struct pollfd pfd = {fd, POLLIN, 0};

	if (poll(&pfd, 1, PATIENCE) != 1)
		die("the effect did not come");
}

/* ---- Redis ---- */

static redisContext *
open_redis(const char *socket)
{
	redisContext *conn = redisConnectUnix(socket);

	if (conn == NULL || conn->err)
		die(conn ? conn->errstr : "out of memory");
	return conn;
}

static redisReply *
good(redisReply *reply, redisContext *conn)
{
	if (reply == NULL)
		die(conn->errstr);
	if (reply->type == REDIS_REPLY_ERROR)
		die(reply->str);
	return reply;
}

static void
open_events(const char *socket)
{
	writer = open_redis(socket);
	events = open_redis(socket);
	freeReplyObject(good(redisCommand(writer, "CONFIG SET notify-keyspace-events Eg"), writer));
	freeReplyObject(good(redisCommand(events, "SUBSCRIBE __keyevent@0__:del"), events));
}

static void
put_entry(const char *key)
{
	freeReplyObject(good(redisCommand(writer, "SET %s x", key), writer));
}

static void
await_removal(const char *key)
{
	for (;;)
	{
		redisReply *reply = NULL;
		bool		found;

		if (redisGetReplyFromReader(events, (void **) &reply) != REDIS_OK)
			die(events->errstr);
		if (reply == NULL)
		{
			wait_readable(events->fd);
			if (redisBufferRead(events) != REDIS_OK)
				die(events->errstr);
			continue;
		}
		found = reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 &&
			strcmp(reply->element[2]->str, key) == 0;
		freeReplyObject(reply);
		if (found)
			return;
	}
}

/* ---- the slot ---- */

static void
open_stream(const char *slot)
{
	char		command[256];
	PGresult   *result;

	stream = PQconnectdb("replication=database");
	if (PQstatus(stream) != CONNECTION_OK)
		die(PQerrorMessage(stream));
	snprintf(command, sizeof(command), "START_REPLICATION SLOT \"%s\" LOGICAL 0/0", slot);
	result = PQexec(stream, command);
	if (PQresultStatus(result) != PGRES_COPY_BOTH)
		die(PQerrorMessage(stream));
	PQclear(result);
}

static void
await_change(int id)
{
	char		text[64];

	snprintf(text, sizeof(text), " id[integer]:%d ", id);
	for (;;)
	{
		char	   *message;
		int			len = PQgetCopyData(stream, &message, true);
		bool		found;

		if (len < -1)
			die(PQerrorMessage(stream));
		if (len == -1)
			die("the stream has ended");
		if (len == 0)
		{
			wait_readable(PQsocket(stream));
			if (!PQconsumeInput(stream))
				die(PQerrorMessage(stream));
			continue;
		}
		/* 'w', three times eight bytes, the plugin's line */
		found = message[0] == 'w' && len > 25 && strstr(message + 25, text) != NULL;
		PQfreemem(message);
		if (found)
			return;
	}
}

int
main(int n, char **words)
{
	bool		redis;
	int			rows,
				rate,
				count;
	PGconn	   *conn;
	PGresult   *result;
	char		text[256];
	int64_t		next;

	if (n != 8)
		die("usage: see the source");
	redis = strcmp(words[1], "redis") == 0;
	rows = atoi(words[5]);
	rate = atoi(words[6]);
	count = atoi(words[7]);
	if (redis)
		open_events(words[2]);
	else
		open_stream(words[2]);

	conn = PQconnectdb("");
	if (PQstatus(conn) != CONNECTION_OK)
		die(PQerrorMessage(conn));
	snprintf(text, sizeof(text), "UPDATE %s SET v = v + 1 WHERE id = $1", words[4]);
	result = PQprepare(conn, "write", text, 0, NULL);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die(PQerrorMessage(conn));
	PQclear(result);

	next = now_us();
	for (int i = 0; i < count; i++)
	{
		int			id = 1 + (int64_t) i * 611953 % rows;
		const char *value = text;
		char		key[128];
		int64_t		committed;

		snprintf(text, sizeof(text), "%d", id);
		snprintf(key, sizeof(key), "%s%d", words[3], id);
		if (redis)
			put_entry(key);
		next += 1000000 / rate;
		if (next > now_us())
			sleep_until(next);
		else
			next = now_us();

		result = PQexecPrepared(conn, "write", 1, &value, NULL, NULL, 0);
		committed = now_us();
		if (PQresultStatus(result) != PGRES_COMMAND_OK || strcmp(PQcmdTuples(result), "1") != 0)
			die(PQerrorMessage(conn));
		PQclear(result);
		if (redis)
			await_removal(key);
		else
			await_change(id);
		printf("%lld\n", (long long) (now_us() - committed));
	}
	PQfinish(conn);
	return 0;
}
