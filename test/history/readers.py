#!/usr/bin/python3
"""Readers outside, through the client in Python of test/clients, for a history.

    readers.py CONNINFO SOCKET NAMESPACE TABLE KEYS SESSIONS FIRST FILE

Writes a record as driver.c does, sessions numbered from FIRST; reads until
standard input ends.  Says "enough" after more than 100 hits.
"""
import json
import os
import random
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "clients"))

import psycopg2                                         # noqa: E402
import redis                                            # noqa: E402

from mlcache_client import MlcacheClient                # noqa: E402

conninfo, socket, namespace, table, keys, sessions, first, file = sys.argv[1:]
stop = threading.Event()
records = []
lock = threading.Lock()
hits = 0


def hit():
    global hits
    with lock:
        hits += 1
        if hits == 101:
            print("enough", flush=True)


def read(session):
    connection = psycopg2.connect(conninfo)
    connection.autocommit = True
    cursor = connection.cursor()
    loaded = []

    def load(key):
        loaded.append(key)
        cursor.execute("SELECT (SELECT row_to_json(t)::text FROM %s t WHERE id = %%s), "
                       "mlcache.fill_version()" % table, (key.partition(":")[2],))
        return cursor.fetchone()

    client = MlcacheClient(redis.Redis(unix_socket_path=socket), load, namespace=namespace)
    while not stop.is_set():
        key = random.randint(1, int(keys))
        loaded.clear()
        start = time.monotonic_ns()
        payload = client.get("%s:%d" % (table, key))
        end = time.monotonic_ns()
        row = json.loads(payload) if payload else {"ver": "-", "op": "-"}
        records.append("r %d %d %d %d %s %s %s -\n" % (
            session, key, start, end, row["ver"], row["op"], "row" if loaded else "L2"))
        if not loaded:
            hit()
        time.sleep(random.random() * 0.004)


threads = [threading.Thread(target=read, args=(int(first) + i,)) for i in range(int(sessions))]
for thread in threads:
    thread.start()
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
with open(file, "w", encoding="ascii") as out:
    out.writelines(records)
