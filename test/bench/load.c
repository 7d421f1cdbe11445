/*-------------------------------------------------------------------------
 *
 * test/bench/load.c
 *	  A load of guarded reads and of writes, and a look at what the reads saw.
 *	  See test/bench/load for how to use it.
 *
 * Each write adds one to the version of its row.  What has been committed is
 * noted when its COMMIT has returned, and what was committed is looked up
 * before a read is sent: one that returns less is stale.  Nothing but counting
 * goes on between the two, so there are no false alarms, whatever the clocks.
 *
 *-------------------------------------------------------------------------
 */
#include <getopt.h>
#include <inttypes.h>
#include <libpq-fe.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TABLE "mlcache_load"
#define STEPS 32				/* buckets a power of two: 3 % */
#define BUCKETS (40 * STEPS)

typedef struct Histogram
{
	uint64_t	count[BUCKETS]; /* by ns, see bucket_of() */
	uint64_t	n;
	uint64_t	max;			/* ns */
} Histogram;

typedef struct Client
{
	pthread_t	thread;
	PGconn	   *pg;
	uint64_t	seed;
	Histogram	reads;
	Histogram	writes;
	_Atomic		uint64_t nreads;	/* also seen by who prints the progress */
	_Atomic		uint64_t nwrites;
	_Atomic		uint64_t errors;
	char		error[256];		/* the first one */
}			Client;

/* What has happened to one key. */
typedef struct Key
{
	_Atomic		uint64_t sent;	/* writes that have begun */
	_Atomic		uint64_t committed; /* the last version whose COMMIT returned */
	_Atomic		uint64_t at;	/* ns, when */
}			Key;

static int	clients = 16;
static int	seconds = 30;
static int	reads = 95;			/* % */
static int	nkeys = 10000;
static int	size = 200;			/* bytes of a row beside its numbers */
static double zipf = 1.0;
static double rate = 0;			/* operations a second; 0: as fast as it goes */
static const char *consistency = "strong";
static bool cached = true;
static const char *conninfo = "";

static Key * keys;
static double *shares;			/* by rank: how much falls up to it */
static _Atomic uint64_t stale;
static _Atomic uint64_t stalest;	/* ns */
static _Atomic uint64_t unwritten;
static _Atomic bool stop;

/* ---------- small things ---------- */

static uint64_t
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void
die(const char *what, const char *detail)
{
	fprintf(stderr, "load: %s%s%s\n", what, detail[0] ? ": " : "", detail);
	exit(2);
}

/* xorshift64* (Vigna, 2016) */
static uint64_t
next_random(uint64_t * seed)
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 2685821657736338717u;
}

static double
next_fraction(uint64_t * seed)
{
	return (next_random(seed) >> 11) / 9007199254740992.0;	/* 2^53 */
}

/* A key by Zipf's law; hot ones lie anywhere. */
static int
choose_key(uint64_t * seed)
{
	double		x = next_fraction(seed);
	int			low = 0,
				high = nkeys - 1;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (shares[middle] < x)
			low = middle + 1;
		else
			high = middle;
	}
	return (int) (((uint64_t) low * 2654435761u) % nkeys);
}

static void
raise_to(_Atomic uint64_t * value, uint64_t to)
{
	uint64_t	old = atomic_load(value);

	while (old < to && !atomic_compare_exchange_weak(value, &old, to))
		;
}

/* ---------- histograms ---------- */

