/*-------------------------------------------------------------------------
 *
 * test/bench/lock/lock.c
 *	  Acquires and releases one lock, again and again, in many processes.
 *
 * lock KIND PROCESSES SECONDS REDIS_SOCKET SHA [CONNINFO]
 *
 * KIND: mlcache (two statements), inside (both in one statement), advisory
 * (pg_advisory_lock), redis (SET NX PX, polled, and a script that deletes what
 * is one's own), ping (one round trip to Redis), select (one to PostgreSQL).
 * Prints "pairs a second, p50, p99" in microseconds.
 *
 *-------------------------------------------------------------------------
 */
#include <hiredis/hiredis.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_SAMPLES 200000
#define MAX_PROCESSES 64

typedef struct Result
{
	int			n;
	float		us[MAX_SAMPLES];
} Result;

static PGconn *pg;
static redisContext *redis;
static const char *kind;
static const char *sha;
static char owner[32];

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

static void
sql(const char *query)
{
	PGresult   *result = PQexec(pg, query);

	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQgetisnull(result, 0, 0))
	{
		fprintf(stderr, "%s: %s\n", query, PQerrorMessage(pg));
		exit(1);
	}
	PQclear(result);
}

static void
set_nx(void)
{
	int			pause = 1000;

	for (;;)
	{
		redisReply *reply = redisCommand(redis, "SET bench:lock %s NX PX 30000", owner);
		int			had;

		if (reply == NULL)
			exit(1);
		had = reply->type == REDIS_REPLY_STATUS;
		freeReplyObject(reply);
		if (had)
			return;
		usleep(pause);
		pause = pause * 2 < 20000 ? pause * 2 : 20000;
	}
}

static void
pair(void)
{
	if (strcmp(kind, "mlcache") == 0)
	{
		sql("SELECT mlcache.lock_acquire('bench', wait => '60 s')");
		sql("SELECT mlcache.lock_release('bench')");
	}
	else if (strcmp(kind, "inside") == 0)
		sql("SELECT mlcache.lock_acquire('bench', wait => '60 s'), mlcache.lock_release('bench')");
	else if (strcmp(kind, "advisory") == 0)
	{
		sql("SELECT pg_advisory_lock(1)");
		sql("SELECT pg_advisory_unlock(1)");
	}
	else if (strcmp(kind, "select") == 0)
		sql("SELECT 1");
	else if (strcmp(kind, "redis") == 0)
	{
		set_nx();
		freeReplyObject(redisCommand(redis, "EVALSHA %s 1 bench:lock %s", sha, owner));
	}
	else
		freeReplyObject(redisCommand(redis, "PING"));
}

static int
compare(const void *a, const void *b)
{
	float		x = *(const float *) a,
				y = *(const float *) b;

	return (x > y) - (x < y);
}

int
main(int argc, char **argv)
{
	int			processes = atoi(argv[2]);
	double		seconds = atof(argv[3]);
	Result	   *results = mmap(NULL, sizeof(Result) * MAX_PROCESSES,
							   PROT_READ | PROT_WRITE,
							   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	float	   *all = malloc(sizeof(float) * MAX_SAMPLES * MAX_PROCESSES);
	int			n = 0;

	kind = argv[1];
	sha = argv[5];
	for (int i = 0; i < processes; i++)
	{
		if (fork() == 0)
		{
			double		until;

			snprintf(owner, sizeof(owner), "bench-%d", i);
			redis = redisConnectUnix(argv[4]);
			pg = PQconnectdb(argc > 6 ? argv[6] : "");
			if (redis == NULL || redis->err || PQstatus(pg) != CONNECTION_OK)
				exit(1);
			for (int j = 0; j < 20; j++)
				pair();
			until = now() + seconds * 1e6;
			while (now() < until && results[i].n < MAX_SAMPLES)
			{
				double		start = now();

				pair();
				results[i].us[results[i].n++] = (float) (now() - start);
			}
			exit(0);
		}
	}
	for (int i = 0; i < processes; i++)
	{
		int			status;

		wait(&status);
		if (status != 0)
			return 1;
	}
	for (int i = 0; i < processes; i++)
		for (int j = 0; j < results[i].n; j++)
			all[n++] = results[i].us[j];
	qsort(all, n, sizeof(float), compare);
	printf("%.0f %.1f %.1f\n", n / seconds, all[n / 2], all[(int) (n * 0.99)]);
	return 0;
}
