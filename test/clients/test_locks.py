"""The tests of the outside locks; test/clients/run starts the servers.

Every scenario runs with each client.
"""
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import psycopg2                                         # noqa: E402
import redis                                            # noqa: E402

from mlcache_lock import MlcacheLock                    # noqa: E402
from scenario import PATIENCE, wait_until                # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
TTL = 20_000
SOCKET = NAMESPACE = None


def connect():
    conn = psycopg2.connect("")
    conn.autocommit = True
    return conn


def ask(conn, query, *args):
    with conn.cursor() as cursor:
        cursor.execute(query, args)
        return cursor.fetchone()[0]


class Task(threading.Thread):
    """A call under way."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call = call
        self.value = self.error = None
        self.start()

    def run(self):
        try:
            self.value = self.call()
        except Exception as error:
            self.error = error

    def result(self):
        self.join(PATIENCE)
        assert not self.is_alive(), "did not answer"
        if self.error:
            raise self.error
        return self.value


class PythonLocker:
    """do(owner, verb, name, args) -> (value, token), or the name of the error's class."""

    def __init__(self):
        self.locks = {}

    def do(self, owner, verb, name, *args):
        if (owner, name) not in self.locks:
            self.locks[owner, name] = MlcacheLock(
                redis.Redis(unix_socket_path=SOCKET), NAMESPACE, name, self.draw, TTL,
                owner=owner)
        lock = self.locks[owner, name]
        try:
            value = getattr(lock, verb)(*args)
            return value, lock.token
        except Exception as error:
            return type(error).__name__

    def draw(self):
        conn = connect()
        try:
            return ask(conn, "SELECT mlcache.lock_token()")
        finally:
            conn.close()

    def close(self):
        pass


