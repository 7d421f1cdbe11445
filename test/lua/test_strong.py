"""Quarantines of strong writers: mlc_quarantine, mlc_release."""
from harness import LibraryTest, V


class Quarantine(LibraryTest):
    def test_entry_and_lease_go(self):
        self.cache()
        self.assertEqual(self.quarantine("o1"), 1)
        self.assertIsNone(self.entry())
        self.assertEqual(self.get(token="t2"), ["quarantined"])
        self.r.delete("mlc:{k}")
        self.get()
        self.quarantine("o1")
        self.assertEqual(self.fill(), "refused")
        self.assertEqual(self.get(), ["quarantined"])

    def test_absence_goes(self):
        self.cache(absent=1)
        self.quarantine("o1")
        self.assertEqual(self.get(), ["quarantined"])

    def test_guard(self):
        self.cache(ttl=5000)
        before = self.now()
        self.quarantine("o1", timeout=60000)
        guard = self.guard()
        owner, deadline = guard.pop("marks").split("=")
        self.assertEqual(guard.pop("nonce"), "n1")
        self.assertEqual(set(guard.values()), {""})
        self.assertEqual(owner, "o1")
        self.assertTrue(before + 60000 <= int(deadline) <= self.now() + 60000)

    def test_a_guard_with_marks_never_expires(self):
        for prepare in (lambda: None, lambda: self.get(lease=5000), lambda: self.cache(ttl=5000)):
            self.r.delete("k", "mlc:{k}")
            prepare()
            self.quarantine("o1")
            self.assertEqual(self.r.ttl("mlc:{k}"), -1)
            self.quarantine("o2")
            self.release("o2", 120)
            self.apply(("u", "k", 120, "x", 5000))
            self.assertEqual(self.r.ttl("mlc:{k}"), -1)

    def test_without_a_deadline(self):
        self.quarantine("o1", timeout=0)
        self.assertEqual(self.marks(), {"o1": 0})
        self.assertEqual(self.get(), ["quarantined"])

    def test_owners_are_a_set(self):
        self.quarantine("o1", timeout=60000)
        self.quarantine("o2", timeout=0)
        self.quarantine("o1", timeout=0)
        self.assertEqual(self.marks(), {"o1": 0, "o2": 0})
        self.release("o1")
        self.assertEqual(self.get(), ["quarantined"])
        self.release("o2")
        self.assertEqual(self.get()[0], "lease")

    def test_owners_of_many_keys(self):
        self.quarantine("o1", timeout=0)
        self.fcall("mlc_quarantine", ["k", "l"], "db", "", "o2", 0)
        self.assertEqual([self.marks(), self.marks("l")], [{"o1": 0, "o2": 0}, {"o2": 0}])

    def test_what_is_no_guard(self):
        self.r.hset("mlc:{k}", "somebody", "else's")
        self.quarantine("o1", timeout=0)
        self.assertEqual(self.marks(), {"o1": 0})
        self.r.delete("mlc:{k}")
        self.r.hset("mlc:{k}", "somebody", "else's")
        self.assertEqual(self.release("o1", 120), [0, 1, 0])
        self.assertIsNone(self.guard())

    def test_many_keys(self):
        keys = ["k%d" % i for i in range(1000)]
        for key in keys[:10]:
            self.cache(key)
        self.fcall("mlc_quarantine", keys, "db", "", "o1", 1000)
        self.assertEqual(self.r.exists(*keys), 0)
        self.assertEqual(self.r.dbsize(), 1001)
        self.assertEqual(self.fcall("mlc_release", keys, "db", "o1", "", 0),
                         [0, 1000, 0])
        self.assertEqual(self.r.dbsize(), 1)

    def test_nonce(self):
        self.assertEqual(self.quarantine("o1", nonce="n1"), 1)
        self.refuses("MLCNONCE", "mlc_quarantine", ["k"], "db", "n0", "o2", 0)

    def test_unarmed(self):
        """Live commits are marked again before the server is armed."""
        self.cache()
        self.begin(nonce="n2", arm=False)
        self.assertEqual(self.quarantine("o1"), 0)
        self.assertEqual(self.quarantine("o1", nonce="n2"), 0)
        self.assertIsNone(self.entry())
        self.fcall("mlc_arm", [], "db", "n2")
        self.assertEqual(self.get(), ["quarantined"])

    def test_deadline(self):
        self.quarantine("o1", timeout=1)
        self.wait_past(self.marks()["o1"])
        self.assertEqual(self.get()[0], "lease")
        self.assertEqual(self.fill(), "ok")

    def test_no_deadline_is_not_a_passed_one(self):
        self.quarantine("o1", timeout=0)
        self.quarantine("o2")
        self.mark_over("o2")
        self.assertEqual(self.get(), ["quarantined"])
        self.assertEqual(list(self.marks()), ["o1"])


