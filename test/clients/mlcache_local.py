"""A cache inside the application, kept coherent by the stream mlc:events (Redis 7).

    cache = MlcacheLocal(MlcacheClient(redis.Redis(...), load, namespace="db5"),
                         redis.Redis(..., socket_timeout=5))        # the link, for it alone
    cache.get("product:42")         # from this process, then Redis, then the row

The same rules as between PostgreSQL's L1 and Redis.  The relay removes an entry
from Redis first and tells it after; so a copy is kept only if nothing was told of
its key since Redis was asked.  What is here is used only as long as the link is
known to be alive: when it drops, is silent for too long, or may have missed
something, the cache is emptied, and reads go to Redis until it has caught up.

So nothing here is older than what was applied in Redis a moment ago, or where the
network swallows the link without a word, `silence` ago.  Not for keys of strong
rules.  ALTER SERVER redis OPTIONS (ADD stream '100000') turns the stream on.
"""
import collections
import threading
import time

import redis

STREAM = "mlc:events"
PAGE = 1000                         # events read at a time


class Missed(Exception):
    """Events may have gone that were never read here."""


class MlcacheLocal:
    def __init__(self, client, link, size=10_000, ttl=60_000, silence=1_000):
        """size in keys, times in ms.  ttl: how long a copy may live here; a key whose
        entry in Redis has a shorter one may be read for that much longer.  silence:
        how long the link may say nothing; less than its socket_timeout."""
        self.client = client
        self.link = link
        self.size = size
        self.ttl = ttl / 1000
        self.silence = silence / 1000
        self.lock = threading.Lock()
        self.lines = collections.OrderedDict()      # key -> (value, tags, deadline)
        self.tickets = {}                           # key -> tags, of reads under way
        self.serves_until = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def get(self, key, tags=()):
        """tags: those of a key that has any, always the same."""
        with self.lock:
            if not self.serves():
                ticket = None
            else:
                value, _, deadline = self.lines.get(key, (None, None, 0))
                if time.monotonic() < deadline:
                    return value
                ticket = self.tickets[key] = list(tags)     # before Redis is asked
        cached = False
        try:
            value, cached = self.client.read(key, tags)
        finally:
            with self.lock:
                if self._still_good(key, ticket):
                    del self.tickets[key]
                    if cached:
                        self._keep(key, value, tags)
        return value

    def serves(self):
        """Is what is here good?  Otherwise every read goes to Redis."""
        return time.monotonic() < self.serves_until

    def close(self):
        self.stopped.set()
        self.thread.join()

    def _keep(self, key, value, tags):
        self.lines[key] = value, tags, time.monotonic() + self.ttl
        if len(self.lines) > self.size:
            self.lines.popitem(last=False)

    def _still_good(self, key, ticket):
        """Has nothing been told of the key since?  (Nor has another read begun.)"""
        return ticket is not None and self.tickets.get(key) is ticket

    # ---- the link ----

    def _follow(self):
        while not self.stopped.is_set():
            try:
                self._begin()
                while not self.stopped.is_set():
                    self._turn()
            except (redis.RedisError, OSError, Missed):
                pass
            self.serves_until = 0
            self.stopped.wait(0.1)

    def _begin(self):
        """Everything that is filled from now on is told of when it changes."""
        with self.lock:
            self._empty()
        now = time.monotonic()
        self.history, self.last, self.told, _ = self._look()
        if self.history is None:
            raise Missed                # flushed, and the relay has not come yet
        self._extend(now)

    def _turn(self):
        before = self.told
        asked = time.monotonic()        # an answer may be long on its way
        pages = self.link.xread({STREAM: self.last}, count=PAGE, block=int(self.silence * 250))
        events = pages[0][1] if pages else []
        for at, event in events:
            self._tell(event)
            self.last = at
        self.told += len(events)
        history, _, _, trimmed = self._look()
        if self._has_missed(before, history, trimmed):
            raise Missed
        if len(events) < PAGE:          # else there is more to be read first
            self._extend(asked)

    def _extend(self, asked):
        self.serves_until = asked + self.silence

    def _look(self):
        """The history of this Redis, the last event, how many there were before and
        with it, and how many of them are gone."""
        history = self.link.hget("mlc:state:" + self.client.namespace[0], "nonce")
        try:
            stream = self.link.xinfo_stream(STREAM)
        except redis.ResponseError:     # there has been no event yet
            return history, b"0-0", 0, 0
        added = stream["entries-added"]
        return history, stream["last-generated-id"], added, added - stream["length"]

    def _has_missed(self, before, history, trimmed):
        """A Redis that has lost its memory, or another one, begins a new history."""
        return history != self.history or trimmed > before

    def _tell(self, event):
        with self.lock:
            if b"key" in event:
                self._drop([event[b"key"].decode()])
            elif b"tag" in event:
                tag = event[b"tag"].decode()
                self._drop([key for key, line in self.lines.items() if tag in line[1]])
                self._drop([key for key, tags in self.tickets.items() if tag in tags])
            else:                       # a pattern, or all keys of a rule
                self._empty()

    def _drop(self, keys):
        for key in keys:
            self.lines.pop(key, None)
            self.tickets.pop(key, None)

    def _empty(self):
        self.lines.clear()
        self.tickets.clear()
