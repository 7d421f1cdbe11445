/*-------------------------------------------------------------------------
 *
 * test/history/driver.c
 *	  Records what many sessions did to a few keys, and when: writers and
 *	  readers inside PostgreSQL, readers outside.  check.py judges.
 *
 *	  driver option=value...
 *
 *	  pg=CONNINFO redis=SOCKET ns=NAMESPACE
 *					or redis=cluster:HOST:PORT,HOST:PORT... of a Redis Cluster
 *	  table=NAME	(id int PRIMARY KEY, ver bigint, op bigint) with a rule
 *					NAME:{id}, and NAME_log (op bigint, id int, ver bigint,
 *					gone boolean)
 *	  keys=N		ids 1 .. N; every fourth row is also deleted and inserted
 *	  inside=N outside=N writers=N	sessions
 *	  think=US		mean pause between two things a session does
 *	  mode=guarded	reads by mlcache.get(), or by mlc_get and mlc_fill
 *	  mode=naive	GET, else SELECT and SET; writers DEL after COMMIT
 *	  ttl=MS		that outside readers fill with
 *	  out=FILE
 *
 * Runs until standard input says "stop"; "redis SOCKET" sends those outside to
 * another server.  Every connection that is lost is made again.
 *
 * A line of the record, times in ns of one clock, "-" for what is not known:
 *
 *	  w SESSION KEY START END VER OP GONE VERSION
 *			START: COMMIT was sent; END: it returned; VERSION: its own
 *	  r SESSION KEY START END VER OP SOURCE APPLIED
 *			VER and OP are "-" for "no such row"; APPLIED: by the relay, asked
 *			before START
 *	  o SESSION KEY START END VER OP ...	a transaction that did not read its
 *			own write
 *	  e SESSION TEXT	an error that no fault explains
 *
 * Which writes have been committed is what NAME_log says in the end.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <hiredis.h>
#include <inttypes.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NAME_LEN 64
#define SQL_LEN 512
#define VERSION_LEN 64
#define LEASE_MS 5000
#define BUSY_TRIES 200
#define BUSY_PAUSE 1000			/* us */
#define RECONNECT_PAUSE 20000	/* us */
#define MAX_NODES 16
#define MAX_KEYS 64
#define ADDRESS_LEN 64
#define REDIRECTIONS 8

typedef enum Role
{
	INSIDE, OUTSIDE, WRITER
} Role;

typedef struct Node
{
	char		address[ADDRESS_LEN];
	redisContext *redis;
} Node;

typedef struct Session
{
	pthread_t	thread;
	Role		role;
	int			number;
	uint64_t	random;
	PGconn	   *pg;
	redisContext *redis;
	int			redis_epoch;
	Node		nodes[MAX_NODES];	/* of a cluster */
	char		where[MAX_KEYS + 1][ADDRESS_LEN];	/* each key's master; "":
													 * not known */
	char	   *record;			/* lines */
	size_t		len;
	size_t		size;
	int64_t		lost;			/* connections */
	int64_t		refused;		/* transactions, for want of Redis */
} Session;

/* What a read gave. */
typedef struct Copy
{
	bool		ok;
	bool		gone;
	int64_t		ver;
	int64_t		op;
	char		source[16];
} Copy;

static const char *pg_info = "";
static const char *table = "h";
static const char *ns = "";
static const char *out_file = "history";
static char redis_socket[512];
static char seeds[MAX_NODES][ADDRESS_LEN];
static int	nseeds = 0;
static pthread_mutex_t redis_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int redis_epoch;
static int	keys = 8;
static int	inside = 4;
static int	outside = 4;
static int	writers = 2;
static int	think = 1000;
static int	ttl = 0;
static bool naive = false;
static atomic_bool stop;
static atomic_long next_op = 1;

static void
die(const char *what)
{
	fprintf(stderr, "driver: %s\n", what);
	exit(1);
}

