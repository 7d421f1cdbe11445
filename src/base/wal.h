/*-------------------------------------------------------------------------
 *
 * base/wal.h
 *	  Positions of WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_BASE_WAL_H
#define MLC_BASE_WAL_H

#include "postgres.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"

/*
 * The end of the last record inserted: what XLogFlush() may be asked for.
 * GetXLogInsertRecPtr() gives the start of the next record, which at a page
 * boundary lies behind a page header that nobody has written yet.
 */
static inline XLogRecPtr
mlc_wal_insert_end(void)
{
	XLogRecPtr	lsn = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(lsn, wal_segment_size) == SizeOfXLogLongPHD)
		return lsn - SizeOfXLogLongPHD;
	if (lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		return lsn - SizeOfXLogShortPHD;
	return lsn;
}

#endif							/* MLC_BASE_WAL_H */
