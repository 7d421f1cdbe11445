/*
 * scenarios.h
 *		What is explored, and where each safeguard is missed.
 */
static const char *const safeguard_words[] = {
#define X(name, words) words,
	SAFEGUARDS(X)
#undef X
};

static const char *const safeguard_names[] = {
#define X(name, words) #name,
	SAFEGUARDS(X)
#undef X
};

static Scenario scenarios[] = {
	{
		.name = "strong-invalidate",
		.words = "strong, invalidate, two writers through different rows",
		.transactions = 2, .strong = true, .action = INVALIDATE, .two_rows = true,
		.readers = 2, .crashes = 1, .server = 1, .evict = true,
	},
	{
		.name = "strong-update",
		.words = "strong, update: the release brings the payload",
		.transactions = 3, .strong = true, .action = UPDATE,
		.readers = 1, .crashes = 1, .server = 1, .evict = true, .positions = true,
	},
	{
		.name = "eventual-update",
		.words = "eventual, update between lo and hi",
		.transactions = 3, .action = UPDATE, .statement = true, .positions = true,
		.readers = 2, .crashes = 1, .evict = true,
	},
	{
		.name = "eventual-replicate",
		.words = "eventual, replicate creates entries; the relay restarts twice",
		.transactions = 3, .action = REPLICATE, .positions = true,
		.readers = 1, .crashes = 2, .server = 1, .evict = true,
	},
	{
		.name = "eventual-async",
		.words = "eventual, synchronous_commit = off",
		.transactions = 3, .action = UPDATE, .positions = true, .async = true,
		.readers = 1, .crashes = 1, .server = 1,
	},
	{
		.name = "l1-eventual",
		.words = "L1 before Redis, eventual, update",
		.transactions = 2, .action = UPDATE, .l1 = true,
		.readers = 2, .crashes = 1, .server = 1, .evict = true,
	},
	{
		.name = "l1-strong",
		.words = "L1 before Redis, strong, update",
		.transactions = 2, .strong = true, .action = UPDATE, .l1 = true,
		.readers = 2, .crashes = 1, .evict = true,
	},
	{
		.name = "failover-strong",
		.words = "Redis fails over, strong, update",
		.transactions = 2, .strong = true, .action = UPDATE, .confirm = true, .fresh = true,
		.readers = 1, .crashes = 1, .failovers = 1,
	},
	{
		.name = "failover-eventual",
		.words = "Redis fails over, eventual, update",
		.transactions = 2, .action = UPDATE, .confirm = true, .fresh = true,
		.readers = 1, .crashes = 1, .failovers = 1,
	},
	{
		.name = "flush",
		.words = "Redis is flushed, strong, invalidate",
		.transactions = 2, .strong = true, .action = INVALIDATE, .two_rows = true,
		.readers = 1, .crashes = 1, .flushes = 1,
	},
	{
		.name = "flush-replicate",
		.words = "Redis is flushed, eventual, replicate; the relay restarts twice",
		.transactions = 2, .action = REPLICATE,
		.readers = 1, .crashes = 2, .flushes = 1, .evict = true,
	},
	{
		.name = "prepared",
		.words = "strong, update, the second transaction is a prepared one; Redis fails over",
		.transactions = 2, .strong = true, .action = UPDATE, .prepare = true,
		.readers = 1, .crashes = 1, .server = 1, .failovers = 1,
	},
	{
		.name = "promotion-strong",
		.words = "a standby of PostgreSQL is promoted, the old primary goes on; strong, update",
		.transactions = 2, .strong = true, .action = UPDATE,
		.readers = 2, .promotions = 1,
	},
	{
		.name = "promotion-eventual",
		.words = "a standby of PostgreSQL is promoted, the old primary goes on; eventual, update",
		.transactions = 3, .action = UPDATE,
		.readers = 2, .promotions = 1,
	},
	{
		.name = "standby",
		.words = "eventual, the second reader loads on a standby",
		.transactions = 3, .action = UPDATE, .standby = true,
		.readers = 2, .crashes = 1,
	},
};

#define SCENARIOS ((int) (sizeof(scenarios) / sizeof(scenarios[0])))

typedef struct Mutation
{
	Safeguard	safeguard;
	const char *scenario;
} Mutation;

static const Mutation mutations[] = {
	{VISIBILITY_WAIT, "eventual-update"},
	{LEASE_CHECK, "eventual-update"},
	{LEASE_DIES, "eventual-update"},
	{QUARANTINE, "strong-invalidate"},
	{FRESH_SNAPSHOT, "eventual-update"},
	{NO_XID_FILL, "eventual-update"},
	{APPLIED_KNOWN, "flush"},
	{PUBLISH_CAS, "standby"},
	{PUBLISH_ARMED, "failover-eventual"},
	{ARM_MEMORY, "failover-strong"},
	{BEGIN_MEMORY, "failover-strong"},
	{BEGIN_CAS, "flush-replicate"},
	{PREPARED_STAYS, "prepared"},
	{NEW_NONCE, "eventual-replicate"},
	{OTHER_MARKS, "strong-invalidate"},
	{UPDATE_LO, "eventual-update"},
	{UPDATE_HI, "eventual-update"},
	{REPLICATE_NONCE, "eventual-replicate"},
	{OWN_MARK, "strong-update"},
	{LAST_MARK, "strong-update"},
	{FLOOR, "strong-update"},
	{RELEASE_ARMING, "failover-strong"},
	{TAINT, "strong-update"},
	{L1_CLOSED, "l1-eventual"},
	{L1_TOKEN, "l1-eventual"},
	{L1_QUARANTINE, "l1-strong"},
	{ARMING, "failover-strong"},
	{REMARK, "failover-strong"},
	{ARM_POSITION, "failover-strong"},
	{PURGE, "failover-strong"},
	{TIMELINE_PURGE, "promotion-eventual"},
	{TIMELINE_FIRST, "promotion-eventual"},
	{FILL_TIMELINE, "promotion-eventual"},
	{WRITER_TIMELINE, "promotion-strong"},
	{RELAY_TIMELINE, "promotion-eventual"},
	{APPLYING_FIRST, "standby"},
	{REPLIES_FIRST, "eventual-update"},
	{STANDBY_CHECK, "standby"},
	{STANDBY_APPLYING, "standby"},
	{FLUSH_FIRST, "eventual-async"},
	{POSITION_AFTER, "eventual-update"},
	{MARKS_STAY, "strong-invalidate"},
	{RENEWAL, "strong-invalidate"},
};

#define MUTATIONS ((int) (sizeof(mutations) / sizeof(mutations[0])))

static Scenario *
find_scenario(const char *name)
{
	for (int i = 0; i < SCENARIOS; i++)
		if (strcmp(scenarios[i].name, name) == 0)
			return &scenarios[i];
	fail("no such scenario");
	return NULL;
}

static Safeguard
find_safeguard(const char *name)
{
	for (int i = 0; i < SAFEGUARD_COUNT; i++)
		if (strcmp(safeguard_names[i], name) == 0)
			return i;
	fail("no such safeguard");
	return SAFEGUARD_COUNT;
}
