/*-------------------------------------------------------------------------
 *
 * redis/sentinel.c
 *	  Redis Sentinel: which server is the master just now.
 *
 * A sentinel is asked whenever a connection is made, and the server it names
 * must say of itself that it is a master (redis/open.c) before it is used.
 *
 * That is not enough for a connection that stays open: a master that was away
 * for a while and has been replaced says that it is one until Sentinel gets at
 * it.  So the epoch of the failover that made a master, which Sentinel counts
 * up, is kept in shared memory: as soon as one process hears of a newer one,
 * no process uses a connection of an older one any more.  A sentinel that has
 * not heard of it yet is not believed.
 *
 * Locks: none; the slots in shared memory are claimed by compare-and-set and
 * never freed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "redis/sentinel.h"
#include "shm/segment.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

struct MlcSearch
{
	MemoryContext context;
	MlcRedisOptions *options;
	int			number;			/* of the sentinel that is being asked */
	MlcConn    *conn;			/* to it; NULL: all have been asked */
	bool		asked;			/* the answer is awaited, */
	TimestampTz asked_at;		/* since then */
	MlcMaster	best;			/* that anybody behind has named; host NULL:
								 * none */
	char		error[256];		/* of the last one that did not know */
};

/* A name for the slot in shared memory: all that tells one master from others. */
static uint64
name_of(const MlcRedisOptions *options)
{
	uint64		sum = 0;
	uint64		hash;

	/* in any order: find() moves them about */
	for (int i = 0; i < options->nsentinels; i++)
	{
		MlcSeed    *seed = &options->sentinels[i];

		sum += hash_bytes_extended((unsigned char *) seed->host,
								   strlen(seed->host), seed->port);
	}
	hash = hash_bytes_extended((unsigned char *) options->sentinel,
							   strlen(options->sentinel), sum);
	return hash != 0 ? hash : 1;
}

pg_atomic_uint64 *
mlc_sentinel_epoch(const MlcRedisOptions *options)
{
	uint64		name;

	if (mlc_shared == NULL)
		return NULL;
	name = name_of(options);
	for (int i = 0; i < MLC_MAX_SENTINELS; i++)
	{
		MlcSentinelEpoch *slot = &mlc_shared->sentinels[i];
		uint64		expected = 0;

		if (pg_atomic_compare_exchange_u64(&slot->name, &expected, name) ||
			expected == name)
			return &slot->epoch;
	}
	return NULL;
}

/* Raises the epoch; false: somebody has heard of a newer one. */
static bool
raise_epoch(pg_atomic_uint64 *epoch, uint64 heard)
{
	uint64		known = epoch ? pg_atomic_read_u64(epoch) : heard;

	while (known < heard)
		if (pg_atomic_compare_exchange_u64(epoch, &known, heard))
			return true;
	return known == heard;
}

/* The value of a field in a flat list of names and values, or NULL. */
static const char *
field(const MlcReply *reply, const char *name)
{
	for (size_t i = 0; i + 1 < reply->nelements; i += 2)
		if (reply->elements[i]->str && reply->elements[i + 1]->str &&
			strcmp(reply->elements[i]->str, name) == 0)
			return reply->elements[i + 1]->str;
	return NULL;
}

/* Begins with the next sentinel.  False: there is none left. */
static bool
try_next(MlcSearch *search)
{
	MlcRedisOptions own = *search->options;

	if (search->conn)
		mlc_conn_close(search->conn);
	search->conn = NULL;
	search->asked = false;
	if (++search->number >= own.nsentinels)
		return false;
	own.sentinel = NULL;
	own.host = own.sentinels[search->number].host;
	own.port = own.sentinels[search->number].port;
	own.database = 0;
	own.username = own.sentinel_username;
	own.password = own.sentinel_password;
	search->conn = mlc_conn_create(search->context, &own);
	return true;
}

MlcSearch *
mlc_sentinel_begin(MlcRedisOptions *options)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "mlcache sentinel",
												  ALLOCSET_SMALL_SIZES);
	MlcSearch  *search = MemoryContextAllocZero(context, sizeof(MlcSearch));

	search->context = context;
	search->options = options;
	search->number = -1;
	snprintf(search->error, sizeof(search->error), "there are none");
	(void) try_next(search);
	return search;
}

void
mlc_sentinel_end(MlcSearch *search)
{
	MemoryContextDelete(search->context);
}

