"""The tests of the outside readers; test/clients/run starts the servers.

Every scenario runs with each client.  A naive reader (GET, load, SET) runs
through the one that matters, and must be seen to fail, or the scenario proves
nothing.
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

from mlcache_client import MlcacheClient                # noqa: E402
from scenario import PATIENCE, Rows, wait_until         # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
OPTIONS = {"ttl": 600_000, "negativeTtl": 60_000, "lease": 20_000, "patience": 20_000}
PATIENT = 500                       # ms that a reader waits which is to wait in vain
TABLES = {"product": "invalidate", "item": "update"}    # and the action of the rule
# the row and the version in one statement: one snapshot, taken before both
LOADERS = {table: "SELECT (SELECT row_to_json(t)::text FROM %s t WHERE id = %%s), "
                  "mlcache.fill_version()" % table for table in TABLES}
# a key of no rule, made of a row of product
LOADERS["page"] = LOADERS["product"]


class Read:
    """One get under way: in the loader or done."""

    def __init__(self):
        self.loaded = threading.Event()
        self.go = threading.Event()
        self.done = threading.Event()
        self.value = self.error = None

    def in_loader(self):
        assert self.loaded.wait(PATIENCE), "did not load"
        return self

    def result(self):
        self.go.set()
        assert self.done.wait(PATIENCE), "did not answer"
        if self.error:
            raise RuntimeError(self.error)
        return self.value


class PythonReader:
    name = "python"

    def __init__(self, socket, patience=OPTIONS["patience"]):
        self.socket, self.patience = socket, patience

    def client(self, load):
        return MlcacheClient(redis.Redis(unix_socket_path=self.socket), load,
                             ttl=OPTIONS["ttl"], negative_ttl=OPTIONS["negativeTtl"],
                             lease=OPTIONS["lease"], patience=self.patience,
                             namespace=OPTIONS["namespace"])

    def start(self, key, tags=(), hold=False):
        read = Read()

        def load(key):
            conn = psycopg2.connect("")
            try:
                with conn, conn.cursor() as cursor:
                    table, number = key.split(":")
                    cursor.execute(LOADERS[table], (int(number),))
                    found = cursor.fetchone()
            finally:
                conn.close()
            read.loaded.set()
            if hold:
                assert read.go.wait(PATIENCE)
            return found

        def run():
            try:
                value = self.client(load).get(key, tags)
                read.value = None if value is None else value.decode()
            except Exception as error:              # handed to the test
                read.error = repr(error)
            read.done.set()

        threading.Thread(target=run, daemon=True).start()
        return read

    def close(self):
        pass


class NaiveReader(PythonReader):
    """Cache-aside as it is usually written."""
    name = "naive"

    class Client:
        def __init__(self, r, load):
            self.redis, self.load = r, load

        def get(self, key, tags):
            value = self.redis.get(key)
            if value is None:
                value = self.load(key)[0].encode()
                self.redis.set(key, value, px=OPTIONS["ttl"])
            return value

    def client(self, load):
        return self.Client(redis.Redis(unix_socket_path=self.socket), load)


class NodeReader:
    name = "node"

    def __init__(self, socket, patience=OPTIONS["patience"]):
        self.process = subprocess.Popen(
            ["node", os.path.join(HERE, "node_reader.js"), socket, json.dumps(LOADERS),
             json.dumps({**OPTIONS, "patience": patience})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.numbers = itertools.count(1)
        self.reads = {}
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            message = json.loads(line)
            read = self.reads[message["id"]]
            if "loaded" in message:
                read.loaded.set()
            else:
                read.value, read.error = message.get("value"), message.get("error")
                read.done.set()

    def say(self, message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def start(self, key, tags=(), hold=False):
        number = next(self.numbers)
        read = self.reads[number] = Read()
        self.say({"id": number, "get": key, "tags": list(tags), "hold": hold})
        if hold:
            def let_go():
                read.go.wait(PATIENCE)
                self.say({"go": number})
            threading.Thread(target=let_go, daemon=True).start()
        return read

    def close(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


class Base(Rows):
    """What the scenarios have in common."""
    keys = itertools.count(1)
    table = "product"

    @classmethod
    def setUpClass(cls):
        cls.r = redis.Redis(unix_socket_path=SOCKET)
        cls.conn = psycopg2.connect("")
        cls.conn.autocommit = True
        cls.reader = cls.reader_class(SOCKET)

    @classmethod
    def tearDownClass(cls):
        cls.reader.close()
        cls.conn.close()
        cls.r.close()

    def setUp(self):
        self.id = next(self.keys)
        self.key = "%s:%d" % (self.table, self.id)

    def insert(self, name="old"):
        self.sql("INSERT INTO " + self.table + " VALUES (%s, %s)", self.id, name)
        self.applied()

    def update(self, name="new"):
        self.sql("UPDATE " + self.table + " SET name = %s WHERE id = %s", name, self.id)
        self.applied()

    def get(self):
        """The row's name as the reader sees it, and whether it had to load."""
        read = self.reader.start(self.key)
        value = read.result()
        return (json.loads(value)["name"] if value is not None else None, read.loaded.is_set())

    def asked(self, n):
        """Have n more mlc_get been answered than when this was asked first?"""
        stats = self.r.info("commandstats")["cmdstat_fcall"]["calls"]
        if not hasattr(self, "calls"):
            self.calls = stats
        return stats >= self.calls + n

    def race(self):
        floor, wrong, seen = [0], [], []
        stop = threading.Event()

        def read():
            while not stop.is_set():
                least = floor[0]
                name = int(self.get()[0])
                seen.append(name)
                if name < least:
                    wrong.append((name, least))

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            give_up = time.monotonic() + PATIENCE
            while floor[0] < 50 or len(set(seen)) < 10:
                assert time.monotonic() < give_up, seen
                self.update(str(floor[0] + 1))
                floor[0] += 1
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)
        self.assertEqual(wrong, [])


