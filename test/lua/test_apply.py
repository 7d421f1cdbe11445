"""mlc_apply and mlc_invalidate: what the relay delivers."""
import redis

from harness import LibraryTest, V


class Update(LibraryTest):
    def test_newer_than_the_fill(self):
        self.cache(lo=100, hi=110)
        self.assertEqual(self.apply(("u", "k", 111)), [1, 0, 0])
        self.assertEqual(self.entry(), "new")
        self.assertEqual(self.bounds(), (V(111), V(111)))
        self.assertEqual(self.get(token="t2"), ["hit", "new", V(111), V(111), V(100)])

    def test_seen_by_the_fill(self):
        for version in (99, 100):
            self.r.delete("k", "mlc:{k}")
            self.cache(lo=100, hi=110)
            self.assertEqual(self.apply(("u", "k", version)), [0, 1, 0])
            self.assertEqual(self.entry(), "old")
            self.assertEqual(self.bounds(), (V(100), V(110)))

    def test_nobody_knows(self):
        for version in (101, 110):
            self.r.delete("k", "mlc:{k}")
            self.cache(lo=100, hi=110)
            self.assertEqual(self.apply(("u", "k", version)), [0, 0, 1])
            self.assertIsNone(self.entry())
            self.assertIsNone(self.guard())

    def test_versions_never_decrease(self):
        """A late command of a connection that was given up."""
        self.cache()
        self.apply(("u", "k", 130, "v130"))
        self.assertEqual(self.apply(("u", "k", 120, "v120")), [0, 1, 0])
        self.assertEqual(self.apply(("u", "k", 130, "again")), [0, 1, 0])
        self.assertEqual(self.entry(), "v130")
        self.assertEqual(self.bounds(), (V(130), V(130)))

    def test_timeline_comes_first(self):
        self.cache()
        self.apply(("u", "k", V(5, 2), "new timeline"))
        self.apply(("u", "k", V(999, 1), "old timeline"))
        self.assertEqual(self.entry(), "new timeline")

    def test_never_creates(self):
        self.assertEqual(self.apply(("u", "k", 120)), [0, 1, 0])
        self.assertIsNone(self.entry())
        self.assertIsNone(self.guard())

    def test_never_revives_what_was_evicted(self):
        self.cache("here")
        self.cache("gone")
        self.cache("gone2")
        self.r.delete("gone", "gone2")
        self.assertEqual(self.apply(("u", "gone", 120), ("u", "here", 121), ("u", "gone2", 122, "x", 5000)),
                         [1, 2, 0])
        self.assertEqual([self.entry("gone"), self.entry("here"), self.entry("gone2")],
                         [None, "new", None])
        self.assertIsNone(self.guard("gone"))
        self.assertIsNone(self.guard("gone2"))
        self.assertEqual(self.bounds("here"), (V(121), V(121)))

    def test_what_has_no_guard_goes(self):
        self.r.set("k", "unguarded")
        self.assertEqual(self.apply(("u", "k", 120)), [0, 1, 0])
        self.assertIsNone(self.entry())

    def test_absence_counts_as_an_entry(self):
        self.cache(absent=1)
        self.assertEqual(self.apply(("u", "k", 120)), [1, 0, 0])
        self.assertEqual(self.get(token="t2")[:2], ["hit", "new"])

    def test_absence_that_may_be_over(self):
        self.cache(absent=1, lo=100, hi=110)
        self.assertEqual(self.apply(("u", "k", 105)), [0, 0, 1])
        self.assertIsNone(self.guard())

    def test_kills_the_lease(self):
        self.get()
        self.assertEqual(self.apply(("u", "k", 50)), [0, 1, 0])
        self.assertIsNone(self.guard())
        self.assertEqual(self.fill(), "refused")

    def test_time_to_live(self):
        self.cache("a", ttl=1000000)
        self.cache("b", ttl=1000000)
        self.apply(("u", "a", 120, "x", 5000), ("u", "b", 121, "y", 0))
        for key in ("a", "mlc:{a}"):
            self.assertTrue(4000 < self.r.pttl(key) <= 5000, key)
        for key in ("b", "mlc:{b}"):
            self.assertEqual(self.r.pttl(key), -1, key)

    def test_binary(self):
        self.cache("a\0b", payload="x")
        payload = bytes(range(256))
        self.r.execute_command("FCALL", "mlc_apply", 1, "a\0b", "db", "n1", "u", 0, V(120), payload)
        self.assertEqual(self.r.get("a\0b"), payload)


