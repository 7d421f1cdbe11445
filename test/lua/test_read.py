"""mlc_get and mlc_fill: leases and what they may do."""
from harness import LibraryTest, V


class Lease(LibraryTest):
    def test_miss_gives_a_lease(self):
        self.fcall("mlc_publish", [], "db", "n1", V(100), V(100), V(120))
        before = self.now()
        self.assertEqual(self.get(lease=5000), ["lease", V(100), V(120)])
        guard = self.guard()
        deadline = int(guard.pop("deadline"))
        self.assertEqual(guard, {"lo": "", "hi": "", "floor": "", "flags": "", "token": "t1",
                                 "nonce": "n1", "marks": ""})
        self.assertTrue(before + 5000 <= deadline <= self.now() + 5000)

    def test_a_lease_expires(self):
        self.get(lease=5000)
        self.assertTrue(4000 < self.r.pttl("mlc:{k}") <= 5000)

    def test_unarmed(self):
        self.cache()
        self.begin(arm=False)
        self.assertEqual(self.get(), ["unarmed"])
        self.assertEqual(self.get("miss"), ["unarmed"])
        self.assertIsNone(self.guard("miss"))

    def test_one_loader_a_key(self):
        self.get(lease=5000)
        answer, ms = self.get(token="t2")
        self.assertEqual(answer, "busy")
        self.assertTrue(0 < ms <= 5000)
        self.assertEqual(self.guard()["token"], "t1")

    def test_the_holder_may_ask_again(self):
        self.get()
        self.assertEqual(self.get()[0], "lease")
        self.assertEqual(self.fill(), "ok")

    def test_a_lease_past_its_deadline_goes_to_the_next(self):
        self.get()
        self.lease_over()
        self.assertEqual(self.get(token="t2")[0], "lease")
        self.assertEqual(self.fill(token="t1"), "refused")
        self.assertEqual(self.fill(token="t2"), "ok")

    def test_leases_end_by_themselves(self):
        self.get(lease=1)
        self.wait_past(self.now() + 1)
        self.assertEqual(self.get(token="t2")[0], "lease")
        self.assertEqual(self.fill(token="t1"), "refused")

    def test_a_lease_of_another_arming_goes_to_the_next(self):
        self.get()
        self.begin(nonce="n2")
        self.assertEqual(self.get(token="t2")[0], "lease")


class Stale(LibraryTest):
    def keep(self, key="k", ms=60000):
        return self.fcall("mlc_keep", [key], "db", ms)

    def ask(self, key="k", token="t2", *flag):
        answer = self.get(key, token, 60000, "db", *flag)
        return answer[:1] + answer[2:] if answer[0] == "busy" else answer

    def removed(self, key="k", **kw):
        self.cache(key, **kw)
        self.assertEqual(self.keep(key), 1)
        self.r.unlink(key, "mlc:{%s}" % key)
        self.assertEqual(self.get(key, "t1")[0], "lease")

    def test_while_somebody_loads(self):
        self.removed()
        self.assertEqual(self.ask("k", "t2", 1), ["busy", "old"])
        self.assertEqual(self.ask("k", "t2", 0), ["busy"])
        self.assertEqual(self.ask("k", "t2"), ["busy"])
        self.assertEqual(self.ask("k", "t1", 1)[0], "lease")
        self.fill(payload="new")
        self.assertEqual(self.ask("k", "t2", 1)[:2], ["hit", "new"])

    def test_nothing_was_kept(self):
        self.get()
        self.assertEqual(self.ask("k", "t2", 1), ["busy"])

    def test_for_a_while(self):
        self.cache()
        self.keep(ms=5000)
        self.assertTrue(4000 < self.r.pttl("mlc:mlc:{k}") <= 5000)

    def test_the_youngest_copy_is_kept(self):
        self.removed()
        self.fill(payload="new")
        self.keep()
        self.r.unlink("k", "mlc:{k}")
        self.get("k", "t1")
        self.assertEqual(self.ask("k", "t2", 1), ["busy", "new"])

    def test_only_what_is_vouched_for(self):
        self.r.set("k", "forged")
        self.assertEqual(self.keep(), 0)
        self.get("lease")
        self.r.set("lease", "forged")
        self.assertEqual(self.keep("lease"), 0)
        self.cache("absent", "", absent=1)
        self.assertEqual(self.keep("absent"), 0)
        self.assertEqual(self.keep("nothing"), 0)
        self.assertEqual(self.r.keys("mlc:mlc:*"), [])

    def test_not_under_quarantine(self):
        self.cache()
        self.keep()
        self.quarantine("o1")
        self.assertEqual(self.ask("k", "t2", 1), ["quarantined"])

    def test_a_copy_is_no_guard(self):
        self.cache(payload="|||||||o1=0")
        self.keep()
        self.assertEqual(self.fcall("mlc_sweep", [], "db", 0, 1000)[2], [])

    def test_purged(self):
        self.cache()
        self.keep()
        self.fcall("mlc_purge", [], "db", 0, 1000, "k")
        self.assertEqual(self.r.keys("*mlc:{k}"), [])

    def test_many(self):
        self.removed("a", payload="A")
        self.get("b")
        self.cache("c", "C")
        found = self.fcall("mlc_mget", ["a", "b", "c"], "t2", 60000, "db", 1)
        self.assertEqual([found[0][0], found[0][2], len(found[1]), found[2][:2]],
                         ["busy", "A", 2, ["hit", "C"]])


