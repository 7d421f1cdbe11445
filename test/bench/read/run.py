"""Measures guarded reads; started by test/bench/read/run."""
import re
import statistics
import subprocess
import sys
import threading
import time

import psycopg2

with_l1, without_l1, port, redis, work, rounds, seconds = sys.argv[1:]
rounds, seconds = int(rounds), float(seconds)
KEYS = 10000


def connect(host):
    connection = psycopg2.connect(host=host, port=port, user="postgres", dbname="postgres")
    connection.autocommit = True
    return connection.cursor()


def prepare(host, database):
    cursor = connect(host)
    cursor.execute("CREATE EXTENSION mlcache")
    cursor.execute("CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url 'unix://%s?db=%d', namespace 'bench%d')"
                   % (redis, database, database))
    cursor.execute("CREATE TABLE p (id int PRIMARY KEY, name text)")
    # the cached text has 512 bytes
    cursor.execute("INSERT INTO p SELECT g, repeat('x', 512 - 20 - length(g::text)) FROM generate_series(1, %d) g" % KEYS)
    cursor.execute("VACUUM ANALYZE p")
    cursor.execute("SELECT mlcache.attach('p', key => 'p:{id}')")
    while True:
        cursor.execute("SELECT bool_and(state = 'armed') FROM mlcache.stat_servers")
        if cursor.fetchone()[0]:
            break
        time.sleep(0.05)
    cursor.execute("SELECT mlcache.wait_applied(mlcache.fill_version(), '60 s')")
    for _ in range(3):
        for start in range(1, KEYS + 1, 500):
            cursor.execute("SELECT count(value) FROM mlcache.mget((SELECT array_agg('p:' || g) FROM generate_series(%d, %d) g))"
                           % (start, start + 499))
    cursor.execute("CREATE FUNCTION raw_get(text, text) RETURNS text AS '%s/raw.so' LANGUAGE C VOLATILE" % work)
    cursor.execute("CREATE FUNCTION raw_mget(text[], text) RETURNS int AS '%s/raw.so' LANGUAGE C VOLATILE" % work)
    return cursor


