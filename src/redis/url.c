/*-------------------------------------------------------------------------
 *
 * redis/url.c
 *	  Where a server is: redis://host:port/db, rediss://host:port/db (TLS) and
 *	  unix:///path?db=n.
 *
 * What is wrong is told in sentences of our own that quote nothing of the
 * URL: somebody may have put a password into it.
 *
 * Locks: none.  Must not: resolve names, or connect.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <sys/un.h>

#include "redis/conn.h"
#include "redis/tls.h"

#define MLC_CONN_DEFAULT_PORT 6379
#define MLC_CONN_SENTINEL_PORT 26379
#define MLC_CONN_DEFAULT_CONNECT_TIMEOUT 1000	/* ms */
#define MLC_CONN_DEFAULT_TIMEOUT 1000	/* ms */

static bool
parse_number(const char *input, size_t len, long max, int *result)
{
	long		value = 0;

	if (len == 0 || len > 9)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (input[i] < '0' || input[i] > '9')
			return false;
		value = value * 10 + (input[i] - '0');
	}
	if (value > max)
		return false;
	*result = (int) value;
	return true;
}

/* Undoes %XX in a path; NULL if malformed. */
static char *
percent_decode(const char *input, size_t len)
{
	char	   *result = palloc(len + 1);
	char	   *out = result;

	for (size_t i = 0; i < len; i++)
	{
		unsigned int byte;
		char		hex[3];

		if (input[i] != '%')
		{
			*out++ = input[i];
			continue;
		}
		if (i + 2 >= len)
			return NULL;
		hex[0] = input[i + 1];
		hex[1] = input[i + 2];
		hex[2] = '\0';
		if (strspn(hex, "0123456789abcdefABCDEF") != 2 ||
			sscanf(hex, "%2x", &byte) != 1 || byte == 0)
			return NULL;
		*out++ = (char) byte;
		i += 2;
	}
	*out = '\0';
	return result;
}

static const char *
parse_unix(const char *rest, MlcRedisOptions *options)
{
	struct sockaddr_un un;
	const char *query = strchr(rest, '?');
	size_t		len = query ? (size_t) (query - rest) : strlen(rest);

	if (rest[0] != '/')
		return "A unix URL has the form unix:///path/to/socket, without a host, user name or password.";
	if (query != NULL && (strncmp(query, "?db=", 4) != 0 ||
						  !parse_number(query + 4, strlen(query + 4), INT_MAX,
										&options->database)))
		return "The only parameter of a unix URL is ?db=, followed by the number of a database.";
	options->path = percent_decode(rest, len);
	if (options->path == NULL)
		return "A percent sign in the path must be followed by two hexadecimal digits, not 00.";
	if (strlen(options->path) >= sizeof(un.sun_path))
		return psprintf("The path of a unix socket can have at most %d bytes.",
						(int) sizeof(un.sun_path) - 1);
	return NULL;
}

static const char *
parse_tcp(const char *rest, MlcRedisOptions *options)
{
	const char *slash = strchr(rest, '/');
	const char *end = slash ? slash : rest + strlen(rest);
	const char *host = rest;
	const char *hostend;
	const char *port;

	if (memchr(rest, '@', end - rest) != NULL)
		return "A user name or password does not belong into the URL but into the options of the user mapping.";
	if (strpbrk(rest, "?#") != NULL)
		return "A URL of this kind takes no parameters.";
	if (*host == '[')
	{
		host++;
		hostend = memchr(host, ']', end - host);
		if (hostend == NULL)
			return "The bracket around an IPv6 address is not closed.";
		port = hostend + 1;
	}
	else
	{
		hostend = memchr(host, ':', end - host);
		if (hostend == NULL)
			hostend = end;
		port = hostend;
	}
	if (hostend == host)
		return "The URL names no host.";
	if (port < end)
	{
		if (*port != ':' ||
			!parse_number(port + 1, end - port - 1, 65535, &options->port) ||
			options->port == 0)
			return "After the host there is room for a colon and a port between 1 and 65535 (an IPv6 address goes into brackets).";
	}
	if (slash != NULL && slash[1] != '\0' &&
		!parse_number(slash + 1, strlen(slash + 1), INT_MAX,
					  &options->database))
		return "After the slash there is room for the number of a database only.";
	options->host = pnstrdup(host, hostend - host);
	return NULL;
}

static const char *
parse_url(const char *url, int default_port, MlcRedisOptions *options)
{
	memset(options, 0, sizeof(*options));
	options->port = default_port;
	options->connect_timeout = MLC_CONN_DEFAULT_CONNECT_TIMEOUT;
	options->timeout = MLC_CONN_DEFAULT_TIMEOUT;

	if (strncmp(url, "redis://", 8) == 0)
		return parse_tcp(url + 8, options);
	if (strncmp(url, "unix://", 7) == 0)
		return parse_unix(url + 7, options);
	if (strncmp(url, "rediss://", 9) == 0)
	{
		options->tls = true;
		if (!mlc_tls_built_in())
			return "mlcache was built without TLS support, which takes hiredis 1.0 or later with hiredis_ssl.";
		return parse_tcp(url + 9, options);
	}
	return "The URL must begin with redis://, rediss:// or unix://.";
}

const char *
mlc_conn_parse_url(const char *url, MlcRedisOptions *options)
{
	return parse_url(url, MLC_CONN_DEFAULT_PORT, options);
}

/*
 * The places of a list behind one scheme.  A database may follow the last one
 * only.  host and port become those of the first.
 */
static const char *
parse_list(const char *url, int default_port, MlcRedisOptions *options,
		   MlcSeed **places, int *nplaces)
{
	const char *colon = strstr(url, "://");
	char	   *scheme = colon ? pnstrdup(url, colon + 3 - url) : NULL;
	const char *at = url;
	MlcSeed    *seeds = palloc(sizeof(MlcSeed) * (strlen(url) + 1));
	int			n = 0;

	do
	{
		const char *end = strchr(at, ',');
		char	   *one = end ? pnstrdup(at, end - at) : pstrdup(at);
		const char *wrong;

		if (n > 0)
			one = psprintf("%s%s", scheme, one);
		wrong = parse_url(one, default_port, options);
		if (wrong)
			return wrong;
		if (options->path)
			return "A list of hosts is for TCP: name them as redis://host:port,host:port.";
		if (options->database != 0 && end)
			return "The number of a database comes after the last host.";
		seeds[n].host = options->host;
		seeds[n++].port = options->port;
		at = end ? end + 1 : NULL;
	} while (at);
	*places = seeds;
	*nplaces = n;
	options->host = seeds[0].host;
	options->port = seeds[0].port;
	return NULL;
}

const char *
mlc_conn_parse_seeds(const char *url, MlcRedisOptions *options)
{
	MlcSeed    *seeds;
	int			n;
	const char *wrong = parse_list(url, MLC_CONN_DEFAULT_PORT, options, &seeds, &n);

	if (wrong)
		return wrong;
	if (options->database != 0)
		return "A cluster has only database 0.";
	options->nseeds = n;
	options->seeds = seeds;
	return NULL;
}

const char *
mlc_conn_parse_sentinels(const char *url, MlcRedisOptions *options)
{
	MlcSeed    *sentinels;
	int			n;
	const char *wrong = parse_list(url, MLC_CONN_SENTINEL_PORT, options,
								   &sentinels, &n);

	if (wrong)
		return wrong;
	options->nsentinels = n;
	options->sentinels = sentinels;
	return NULL;
}