class ManyKeys(LibraryTest):
    KEYS = ["hit", "{tag}:hit", "absent", "busy", "marked", "forged", "free"]

    def scene(self):
        self.cache("hit")
        self.cache("{tag}:hit", "tagged")
        self.cache("absent", "", absent=1)
        self.get("busy", token="other")
        self.quarantine("o1", "marked")
        self.r.set("forged", "x")

    def mget(self, keys, *args):
        return self.fcall("mlc_mget", keys, *(args or ("t1", 60000, "db")))

    def without_time(self, answers):
        return [answer[:1] if answer[0] == "busy" else answer for answer in answers]

    def test_each_is_told_what_mlc_get_tells(self):
        self.scene()
        one = self.without_time([self.get(key) for key in self.KEYS])
        self.setUp()
        self.scene()
        self.assertEqual(self.without_time(self.mget(self.KEYS)), one)
        self.assertEqual(one[0][:2], ["hit", "old"])
        self.assertIsNone(self.entry("forged"))
        self.assertEqual(self.fill("free"), "ok")

    def test_a_key_twice(self):
        self.assertEqual([a[0] for a in self.mget(["k", "k"])], ["lease", "lease"])
        self.assertEqual(self.fill(), "ok")

    def test_unarmed(self):
        self.cache("hit")
        self.begin(arm=False)
        self.assertEqual(self.mget(["hit", "miss"]), [["unarmed"], ["unarmed"]])
        self.assertIsNone(self.guard("miss"))

    def test_arguments(self):
        self.refuses("MLCARG", "mlc_mget", [], "t1", 1000, "db")
        self.refuses("MLCARG", "mlc_mget", ["k"], "t1", 1000)
        self.refuses("MLCARG", "mlc_mget", ["k", "mlc:x"], "t1", 1000, "db")
        self.refuses("MLCARG", "mlc_mget", ["k"], "t 1", 1000, "db")
        self.refuses("MLCARG", "mlc_mget", ["k"], "t1", 0, "db")


class Fill(LibraryTest):
    def test_fill(self):
        self.cache(payload="a|b\0c\n\xff", lo=100, hi=110)
        self.assertEqual(self.entry(), "a|b\0c\n\xff")
        self.assertEqual(self.guard(), {"lo": V(100), "hi": V(110), "floor": "", "flags": "",
                                        "token": "", "deadline": "", "nonce": "", "marks": ""})
        self.assertEqual([self.r.pttl("k"), self.r.pttl("mlc:{k}")], [-1, -1])
        self.fcall("mlc_publish", [], "db", "n1", V(100), V(105), V(120))
        self.assertEqual(self.get(token="t2"), ["hit", "a|b\0c\n\xff", V(100), V(110), V(105)])

    def test_time_to_live(self):
        self.cache(ttl=5000)
        for key in ("k", "mlc:{k}"):
            self.assertTrue(4000 < self.r.pttl(key) <= 5000, key)
        self.assertEqual(self.r.execute_command("PEXPIRETIME", "k"),
                         self.r.execute_command("PEXPIRETIME", "mlc:{k}"))

    def test_absent(self):
        self.cache(absent=1, ttl=5000)
        self.assertIsNone(self.entry())
        self.assertEqual(self.guard()["flags"], "A")
        self.assertTrue(4000 < self.r.pttl("mlc:{k}") <= 5000)
        self.assertEqual(self.get(token="t2"), ["absent", V(100), V(110), V(100)])

    def test_empty_payload(self):
        self.cache(payload="")
        self.assertEqual(self.get(token="t2")[:2], ["hit", ""])

    def refused(self, **kw):
        before = self.dump()
        self.assertEqual(self.fill(**kw), "refused")
        self.assertEqual(self.dump(), before)

    def test_without_a_lease(self):
        self.refused()

    def test_with_another_token(self):
        self.get()
        self.refused(token="t2")

    def test_twice(self):
        self.cache()
        self.refused(payload="again")

    def test_past_the_deadline(self):
        self.get()
        self.lease_over()
        self.refused()

    def test_after_an_invalidation(self):
        self.get()
        self.fcall("mlc_invalidate", ["k"], "db", "")
        self.refused()

    def test_after_a_late_invalidation(self):
        """A lease that came after the invalidation is another one."""
        self.get()
        self.fcall("mlc_invalidate", ["k"], "db", "")
        self.get(token="t2")
        self.refused(token="t1")
        self.assertEqual(self.fill(token="t2"), "ok")

    def test_after_each_op(self):
        for op in "uri":
            for version in (50, 120):
                with self.subTest(op=op, version=version):
                    self.r.delete("k", "mlc:{k}")
                    self.get()
                    self.apply((op, "k", version))
                    self.refused()

    def test_while_quarantined(self):
        self.get()
        self.quarantine("o1")
        self.refused()

    def test_after_a_quarantine(self):
        self.get()
        self.quarantine("o1")
        self.release("o1")
        self.refused()

    def test_while_quarantined_with_a_lease_in_the_guard(self):
        """No function writes such a guard; the check must hold all the same."""
        self.get()
        text = self.r.get("mlc:{k}").decode()
        self.r.set("mlc:{k}", text + "o1=0")
        self.refused()

    def test_unarmed(self):
        self.get()
        self.begin(arm=False)
        self.refused()
        self.refused(ns="db")

    def test_armed_anew(self):
        self.get()
        self.begin(nonce="n2")
        self.refused()

    def test_applied_lost(self):
        self.get()
        self.r.hdel("mlc:state:db", "applied")
        self.refused()

    def test_another_timeline(self):
        self.get()
        self.assertEqual(self.fcall("mlc_fill", ["k"], "t1", "x", 0, V(100), V(1, 2), 0), "refused")
        self.assertEqual(self.fcall("mlc_fill", ["k"], "t1", "x", 0, V(1, 0), V(2, 0), 0), "refused")
        self.assertIsNone(self.entry())

    def test_a_server_behind(self):
        """A deposed primary's insert position may lie before applied."""
        self.get()
        self.refused(lo=100, hi=99)

    def test_lo_beyond_applied(self):
        self.get()
        self.refuses("MLCARG", "mlc_fill", ["k"], "t1", "x", 0, V(101), V(110), 0)

    def test_lo_may_lie_behind_applied(self):
        self.get()
        self.fcall("mlc_publish", [], "db", "n1", V(100), V(120), V(120))
        self.assertEqual(self.fill(lo=100, hi=130), "ok")


