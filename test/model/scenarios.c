/*
 * scenarios.c
 *		What is explored, and where each safeguard is missed.
 *
 * A scenario is one way to use the cache and the faults that may hit it.  A
 * safeguard is taken out in the smallest scenario that needs it.
 */
#include <stddef.h>

#include "model.h"

Scenario	scenarios[] = {
	{
		.name = "strong-invalidate",
		.words = "strong, invalidate, two writers through different rows",
		.transactions = 2,.strong = 1,.action = INVALIDATE,.two_rows = 1,
		.readers = 2,.crashes = 1,.server = 1,.evict = 1,
	},
	{
		.name = "strong-update",
		.words = "strong, update: the release brings the payload",
		.transactions = 3,.strong = 1,.action = UPDATE,.positions = 1,
		.readers = 1,.crashes = 1,.server = 1,.evict = 1,
	},
	{
		.name = "strong-async",
		.words = "strong, update, synchronous_commit = off",
		.transactions = 2,.strong = 1,.action = UPDATE,.positions = 1,.async = 1,
		.readers = 1,.crashes = 1,.server = 1,
	},
	{
		.name = "prepared",
		.words = "strong, update, T2 is a prepared transaction; Redis fails over",
		.transactions = 2,.strong = 1,.action = UPDATE,.prepare = 2,
		.readers = 1,.crashes = 1,.server = 1,.failovers = 1,
	},
	{
		.name = "prepared-l1",
		.words = "strong, invalidate, T2 is a prepared transaction; L1 before Redis",
		.transactions = 2,.strong = 1,.action = INVALIDATE,.prepare = 2,.l1 = 1,
		.readers = 1,.crashes = 1,.server = 1,.evict = 1,
	},
	{
		.name = "close",
		.words = "strong, update, T2 changes the rule as a whole and closes the server",
		.transactions = 3,.strong = 1,.action = UPDATE,.close = 2,
		.readers = 1,.crashes = 1,.server = 1,
	},
	{
		.name = "close-fresh",
		.words = "strong, invalidate, T1 closes the server while a new Redis is armed",
		.transactions = 2,.strong = 1,.action = INVALIDATE,.close = 1,.fresh = 1,
		.readers = 1,.crashes = 1,
	},
	{
		.name = "eventual-update",
		.words = "eventual, update between lo and hi",
		.transactions = 3,.action = UPDATE,.statement = 1,.positions = 1,
		.readers = 2,.crashes = 1,.evict = 1,
	},
	{
		.name = "eventual-replicate",
		.words = "eventual, replicate; the relay or the server dies twice",
		.transactions = 3,.action = REPLICATE,.positions = 1,
		.readers = 1,.crashes = 2,.server = 1,.evict = 1,
	},
	{
		.name = "eventual-async",
		.words = "eventual, synchronous_commit = off",
		.transactions = 3,.action = UPDATE,.positions = 1,.async = 1,
		.readers = 2,.crashes = 1,.server = 1,
	},
	{
		.name = "standby",
		.words = "eventual, the second reader loads on a standby",
		.transactions = 3,.action = UPDATE,.standby = 1,
		.readers = 2,.crashes = 1,
	},
	{
		.name = "l1-eventual",
		.words = "L1 before Redis, eventual, update",
		.transactions = 3,.action = UPDATE,.l1 = 1,
		.readers = 2,.crashes = 1,.server = 1,.evict = 1,
	},
	{
		.name = "l1-strong",
		.words = "L1 before Redis, strong, update",
		.transactions = 2,.strong = 1,.action = UPDATE,.l1 = 1,
		.readers = 2,.crashes = 1,.evict = 1,
	},
	{
		.name = "failover-eventual",
		.words = "a new Redis is armed, and fails over; eventual, update",
		.transactions = 2,.action = UPDATE,.confirm = 1,.fresh = 1,
		.readers = 1,.crashes = 1,.failovers = 1,
	},
	{
		.name = "failover-replicate",
		.words = "an armed Redis fails over; eventual, replicate; the relay dies twice",
		.transactions = 2,.action = REPLICATE,
		.readers = 1,.crashes = 2,.failovers = 1,
	},
	{
		.name = "failover-strong",
		.words = "an armed Redis fails over; strong, update",
		.transactions = 2,.strong = 1,.action = UPDATE,.confirm = 1,
		.readers = 1,.crashes = 1,.failovers = 1,
	},
	{
		.name = "failover-invalidate",
		.words = "an armed Redis fails over; strong, invalidate",
		.transactions = 2,.strong = 1,.action = INVALIDATE,.confirm = 1,
		.readers = 1,.crashes = 1,.failovers = 1,
	},
	{
		.name = "arming-strong",
		.words = "a new Redis is armed, and fails over; strong, update",
		.transactions = 2,.strong = 1,.action = UPDATE,.confirm = 1,.fresh = 1,
		.readers = 1,.failovers = 1,
	},
	{
		.name = "flush-strong",
		.words = "Redis is flushed; strong, invalidate, two writers through different rows",
		.transactions = 2,.strong = 1,.action = INVALIDATE,.two_rows = 1,
		.readers = 1,.crashes = 1,.flushes = 1,
	},
	{
		.name = "flush-replicate",
		.words = "Redis is flushed; eventual, replicate",
		.transactions = 3,.action = REPLICATE,
		.readers = 1,.crashes = 1,.flushes = 1,.evict = 1,
	},
	{
		.name = "promotion-strong",
		.words = "a standby of PostgreSQL is promoted, the old primary goes on; strong, update",
		.transactions = 2,.strong = 1,.action = UPDATE,
		.readers = 2,.promotions = 1,
	},
	{
		.name = "promotion-eventual",
		.words = "the same; eventual, update",
		.transactions = 3,.action = UPDATE,
		.readers = 2,.promotions = 1,
	},
	{0}
};