class Replicate(LibraryTest):
    def test_creates(self):
        self.assertEqual(self.apply(("r", "k", 101)), [1, 0, 0])
        self.assertEqual(self.get(), ["hit", "new", V(101), V(101), V(100)])

    def test_does_not_create_what_is_old(self):
        """A late command of a dead relay must not revive a value."""
        for version in (99, 100):
            self.assertEqual(self.apply(("r", "k", version)), [0, 1, 0])
            self.assertIsNone(self.entry())

    def test_kills_the_lease(self):
        self.get()
        self.assertEqual(self.apply(("r", "k", 101)), [1, 0, 0])
        self.assertEqual(self.fill(), "refused")
        self.assertEqual(self.entry(), "new")
        self.r.delete("k", "mlc:{k}")
        self.get()
        self.assertEqual(self.apply(("r", "k", 100)), [0, 1, 0])
        self.assertEqual(self.fill(), "refused")

    def test_an_entry_as_update_does(self):
        for version, entry, counts in ((100, "old", [0, 1, 0]), (110, None, [0, 0, 1]),
                                       (111, "new", [1, 0, 0])):
            self.r.delete("k", "mlc:{k}")
            self.cache(lo=100, hi=110)
            self.assertEqual(self.apply(("r", "k", version)), counts)
            self.assertEqual(self.entry(), entry)

    def test_creates_what_was_evicted(self):
        self.cache()
        self.r.delete("k")
        self.assertEqual(self.apply(("r", "k", 120)), [1, 0, 0])
        self.assertEqual(self.entry(), "new")

    def test_never_while_marks_stand(self):
        self.quarantine("o1")
        self.assertEqual(self.apply(("r", "k", 120)), [0, 0, 1])
        self.assertIsNone(self.entry())
        self.assertEqual(list(self.marks()), ["o1"])


class Invalidate(LibraryTest):
    def test_entry(self):
        for version in (50, 105, 120):
            self.cache()
            self.assertEqual(self.apply(("i", "k", version)), [0, 0, 1])
            self.assertIsNone(self.entry())
            self.assertIsNone(self.guard())

    def test_absence(self):
        self.cache(absent=1)
        self.apply(("i", "k", 120))
        self.assertIsNone(self.guard())

    def test_lease(self):
        self.get()
        self.apply(("i", "k", 120))
        self.assertIsNone(self.guard())
        self.assertEqual(self.fill(), "refused")

    def test_marks_stay(self):
        self.quarantine("o1")
        self.apply(("i", "k", 120))
        self.assertEqual(list(self.marks()), ["o1"])
        self.assertEqual(self.get(), ["quarantined"])
        self.assertEqual(self.r.ttl("mlc:{k}"), -1)

    def test_without_a_version(self):
        self.cache()
        self.cache("absent", absent=1)
        self.get("lease")
        self.r.set("unguarded", "x")
        keys = ["k", "absent", "lease", "unguarded", "nothing"]
        self.assertEqual(self.fcall("mlc_invalidate", keys, "db", ""), 5)
        self.assertEqual(self.r.keys("*"), [b"mlc:state:db"])

    def test_without_a_version_marks_stay(self):
        self.quarantine("o1")
        self.fcall("mlc_invalidate", ["k"], "db", "")
        self.fcall("mlc_invalidate", ["k"], "db", "o2")
        self.assertEqual(list(self.marks()), ["o1"])
        self.assertEqual(self.guard()["flags"], "")

    def test_own_mark_goes(self):
        self.quarantine("o1")
        self.fcall("mlc_invalidate", ["k"], "db", "o1")
        self.assertIsNone(self.guard())

    def test_own_mark_goes_and_taints_the_others(self):
        self.cache()
        self.quarantine("o1")
        self.quarantine("o2")
        self.fcall("mlc_invalidate", ["k"], "db", "o1")
        self.assertEqual(list(self.marks()), ["o2"])
        self.assertEqual(self.release("o2", 150, "v150"), [0, 1, 0])
        self.assertIsNone(self.entry())

    def test_a_lot(self):
        keys = ["k%d" % i for i in range(1000)]
        self.r.mset({k: "x" for k in keys})
        self.assertEqual(self.fcall("mlc_invalidate", keys, "db", ""), 1000)
        self.assertEqual(self.r.dbsize(), 1)
        self.refuses("MLCARG", "mlc_invalidate", keys + ["one more"], "db", "")