class Scenarios(Base):
    """Mixed into a TestCase for each reader."""

    def test_hit(self):
        self.insert()
        self.assertEqual(self.get(), ("old", True))
        self.assertEqual(self.get(), ("old", False))
        # and for those who know nothing of mlcache
        self.assertEqual(json.loads(self.r.get(self.key))["name"], "old")
        self.assertTrue(0 < self.r.pttl(self.key) <= OPTIONS["ttl"])

    def test_change(self):
        self.insert()
        self.get()
        self.update()
        self.assertEqual(self.get()[0], "new")
        self.sql("DELETE FROM " + self.table + " WHERE id = %s", self.id)
        self.applied()
        self.assertEqual(self.get()[0], None)

    def test_rollback(self):
        self.insert()
        self.get()
        self.sql("BEGIN")
        self.sql("UPDATE " + self.table + " SET name = 'never' WHERE id = %s", self.id)
        self.sql("ROLLBACK")
        self.assertEqual(self.get(), ("old", False))

    def test_absent(self):
        self.assertEqual(self.get(), (None, True))
        self.assertEqual(self.get(), (None, False))
        self.insert()
        self.assertEqual(self.get()[0], "old")

    def test_change_while_loading(self):
        """The row is read, changes, the change is applied, and then comes the fill."""
        self.insert()
        read = self.reader.start(self.key, hold=True).in_loader()
        self.update()
        self.assertEqual(json.loads(read.result())["name"], "old")
        self.assertEqual(self.get()[0], "new")

    def test_appears_while_loading(self):
        """The same with a row that was not there."""
        read = self.reader.start(self.key, hold=True).in_loader()
        self.insert("new")
        self.assertIsNone(read.result())
        self.assertEqual(self.get()[0], "new")

    def test_one_loads_for_all(self):
        self.insert()
        first = self.reader.start(self.key, hold=True).in_loader()
        others = [self.reader.start(self.key) for _ in range(5)]
        wait_until(lambda: self.asked(5))
        first.result()
        for read in others:
            self.assertEqual(json.loads(read.result())["name"], "old")
            self.assertFalse(read.loaded.is_set())

    def test_patience_ends(self):
        """Somebody has the lease and never fills: read the row, fill nothing."""
        self.insert()
        self.r.execute_command("FCALL", "mlc_get", 1, self.key, "somebody", 60_000)
        reader = self.reader_class(SOCKET, PATIENT)
        try:
            began = time.monotonic()
            read = reader.start(self.key)
            self.assertEqual(json.loads(read.result())["name"], "old")
            self.assertTrue(read.loaded.is_set())
            self.assertGreaterEqual(time.monotonic() - began, PATIENT / 1000)
        finally:
            reader.close()
        self.assertIsNone(self.r.get(self.key))

    def test_quarantined(self):
        self.insert()
        self.r.execute_command("FCALL", "mlc_quarantine", 1, self.key, NAMESPACE, "", "writer", 60_000)
        self.assertEqual(self.get(), ("old", True))
        self.assertIsNone(self.r.get(self.key))
        self.r.execute_command("FCALL", "mlc_release", 1, self.key, NAMESPACE, "writer", "", 0)
        self.assertEqual(self.get(), ("old", True))
        self.assertEqual(self.get(), ("old", False))

    def test_wrong_call(self):
        read = self.reader.start("mlc:%d" % self.id)
        with self.assertRaisesRegex(RuntimeError, "MLCARG"):
            read.result()

    def test_redis_away(self):
        self.insert()
        reader = self.reader_class(SOCKET + ".nobody")
        try:
            self.assertEqual(json.loads(reader.start(self.key).result())["name"], "old")
        finally:
            reader.close()

    def test_never_older_than_applied(self):
        """Readers race a writer; none may see less than was applied before it asked."""
        self.insert("0")
        self.race()


