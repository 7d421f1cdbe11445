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
 * Walks over all rows of the table, with the active snapshot: up to max keys
 * with their tuples, 0 at the end.  What has no key is left out, unless the
 * batch is empty then: *more tells.  Keys are allocated in the current context.
 */
extern int	mlc_rows_next(MlcRows *rows, MlcCopy *copies, int max, bool *more);

#endif							/* MLC_AUDIT_ROWS_H */