class NodeLocker:
    def __init__(self):
        self.ids = itertools.count(1)
        self.calls = {}
        self.process = subprocess.Popen(
            ["node", os.path.join(HERE, "node_locker.js"), SOCKET, NAMESPACE, str(TTL)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            call = self.calls[answer["id"]]
            call["answer"] = answer
            call["done"].set()

    def do(self, owner, verb, name, *args):
        number = next(self.ids)
        call = self.calls[number] = {"done": threading.Event()}
        self.process.stdin.write(json.dumps(
            {"id": number, "owner": owner, "do": verb, "name": name, "args": args}) + "\n")
        self.process.stdin.flush()
        assert call["done"].wait(PATIENCE), "did not answer"
        answer = call["answer"]
        if "error" in answer:
            return answer["error"]
        return answer["value"], answer["token"] and int(answer["token"])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Scenarios:
    locker_class = None

    def setUp(self):
        redis.Redis(unix_socket_path=SOCKET).flushall()
        self.locker = self.locker_class()
        self.conn = connect()

    def tearDown(self):
        self.end(self.conn)
        self.locker.close()

    def end(self, conn):
        """What a session holds in PostgreSQL ends with its backend, after close() returns."""
        pid = conn.get_backend_pid()
        conn.close()
        watch = connect()
        wait_until(lambda: not ask(watch, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s",
                                   pid))
        watch.close()

    def session(self, name, wait="0"):
        return ask(self.conn, "SELECT mlcache.lock_acquire(%s, wait => %s)", name, wait)

    def release(self, name):
        ask(self.conn, "SELECT mlcache.lock_release(%s)", name)

    def waits(self, owner):
        """Until one whose name begins so waits, as the graph knows."""
        r = redis.Redis(unix_socket_path=SOCKET)
        wait_until(lambda: any(o.decode().startswith(owner)
                               for o in r.hkeys("mlc:waits:" + NAMESPACE)))

    def test_exclude_each_other(self):
        held, first = self.locker.do("a", "acquire", "account:1")
        self.assertTrue(held)
        self.assertIsNone(self.session("account:1"))
        self.assertIsNone(self.session("account"))
        self.assertEqual(self.locker.do("b", "acquire", "account:1"), (False, None))
        self.assertEqual(self.locker.do("a", "release", "account:1"), (None, None))
        second = self.session("account:1")
        self.assertGreater(second, first)
        self.assertEqual(self.locker.do("a", "acquire", "account:1")[0], False)
        self.assertEqual(self.locker.do("a", "acquire", "account:2")[0], True)
        self.release("account:1")
        held, third = self.locker.do("b", "acquire", "account:1")
        self.assertTrue(held)
        self.assertGreater(third, second)

    def test_wait_for_a_session(self):
        self.assertIsNotNone(self.session("x"))
        task = Task(lambda: self.locker.do("a", "acquire", "x", 1000 * PATIENCE))
        self.waits("a")
        self.release("x")
        self.assertTrue(task.result()[0])

    def test_a_session_waits(self):
        self.assertIs(self.locker.do("a", "acquire", "x")[0], True)
        task = Task(lambda: self.session("x", "%d s" % PATIENCE))
        self.waits("pg-")
        self.locker.do("a", "release", "x")
        self.assertIsNotNone(task.result())

    def test_renew(self):
        self.assertIs(self.locker.do("a", "acquire", "x")[0], True)
        self.assertEqual(self.locker.do("a", "renew", "x", 100_000)[0], None)
        left = ask(self.conn, "SELECT extract(epoch FROM expires - now()) "
                              "FROM mlcache.lock_holders('x')")
        self.assertGreater(left, 60)

    def test_lost(self):
        self.assertIs(self.locker.do("a", "acquire", "x")[0], True)
        redis.Redis(unix_socket_path=SOCKET).delete("mlc:lock:%s|x" % NAMESPACE)
        self.assertIsNotNone(self.session("x"))
        self.assertEqual(self.locker.do("a", "renew", "x"), "LockLost")
        self.assertEqual(self.locker.do("a", "release", "x"), "LockLost")

    def test_lost_before_the_token(self):
        # what a token that was drawn too late could do is not done
        self.assertIs(self.locker.do("a", "acquire", "x")[0], True)
        redis.Redis(unix_socket_path=SOCKET).delete("mlc:lock:%s|x" % NAMESPACE)
        self.assertEqual(self.locker.do("b", "acquire", "x")[0], True)
        self.assertEqual(self.locker.do("a", "acquire", "x")[0], False)

    def test_deadlock_the_session_closes(self):
        self.assertIs(self.locker.do("a", "acquire", "x")[0], True)
        self.assertIsNotNone(self.session("y"))
        task = Task(lambda: self.locker.do("a", "acquire", "y", 1000 * PATIENCE))
        self.waits("a")
        with self.assertRaises(psycopg2.errors.DeadlockDetected) as caught:
            self.session("x", "%d s" % PATIENCE)
        self.assertIn('a waits for the exclusive lock "y"', str(caught.exception))
        self.release("y")
        self.assertTrue(task.result()[0])

    def test_deadlock_the_program_closes(self):
        self.assertIs(self.locker.do("a", "acquire", "x")[0], True)
        self.assertIsNotNone(self.session("y"))
        task = Task(lambda: self.session("x", "%d s" % PATIENCE))
        self.waits("pg-")
        self.assertEqual(self.locker.do("a", "acquire", "y", 1000 * PATIENCE), "Deadlock")
        self.locker.do("a", "release", "x")
        self.assertIsNotNone(task.result())

    def test_deadlock_of_three(self):
        other = connect()
        self.assertIs(self.locker.do("a", "acquire", "x")[0], True)
        self.assertIsNotNone(self.session("y"))
        self.assertIsNotNone(ask(other, "SELECT mlcache.lock_acquire('z')"))
        # a waits for this session, which waits in PostgreSQL for the other one
        outside = Task(lambda: self.locker.do("a", "acquire", "y", 1000 * PATIENCE))
        self.waits("a")
        inside = Task(lambda: self.session("z", "%d s" % PATIENCE))
        self.waits("pg-")
        with self.assertRaises(psycopg2.errors.DeadlockDetected) as caught:
            ask(other, "SELECT mlcache.lock_acquire('x', wait => '30 s')")
        self.assertEqual(str(caught.exception).count(" waits for "), 3)
        self.end(other)
        self.assertIsNotNone(inside.result())
        self.release("y")
        self.assertTrue(outside.result()[0])


class Python(Scenarios, unittest.TestCase):
    locker_class = PythonLocker


class Node(Scenarios, unittest.TestCase):
    locker_class = NodeLocker


def main():
    global SOCKET, NAMESPACE
    SOCKET = os.environ["MLC_REDIS_SOCKET"]
    conn = connect()
    NAMESPACE = ask(conn, "SELECT mlcache.lock_namespace()")
    conn.close()

    tests = unittest.TestSuite()
    for case in (Python, Node):
        tests.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(tests)
    failed = len(result.failures) + len(result.errors)
    print("%d passed, %d failed" % (result.testsRun - failed, failed))
    return 1 if failed or not result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
