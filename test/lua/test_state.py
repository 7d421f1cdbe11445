"""The state of a namespace: histories, arming, publication."""
from harness import LibraryTest, V


class State(LibraryTest):
    def state(self, ns="db"):
        return self.fcall("mlc_state", [], ns)

    def test_version(self):
        self.assertGreaterEqual(self.r.execute_command("FCALL_RO", "mlc_version", 0), 1000)

    def test_unknown_namespace(self):
        self.assertEqual(self.state("other"), ["", "", "", "", 0])
        self.assertEqual(self.get("k", "t1", 100, "other"), ["unarmed"])

    def test_state_can_be_read_only(self):
        self.assertEqual(self.r.execute_command("FCALL_RO", "mlc_state", 0, "db")[4], 1)

    def test_begin(self):
        self.assertEqual(self.state(), ["sys", V(100), V(100), "n1", 1])
        self.begin(200, nonce="n2", arm=False)
        self.assertEqual(self.state(), ["sys", V(200), V(200), "n2", 0])

    def test_begin_with_the_same_nonce_disarms(self):
        self.begin(200, arm=False)
        self.assertEqual(self.state()[4], 0)
        self.assertEqual(self.get(), ["unarmed"])

    def test_arm_wants_the_nonce(self):
        self.begin(arm=False)
        self.refuses("MLCNONCE", "mlc_arm", [], "db", "other")
        self.refuses("MLCNONCE", "mlc_arm", [], "nowhere", "n1")
        self.assertEqual(self.get(), ["unarmed"])

    def test_arm_wants_applied(self):
        self.fcall("mlc_disarm", [], "db", "n2", "sys")
        self.refuses("MLCNONCE", "mlc_arm", [], "db", "n2")

    def test_templates(self):
        def known(only, *more):
            return sorted(self.fcall("mlc_templates", [], "db", only, *more))

        self.assertEqual(known(0, "a:{id}", "b:{id}"), [])
        self.assertEqual(known(0, "b:{id}"), ["a:{id}", "b:{id}"])
        self.fcall("mlc_disarm", [], "db", "n2", "sys")
        self.fcall("mlc_begin", [], "db", "n2", "sys", V(1))
        self.assertEqual(known(1, "c:{id}"), ["a:{id}", "b:{id}"])
        self.assertEqual(known(0), ["c:{id}"])
        self.assertEqual(self.fcall("mlc_templates", [], "other", 0), [])
        self.refuses("MLCARG", "mlc_templates", [], "db")
        self.refuses("MLCARG", "mlc_templates", [], "db", "x")
        self.refuses("MLCARG", "mlc_templates", ["k"], "db", 0)

    def test_disarm(self):
        self.cache()
        self.fcall("mlc_disarm", [], "db", "n2", "other")
        self.assertEqual(self.state(), ["other", "", "", "n2", 0])
        self.assertEqual(self.get(), ["unarmed"])

    def test_disarm_with_the_same_nonce(self):
        self.fcall("mlc_disarm", [], "db", "n1", "sys")
        self.assertEqual(self.get(), ["unarmed"])

    def test_applied_missing_means_unarmed(self):
        self.r.hdel("mlc:state:db", "applied")
        self.assertEqual(self.state()[4], 0)
        self.assertEqual(self.get(), ["unarmed"])

    def test_armed(self):
        self.assertEqual(self.fcall("mlc_armed", [], "db"), "n1")
        self.assertEqual(self.fcall("mlc_armed", [], "other"), "")
        self.begin(nonce="n2", arm=False)
        self.assertEqual(self.fcall("mlc_armed", [], "db"), "")

    def test_adopt(self):
        self.assertEqual(self.fcall("mlc_adopt", [], "db", "n1", "n2"), 1)
        self.assertEqual(self.state(), ["sys", V(100), V(100), "n2", 1])
        self.assertEqual(self.get()[0], "lease")

    def test_adopt_wants_the_old_nonce(self):
        self.assertEqual(self.fcall("mlc_adopt", [], "db", "n0", "n2"), 0)
        self.assertEqual(self.state(), ["sys", V(100), V(100), "n1", 1])

    def test_adopt_wants_an_armed_server(self):
        self.begin(arm=False)
        self.assertEqual(self.fcall("mlc_adopt", [], "db", "n1", "n2"), 0)
        self.assertEqual(self.state(), ["sys", V(100), V(100), "n1", 0])

    def test_adopt_shuts_the_predecessor_out(self):
        self.cache()
        self.get("other")
        self.fcall("mlc_adopt", [], "db", "n1", "n2")
        self.refuses("MLCNONCE", "mlc_apply", ["k"], "db", "n1", "u", 0, V(120), "x")
        self.refuses("MLCNONCE", "mlc_publish", [], "db", "n1", V(100), V(100), V(120))
        self.assertEqual(self.fill("other"), "refused")

    def publish(self, expect, applied, applying, nonce="n1"):
        return self.fcall("mlc_publish", [], "db", nonce, V(expect), V(applied), V(applying))

    def test_publish(self):
        self.assertEqual(self.publish(100, 100, 120), 1)
        self.assertEqual(self.state()[1:3], [V(100), V(120)])
        self.assertEqual(self.publish(120, 120, 120), 1)
        self.assertEqual(self.state()[1:3], [V(120), V(120)])

    def test_publish_says_whether_armed(self):
        self.begin(arm=False)
        self.assertEqual(self.publish(100, 100, 120), 0)

    def test_publish_compares(self):
        self.publish(100, 100, 120)
        self.refuses("MLCCAS", "mlc_publish", [], "db", "n1", V(100), V(120), V(120))
        self.refuses("MLCCAS", "mlc_publish", [], "db", "n1", V(121), V(121), V(121))

    def test_publish_wants_the_nonce(self):
        self.refuses("MLCNONCE", "mlc_publish", [], "db", "n0", V(100), V(100), V(120))
        self.refuses("MLCNONCE", "mlc_publish", [], "nowhere", "n1", V(100), V(100), V(120))

    def test_publish_never_decreases(self):
        self.publish(100, 110, 120)
        self.refuses("MLCCAS", "mlc_publish", [], "db", "n1", V(120), V(109), V(120))
        self.refuses("MLCCAS", "mlc_publish", [], "db", "n1", V(120), V(110), V(119))
        self.assertEqual(self.state()[1:3], [V(110), V(120)])

    def test_publish_orders_its_bounds(self):
        self.refuses("MLCARG", "mlc_publish", [], "db", "n1", V(100), V(121), V(120))

    def test_publish_compares_timelines_first(self):
        self.fcall("mlc_publish", [], "db", "n1", V(100), V(100), V(5, 2))
        self.refuses("MLCCAS", "mlc_publish", [], "db", "n1", V(5, 2), V(100), V(999, 1))

    def test_publish_after_disarm(self):
        self.fcall("mlc_disarm", [], "db", "n2", "sys")
        self.refuses("MLCCAS", "mlc_publish", [], "db", "n2", V(100), V(100), V(120))


