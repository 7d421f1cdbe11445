/*-------------------------------------------------------------------------
 *
 * base/guc.h
 *	  The settings.  Units are in the GUC flags, never in the names.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_BASE_GUC_H
#define MLC_BASE_GUC_H

#include "postgres.h"

extern int	mlc_weak_window;	/* ms */
extern int	mlc_redelivery_window;	/* ms */
extern int	mlc_slot_max_retained;	/* MB; -1: no limit */
extern int	mlc_relay_work_mem; /* kB */
extern int	mlc_capture_work_mem;	/* kB */
extern int	mlc_quarantine_max_keys;
extern int	mlc_reconnect_max;	/* ms */
extern int	mlc_redis_spin;		/* us; 0: off */
extern int	mlc_negative_ttl;	/* ms */
extern int	mlc_lease_timeout;	/* ms */
extern int	mlc_lease_wait;		/* ms */
extern int	mlc_l1_size;		/* kB; 0: off */
extern int	mlc_max_hot_keys;	/* 0: none are counted */
extern bool mlc_warm_on_start;
extern int	mlc_refresh_timeout;	/* ms */
extern int	mlc_max_locks;
extern int	mlc_lock_escalation_threshold;	/* 0: never */
extern int	mlc_audit_rate;		/* keys a second; 0: no auditor */
extern int	mlc_audit_timeout;	/* ms */
extern bool mlc_relay_enabled;
extern bool mlc_failover_slot;
extern bool mlc_monitor_enabled;
extern int	mlc_alert_lag;		/* ms; 0: off */
extern int	mlc_alert_retained; /* MB; 0: off */
extern double mlc_alert_hit_ratio;	/* 0: off */
extern int	mlc_alert_memory;	/* %; 0: off */
extern int	mlc_alert_clock;	/* ms; 0: off */
extern int	mlc_alert_pause;	/* ms */
extern char *mlc_fault_points;

/* Defines the settings and reserves the prefix.  From _PG_init only. */
extern void mlc_guc_define(void);

#endif							/* MLC_BASE_GUC_H */