static int64_t
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* xorshift64* (Vigna 2016) */
static uint32_t
draw(Session *s, uint32_t n)
{
	s->random ^= s->random >> 12;
	s->random ^= s->random << 25;
	s->random ^= s->random >> 27;
	return (uint32_t) ((s->random * UINT64_C(2685821657736338717)) >> 33) % n;
}

/* Few keys get much of the load. */
static int
draw_key(Session *s)
{
	return 1 + (draw(s, 2) ? draw(s, keys) : draw(s, (keys + 3) / 4));
}

static void __attribute__((format(printf, 2, 3)))
record(Session *s, const char *format,...)
{
	va_list		args;
	int			n;

	if (s->size - s->len < 512)
	{
		s->size = s->size * 2 + 65536;
		s->record = realloc(s->record, s->size);
		if (s->record == NULL)
			die("out of memory");
	}
	va_start(args, format);
	n = vsnprintf(s->record + s->len, s->size - s->len, format, args);
	va_end(args);
	s->len += n < 511 ? n : 511;
	s->record[s->len++] = '\n';
}

/* ---- PostgreSQL ---- */

static const char *
prepared(int i, char *sql)
{
	static const char *const names[] = {"load", "get", "source", "applied", "update", "delete",
	"insert", "lock", "version", "row"};
	static const char *const texts[] = {
		"SELECT (SELECT row_to_json(t)::text FROM %1$s t WHERE id = $1::int), mlcache.fill_version()",
		"SELECT mlcache.get($1)",
		"SELECT source FROM mlcache.last_read()",
		"SELECT max(applied) FROM mlcache.stat_servers",
		"WITH u AS (UPDATE %1$s SET ver = ver + 1, op = $2::bigint WHERE id = $1::int RETURNING ver)"
		" INSERT INTO %1$s_log SELECT $2::bigint, $1::int, ver, false FROM u RETURNING ver",
		"WITH d AS (DELETE FROM %1$s WHERE id = $1::int RETURNING ver)"
		" INSERT INTO %1$s_log SELECT $2::bigint, $1::int, ver + 1, true FROM d RETURNING ver",
		"WITH i AS (INSERT INTO %1$s (id, ver, op) SELECT $1::int, max(ver) + 1, $2::bigint"
		" FROM %1$s_log WHERE id = $1::int HAVING NOT EXISTS (SELECT FROM %1$s WHERE id = $1::int)"
		" RETURNING ver) INSERT INTO %1$s_log SELECT $2::bigint, $1::int, ver, false FROM i RETURNING ver",
		"SELECT pg_advisory_xact_lock(471100 + $1::int)",
		"SELECT mlcache.last_commit_version()",
		"SELECT row_to_json(t)::text FROM %1$s t WHERE id = $1::int"
	};

	if (i >= (int) (sizeof(names) / sizeof(names[0])))
		return NULL;
	snprintf(sql, SQL_LEN, texts[i], table);
	return names[i];
}

static void
lose_pg(Session *s)
{
	PQfinish(s->pg);
	s->pg = NULL;
	s->lost++;
}

/* A server that crashes tells every session so; nobody reads that. */
static void
ignore_notice(void *arg, const char *message)
{
	(void) arg;
	(void) message;
}

static bool
have_pg(Session *s)
{
	char		sql[SQL_LEN];
	const char *name;

	while (s->pg == NULL && !stop)
	{
		s->pg = PQconnectdb(pg_info);
		PQsetNoticeProcessor(s->pg, ignore_notice, NULL);
		for (int i = 0; PQstatus(s->pg) == CONNECTION_OK && (name = prepared(i, sql)); i++)
		{
			PGresult   *result = PQprepare(s->pg, name, sql, 0, NULL);

			if (PQresultStatus(result) != PGRES_COMMAND_OK)
			{
				if (PQstatus(s->pg) == CONNECTION_OK)
					record(s, "e %d %s", s->number, PQerrorMessage(s->pg));
				PQclear(result);
				break;
			}
			PQclear(result);
			if (prepared(i + 1, sql) == NULL)
				return true;
		}
		PQfinish(s->pg);
		s->pg = NULL;
		usleep(RECONNECT_PAUSE);
	}
	return s->pg != NULL;
}