class Release(LibraryTest):
    def setUp(self):
        super().setUp()
        self.cache()

    def test_payload(self):
        self.quarantine("o1")
        self.assertEqual(self.release("o1", 120, "v120"), [1, 0, 0])
        self.assertEqual(self.get(), ["hit", "v120", V(120), V(120), V(100)])
        self.assertEqual([self.r.pttl("k"), self.r.pttl("mlc:{k}")], [-1, -1])

    def test_time_to_live(self):
        self.quarantine("o1")
        self.release("o1", 120, "v120", ttl=5000)
        for key in ("k", "mlc:{k}"):
            self.assertTrue(4000 < self.r.pttl(key) <= 5000, key)

    def test_no_payload(self):
        self.quarantine("o1")
        self.assertEqual(self.release("o1", 120), [0, 1, 0])
        self.assertEqual(self.get()[0], "lease")

    def test_empty_payload_is_one(self):
        self.quarantine("o1")
        self.assertEqual(self.release("o1", 120, ""), [1, 0, 0])
        self.assertEqual(self.entry(), "")

    def test_abort(self):
        self.quarantine("o1")
        self.assertEqual(self.release("o1", None, "never"), [0, 1, 0])
        self.assertIsNone(self.entry())
        self.assertIsNone(self.guard())

    def test_only_the_last_sets(self):
        self.quarantine("o1")
        self.quarantine("o2")
        self.assertEqual(self.release("o1", 120, "v120"), [0, 0, 1])
        self.assertIsNone(self.entry())
        self.assertEqual(self.get(), ["quarantined"])
        self.assertEqual(self.release("o2", 121, "v121"), [1, 0, 0])
        self.assertEqual(self.entry(), "v121")

    def test_releases_in_the_wrong_order(self):
        """o1 committed after o2; the last one to be released is the older."""
        self.quarantine("o1")
        self.quarantine("o2")
        self.release("o1", 121, "v121")
        self.assertEqual(self.guard()["floor"], V(121))
        self.assertEqual(self.release("o2", 120, "v120"), [0, 1, 0])
        self.assertIsNone(self.entry())
        self.assertEqual(self.guard()["floor"], V(121))

    def test_three_in_the_wrong_order(self):
        """The floor is the highest version, not the last one."""
        for owner in ("o1", "o2", "o3"):
            self.quarantine(owner)
        self.release("o1", 130)
        self.release("o2", 110)
        self.assertEqual(self.guard()["floor"], V(130))
        self.assertEqual(self.release("o3", 120, "v120"), [0, 1, 0])
        self.assertIsNone(self.entry())

    def test_the_floor_outlives_a_new_quarantine(self):
        self.quarantine("o1")
        self.quarantine("o2")
        self.release("o1", 130)
        self.quarantine("o3")
        self.release("o3")
        self.assertEqual(self.release("o2", 120, "v120"), [0, 1, 0])
        self.assertIsNone(self.entry())

    def test_an_abort_raises_no_floor(self):
        self.quarantine("o1")
        self.quarantine("o2")
        self.release("o1")
        self.assertEqual(self.guard()["floor"], "")
        self.assertEqual(self.release("o2", 120, "v120"), [1, 0, 0])

    def test_taint(self):
        """o1's deadline passed: it may have committed, nobody knows at which version."""
        self.quarantine("o1")
        self.quarantine("o2")
        self.mark_over("o1")
        self.assertEqual(self.release("o2", 120, "v120"), [0, 1, 0])
        self.assertIsNone(self.entry())

    def test_taint_is_remembered(self):
        self.quarantine("o1")
        self.quarantine("o2")
        self.mark_over("o1")
        self.assertEqual(self.get(), ["quarantined"])
        self.assertEqual(self.guard()["flags"], "T")
        self.assertEqual(list(self.marks()), ["o2"])
        self.quarantine("o3")
        self.release("o3")
        self.assertEqual(self.guard()["flags"], "T")
        self.assertEqual(self.release("o2", 120, "v120"), [0, 1, 0])
        self.assertIsNone(self.entry())

    def test_taint_goes_with_the_last_mark(self):
        self.quarantine("o1")
        self.quarantine("o2")
        self.mark_over("o1")
        self.release("o2", 120, "v120")
        self.cache()
        self.quarantine("o3")
        self.assertEqual(self.release("o3", 130, "v130"), [1, 0, 0])

    def test_a_quarantine_that_meets_an_overdue_mark_is_tainted(self):
        self.quarantine("o1")
        self.mark_over("o1")
        self.quarantine("o2")
        self.assertEqual(list(self.marks()), ["o2"])
        self.assertEqual(self.release("o2", 120, "v120"), [0, 1, 0])

    def test_after_the_own_deadline(self):
        """A reader may have filled the old value since: it goes."""
        self.quarantine("o1")
        self.mark_over("o1")
        self.cache(payload="old")
        self.assertEqual(self.release("o1", 120, "v120"), [0, 1, 0])
        self.assertIsNone(self.entry())

    def test_after_the_own_deadline_with_a_lease(self):
        self.quarantine("o1")
        self.mark_over("o1")
        self.get()
        self.assertEqual(self.release("o1", 120, "v120"), [0, 1, 0])
        self.assertEqual(self.fill(), "refused")

    def test_overdue_and_nobody_came(self):
        self.quarantine("o1")
        self.mark_over("o1")
        self.assertEqual(self.release("o1", 120, "v120"), [0, 1, 0])
        self.assertIsNone(self.entry())

    def test_a_late_abort_leaves_others_alone(self):
        self.quarantine("o1")
        self.mark_over("o1")
        self.cache(payload="old")
        self.assertEqual(self.release("o1"), [0, 0, 0])
        self.assertEqual(self.entry(), "old")
        self.r.delete("k", "mlc:{k}")
        self.get()
        self.release("o1")
        self.assertEqual(self.fill(), "ok")

    def test_a_release_without_any_guard(self):
        self.r.set("k", "unguarded")
        self.assertEqual(self.release("o1", 120, "v120"), [0, 1, 0])
        self.assertIsNone(self.entry())
        self.assertEqual(self.release("o1"), [0, 0, 0])

    def test_anothers_mark_is_not_ended(self):
        self.quarantine("o1")
        self.release("o2", 120, "v120")
        self.assertEqual(list(self.marks()), ["o1"])
        self.assertEqual(self.guard()["floor"], V(120))
        self.release("o2")
        self.assertEqual(list(self.marks()), ["o1"])

    def test_a_key_twice(self):
        self.refuses("MLCARG", "mlc_release", ["k", "k"], "db", "o1", "", 0)

    def test_several_keys(self):
        keys = ["a", "b", "c", "d", "e"]
        for key in keys[:4]:
            self.cache(key)
        self.r.delete("d")
        self.fcall("mlc_quarantine", keys, "db", "", "o1", 60000, 1)
        self.quarantine("o2", "c")
        self.assertEqual(self.fcall("mlc_release", keys, "db", "o1", V(120), 0, 0, "va", "", "",
                                    5000, "vc", 0, "vd", 0, "ve"), [1, 3, 1])
        self.assertEqual([self.entry(k) for k in keys], ["va"] + [None] * 4)
        self.assertEqual(list(self.marks("c")), ["o2"])