const Mutation mutations[] = {
	/* coherence.md, 3: reading */
	{NO_XID_FILL, "eventual-update"},
	{APPLIED_KNOWN, "flush-strong"},
	{FRESH_SNAPSHOT, "eventual-update"},
	{POSITION_AFTER, "eventual-update"},
	{FLUSH_FIRST, "eventual-async"},
	{LEASE_CHECK, "eventual-update"},
	{LEASE_DIES, "eventual-update"},
	{STANDBY_CHECK, "standby"},
	{STANDBY_APPLYING, "standby"},
	{FILL_TIMELINE, "promotion-eventual"},
	/* 4: the relay */
	{VISIBILITY_WAIT, "eventual-update"},
	{APPLYING_FIRST, "standby"},
	{REPLIES_FIRST, "eventual-update"},
	{PUBLISH_CAS, "standby"},
	{NEW_NONCE, "eventual-replicate"},
	{UPDATE_LO, "eventual-update"},
	{UPDATE_HI, "eventual-update"},
	{REPLICATE_NONCE, "eventual-replicate"},
	/* 5: strong */
	{QUARANTINE, "strong-invalidate"},
	{OTHER_MARKS, "strong-invalidate"},
	{MARKS_STAY, "strong-invalidate"},
	{SWEEP_PROGRESS, "strong-invalidate"},
	{SWEEP_PREPARED, "prepared"},
	{OWN_MARK, "strong-update"},
	{LAST_MARK, "strong-update"},
	{FLOOR, "strong-update"},
	{TAINT, "strong-update"},
	{RELEASE_ARMING, "failover-strong"},
	{RELEASE_FLUSHED, "strong-async"},
	{CLOSE, "close"},
	{CLOSE_COUNT, "close-fresh"},
	/* 6: L1 */
	{L1_TOKEN, "l1-eventual"},
	{L1_CLOSED, "l1-eventual"},
	{L1_QUARANTINE, "l1-strong"},
	{L1_PREPARED, "prepared-l1"},
	/* 7: failures */
	{ARMING, "failover-strong"},
	{WAIT_COMMITS, "failover-strong"},
	{ARM_POSITION, "failover-strong"},
	{ARM_MEMORY, "arming-strong"},
	{PUBLISH_MEMORY, "failover-eventual"},
	{PURGE, "failover-strong"},
	{BEGIN_MEMORY, "arming-strong"},
	{RESUME, "failover-replicate"},
	{TIMELINE_PURGE, "promotion-eventual"},
	{TIMELINE_FIRST, "promotion-eventual"},
	{WRITER_TIMELINE, "promotion-strong"},
	{RELAY_TIMELINE, "promotion-eventual"},
	{SAFEGUARD_COUNT, NULL}
};

/* Covered by others: nothing is missed, as long as those are in place. */
const Mutation spares[] = {
	{ADOPT_CAS, "failover-replicate"},
	{LEASE_NONCE, "failover-strong"},
	{REPLICATE_APPLIED, "eventual-replicate"},
	{GUARDED_ENTRY, "strong-update"},
	{UPDATE_MARKS, "strong-update"},
	{RELEASED_LO, "strong-invalidate"},
	{SAFEGUARD_COUNT, NULL}
};