/* NULL: it failed; a lost connection is closed, a transaction rolled back. */
static PGresult *
take(Session *s, PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);
	const char *state;

	if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK)
		return result;
	state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	if (PQstatus(s->pg) != CONNECTION_OK || state == NULL || strncmp(state, "57", 2) == 0)
		lose_pg(s);
	else
	{
		if (strncmp(state, "08", 2) == 0)
			s->refused++;
		else if (strncmp(state, "40", 2) != 0)
			record(s, "e %d %s %.200s", s->number, state,
				   PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
		PQclear(PQexec(s->pg, "ROLLBACK"));
	}
	PQclear(result);
	return NULL;
}

static PGresult *
run(Session *s, const char *name, const char *first, const char *second)
{
	const char *values[2] = {first, second};

	return take(s, PQexecPrepared(s->pg, name, (first != NULL) + (second != NULL),
								  values, NULL, NULL, 0));
}

static bool
command(Session *s, const char *sql)
{
	PGresult   *result = take(s, PQexec(s->pg, sql));

	PQclear(result);
	return result != NULL;
}

/* The first column of the first row; false: no answer.  NULL: "". */
static bool
ask(Session *s, const char *name, const char *first, const char *second,
	char *answer, size_t size)
{
	PGresult   *result = run(s, name, first, second);

	if (result == NULL)
		return false;
	snprintf(answer, size, "%s", PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "");
	PQclear(result);
	return true;
}

/* ---- Redis ---- */

static void
lose_redis(Session *s)
{
	if (s->redis)
		redisFree(s->redis);
	s->redis = NULL;
}

static bool
have_redis(Session *s)
{
	struct timeval timeout = {2, 0};

	if (s->redis && (s->redis->err || s->redis_epoch != redis_epoch))
		lose_redis(s);
	if (s->redis == NULL)
	{
		pthread_mutex_lock(&redis_lock);
		s->redis_epoch = redis_epoch;
		s->redis = redisConnectUnixWithTimeout(redis_socket, timeout);
		pthread_mutex_unlock(&redis_lock);
		if (s->redis && s->redis->err == 0)
			redisSetTimeout(s->redis, timeout);
	}
	if (s->redis && s->redis->err)
		lose_redis(s);
	return s->redis != NULL;
}

/* The connection to a node, or NULL. */
static redisContext *
node_at(Session *s, const char *address)
{
	struct timeval timeout = {2, 0};
	Node	   *free_node = NULL;
	char		host[ADDRESS_LEN];
	char	   *colon;

	for (int i = 0; i < MAX_NODES; i++)
	{
		if (s->nodes[i].redis && strcmp(s->nodes[i].address, address) == 0)
			return s->nodes[i].redis;
		if (s->nodes[i].redis == NULL)
			free_node = &s->nodes[i];
	}
	if (free_node == NULL)
		return NULL;
	snprintf(host, sizeof(host), "%s", address);
	colon = strrchr(host, ':');
	if (colon == NULL)
		return NULL;
	*colon = '\0';
	free_node->redis = redisConnectWithTimeout(host, atoi(colon + 1), timeout);
	if (free_node->redis && free_node->redis->err)
	{
		redisFree(free_node->redis);
		free_node->redis = NULL;
	}
	if (free_node->redis)
		redisSetTimeout(free_node->redis, timeout);
	snprintf(free_node->address, ADDRESS_LEN, "%s", address);
	return free_node->redis;
}

static void
lose_node(Session *s, redisContext *redis)
{
	for (int i = 0; i < MAX_NODES; i++)
		if (s->nodes[i].redis == redis)
			s->nodes[i].redis = NULL;
	redisFree(redis);
}

