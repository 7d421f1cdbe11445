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

/* Pins DateStyle and the like to the values keys are rendered with. */
extern int	mlc_disguise_pin_formats(void);
extern void mlc_disguise_unpin(int nestlevel);

/* The same for a worker's whole life; outside a transaction. */
extern void mlc_disguise_pin_formats_for_process(void);

typedef struct MlcDisguise
{
	Oid			userid;
	int			sec_context;
	int			nestlevel;
} MlcDisguise;

/*
 * From here on everything runs as the owner of the relation, which is the one
 * that a rule was attached to, restricted, with formats pinned and a search_path
 * of pg_catalog and the relation's schema.  The end of a failed transaction or
 * subtransaction takes it off, too.
 */
extern void mlc_disguise_put_on(MlcDisguise *disguise, Oid relid);
extern void mlc_disguise_take_off(MlcDisguise *disguise);

/*
 * The same in a transaction that decodes, and ends by an abort.  Formats have
 * been pinned already; search_path stays pinned until that end, since most
 * changes after this one want the same.
 */
extern void mlc_disguise_put_on_decoding(MlcDisguise *disguise, Oid relid);

#endif							/* MLC_MODEL_DISGUISE_H */
