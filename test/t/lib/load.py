#!/usr/bin/env python3
"""Write load, outside readers, a watcher, and the final comparison.

	load.py run     writers, readers and a watcher until standard input ends or
	                says "stop"; a line "redis PATH" sends readers and watcher
	                elsewhere.  Prints one JSON object at the end.
	load.py fill    fills every key of the fillable rules through the protocol
	load.py compare compares every cached copy with its row, prints JSON

Standard input begins with one line of JSON, the options:
	pg       conninfo string
	redis    path of the unix socket, or cluster:HOST:PORT,HOST:PORT...
	ns       namespace of the function library
	writers, readers	numbers of threads (run)
	cold     number of cold keys (run, fill)
	async    share of transactions with synchronous_commit off (run)
	flush    whether readers wait until WAL is flushed up to hi (default true)

The tables are those of MlcTest::create_tables().  Every change of a row takes
a new value of the sequence "ver" while it holds the row's lock, so ver never
decreases over the commits of one key, and what a reader sees of a key must not
either.  Half of the changes go to a few hot keys; the others walk through the
cold keys, each changed once: there, a lost invalidation is never made good by
a later one.

Readers are what an application is: mlc_get, and with a lease load the row in a
new snapshot, read the insert position (hi) after it, wait until that is
flushed, mlc_fill.  They work on many keys a round trip.
"""
import json
import os
import random
import sys
import threading
import time

import psycopg2
import redis

import cluster

HOT = 60			# keys 1..HOT
HOT_SPACE = 100		# ... and what they may be renamed to
CATEGORIES = 12
ROW_TABLES = ("r", "u", "i", "w", "p")
FILLED = ("u", "i", "w", "p")	# rules that need a reader to have entries
LEASE_MS = 3000


def connect_redis(path):
    if path.startswith("cluster:"):
        return cluster.Cluster(path[8:])
    return redis.Redis(unix_socket_path=path, socket_timeout=30)