class WriteThrough(LibraryTest):
    """A payload takes the place of what the quarantine has removed, or of nothing."""

    def changed(self, payload="v120", **kw):
        self.quarantine("o1", timeout=0, **kw)
        self.release("o1", 120, payload)
        return self.entry()

    def test_what_was_not_cached(self):
        self.assertIsNone(self.changed())

    def test_what_somebody_was_loading(self):
        self.get()
        self.assertIsNone(self.changed())
        self.assertEqual(self.fill(), "refused")

    def test_what_was_known_to_be_absent(self):
        self.cache(absent=1)
        self.assertEqual(self.changed(), "v120")
        self.assertEqual(self.bounds(), (V(120), V(120)))

    def test_what_had_been_evicted(self):
        self.cache()
        self.r.delete("k")
        self.assertIsNone(self.changed())

    def test_what_nobody_vouched_for(self):
        self.r.set("k", "unguarded")
        self.assertIsNone(self.changed())

    def test_only_when_asked_to(self):
        self.cache()
        self.assertIsNone(self.changed(remember=0))

    def test_another_arming(self):
        self.cache()
        self.quarantine("o1", timeout=0)
        self.begin(applied=130, nonce="n2")
        self.release("o1", 120, "v120")
        self.assertEqual((self.entry(), self.get()[0]), (None, "lease"))

    def test_another_relay(self):
        self.cache()
        self.quarantine("o1", timeout=0)
        self.fcall("mlc_adopt", [], "db", "n1", "n2")
        self.release("o1", 120, "v120")
        self.assertIsNone(self.entry())

    def test_a_later_mark_under_another_arming(self):
        """What was there then is older than the new history."""
        self.cache()
        self.quarantine("o1", timeout=0)
        self.begin(applied=130, nonce="n2")
        self.quarantine("o2", timeout=0)
        self.release("o1")
        self.release("o2", 140, "v140")
        self.assertIsNone(self.entry())

    def test_no_arming(self):
        self.cache()
        self.quarantine("o1", timeout=0)
        self.fcall("mlc_close", [], "db", "o2")
        self.release("o1", 120, "v120")
        self.assertIsNone(self.entry())

    def test_another_server(self):
        """The process still knows what the state does not say any more."""
        self.cache()
        self.quarantine("o1", timeout=0)
        self.r.hset("mlc:state:db", "nonce", "n2")
        self.release("o1", 120, "v120")
        self.assertIsNone(self.entry())

    def test_a_process_that_has_forgotten(self):
        self.cache()
        self.quarantine("o1", timeout=0)
        self.load(self.r)
        self.release("o1", 120, "v120")
        self.assertIsNone(self.entry())

    def test_nothing_applied(self):
        self.cache()
        self.quarantine("o1", timeout=0)
        self.r.hdel("mlc:state:db", "applied")
        self.release("o1", 120, "v120")
        self.assertIsNone(self.entry())

    def test_unarmed_when_the_mark_came(self):
        self.cache()
        self.begin(nonce="n2", arm=False)
        self.quarantine("o1", timeout=0)
        self.assertEqual(self.guard()["nonce"], "")
        self.fcall("mlc_arm", [], "db", "n2")
        self.release("o1", 120, "v120")
        self.assertIsNone(self.entry())

    def test_a_lease_is_no_promise(self):
        """The mark was swept, and a reader came."""
        self.cache()
        self.quarantine("o1", timeout=0)
        self.fcall("mlc_invalidate", ["k"], "db", "o1")
        self.get()
        self.release("o1", 120, "v120")
        self.assertIsNone(self.entry())

    def test_the_last_of_two(self):
        self.cache()
        self.quarantine("o1", timeout=0)
        self.quarantine("o2", timeout=0)
        self.release("o1", 120, "v120")
        self.apply(("u", "k", 120, "v120"))
        self.fcall("mlc_purge", [], "db", 0, 100, "mlc:*")
        self.release("o2", 130, "v130")
        self.assertEqual(self.entry(), "v130")

    def test_the_relay_leaves_it_alone(self):
        self.cache()
        self.assertEqual(self.changed(), "v120")
        self.fcall("mlc_invalidate", ["k"], "db", "", V(120))
        self.apply(("u", "k", 120, "v120"))
        self.assertEqual(self.entry(), "v120")

    def test_many_keys(self):
        self.cache("a")
        self.fcall("mlc_quarantine", ["a", "b"], "db", "", "o1", 0)
        self.assertEqual((self.guard("a")["nonce"], self.entry("a")), ("", None))
        self.fcall("mlc_release", ["a", "b"], "db", "o1", V(120), 1, 0, "va", 0, "vb")
        self.assertEqual([self.entry("a"), self.entry("b")], [None, None])


