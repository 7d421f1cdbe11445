/*-------------------------------------------------------------------------
 *
 * base/guc.c
 *	  The settings of mlcache.
 *
 * One place defines them all; the modules read the variables.  Settings that
 * workers read are PGC_SIGHUP, so that a reload is enough.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "base/guc.h"
#include "miscadmin.h"
#include "utils/guc.h"

int			mlc_weak_window = 500;
int			mlc_redelivery_window = 60000;
int			mlc_slot_max_retained = 16384;
int			mlc_relay_work_mem = 65536;
int			mlc_capture_work_mem = 65536;
int			mlc_quarantine_max_keys = 10000;
int			mlc_reconnect_max = 2000;
int			mlc_redis_spin = 100;
int			mlc_negative_ttl = 30000;
int			mlc_lease_timeout = 5000;
int			mlc_lease_wait = 100;
int			mlc_l1_size = 32768;
int			mlc_max_hot_keys = 4096;
int			mlc_refresh_timeout = 1000;
int			mlc_max_locks = 1024;
int			mlc_lock_escalation_threshold = 100;
int			mlc_audit_timeout = 10000;
int			mlc_audit_rate = 0;
bool		mlc_relay_enabled = true;
bool		mlc_failover_slot = false;
bool		mlc_warm_on_start = false;
bool		mlc_monitor_enabled = true;
int			mlc_alert_lag = 10000;
int			mlc_alert_retained = 4096;
double		mlc_alert_hit_ratio = 0.9;
int			mlc_alert_memory = 80;
int			mlc_alert_clock = 1000;
int			mlc_alert_pause = 60000;
char	   *mlc_fault_points = NULL;

/* From where on health() and the monitor complain. */
static void
define_alerts(void)
{
	DefineCustomIntVariable("mlcache.alert_lag",
							"How old a change may be that a server has not applied.",
							"0 turns this alert off.",
							&mlc_alert_lag, 10000, 0, PG_INT32_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.alert_retained",
							"How much WAL the slot may hold.",
							"0 turns this alert off.",
							&mlc_alert_retained, 4096, 0, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);

	DefineCustomRealVariable("mlcache.alert_hit_ratio",
							 "The share of reads that the caches should answer.",
							 "0 turns this alert off.",
							 &mlc_alert_hit_ratio, 0.9, 0, 1,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.alert_memory",
							"How much of its maxmemory a Redis may use, in percent.",
							"0 turns this alert off.",
							&mlc_alert_memory, 80, 0, 100,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.alert_clock",
							"By how much the clock of a Redis may jump against that of this server.",
							"0 turns this alert off.",
							&mlc_alert_clock, 1000, 0, PG_INT32_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.alert_pause",
							"The shortest time from the end of an alert to its next beginning.",
							NULL,
							&mlc_alert_pause, 60000, 0, PG_INT32_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

void
mlc_guc_define(void)
{
	DefineCustomIntVariable("mlcache.weak_window",
							"How long the relay may hold back changes of weak rules.",
							"Changes of one key within the window become one message. Less than one second.",
							&mlc_weak_window, 500, 0, 999,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.redelivery_window",
							"How long the slot is kept behind what has been applied.",
							"A Redis that fails over to a replica lacking its last writes is caught up from this window; a longer gap means a purge.",
							&mlc_redelivery_window, 60000, 0, 86400000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.slot_max_retained",
							"How much WAL the slot may hold for a Redis that is away.",
							"Past it the server is given up and purged when it returns. -1 means no limit.",
							&mlc_slot_max_retained, 16384, -1, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.relay_work_mem",
							"Memory the relay may use for the events of one transaction before it spills to disk.",
							NULL,
							&mlc_relay_work_mem, 65536, 1024, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.capture_work_mem",
							"Memory a transaction may use for the keys that triggers collect.",
							"Past it the transaction invalidates whole rules instead of single keys.",
							&mlc_capture_work_mem, 65536, 64, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.quarantine_max_keys",
							"How many keys of a strong rule a commit puts under quarantine one by one.",
							"Past it the server as a whole serves nobody until the relay has caught up.",
							&mlc_quarantine_max_keys, 10000, 0, PG_INT32_MAX,
							PGC_USERSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.reconnect_max",
							"Longest pause between two attempts to reach a Redis.",
							NULL,
							&mlc_reconnect_max, 2000, 10, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.redis_spin",
							"How long to look for an answer of Redis before sleeping, in microseconds.",
							"Not done where it does not pay. 0 turns it off.",
							&mlc_redis_spin, 100, 0, 1000,
							PGC_USERSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.negative_ttl",
							"How long it is remembered that there is no row, where the rule does not say.",
							NULL,
							&mlc_negative_ttl, 30000, 1, PG_INT32_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.lease_timeout",
							"How long a reader that loads a row may take to fill the cache with it.",
							"Past it the fill is refused, and another reader may load.",
							&mlc_lease_timeout, 5000, 1, 3600000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.lease_wait",
							"How long a read waits for another reader to fill the cache.",
							"Past it the row is read, and nothing is cached. 0 means not to wait.",
							&mlc_lease_wait, 100, 0, 3600000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);

	/* a setting of the server's start cannot be defined after it */
	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable("mlcache.l1_size",
								"Shared memory for the cache within this server.",
								"0 turns it off: every read asks Redis.",
								&mlc_l1_size, 32768, 0, MAX_KILOBYTES,
								PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);

	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable("mlcache.max_hot_keys",
								"How many keys can be told apart when counting which are read most.",
								"A power of two, else the next one below. 0 means that none are counted.",
								&mlc_max_hot_keys, 4096, 0, 1048576,
								PGC_POSTMASTER, 0, NULL, NULL, NULL);

	DefineCustomBoolVariable("mlcache.warm_on_start",
							 "Fills the keys that were hot before, when the server has started.",
							 NULL,
							 &mlc_warm_on_start, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.refresh_timeout",
							"How long a loader may take when the relay reloads a document.",
							"The relay delivers nothing meanwhile; a document that takes longer is left to its readers.",
							&mlc_refresh_timeout, 1000, 1, 4000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable("mlcache.max_locks",
								"How many locks the sessions of this server can hold at a time.",
								NULL,
								&mlc_max_locks, 1024, 16, 1000000,
								PGC_POSTMASTER, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.lock_escalation_threshold",
							"How many locks below one path a session may hold before it takes the path itself.",
							"0 means never to escalate.",
							&mlc_lock_escalation_threshold, 100, 0, 1000000,
							PGC_USERSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.audit_rate",
							"How many cached copies a second the auditor compares with their rows.",
							"It also measures how long commits take to reach Redis. 0 means no auditor.",
							&mlc_audit_rate, 0, 0, 100000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("mlcache.audit_timeout",
							"How long an audit waits for the relay before it leaves a difference unsettled.",
							NULL,
							&mlc_audit_timeout, 10000, 0, 3600000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomBoolVariable("mlcache.relay_enabled",
							 "Runs a relay in every database that has rules.",
							 NULL,
							 &mlc_relay_enabled, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomBoolVariable("mlcache.failover_slot",
							 "Lets standbys synchronize the slot, for the case that they are promoted.",
							 "PostgreSQL 17 and later; it has no effect before.",
							 &mlc_failover_slot, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomBoolVariable("mlcache.monitor_enabled",
							 "Runs a monitor beside each relay.",
							 "It remembers how things went, and raises alerts.",
							 &mlc_monitor_enabled, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	define_alerts();

	DefineCustomStringVariable("mlcache.fault_points",
							   "Named stop points for tests.",
							   "A comma-separated list of name=action; actions are wait, error, exit, kill and skip.",
							   &mlc_fault_points, "",
							   PGC_SUSET, GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL,
							   NULL, NULL, NULL);

	MarkGUCPrefixReserved("mlcache");
}
