/*-------------------------------------------------------------------------
 *
 * relay/once.h
 *	  Which large transactions change no row twice.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_ONCE_H
#define MLC_RELAY_ONCE_H

#include "postgres.h"

#include "access/xlogreader.h"
#include "replication/reorderbuffer.h"

/* Takes note of a record, before it is decoded; and when it has been. */
extern void mlc_once_see(XLogReaderState *record);
extern void mlc_once_seen(XLogReaderState *record);

/* Is every value of this transaction the last of its row?  No: not known. */
extern bool mlc_once_holds(const ReorderBufferTXN *txn);

/* WAL is read from another position on. */
extern void mlc_once_forget(void);

#endif							/* MLC_RELAY_ONCE_H */
