/*-------------------------------------------------------------------------
 *
 * redis/server.c
 *	  A Redis is named by a foreign server of the wrapper "mlcache".
 *
 * The URL says where; who one is there stands in a user mapping, which
 * PostgreSQL shows to nobody but its owner.  The relay uses the mapping of the
 * server's owner, or else that of PUBLIC.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "redis/server.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

typedef struct Option
{
	const char *name;
	Oid			catalog;
	bool		is_number;
	int			min;
	int			max;
} Option;

static const Option known[] = {
	{"url", ForeignServerRelationId, false, 0, 0},
	{"connect_timeout", ForeignServerRelationId, true, 1, 3600000},
	{"timeout", ForeignServerRelationId, true, 1, 3600000},
	{"namespace", ForeignServerRelationId, false, 0, 0},
	{"stream", ForeignServerRelationId, true, 0, PG_INT32_MAX},
	{"cluster", ForeignServerRelationId, false, 0, 0},
	{"sentinel", ForeignServerRelationId, false, 0, 0},
	{"tls_ca_file", ForeignServerRelationId, false, 0, 0},
	{"tls_server_name", ForeignServerRelationId, false, 0, 0},
	{"tls_verify", ForeignServerRelationId, false, 0, 0},
	{"username", UserMappingRelationId, false, 0, 0},
	{"password", UserMappingRelationId, false, 0, 0},
	{"sentinel_username", UserMappingRelationId, false, 0, 0},
	{"sentinel_password", UserMappingRelationId, false, 0, 0},
	{"tls_cert_file", UserMappingRelationId, false, 0, 0},
	{"tls_key_file", UserMappingRelationId, false, 0, 0},
};

static int
parse_number(const Option *option, const char *text)
{
	char	   *end;
	long		value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' ||
		value < option->min || value > option->max)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"",
						option->name, text),
				 errdetail("It must be a whole number from %d to %d.",
						   option->min, option->max),
				 strstr(option->name, "timeout") ?
				 errhint("Timeouts are in milliseconds.") : 0));
	return (int) value;
}

/* Does the option say that the server is a Redis Cluster? */
static bool
is_cluster(List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, "cluster") == 0)
			return defGetBoolean(def);
	}
	return false;
}

/* Does the option say that Sentinel is to be asked? */
static bool
has_sentinel(List *options)
{
	ListCell   *lc;

	foreach(lc, options)
		if (strcmp(((DefElem *) lfirst(lc))->defname, "sentinel") == 0)
		return true;
	return false;
}

/* What the url means depends on other options of the server. */
static const char *
parse_place(const char *url, List *others, MlcRedisOptions *options)
{
	bool		cluster = is_cluster(others);

	if (has_sentinel(others))
		return cluster ? "A cluster has no sentinels: drop one of the two options." :
			mlc_conn_parse_sentinels(url, options);
	return cluster ? mlc_conn_parse_seeds(url, options) :
		mlc_conn_parse_url(url, options);
}

static void
validate_url(const char *url, List *others)
{
	MlcRedisOptions options;
	const char *wrong = parse_place(url, others, &options);

	/* the text is not shown: a password may have been put into it */
	if (wrong)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"url\""),
				 errdetail("%s", wrong),
				 errhint("Write redis://host:port/db, rediss://host:port/db or unix:///path/to/socket; user name and password belong into a user mapping.")));
}

static void
validate_namespace(const char *ns)
{
	size_t		len = strlen(ns);

	if (len == 0 || len > 64 ||
		strspn(ns, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != len)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"namespace\": \"%s\"", ns),
				 errdetail("It must have 1 to 64 letters, digits, '_', '.' or '-'.")));
}

/* Files are read with the server's rights, so not everybody may name them. */
static void
validate_tls_files(bool have_cert, bool have_key)
{
	if ((have_cert || have_key) && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only superusers may set tls_cert_file and tls_key_file")));
	if (have_cert != have_key)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
				 errmsg("tls_cert_file and tls_key_file come together"),
				 errhint("Both may name the same file.")));
}

void
mlc_server_validate(List *options, Oid catalog)
{
	bool		have_url = false;
	bool		have_tls = false;
	const char *tls_option = NULL;
	bool		have_cert = false;
	bool		have_key = false;
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);
		const Option *option = NULL;

		for (int i = 0; i < (int) lengthof(known); i++)
			if (known[i].catalog == catalog &&
				strcmp(known[i].name, def->defname) == 0)
				option = &known[i];
		if (option == NULL)
		{
			StringInfoData names;

			initStringInfo(&names);
			for (int i = 0; i < (int) lengthof(known); i++)
				if (known[i].catalog == catalog)
					appendStringInfo(&names, "%s%s", names.len ? ", " : "",
									 known[i].name);
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", def->defname),
					 names.len ?
					 errhint("Valid options here are: %s.", names.data) :
					 errhint("There are no valid options here.")));
		}
		if (option->is_number)
			(void) parse_number(option, defGetString(def));
		else if (strcmp(option->name, "url") == 0)
		{
			validate_url(defGetString(def), options);
			have_url = true;
			have_tls = strncmp(defGetString(def), "rediss", 6) == 0;
		}
		else if (strcmp(option->name, "namespace") == 0)
			validate_namespace(defGetString(def));
		else if (strcmp(option->name, "tls_verify") == 0)
			(void) defGetBoolean(def);
		have_cert |= strcmp(option->name, "tls_cert_file") == 0;
		have_key |= strcmp(option->name, "tls_key_file") == 0;
		if (catalog == ForeignServerRelationId &&
			strncmp(option->name, "tls_", 4) == 0)
			tls_option = option->name;
	}
	validate_tls_files(have_cert, have_key);
	if (tls_option && have_url && !have_tls)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" needs a url that begins with rediss://",
						tls_option),
				 errdetail("With redis:// the connection is plain text.")));
	if (catalog == ForeignServerRelationId && !have_url)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
				 errmsg("option \"url\" is required"),
				 errdetail("It says where Redis listens."),
				 errhint("CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://127.0.0.1:6379/0');")));
}