class Released(LibraryTest):
    """What is filled after a release is no older than its commit."""

    def invalidate(self, version=None):
        return self.fcall("mlc_invalidate", ["k"], "db", "", *([V(version)] if version else []))

    def refill(self, lo=100, hi=125):
        self.quarantine("o1", timeout=0)
        self.assertEqual(self.release("o1", 120), [0, 1, 0])
        self.cache(payload="new", lo=lo, hi=hi)

    def test_stays_when_the_relay_comes(self):
        self.refill()
        self.assertEqual((self.guard()["lo"], self.guard()["hi"]), (V(120), V(125)))
        self.invalidate(120)
        self.assertEqual(self.entry(), "new")

    def test_goes_for_a_later_commit(self):
        self.refill()
        self.invalidate(121)
        self.assertEqual((self.entry(), self.guard()), (None, None))

    def test_goes_without_a_version(self):
        self.refill()
        self.invalidate()
        self.assertEqual((self.entry(), self.guard()), (None, None))

    def test_what_was_filled_otherwise_goes(self):
        self.cache(hi=125)
        self.invalidate(120)
        self.assertEqual((self.entry(), self.guard()), (None, None))

    def test_relay_before_the_lease(self):
        self.quarantine("o1", timeout=0)
        self.release("o1", 120)
        self.assertTrue(0 < self.r.pttl("mlc:{k}") <= 10000)
        self.invalidate(120)
        self.assertEqual(self.get()[0], "lease")

    def test_a_later_commit_before_the_lease(self):
        self.quarantine("o1", timeout=0)
        self.release("o1", 120)
        self.invalidate(120)
        self.assertEqual(self.guard()["floor"], V(120))
        self.invalidate(121)
        self.assertIsNone(self.guard())

    def test_relay_before_the_fill(self):
        self.quarantine("o1", timeout=0)
        self.release("o1", 120)
        self.get()
        self.invalidate(120)
        self.assertEqual(self.fill(payload="new", hi=125), "ok")
        self.get(token="t2")
        self.quarantine("o2", timeout=0)
        self.release("o2", 130)
        self.get()
        self.invalidate(131)
        self.assertEqual(self.fill(hi=140), "refused")

    def test_marks_are_not_passed_over(self):
        self.refill()
        self.quarantine("o2", timeout=0)
        self.invalidate(120)
        self.assertEqual(self.marks(), {"o2": 0})
        self.assertEqual(self.get(), ["quarantined"])

    def test_the_highest_of_several(self):
        self.quarantine("o1", timeout=0)
        self.quarantine("o2", timeout=0)
        self.release("o1", 130)
        self.release("o2", 120)
        self.cache(hi=140)
        self.assertEqual(self.guard()["lo"], V(130))

    def test_an_older_position(self):
        """What was read up to there cannot have seen it."""
        self.refill(hi=110)
        self.assertEqual(self.guard()["lo"], V(100))

    def test_another_timeline(self):
        self.quarantine("o1", timeout=0)
        self.fcall("mlc_release", ["k"], "db", "o1", "00000002" + V(120)[8:], 1)
        self.cache(hi=125)
        self.assertEqual(self.guard()["lo"], V(100))

    def test_only_when_asked_to(self):
        self.quarantine("o1", timeout=0)
        self.release("o1", 120, tell=0)
        self.assertIsNone(self.guard())

    def test_nothing_of_an_abort(self):
        self.quarantine("o1", timeout=0)
        self.release("o1")
        self.assertIsNone(self.guard())

    def test_nothing_of_a_taint(self):
        self.quarantine("o1")
        self.quarantine("o2")
        self.mark_over("o1")
        self.release("o2", 120)
        self.assertIsNone(self.guard())

    def test_nothing_of_a_mark_that_was_over(self):
        """o1 may have a commit record before o2's and not be visible yet."""
        self.quarantine("o1")
        self.quarantine("o2")
        self.release("o2", 120)
        self.mark_over("o1")
        self.cache(hi=125)
        self.assertEqual(self.guard()["lo"], V(100))

    def test_nothing_of_one_that_has_been_swept(self):
        self.quarantine("o1", timeout=0)
        self.fcall("mlc_invalidate", ["k"], "db", "o1")
        self.get()
        self.release("o1", 120)
        self.assertIsNone(self.guard())

    def test_arguments(self):
        self.refuses("MLCARG", "mlc_invalidate", ["k", "l"], "db", "", V(120))
        self.refuses("MLCARG", "mlc_invalidate", ["k"], "db", "", "120")
        self.refuses("MLCARG", "mlc_invalidate", ["k"], "db", "", "x" * 24)
        self.refuses("MLCARG", "mlc_invalidate", ["k", "l"], "db", "", V(120), V(121)[1:])