static int
bucket_of(uint64_t ns)
{
	int			power = 63 - __builtin_clzll(ns | STEPS);
	int			bucket = (power - 4) * STEPS + (int) ((ns >> (power - 5)) & (STEPS - 1));

	return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static double
bucket_ms(int bucket)
{
	int			power = bucket / STEPS + 4;

	return ((uint64_t) (STEPS + bucket % STEPS) << (power - 5)) / 1e6;
}

static void
count(Histogram *histogram, uint64_t ns)
{
	histogram->count[bucket_of(ns)]++;
	histogram->n++;
	if (ns > histogram->max)
		histogram->max = ns;
}

static void
add(Histogram *sum, const Histogram *part)
{
	for (int i = 0; i < BUCKETS; i++)
		sum->count[i] += part->count[i];
	sum->n += part->n;
	if (part->max > sum->max)
		sum->max = part->max;
}

static double
quantile_ms(const Histogram *histogram, double q)
{
	uint64_t	wanted = (uint64_t) (histogram->n * q),
				seen = 0;

	for (int i = 0; i < BUCKETS; i++)
	{
		seen += histogram->count[i];
		if (seen > wanted)
			return bucket_ms(i);
	}
	return histogram->max / 1e6;
}

/* ---------- SQL ---------- */

static void
swallow(void *arg, const char *message)
{
}

static PGconn *
connect_or_die(void)
{
	PGconn	   *pg = PQconnectdb(conninfo);

	if (PQstatus(pg) != CONNECTION_OK)
		die("no connection", PQerrorMessage(pg));
	PQsetNoticeProcessor(pg, swallow, NULL);
	return pg;
}

static char *
value_or_die(PGconn *pg, const char *query)
{
	PGresult   *result = PQexec(pg, query);
	char	   *value = NULL;

	if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK)
		die(query, PQerrorMessage(pg));
	if (PQntuples(result) > 0)
		value = strdup(PQgetvalue(result, 0, 0));
	PQclear(result);
	return value;
}

static void
run_or_die(PGconn *pg, const char *query)
{
	free(value_or_die(pg, query));
}

static void
prepare_or_die(PGconn *pg, const char *name, const char *query)
{
	PGresult   *result = PQprepare(pg, name, query, 0, NULL);

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die(query, PQerrorMessage(pg));
	PQclear(result);
}

static void
prepare_statements(PGconn *pg)
{
	prepare_or_die(pg, "read", cached ?
				   "SELECT mlcache.get('" TABLE ":' || $1::int)" :
				   "SELECT row_to_json(t) FROM " TABLE " t WHERE id = $1::int");
	prepare_or_die(pg, "write", "UPDATE " TABLE " SET version = version + 1 "
				   "WHERE id = $1::int RETURNING version");
}

/* NULL: an error, which was counted. */
static PGresult *
execute(Client * client, const char *name, int key)
{
	char		text[16];
	const char *values[1] = {text};
	PGresult   *result;

	snprintf(text, sizeof(text), "%d", key);
	result = PQexecPrepared(client->pg, name, 1, values, NULL, NULL, 0);
	if (PQresultStatus(result) == PGRES_TUPLES_OK && PQntuples(result) == 1)
		return result;
	if (atomic_fetch_add(&client->errors, 1) == 0)
		snprintf(client->error, sizeof(client->error), "%s", PQerrorMessage(client->pg));
	PQclear(result);
	if (PQstatus(client->pg) != CONNECTION_OK)
	{
		struct timespec pause = {0, 200000000};

		nanosleep(&pause, NULL);
		PQreset(client->pg);
		if (PQstatus(client->pg) == CONNECTION_OK)
			prepare_statements(client->pg);
	}
	return NULL;
}

/* ---------- the load ---------- */

static void
do_read(Client * client, int key)
{
	uint64_t	floor = atomic_load(&keys[key].committed);
	uint64_t	at = atomic_load(&keys[key].at);
	uint64_t	start = now();
	PGresult   *result = execute(client, "read", key);
	const char *found;
	uint64_t	version;

	if (result == NULL)
		return;
	count(&client->reads, now() - start);
	atomic_fetch_add(&client->nreads, 1);
	found = strstr(PQgetvalue(result, 0, 0), "\"version\":");
	version = found ? strtoull(found + 10, NULL, 10) : 0;
	PQclear(result);
	if (version < floor)
	{
		atomic_fetch_add(&stale, 1);
		raise_to(&stalest, at < start ? start - at : 0);
	}
	else if (version > atomic_load(&keys[key].sent))
		atomic_fetch_add(&unwritten, 1);
}

