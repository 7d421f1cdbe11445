/*-------------------------------------------------------------------------
 *
 * model/disguise.h
 *	  As whom, and with which settings, what belongs to a rule is run.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_MODEL_DISGUISE_H
#define MLC_MODEL_DISGUISE_H

#include "postgres.h"

#include "utils/relcache.h"

/* Pins DateStyle and the like to the values keys are rendered with. */
extern int	mlc_disguise_pin_formats(void);
extern void mlc_disguise_unpin(int nestlevel);

/* The same for a worker's whole life; outside a transaction. */
extern void mlc_disguise_pin_formats_for_process(void);

/*
 * Within a GUC nest level: expressions and loaders of a rule see pg_catalog,
 * then the schema of the rule's table, whoever runs them.
 */
extern void mlc_disguise_pin_search_path(Oid relid);

/* Who runs the loader, and with which settings. */
typedef struct MlcDisguise
{
	Oid			userid;
	int			sec_context;
	int			nestlevel;
} MlcDisguise;

/*
 * From here on queries run as the owner of the relation, restricted, with
 * search_path and formats pinned.  The end of a failed transaction or
 * subtransaction takes it off, too.
 */
extern void mlc_disguise_put_on(MlcDisguise *disguise, Relation relation);
extern void mlc_disguise_take_off(MlcDisguise *disguise);

#endif							/* MLC_MODEL_DISGUISE_H */
