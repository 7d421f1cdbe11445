"""Restarts, promotions, clusters, locales: each with servers of its own."""
import binascii
import os
import shutil
import subprocess
import tempfile
import time
import unittest

import redis

from harness import LibraryTest, PATIENCE, Server, V


class OwnServer(LibraryTest):
    options = ()
    env = None
    tcp = False

    def start(self):
        server = Server(*self.options, env=self.env, tcp=self.tcp)
        self.addCleanup(server.remove)
        return server

    def setUp(self):
        self.server = self.start()
        super().setUp()

    def wait_until(self, condition):
        give_up = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), give_up)
            time.sleep(0.01)

    def is_unarmed(self):
        self.assertEqual(self.fcall("mlc_state", [], "db")[3:], ["n1", 0])
        self.assertEqual(self.fcall("mlc_armed", [], "db"), "")
        self.assertEqual(self.get("k", "t2"), ["unarmed"])
        self.assertEqual(self.get("k", "t2", 1000, "db"), ["unarmed"])
        self.assertEqual(self.fill("lease", ns="db"), "refused")
        self.assertEqual(self.entry("lease"), None)


class Restart(OwnServer):
    options = ("--appendonly", "yes", "--appendfsync", "always")

    def test_restart(self):
        self.cache()
        self.get("lease")
        self.quarantine("o1", "marked", timeout=0)
        self.server.stop()
        self.server.start()
        self.r = self.server.r
        self.assertEqual(self.entry(), "old")
        self.is_unarmed()
        self.assertEqual(list(self.marks("marked")), ["o1"])
        # what is there is good again once the relay has caught up
        self.fcall("mlc_arm", [], "db", "n1")
        self.assertEqual(self.get(token="t2")[:2], ["hit", "old"])
        self.assertEqual(self.get("marked"), ["quarantined"])

    def test_killed(self):
        self.cache()
        self.get("lease")
        self.server.process.kill()
        self.server.process.wait()
        self.server.start()
        self.r = self.server.r
        self.is_unarmed()

    def test_restart_empty(self):
        self.server.stop()
        shutil.rmtree(os.path.join(self.server.dir, "appendonlydir"))
        self.server.start()
        self.r = self.server.r
        self.load(self.r)
        self.assertEqual(self.fcall("mlc_state", [], "db"), ["", "", "", "", 0])
        self.assertEqual(self.get(), ["unarmed"])

    def test_library_loaded_anew(self):
        self.cache()
        self.get("lease")
        self.r.execute_command("FUNCTION", "LOAD", "REPLACE", self.text)
        self.is_unarmed()


class Failover(OwnServer):
    tcp = True
    options = ("--repl-diskless-sync-delay", "0")

    def follow(self, r, server):
        r.execute_command("REPLICAOF", "127.0.0.1", server.port)
        self.wait_until(lambda: r.info("replication")["master_link_status"] == "up")

    def in_step(self, replica, master):
        def same():
            return replica.info("replication")["slave_repl_offset"] >= \
                master.info("replication")["master_repl_offset"]
        self.wait_until(same)

    def setUp(self):
        super().setUp()
        self.other = self.start()
        self.follow(self.other.r, self.server)
        self.cache()
        self.get("lease")
        self.quarantine("o1", "marked", timeout=0)
        self.in_step(self.other.r, self.r)

    def test_replica_serves_nobody(self):
        with self.assertRaises(redis.ReadOnlyError):
            self.fcall("mlc_get", ["k"], "t2", 1000, r=self.other.r)
        with self.assertRaises(redis.ReadOnlyError):
            self.fcall("mlc_arm", [], "db", "n1", r=self.other.r)
        with self.assertRaises(redis.ReadOnlyError):
            self.fcall("mlc_armed", [], "db", r=self.other.r)
        state = self.other.r.execute_command("FCALL_RO", "mlc_state", 0, "db")
        self.assertEqual(state[3:], [b"n1", 0])

    def test_promoted_replica(self):
        self.other.r.execute_command("REPLICAOF", "NO", "ONE")
        self.r = self.other.r
        self.is_unarmed()
        self.assertEqual(list(self.marks("marked")), ["o1"])

    def test_promoted_twice(self):
        """The old master comes back as a replica, with the nonce still in the
        state key and, if it kept it, in its memory; then it is promoted."""
        self.other.r.execute_command("REPLICAOF", "NO", "ONE")
        self.r.set("lost", "x")            # a write the new master never saw
        self.follow(self.r, self.other)
        self.assertEqual(self.r.get("lost"), None)
        self.r.execute_command("REPLICAOF", "NO", "ONE")
        self.is_unarmed()

    def test_nonce_changed_meanwhile(self):
        """A partial resynchronization leaves the library's memory alone; the
        nonce that the new master was armed with does not match it."""
        self.other.r.execute_command("REPLICAOF", "NO", "ONE")
        self.fcall("mlc_begin", [], "db", "n2", "sys", V(200), r=self.other.r)
        self.fcall("mlc_arm", [], "db", "n2", r=self.other.r)
        self.follow(self.r, self.other)
        self.in_step(self.r, self.other.r)
        self.r.execute_command("REPLICAOF", "NO", "ONE")
        self.assertEqual(self.fcall("mlc_state", [], "db")[3:], ["n2", 0])
        self.assertEqual(self.get("k", "t2", 1000, "db"), ["unarmed"])