class Namespaces(LibraryTest):
    def test_the_only_armed_one_needs_no_name(self):
        self.begin(ns="idle", arm=False)
        self.assertEqual(self.get()[0], "lease")

    def test_several_armed_need_a_name(self):
        self.begin(500, ns="db2", nonce="m1")
        self.refuses("MLCNS", "mlc_get", ["k"], "t1", 1000)
        self.refuses("MLCNS", "mlc_fill", ["k"], "t1", "x", 0, V(100), V(100), 0)
        self.assertEqual(self.get("k", "t1", 1000, "db"), ["lease", V(100), V(100)])
        self.assertEqual(self.fill(ns="db"), "ok")
        self.assertEqual(self.get("j", "t1", 1000, "db2"), ["lease", V(500), V(500)])

    def test_a_forgotten_one_does_not_count(self):
        self.begin(ns="db2", nonce="m1")
        self.r.delete("mlc:state:db2")
        self.assertEqual(self.get()[0], "lease")

    def test_leases_are_of_their_namespace(self):
        self.begin(100, ns="db2", nonce="m1")
        self.get("k", "t1", 1000, "db")
        self.assertEqual(self.fill(ns="db2"), "refused")

    def test_databases_of_one_server(self):
        """Armed is the process, the state is the database's."""
        self.r.execute_command("SELECT", 1)
        try:
            self.assertEqual(self.get(), ["unarmed"])
        finally:
            self.r.execute_command("SELECT", 0)


