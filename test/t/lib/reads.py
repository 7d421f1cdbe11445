"""Histories of guarded reads: writers and readers over SQL, judged afterwards.

Reads options as one line of JSON, runs until a line comes on standard input,
prints a report as JSON.

Every row counts its changes in "ver".  A writer notes the version of each of
its commits; a reader notes, before each read, what had been applied, and then
what it got and where that came from.  Two things are judged:

  old     a read gave an older count than a commit that had been applied before
          the read began
  back    what a session read from a cache (or cached itself) went backwards
  ghost   a read gave what was rolled back
  none    a read gave nothing, though every row is always there
"""
import json
import random
import sys
import threading
import time

import psycopg2

options = json.loads(sys.stdin.readline())
KEYS = options["keys"]
TABLES = options["tables"]
GHOST = 1000000000
stop = threading.Event()
lock = threading.Lock()
commits = []                # (key, version, ver)
reads = []                  # (session, n, key, ver, applied, source)
lost = [0]


def connect():
    """A connection, as soon as there is a server to connect to; None at the end."""
    while not stop.is_set():
        try:
            connection = psycopg2.connect(options["pg"])
            connection.autocommit = True
            return connection
        except psycopg2.OperationalError:
            time.sleep(0.05)
    return None


def sessions(work):
    """Does work again and again, in a new session after every lost one."""
    n = 0
    while not stop.is_set():
        connection = connect()
        if connection is None:
            return
        n += 1
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET mlcache.fault_points = %s", (options.get("faults", ""),))
                while not stop.is_set():
                    work(cursor, n)
        except psycopg2.Error as error:
            # a server that goes may say why, or nothing, or half a sentence
            if error.pgcode is not None and error.pgcode[:2] not in ("08", "57"):
                raise
            lost[0] += 1
        finally:
            connection.close()


def write(cursor, _):
    table, key = random.choice(TABLES), random.randint(1, KEYS)
    if random.random() < 0.2:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE %s SET ver = ver + %d WHERE id = %d RETURNING ver"
                       % (table, GHOST, key))
        mine = cursor.fetchone()[0]
        cursor.execute("SELECT (mlcache.get('%s:%d')::json->>'ver')::bigint" % (table, key))
        seen = cursor.fetchone()[0]
        cursor.execute("ROLLBACK")
        if seen != mine:
            with lock:
                reads.append(("own", 0, "%s:%d" % (table, key), -1, "", "own"))
        return
    cursor.execute("UPDATE %s SET ver = ver + 1 WHERE id = %d RETURNING ver" % (table, key))
    ver = cursor.fetchone()[0]
    cursor.execute("SELECT mlcache.last_commit_version()")
    version = cursor.fetchone()[0]
    with lock:
        commits.append(("%s:%d" % (table, key), version, ver))
    time.sleep(random.random() * 0.004)


def reader(number):
    def read(cursor, n):
        key = "%s:%d" % (random.choice(TABLES), random.randint(1, KEYS))
        # without a relay there is no telling
        cursor.execute("SELECT max(applied) FROM mlcache.stat_servers")
        applied = cursor.fetchone()[0] or ""
        if random.random() < 0.1:
            cursor.execute("SELECT (value::json->>'ver')::bigint"
                           " FROM mlcache.mget(ARRAY['%s:1', '%s'])" % (TABLES[0], key))
            ver = cursor.fetchall()[1][0]
        else:
            cursor.execute("SELECT (mlcache.get('%s')::json->>'ver')::bigint" % key)
            ver = cursor.fetchone()[0]
        cursor.execute("SELECT source FROM mlcache.last_read()")
        source = cursor.fetchone()[0]
        with lock:
            reads.append((number, n, key, ver, applied, source))
    return read


def judge():
    violations = []
    sources = {}
    by_key = {}
    for key, version, ver in commits:
        by_key.setdefault(key, []).append((version, ver))
    for key in by_key:
        by_key[key].sort()
    last = {}
    for session, n, key, ver, applied, source in reads:
        sources[source] = sources.get(source, 0) + 1
        if session == "own":
            violations.append("own: %s" % key)
            continue
        if ver is None:
            violations.append("none: %s from %s" % (key, source))
            continue
        if ver >= GHOST:
            violations.append("ghost: %s is %d" % (key, ver))
            continue
        need = max([v for version, v in by_key.get(key, []) if version <= applied], default=0)
        if ver < need:
            violations.append("old: %s is %d from %s, %d was applied" % (key, ver, source, need))
        if source != "row":
            if ver < last.get((session, n, key), 0):
                violations.append("back: %s is %d from %s, was %d"
                                  % (key, ver, source, last[(session, n, key)]))
            last[(session, n, key)] = ver
    return violations, sources


def main():
    threads = [threading.Thread(target=sessions, args=(write,)) for _ in range(options["writers"])]
    threads += [threading.Thread(target=sessions, args=(reader(i),))
                for i in range(options["readers"])]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    violations, sources = judge()
    print(json.dumps({"commits": len(commits), "reads": len(reads), "sources": sources,
                      "lost": lost[0], "nviolations": len(violations),
                      "violations": violations[:10]}))


main()