static void
do_write(Client * client, int key)
{
	uint64_t	start;
	PGresult   *result;

	atomic_fetch_add(&keys[key].sent, 1);
	start = now();
	result = execute(client, "write", key);
	if (result == NULL)
		return;
	count(&client->writes, now() - start);
	atomic_fetch_add(&client->nwrites, 1);
	raise_to(&keys[key].at, now());
	raise_to(&keys[key].committed, strtoull(PQgetvalue(result, 0, 0), NULL, 10));
	PQclear(result);
}

static void *
client_main(void *arg)
{
	Client	   *client = arg;
	uint64_t	next = now();

	while (!atomic_load(&stop))
	{
		int			key = choose_key(&client->seed);

		if (rate > 0)
		{
			uint64_t	is = now();

			next += (uint64_t) (-log(1 - next_fraction(&client->seed)) * 1e9 * clients / rate);
			if (next > is)
			{
				struct timespec pause = {(time_t) ((next - is) / 1000000000), (long) ((next - is) % 1000000000)};

				nanosleep(&pause, NULL);
			}
		}
		if ((int) (next_random(&client->seed) % 100) < reads)
			do_read(client, key);
		else
			do_write(client, key);
	}
	return NULL;
}

/* Share of hits, in %, and what of it was of L1; -1: no reads. */
static void
hit_ratio(PGconn *pg, double *hits, double *l1)
{
	PGresult   *result = PQexec(pg, "SELECT hits_l1, hits_l2, misses + bypassed FROM mlcache.stat_rules "
								"WHERE key = '" TABLE ":{id}'");
	double		n[3] = {0};

	for (int i = 0; i < 3 && PQntuples(result) == 1; i++)
		n[i] = atof(PQgetvalue(result, 0, i));
	PQclear(result);
	*hits = *l1 = -1;
	if (n[0] + n[1] + n[2] > 0)
	{
		*hits = 100 * (n[0] + n[1]) / (n[0] + n[1] + n[2]);
		*l1 = 100 * n[0] / (n[0] + n[1] + n[2]);
	}
}

static void
prepare_table(PGconn *pg)
{
	char		query[512];
	char	   *there = value_or_die(pg, "SELECT to_regclass('" TABLE "') IS NOT NULL");

	if (there[0] == 't')
		die("table " TABLE " exists", "an earlier load was cut short: DROP TABLE " TABLE);
	free(there);
	run_or_die(pg, "CREATE TABLE " TABLE " (id int PRIMARY KEY, version bigint NOT NULL, pad text) WITH (fillfactor = 70)");
	snprintf(query, sizeof(query), "INSERT INTO " TABLE " SELECT g, 0, repeat('x', %d) FROM generate_series(0, %d) g",
			 size, nkeys - 1);
	run_or_die(pg, query);
	run_or_die(pg, "VACUUM ANALYZE " TABLE);
	if (!cached)
		return;
	snprintf(query, sizeof(query), "SELECT mlcache.attach('" TABLE "', key => '" TABLE ":{id}', consistency => '%s')",
			 consistency);
	run_or_die(pg, query);
	for (int i = 0;; i++)
	{
		char	   *armed = value_or_die(pg, "SELECT bool_and(state = 'armed') FROM mlcache.stat_servers");
		struct timespec pause = {0, 50000000};

		if (armed && armed[0] == 't')
			break;
		if (i == 600)
			die("no Redis is armed after 30 s", "SELECT * FROM mlcache.check_setup();");
		free(armed);
		nanosleep(&pause, NULL);
	}
	run_or_die(pg, "SELECT mlcache.wait_applied(mlcache.last_commit_version(), '60 s')");
	run_or_die(pg, "SELECT mlcache.reset_stats()");
}

