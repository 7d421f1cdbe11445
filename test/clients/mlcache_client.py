"""Reading a cache that mlcache keeps coherent, from Python (redis-py 4.2 or later).

    cache = MlcacheClient(redis.Redis(...), load, ttl=300_000)
    cache.get("product:42")         # bytes, or None where there is no such row
    cache.get("front:shoes", tags=["search", "shoes"])      # a key of no rule

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
        patience: how long to wait for somebody else's load.  namespace: needed for
        tags, and where several databases share the Redis."""
        self.redis = r
        self.load = load
        self.ttl = ttl
        self.negative_ttl = negative_ttl
        self.lease = lease
        self.patience = patience
        self.namespace = [namespace] if namespace else []

    def get(self, key, tags=()):
        return self.read(key, tags)[0]

    def read(self, key, tags=()):
        """The value, and whether Redis has it: what it refused may be old by now."""
        token = secrets.token_urlsafe(12)       # a new one for every read
        answer = self._ask(key, tags, token)
        kind = answer[0]
        if kind == b"hit":
            return answer[1], True
        if kind == b"absent":
            return None, True

        payload, version = self.load(key)       # after the answer, never before
        if isinstance(payload, str):
            payload = payload.encode()
        filled = kind == b"lease" and self._fill(key, token, payload, answer[1], version)
        return payload, filled

    def _index(self, tag):
        for char, escaped in (("%", "%25"), ("{", "%7B"), ("}", "%7D")):
            tag = tag.replace(char, escaped)
        return "mlc:tag:%s:t:%s" % (self.namespace[0], tag)

    def _question(self, key, tags, token):
        if not tags:
            return "mlc_get", 1, key, token, self.lease, *self.namespace
        return ("mlc_get_tagged", 1 + len(tags), key, *map(self._index, tags),
                token, self.lease, *self.namespace, self.ttl)

    def _ask(self, key, tags, token):
        """mlc_get; waits while somebody else loads, but not for ever."""
        give_up = time.monotonic() + self.patience / 1000
        pause = 0.001
        while True:
            try:
                answer = self.redis.fcall(*self._question(key, tags, token))
            except redis.RedisError as error:
                if str(error).startswith("MLC"):
                    raise                       # the call is wrong
                return [b"unreachable"]         # a read never fails because a cache is down
            if answer[0] != b"busy" or time.monotonic() >= give_up:
                return answer
            time.sleep(min(pause, answer[1] / 1000))
            pause = min(pause * 2, 0.05)

    def _fill(self, key, token, payload, applied, version):
        """Was it taken?  "refused" means that a change came in between."""
        absent = payload is None
        try:
            return self.redis.fcall("mlc_fill", 1, key, token, b"" if absent else payload,
                                    self.negative_ttl if absent else self.ttl,
                                    applied, version, int(absent), *self.namespace) == b"ok"
        except redis.RedisError:
            return False
