"""mlc_sweep and mlc_purge."""
from harness import LibraryTest, V


class Scans(LibraryTest):
    def scan(self, function, *args):
        """All steps of a scan, as a list of their answers."""
        cursor, answers = "0", []
        while True:
            answer = self.fcall(function, [], "db", cursor, 10, *args)
            answers.append(answer[1:])
            cursor = answer[0]
            if cursor == "0":
                return answers

    def test_sweep(self):
        for i in range(200):
            self.quarantine("o1", "over%d" % i)
            self.mark_over("o1", "over%d" % i)
            self.quarantine("o1", "both%d" % i)
            self.quarantine("o2", "both%d" % i)
            self.mark_over("o1", "both%d" % i)
            self.cache("entry%d" % i)
            self.get("lease%d" % i)
        self.quarantine("o3", "a{b}c", timeout=0)
        self.quarantine("o4", "plain", timeout=0)
        untouched = {k: v for k, v in self.dump().items() if b"over" not in k and b"both" not in k}

        answers = self.scan("mlc_sweep")
        self.assertGreater(len(answers), 1)
        self.assertEqual(sum(a[0] for a in answers), 400)
        endless = sum((a[1] for a in answers), [])
        self.assertEqual(set(zip(endless[::2], endless[1::2])), {("a{b}c", "o3"), ("plain", "o4")})
        self.assertEqual(self.r.keys("mlc:{over*"), [])
        for i in range(200):
            self.assertEqual(list(self.marks("both%d" % i)), ["o2"])
            self.assertEqual(self.guard("both%d" % i)["flags"], "T")
        after = self.dump()
        self.assertEqual({k: after.get(k) for k in untouched}, untouched)

    def test_sweep_leaves_what_is_not_ours(self):
        self.r.set("mlc:events", "x")
        self.r.hset("mlc:{h}", "f", "v")
        self.r.set("mlc:{malformed}", "||||||||o1=1")
        self.r.set("mlc:state:{x}", "x")
        before = self.dump()
        self.scan("mlc_sweep")
        self.assertEqual(self.dump(), before)

    def test_what_sweep_reports_can_be_ended(self):
        self.quarantine("gone", timeout=0)
        self.assertEqual(self.scan("mlc_sweep")[-1][1], ["k", "gone"])
        self.fcall("mlc_invalidate", ["k"], "db", "gone")
        self.assertEqual(self.get()[0], "lease")

    def test_purge_entries(self):
        for i in range(300):
            self.cache("product:%d" % i)
        self.cache("order:1")
        self.r.set("product:unguarded", "x")
        self.assertEqual(sum(a[0] for a in self.scan("mlc_purge", "product:*")), 301)
        self.assertEqual(sorted(self.r.keys("*")),
                         [b"mlc:state:db", b"mlc:{order:1}", b"order:1"])

    def test_purge_guards(self):
        """Leases and absences have no entry."""
        for i in range(100):
            self.get("product:%d" % i)
            self.cache("product:a%d" % i, absent=1)
            self.cache("product:{t}%d" % i)
        self.scan("mlc_purge", "mlc:*product:*")
        self.assertEqual(self.r.keys("*"), [b"mlc:state:db"])
        self.assertEqual(self.fill("product:1"), "refused")

    def test_purge_keeps_marks(self):
        self.quarantine("o1", "product:1", timeout=0)
        self.scan("mlc_purge", "mlc:*product:*")
        self.scan("mlc_purge", "product:*")
        self.assertEqual(self.marks("product:1"), {"o1": 0})

    def test_purge_leaves_what_is_not_ours(self):
        self.r.set("mlc:events", "x")
        self.r.set("mlc:state:{x}", "x")
        self.r.set("a}b", "x")
        before = self.dump()
        self.scan("mlc_purge", "*")
        self.assertEqual(self.dump(), before)