/* Asks the key's master, and follows redirections. */
static redisReply *
call_cluster(Session *s, int argc, const char **argv)
{
	const char *key = argc > 3 ? argv[3] : argv[1];
	const char *colon = strchr(key, ':');
	char	   *where = s->where[colon ? atoi(colon + 1) % (MAX_KEYS + 1) : 0];
	char		address[ADDRESS_LEN];
	bool		asking = false;

	for (int i = 0; i < REDIRECTIONS; i++)
	{
		redisContext *redis;
		redisReply *reply;

		if (!asking)
			snprintf(address, sizeof(address), "%s",
					 *where ? where : seeds[draw(s, nseeds)]);
		redis = node_at(s, address);
		if (redis && asking)
			freeReplyObject(redisCommand(redis, "ASKING"));
		reply = redis && !redis->err ? redisCommandArgv(redis, argc, argv, NULL) : NULL;
		if (reply == NULL)
		{
			if (redis)
				lose_node(s, redis);
			*where = '\0';
			asking = false;
			continue;
		}
		if (reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "MOVED ", 6) == 0)
		{
			snprintf(where, ADDRESS_LEN, "%s", strrchr(reply->str, ' ') + 1);
			asking = false;
		}
		else if (reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "ASK ", 4) == 0)
		{
			snprintf(address, sizeof(address), "%s", strrchr(reply->str, ' ') + 1);
			asking = true;
		}
		else
			return reply;
		freeReplyObject(reply);
	}
	return NULL;
}

static redisReply *
call(Session *s, int argc, const char **argv)
{
	redisReply *reply;

	if (nseeds > 0)
		return call_cluster(s, argc, argv);
	if (!have_redis(s))
		return NULL;
	reply = redisCommandArgv(s->redis, argc, argv, NULL);
	if (reply == NULL)
		lose_redis(s);
	return reply;
}

static const char *
word(redisReply *reply, size_t i)
{
	if (reply && reply->type == REDIS_REPLY_ARRAY && i < reply->elements &&
		reply->element[i]->type == REDIS_REPLY_STRING)
		return reply->element[i]->str;
	return "";
}

/* ---- reading ---- */

/* A row as JSON, or "" or NULL for none. */
static void
parse(Copy *copy, const char *text, const char *source)
{
	const char *ver;
	const char *op;

	snprintf(copy->source, sizeof(copy->source), "%s", source);
	copy->gone = text == NULL || *text == '\0';
	copy->ok = copy->gone;
	if (copy->gone)
		return;
	ver = strstr(text, "\"ver\":");
	op = strstr(text, "\"op\":");
	copy->ok = ver && op && sscanf(ver + 6, "%" SCNd64, &copy->ver) == 1 &&
		sscanf(op + 5, "%" SCNd64, &copy->op) == 1;
}

static void
read_inside(Session *s, const char *key, Copy *copy, int64_t *end)
{
	char		text[512];
	char		source[16];

	if (!ask(s, "get", key, NULL, text, sizeof(text)))
		return;
	*end = now();
	if (ask(s, "source", NULL, NULL, source, sizeof(source)))
		parse(copy, text, source);
}

/* The reader's two steps, as test/clients has them. */
static void
read_outside(Session *s, const char *key, const char *id, Copy *copy)
{
	char		token[32];
	char		lease[16];
	char		lifetime[16];
	const char *get[] = {"FCALL", "mlc_get", "1", key, token, lease, ns};
	redisReply *answer = NULL;
	PGresult   *row;

	snprintf(token, sizeof(token), "d%d-%" PRIu32, s->number, draw(s, 1 << 30));
	snprintf(lease, sizeof(lease), "%d", LEASE_MS);
	for (int i = 0; i < BUSY_TRIES; i++)
	{
		answer = call(s, 7, get);
		if (strcmp(word(answer, 0), "busy") != 0)
			break;
		freeReplyObject(answer);
		answer = NULL;
		usleep(BUSY_PAUSE);
	}
	if (strcmp(word(answer, 0), "hit") == 0)
		parse(copy, word(answer, 1), "L2");
	else if (strcmp(word(answer, 0), "absent") == 0)
		parse(copy, NULL, "L2");
	else if ((row = run(s, "load", id, NULL)) != NULL)
	{
		bool		gone = PQgetisnull(row, 0, 0);

		parse(copy, gone ? NULL : PQgetvalue(row, 0, 0), "row");
		if (strcmp(word(answer, 0), "lease") == 0)
		{
			const char *fill[] = {"FCALL", "mlc_fill", "1", key, token, PQgetvalue(row, 0, 0),
				lifetime, word(answer, 1), PQgetvalue(row, 0, 1), gone ? "1" : "0", ns};
			redisReply *filled;

			snprintf(lifetime, sizeof(lifetime), "%d", ttl);
			filled = call(s, 11, fill);
			if (filled && filled->type == REDIS_REPLY_STRING && strcmp(filled->str, "ok") == 0)
				strcpy(copy->source, "load");
			freeReplyObject(filled);
		}
		PQclear(row);
	}
	freeReplyObject(answer);
}

