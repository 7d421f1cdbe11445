"""The tests of mlcache_local.py and .js; test/clients/run starts the servers.

Its link goes through a proxy, which can be cut, frozen and mended.  Each
safeguard is taken out once, and its scenario must then be seen to fail.
"""
import itertools
import json
import os
import queue
import socket
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
from mlcache_local import MlcacheLocal                  # noqa: E402
import scenario                                         # noqa: E402
from scenario import Rows, wait_until                   # noqa: E402

STREAM = "mlc:events"
HERE = os.path.dirname(os.path.abspath(__file__))


class Proxy:
    """Redis, by way of a socket that can be cut or frozen."""

    def __init__(self, path, target):
        self.path, self.target = path, target
        self.flows = threading.Event()
        self.flows.set()
        self.refuses = False
        self.pairs = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.refuses:
                near.close()
                continue
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.target)
            self.pairs.append((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source, sink):
        try:
            while data := source.recv(65536):
                self.flows.wait()
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()

    def cut(self):
        self.refuses = True
        for pair in self.pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.pairs = []

    def mend(self):
        self.refuses = False

    def freeze(self):
        self.flows.clear()

    def thaw(self):
        self.flows.set()

    def close(self):
        self.thaw()
        self.cut()
        self.listener.close()
        os.unlink(self.path)


LOADER = ("SELECT (SELECT row_to_json(t)::text FROM thing t WHERE id = %s), "
          "mlcache.fill_version()")


def load(key):
    conn = psycopg2.connect("")
    try:
        with conn, conn.cursor() as cursor:
            cursor.execute(LOADER, (int(key.split(":")[1]),))
            return cursor.fetchone()
    finally:
        conn.close()


class Client(MlcacheClient):
    """Counts, and can be held when it has the answer."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.reads = 0
        self.answered = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def read(self, key, tags=()):
        answer = super().read(key, tags)
        self.reads += 1
        self.answered.set()
        assert self.go.wait(scenario.PATIENCE)
        return answer


def watched(cache_class):
    """With what was served after each turn that took longer than it may, for the
    tests to see."""
    class Watched(cache_class):
        def __init__(self, *args, **options):
            self.turns = []
            super().__init__(*args, **options)

        def _turn(self):
            began = time.monotonic()
            super()._turn()
            late = time.monotonic() > began + self.silence
            with self.lock:
                self.turns.append(list(self.lines) if late and self.serves() else [])
    return Watched


class NodeLocal:
    """mlcache_local.js in a process of its own, and its client."""

    class Held:
        """What Client.answered and Client.go are here."""
        def __init__(self, local, hold):
            self.local, self.hold = local, hold

        def clear(self):
            if self.hold:
                self.local.ask(hold=True)

        def set(self):
            self.local.ask(hold=False)

        def wait(self, patience):
            wait_until(lambda: self.local.ask()["answered"] > 0)
            return True

    def __init__(self, link, taken_out, options):
        self.process = subprocess.Popen(
            ["node", os.path.join(HERE, "node_local.js"), SOCKET, link, LOADER, NAMESPACE,
             json.dumps(options), taken_out],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.answers = {}
        self.answered, self.go = self.Held(self, False), self.Held(self, True)
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        for line in self.process.stdout:
            message = json.loads(line)
            self.answers.pop(message["id"]).put(message)

    def ask(self, **request):
        answer = queue.SimpleQueue()
        with self.lock:
            request["id"] = next(self.numbers)
            self.answers[request["id"]] = answer
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        message = answer.get(timeout=scenario.PATIENCE * 2)
        if "error" in message:
            raise RuntimeError(message["error"])
        return message

    def get(self, key, tags=()):
        return self.read(key, tags)[0]

    def read(self, key, tags=()):
        answer = self.ask(get=key, tags=list(tags))
        return answer["value"], answer["here"]

    def serves(self):
        return self.ask()["serves"]

    turns = property(lambda self: self.ask()["turns"])
    last = property(lambda self: self.ask()["last"].encode())

    def close(self):
        self.process.stdin.close()
        self.process.wait(scenario.PATIENCE)
        self.thread.join()
        self.process.stdout.close()


class Python(Rows, unittest.TestCase):
    keys = itertools.count(1)
    taken_out = MlcacheLocal

    @classmethod
    def setUpClass(cls):
        cls.r = redis.Redis(unix_socket_path=SOCKET)
        cls.conn = psycopg2.connect("")
        cls.conn.autocommit = True

    @classmethod
    def tearDownClass(cls):
        cls.conn.close()
        cls.r.close()

    def setUp(self):
        self.id = next(self.keys)
        self.key = "thing:%d" % self.id
        self.proxy = Proxy(os.path.join(os.path.dirname(SOCKET), "link%d" % self.id), SOCKET)
        self.cache = None
        self.start()
        self.sql("INSERT INTO thing VALUES (%s, 'old')", self.id)
        self.applied()

    def tearDown(self):
        self.proxy.close()
        self.cache.close()

    def start(self, silence=60_000, **options):
        """Where it is not about silence, there may be more of it than any process is
        stopped for."""
        if self.cache:
            self.proxy.cut()                # it waits for the next event
            self.cache.close()
            self.proxy.mend()
        self.make({"silence": silence, **options})
        self.opens()

    def make(self, options):
        self.client = Client(redis.Redis(unix_socket_path=SOCKET), load, namespace=NAMESPACE)
        link = redis.Redis(unix_socket_path=self.proxy.path, socket_timeout=120)
        self.cache = watched(self.taken_out)(self.client, link, **options)

    def opens(self):
        wait_until(self.cache.serves)

    def update(self, name="new"):
        self.sql("UPDATE thing SET name = %s WHERE id = %s", name, self.id)
        self.applied()

    def get(self, key=None, tags=()):
        """The row's name, and whether it came from here."""
        value, here = self.read(key or self.key, tags)
        return (value and json.loads(value)["name"], here)

    def read(self, key, tags=()):
        before = self.client.reads
        value = self.cache.get(key, tags)
        return value, self.client.reads == before

    def is_told(self):
        """Until all that Redis has to tell has been told here."""
        last = self.r.xinfo_stream(STREAM)["last-generated-id"]
        wait_until(lambda: self.cache.last == last)

    def settle(self, key=None, tags=()):
        """Until it is served from here, and nothing is on its way that ends that."""
        self.is_told()
        wait_until(lambda: self.get(key, tags)[1])

    def comes(self, name):
        """Until it is told here; from then on it is never older."""
        wait_until(lambda: self.get()[0] == name)

    def test_hit(self):
        self.settle()
        self.assertEqual(self.get(), ("old", True))

    def test_change(self):
        self.settle()
        self.update()
        self.comes("new")
        self.settle()
        self.assertEqual(self.get(), ("new", True))

    def test_absent(self):
        self.sql("DELETE FROM thing WHERE id = %s", self.id)
        self.comes(None)
        self.settle()
        self.sql("INSERT INTO thing VALUES (%s, 'new')", self.id)
        self.applied()
        self.comes("new")

    def test_truncate(self):
        self.settle()
        self.sql("TRUNCATE thing")
        self.applied()
        self.comes(None)

    def test_tag(self):
        page = "page:%d" % self.id
        self.settle(page, ["things"])
        self.update()                       # the table has a rule by tag
        wait_until(lambda: self.get(page, ["things"])[0] == "new")
        self.settle(page, ["things"])
        self.sql("SELECT mlcache.invalidate_tag('others')")
        self.applied()
        self.assertEqual(self.get(page, ["things"]), ("new", True))

    def test_quiet(self):
        """Nothing is told for a while: what is here stays."""
        self.start(silence=6_000)
        self.settle()
        turns = len(self.cache.turns)
        wait_until(lambda: len(self.cache.turns) > turns + 2)
        self.assertEqual(self.get(), ("old", True))

    def test_ttl_and_size(self):
        self.start(ttl=50)
        self.settle()
        wait_until(lambda: not self.get()[1])
        self.start(size=1)
        self.settle()
        self.settle("thing:0")
        self.assertFalse(self.get()[1])

    def held(self, *args):
        """A reader that has its answer, a hit in Redis, and has not kept it yet."""
        self.settle(*args)
        self.start()                        # Redis has it, we have not
        self.client.answered.clear()
        self.client.go.clear()
        reader = threading.Thread(target=self.cache.get, args=args)
        reader.start()
        self.assertTrue(self.client.answered.wait(scenario.PATIENCE))
        return reader

    def test_told_between_answer_and_fill(self):
        """A hit in Redis, then the change, applied and told, then the copy comes here."""
        self.told(self.key)

    def test_tag_told_between_answer_and_fill(self):
        self.told("page:%d" % self.id, ["things"])

    def told(self, *args):
        reader = self.held(*args)
        self.update()
        self.is_told()
        self.client.go.set()
        reader.join()
        self.assertEqual(self.get(*args)[0], "new")

    def test_cut(self):
        """Changes while the link is cut: none is missed, neither then nor later."""
        self.settle()
        self.proxy.cut()
        wait_until(lambda: not self.cache.serves())
        self.update()
        self.assertEqual(self.get(), ("new", False))
        self.assertEqual(self.get(), ("new", False))
        self.update("newer")
        self.proxy.mend()
        self.opens()
        self.assertEqual(self.get()[0], "newer")
        self.settle()
        self.update("newest")
        self.comes("newest")

    def test_read_across_a_cut(self):
        """Asked before the cut, answered after the link is back."""
        reader = self.held(self.key)
        self.proxy.cut()
        wait_until(lambda: not self.cache.serves())
        self.update()
        self.proxy.mend()
        self.opens()
        self.client.go.set()
        reader.join()
        self.assertEqual(self.get()[0], "new")

    def test_silent(self):
        """The network swallows everything, and nobody says so."""
        self.start(silence=1_000)
        self.settle()
        self.proxy.freeze()
        self.update()
        frozen = time.monotonic()
        wait_until(lambda: self.get()[0] == "new")
        self.assertFalse(self.cache.serves())
        self.assertLess(time.monotonic() - frozen, scenario.PATIENCE / 2)
        self.proxy.thaw()
        self.opens()
        self.assertEqual(self.get()[0], "new")

    def asks(self):
        """Does the link wait in Redis for a page?"""
        return any("b" in client["flags"] for client in self.r.client_list())

    def freeze_answer(self):
        """What is on its way from then on is the next page, not the question for it."""
        self.proxy.freeze()
        while not self.asks():
            self.proxy.thaw()
            wait_until(self.asks)
            self.proxy.freeze()

    def test_late_answer(self):
        """A page that was long on its way says nothing of what came after it."""
        self.start(silence=1_000)
        self.settle()
        self.freeze_answer()
        frozen = time.monotonic()
        wait_until(lambda: not self.asks())
        self.update()
        wait_until(lambda: time.monotonic() > frozen + 1.5)     # silence, and a little
        turns = len(self.cache.turns)
        self.proxy.thaw()
        wait_until(lambda: len(self.cache.turns) > turns)
        self.assertNotIn(self.key, self.cache.turns[turns])
        self.comes("new")

    def long_silence(self):
        """What follows must not be found out by time, nor from a page that Redis has
        sent already: one that tells nothing of the key is on its way."""
        self.settle()
        self.freeze_answer()
        self.sql("INSERT INTO thing VALUES (%s, 'another')", next(self.keys))
        self.applied()

    def test_flushed(self):
        """Redis forgets an event that has not been read."""
        self.long_silence()
        self.update()
        # nor does the relay tell it again
        end = self.sql("SELECT pg_current_wal_insert_lsn()")[0][0]
        wait_until(lambda: self.sql("SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots", end)[0][0])
        self.r.flushall()
        self.assertEqual(self.get(), ("old", True))
        self.proxy.thaw()
        self.comes("new")

    def test_trimmed(self):
        """The stream is shorter than what there was to read."""
        self.long_silence()
        self.update()
        self.r.xtrim(STREAM, 0)
        self.assertEqual(self.get(), ("old", True))
        self.proxy.thaw()
        self.comes("new")

    def test_race(self):
        """Readers against a writer, the link cut again and again: what has been told
        is never taken back, and what the cache says at the end is the row."""
        stop = threading.Event()
        wrong, here = [], []

        def read():
            while not stop.is_set():
                floor = self.seen
                name, is_here = self.get()
                name = int(name)
                if is_here:
                    here.append(name)
                if name < floor:
                    wrong.append((name, floor))

        self.seen = 0
        self.update("0")
        self.comes("0")
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for n in range(1, 100):
                self.update(str(n))
                if n % 30 == 0:
                    self.proxy.cut()
                    wait_until(lambda: not self.cache.serves())
                    self.seen = n           # nobody is served from here
                    self.proxy.mend()
                elif self.cache.serves():
                    last = self.r.xinfo_stream(STREAM)["last-generated-id"]
                    wait_until(lambda: self.cache.last == last or not self.cache.serves())
                    self.seen = n           # it has been told
        finally:
            stop.set()
            for reader in readers:
                reader.join(scenario.PATIENCE)
        self.assertEqual(wrong, [])
        self.assertGreater(len(here), 100)
        self.comes("99")


class Node(Python):
    taken_out = MlcacheLocal            # by its name

    def make(self, options):
        self.cache = self.client = NodeLocal(self.proxy.path, self.taken_out.__name__, options)

    def read(self, key, tags=()):
        return self.cache.read(key, tags)


# ---- each safeguard taken out; in node_local.js under the same names ----

class NoTicket(MlcacheLocal):
    def _still_good(self, key, ticket):
        if ticket is not None:
            self.tickets[key] = ticket
        return ticket is not None


class NoTicketByTag(MlcacheLocal):
    def _drop(self, keys):
        for key in keys:
            if self.tickets.get(key) != ["things"]:
                super()._drop([key])


class NotEmptied(MlcacheLocal):
    def _empty(self):
        pass


class TicketsKept(MlcacheLocal):
    def _empty(self):
        self.lines.clear()


class NeverSilent(MlcacheLocal):
    def serves(self):
        return self.serves_until > 0


class NothingMissed(MlcacheLocal):
    def _has_missed(self, before, history, trimmed):
        return False


class Deaf(MlcacheLocal):
    def _tell(self, event):
        pass


class AnyAnswer(MlcacheLocal):
    def _extend(self, asked):
        super()._extend(time.monotonic())


TAKEN_OUT = (
    (NoTicket, "test_told_between_answer_and_fill"),
    (NoTicketByTag, "test_tag_told_between_answer_and_fill"),
    (NotEmptied, "test_cut"), (NotEmptied, "test_truncate"), (TicketsKept, "test_read_across_a_cut"),
    (NeverSilent, "test_silent"), (NothingMissed, "test_flushed"),
    (NothingMissed, "test_trimmed"), (AnyAnswer, "test_late_answer"), (Deaf, "test_change"), (Deaf, "test_race"),
)


def prepare():
    conn = psycopg2.connect("")
    conn.autocommit = True
    with conn.cursor() as cursor:
        cursor.execute("ALTER SERVER redis OPTIONS (ADD stream '100000')")
        cursor.execute("ALTER SYSTEM SET mlcache.redelivery_window = 0")
        cursor.execute("SELECT pg_reload_conf()")
        cursor.execute("CREATE TABLE thing (id int PRIMARY KEY, name text NOT NULL)")
        cursor.execute("INSERT INTO thing VALUES (0, 'zero')")
        cursor.execute("SELECT mlcache.attach('thing', key => 'thing:{id}')")
        cursor.execute("SELECT mlcache.attach('thing', tag => 'things')")

        def streams():
            cursor.execute("UPDATE thing SET name = name")
            cursor.execute("SELECT mlcache.wait_applied(mlcache.last_commit_version(), '30 s')")
            return redis.Redis(unix_socket_path=SOCKET).exists(STREAM)
        wait_until(streams)
    conn.close()


def main():
    global SOCKET, NAMESPACE
    SOCKET = os.environ["MLC_REDIS_SOCKET"]
    prepare()
    NAMESPACE = redis.Redis(unix_socket_path=SOCKET).keys("mlc:state:*")[0].decode().split(":", 2)[2]

    tests = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, (Python, Node)))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(tests)
    failed = len(result.failures) + len(result.errors)
    passed = result.testsRun - failed

    scenario.PATIENCE = 5
    for language, (taken_out, name) in itertools.product((Python, Node), TAKEN_OUT):
        case = type("TakenOut", (language,), {"taken_out": taken_out})
        result = unittest.TestResult()
        unittest.TestSuite([case(name)]).run(result)
        seen = not result.wasSuccessful() and not result.errors
        print("%s, %s, %s: %s" % (language.__name__, taken_out.__name__, name,
                                  "fails ... ok" if seen else "passes ... NOT AS EXPECTED"))
        passed += seen
        failed += not seen
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