class Batch(LibraryTest):
    def test_mixed(self):
        self.cache("u")
        self.cache("skip")
        self.cache("between")
        self.cache("i")
        self.get("lease")
        self.quarantine("o1", "marked")
        self.cache("ttl")
        self.cache("absent", absent=1)
        self.assertEqual(self.apply(
            ("u", "u", 120, "1"), ("u", "skip", 100, "2"), ("u", "between", 105, "3"),
            ("i", "i", 121), ("u", "lease", 122, "4"), ("u", "marked", 123, "5"),
            ("u", "ttl", 124, "6", 5000), ("u", "absent", 125, "7"), ("r", "create", 126, "8"),
            ("u", "nothing", 127, "9")), [4, 3, 3])
        self.assertEqual({k: self.entry(k) for k in ("u", "skip", "between", "i", "lease", "marked",
                                                     "ttl", "absent", "create", "nothing")},
                         {"u": "1", "skip": "old", "between": None, "i": None, "lease": None,
                          "marked": None, "ttl": "6", "absent": "7", "create": "8",
                          "nothing": None})
        self.assertEqual(self.guard("marked")["floor"], V(123))

    def test_a_lot(self):
        keys = ["k%d" % i for i in range(1000)]
        self.assertEqual(self.apply(*[("r", k, 101 + i) for i, k in enumerate(keys)]), [1000, 0, 0])
        self.assertEqual(self.apply(*[("u", k, 2000 + i, "x" + k) for i, k in enumerate(keys)]),
                         [1000, 0, 0])
        self.assertEqual(self.r.mget(keys), [("x" + k).encode() for k in keys])
        self.assertEqual(self.apply(*[("u", k, 4000, "y", 5000) for k in keys]), [1000, 0, 0])
        self.assertEqual(self.apply(*[("i", k, 5000) for k in keys]), [0, 0, 1000])
        self.assertEqual(self.r.dbsize(), 1)
        self.refuses("MLCARG", "mlc_apply", keys + ["one more"], "db", "n1", "i", 0, V(1), *[""] * 1001)

    def test_need_not_be_armed(self):
        self.cache()
        self.begin(arm=False)
        self.assertEqual(self.apply(("u", "k", 120)), [1, 0, 0])

    def test_wants_the_nonce(self):
        self.cache()
        self.refuses("MLCNONCE", "mlc_apply", ["k"], "db", "n0", "i", 0, V(120), "")
        self.refuses("MLCNONCE", "mlc_apply", ["k"], "nowhere", "n1", "i", 0, V(120), "")
        self.refuses("MLCNONCE", "mlc_apply", ["k"], "nowhere", "", "i", 0, V(120), "")

    def test_nothing_before_an_error(self):
        self.cache("a")
        self.cache("b")
        self.refuses("MLCARG", "mlc_apply", ["a", "b"], "db", "n1", "u", 0, V(120) + "x" * 24, "x", "y")

    def test_a_key_twice(self):
        self.cache()
        self.assertEqual(self.apply(("u", "k", 120, "first"), ("u", "k", 121, "second")), [2, 0, 0])
        self.assertEqual(self.entry(), "second")
        self.assertEqual(self.bounds(), (V(121), V(121)))

    def test_a_key_twice_where_order_would_be_lost(self):
        def twice(op, key, first, second, ttl=0):
            self.refuses("MLCARG", "mlc_apply", [key, key], "db", "n1", op, ttl, V(first) + V(second), "a", "b")

        self.cache(lo=100, hi=110)
        for ttl in (0, 5000):
            twice("u", "k", 121, 120, ttl)      # one after the other, in the wrong order
            twice("u", "k", 105, 121, ttl)      # a removal and a value
        self.quarantine("o1", "m")
        twice("u", "m", 120, 121)               # the guard is written twice


