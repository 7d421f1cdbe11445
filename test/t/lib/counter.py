#!/usr/bin/python3
"""A counter that clients inside and outside PostgreSQL increment under one lock.

    counter.py SOCKET NAMESPACE CLIENTS fenced|unfenced

Half of the clients are sessions with lock_acquire(), half are programs with
mlc_lock.  Each reads the counter in one transaction, thinks, and writes what it
read plus one in another, together with a row that says so: what rows there are
more than the counter says has been lost.  Meanwhile holders are stopped for
longer than the ttl, clients are killed, Redis is flushed, and the caller may
put another in its place.  When standard input ends it goes on until it has seen
what it is for, of everything some (fenced) or a loss (unfenced), but for a minute
at most.  Prints
"increments lost refused stopped killed flushed".
"""
import os
import random
import select
import signal
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../clients"))

import psycopg2                                         # noqa: E402
import redis                                            # noqa: E402

from mlcache_lock import Deadlock, LockLost, MlcacheLock    # noqa: E402

NAME = "counter"
TTL = 300


class Client:
    def __init__(self, number, socket, namespace, fenced):
        self.owner = "client-%d" % number
        self.socket = socket
        self.namespace = namespace
        self.fenced = fenced
        self.conn = None

    def connect(self):
        if self.conn is None or self.conn.closed:
            self.conn = psycopg2.connect("", application_name=self.owner)
            self.conn.autocommit = True

    def ask(self, query, *args):
        with self.conn.cursor() as cursor:
            cursor.execute(query, args)
            return cursor.fetchone()[0]

    def increment(self, token):
        value = self.transaction(token, "SELECT n FROM counter")
        time.sleep(random.uniform(0, 0.004))
        self.transaction(token, "WITH done AS (INSERT INTO done DEFAULT VALUES) "
                                "UPDATE counter SET n = %s RETURNING n", value + 1)

    def transaction(self, token, query, *args):
        self.conn.autocommit = False
        try:
            with self.conn:
                if self.fenced:
                    self.ask("SELECT mlcache.fence_check(%s, %s)", NAME, token)
                return self.ask(query, *args)
        finally:
            if not self.conn.closed:
                self.conn.autocommit = True

    def run(self):
        while True:
            try:
                self.connect()
                self.turn()
            except psycopg2.Error as error:
                if error.pgcode == "ML002":
                    os.write(1, b"r")
                time.sleep(0.01)
            except (redis.RedisError, LockLost, Deadlock):
                time.sleep(0.01)


class Inside(Client):
    def turn(self):
        token = self.ask("SELECT mlcache.lock_acquire(%s, ttl => %s, wait => '1 s')", NAME,
                         "%d ms" % TTL)
        if token is None:
            return
        try:
            self.increment(token)
        finally:
            if not self.conn.closed:
                self.ask("SELECT mlcache.lock_release(%s)", NAME)


class Outside(Client):
    def turn(self):
        lock = MlcacheLock(redis.Redis(unix_socket_path=self.socket), self.namespace, NAME,
                           lambda: self.ask("SELECT mlcache.lock_token()"), TTL,
                           owner=self.owner)
        if not lock.acquire(1_000):
            return
        self.increment(lock.token)
        lock.release()


def start(number, pipe, *args):
    pid = os.fork()
    if pid == 0:
        os.dup2(pipe, 1)
        try:
            (Inside if number % 2 else Outside)(number, *args).run()
        finally:
            os._exit(1)
    return pid


def counts(cursor):
    """Increments, and how many of them are lost."""
    cursor.execute("SELECT (SELECT count(*) FROM done), (SELECT n FROM counter)")
    done, counted = cursor.fetchone()
    return done, done - counted


def main():
    socket, namespace, clients, mode = sys.argv[1:]
    args = (socket, namespace, mode == "fenced")
    watch = psycopg2.connect("")
    watch.autocommit = True
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    pids = {n: start(n, write_end, *args) for n in range(int(clients))}
    r = redis.Redis(unix_socket_path=socket)
    refused = stopped = killed = flushed = turn = 0
    until = None

    def refusals():
        try:
            return len(os.read(read_end, 1 << 20))
        except BlockingIOError:
            return 0

    def is_over():
        nonlocal until, refused
        if until is None and select.select([sys.stdin], [], [], 0)[0]:
            until = time.monotonic() + 60
        if until is None or time.monotonic() >= until:
            return until is not None
        refused += refusals()
        done, lost = counts(watch.cursor())
        return (done > 50 and refused and stopped and killed and flushed
                if mode == "fenced" else lost > 0)

    while not is_over():
        time.sleep(0.05)
        turn += 1
        try:
            holders = r.hkeys("mlc:lock:%s|%s" % (namespace, NAME))
            if turn % 6 == 2:
                r.flushall()
                flushed += 1
        except redis.RedisError:
            continue                            # it is just being replaced
        if turn % 3 == 0:
            # a program outside that holds the lock
            for owner in holders:
                if owner.startswith(b"client-"):
                    pid = pids[int(owner[7:])]
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(TTL / 1000 + 0.2)
                    os.kill(pid, signal.SIGCONT)
                    stopped += 1
        elif turn % 3 == 1:
            n = random.choice(list(pids))
            os.kill(pids[n], signal.SIGKILL)
            os.waitpid(pids[n], 0)
            pids[n] = start(n, write_end, *args)
            killed += 1
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    for pid in pids.values():
        os.waitpid(pid, 0)
    refused += refusals()
    with watch.cursor() as cursor:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            cursor.execute("SELECT count(*) FROM pg_stat_activity "
                           "WHERE application_name LIKE 'client-%'")
            if cursor.fetchone()[0] == 0:
                break
            time.sleep(0.05)
        done, lost = counts(cursor)
    print(done, lost, refused, stopped, killed, flushed)


if __name__ == "__main__":
    main()