def pgbench(host, sql, clients=1):
    path = work + "/script.sql"
    with open(path, "w", encoding="ascii") as f:
        f.write("\\set id random(1, %d)\n%s\n" % (KEYS, sql))
    out = subprocess.run(["pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", str(clients),
                          "-T", str(int(seconds)), "-f", path, "-h", host, "-p", port,
                          "-U", "postgres", "postgres"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True).stdout
    return float(re.search(r"tps = ([0-9.]+)", out).group(1))


def timed(cursor, sql, per):
    """Units a second of a statement that does so many."""
    n, start = 0, time.perf_counter()
    while True:
        cursor.execute(sql)
        n += 1
        took = time.perf_counter() - start
        if took > seconds / 2 and n >= 3:
            return n * per / took


def contest(title, contestants):
    """Takes turns; the first is the yardstick."""
    results = {name: [] for name, _ in contestants}
    for _ in range(rounds):
        for name, run in contestants:
            results[name].append(run())
    first = statistics.median(results[contestants[0][0]])
    print("\n" + title)
    for name, _ in contestants:
        values = sorted(results[name])
        ratio = statistics.median(
            v / f for v, f in zip(results[name], results[contestants[0][0]]))
        print("  %-34s %11.0f /s  (%.0f - %.0f)  %6.3f us  x %.3f"
              % (name, statistics.median(values), values[0], values[-1],
                 1e6 / statistics.median(values), ratio))
    return first


l1 = prepare(with_l1, 1)
l2 = prepare(without_l1, 0)

contest("over SQL, one connection, prepared", [
    ("SELECT 1", lambda: pgbench(with_l1, "SELECT 1;")),
    ("row by primary key", lambda: pgbench(with_l1, "SELECT id, name FROM p WHERE id = :id;")),
    ("get(), L1 hit", lambda: pgbench(with_l1, "SELECT mlcache.get('p:' || :id);")),
    ("get(), L2 hit", lambda: pgbench(without_l1, "SELECT mlcache.get('p:' || :id);")),
])
contest("over SQL, two connections", [
    ("SELECT 1", lambda: pgbench(with_l1, "SELECT 1;", 2)),
    ("get(), L1 hit", lambda: pgbench(with_l1, "SELECT mlcache.get('p:' || :id);", 2)),
])
for clients in (1, 4):
    contest("through Redis, over SQL, connections: %d" % clients, [
        ("raw GET", lambda: pgbench(without_l1, "SELECT raw_get('p:' || :id, '%s');" % redis, clients)),
        ("get(), L2 hit", lambda: pgbench(without_l1, "SELECT mlcache.get('p:' || :id);", clients)),
    ])

N = 100000
SERIES = "FROM (SELECT 'p:' || g %% %d + 1 AS key FROM generate_series(1, %d) g OFFSET 0) x" % (KEYS, N)
contest("inside a statement, a call", [
    ("nothing: count(key)", lambda: timed(l1, "SELECT count(key) " + SERIES, N)),
    ("get(), L1 hit", lambda: timed(l1, "SELECT count(mlcache.get(key)) " + SERIES, N)),
])


def together(n):
    """Calls a second of n sessions, each inside statements of its own."""
    rates = []
    cursors = [connect(with_l1) for _ in range(n)]
    threads = [threading.Thread(target=lambda c=c: rates.append(
        timed(c, "SELECT count(mlcache.get(key)) " + SERIES, N))) for c in cursors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


contest("inside a statement, all sessions together", [
    ("one session", lambda: together(1)),
    ("two sessions", lambda: together(2)),
])
l1.execute("SELECT array_agg('p:' || g) FROM generate_series(1, 1000) g")
thousand = l1.mogrify("%s", (l1.fetchone()[0],)).decode()
l1.execute("PREPARE many AS SELECT count(value) FROM (SELECT %s::text[] AS keys) k, generate_series(1, 100) g, LATERAL mlcache.mget(CASE WHEN g > 0 THEN keys END)" % thousand)
l1.execute("PREPARE none AS SELECT count(value) FROM (SELECT %s::text[] AS keys) k, generate_series(1, 100) g, LATERAL unnest(CASE WHEN g > 0 THEN keys END) AS value" % thousand)
contest("1000 keys at once, a key", [
    ("nothing: unnest(keys)", lambda: timed(l1, "EXECUTE none", 100000)),
    ("mget(), L1 hits", lambda: timed(l1, "EXECUTE many", 100000)),
])
l2.execute("SELECT array_agg('p:' || g) FROM generate_series(1, 100) g")
hundred = l2.mogrify("%s", (l2.fetchone()[0],)).decode() + "::text[]"
M = 2000
contest("through Redis, a call inside a statement", [
    ("raw GET", lambda: timed(l2, "SELECT count(raw_get(key, '%s')) FROM (SELECT 'p:' || g AS key FROM generate_series(1, %d) g) x" % (redis, M), M)),
    ("get(), L2 hit", lambda: timed(l2, "SELECT count(mlcache.get(key)) FROM (SELECT 'p:' || g AS key FROM generate_series(1, %d) g) x" % M, M)),
])
contest("100 keys through Redis, a key", [
    ("raw MGET", lambda: timed(l2, "SELECT sum(raw_mget(%s, '%s')) FROM generate_series(1, 20)" % (hundred, redis), 2000)),
    ("mget(), L2 hits", lambda: timed(l2, "SELECT count(value) FROM generate_series(1, 20) g, LATERAL mlcache.mget(CASE WHEN g > 0 THEN %s END)" % hundred, 2000)),
])
l1.execute("SELECT budget, lines, payload, payload_share, hits, misses FROM mlcache.stat_l1")
print("\nL1: budget %d, lines %d, payload %d, share %s, hits %d, misses %d" % l1.fetchone())