class World:
    """What all threads share."""

    def __init__(self, options):
        self.options = options
        self.pg = options["pg"]
        self.ns = options["ns"]
        self.redis_path = options["redis"]
        self.stop_event = threading.Event()
        self.lock = threading.Lock()
        self.cold_next = 0
        self.counts = {}
        self.violations = []

    def count(self, what, n=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + n

    def violation(self, text):
        with self.lock:
            if len(self.violations) < 20:
                self.violations.append(text)
            self.counts["violations"] = self.counts.get("violations", 0) + 1

    def next_cold(self):
        with self.lock:
            self.cold_next += 1
            if self.cold_next > self.options.get("cold", 0):
                return None
            return 1000 + self.cold_next


# ---------- writers ----------

class Writer(threading.Thread):
    def __init__(self, world, number):
        super().__init__()
        self.world = world
        self.random = random.Random(1000 + number)
        self.number = number
        self.gid = 0

    def run(self):
        conn = None
        while not self.world.stop_event.is_set():
            try:
                if conn is None:
                    conn = psycopg2.connect(self.world.pg)
                    self.finish_prepared(conn)
                self.transaction(conn)
            except psycopg2.Error as error:
                self.world.count("writer " + (error.pgcode or "disconnected"))
                try:
                    conn.rollback()
                except (psycopg2.Error, AttributeError):
                    conn = None
                    time.sleep(0.02)
        if conn is not None:
            conn.close()

    def finish_prepared(self, conn):
        """What a crash left prepared would hold its locks for ever."""
        conn.autocommit = True
        cur = conn.cursor()
        cur.execute("SELECT gid FROM pg_prepared_xacts WHERE gid ~ %s",
                    (f"^w{self.number}-{os.getpid()}-",))
        for (gid,) in cur.fetchall():
            cur.execute("COMMIT PREPARED %s", (gid,))
        conn.autocommit = False

    def transaction(self, conn):
        cur = conn.cursor()
        table = self.random.choice(ROW_TABLES)
        if self.random.random() < self.world.options.get("async", 0):
            cur.execute("SET LOCAL synchronous_commit = off")
        dice = self.random.random()
        if dice < 0.30:
            key = self.world.next_cold()
            if key is None:
                key = self.hot()
            # the same cold key everywhere, in one transaction
            for each in ROW_TABLES:
                self.update(cur, each, key)
        elif dice < 0.55:
            self.update(cur, table, self.hot())
        elif dice < 0.65:
            self.insert(cur, table)
        elif dice < 0.72:
            cur.execute(f"DELETE FROM {table} WHERE id = %s", (self.hot(),))
        elif dice < 0.80:
            self.rename(cur, table)
        elif dice < 0.86:
            cur.execute("UPDATE p SET category_id = %s, ver = nextval('ver') WHERE id = %s",
                        (self.random.randrange(CATEGORIES), self.hot()))
        elif dice < 0.93:
            self.savepoints(cur, table)
        elif dice < 0.97:
            self.update(cur, table, self.hot())
            conn.rollback()
            self.world.count("rolled back")
            return
        elif self.world.options.get("prepared"):
            self.update(cur, table, self.hot())
            self.gid += 1
            gid = f"w{self.number}-{os.getpid()}-{self.gid}"
            cur.execute("PREPARE TRANSACTION %s", (gid,))
            conn.rollback()
            conn.autocommit = True
            try:
                cur.execute("COMMIT PREPARED %s", (gid,))
            finally:
                conn.autocommit = False
        conn.commit()
        self.world.count("transactions")

    def hot(self):
        return self.random.randint(1, HOT_SPACE)

    def update(self, cur, table, key):
        cur.execute(f"UPDATE {table} SET n = n + 1, ver = nextval('ver') WHERE id = %s",
                    (key,))

    def insert(self, cur, table):
        key = self.hot()
        extra = ", category_id" if table == "p" else ""
        value = f", {self.random.randrange(CATEGORIES)}" if table == "p" else ""
        cur.execute(f"INSERT INTO {table} (id, n, ver{extra}) VALUES (%s, 0, 0{value})"
                    " ON CONFLICT DO NOTHING", (key,))
        self.update(cur, table, key)

    def rename(self, cur, table):
        new = self.hot()
        cur.execute(f"UPDATE {table} SET id = %s WHERE id = %s", (new, self.hot()))
        if cur.rowcount == 1:
            self.update(cur, table, new)

    def savepoints(self, cur, table):
        keys = sorted(self.random.sample(range(1, HOT_SPACE + 1), 4))
        self.update(cur, table, keys[0])
        cur.execute("SAVEPOINT a")
        self.update(cur, table, keys[1])
        cur.execute("SAVEPOINT b")
        self.update(cur, table, keys[2])
        cur.execute("ROLLBACK TO SAVEPOINT b")
        cur.execute("RELEASE SAVEPOINT a")
        cur.execute("SAVEPOINT c")
        self.update(cur, table, keys[3])
        cur.execute("DELETE FROM w WHERE id = %s", (keys[3],))
        cur.execute("ROLLBACK TO SAVEPOINT c")


# ---------- readers ----------

def lsn_number(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def record_end(lsn):
    """The end of the record before an insert position: without a page header."""
    if lsn % 8192 == 24:
        return lsn - 24
    if lsn % 8192 == 40:
        return lsn - 40
    return lsn


class Loader:
    """Reads keys through the protocol, many at a time."""

    def __init__(self, world, token):
        self.world = world
        self.token = token
        self.pg = None
        self.redis = None
        self.path = None

    def close(self):
        if self.pg is not None:
            try:
                self.pg.close()
            except psycopg2.Error:
                pass
        self.pg = None
        self.redis = None

    def ensure(self):
        if self.redis is None or self.path != self.world.redis_path:
            self.path = self.world.redis_path
            self.redis = connect_redis(self.path)
        if self.pg is None:
            self.pg = psycopg2.connect(self.world.pg)
            self.pg.autocommit = True

    def rows(self, keys):
        """Payload by key, in one new snapshot; missing: no row."""
        found = {}
        wanted = {}
        for key in keys:
            prefix, ident = key.split(":")
            wanted.setdefault(prefix, []).append(int(ident))
        parts = []
        params = []
        for prefix, ids in wanted.items():
            if prefix == "category":
                parts.append(
                    "SELECT 'category:' || category_id,"
                    " json_agg(json_build_array(id, ver) ORDER BY id)::text"
                    " FROM p WHERE category_id = ANY(%s) GROUP BY category_id")
            else:
                parts.append(f"SELECT '{prefix}:' || t.id, row_to_json(t)::text"
                             f" FROM (SELECT * FROM ONLY {prefix}) t WHERE t.id = ANY(%s)")
            params.append(ids)
        cur = self.pg.cursor()
        cur.execute(" UNION ALL ".join(parts), params)
        for key, payload in cur.fetchall():
            found[key] = payload
        return found

    def position(self):
        """The insert position now, as (version text, number)."""
        cur = self.pg.cursor()
        cur.execute("SELECT lower(substr(pg_walfile_name(l), 1, 8)), l::text"
                    " FROM pg_current_wal_insert_lsn() l")
        timeline, text = cur.fetchone()
        number = record_end(lsn_number(text))
        return timeline + "%016x" % number, number

    def is_flushed(self, number):
        """Waits until WAL is flushed that far; false when the run ends first."""
        cur = self.pg.cursor()
        while True:
            cur.execute("SELECT pg_current_wal_flush_lsn()::text")
            if lsn_number(cur.fetchone()[0]) >= number:
                return True
            if self.world.stop_event.is_set():
                return False
            time.sleep(0.001)

    def read(self, keys):
        self.ensure()
        pipe = self.redis.pipeline(transaction=False)
        for key in keys:
            pipe.execute_command("FCALL", "mlc_get", 1, key, self.token, LEASE_MS,
                                 self.world.ns)
        leases = {}
        for key, answer in zip(keys, pipe.execute()):
            if isinstance(answer, Exception):		# its slot is on its way
                self.world.count("read " + type(answer).__name__)
                continue
            self.world.count("read " + answer[0].decode())
            if answer[0] == b"lease":
                leases[key] = answer[1].decode()
        if not leases:
            return
        rows = self.rows(leases)
        hi, number = self.position()
        if self.world.options.get("flush", True) and not self.is_flushed(number):
            return
        pipe = self.redis.pipeline(transaction=False)
        for key, lo in leases.items():
            payload = rows.get(key)
            pipe.execute_command("FCALL", "mlc_fill", 1, key, self.token, payload or "",
                                 0, lo, hi, 0 if payload else 1, self.world.ns)
        for answer in pipe.execute():
            self.world.count("fill " + (type(answer).__name__ if isinstance(answer, Exception)
                                        else answer.decode()))


def all_keys(cold, prefixes=FILLED):
    keys = [f"{prefix}:{n}" for prefix in prefixes
            for n in list(range(1, HOT_SPACE + 1)) + list(range(1001, 1001 + cold))]
    return keys + [f"category:{n}" for n in list(range(CATEGORIES)) +
                   list(range(100, 100 + cold // 5))]


class Reader(threading.Thread):
    def __init__(self, world, number):
        super().__init__()
        self.world = world
        self.random = random.Random(2000 + number)
        self.loader = Loader(world, f"reader-{os.getpid()}-{number}")

    def run(self):
        keys = all_keys(self.world.options.get("cold", 0))
        hot = all_keys(0)
        while not self.world.stop_event.is_set():
            try:
                self.loader.read(self.random.sample(keys, min(30, len(keys))) +
                                 self.random.sample(hot, 10))
            except (redis.RedisError, psycopg2.Error, OSError) as error:
                self.world.count("reader " + type(error).__name__)
                self.loader.close()
                time.sleep(0.05)
        self.loader.close()


# ---------- watcher ----------

class Watcher(threading.Thread):
    """What is served must not go backwards.

    A guard says that its entry is no older than lo and no newer than hi, so no
    later hi may lie before an earlier lo.  (A later lo may: after a removal, a
    fill knows no better than `applied`, which changes of weak rules hold back.)
    The row's own counter is exact.
    """

    def __init__(self, world):
        super().__init__()
        self.world = world
        self.last = {}

    def run(self):
        keys = [f"{prefix}:{n}" for prefix in ROW_TABLES for n in range(1, HOT_SPACE + 1)]
        client = None
        path = None
        while not self.world.stop_event.is_set():
            try:
                if client is None or path != self.world.redis_path:
                    path = self.world.redis_path
                    client = connect_redis(path)
                self.look(client, keys)
            except (redis.RedisError, OSError):
                client = None
                time.sleep(0.02)
            time.sleep(0.005)

    def snapshot(self, client, keys):
        """(key, state, payload, guard), all of one node at one instant."""
        state = ("FCALL", "mlc_state", 0, self.world.ns)
        if isinstance(client, cluster.Cluster):
            groups = [(key, [state, ("GET", key), ("GET", "mlc:{" + key + "}")])
                      for key in keys]
            return [(key, *answer) for key, answer in zip(keys, client.many(groups))
                    if not isinstance(answer, Exception)]
        pipe = client.pipeline(transaction=True)
        pipe.execute_command(*state)
        pipe.mget(keys)
        pipe.mget(["mlc:{" + key + "}" for key in keys])
        state, payloads, guards = pipe.execute()
        return [(key, state, payload, guard)
                for key, payload, guard in zip(keys, payloads, guards)]

    def look(self, client, keys):
        found = [each for each in self.snapshot(client, keys) if each[1][4] == 1]
        if not found:
            return			# nobody may hit now
        self.world.count("watched")
        for key, state, payload, guard in found:
            nonce = state[3]
            if payload is None or guard is None or b"|" not in guard:
                continue
            lo, hi = guard.split(b"|")[:2]
            if not lo:
                continue
            ver = json.loads(payload)["ver"]
            before = self.last.get(key)
            if before is not None:
                if before[0] == nonce and hi < before[1]:
                    self.world.violation(f"{key}: from {before[1].decode()} or later"
                                         f" to {hi.decode()} or before")
                if ver < before[2]:
                    self.world.violation(f"{key}: ver went from {before[2]} to {ver}")
            self.last[key] = (nonce, lo, ver)


# ---------- compare ----------

def compare(options):
    world = World(options)
    loader = Loader(world, "compare")
    loader.ensure()
    names = [name.decode("utf-8", "replace")
             for name in loader.redis.scan_iter(count=1000)]
    guards = {}
    entries = []
    for name in names:
        if name.startswith("mlc:{"):
            guards[name[5:-1]] = True
        elif name.split(":")[0] in ROW_TABLES + ("category",):
            entries.append(name)
    cur = loader.pg.cursor()
    rows = {}
    for table in ROW_TABLES:
        cur.execute(f"SELECT '{table}:' || t.id, row_to_json(t)::text"
                    f" FROM (SELECT * FROM ONLY {table}) t")
        rows.update(cur.fetchall())
    cur.execute("SELECT 'category:' || category_id,"
                " json_agg(json_build_array(id, ver) ORDER BY id)::text"
                " FROM p GROUP BY category_id")
    rows.update(cur.fetchall())

    result = {"entries": 0, "unguarded": 0, "absent": 0, "stale": [], "missing": [],
              "by_prefix": {}}
    everything = sorted(set(entries) | set(guards))
    seen = set()
    for start in range(0, len(everything), 500):
        part = everything[start:start + 500]
        payloads = loader.redis.mget(part)
        texts = loader.redis.mget(["mlc:{" + key + "}" for key in part])
        for key, payload, text in zip(part, payloads, texts):
            fields = text.split(b"|") if text else None
            vouched = fields is not None and len(fields) == 8 and fields[0] != b""
            if payload is None:
                if vouched and b"A" in fields[3]:
                    result["absent"] += 1
                    if key in rows:
                        result["stale"].append(f"{key}: cached as absent, is {rows[key]},"
                                               f" guard {text.decode()}")
                continue
            if not vouched:
                result["unguarded"] += 1
                continue
            seen.add(key)
            result["entries"] += 1
            prefix = key.split(":")[0]
            result["by_prefix"][prefix] = result["by_prefix"].get(prefix, 0) + 1
            if rows.get(key) != payload.decode():
                result["stale"].append(f"{key}: cached {payload.decode()},"
                                       f" is {rows.get(key)}, guard {text.decode()}")
    for key in rows:
        if key.startswith("r:") and key not in seen:
            result["missing"].append(key)
    result["nstale"] = len(result["stale"])
    result["nmissing"] = len(result["missing"])
    result["stale"] = result["stale"][:10]
    result["missing"] = result["missing"][:10]
    return result


def run(options):
    world = World(options)
    threads = [Writer(world, n) for n in range(options.get("writers", 3))]
    threads += [Reader(world, n) for n in range(options.get("readers", 2))]
    threads.append(Watcher(world))
    for thread in threads:
        thread.start()
    for line in sys.stdin:
        words = line.split()
        if words[:1] == ["redis"]:
            world.redis_path = words[1]
        elif words[:1] == ["stop"]:
            break
    # on a busy machine one or the other may hardly have had its turn
    patience = time.monotonic() + 60
    while time.monotonic() < patience and (world.counts.get("watched", 0) <= 20 or
                                           world.counts.get("transactions", 0) <= 100):
        time.sleep(0.01)
    world.stop_event.set()
    for thread in threads:
        thread.join()
    return {"counts": world.counts, "violations": world.violations,
            "cold": min(world.cold_next, options.get("cold", 0))}


def fill(options):
    world = World(options)
    loader = Loader(world, "fill")
    keys = all_keys(options.get("cold", 0))
    for start in range(0, len(keys), 500):
        loader.read(keys[start:start + 500])
    return {"counts": world.counts}


def main():
    options = json.loads(sys.stdin.readline())
    result = {"run": run, "fill": fill, "compare": compare}[sys.argv[1]](options)
    print(json.dumps(result))


main()
