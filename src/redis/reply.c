/*-------------------------------------------------------------------------
 *
 * redis/reply.c
 *	  Replies: are all bytes there, and what they say.
 *
 * The protocol is RESP2: a reply is a tree of values, each with a header line
 * that says how many bytes or values follow.
 *
 * A reply is parsed only once all of its bytes have arrived, and then in one
 * go.  So there is never a half-built tree whose memory somebody might reset
 * between two waits.  Finding out whether all bytes are there takes no
 * memory: it is enough to count the values that are missing.  Where the count
 * stood is kept: a long reply is walked once, however many pieces it comes in.
 *
 * Meanwhile it is added up what memory the tree takes, so that it is one
 * allocation, whatever number of values.  Strings lie in it as PostgreSQL's
 * text does: a payload is copied out of the input once, and that is the datum.
 *
 * Locks: none.  Must not: throw.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "redis/reply.h"

/* A header line ("$123\r\n") is short; an error or a status is not endless. */
#define MLC_REPLY_MAX_LINE 65536

/* Longer strings would not fit into a datum; nor are there longer arrays. */
#define MAX_COUNT ((int64) MaxAllocSize)

/* Arrays in arrays; what we ask for has three. */
#define MLC_REPLY_MAX_DEPTH 8

/* A string's length, the string, and a NUL. */
#define STRING_MEMORY(len) MAXALIGN(VARHDRSZ + (size_t) (len) + 1)

void
mlc_reply_scan_begin(MlcReplyScan *scan)
{
	scan->pos = 0;
	scan->missing = 1;
	scan->memory = 0;
}

/*
 * A header line with a number: its length, 0 where it goes on beyond avail, -1
 * where it is none.
 */
static inline int
parse_header(const char *line, size_t avail, int64 *number)
{
	bool		negative = avail > 1 && line[1] == '-';
	size_t		first = negative ? 2 : 1;
	size_t		at = first;
	uint64		value = 0;

	for (; at < avail && line[at] >= '0' && line[at] <= '9'; at++)
	{
		if (at - first == 19)
			return -1;
		value = value * 10 + (line[at] - '0');
	}
	if ((at < avail && (line[at] != '\r' || at == first)) ||
		(at + 1 < avail && line[at + 1] != '\n') ||
		value > (uint64) PG_INT64_MAX + negative)
		return -1;
	*number = negative ? (int64) (0 - value) : (int64) value;
	return at + 1 < avail ? (int) at + 2 : 0;
}

/* The same for one with text, of which len bytes are between type and end. */
static int
parse_line(const char *line, size_t avail, int64 *len)
{
	const char *lf = memchr(line, '\n', Min(avail, MLC_REPLY_MAX_LINE));

	if (lf == NULL)
		return avail < MLC_REPLY_MAX_LINE ? 0 : -1;
	if (lf - line < 2 || lf[-1] != '\r')
		return -1;
	*len = lf - line - 2;
	return (int) (lf + 1 - line);
}

MlcReplyState
mlc_reply_scan(MlcReplyScan *scan, const char *start, size_t len)
{
	while (scan->missing > 0)
	{
		const char *line = start + scan->pos;
		size_t		avail = len - scan->pos;
		size_t		memory = sizeof(MlcReply);
		int64		count = 0;
		int			header = -1;
		size_t		size;

		if (avail == 0)
			return MLC_REPLY_PARTIAL;
		if (*line == '$' || *line == '*' || *line == ':')
			header = parse_header(line, avail, &count);
		else if (*line == '+' || *line == '-')
			header = parse_line(line, avail, &count);
		if (header == 0)
			return MLC_REPLY_PARTIAL;
		if (header < 0 || (*line != ':' && (count < -1 || count > MAX_COUNT)))
			return MLC_REPLY_MALFORMED;

		size = header;
		if (*line == '$' && count >= 0)
		{
			size += count + 2;
			if (avail < size)
				return MLC_REPLY_PARTIAL;
			if (line[size - 2] != '\r' || line[size - 1] != '\n')
				return MLC_REPLY_MALFORMED;
		}
		if (*line == '*' && count > 0)
		{
			scan->missing += count;
			memory += count * sizeof(MlcReply *);
		}
		else if (*line != ':' && count >= 0)
			memory += STRING_MEMORY(count);
		scan->memory += memory;
		scan->pos += size;
		scan->missing--;
	}
	return MLC_REPLY_COMPLETE;
}

/* What has been read of a complete reply, and where its memory goes on. */
typedef struct Builder
{
	const char *at;
	char	   *memory;
} Builder;

static void *
take_memory(Builder *builder, size_t size)
{
	void	   *taken = builder->memory;

	builder->memory += size;
	return taken;
}

static void
build_string(Builder *builder, MlcReply *reply, MlcReplyType type,
			 const char *str, size_t len)
{
	char	   *copy = take_memory(builder, STRING_MEMORY(len));

	SET_VARSIZE(copy, VARHDRSZ + len);
	reply->type = type;
	reply->str = copy + VARHDRSZ;
	reply->len = len;
	memcpy(reply->str, str, len);
	reply->str[len] = '\0';
}

/* The scan has seen to it that all of it is there.  NULL: malformed. */
static MlcReply *
build(Builder *builder, int depth)
{
	MlcReply   *reply = take_memory(builder, sizeof(MlcReply));
	const char *line = builder->at;
	int64		count = 0;

	memset(reply, 0, sizeof(*reply));
	if (*line == '+' || *line == '-')
	{
		builder->at += parse_line(line, MLC_REPLY_MAX_LINE, &count);
		build_string(builder, reply,
					 *line == '+' ? MLC_REPLY_STATUS : MLC_REPLY_ERROR,
					 line + 1, count);
		return reply;
	}
	builder->at += parse_header(line, MLC_REPLY_MAX_LINE, &count);
	if (*line == ':' || count < 0)
	{
		reply->type = *line == ':' ? MLC_REPLY_INTEGER : MLC_REPLY_NIL;
		reply->integer = *line == ':' ? count : 0;
		return reply;
	}
	if (*line == '$')
	{
		build_string(builder, reply, MLC_REPLY_STRING, builder->at, count);
		builder->at += count + 2;
		return reply;
	}
	if (depth == MLC_REPLY_MAX_DEPTH)
		return NULL;
	reply->type = MLC_REPLY_ARRAY;
	reply->nelements = count;
	reply->elements = take_memory(builder, count * sizeof(MlcReply *));
	for (int64 i = 0; i < count; i++)
		if ((reply->elements[i] = build(builder, depth + 1)) == NULL)
			return NULL;
	return reply;
}

MlcReply *
mlc_reply_build(const MlcReplyScan *scan, const char *start, bool *no_memory)
{
	Builder		builder = {.at = start};

	builder.memory = MemoryContextAllocExtended(CurrentMemoryContext,
												scan->memory,
												MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	*no_memory = builder.memory == NULL;
	return *no_memory ? NULL : build(&builder, 0);
}
