/*-------------------------------------------------------------------------
 *
 * audit/rows.h
 *	  Rows of many keys at once, as the rule's loader gives them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_ROWS_H
#define MLC_AUDIT_ROWS_H

#include "postgres.h"

#include "audit/copy.h"
#include "model/rule.h"

typedef struct MlcRows MlcRows;

/*
 * Begins to read rows of a rule; connects to SPI.  The relation is kept open
 * and locked (ACCESS SHARE) until the transaction ends.  In a transaction.
 */
extern MlcRows *mlc_rows_open(MlcRule *rule);
extern void mlc_rows_close(MlcRows *rows);

/*
 * Reads the rows of those copies that need one, with the active snapshot.
 * Payloads are good until the next call.  Raises what the loader raises.
 */
extern void mlc_rows_load(MlcRows *rows, MlcCopy *copies, int n);

/* Can anybody say what the keys of the rule should hold? */
extern bool mlc_rows_are_comparable(MlcRows *rows);

/*
 * May the table be walked over, row by row?  Where the row is what is cached.
 * And how many rows it has, about.
 */
extern bool mlc_rows_can_walk(MlcRows *rows);
extern int64 mlc_rows_estimate(MlcRows *rows);

/*
 * Walks over all rows of the table, with the active snapshot: up to max keys
 * with their rows.  What has no key, or is outside the rule's filter, is left
 * out; *more tells whether to go on.  Allocates in the current context.
 */
extern int	mlc_rows_next(MlcRows *rows, MlcCopy *copies, int max, bool *more);

#endif							/* MLC_AUDIT_ROWS_H */