/* Keys whose cached copy is not the row once everything has been applied. */
static uint64_t
count_different(PGconn *pg)
{
	char	   *n;
	char	   *applied;
	uint64_t	result;

	/* a commit of this session's own, after those of all clients */
	run_or_die(pg, "UPDATE " TABLE " SET pad = pad WHERE id = 0");
	applied = value_or_die(pg, "SELECT mlcache.wait_applied(mlcache.last_commit_version(), '60 s')");
	if (applied == NULL || applied[0] != 't')
		die("the load is not applied after 60 s", "SELECT * FROM mlcache.stat_servers;");
	free(applied);
	n = value_or_die(pg, "SELECT count(*) FROM " TABLE " WHERE (mlcache.get('" TABLE ":' || id)::json->>'version')::bigint <> version");
	result = strtoull(n, NULL, 10);
	free(n);
	return result;
}

static void
print_row(const char *what, const Histogram *histogram, double took)
{
	printf("%-8s %10" PRIu64 " %11.0f %8.3f %8.3f %8.3f %8.3f %9.3f\n", what, histogram->n,
		   histogram->n / took, quantile_ms(histogram, 0.5), quantile_ms(histogram, 0.95),
		   quantile_ms(histogram, 0.99), quantile_ms(histogram, 0.999), histogram->max / 1e6);
}

static void
interrupted(int signo)
{
	atomic_store(&stop, true);
}

static void
watch(PGconn *pg, Client * client)
{
	uint64_t	start = now();
	uint64_t	last_reads = 0,
				last_writes = 0;

	for (int second = 1; second <= seconds && !atomic_load(&stop); second++)
	{
		uint64_t	all_reads = 0,
					all_writes = 0,
					errors = 0,
					wake = start + (uint64_t) second * 1000000000;
		double		hits = -1,
					l1;

		while (now() < wake && !atomic_load(&stop))
		{
			struct timespec pause = {0, 10000000};

			nanosleep(&pause, NULL);
		}
		for (int i = 0; i < clients; i++)
		{
			all_reads += client[i].nreads;
			all_writes += client[i].nwrites;
			errors += client[i].errors;
		}
		if (cached)
			hit_ratio(pg, &hits, &l1);
		printf("%4d s  %8" PRIu64 " reads/s  %7" PRIu64 " writes/s", second,
			   all_reads - last_reads, all_writes - last_writes);
		if (hits >= 0)
			printf("  hits so far %5.1f %%", hits);
		printf("  stale %" PRIu64 "%s", atomic_load(&stale), errors ? "" : "\n");
		if (errors)
			printf("  errors %" PRIu64 "\n", errors);
		fflush(stdout);
		last_reads = all_reads;
		last_writes = all_writes;
	}
}

static int
number(const char *option, const char *text, int least, int most)
{
	char	   *end;
	long		n = strtol(text, &end, 10);

	if (*end || end == text || n < least || n > most)
	{
		char		range[64];

		snprintf(range, sizeof(range), "from %d to %d is expected", least, most);
		die(option, range);
	}
	return (int) n;
}

static double
fraction(const char *option, const char *text, double most)
{
	char	   *end;
	double		x = strtod(text, &end);

	if (*end || end == text || !(x >= 0) || x > most)
		die(option, "a number that is not negative is expected");
	return x;
}

static void
read_options(int argc, char **argv)
{
	static const struct option options[] = {
		{"clients", required_argument, NULL, 'c'},
		{"duration", required_argument, NULL, 't'},
		{"reads", required_argument, NULL, 'r'},
		{"keys", required_argument, NULL, 'k'},
		{"size", required_argument, NULL, 's'},
		{"zipf", required_argument, NULL, 'z'},
		{"rate", required_argument, NULL, 'R'},
		{"consistency", required_argument, NULL, 'C'},
		{"no-cache", no_argument, NULL, 'n'},
		{"connect", required_argument, NULL, 'd'},
		{0}
	};
	int			c;

	while ((c = getopt_long(argc, argv, "c:t:r:k:s:z:R:C:nd:", options, NULL)) != -1)
		switch (c)
		{
			case 'c':
				clients = number("--clients", optarg, 1, 1000);
				break;
			case 't':
				seconds = number("--duration", optarg, 1, 86400);
				break;
			case 'r':
				reads = number("--reads", optarg, 0, 100);
				break;
			case 'k':
				nkeys = number("--keys", optarg, 1, 10000000);
				break;
			case 's':
				size = number("--size", optarg, 0, 1000000);
				break;
			case 'z':
				zipf = fraction("--zipf", optarg, 10);
				break;
			case 'R':
				rate = fraction("--rate", optarg, 1e9);
				break;
			case 'C':
				consistency = optarg;
				if (strcmp(optarg, "strong") && strcmp(optarg, "eventual") && strcmp(optarg, "weak"))
					die("--consistency", "strong, eventual or weak is expected");
				break;
			case 'n':
				cached = false;
				break;
			case 'd':
				conninfo = optarg;
				break;
			default:
				exit(2);
		}
	if (optind < argc)
		die("unexpected argument", argv[optind]);
}