class Tags(Base):
    """Keys of no rule: nothing removes them but their tags."""
    tags = ("front", "{odd}%", "pages")     # of the last is a rule by tag

    def setUp(self):
        super().setUp()
        self.page = "page:%d" % self.id
        self.sql("INSERT INTO product VALUES (%s, 'old')", self.id)
        self.applied()

    def start(self, hold=False):
        return self.reader.start(self.page, self.tags, hold)

    def get(self):
        read = self.start()
        return json.loads(read.result())["name"], read.loaded.is_set()

    def untag(self, tag):
        self.sql("SELECT mlcache.invalidate_tag(%s)", tag)
        self.applied()

    def test_hit(self):
        self.assertEqual(self.get(), ("old", True))
        self.assertEqual(self.get(), ("old", False))
        # and in SQL, from L1 the second time
        for source in ("L2", "L1"):
            self.assertEqual(json.loads(self.sql("SELECT mlcache.get(%s)", self.page)[0][0])["name"], "old")
            self.assertEqual(self.sql("SELECT source FROM mlcache.last_read()")[0][0], source)
        self.untag("front")
        self.assertIsNone(self.sql("SELECT mlcache.get(%s)", self.page)[0][0])

    def test_each_tag(self):
        for tag in self.tags:
            self.get()
            self.assertEqual(self.get(), ("old", False))
            self.untag(tag)
            self.assertIsNone(self.r.get(self.page))

    def test_other_tag(self):
        self.get()
        self.untag("of others")
        self.assertEqual(self.get(), ("old", False))

    def test_change(self):
        """The table has a rule by tag."""
        self.get()
        self.update()
        self.assertEqual(self.get(), ("new", True))

    def test_invalidated_between_lease_and_fill(self):
        read = self.start(hold=True).in_loader()
        self.untag("{odd}%")
        read.result()
        self.assertIsNone(self.r.get(self.page))

    def test_change_while_loading(self):
        read = self.start(hold=True).in_loader()
        self.update()
        self.assertEqual(json.loads(read.result())["name"], "old")
        self.assertEqual(self.get(), ("new", True))

    def test_never_older_than_applied(self):
        self.update("0")
        self.race()


class Python(Scenarios, unittest.TestCase):
    reader_class = PythonReader


class PythonUpdate(Python):
    table = "item"


class Node(Scenarios, unittest.TestCase):
    reader_class = NodeReader


class NodeUpdate(Node):
    table = "item"



class PythonTags(Tags, unittest.TestCase):
    reader_class = PythonReader


class NodeTags(Tags, unittest.TestCase):
    reader_class = NodeReader


class Naive(Scenarios, unittest.TestCase):
    reader_class = NaiveReader


class Untagged(PythonTags):
    """Asks without tags, and so is not found."""
    tags = ()


def prepare():
    conn = psycopg2.connect("")
    conn.autocommit = True
    with conn.cursor() as cursor:
        cursor.execute("CREATE EXTENSION mlcache")
        cursor.execute("CREATE SERVER redis FOREIGN DATA WRAPPER mlcache "
                       "OPTIONS (url %s, connect_timeout '60000', timeout '60000')",
                       ("unix://" + SOCKET,))
        for table, action in TABLES.items():
            cursor.execute("CREATE TABLE %s (id int PRIMARY KEY, name text NOT NULL)" % table)
            cursor.execute("SELECT mlcache.attach(%s, key => %s, action => %s)",
                           (table, table + ":{id}", action))
        cursor.execute("SELECT mlcache.attach('product', tag => 'pages')")
        # new rules purge what they give, which may come after the arming
        cursor.execute("SELECT mlcache.wait_applied(mlcache.last_commit_version(), '60 s')")

        def armed():
            cursor.execute("SELECT state FROM mlcache.stat_servers")
            return [row[0] for row in cursor.fetchall()] == ["armed"]
        wait_until(armed)
    conn.close()


def namespace():
    r = redis.Redis(unix_socket_path=SOCKET)
    keys = r.keys("mlc:state:*")
    assert len(keys) == 1, keys
    return keys[0].decode().split(":", 2)[2]


def main():
    global SOCKET, NAMESPACE
    SOCKET = os.environ["MLC_REDIS_SOCKET"]
    prepare()
    OPTIONS["namespace"] = NAMESPACE = namespace()

    tests = unittest.TestSuite()
    for case in (Python, PythonUpdate, PythonTags, Node, NodeUpdate, NodeTags):
        tests.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(tests)
    failed = len(result.failures) + len(result.errors)
    passed = result.testsRun - failed

    # cache-aside must be seen to fail where it is wrong, and there only
    for case, name, good in ((Naive, "test_hit", True), (Naive, "test_change_while_loading", False),
                             (Untagged, "test_other_tag", True), (Untagged, "test_change", False),
                             (Untagged, "test_change_while_loading", False),
                             (Untagged, "test_invalidated_between_lease_and_fill", False)):
        result = unittest.TestResult()
        unittest.TestSuite([case(name)]).run(result)
        as_told = result.wasSuccessful() == good
        print("%s reader, %s: %s ... %s" % (case.__name__.lower(), name, "passes" if result.wasSuccessful() else "fails",
                                               "ok" if as_told else "NOT AS EXPECTED"))
        passed += as_told
        failed += not as_told
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