/* What people do. */
static void
read_naively(Session *s, const char *key, const char *id, Copy *copy)
{
	const char *get[] = {"GET", key};
	redisReply *answer = call(s, 2, get);
	PGresult   *row;

	if (answer && answer->type == REDIS_REPLY_STRING)
		parse(copy, answer->str, "L2");
	else if ((row = run(s, "row", id, NULL)) != NULL)
	{
		bool		gone = PQntuples(row) == 0;
		const char *set[] = {"SET", key, gone ? "" : PQgetvalue(row, 0, 0)};

		parse(copy, gone ? NULL : PQgetvalue(row, 0, 0), "load");
		freeReplyObject(call(s, 3, set));
		PQclear(row);
	}
	freeReplyObject(answer);
}

/* How far the relay has come: asked of Redis, or of PostgreSQL inside. */
static bool
ask_applied(Session *s, char *applied, size_t size)
{
	char		state[NAME_LEN + 16];
	const char *get[] = {"HGET", state, "applied"};
	redisReply *answer;

	strcpy(applied, "");
	if (naive)
		return true;
	if (s->role == INSIDE || nseeds > 0)
		return ask(s, "applied", NULL, NULL, applied, size);
	snprintf(state, sizeof(state), "mlc:state:%s", ns);
	answer = call(s, 3, get);
	if (answer && answer->type == REDIS_REPLY_STRING)
		snprintf(applied, size, "%s", answer->str);
	freeReplyObject(answer);
	return true;
}

static void
read_once(Session *s)
{
	int			k = draw_key(s);
	char		id[16];
	char		key[NAME_LEN + 16];
	char		applied[VERSION_LEN];
	Copy		copy = {.ok = false};
	int64_t		start;
	int64_t		end = 0;

	snprintf(id, sizeof(id), "%d", k);
	snprintf(key, sizeof(key), "%s:%d", table, k);
	if (!ask_applied(s, applied, sizeof(applied)))
		return;
	start = now();
	if (naive)
		read_naively(s, key, id, &copy);
	else if (s->role == INSIDE)
		read_inside(s, key, &copy, &end);
	else
		read_outside(s, key, id, &copy);
	if (end == 0)
		end = now();
	if (!copy.ok)
		return;
	if (copy.gone)
		record(s, "r %d %d %" PRId64 " %" PRId64 " - - %s %s", s->number, k, start, end,
			   copy.source, *applied ? applied : "-");
	else
		record(s, "r %d %d %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %s %s", s->number, k,
			   start, end, copy.ver, copy.op, copy.source, *applied ? applied : "-");
}

/* ---- writing ---- */