class Cluster(OwnServer):
    """One node with all slots: commands must stay within a slot, but the state
    of the namespace and the entries need not share one."""
    tcp = True
    options = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")

    def setUp(self):
        self.server = self.start()
        self.server.r.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        self.wait_until(lambda: b"cluster_state:ok" in
                        self.server.r.execute_command("CLUSTER", "INFO"))
        self.r = self.server.r
        self.load(self.r)
        self.begin(ns="db{tag}")

    def test_everything(self):
        ns = "db{tag}"
        for key in ("a", "b", "x{y}z"):
            self.assertEqual(self.get(key)[0], "lease")
            self.assertEqual(self.fill(key), "ok")
            self.assertEqual(self.apply(("u", key, 120), ns=ns), [1, 0, 0])
            self.assertEqual(self.apply(("u", key, 121, "y", 60000), ns=ns), [1, 0, 0])
            self.assertEqual(self.get(key, "t2")[:2], ["hit", "y"])
            self.quarantine("o1", key, ns=ns)
            self.assertEqual(self.release("o1", 130, "z", key=key, ns=ns), [1, 0, 0])
            self.quarantine("o2", key, timeout=0, ns=ns)
        answer = self.fcall("mlc_sweep", [], ns, 0, 1000)
        self.assertEqual(len(answer[2]), 6)
        for key in ("a", "b", "x{y}z"):
            self.fcall("mlc_invalidate", [key], ns, "o2")
            self.cache(key)
        self.assertEqual(self.fcall("mlc_purge", [], ns, 0, 1000, "*"), ["0", 6])
        self.assertEqual(self.r.dbsize(), 1)

    def test_several_keys_of_one_slot(self):
        keys = ["{t}%d" % i for i in range(64)]
        self.assertEqual(self.apply(*[("r", k, 120) for k in keys], ns="db{tag}"), [64, 0, 0])
        self.assertEqual(self.apply(*[("u", k, 121) for k in keys], ns="db{tag}"), [64, 0, 0])

    def deliver(self, op, version, *pairs, ttl=0, nonce="n1"):
        versions = version if isinstance(version, str) else V(version)
        return self.fcall("mlc_deliver", [], "db{tag}", nonce, op, ttl, versions,
                          *[word for pair in pairs for word in pair])

    def give_away(self, key):
        """The slot of the key is nobody's from now on."""
        self.r.execute_command("CLUSTER", "DELSLOTS",
                               self.r.execute_command("CLUSTER", "KEYSLOT", key))

    def test_deliver(self):
        keys = ["k%d" % i for i in range(64)]
        self.assertEqual(self.deliver("r", 120, *[(k, "x") for k in keys]), [64, 0, 0])
        self.assertEqual(self.deliver("u", "".join(V(121 + i) for i in range(64)),
                                      *[(k, "y" + k) for k in keys]), [64, 0, 0])
        for i, k in enumerate(keys):
            self.assertEqual(self.r.get(k), b"y" + k.encode())
            self.assertEqual(self.bounds(k), (V(121 + i), V(121 + i)))
        # older, evicted, and not there at all
        self.r.delete("k5")
        self.assertEqual(self.deliver("u", 150, ("k60", "z"), ("k5", "z"), ("j", "z"), ("k0", "z")),
                         [1, 3, 0])
        self.assertEqual(self.r.get("k60"), b"yk60")
        self.assertEqual(self.r.exists("k5") + self.r.exists("j"), 0)
        self.assertEqual(self.deliver("r", 200, ("j{a}", "z"), ("k1", "z"), ttl=60000), [2, 0, 0])
        self.assertGreater(self.r.pttl("k1"), 50000)
        self.assertGreater(self.r.pttl("mlc:j{a}"), 50000)
        self.assertEqual(self.deliver("i", 201, ("k1", ""), ("k2", "")), [0, 0, 2])
        self.assertEqual(self.r.exists("k1") + self.r.exists("mlc:{k2}"), 0)
        # what is no guard of ours is in nobody's way
        self.r.delete("mlc:{k3}")
        self.r.hset("mlc:{k3}", "a", "b")
        self.assertEqual(self.deliver("r", 202, ("k3", "z")), [1, 0, 0])

    def test_deliver_to_marks(self):
        self.quarantine("o1", "k", ns="db{tag}")
        self.assertEqual(self.deliver("r", 150, ("k", "x"), ("j", "x")), [1, 0, 1])
        self.assertEqual(list(self.marks("k")), ["o1"])
        self.assertEqual(self.r.exists("k"), 0)

    def test_deliver_between_the_bounds(self):
        self.get("k")
        self.fill("k", lo=100, hi=150)
        self.assertEqual(self.deliver("r", 120, ("k", "x")), [0, 0, 1])
        self.assertEqual(self.r.exists("k"), 0)

    def test_deliver_to_a_slot_that_is_not_here(self):
        for op in "uri":
            self.give_away("gone")
            self.assertEqual(self.deliver(op, 120, ("here", "x"), ("gone", "x"))[3:], [2])
            self.r.execute_command("CLUSTER", "ADDSLOTS",
                                   self.r.execute_command("CLUSTER", "KEYSLOT", "gone"))
            self.assertEqual(self.r.exists("gone"), 0)

    def test_deliver_refuses(self):
        self.refuses("MLCNONCE", "mlc_deliver", [], "db{tag}", "n2", "r", 0, V(120), "k", "x")
        for args in (("r", 0, V(120)), ("r", 0, V(120), "k"), ("r", 0, V(120) * 2, "k", "x"),
                     ("x", 0, V(120), "k", "x"), ("r", "a", V(120), "k", "x"),
                     ("r", 0, "g" * 24, "k", "x"), ("r", 0, V(120), "mlc:k", "x")):
            self.refuses("MLCARG", "mlc_deliver", [], "db{tag}", "n1", *args)

    def test_remove(self):
        for key in ("a", "b", "x{y}z"):
            self.cache(key)
        self.get("leased")
        self.quarantine("o1", "marked", ns="db{tag}")
        self.r.set("bare", "x")
        self.assertEqual(self.fcall("mlc_remove", [], "db{tag}", "", "a", "x{y}z", "leased",
                                    "marked", "bare", "none"), [0, 0, 6])
        self.assertEqual(self.r.exists("a") + self.r.exists("mlc:{a}") + self.r.exists("bare") +
                         self.r.exists("x{y}z") + self.r.exists("mlc:{leased}"), 0)
        self.assertEqual(list(self.marks("marked")), ["o1"])
        self.assertEqual(self.r.exists("b"), 1)
        self.assertEqual(self.fcall("mlc_remove", [], "db{tag}", "o1", "marked"), [0, 0, 1])
        self.assertEqual(self.r.exists("mlc:{marked}"), 0)
        self.give_away("b")
        self.assertEqual(self.fcall("mlc_remove", [], "db{tag}", "", "a", "b"), [0, 0, 1, 2])

    def number(self, key):
        """The lowest number whose digits are in the slot of the key."""
        slot = self.r.execute_command("CLUSTER", "KEYSLOT", key)
        return str(next(n for n in range(1, 1000000)
                        if binascii.crc_hqx(str(n).encode(), 0) % 16384 == slot))

    def index(self, key, what="t:t"):
        return "mlc:state:{%s}tag:db{tag}:%s" % (self.number(key), what)

    def set(self, key, version=120, whats=("t:t",), ttl=0):
        return self.fcall("mlc_set", [key, self.index(key, "f"), *[self.index(key, w) for w in whats]],
                          "db{tag}", "n1", V(version), ttl, "x")

    def untag(self, keys, version=200, what="t:t", count=100):
        """All steps; members that went, keys of two places, slots that are not here."""
        slots, skip, cursor = " ".join(map(self.number, keys)), 0, "0"
        went, elsewhere, missing = 0, [], []
        self.steps = 0
        while skip < len(keys):
            cursor, n, more, skip, away = self.fcall("mlc_untag_slots", [], "db{tag}", what, V(version),
                                                     count, skip, cursor, slots)
            went, elsewhere, missing = went + n, elsewhere + more, missing + away
            self.steps += 1
        return went, elsewhere, missing

    def test_untag_slots(self):
        for key in ("a", "b", "c", "{a}2"):
            self.assertEqual(self.set(key), [1, 0, 0])
        self.assertEqual(self.set("d", whats=("t:u",)), [1, 0, 0])
        self.assertEqual(self.set("new", 300), [1, 0, 0])
        self.assertEqual(self.fcall("mlc_get_tagged", ["l", self.index("l")], "t1", 60000, "db{tag}", 0)[0],
                         "lease")
        self.assertEqual(self.fcall("mlc_indexes", [], "db{tag}", "t:t", " ".join(
            self.number(k) for k in ("a", "d", "l", "none"))), 2)
        self.assertEqual(self.untag(("a", "b", "d", "new", "none", "l")), (4, [], []))
        self.assertEqual(self.r.exists("a") + self.r.exists("b") + self.r.exists("{a}2") +
                         self.r.exists("mlc:{a}") + self.r.exists("mlc:{l}"), 0)
        self.assertEqual([self.r.exists(k) for k in ("c", "d", "new")], [1, 1, 1])
        self.assertEqual(self.r.exists(self.index("a")), 0)

    def test_untag_slots_in_steps(self):
        for i in range(400):
            self.set("{a}%d" % i)
        self.set("b")
        self.assertEqual(self.untag(("none", "a", "b"), count=20), (401, [], []))
        self.assertGreater(self.steps, 5)

    def test_untag_slots_leaves_what_has_other_tags_now(self):
        self.set("a", whats=("t:t", "t:u"))
        self.set("a", 130, whats=("t:u",))
        self.untag("a")
        self.assertEqual(self.r.exists("a"), 1)
        self.assertEqual(self.untag("a", what="t:u"), (1, [], []))

    def test_untag_slots_leaves_marks(self):
        self.set("a")
        self.quarantine("o1", "a", ns="db{tag}")
        self.assertEqual(self.untag("a"), (1, [], []))
        self.assertEqual(list(self.marks("a")), ["o1"])

    def test_untag_slots_without_the_right(self):
        self.set("a")
        self.r.execute_command("ACL", "SETUSER", "few", "on", "nopass", "~*", "+@all", "-zscan")
        self.r.execute_command("AUTH", "few", "x")
        try:
            with self.assertRaises(redis.ResponseError):
                self.untag("a")
        finally:
            self.r.execute_command("AUTH", "default", "x")
            self.r.execute_command("ACL", "DELUSER", "few")
        self.assertEqual(self.untag("a"), (1, [], []))

    def test_untag_slots_that_are_not_here(self):
        self.set("a")
        self.set("b")
        self.give_away("b")
        self.assertEqual(self.untag("ab"), (1, [], [self.number("b")]))
        self.assertEqual(self.fcall("mlc_indexes", [], "db{tag}", "t:t", self.number("b")), 1)

    def test_enter(self):
        now = self.now()
        self.assertEqual(self.fcall("mlc_enter", [self.index("a")], "a", 60000), 1)
        self.assertTrue(now + 60000 <= self.r.zscore(self.index("a"), "a"))
        self.fcall("mlc_enter", [self.index("a")], "a", 0)
        self.assertEqual(self.r.zscore(self.index("a"), "a"), float("inf"))
        self.refuses("MLCARG", "mlc_enter", [self.index("a")], "mlc:a", 0)

    def test_a_set_that_comes_again_is_indexed(self):
        self.set("a")
        self.r.delete(self.index("a"))
        self.assertEqual(self.set("a"), [0, 1, 0])
        self.assertEqual(self.untag("a"), (1, [], []))

    def test_tidy_slots(self):
        self.fcall("mlc_place", [], "db{tag}", "1")
        self.begin(ns="db{tag}")
        self.set("a", ttl=1)
        self.set("b", ttl=1)
        self.wait_until(lambda: self.r.exists("mlc:{a}") + self.r.exists("mlc:{b}") == 0)
        # what is not here may be elsewhere
        self.give_away("b")
        self.fcall("mlc_tidy", [], "db{tag}", 0, 1000)
        self.assertEqual(self.r.exists(self.index("a")), 0)
        self.r.execute_command("CLUSTER", "ADDSLOTS", self.r.execute_command("CLUSTER", "KEYSLOT", "b"))
        self.assertEqual(self.r.exists(self.index("b")), 1)

    def test_braces(self):
        self.assertEqual(self.get("a}{b}")[0], "lease")
        for key in ("a}b{c", "a{}", "{}a{b}", "}"):
            self.refuses("MLCARG", "mlc_get", [key], "t1", 1000, "db{tag}")