class Alike(LibraryTest):
    """Versions in one text: one for all, or one for each."""

    def test_versions(self):
        for key in ("newer", "seen", "between", "gone"):
            self.cache(key, lo=100, hi=110)
        self.r.delete("gone")
        self.assertEqual(self.apply_alike("u", (111, 100, 105, 112, 113), ("newer", "1"),
                                          ("seen", "2"), ("between", "3"), ("gone", "4"), ("nothing", "5")),
                         [1, 3, 1])
        self.assertEqual([self.entry(k) for k in ("newer", "seen", "between", "gone", "nothing")],
                         ["1", "old", None, None, None])
        self.assertEqual(self.bounds("newer"), (V(111), V(111)))

    def test_one_version(self):
        for key in ("a", "b"):
            self.cache(key)
        self.assertEqual(self.apply_alike("u", V(120), ("a", "1"), ("b", "2"), ttl=5000), [2, 0, 0])
        self.assertEqual([self.entry("a"), self.entry("b")], ["1", "2"])
        for key in ("a", "b"):
            self.assertEqual(self.bounds(key), (V(120), V(120)))
            self.assertTrue(4000 < self.r.pttl(key) <= 5000)

    def test_replicate_and_invalidate(self):
        self.assertEqual(self.apply_alike("r", (100, 101), ("old", "1"), ("new", "2")), [1, 1, 0])
        self.assertEqual([self.entry("old"), self.entry("new")], [None, "2"])
        self.assertEqual(self.apply_alike("i", V(130), ("old", ""), ("new", "")), [0, 0, 2])
        self.assertEqual(self.r.keys("*"), [b"mlc:state:db"])

    def test_malformed(self):
        for key in ("a", "b"):
            self.cache(key)
        before = self.dump()
        two = [("a", "1"), ("b", "2")]
        for op, versions, ttl in (("u", V(120)[1:], 0), ("u", V(120) + V(121)[1:], 0),
                                  ("u", V(120) * 3, 0), ("u", "", 0), ("u", V(120) + "X" * 24, 0),
                                  ("u", "X" * 24, 0), ("x", V(120), 0), ("u", V(120), -1)):
            with self.assertRaisesRegex(redis.ResponseError, "MLCARG"):
                self.apply_alike(op, versions, *two, ttl=ttl)
        self.assertEqual(self.dump(), before)

    def test_a_key_twice(self):
        self.cache()
        self.assertEqual(self.apply_alike("u", (120, 121), ("k", "first"), ("k", "second")), [2, 0, 0])
        self.assertEqual(self.entry(), "second")
        with self.assertRaisesRegex(redis.ResponseError, "MLCARG"):
            self.apply_alike("u", (131, 130), ("k", "a"), ("k", "b"))


class Marks(LibraryTest):
    """The relay ends no marks, and raises the floor."""

    def test_stay(self):
        self.quarantine("o1")
        self.quarantine("o2")
        self.assertEqual(self.apply(("u", "k", 120)), [0, 0, 1])
        self.assertEqual(sorted(self.marks()), ["o1", "o2"])
        self.assertEqual(self.guard()["floor"], V(120))
        self.assertEqual(self.get(), ["quarantined"])

    def test_floor_only_rises(self):
        self.quarantine("o1")
        self.apply(("u", "k", 130))
        self.apply(("u", "k", 120))
        self.assertEqual(self.guard()["floor"], V(130))

    def test_floor_keeps_a_release_from_setting_what_is_older(self):
        self.cache()
        self.quarantine("o1")
        self.apply(("u", "k", 130))
        self.assertEqual(self.release("o1", 130, "v130"), [0, 1, 0])
        self.assertIsNone(self.entry())
        self.r.delete("mlc:{k}")
        self.cache()
        self.quarantine("o1")
        self.apply(("i", "k", 130))
        self.assertEqual(self.release("o1", 131, "v131"), [1, 0, 0])
        self.assertEqual(self.entry(), "v131")

    def test_overdue_marks_end(self):
        self.quarantine("o1")
        self.mark_over("o1")
        self.assertEqual(self.apply(("r", "k", 120)), [1, 0, 0])
        self.assertEqual(self.entry(), "new")

    def test_after_the_release_it_is_skipped(self):
        self.cache()
        self.quarantine("o1")
        self.release("o1", 120, "v120")
        self.assertEqual(self.apply(("u", "k", 120, "v120")), [0, 1, 0])
        self.assertEqual(self.entry(), "v120")


class OutOfMemory(LibraryTest):
    def setUp(self):
        super().setUp()
        self.cache()
        self.get("lease")
        self.r.config_set("maxmemory", 1)

    def tearDown(self):
        self.r.config_set("maxmemory", 0)

    def test_what_deletes_or_publishes_gets_through(self):
        self.fcall("mlc_publish", [], "db", "n1", V(100), V(100), V(120))
        self.quarantine("o1", "q")
        self.release("o1", key="q")
        self.fcall("mlc_sweep", [], "db", 0, 100)
        self.fcall("mlc_invalidate", ["k"], "db", "")
        self.assertIsNone(self.entry())
        self.fcall("mlc_purge", [], "db", 0, 100, "k*")
        self.fcall("mlc_adopt", [], "db", "n1", "n2")
        self.fcall("mlc_disarm", [], "db", "n3", "sys")
        self.begin(nonce="n4")

    def test_hits_get_through(self):
        self.assertEqual(self.get(token="t2")[0], "hit")

    def test_what_grows_does_not(self):
        self.refuses("OOM", "mlc_fill", ["lease"], "t1", "x", 0, V(100), V(100), 0)
        self.refuses("OOM", "mlc_apply", ["k"], "db", "n1", "u", 0, V(120), "x")