class BehindOurBack(LibraryTest):
    """Others write to Redis, too."""

    def test_entry_without_guard(self):
        self.r.set("k", "unguarded")
        self.assertEqual(self.get()[0], "lease")
        self.assertIsNone(self.entry())
        self.assertEqual(self.fill(), "ok")

    def test_entry_with_a_lease(self):
        self.get()
        self.r.set("k", "unguarded")
        self.assertEqual(self.get(token="t2")[0], "busy")
        self.assertIsNone(self.entry())

    def test_entry_with_marks(self):
        self.quarantine("o1")
        self.r.set("k", "unguarded")
        self.assertEqual(self.get(), ["quarantined"])
        self.assertIsNone(self.entry())

    def test_entry_where_there_is_no_row(self):
        self.cache(absent=1)
        self.r.set("k", "unguarded")
        self.assertEqual(self.get()[0], "lease")
        self.assertIsNone(self.entry())

    def test_guard_without_entry(self):
        self.cache()
        self.r.delete("k")
        self.assertEqual(self.get(token="t2")[0], "lease")
        self.assertEqual(self.fill(token="t2"), "ok")

    def test_malformed_guards(self):
        for text in ("", "x", "|" * 7, "|" * 8, V(1), V(100) + "|" + V(1)[1:] + "||||||",
                     V(100) + "||||||||", "0|0||||||", "||ab|||||o1=0", "z" * 55,
                     V(0xab).upper() + "|" + V(0xab) + "||||||"):
            with self.subTest(text=text):
                for op in ("u", "r"):
                    self.r.delete("k", "mlc:{k}")
                    self.r.set("k", "unguarded")
                    self.r.set("mlc:{k}", text)
                    self.apply((op, "k", 120))
                    self.assertIn(self.entry(), (None, "new"))
                self.r.set("k", "unguarded")
                self.r.set("mlc:{k}", text)
                self.quarantine("o1")
                self.assertEqual(list(self.marks()), ["o1"])
                self.release("o1", 130, "v130")
                self.assertEqual(self.entry(), "v130" if len(text) == 55 else None)
                self.r.set("k", "unguarded")
                self.r.set("mlc:{k}", text)
                self.assertEqual(self.get()[0], "lease" if len(text) != 55 else "hit", text)

    def test_other_types(self):
        self.r.hset("k", "f", "v")
        self.assertEqual(self.get()[0], "lease")
        self.assertEqual(self.fill(), "ok")
        self.assertEqual(self.get(token="t2")[:2], ["hit", "old"])
        self.r.delete("mlc:{k}")
        self.r.hset("mlc:{k}", "f", "v")
        self.assertEqual(self.fill(), "refused")
        self.assertEqual(self.get()[0], "lease")
        self.assertIsNone(self.entry())

    def test_flush(self):
        self.cache()
        self.r.flushall()
        self.assertEqual(self.get(), ["unarmed"])
        self.assertEqual(self.fill(), "refused")