class Arguments(LibraryTest):
    def test_names(self):
        for bad in ("", "a b", "x" * 65, "a|b", "a=b", "a,b"):
            self.refuses("MLCARG", "mlc_begin", [], bad, "n1", "sys", V(1))
            self.refuses("MLCARG", "mlc_begin", [], "db", bad, "sys", V(1))
            self.refuses("MLCARG", "mlc_begin", [], "db", "n1", bad, V(1))
            self.refuses("MLCARG", "mlc_disarm", [], "db", bad, "sys")
            self.refuses("MLCARG", "mlc_adopt", [], "db", "n1", bad)
            self.refuses("MLCARG", "mlc_quarantine", ["k"], "db", "", bad, 0)
            self.refuses("MLCARG", "mlc_release", ["k"], "db", bad, "", 0)
            if bad:
                self.refuses("MLCARG", "mlc_invalidate", ["k"], "db", bad)

    def test_tokens(self):
        for bad in ("", "a:b", "x" * 65, "t|", "t\n"):
            self.refuses("MLCARG", "mlc_get", ["k"], bad, 1000)
            self.refuses("MLCARG", "mlc_fill", ["k"], bad, "x", 0, V(100), V(100), 0)
        self.assertEqual(self.get("k", "aZ09_-" + "x" * 58)[0], "lease")

    def test_versions(self):
        good = V(120)
        for bad in ("", good[1:], good + "0", good.replace("0", "x", 1), V(0xab).upper(),
                    "-" + good[1:]):
            self.refuses("MLCARG", "mlc_begin", [], "db", "n1", "sys", bad)
            self.refuses("MLCARG", "mlc_publish", [], "db", "n1", bad, good, good)
            self.refuses("MLCARG", "mlc_publish", [], "db", "n1", V(100), bad, good)
            self.refuses("MLCARG", "mlc_publish", [], "db", "n1", V(100), good, bad)
            self.refuses("MLCARG", "mlc_fill", ["k"], "t", "x", 0, bad, good, 0)
            self.refuses("MLCARG", "mlc_fill", ["k"], "t", "x", 0, good, bad, 0)
            self.refuses("MLCARG", "mlc_apply", ["k"], "db", "n1", "u", 0, bad, "x")
            if bad:
                self.refuses("MLCARG", "mlc_release", ["k"], "db", "o", bad, 0)

    def test_versions_of_the_fast_path(self):
        """An update of a plain entry is settled without a second look."""
        self.cache("a")
        self.cache("b")
        good = V(120)
        for bad in (V(0xabc).upper(), good[:-1] + "g"):
            for versions in (bad, good + bad):
                self.refuses("MLCARG", "mlc_apply", ["a", "b"], "db", "n1", "u", 0, versions, "x", "x")
        self.refuses("MLCARG", "mlc_apply", ["a", "b"], "db", "n1", "u", 0, good * 3, "x", "x")

    def test_times(self):
        for bad in ("", "-1", "1.5", "x", "9" * 16, "1e3", " 1"):
            self.refuses("MLCARG", "mlc_get", ["k"], "t", bad)
            self.refuses("MLCARG", "mlc_fill", ["k"], "t", "x", bad, V(100), V(100), 0)
            self.refuses("MLCARG", "mlc_apply", ["k"], "db", "n1", "u", bad, V(120), "x")
            self.refuses("MLCARG", "mlc_quarantine", ["k"], "db", "", "o", bad)
            self.refuses("MLCARG", "mlc_release", ["k"], "db", "o", V(1), 0, bad or "-", "x")
        self.refuses("MLCARG", "mlc_get", ["k"], "t", 0)

    def test_flags(self):
        for bad in ("", "2", "yes"):
            self.refuses("MLCARG", "mlc_fill", ["k"], "t", "x", 0, V(100), V(100), bad)
            self.refuses("MLCARG", "mlc_release", ["k"], "db", "o", V(1), bad)
            self.refuses("MLCARG", "mlc_quarantine", ["k"], "db", "", "o", 0, bad)

    def test_ops(self):
        for bad in ("", "x", "U", "uu"):
            self.refuses("MLCARG", "mlc_apply", ["k"], "db", "n1", bad, 0, V(120), "x")

    def test_counts(self):
        calls = {"mlc_state": (0, 1), "mlc_disarm": (0, 3), "mlc_begin": (0, 4),
                 "mlc_arm": (0, 2), "mlc_adopt": (0, 3), "mlc_publish": (0, 5),
                 "mlc_sweep": (0, 3), "mlc_purge": (0, 4), "mlc_get": (1, 2),
                 "mlc_fill": (1, 6), "mlc_invalidate": (1, 2), "mlc_quarantine": (1, 4),
                 "mlc_release": (1, 4), "mlc_apply": (1, 6)}
        for function, (keys, args) in calls.items():
            self.refuses("MLCARG", function, ["k"] * keys, *["db"] * (args - 1))
            self.refuses("MLCARG", function, ["k"] * keys, *["db"] * (args + 2))
            self.refuses("MLCARG", function, ["k"] * (1 - keys), *["db"] * args)
        for function in ("mlc_get", "mlc_fill"):
            keys, args = calls[function]
            self.refuses("MLCARG", function, ["a", "b"], *["db"] * args)

    def test_scan_arguments(self):
        for cursor, count in (("x", 10), ("-1", 10), ("", 10), (0, 0), (0, 1001), (0, "x")):
            self.refuses("MLCARG", "mlc_sweep", [], "db", cursor, count)
            self.refuses("MLCARG", "mlc_purge", [], "db", cursor, count, "k*")

    def test_keys(self):
        for bad in ("", "mlc:k", "mlc:{k}", "mlc:state:db", "a}b", "{}a", "a{}b{x}",
                    "{whole}", "{who{le}", "state:{x}"):
            for keys in ([bad], ["fine", bad]):
                n = len(keys)
                if n == 1:
                    self.refuses("MLCARG", "mlc_get", keys, "t", 1000)
                    self.refuses("MLCARG", "mlc_fill", keys, "t", "x", 0, V(100), V(100), 0)
                self.refuses("MLCARG", "mlc_apply", keys, "db", "n1",
                             "r", 0, V(120), *["x"] * n)
                self.refuses("MLCARG", "mlc_invalidate", keys, "db", "")
                self.refuses("MLCARG", "mlc_quarantine", keys, "db", "", "o", 0)
                self.refuses("MLCARG", "mlc_release", keys, "db", "o", V(120), 0, *[0, "x"] * n)

    def test_guards_of_all_kinds_of_keys(self):
        for key, guard in (("product:42", "mlc:{product:42}"), ("mlc", "mlc:{mlc}"),
                           ("mlcx:1", "mlc:{mlcx:1}"), ("m", "mlc:{m}"), ("a\nb", "mlc:{a\nb}"),
                           ("\n", "mlc:{\n}"), ("x\nmlc:y", "mlc:{x\nmlc:y}"),
                           ("a{b", "mlc:{a{b}"), ("a{b}c", "mlc:a{b}c"), ("{b}c", "mlc:{b}c"),
                           ("a{b}", "mlc:a{b}"), ("{b}{}", "mlc:{b}{}"), ("state:1", "mlc:{state:1}"),
                           ("k" * 60000, "mlc:{" + "k" * 60000 + "}"), ("\0\xff", "mlc:{\0\xff}")):
            self.assertEqual(self.get(key)[0], "lease", key)
            self.assertEqual(self.r.exists(guard), 1, key)
            slot = self.server_slot(key)
            self.assertEqual(slot, self.server_slot(guard), key)
            self.assertEqual(self.apply(("r", key, 120, "x")), [1, 0, 0])
            self.assertEqual(self.entry(key), "x")
            self.assertEqual(self.fcall("mlc_invalidate", [key], "db", ""), 1)
            self.assertEqual(self.r.exists(guard), 0, key)

    @staticmethod
    def server_slot(key):
        from redis.crc import key_slot
        return key_slot(key.encode())