MlcConn *
mlc_sentinel_conn(MlcSearch *search)
{
	return search->conn;
}

uint32
mlc_sentinel_awaits(MlcSearch *search)
{
	return search->asked ? WL_SOCKET_READABLE : mlc_conn_awaits(search->conn);
}

const char *
mlc_sentinel_error(MlcSearch *search)
{
	return search->error;
}

/* The answer to SENTINEL MASTER.  False, with the reason in error: it is none. */
static bool
understand(MlcSearch *search, const MlcReply *reply, MlcMaster *heard)
{
	const MlcSeed *seed = &search->options->sentinels[search->number];

	if (reply->type == MLC_REPLY_ERROR)
	{
		snprintf(search->error, sizeof(search->error), "%s:%d: %s", seed->host,
				 seed->port, reply->str);
		return false;
	}
	if (reply->type != MLC_REPLY_ARRAY || !field(reply, "ip") ||
		!field(reply, "port") || !field(reply, "config-epoch"))
	{
		snprintf(search->error, sizeof(search->error), "%s:%d is no sentinel",
				 seed->host, seed->port);
		return false;
	}
	heard->host = MemoryContextStrdup(search->context, field(reply, "ip"));
	heard->port = atoi(field(reply, "port"));
	heard->epoch = strtoull(field(reply, "config-epoch"), NULL, 10);
	return true;
}

static void
move_to_front(MlcSearch *search)
{
	MlcSeed    *all = search->options->sentinels;
	MlcSeed		seed = all[search->number];

	memmove(&all[1], &all[0], search->number * sizeof(MlcSeed));
	all[0] = seed;
}

/* Asks one sentinel.  FAILED: error says why. */
static MlcConnOpening
ask(MlcSearch *search, MlcMaster *heard)
{
	MlcConn    *conn = search->conn;

	if (!search->asked)
	{
		const char *argv[3] = {"SENTINEL", "MASTER", search->options->sentinel};
		MlcConnOpening opening = mlc_conn_open_nowait(conn);

		if (opening == MLC_CONN_OPENED)
		{
			mlc_conn_append(conn, lengthof(argv), argv, NULL);
			search->asked = true;
			search->asked_at = GetCurrentTimestamp();
		}
		else
		{
			if (opening == MLC_CONN_FAILED)
				strlcpy(search->error, mlc_conn_error(conn), sizeof(search->error));
			return opening;
		}
	}
	if (!mlc_conn_push(conn))
	{
		strlcpy(search->error, mlc_conn_error(conn), sizeof(search->error));
		return MLC_CONN_FAILED;
	}
	if (mlc_conn_ready(conn))
	{
		MlcReply   *reply = mlc_conn_reply(conn);

		return reply && understand(search, reply, heard) ? MLC_CONN_OPENED :
			MLC_CONN_FAILED;
	}
	if (!TimestampDifferenceExceeds(search->asked_at, GetCurrentTimestamp(),
									search->options->timeout))
		return MLC_CONN_OPENING;
	snprintf(search->error, sizeof(search->error),
			 "a sentinel did not answer within %d ms", search->options->timeout);
	return MLC_CONN_FAILED;
}

MlcConnOpening
mlc_sentinel_go_on(MlcSearch *search, MlcMaster *master)
{
	pg_atomic_uint64 *epoch = mlc_sentinel_epoch(search->options);

	while (search->conn)
	{
		MlcMaster	heard;

		switch (ask(search, &heard))
		{
			case MLC_CONN_OPENING:
				return MLC_CONN_OPENING;
			case MLC_CONN_OPENED:
				if (raise_epoch(epoch, heard.epoch))
				{
					move_to_front(search);
					*master = heard;
					return MLC_CONN_OPENED;
				}
				if (search->best.host == NULL || heard.epoch > search->best.epoch)
					search->best = heard;
				break;
			case MLC_CONN_FAILED:
				break;
		}
		(void) try_next(search);
	}
	if (search->best.host == NULL)
		return MLC_CONN_FAILED;

	/*
	 * All that answer are behind.  Either nobody who knows better can be
	 * asked just now, or they have been told to begin anew (SENTINEL REMOVE,
	 * then MONITOR), which sets their epoch back; the first is over when
	 * somebody answers again.
	 */
	pg_atomic_write_u64(epoch, search->best.epoch);
	*master = search->best;
	return MLC_CONN_OPENED;
}