/* One change of a key in the transaction at hand; false: it failed. */
static bool
change(Session *s, int k, int64_t op, int64_t *ver, bool *gone)
{
	char		id[16];
	char		opt[24];
	char		answer[512];

	snprintf(id, sizeof(id), "%d", k);
	snprintf(opt, sizeof(opt), "%" PRId64, op);
	*gone = false;
	*ver = 0;
	if (k % 4 == 0 && !ask(s, "lock", id, NULL, answer, sizeof(answer)))
		return false;
	*gone = k % 4 == 0 && draw(s, 5) == 0;
	if (!ask(s, *gone ? "delete" : "update", id, opt, answer, sizeof(answer)))
		return false;
	if (*answer == '\0' && k % 4 == 0)
	{
		*gone = false;
		if (!ask(s, "insert", id, opt, answer, sizeof(answer)))
			return false;
	}
	*ver = strtoll(answer, NULL, 10);
	return *ver > 0;
}

static bool
reads_own_write(Session *s, int k, int64_t ver, int64_t op, bool gone)
{
	char		key[NAME_LEN + 16];
	char		text[512];
	Copy		copy;
	int64_t		at = now();

	snprintf(key, sizeof(key), "%s:%d", table, k);
	if (!ask(s, "get", key, NULL, text, sizeof(text)))
		return false;
	parse(&copy, text, "own");
	if (!copy.ok || copy.gone != gone || (!gone && (copy.ver != ver || copy.op != op)))
		record(s, "o %d %d %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " own -", s->number, k,
			   at, now(), ver, op);
	return true;
}

static void
write_once(Session *s)
{
	int			k[2];
	int			n = draw(s, 5) == 0 && keys > 1 ? 2 : 1;
	int64_t		op[2];
	int64_t		ver[2];
	bool		gone[2];
	bool		rollback = draw(s, 10) == 0;
	int64_t		start;
	int64_t		end;
	char		version[VERSION_LEN] = "";

	k[0] = draw_key(s);
	k[1] = 1 + draw(s, keys);
	if (n == 2 && k[1] <= k[0])
	{
		int			other = k[0];

		/* in one order everywhere, lest they block each other */
		k[0] = k[1];
		k[1] = other;
		if (k[0] == k[1])
			n = 1;
	}
	if (!command(s, "BEGIN"))
		return;
	if (draw(s, 10) == 0)
	{
		/* what a savepoint takes back has never been */
		if (!command(s, "SAVEPOINT s") ||
			!change(s, k[0], next_op++, &ver[0], &gone[0]) ||
			!command(s, "ROLLBACK TO s"))
			goto give_up;
	}
	for (int i = 0; i < n; i++)
	{
		op[i] = next_op++;
		if (!change(s, k[i], op[i], &ver[i], &gone[i]))
			goto give_up;
	}
	if (!naive && draw(s, 10) == 0 && !reads_own_write(s, k[0], ver[0], op[0], gone[0]))
		goto give_up;
	if (rollback)
		goto give_up;

	start = now();
	if (command(s, "COMMIT"))
		end = now();
	else
		end = 0;
	if (end != 0 && !naive &&
		!ask(s, "version", NULL, NULL, version, sizeof(version)))
		*version = '\0';
	for (int i = 0; i < n; i++)
	{
		char		key[NAME_LEN + 16];
		const char *del[] = {"DEL", key};
		char		endt[24] = "-";

		snprintf(key, sizeof(key), "%s:%d", table, k[i]);
		if (naive && end != 0)
			freeReplyObject(call(s, 2, del));
		if (end != 0)
			snprintf(endt, sizeof(endt), "%" PRId64, end);
		record(s, "w %d %d %" PRId64 " %s %" PRId64 " %" PRId64 " %d %s", s->number, k[i], start,
			   endt, ver[i], op[i], gone[i], *version ? version : "-");
	}
	return;

give_up:
	if (s->pg)
		(void) command(s, "ROLLBACK");
}

/* ---- the run ---- */

static void *
session_main(void *arg)
{
	Session    *s = arg;

	while (!stop && have_pg(s))
	{
		if (s->role == WRITER)
			write_once(s);
		else
			read_once(s);
		if (think > 0)
			usleep(draw(s, 2 * think));
	}
	if (s->pg)
		PQfinish(s->pg);
	lose_redis(s);
	for (int i = 0; i < MAX_NODES; i++)
		if (s->nodes[i].redis)
			lose_node(s, s->nodes[i].redis);
	return NULL;
}

