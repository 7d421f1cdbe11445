/*-------------------------------------------------------------------------
 *
 * model/disguise.c
 *	  As whom, and with which settings, what belongs to a rule is run: its
 *	  loader and filter, and the functions that make text of its columns.
 *
 * Keys and payloads must read the same whoever makes them, so what their text
 * depends on is pinned.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "model/disguise.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

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

void
mlc_disguise_pin_search_path(Oid relid)
{
	char	   *nsp = get_namespace_name(get_rel_namespace(relid));

	(void) set_config_option("search_path",
							 nsp == NULL ? "pg_catalog, pg_temp" :
							 psprintf("pg_catalog, %s, pg_temp",
									  quote_identifier(nsp)),
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
mlc_disguise_put_on(MlcDisguise *disguise, Relation relation)
{
	GetUserIdAndSecContext(&disguise->userid, &disguise->sec_context);
	SetUserIdAndSecContext(relation->rd_rel->relowner,
						   disguise->sec_context | SECURITY_RESTRICTED_OPERATION);
	disguise->nestlevel = mlc_disguise_pin_formats();
	mlc_disguise_pin_search_path(RelationGetRelid(relation));
}

void
mlc_disguise_take_off(MlcDisguise *disguise)
{
	AtEOXact_GUC(false, disguise->nestlevel);
	SetUserIdAndSecContext(disguise->userid, disguise->sec_context);
}
