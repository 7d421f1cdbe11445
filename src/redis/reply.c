/*-------------------------------------------------------------------------
 *
 * redis/reply.c
 *	  Replies: are all bytes there, and hiredis' reader building them in our
 *	  memory.
 *
 * A reply is parsed only once all of its bytes have arrived, and then in one
 * go.  So there is never a half-built tree whose memory somebody might reset
 * between two waits.  Finding out whether all bytes are there takes no
 * memory: a reply is a tree of values, each with a header line that says how
 * many bytes or values follow, so it is enough to count the values that are
 * missing.  Where the count stood is kept: a long reply is walked once,
 * however many pieces it comes in.  What memory the tree takes is added up
 * meanwhile, so that it is one allocation.  Strings lie in it as PostgreSQL's text
 * does: a payload is copied out of the input once, and that is the datum.
 *
 * Locks: none.  Must not: throw from what hiredis calls, since hiredis' frames
 * lie in between.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "utils/memutils.h"

#include "redis/reply.h"

/* A header line ("$123\r\n") is short; an error or a status is not endless. */
#define MLC_REPLY_MAX_LINE 65536

/* Longer strings would not fit into a datum. */
#define MLC_REPLY_MAX_STRING (MaxAllocSize - VARHDRSZ)

/* What is left of the memory of the reply that is being taken. */
typedef struct Room
{
	char	   *next;
	char	   *end;
} Room;

/* A string's length as of a text, the string, and a NUL. */
#define STRING_MEMORY(len) MAXALIGN(VARHDRSZ + (size_t) (len) + 1)

/* What a value holds follows the struct. */
static MlcReply *
make_reply(const redisReadTask * task, MlcReplyType type, size_t extra)
{
	Room	   *room = task->privdata;
	MlcReply   *reply = (MlcReply *) room->next;

	if (sizeof(MlcReply) + extra > (size_t) (room->end - room->next))
	{
		Assert(false);			/* the scan has counted wrong */
		return NULL;
	}
	room->next += sizeof(MlcReply) + extra;
	memset(reply, 0, sizeof(*reply));
	reply->type = type;
	if (task->parent != NULL)
	{
		MlcReply   *parent = task->parent->obj;

		parent->elements[task->idx] = reply;
	}
	return reply;
}

static void *
make_string(const redisReadTask * task, char *str, size_t len)
{
	MlcReplyType type = MLC_REPLY_STRING;
	MlcReply   *reply;

	if (task->type == REDIS_REPLY_ERROR)
		type = MLC_REPLY_ERROR;
	else if (task->type == REDIS_REPLY_STATUS)
		type = MLC_REPLY_STATUS;
	reply = make_reply(task, type, STRING_MEMORY(len));
	if (reply == NULL)
		return NULL;
	SET_VARSIZE(reply + 1, VARHDRSZ + len);
	reply->str = (char *) (reply + 1) + VARHDRSZ;
	reply->len = len;
	memcpy(reply->str, str, len);
	reply->str[len] = '\0';
	return reply;
}

/* The count is an int in hiredis 0.x, a size_t from 1.0 on. */
#if HIREDIS_MAJOR >= 1
static void *
make_array(const redisReadTask * task, size_t nelements)
#else
static void *
make_array(const redisReadTask * task, int nelements)
#endif
{
	size_t		size = nelements * sizeof(MlcReply *);
	MlcReply   *reply = make_reply(task, MLC_REPLY_ARRAY, size);

	if (reply == NULL)
		return NULL;
	reply->nelements = nelements;
	reply->elements = (MlcReply **) (reply + 1);
	memset(reply->elements, 0, size);
	return reply;
}

static void *
make_integer(const redisReadTask * task, long long value)
{
	MlcReply   *reply = make_reply(task, MLC_REPLY_INTEGER, 0);

	if (reply != NULL)
		reply->integer = value;
	return reply;
}

static void *
make_nil(const redisReadTask * task)
{
	return make_reply(task, MLC_REPLY_NIL, 0);
}

/* Only after an error; what was built goes with its memory context. */
static void
drop_reply(void *reply)
{
}

static redisReplyObjectFunctions reply_functions =
{
	.createString = make_string,
		.createArray = make_array,
		.createInteger = make_integer,
		.createNil = make_nil,
		.freeObject = drop_reply
};

void
mlc_reply_install(redisReader *reader)
{
	reader->fn = &reply_functions;
}

void
mlc_reply_scan_begin(MlcReplyScan *scan)
{
	scan->pos = 0;
	scan->missing = 1;
	scan->memory = 0;
}

/*
 * The number in a header line, between its type byte and its end.  False if
 * it is none; -1 is the only negative one.
 */
static bool
parse_count(const char *digit, const char *end, int64 *result)
{
	int64		number = 0;

	if (end - digit == 2 && digit[0] == '-' && digit[1] == '1')
	{
		*result = -1;
		return true;
	}
	if (end - digit < 1 || end - digit > 10)
		return false;
	for (; digit < end; digit++)
	{
		if (*digit < '0' || *digit > '9')
			return false;
		number = number * 10 + (*digit - '0');
	}
	*result = number;
	return true;
}

MlcReplyState
mlc_reply_scan(MlcReplyScan *scan, const redisReader *reader)
{
	const char *start = reader->buf + reader->pos;
	size_t		len = reader->len - reader->pos;

	while (scan->missing > 0)
	{
		const char *line = start + scan->pos;
		size_t		avail = len - scan->pos;
		size_t		memory = sizeof(MlcReply);
		const char *lf;
		int64		count = 0;
		size_t		size;

		if (avail == 0)
			return MLC_REPLY_PARTIAL;
		if (memchr("+-:$*", *line, 5) == NULL)
			return MLC_REPLY_MALFORMED;
		lf = memchr(line, '\n', Min(avail, MLC_REPLY_MAX_LINE));
		if (lf == NULL)
			return avail < MLC_REPLY_MAX_LINE ?
				MLC_REPLY_PARTIAL : MLC_REPLY_MALFORMED;
		if (lf - line < 2 || lf[-1] != '\r')
			return MLC_REPLY_MALFORMED;
		if ((*line == '$' || *line == '*') &&
			!parse_count(line + 1, lf - 1, &count))
			return MLC_REPLY_MALFORMED;

		size = lf + 1 - line;
		if (*line == '$' && count >= 0)
		{
			if (count > (int64) MLC_REPLY_MAX_STRING)
				return MLC_REPLY_MALFORMED;
			size += count + 2;
			if (avail < size)
				return MLC_REPLY_PARTIAL;
			if (line[size - 2] != '\r' || line[size - 1] != '\n')
				return MLC_REPLY_MALFORMED; /* hiredis would not notice */
			memory += STRING_MEMORY(count);
		}
		else if (*line == '*' && count > 0)
		{
			scan->missing += count;
			memory += count * sizeof(MlcReply *);
		}
		else if (*line == '+' || *line == '-')
			memory += STRING_MEMORY(lf - line - 2);
		scan->memory += memory;
		scan->pos += size;
		scan->missing--;
	}
	return MLC_REPLY_COMPLETE;
}

MlcReply *
mlc_reply_take(const MlcReplyScan *scan, redisReader *reader)
{
	void	   *reply = NULL;
	Room		room;

	room.next = MemoryContextAllocExtended(CurrentMemoryContext, scan->memory,
										   MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (room.next == NULL)
		return NULL;
	room.end = room.next + scan->memory;
	reader->privdata = &room;
	if (redisReaderGetReply(reader, &reply) != REDIS_OK)
		return NULL;
	return reply;
}
