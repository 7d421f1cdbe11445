/*-------------------------------------------------------------------------
 *
 * base/fault.h
 *	  Named stop points for tests: MLC_FAULT("relay-before-send").
 *
 * Off (one pointer test) unless mlcache.fault_points names the point:
 *
 *	 name=wait	 waits while another session holds the advisory lock
 *				 mlcache.fault_lock('name'); cancellable
 *	 name=error  raises ERROR
 *	 name=exit	 raises FATAL
 *	 name=kill	 SIGKILL to this very process
 *	 name=skip	 MLC_FAULT_SKIP("name") becomes true: a safeguard is left out
 *
 * The idea of waiting on an advisory lock is timescaledb's debug_point.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_BASE_FAULT_H
#define MLC_BASE_FAULT_H

#include "base/guc.h"

extern void mlc_fault_point(const char *name);
extern bool mlc_fault_skip(const char *name);

/* The advisory lock's key for a point: (classid of ours, hash of name). */
extern void mlc_fault_lock_key(const char *name, uint32 *key1, uint32 *key2);

#define MLC_FAULT(name) \
	do { \
		if (unlikely(mlc_fault_points && mlc_fault_points[0])) \
			mlc_fault_point(name); \
	} while (0)

#define MLC_FAULT_SKIP(name) \
	(unlikely(mlc_fault_points && mlc_fault_points[0]) && mlc_fault_skip(name))

#endif							/* MLC_BASE_FAULT_H */