static void
take_seeds(const char *list)
{
	char		copy[512];
	char	   *rest = copy;
	char	   *seed;

	snprintf(copy, sizeof(copy), "%s", list);
	while ((seed = strsep(&rest, ",")) != NULL && nseeds < MAX_NODES)
		snprintf(seeds[nseeds++], ADDRESS_LEN, "%s", seed);
}

static void
option(const char *text)
{
	const char *value = strchr(text, '=');
	struct
	{
		const char *name;
		const char **string;
		int		   *number;
	}			known[] = {
		{"pg=", &pg_info, NULL}, {"ns=", &ns, NULL}, {"table=", &table, NULL},
		{"out=", &out_file, NULL}, {"keys=", NULL, &keys}, {"inside=", NULL, &inside},
		{"outside=", NULL, &outside}, {"writers=", NULL, &writers}, {"think=", NULL, &think},
		{"ttl=", NULL, &ttl}
	};

	if (value == NULL)
		die("options are name=value");
	value++;
	if (strncmp(text, "redis=cluster:", 14) == 0)
	{
		take_seeds(text + 14);
		return;
	}
	if (strncmp(text, "redis=", 6) == 0)
	{
		snprintf(redis_socket, sizeof(redis_socket), "%s", value);
		return;
	}
	if (strncmp(text, "mode=", 5) == 0)
	{
		naive = strcmp(value, "naive") == 0;
		return;
	}
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strncmp(text, known[i].name, strlen(known[i].name)) == 0)
		{
			if (known[i].string)
				*known[i].string = value;
			else
				*known[i].number = atoi(value);
			return;
		}
	die(text);
}

static void
listen_to_stdin(void)
{
	char		line[300];

	while (fgets(line, sizeof(line), stdin))
	{
		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, "redis ", 6) == 0)
		{
			pthread_mutex_lock(&redis_lock);
			snprintf(redis_socket, sizeof(redis_socket), "%.*s",
					 (int) sizeof(redis_socket) - 1, line + 6);
			redis_epoch++;
			pthread_mutex_unlock(&redis_lock);
		}
		else if (strcmp(line, "stop") == 0)
			break;
	}
	stop = true;
}

int
main(int argc, char **argv)
{
	Session    *sessions;
	int			n;
	int64_t		lost = 0;
	int64_t		refused = 0;
	FILE	   *out;

	for (int i = 1; i < argc; i++)
		option(argv[i]);
	if (strlen(table) >= NAME_LEN || strlen(ns) >= NAME_LEN || keys < 1)
		die("table, ns or keys");
	signal(SIGPIPE, SIG_IGN);
	n = inside + outside + writers;
	sessions = calloc(n, sizeof(Session));
	if (sessions == NULL)
		die("out of memory");
	for (int i = 0; i < n; i++)
	{
		sessions[i].number = i;
		sessions[i].role = i < inside ? INSIDE : i < inside + outside ? OUTSIDE : WRITER;
		sessions[i].random = (uint64_t) now() ^ (UINT64_C(0x9E3779B97F4A7C15) * (i + 1));
		if (pthread_create(&sessions[i].thread, NULL, session_main, &sessions[i]) != 0)
			die("cannot create a thread");
	}
	listen_to_stdin();

	out = fopen(out_file, "w");
	if (out == NULL)
		die(out_file);
	for (int i = 0; i < n; i++)
	{
		pthread_join(sessions[i].thread, NULL);
		if (sessions[i].len > 0 &&
			fwrite(sessions[i].record, sessions[i].len, 1, out) != 1)
			die("cannot write");
		lost += sessions[i].lost;
		refused += sessions[i].refused;
		free(sessions[i].record);
	}
	if (fclose(out) != 0)
		die("cannot write");
	free(sessions);
	printf("%" PRId64 " connections lost, %" PRId64 " transactions refused\n", lost, refused);
	return 0;
}
