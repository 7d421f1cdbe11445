/*-------------------------------------------------------------------------
 *
 * redis/tls.c
 *	  TLS on a connection to Redis: whom we trust, and who we are.
 *
 * The server's certificate must be signed by an authority we trust (those of
 * tls_ca_file, or else the system's) and must be for the host we connect to, a
 * name or an address, or for tls_server_name.  hiredis does not look at the
 * name, so the context is made here, with OpenSSL, and hiredis moves the bytes.
 *
 * Files are read whenever a connection is made, so a renewed certificate is in
 * use from the next one on.
 *
 * Locks: none.  Must not: wait, throw, or ask a terminal for a passphrase.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "redis/tls.h"

#ifdef MLC_USE_HIREDIS_SSL

#include <arpa/inet.h>
#include <hiredis/hiredis_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "storage/latch.h"

bool
mlc_tls_built_in(void)
{
	return true;
}

void
mlc_tls_forget(void)
{
	ERR_clear_error();
}

const char *
mlc_tls_error(void)
{
	unsigned long code = ERR_peek_error();

	return code != 0 ? ERR_reason_error_string(code) : NULL;
}

/* what, a file where there is one, and OpenSSL's reason. */
static void
explain(char *error, size_t size, const char *what, const char *file)
{
	unsigned long code = ERR_peek_error();
	const char *reason = mlc_tls_error();

	/* a file's trouble is the system's, not OpenSSL's */
	if (code != 0 && ERR_SYSTEM_ERROR(code))
		reason = strerror(ERR_GET_REASON(code));
	snprintf(error, size, "%s%s%s%s: %s", what, file ? " \"" : "",
			 file ? file : "", file ? "\"" : "",
			 reason ? reason : "unknown error");
}

static void
explain_handshake(char *error, size_t size, SSL *ssl)
{
	long		verdict = SSL_get_verify_result(ssl);

	if (verdict != X509_V_OK)
		snprintf(error, size, "certificate refused: %s",
				 X509_verify_cert_error_string(verdict));
	else if (mlc_tls_error())
		explain(error, size, "TLS handshake failed", NULL);
	else
		snprintf(error, size, "TLS handshake failed: %s",
				 errno != 0 ? strerror(errno) : "server closed the connection");
}

static int
no_passphrase(char *buf, int size, int rwflag, void *userdata)
{
	return 0;
}

static bool
is_address(const char *host)
{
	unsigned char buf[sizeof(struct in6_addr)];

	return inet_pton(AF_INET, host, buf) == 1 || inet_pton(AF_INET6, host, buf) == 1;
}

/* What goes for every connection with these options.  NULL: error is set. */
static SSL_CTX *
make_context(const MlcRedisOptions *options, char *error, size_t size)
{
	SSL_CTX    *context = SSL_CTX_new(TLS_client_method());

	if (context == NULL)
	{
		explain(error, size, "could not set up TLS", NULL);
		return NULL;
	}
	SSL_CTX_set_default_passwd_cb(context, no_passphrase);
	if (SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1)
		explain(error, size, "could not set up TLS", NULL);
	else if (options->ca_file &&
			 SSL_CTX_load_verify_locations(context, options->ca_file, NULL) != 1)
		explain(error, size, "could not read certificates from",
				options->ca_file);
	else if (!options->ca_file && SSL_CTX_set_default_verify_paths(context) != 1)
		explain(error, size, "could not read the system's certificates", NULL);
	else if (options->cert_file &&
			 SSL_CTX_use_certificate_chain_file(context, options->cert_file) != 1)
		explain(error, size, "could not read a certificate from",
				options->cert_file);
	else if (options->key_file &&
			 SSL_CTX_use_PrivateKey_file(context, options->key_file,
										 SSL_FILETYPE_PEM) != 1)
		explain(error, size, "could not use the private key of",
				options->key_file);
	else
	{
		SSL_CTX_set_verify(context, options->no_verify ?
						   SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
		return context;
	}
	SSL_CTX_free(context);
	return NULL;
}

MlcTls *
mlc_tls_start(redisContext *redis, const MlcRedisOptions *options,
			  char *error, size_t size)
{
	const char *name = options->server_name ?
	options->server_name : options->host;
	SSL_CTX    *context;
	SSL		   *ssl;
	bool		ok;

	ERR_clear_error();
	context = make_context(options, error, size);
	if (context == NULL)
		return NULL;
	ssl = SSL_new(context);
	SSL_CTX_free(context);		/* ssl keeps it */
	if (ssl == NULL)
	{
		explain(error, size, "could not set up TLS", NULL);
		return NULL;
	}
	if (is_address(name))
		ok = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
	else
		ok = SSL_set1_host(ssl, name) == 1 &&
			SSL_set_tlsext_host_name(ssl, name) == 1;
	if (!ok)
		explain(error, size, "could not set up TLS", NULL);
	else if (redisInitiateSSL(redis, ssl) != REDIS_OK)
	{
		explain_handshake(error, size, ssl);
		ok = false;
	}
	if (!ok)
	{
		SSL_free(ssl);
		return NULL;
	}
	return (MlcTls *) ssl;
}

int
mlc_tls_handshake(MlcTls *tls, char *error, size_t size)
{
	SSL		   *ssl = (SSL *) tls;
	int			rc;

	ERR_clear_error();
	errno = 0;
	rc = SSL_do_handshake(ssl);
	if (rc == 1)
		return 0;
	switch (SSL_get_error(ssl, rc))
	{
		case SSL_ERROR_WANT_READ:
			return WL_SOCKET_READABLE;
		case SSL_ERROR_WANT_WRITE:
			return WL_SOCKET_WRITEABLE;
		default:
			break;
	}
	explain_handshake(error, size, ssl);
	return -1;
}

#else							/* !MLC_USE_HIREDIS_SSL */

bool
mlc_tls_built_in(void)
{
	return false;
}

void
mlc_tls_forget(void)
{
}

const char *
mlc_tls_error(void)
{
	return NULL;
}

/* Not called: url.c refuses rediss:// in such a build. */
MlcTls *
mlc_tls_start(redisContext *redis, const MlcRedisOptions *options,
			  char *error, size_t size)
{
	snprintf(error, size, "mlcache was built without TLS support");
	return NULL;
}

int
mlc_tls_handshake(MlcTls *tls, char *error, size_t size)
{
	return -1;
}

#endif							/* MLC_USE_HIREDIS_SSL */
