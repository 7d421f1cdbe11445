"""Free keys and tags: mlc_set, mlc_peek, mlc_get_tagged, mlc_untag, mlc_tidy."""
from harness import LibraryTest, V

T = "mlc:tag:db:t:t"
U = "mlc:tag:db:t:u"
FREE = "mlc:tag:db:f"


def numbers(*tags):
    """What a guard says of these tags."""
    text = "G"
    for tag in tags:
        number = ord("t")
        for byte in tag.encode():
            number = (number * 257 + byte) % 65521
        text += "%04x" % number
    return text


class Tag(LibraryTest):
    def set(self, key="k", version=120, ttl=0, payload="value", indexes=(FREE, T), nonce="n1"):
        return self.fcall("mlc_set", [key, *indexes], "db", nonce, V(version), ttl, payload)

    def peek(self, key="k", ns="db"):
        return self.fcall("mlc_peek", [key], ns)

    def get_tagged(self, key="k", indexes=(T,), token="t1", lease=60000, ttl=0):
        return self.fcall("mlc_get_tagged", [key, *indexes], token, lease, "db", ttl)

    def untag(self, index=T, version=200, count=100):
        """All steps; how many members went."""
        cursor, went, steps = "0", 0, 0
        while True:
            cursor, n = self.fcall("mlc_untag", [index], "db", cursor, count,
                                   V(version) if isinstance(version, int) else version)
            went += n
            steps += 1
            if cursor == "0":
                self.steps = steps
                return went

    def members(self, index=T):
        return sorted(m.decode() for m in self.r.zrange(index, 0, -1))

    # -- setting

    def test_set(self):
        self.assertEqual(self.set(), [1, 0, 0])
        self.assertEqual(self.entry(), "value")
        self.assertEqual(self.bounds(), (V(120), V(120)))
        self.assertEqual(self.r.ttl("k"), -1)
        self.assertEqual((self.members(), self.members(FREE)), (["k"], ["k"]))
        self.assertEqual(self.r.zscore(T, "k"), float("inf"))
        self.assertEqual(self.peek(), ["hit", "value", V(120), V(120), V(100)])

    def test_set_with_a_ttl(self):
        now = self.now()
        self.set(ttl=60000)
        self.assertTrue(59000 < self.r.pttl("k") <= 60000)
        self.assertTrue(59000 < self.r.pttl("mlc:{k}") <= 60000)
        self.assertTrue(now + 60000 <= self.r.zscore(T, "k") <= self.now() + 60000)
        self.assertEqual(self.r.ttl(T), -1)

    def test_set_is_newer_or_nothing(self):
        self.set(version=120)
        self.assertEqual(self.set(version=120, payload="same"), [0, 1, 0])
        self.assertEqual(self.set(version=110, payload="older"), [0, 1, 0])
        self.assertEqual(self.entry(), "value")
        self.assertEqual(self.set(version=130, payload="newer"), [1, 0, 0])
        self.assertEqual(self.entry(), "newer")

    def test_late_set_revives_nothing(self):
        self.assertEqual(self.set(version=100), [0, 1, 0])
        self.assertEqual(self.dump().keys(), {b"mlc:state:db"})

    def test_set_under_a_mark(self):
        self.quarantine("o1")
        self.assertEqual(self.set(), [0, 0, 1])
        self.assertEqual(self.peek(), ["miss"])
        self.assertEqual(list(self.marks()), ["o1"])
        self.assertEqual(self.guard()["floor"], V(120))

    def test_set_takes_a_lease(self):
        self.get()
        self.assertEqual(self.set(), [1, 0, 0])
        self.assertEqual(self.fill(), "refused")

    def test_set_wants_the_nonce(self):
        self.refuses("MLCNONCE", "mlc_set", ["k", FREE], "db", "n0", V(120), 0, "x")

    def test_bad_arguments(self):
        for args in (("db", "n1", "120", 0, "x"), ("db", "n1", V(120), -1, "x"), ("db", "n1", V(120), 0)):
            self.refuses("MLCARG", "mlc_set", ["k", FREE], *args)
        self.refuses("MLCARG", "mlc_set", ["mlc:k", FREE], "db", "n1", V(120), 0, "x")
        self.refuses("MLCARG", "mlc_get_tagged", ["k"], "t1", 1000, "db", 0)
        self.refuses("MLCARG", "mlc_get_tagged", ["k", T], "t1", 1000, "db")
        self.refuses("MLCARG", "mlc_untag", [T], "db", "x", 100, V(1))
        self.refuses("MLCARG", "mlc_untag", [T], "db", "0", 0, V(1))
        self.refuses("MLCARG", "mlc_untag", [T], "db", "0", 100, "1")
        self.refuses("MLCARG", "mlc_tidy", [], "db", "0")

    # -- touching

    def touch(self, version=200, ttl=60000, key="k"):
        return self.fcall("mlc_touch", [key, FREE], "db", "n1", V(version), ttl)

    def test_touch(self):
        self.set()
        self.assertEqual(self.touch(), 1)
        self.assertTrue(59000 < self.r.pttl("k") <= 60000)
        self.assertTrue(59000 < self.r.pttl("mlc:{k}") <= 60000)
        self.assertTrue(self.now() < self.r.zscore(FREE, "k") <= self.now() + 60000)
        self.assertEqual(self.touch(ttl=0), 1)
        self.assertEqual((self.r.ttl("k"), self.r.ttl("mlc:{k}")), (-1, -1))
        self.assertEqual(self.r.zscore(FREE, "k"), float("inf"))
        self.assertEqual(self.bounds(), (V(120), V(120)))

    def test_touch_makes_nothing(self):
        self.assertEqual(self.touch(), 0)
        self.get()
        self.assertEqual(self.touch(), 0)
        self.assertEqual(self.guard()["token"], "t1")
        self.assertEqual(self.members(FREE), [])

    def test_late_touch(self):
        self.set(version=200)
        self.assertEqual(self.touch(version=200), 0)
        self.assertEqual(self.r.ttl("k"), -1)
        self.refuses("MLCNONCE", "mlc_touch", ["k", FREE], "db", "n0", V(300), 1)

    # -- reading without a lease

    def test_peek(self):
        self.assertEqual(self.peek(), ["miss"])
        self.assertIsNone(self.guard())
        self.get()
        self.assertEqual(self.peek(), ["miss"])
        self.fill(absent=1)
        self.assertEqual(self.peek(), ["miss"])
        self.r.set("forged", "x")
        self.assertEqual(self.peek("forged"), ["miss"])
        self.set("set")
        self.begin(arm=False)
        self.assertEqual(self.peek("set"), ["unarmed"])

    # -- what a guard says of tags

    def tags(self, key="k"):
        answer = self.fcall("mlc_peek", [key], "db", 1)
        self.assertEqual(answer[:5], self.peek(key))
        self.assertEqual(self.guard(key)["flags"], answer[5])
        return answer[5]

    def test_a_guard_tells_the_tags_of_a_set(self):
        self.set(indexes=(FREE, T, U))
        self.assertEqual(self.tags(), numbers("t", "u"))
        self.set(version=130, indexes=(FREE,))
        self.assertEqual(self.tags(), numbers())
        self.set(version=140, ttl=60000, indexes=(FREE, "mlc:tag:db:t:%7Ba%7D%25:ÿ", "mlc:tag:db:t:"))
        self.assertEqual(self.tags(), numbers("{a}%:ÿ", ""))
        self.assertTrue(0 < self.r.pttl("mlc:{k}") <= 60000)

    def test_a_guard_tells_the_tags_of_a_lease(self):
        self.get_tagged(indexes=(T, U))
        self.assertEqual(self.guard()["flags"], numbers("t", "u"))
        self.assertEqual(self.fill(), "ok")
        self.assertEqual(self.tags(), numbers("t", "u"))
        self.get_tagged("absent", indexes=(T,))
        self.assertEqual(self.fill("absent", absent=1), "ok")
        self.assertEqual(self.get_tagged("absent"), ["absent", V(100), V(110), V(100)])

    def test_a_guard_says_nothing_of_tags(self):
        self.cache()
        self.assertEqual(self.tags(), "")
        # nor where an index is no tag's
        self.get_tagged("other", indexes=(T, "mlc:tag:db:k:key"))
        self.assertEqual(self.fill("other"), "ok")
        self.assertEqual(self.tags("other"), "")
        # what is delivered has none
        self.set("rule")
        self.apply(("r", "rule", 130))
        self.assertEqual(self.guard("rule")["flags"], "")

    def test_a_guard_with_tags_vouches(self):
        self.set()
        hit = ["hit", "value", V(120), V(120), V(100)]
        self.assertEqual(self.get(), hit)
        self.assertEqual(self.get_tagged(), hit)
        self.assertEqual(self.fcall("mlc_mget", ["k", "none"], "t1", 1000, "db")[0], hit)
        self.assertEqual(self.tags(), numbers("t"))
        # nobody else's letters
        self.r.set("mlc:{k}", V(120) + "|" + V(120) + "||0abc||||")
        self.assertEqual(self.peek(), ["miss"])
        self.assertEqual(self.get()[0], "lease")

    # -- leases with tags

    def test_a_key_is_indexed_with_its_lease(self):
        now = self.now()
        self.assertEqual(self.get_tagged(indexes=(T, U), lease=5000, ttl=60000), ["lease", V(100), V(100)])
        self.assertEqual((self.members(T), self.members(U)), (["k"], ["k"]))
        self.assertTrue(now + 65000 <= self.r.zscore(T, "k") <= self.now() + 65000)
        self.assertEqual(self.fill(), "ok")
        self.assertEqual(self.get_tagged(), ["hit", "old", V(100), V(110), V(100)])

    def test_an_invalidation_takes_the_lease(self):
        self.get_tagged()
        self.assertEqual(self.untag(), 1)
        self.assertEqual(self.fill(), "refused")
        self.assertEqual(self.members(), [])

    def test_only_a_lease_enters(self):
        self.get(token="t2")
        self.assertEqual(self.get_tagged()[0], "busy")
        self.begin(arm=False)
        self.assertEqual(self.get_tagged("other"), ["unarmed"])
        self.assertEqual(self.members(), [])

    def test_a_longer_life_counts(self):
        self.get_tagged(ttl=60000, lease=1000)
        score = self.r.zscore(T, "k")
        self.get_tagged(ttl=10, lease=1000)
        self.assertEqual(self.r.zscore(T, "k"), score)
        self.get_tagged(ttl=0)
        self.assertEqual(self.r.zscore(T, "k"), float("inf"))

    def test_no_tags_where_the_index_may_be_evicted(self):
        self.r.config_set("maxmemory-policy", "allkeys-lru")
        try:
            self.load(self.r)           # the policy is looked at once a second
            self.begin()
            self.assertEqual(self.get_tagged(), ["unarmed"])
            self.assertEqual(self.set(), [0, 0, 1])
            self.assertIsNone(self.entry())
        finally:
            self.r.config_set("maxmemory-policy", "noeviction")

    # -- invalidating

    def test_untag(self):
        self.set("a", 120)
        self.set("b", 150, indexes=(FREE, T, U))
        self.set("c", 120, indexes=(FREE, U))
        self.get_tagged("leased")
        self.assertEqual(self.untag(version=150), 2)
        self.assertEqual([self.entry(k) for k in "abc"], [None, "value", "value"])
        self.assertIsNone(self.guard("a"))
        self.assertIsNone(self.guard("leased"))
        # what is no older than the version stays, and stays indexed
        self.assertEqual(self.members(), ["b"])
        self.assertEqual(self.untag(version=151), 1)
        self.assertEqual((self.entry("b"), self.members()), (None, []))
        self.assertEqual(self.r.exists(T), 0)

    def test_untag_goes_by_lo(self):
        self.cache(lo=100, hi=110)
        self.r.zadd(T, {"k": 1})
        self.assertEqual(self.untag(version=105), 1)
        self.assertIsNone(self.entry())

    def test_untag_goes_by_the_last_tags(self):
        self.set("a", 120)
        self.set("a", 130, indexes=(FREE, U))
        self.set("b", 120)
        self.set("b", 130, indexes=(FREE,))
        self.set("c", 120)
        self.set("c", 130, indexes=(FREE, U, T))
        self.assertEqual(self.untag(T, 200), 1)
        self.assertEqual([self.entry(k) for k in "abc"], ["value", "value", None])
        self.assertEqual((self.members(T), self.members(U)), ([], ["a", "c"]))
        self.assertEqual(self.untag(U, 200), 2)
        self.assertEqual([self.entry(k) for k in "ab"], [None, "value"])
        # so with leases
        self.get_tagged("d")
        self.untag(U)
        self.r.zadd(U, {"d": 1})
        self.assertEqual(self.untag(U), 0)
        self.assertEqual(self.fill("d"), "ok")

    def test_untag_of_who_says_nothing(self):
        self.cache("a")
        self.r.zadd(T, {"a": 1})
        self.assertEqual(self.untag(T), 1)
        self.set("b")
        self.assertEqual(self.untag(FREE), 1)
        self.assertEqual([self.entry(k) for k in "ab"], [None, None])

    def test_untag_leaves_marks(self):
        self.set()
        self.quarantine("o1", timeout=0)
        self.assertEqual(self.untag(), 1)
        self.assertEqual(list(self.marks()), ["o1"])

    def test_untag_in_steps(self):
        for i in range(1000):
            self.set("k%d" % i)
        self.assertEqual(self.untag(count=100), 1000)
        self.assertGreater(self.steps, 5)
        self.assertEqual(self.r.keys("k*"), [])

    def test_members_that_are_no_keys(self):
        self.r.zadd(T, {"a}b": 1, "mlc:x": 2, "": 3})
        self.assertEqual(self.untag(), 3)

    # -- what is dead

    def test_the_dead_leave(self):
        for i in range(50):
            self.set("k%d" % i, ttl=1)
        self.wait_past(self.now() + 1)
        for i in range(10):
            self.set("new%d" % i)
        self.assertEqual(self.members(), sorted("new%d" % i for i in range(10)))

    def test_the_dead_without_a_score_leave(self):
        for i in range(50):
            self.set("k%d" % i)
        self.fcall("mlc_apply", ["k%d" % i for i in range(50)], "db", "n1", "i", 0, V(130), *[""] * 50)
        for _ in range(200):
            self.fcall("mlc_tidy", [], "db", "0", 1000)
            if not self.r.exists(T):
                break
        self.assertEqual(self.r.exists(T, FREE), 0)

    def test_who_lives_longer_stays(self):
        self.set(ttl=60000)
        self.r.zadd(T, {"k": 1})        # as if its time had come
        self.set("lasting")
        self.r.zadd(T, {"lasting": 1})
        self.fcall("mlc_tidy", [], "db", "0", 1000)
        self.assertEqual(self.members(), ["k", "lasting"])
        self.assertGreater(self.r.zscore(T, "k"), self.now())
        self.assertEqual(self.r.zscore(T, "lasting"), float("inf"))

    def test_tidy_is_for_its_namespace(self):
        self.r.zadd("mlc:tag:other:t:t", {"dead": 1})
        self.r.zadd(T, {"dead": 1})
        self.assertEqual(self.fcall("mlc_tidy", [], "db", "0", 1000), ["0", 1])
        self.assertEqual(self.r.exists("mlc:tag:other:t:t"), 1)

    # -- patterns

    def test_purge_by_version(self):
        self.set("a", 120)
        self.set("b", 150)
        self.set("{t}a", 120)
        self.get("leased")
        for glob in ("mlc:{*}", "mlc:*"):
            self.fcall("mlc_purge", [], "db", "0", 1000, glob, V(150))
        self.assertEqual([self.entry(k) for k in ("a", "b", "{t}a")], [None, "value", None])
        self.assertIsNone(self.guard("leased"))
        self.assertEqual(self.r.exists(T), 1)
