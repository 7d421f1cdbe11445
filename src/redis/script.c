/*-------------------------------------------------------------------------
 *
 * redis/script.c
 *	  Brings the function library "mlcache" onto a server.
 *
 * The text is lua/mlcache.lua, made into mlc_script_text by the Makefile; its
 * version stands in it, once, as "local VERSION = 1000".  Thousands count
 * what is incompatible; below them, anything goes.
 *
 * Loading over a library wipes its memory and so disarms every namespace, so
 * a first load never replaces: of two processes that both find nothing, the
 * second one's load fails and it looks again.
 *
 * Locks: none.  Must not: throw for what the server answers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "redis/command.h"
#include "redis/script.h"

#define MLC_SCRIPT_VERSION_MARK "local VERSION = "

static int
own_version(void)
{
	const char *mark = strstr(mlc_script_text, MLC_SCRIPT_VERSION_MARK);

	if (mark == NULL)
		elog(ERROR, "the mlcache function library does not tell its version");
	return atoi(mark + strlen(MLC_SCRIPT_VERSION_MARK));
}

static bool
starts_with(const MlcReply *reply, const char *prefix)
{
	return strncmp(reply->str, prefix, strlen(prefix)) == 0;
}

/*
 * What the server runs: its version, 0 for nothing.  False with *error when
 * it cannot tell.
 */
static bool
loaded_version(MlcConn *conn, int64 *version, char **error)
{
	MlcReply   *reply;

	reply = mlc_command_simple(conn, "FCALL_RO", "mlc_version", "0", NULL);
	if (reply == NULL)
	{
		*error = pstrdup(mlc_conn_error(conn));
		return false;
	}
	if (reply->type == MLC_REPLY_INTEGER)
	{
		*version = reply->integer;
		return true;
	}
	if (reply->type != MLC_REPLY_ERROR)
		*error = pstrdup("mlc_version did not answer with a number");
	else if (starts_with(reply, "ERR Function not found"))
	{
		*version = 0;
		return true;
	}
	else if (starts_with(reply, "ERR unknown command"))
		*error = pstrdup("the server has no functions: it must be Redis 7.0 or later");
	else
		*error = psprintf("could not ask for the function library's version: %s",
						  reply->str);
	return false;
}

static bool
load(MlcConn *conn, bool replace, char **error)
{
	MlcReply   *reply;

	if (replace)
		reply = mlc_command_simple(conn, "FUNCTION", "LOAD", "REPLACE",
								   mlc_script_text, NULL);
	else
		reply = mlc_command_simple(conn, "FUNCTION", "LOAD",
								   mlc_script_text, NULL);
	if (reply == NULL)
	{
		*error = pstrdup(mlc_conn_error(conn));
		return false;
	}
	if (reply->type == MLC_REPLY_ERROR &&
		(replace || !starts_with(reply, "ERR Library 'mlcache' already exists")))
	{
		*error = psprintf("could not load the function library: %s",
						  reply->str);
		return false;
	}
	return true;
}

bool
mlc_script_ensure(MlcConn *conn, char **error)
{
	int			own = own_version();

	*error = NULL;
	/* again after a load: somebody else's may have come first */
	for (int attempt = 0; attempt < 3; attempt++)
	{
		int64		loaded;

		if (!loaded_version(conn, &loaded, error))
			return false;
		if (loaded >= own && loaded / 1000 == own / 1000)
			return true;
		if (loaded > own)
		{
			*error = psprintf("the server runs version %lld of the mlcache function library, which this mlcache (library version %d) does not understand",
							  (long long) loaded, own);
			return false;
		}
		if (!load(conn, loaded > 0, error))
			return false;
	}
	*error = pstrdup("the function library was replaced while it was being loaded");
	return false;
}
