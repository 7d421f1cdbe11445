"""Private Redis servers and a thin face on the function library.

A test case derives from LibraryTest: it finds an empty server with the library
loaded, namespace "db" armed at V(100), and calls functions by name:
self.fcall("mlc_get", ["k"], "token", 1000).
"""
import os
import shutil
import subprocess
import tempfile
import time
import unittest

import redis

LUA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/redis/lua")
PATIENCE = 20           # seconds until something that must happen counts as failed


def V(lsn, timeline=1):
    """A version as text."""
    return "%08x%016x" % (timeline, lsn)


def library_text():
    text = ""
    for name in ("mlcache.lua", "cluster.lua", "lock.lua", "tag.lua"):    # as the Makefile puts them together
        with open(os.path.join(LUA, name), encoding="utf-8") as f:
            text += f.read()
    return text


class Server:
    """One redis-server on a unix socket in a directory of its own."""

    def __init__(self, *options, env=None, tcp=False):
        self.dir = tempfile.mkdtemp(prefix="mlclua.")
        self.socket = os.path.join(self.dir, "redis.sock")
        self.options = ["--port", "0", "--unixsocket", self.socket, "--dir", self.dir,
                        "--save", "", *options]
        self.env = dict(os.environ, **(env or {}))
        self.process = None
        self.port = None
        if tcp:
            # Redis takes the port it is told, so somebody may take it before
            for _ in range(20):
                self.port = free_port()
                self.options[1] = str(self.port)
                if self.start(must=False):
                    return
            raise RuntimeError("no port to listen on")
        self.start()

    def start(self, must=True):
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen([os.environ.get("MLC_REDIS_SERVER", "redis-server"), *self.options], stdout=log,
                                            stderr=log, stdin=subprocess.DEVNULL, env=self.env)
        self.r = redis.Redis(unix_socket_path=self.socket)
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            try:
                if self.r.ping():
                    return True
            except (redis.ConnectionError, redis.BusyLoadingError):
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        if must:
            raise RuntimeError("redis-server did not start: " + self.log())
        self.stop()
        return False

    def log(self):
        with open(os.path.join(self.dir, "log"), encoding="utf-8", errors="replace") as f:
            return f.read()

    def stop(self):
        self.r.close()
        self.r.connection_pool.disconnect()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def remove(self):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class LibraryTest(unittest.TestCase):
    server = None           # the shared one; the runner sets it
    text = None             # of the library, as it is to be tested

    def setUp(self):
        self.r = self.server.r
        self.r.flushall()
        self.load(self.r)
        self.begin()

    # -- calling

    def load(self, r):
        # FLUSH first: what the library remembers must not pass to the next test
        r.execute_command("FUNCTION", "FLUSH", "SYNC")
        r.execute_command("FUNCTION", "LOAD", "REPLACE", self.text)

    def fcall(self, function, keys, *args, r=None):
        reply = (r or self.r).execute_command("FCALL", function, len(keys), *keys, *args)
        return text_of(reply)

    def begin(self, applied=100, ns="db", nonce="n1", arm=True, r=None):
        self.fcall("mlc_begin", [], ns, nonce, "sys", V(applied), r=r)
        if arm:
            self.fcall("mlc_arm", [], ns, nonce, r=r)

    def refuses(self, code, function, keys, *args):
        """The call gets an error that begins with code, and changes nothing."""
        before = self.dump()
        with self.assertRaises(redis.ResponseError) as caught:
            self.fcall(function, keys, *args)
        self.assertEqual(str(caught.exception).split(" ")[0], code, str(caught.exception))
        self.assertEqual(self.dump(), before)

    # -- the usual calls

    def get(self, key="k", token="t1", lease=60000, *ns):
        return self.fcall("mlc_get", [key], token, lease, *ns)

    def fill(self, key="k", payload="old", lo=100, hi=110, token="t1", ttl=0, absent=0, ns=None):
        return self.fcall("mlc_fill", [key], token, payload, ttl, V(lo), V(hi), absent,
                          *([ns] if ns else []))

    def cache(self, key="k", payload="old", lo=100, hi=110, **kw):
        """Lease and fill."""
        self.assertEqual(self.get(key)[0], "lease")
        self.assertEqual(self.fill(key, payload, lo, hi, **kw), "ok")

    def apply(self, *events, nonce="n1", ns="db"):
        """Events are (op, key, version[, payload[, ttl]]); a call for each op and ttl."""
        calls = {}
        for op, key, version, *rest in events:
            payload = rest[0] if rest else "new"
            ttl = rest[1] if len(rest) > 1 else 0
            calls.setdefault((op, ttl), []).append(
                (key, V(version) if isinstance(version, int) else version, payload))
        total = [0, 0, 0]
        for (op, ttl), some in calls.items():
            counts = self.fcall("mlc_apply", [key for key, _, _ in some], ns, nonce, op, ttl,
                                "".join(version for _, version, _ in some),
                                *[payload for _, _, payload in some])
            total = [sum(pair) for pair in zip(total, counts)]
        return total

    def apply_alike(self, op, versions, *events, ttl=0):
        """Events are (key, payload); versions a text, or a number for each."""
        if not isinstance(versions, str):
            versions = "".join(V(v) for v in versions)
        return self.fcall("mlc_apply", [e[0] for e in events], "db", "n1", op, ttl, versions,
                          *[e[1] for e in events])

    def quarantine(self, owner, key="k", timeout=60000, nonce="", ns="db", remember=1):
        return self.fcall("mlc_quarantine", [key], ns, nonce, owner, timeout, remember)

    def release(self, owner, version=None, payload=None, key="k", ttl=0, ns="db", tell=1):
        return self.fcall("mlc_release", [key], ns, owner, V(version) if version else "", tell,
                          *([] if payload is None else [ttl, payload]))

    # -- looking

    def entry(self, key="k"):
        return text_of(self.r.get(key))

    def guard(self, key="k"):
        """The guard's fields by name, or None; its form is checked."""
        text = text_of(self.r.get("mlc:" + key if "{" in key else "mlc:{%s}" % key))
        if text is None:
            return None
        fields = text.split("|")
        self.assertEqual(len(fields), 8, text)
        return dict(zip(("lo", "hi", "floor", "flags", "token", "deadline", "nonce", "marks"),
                        fields))

    def marks(self, key="k"):
        guard = self.guard(key)
        if not guard or not guard["marks"]:
            return {}
        return {m.split("=")[0]: int(m.split("=")[1]) for m in guard["marks"].split(",")}

    def bounds(self, key="k"):
        guard = self.guard(key)
        return guard and (guard["lo"], guard["hi"])

    def dump(self):
        """All that is stored, with its time to live."""
        found = {}
        for key in self.r.keys(b"*"):
            found[key] = (self.r.dump(key), self.r.pexpiretime(key)
                          if hasattr(self.r, "pexpiretime")
                          else self.r.execute_command("PEXPIRETIME", key))
        return found

    # -- time

    def now(self):
        seconds, micros = self.r.time()
        return seconds * 1000 + micros // 1000

    def wait_past(self, deadline):
        give_up = time.monotonic() + PATIENCE
        while self.now() <= deadline:
            self.assertLess(time.monotonic(), give_up)
            time.sleep(0.002)

    def lease_over(self, key="k"):
        """Moves the deadline of the lease into the past, and keeps Redis from
        expiring the guard: what remains is the library's own look at it."""
        fields = text_of(self.r.get("mlc:{%s}" % key)).split("|")
        fields[5] = "1"
        self.r.set("mlc:{%s}" % key, "|".join(fields))

    def mark_over(self, owner, key="k"):
        """Moves the deadline of a mark into the past."""
        old = "%s=%d" % (owner, self.marks(key)[owner])
        text = text_of(self.r.get("mlc:{%s}" % key))
        self.r.set("mlc:{%s}" % key, text.replace(old, owner + "=1"))


def text_of(reply):
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "surrogateescape")
    if isinstance(reply, list):
        return [text_of(r) for r in reply]
    return reply
