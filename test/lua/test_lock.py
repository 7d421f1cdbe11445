"""Locks: mlc_lock, mlc_unlock, mlc_renew, mlc_holders, and the wait-for graph."""
import time

from harness import LibraryTest


class Lock(LibraryTest):
    def lock(self, name, owner, mode="X", ttl=60000, wait=0, *serial):
        answer = self.fcall("mlc_lock", [], "db", name, owner, mode, ttl, wait, *serial)
        return answer[0]

    def unlock(self, name, owner, *serial):
        return self.fcall("mlc_unlock", [], "db", name, owner, *serial)

    def renew(self, name, owner, ttl=60000, *serial):
        return self.fcall("mlc_renew", [], "db", name, owner, ttl, *serial)

    def wait(self, name, owner, mode="X"):
        return self.fcall("mlc_lock_wait", [], "db", name, owner, mode, 60000)[0]

    def test_exclusive(self):
        self.assertEqual(self.lock("a", "o1"), "ok")
        self.assertEqual(self.lock("a", "o1"), "ok")
        self.assertEqual(self.lock("a", "o2"), "busy")
        self.assertEqual(self.lock("a", "o2", "S"), "busy")
        self.assertEqual(self.unlock("a", "o2"), 0)
        self.assertEqual(self.unlock("a", "o1"), 1)
        self.assertEqual(self.unlock("a", "o1"), 0)
        self.assertEqual(self.lock("a", "o2"), "ok")
        self.assertEqual(self.lock("b", "o1"), "ok")

    def test_shared(self):
        self.assertEqual(self.lock("a", "o1", "S"), "ok")
        self.assertEqual(self.lock("a", "o2", "S"), "ok")
        self.assertEqual(self.lock("a", "o3"), "busy")
        self.assertEqual(self.lock("a", "o1"), "busy")
        self.unlock("a", "o2")
        self.assertEqual(self.lock("a", "o1"), "ok")
        self.assertEqual(self.lock("a", "o2", "S"), "busy")

    def test_paths(self):
        self.assertEqual(self.lock("a:b:c", "o1"), "ok")
        for path in ("a", "a:b"):
            self.assertEqual(self.lock(path, "o2"), "busy", path)
            self.assertEqual(self.lock(path, "o2", "S"), "busy", path)
        self.assertEqual(self.lock("a:b:d", "o2"), "ok")
        self.assertEqual(self.lock("ab", "o2"), "ok")
        self.unlock("a:b:c", "o1")
        self.unlock("a:b:d", "o2")
        self.assertEqual(self.lock("a", "o2", "S"), "ok")
        self.assertEqual(self.lock("a:b", "o1", "S"), "ok")
        self.assertEqual(self.lock("a:b", "o1"), "busy")
        self.assertEqual(self.lock("a", "o3"), "busy")
        self.unlock("a", "o2")
        self.assertEqual(self.lock("a", "o3", "S"), "ok")
        self.unlock("a", "o3")
        self.unlock("a:b", "o1")
        self.assertEqual(self.lock("a", "o3"), "ok")
        self.assertEqual(self.lock("a:b", "o1", "S"), "busy")

    def test_expiry(self):
        self.assertEqual(self.lock("a", "o1", "X", 60000), "ok")
        self.assertEqual(self.lock("x", "o1", "S", 60), "ok")
        self.assertEqual(self.lock("x", "o2", "S", 60000), "ok")
        time.sleep(0.1)
        self.assertEqual(self.renew("x", "o1"), 0)
        self.assertEqual(self.lock("x", "o2", "X", 60), "ok")
        self.assertEqual(self.lock("y:1", "o1", "X", 60), "ok")
        time.sleep(0.1)
        self.assertEqual(self.lock("y", "o2"), "ok")
        self.assertEqual(self.r.exists("mlc:intent:db|y"), 0)

    def test_lost(self):
        self.lock("a", "o1")
        self.assertEqual(self.renew("a", "o1"), 1)
        self.r.delete("mlc:lock:db|a")
        self.assertEqual(self.renew("a", "o1"), 0)
        self.assertEqual(self.lock("a", "o2"), "ok")
        self.assertEqual(self.renew("a", "o1"), 0)

    def test_sessions_take_over(self):
        self.assertEqual(self.lock("a", "pg-1", "X", 60000, 0, 1), "ok")
        self.assertEqual(self.lock("a", "pg-2", "X", 60000, 0, 1), "ok")
        self.assertEqual(self.lock("a", "o1"), "busy")
        self.unlock("a", "pg-1", 1)
        self.assertEqual(self.lock("a", "o1"), "busy")
        self.unlock("a", "pg-2", 1)
        self.assertEqual(self.lock("a", "o1"), "ok")
        self.assertEqual(self.lock("a", "pg-2", "X", 60000, 0, 2), "busy")

    def test_serial(self):
        self.lock("a", "pg-1", "X", 60000, 0, 1)
        self.lock("a", "pg-1", "X", 60000, 0, 2)
        self.assertEqual(self.unlock("a", "pg-1", 1), 0)
        self.assertEqual(self.renew("a", "pg-1", 60000, 1), 0)
        self.assertEqual(self.lock("a", "o1"), "busy")
        self.assertEqual(self.unlock("a", "pg-1", 2), 1)

    def test_cycle(self):
        self.lock("a", "o1")
        self.lock("b", "o2")
        self.assertEqual(self.lock("b", "o1", "X", 60000, 60000), "busy")
        answer = self.fcall("mlc_lock", [], "db", "a", "o2", "X", 60000, 60000)
        self.assertEqual(answer, ["deadlock",
                                  'o2 waits for the exclusive lock "a", blocked by o1. '
                                  'o1 waits for the exclusive lock "b", blocked by o2.'])
        # nobody else is refused for what the victim has given up
        self.assertEqual(self.r.hkeys("mlc:waits:db"), [b"o1"])
        self.assertEqual(self.lock("b", "o1", "X", 60000, 60000), "busy")
        self.unlock("b", "o2")
        self.assertEqual(self.lock("b", "o1", "X", 60000, 60000), "ok")
        self.assertEqual(self.r.exists("mlc:waits:db"), 0)

    def test_no_cycle(self):
        self.lock("a", "o1")
        self.lock("b", "o2")
        self.lock("c", "o3")
        self.assertEqual(self.lock("b", "o1", "X", 60000, 60000), "busy")
        self.assertEqual(self.lock("c", "o2", "X", 60000, 60000), "busy")
        # one that does not wait is not in the way
        self.assertEqual(self.lock("a", "o3", "X", 60000, 0), "busy")
        self.assertEqual(self.lock("a", "o3", "X", 60000, 60000), "deadlock")

    def test_cycle_through_the_lock_manager(self):
        # pg-2 has passed the lock manager for c and waits here for o1; pg-1 waits for pg-2 there
        self.lock("a", "o1")
        self.lock("c", "o1")
        self.lock("b", "pg-1", "X", 60000, 0, 1)
        self.assertEqual(self.wait("c", "pg-1"), "ok")
        self.assertEqual(self.lock("c", "pg-2", "X", 60000, 60000, 1), "busy")
        self.unlock("c", "o1")
        self.lock("c", "o4")
        self.lock("d", "pg-2", "X", 60000, 0, 2)
        self.assertEqual(self.lock("c", "pg-2", "X", 60000, 60000, 3), "busy")
        self.assertEqual(self.lock("b", "o4", "X", 60000, 60000), "deadlock")
        self.unlock("c", "o4")
        # only pg-2, which is no holder yet, is between pg-1 and o5
        self.lock("c:1", "o5")
        self.lock("e", "pg-2", "X", 60000, 0, 4)
        self.assertEqual(self.wait("c:2", "pg-1"), "ok")
        self.assertEqual(self.lock("c", "pg-2", "X", 60000, 60000, 5), "busy")
        self.assertEqual(self.lock("b", "o5", "X", 60000, 60000), "deadlock")

    def test_arguments(self):
        for bad in ("", ":a", "a:", "a::b", "a{b}", "a\nb", "x" * 256):
            self.refuses("MLCARG", "mlc_lock", [], "db", bad, "o", "X", 1000, 0)
            self.refuses("MLCARG", "mlc_unlock", [], "db", bad, "o")
            self.refuses("MLCARG", "mlc_renew", [], "db", bad, "o", 1000)
        for bad in ("", "a|b", "x" * 65):
            self.refuses("MLCARG", "mlc_lock", [], "db", "a", bad, "X", 1000, 0)
            self.refuses("MLCARG", "mlc_lock", [], bad, "a", "o", "X", 1000, 0)
        for bad in ("", "x", "E"):
            self.refuses("MLCARG", "mlc_lock", [], "db", "a", "o", bad, 1000, 0)
        for bad in ("0", "-1", "", "x", "1.5"):
            self.refuses("MLCARG", "mlc_lock", [], "db", "a", "o", "X", bad, 0)
            self.refuses("MLCARG", "mlc_renew", [], "db", "a", "o", bad)
        self.assertEqual(self.r.keys("mlc:lock:*"), [])
