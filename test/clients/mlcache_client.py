"""Reading a cache that mlcache keeps coherent, from Python (redis-py 4.2 or later).

    cache = MlcacheClient(redis.Redis(...), load, ttl=300_000)
    cache.get("product:42")         # bytes, or None where there is no such row

load(key) reads the row and returns (payload, version): payload is str or bytes,
or None where there is no row; version is what mlcache.fill_version() said in the
same statement as the row, or after it in the same transaction.  README.md tells
why, and how to do the same in another language.
"""
import secrets
import time

import redis


class MlcacheClient:
    def __init__(self, r, load, ttl=0, negative_ttl=60_000, lease=5_000, patience=1_000,
                 namespace=None):
        """Times in ms.  ttl 0: until it changes.  lease: longer than load takes.
        patience: how long to wait for somebody else's load.  namespace: needed only
        where several databases share the Redis."""
        self.redis = r
        self.load = load
        self.ttl = ttl
        self.negative_ttl = negative_ttl
        self.lease = lease
        self.patience = patience
        self.namespace = [namespace] if namespace else []

    def get(self, key):
        token = secrets.token_urlsafe(12)       # a new one for every read
        answer = self._ask(key, token)
        kind = answer[0]
        if kind == b"hit":
            return answer[1]
        if kind == b"absent":
            return None

        payload, version = self.load(key)       # after the answer, never before
        if isinstance(payload, str):
            payload = payload.encode()
        if kind == b"lease":
            self._fill(key, token, payload, answer[1], version)
        return payload

    def _ask(self, key, token):
        """mlc_get; waits while somebody else loads, but not for ever."""
        give_up = time.monotonic() + self.patience / 1000
        pause = 0.001
        while True:
            try:
                answer = self.redis.fcall("mlc_get", 1, key, token, self.lease, *self.namespace)
            except redis.RedisError as error:
                if str(error).startswith("MLC"):
                    raise                       # the call is wrong
                return [b"unreachable"]         # a read never fails because a cache is down
            if answer[0] != b"busy" or time.monotonic() >= give_up:
                return answer
            time.sleep(min(pause, answer[1] / 1000))
            pause = min(pause * 2, 0.05)

    def _fill(self, key, token, payload, applied, version):
        """The answer does not matter: "refused" means that a change came in between."""
        absent = payload is None
        try:
            self.redis.fcall("mlc_fill", 1, key, token, b"" if absent else payload,
                             self.negative_ttl if absent else self.ttl,
                             applied, version, int(absent), *self.namespace)
        except redis.RedisError:
            pass
