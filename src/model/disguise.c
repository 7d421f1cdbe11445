/*-------------------------------------------------------------------------
 *
 * model/disguise.c
 *	  As whom, and with which settings, what belongs to a rule is run: its
 *	  loader and filter, and the functions that make text of its columns.
 *
 * Keys and payloads must read the same whoever makes them, a session, a loader
 * or the relay.  So what their text depends on is pinned: formats and, for types
 * whose text depends on names or on functions of users, search_path and the
 * role, since a schema that a role may not use is not in its search_path.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "model/disguise.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static const char *const format_settings[][2] = {
	{"DateStyle", "ISO, YMD"},
	{"IntervalStyle", "postgres"},
	{"TimeZone", "UTC"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},
	{"lc_monetary", "C"},
	{"xmlbinary", "base64"},
};

int
mlc_disguise_pin_formats(void)
{
	int			nestlevel = NewGUCNestLevel();

	for (int i = 0; i < (int) lengthof(format_settings); i++)
		(void) set_config_option(format_settings[i][0], format_settings[i][1],
								 PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

void
mlc_disguise_unpin(int nestlevel)
{
	AtEOXact_GUC(true, nestlevel);
}

void
mlc_disguise_pin_formats_for_process(void)
{
	for (int i = 0; i < (int) lengthof(format_settings); i++)
		SetConfigOption(format_settings[i][0], format_settings[i][1],
						PGC_USERSET, PGC_S_OVERRIDE);
}

/* The owner of a relation, and the search_path of what belongs to its rules. */
static Oid
look_up(Oid relid, char **path)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class class;
	char	   *nsp;
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	class = (Form_pg_class) GETSTRUCT(tuple);
	owner = class->relowner;
	nsp = get_namespace_name(class->relnamespace);
	*path = nsp == NULL ? pstrdup("pg_catalog, pg_temp") :
		psprintf("pg_catalog, %s, pg_temp", quote_identifier(nsp));
	ReleaseSysCache(tuple);
	return owner;
}

static void
become(MlcDisguise *disguise, Oid owner)
{
	GetUserIdAndSecContext(&disguise->userid, &disguise->sec_context);
	SetUserIdAndSecContext(owner,
						   disguise->sec_context | SECURITY_RESTRICTED_OPERATION);
}

void
mlc_disguise_put_on(MlcDisguise *disguise, Oid relid)
{
	char	   *path;
	Oid			owner = look_up(relid, &path);

	become(disguise, owner);
	disguise->nestlevel = mlc_disguise_pin_formats();
	(void) set_config_option("search_path", path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
mlc_disguise_put_on_decoding(MlcDisguise *disguise, Oid relid)
{
	char	   *path;
	Oid			owner = look_up(relid, &path);

	Assert(IsTransactionState());
	become(disguise, owner);
	disguise->nestlevel = -1;
	if (strcmp(namespace_search_path, path) != 0)
		(void) set_config_option("search_path", path, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SET, true, 0, false);
}

void
mlc_disguise_take_off(MlcDisguise *disguise)
{
	if (disguise->nestlevel >= 0)
		AtEOXact_GUC(false, disguise->nestlevel);
	SetUserIdAndSecContext(disguise->userid, disguise->sec_context);
}