int
main(int argc, char **argv)
{
	Client	   *client;
	PGconn	   *pg;
	Histogram	all_reads = {0},
				all_writes = {0};
	double		took,
				hits = -1,
				l1 = -1,
				sum = 0;
	uint64_t	start,
				different = 0,
				errors = 0,
				violations;
	bool		strong;

	read_options(argc, argv);
	strong = cached && strcmp(consistency, "strong") == 0;
	pg = connect_or_die();
	prepare_table(pg);

	keys = calloc(nkeys, sizeof(Key));
	shares = malloc(sizeof(double) * nkeys);
	client = calloc(clients, sizeof(Client));
	if (keys == NULL || shares == NULL || client == NULL)
		die("out of memory", "");
	for (int i = 0; i < nkeys; i++)
		shares[i] = sum += pow(i + 1, -zipf);
	for (int i = 0; i < nkeys; i++)
		shares[i] /= sum;

	signal(SIGINT, interrupted);
	signal(SIGTERM, interrupted);
	for (int i = 0; i < clients; i++)
	{
		client[i].pg = connect_or_die();
		client[i].seed = 88172645463325252u + 7919 * (uint64_t) i;
		prepare_statements(client[i].pg);
	}
	printf("%d clients, %d %% reads, %d keys of %d bytes, Zipf %.2f, %s\n", clients, reads, nkeys,
		   size, zipf, cached ? consistency : "no cache");
	start = now();
	for (int i = 0; i < clients; i++)
		if (pthread_create(&client[i].thread, NULL, client_main, &client[i]) != 0)
			die("no thread", "");
	watch(pg, client);
	atomic_store(&stop, true);
	for (int i = 0; i < clients; i++)
		pthread_join(client[i].thread, NULL);
	took = (now() - start) / 1e9;

	if (cached)
	{
		hit_ratio(pg, &hits, &l1);
		different = count_different(pg);
	}
	for (int i = 0; i < clients; i++)
	{
		add(&all_reads, &client[i].reads);
		add(&all_writes, &client[i].writes);
		if (client[i].errors && !errors)
			fprintf(stderr, "load: the first error: %s", client[i].error);
		errors += client[i].errors;
		PQfinish(client[i].pg);
	}
	violations = unwritten + different + (strong ? stale : 0);
	printf("\n%-8s %10s %11s %8s %8s %8s %8s %9s\n", "", "number", "a second", "p50 ms", "p95 ms", "p99 ms",
		   "p99.9 ms", "most ms");
	print_row("reads", &all_reads, took);
	print_row("writes", &all_writes, took);
	if (hits >= 0)
		printf("\nhit ratio %.2f %%, of L1 %.2f %%\n", hits, l1);
	printf("stale reads %" PRIu64 " (%.4f %%)", stale, all_reads.n ? 100.0 * stale / all_reads.n : 0);
	if (stale)
		printf(", the stalest %.3f ms after a newer commit had returned", stalest / 1e6);
	printf("\nviolations %" PRIu64, violations);
	if (violations)
		printf(": %" PRIu64 " stale, %" PRIu64 " never written, %" PRIu64 " keys different in the end",
			   strong ? stale : 0, unwritten, different);
	printf("\nerrors %" PRIu64 "\n", errors);

	run_or_die(pg, "DROP TABLE " TABLE);
	PQfinish(pg);
	return violations || errors ? 1 : 0;
}