class Danish(OwnServer):
    """Where "aa" sorts behind "z", and Redis compares text as the locale says."""

    def setUp(self):
        if shutil.which("localedef") is None or not os.path.exists("/usr/share/i18n/locales/da_DK"):
            self.skipTest("no source of the Danish locale")
        path = tempfile.mkdtemp(prefix="mlclua.")
        self.addCleanup(shutil.rmtree, path)
        subprocess.run(["localedef", "-i", "da_DK", "-f", "UTF-8", path + "/da_DK.UTF-8"],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        self.env = {"LOCPATH": path, "LC_ALL": "da_DK.UTF-8"}
        super().setUp()
        # else the test would prove nothing
        self.assertEqual(self.r.eval("return tostring('aa' < 'ab')", 0), b"false")

    def test_versions(self):
        self.begin(0xaa)
        self.assertEqual(self.apply(("r", "k", 0xaa), ("r", "j", 0xab)), [1, 1, 0])
        self.assertEqual(self.apply(("u", "j", 0xac)), [1, 0, 0])
        self.assertEqual(self.apply(("u", "j", 0xaa)), [0, 1, 0])
        self.assertEqual(self.bounds("j"), (V(0xac), V(0xac)))
        self.assertEqual(self.apply(("u", "j", 0xbaa), ("u", "j", 0xbab)), [2, 0, 0])
        self.assertEqual(self.fcall("mlc_publish", [], "db", "n1", V(0xaa), V(0xaa), V(0xab)), 1)
        self.assertEqual(self.get("f")[0], "lease")
        self.assertEqual(self.fill("f", lo=0xaa, hi=0xab), "ok")
        self.assertEqual(self.apply(("u", "f", 0xaa)), [0, 1, 0])
        self.cache(lo=0xaa, hi=0xaa)
        self.quarantine("o1")
        self.quarantine("o2")
        self.release("o1", 0xaa)
        self.assertEqual(self.release("o2", 0xab, "x"), [1, 0, 0])


if __name__ == "__main__":
    unittest.main()