class Policy(LibraryTest):
    def tearDown(self):
        self.r.config_set("maxmemory-policy", "noeviction")
        self.load(self.r)

    def test_marks_that_may_be_evicted(self):
        self.r.config_set("maxmemory-policy", "allkeys-lfu")
        self.load(self.r)               # which looks at once
        self.begin()
        self.refuses("MLCEVICT", "mlc_quarantine", ["k"], "db", "", "o1", 0)
        self.assertIsNone(self.guard())
        self.r.config_set("maxmemory-policy", "volatile-lru")
        self.load(self.r)
        self.begin()
        self.quarantine("o1")
        self.assertEqual(list(self.marks()), ["o1"])

    def test_the_policy_is_looked_at_again(self):
        self.quarantine("o1")
        self.r.config_set("maxmemory-policy", "allkeys-random")
        self.wait_past(self.now() + 1000)
        self.refuses("MLCEVICT", "mlc_quarantine", ["k"], "db", "", "o2", 0)
        self.assertEqual(list(self.marks()), ["o1"])


class Strong(LibraryTest):
    """The orders that the protocol has to survive, as a whole."""

    def test_a_snapshot_from_before_the_commit(self):
        """The reader's lease is older than the quarantine, its fill comes after
        the release: it carries the old row."""
        self.get()
        self.quarantine("o1")
        self.release("o1", 120, "v120")
        self.assertEqual(self.fill(payload="old row"), "refused")
        self.assertIsNone(self.entry())

    def test_between_commit_and_release(self):
        self.quarantine("o1")
        self.assertEqual(self.get(token="t2"), ["quarantined"])
        self.assertEqual(self.fill(token="t2"), "refused")

    def test_two_writers_one_reader(self):
        self.cache()
        self.quarantine("o1")
        self.quarantine("o2")
        self.release("o2", 120, "v120")
        self.assertEqual(self.get(), ["quarantined"])
        self.release("o1", 121, "v121")
        self.assertEqual(self.get()[1], "v121")

    def test_the_relay_comes_first(self):
        """The sweep finds the owner gone; a reader fills; the release comes late."""
        self.quarantine("o1")
        self.fcall("mlc_invalidate", ["k"], "db", "o1")
        self.fcall("mlc_publish", [], "db", "n1", V(100), V(120), V(120))
        self.cache(payload="v120", lo=120, hi=125)
        self.release("o1", 120, "v120")
        self.assertIsNone(self.entry())     # costs a miss, never a wrong hit

    def test_the_relay_comes_in_between(self):
        """A later commit by another owner is applied before the first one's
        release arrives."""
        self.cache()
        self.quarantine("o1")
        self.apply(("u", "k", 130, "v130"))
        self.release("o1", 120, "v120")
        self.assertIsNone(self.entry())