/* The options of a user's mapping; NIL if there is none. */
static List *
mapping_options(Oid userid, Oid serverid)
{
	HeapTuple	tuple;
	Datum		value;
	bool		isnull;
	List	   *options = NIL;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(userid),
							ObjectIdGetDatum(serverid));
	if (!HeapTupleIsValid(tuple))
		return NIL;
	value = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple,
							Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		options = untransformRelOptions(value);
	ReleaseSysCache(tuple);
	return options;
}

/* Does mlcache.paused_server hold the name? */
static bool
is_paused(const char *name)
{
	Oid			nsp = get_namespace_oid("mlcache", true);
	Oid			relid = OidIsValid(nsp) ?
	get_relname_relid("paused_server", nsp) : InvalidOid;
	Relation	relation;
	SysScanDesc scan;
	ScanKeyData key;
	NameData	server;
	bool		found;

	if (!OidIsValid(relid))
		return false;
	namestrcpy(&server, name);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&server));
	relation = table_open(relid, AccessShareLock);
	scan = systable_beginscan(relation, InvalidOid, false, NULL, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return found;
}

static MlcServer *
load(ForeignServer *foreign)
{
	Oid			serverid = foreign->serverid;
	MlcServer  *server = palloc0(sizeof(MlcServer));
	List	   *mapping = mapping_options(foreign->owner, serverid);
	StringInfoData fingerprint;
	ListCell   *lc;

	if (mapping == NIL)
		mapping = mapping_options(InvalidOid, serverid);

	server->serverid = serverid;
	server->name = foreign->servername;
	initStringInfo(&fingerprint);
	foreach(lc, foreign->options)
	{
		DefElem    *def = lfirst(lc);
		char	   *value = defGetString(def);

		if (strcmp(def->defname, "url") == 0)
		{
			const char *wrong = parse_place(value, foreign->options,
											&server->options);

			if (wrong)
				ereport(ERROR,
						(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
						 errmsg("server \"%s\" has an invalid url", server->name),
						 errdetail("%s", wrong)));
		}
		appendStringInfo(&fingerprint, "%s=%s\n", def->defname, value);
	}
	foreach(lc, foreign->options)
	{
		DefElem    *def = lfirst(lc);
		char	   *value = defGetString(def);

		if (strcmp(def->defname, "connect_timeout") == 0)
			server->options.connect_timeout = atoi(value);
		else if (strcmp(def->defname, "timeout") == 0)
			server->options.timeout = atoi(value);
		else if (strcmp(def->defname, "namespace") == 0)
			server->ns = value;
		else if (strcmp(def->defname, "stream") == 0)
			server->stream = atoi(value);
		else if (strcmp(def->defname, "sentinel") == 0)
			server->options.sentinel = value;
		else if (strcmp(def->defname, "tls_ca_file") == 0)
			server->options.ca_file = value;
		else if (strcmp(def->defname, "tls_server_name") == 0)
			server->options.server_name = value;
		else if (strcmp(def->defname, "tls_verify") == 0)
			server->options.no_verify = !defGetBoolean(def);
	}
	foreach(lc, mapping)
	{
		DefElem    *def = lfirst(lc);
		char	   *value = defGetString(def);

		if (strcmp(def->defname, "username") == 0)
			server->options.username = value;
		else if (strcmp(def->defname, "password") == 0)
			server->options.password = value;
		else if (strcmp(def->defname, "sentinel_username") == 0)
			server->options.sentinel_username = value;
		else if (strcmp(def->defname, "sentinel_password") == 0)
			server->options.sentinel_password = value;
		else if (strcmp(def->defname, "tls_cert_file") == 0)
			server->options.cert_file = value;
		else if (strcmp(def->defname, "tls_key_file") == 0)
			server->options.key_file = value;
		appendStringInfo(&fingerprint, "%s=%s\n", def->defname, value);
	}
	if (server->ns == NULL)
		server->ns = psprintf("db%u", MyDatabaseId);
	server->fingerprint = fingerprint.data;
	server->paused = is_paused(server->name);
	return server;
}

MlcServer *
mlc_server_load(Oid serverid)
{
	return load(GetForeignServer(serverid));
}

MlcServer *
mlc_server_find(Oid serverid)
{
	ForeignServer *foreign = GetForeignServerExtended(serverid, FSV_MISSING_OK);

	return foreign ? load(foreign) : NULL;
}

List *
mlc_server_all(void)
{
	Oid			wrapper = get_foreign_data_wrapper_oid("mlcache", true);
	Relation	relation;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *servers = NIL;

	if (!OidIsValid(wrapper))
		return NIL;
	relation = table_open(ForeignServerRelationId, AccessShareLock);
	scan = systable_beginscan(relation, ForeignServerNameIndexId, true, NULL,
							  0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_foreign_server form = (Form_pg_foreign_server) GETSTRUCT(tuple);

		if (form->srvfdw == wrapper)
			servers = lappend_oid(servers, form->oid);
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return servers;
}
