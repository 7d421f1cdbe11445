"""Locks shared with PostgreSQL's sessions, from Python (redis-py 4.2 or later).

    lock = MlcacheLock(redis.Redis(...), namespace, "account:42", draw)
    if lock.acquire(wait=5_000):
        ... SELECT mlcache.fence_check('account:42', lock.token) in each transaction ...
        lock.release()

namespace is what SELECT mlcache.lock_namespace() says; draw() returns what
SELECT mlcache.lock_token() says.  Redis decides who holds the lock, PostgreSQL
whose writes are good: a token is drawn once the lock is held and kept only if
it still is held then, so tokens come in the order of the holders.
"""
import random
import secrets
import time


class LockLost(Exception):
    """Somebody else may have held the lock since: begin anew."""


class Deadlock(Exception):
    """Waiting would have closed a cycle, which the message tells."""


class MlcacheLock:
    def __init__(self, r, namespace, name, draw, ttl=30_000, shared=False, owner=None):
        """ttl in ms: renew() well before it is over.  owner: one for each thread that
        locks, so that deadlocks are found between them."""
        self.redis = r
        self.namespace = namespace
        self.name = name
        self.draw = draw
        self.ttl = ttl
        self.mode = "S" if shared else "X"
        self.owner = owner or secrets.token_urlsafe(12)
        self.token = None

    def acquire(self, wait=0):
        """Waits up to wait ms.  True: held, and token is good."""
        give_up = time.monotonic() + wait / 1000
        pause = 0.001
        while True:
            left = max(0, int((give_up - time.monotonic()) * 1000))
            # known as waiting for so long, unless it asks again
            answer = self._call("mlc_lock", self.mode, self.ttl,
                                left and min(left, 2_000) + 2_000)
            if answer[0] == b"deadlock":
                raise Deadlock(answer[1].decode())
            if answer[0] == b"ok":
                self.token = self.draw()
                try:
                    self.renew()
                    return True
                except LockLost:
                    pass                        # lost before the token was drawn: not used
            elif left == 0:
                self.redis.fcall("mlc_lock_nowait", 0, self.namespace, self.owner)
                return False
            time.sleep(min(pause, left / 1000) * random.uniform(0.5, 1))
            pause = min(pause * 2, 0.02)

    def renew(self, ttl=None):
        if not self._call("mlc_renew", ttl or self.ttl):
            raise LockLost(self.name)

    def release(self):
        self.token = None
        if not self._call("mlc_unlock"):
            raise LockLost(self.name)

    def _call(self, function, *args):
        return self.redis.fcall(function, 0, self.namespace, self.name, self.owner, *args)
