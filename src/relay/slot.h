/*-------------------------------------------------------------------------
 *
 * relay/slot.h
 *	  The relay's replication slot and its one long-lived decoding context.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_RELAY_SLOT_H
#define MLC_RELAY_SLOT_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "capture/decode.h"

/* "mlcache_<oid of the database>", in a static buffer. */
extern const char *mlc_slot_name(Oid dbid);

/*
 * Acquires the slot of this database, making it if there is none or if it was
 * invalidated.  True if it is new: nothing before it was seen.  Outside a
 * transaction; may wait for running transactions when it makes the slot.
 */
extern bool mlc_slot_acquire(void);

/*
 * Makes the acquired slot a failover slot, or none, as mlcache.failover_slot
 * says, and this server's own where it has come from another, so that it can be
 * dropped when this is a standby again.  ERROR if it cannot be written to disk.
 */
extern void mlc_slot_set_failover(void);

/* Is the acquired slot a failover slot? */
extern bool mlc_slot_is_failover(void);

/*
 * A relay that dies over a record would die over it again and again, as over
 * changes of an mlcache.rule that was dropped since (PostgreSQL cannot open a
 * user catalog table that is gone), or for want of WAL that is not there.  The
 * second time its successor gives the slot up.  Before mlc_slot_acquire().
 */
extern void mlc_slot_check_deaths(void);

/* Drops this database's slot if there is one. */
extern void mlc_slot_drop(void);

/*
 * Starts, or starts again, decoding with the commits after start, at the
 * earliest those after the confirmed position, and of this timeline.
 */
extern void mlc_slot_rewind(MlcSink *sink, XLogRecPtr start);

/*
 * Decodes one record of WAL.  False when there is none yet: never waits.
 * Events reach the sink during the call.
 */
extern bool mlc_slot_read(void);

/*
 * After mlc_slot_read() said that there is no more: how far WAL was flushed
 * then, all of which has been read.
 */
extern XLogRecPtr mlc_slot_read_up_to(void);

/* The end of the last record read, or where decoding starts if that is later. */
extern XLogRecPtr mlc_slot_position(void);
extern XLogRecPtr mlc_slot_confirmed(void);

/* How much WAL the slot holds back, in bytes. */
extern uint64 mlc_slot_retained(void);

/*
 * For any backend: bytes of WAL that the slot of a database holds back, -1
 * where there is none; how many slots are in use, of how many (may be NULL).
 */
extern int64 mlc_slot_usage(Oid dbid, int *used, int *max);

/*
 * Drops a database's slot when it holds more than mlcache.slot_max_retained
 * and no relay runs; the caches are purged when one does.  For the launcher.
 */
extern void mlc_slot_give_up(Oid dbid);

/*
 * On a standby, drops the slots of relays that were here when it was a primary,
 * with a line in the log.  Nothing that the standby synchronizes.  ERROR 55006
 * where it has just been promoted and a relay has such a slot.
 */
extern void mlc_slot_drop_left_behind(void);

/*
 * Lets go of what lies before lsn; lets it be written out with a checkpoint, a
 * failover slot at once.
 */
extern void mlc_slot_confirm(XLogRecPtr lsn);

/*
 * Waits until no commit whose record is already in WAL is still invisible to
 * new snapshots.  For a slot's first moment; later commits are waited for one
 * by one.
 */
extern void mlc_slot_wait_visible(void);

#endif							/* MLC_RELAY_SLOT_H */
