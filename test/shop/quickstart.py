"""The readers, the progress lines and the comparison of test/quickstart.

quickstart.py run SECONDS	two processes read through Redis, and fill it on a
							miss; a line every few seconds says how it goes
quickstart.py compare		compares every cached copy with its row, now that
							nobody writes; exit status 1 for any difference

PGHOST and its like name the server, MLC_REDIS_SOCKET the Redis, MLC_WORK a
directory.  A reader does what mlcache's outside readers do everywhere: ask with
mlc_get; if that answers with a lease, load the row in a new snapshot, read the
WAL insert position after the snapshot, and give both to mlc_fill.
"""
import multiprocessing
import os
import random
import sys
import time

import psycopg2
import redis

# what is cached under a prefix: the text, by number
LOADERS = {
    'account': "SELECT row_to_json(t) FROM (SELECT * FROM pgbench_accounts WHERE aid = k) t",
    'teller': "SELECT row_to_json(t) FROM (SELECT * FROM pgbench_tellers WHERE tid = k) t",
    'branch': "SELECT row_to_json(t) FROM (SELECT * FROM pgbench_branches WHERE bid = k) t",
    'product': "SELECT row_to_json(t) FROM (SELECT * FROM product WHERE id = k) t",
    'category': "SELECT category_list(k::int)",
    'order': "SELECT order_document(k)",
}
TTL = {'account': 3600000}      # ms; as attached
NEGATIVE_TTL = 60000

# share of the reads, and the numbers that are read
READS = [
    ('account', 45, 5000), ('product', 20, 2000), ('category', 10, 50),
    ('order', 20, 6000), ('teller', 3, 100), ('branch', 2, 10),
]

LEASE = 3000                    # ms
COUNTERS = ['hit', 'absent', 'fill', 'refused', 'busy', 'unarmed']
AFTER = 2                       # s of reading after the last write
SAMPLE = 0.1                    # s between two looks at the lag
LINE = 3.0                      # s between two lines


def connect_sql():
    """A connection whose texts come out as those that mlcache makes."""
    conn = psycopg2.connect('')
    conn.autocommit = True
    with conn.cursor() as cursor:
        cursor.execute("SET DateStyle = 'ISO, YMD'; SET TimeZone = 'UTC'; "
                       "SET IntervalStyle = 'postgres'; SET extra_float_digits = 1; "
                       "SET bytea_output = 'hex'")
    return conn


def connect_redis():
    return redis.Redis(unix_socket_path=os.environ['MLC_REDIS_SOCKET'])


def load(cursor, prefix, numbers):
    """{number: text or None}, and the insert position as a version."""
    cursor.execute(f"""
        SELECT k, ({LOADERS[prefix]})::text, pg_current_wal_insert_lsn()::text,
               pg_walfile_name(pg_current_wal_insert_lsn())
        FROM unnest(%s::bigint[]) k""", (numbers,))
    rows = cursor.fetchall()
    high, low = rows[0][2].split('/')
    version = '%s%08x%08x' % (rows[0][3][:8].lower(), int(high, 16), int(low, 16))
    return {number: text for number, text, _, _ in rows}, version


class Reader:
    """Reads keys the way an application does."""

    def __init__(self, name, counters):
        self.redis = connect_redis()
        self.cursor = connect_sql().cursor()
        self.name = name
        self.calls = 0
        self.counters = counters

    def count(self, what):
        self.counters[COUNTERS.index(what)] += 1

    def row(self, prefix, number):
        return load(self.cursor, prefix, [number])[0][number]

    def read(self, prefix, number):
        key = f'{prefix}:{number}'
        self.calls += 1
        token = f'{self.name}-{self.calls}'
        while True:
            answer = self.redis.execute_command('FCALL', 'mlc_get', 1, key, token, LEASE)
            what = answer[0]
            if what == b'hit':
                self.count('hit')
                return answer[1]
            if what == b'absent':
                self.count('absent')
                return None
            if what != b'busy':
                break
            # somebody else loads it: ask again in a moment
            self.count('busy')
            time.sleep(0.002)
        if what != b'lease':
            self.count('unarmed')
            return self.row(prefix, number)
        texts, hi = load(self.cursor, prefix, [number])
        text = texts[number]
        filled = self.redis.execute_command(
            'FCALL', 'mlc_fill', 1, key, token, text or '',
            NEGATIVE_TTL if text is None else TTL.get(prefix, 0),
            answer[1], hi, 1 if text is None else 0)
        self.count('fill' if filled == b'ok' else 'refused')
        return text


def read_for(seconds, name, counters):
    reader = Reader(name, counters)
    chooser = random.Random(name)
    prefixes = [prefix for prefix, _, _ in READS]
    weights = [weight for _, weight, _ in READS]
    limits = {prefix: limit for prefix, _, limit in READS}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for prefix in chooser.choices(prefixes, weights, k=50):
            reader.read(prefix, chooser.randint(1, limits[prefix]))


class Monitor:
    """What the server and Redis say about themselves, between two looks."""

    def __init__(self, counters):
        self.cursor = connect_sql().cursor()
        self.redis = connect_redis()
        self.counters = counters
        self.state = 'armed'
        self.lags = []          # ms, of one line
        self.all_lags = []
        self.before = self.look()

    def look(self):
        self.cursor.execute("""
            SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                   (SELECT sum(events)::bigint FROM mlcache.stat_rules)""")
        transactions, events = self.cursor.fetchone()
        reads = sum(sum(c[:4]) for c in self.counters)
        fills = sum(c[COUNTERS.index('fill')] for c in self.counters)
        return time.monotonic(), transactions, events, reads, fills

    def sample(self):
        self.cursor.execute("SELECT lag_ms, lag_ms_max, state, last_error FROM mlcache.stat_servers")
        lag, self.lag_max, state, error = self.cursor.fetchone()
        if state != self.state:
            print(f'the server is {state}' + (f': {error}' if error else ''), flush=True)
            self.state = state
        if lag is not None:
            self.lags.append(lag)

    def line(self, began):
        now = self.look()
        span = now[0] - self.before[0]
        rates = [(b - a) / span for a, b in zip(self.before[1:], now[1:])]
        lags = sorted(self.lags) or [0]
        print('%5.0f s %9.0f %9.0f %9.0f %9.0f %9.2f %8.2f %9d' % (
            now[0] - began, *rates, percentile(lags, 50), percentile(lags, 99),
            self.redis.dbsize()), flush=True)
        self.all_lags += self.lags
        self.lags = []
        self.before = now


def percentile(ordered, p):
    return ordered[min(len(ordered) - 1, len(ordered) * p // 100)]


def run(seconds):
    counters = [multiprocessing.RawArray('q', len(COUNTERS)) for _ in range(2)]
    processes = [multiprocessing.Process(target=read_for, args=(seconds + AFTER, f'reader{i}', c))
                 for i, c in enumerate(counters)]
    began = time.monotonic()
    for process in processes:
        process.start()
    monitor = Monitor(counters)
    print('%7s %9s %9s %9s %9s %9s %8s %9s' % (
        'time', 'writes/s', 'events/s', 'reads/s', 'fills/s', 'lag p50', 'p99 ms', 'keys'))
    next_line = began + LINE
    while time.monotonic() < began + seconds:
        time.sleep(SAMPLE)
        monitor.sample()
        if time.monotonic() >= next_line:
            monitor.line(began)
            next_line += LINE
    # what was removed last is read once more
    for process in processes:
        process.join()
    total = {name: sum(c[i] for c in counters) for i, name in enumerate(COUNTERS)}
    lags = sorted(monitor.all_lags) or [0]
    print('reads: %(hit)d hits, %(absent)d known to be absent, %(fill)d filled, '
          '%(refused)d fills refused, %(busy)d waits for another reader' % total)
    print('lag from commit to Redis: p50 %.2f, p99 %.2f ms of %d samples; largest of all %.1f ms' % (
        percentile(lags, 50), percentile(lags, 99), len(lags), monitor.lag_max))
    monitor.cursor.execute("SELECT updated, invalidated, skipped, batches, purges, errors "
                           "FROM mlcache.stat_servers")
    print('Redis was told: %d values set, %d keys removed, %d skipped, in %d batches; '
          '%d purges, %d errors' % monitor.cursor.fetchone())
    if any(process.exitcode != 0 for process in processes):
        sys.exit('a reader failed')
    if total['hit'] == 0 or total['fill'] == 0:
        sys.exit('nothing was read through the cache')


def compare_prefix(client, cursor, prefix, keys, result):
    """Counts same, different, absent and unguarded copies of one prefix."""
    for start in range(0, len(keys), 2000):
        part = keys[start:start + 2000]
        numbers = [int(key.split(b':')[1]) for key in part]
        texts, _ = load(cursor, prefix, numbers)
        entries = client.mget(part)
        guards = client.mget([b'mlc:{' + key + b'}' for key in part])
        for key, number, entry, guard in zip(part, numbers, entries, guards):
            text = texts[number]
            what = 'same'
            if guard is None:
                # an entry may have expired since the scan; then both are gone
                if entry is None:
                    continue
                what = 'unguarded'
            elif entry is None:
                flags = guard.split(b'|')[3]
                if b'A' not in flags:
                    continue        # a lease
                what = 'absent' if text is None else 'differs'
            elif text is None or entry != text.encode():
                what = 'differs'
            result[what] = result.get(what, 0) + 1
            if what in ('differs', 'unguarded') and result[what] <= 3:
                print(f'  {key.decode()} {what}: cached {entry!r} ({guard!r}), should be {text!r}')


def compare_all(client, cursor):
    """{prefix: {what: count}} for all keys there are."""
    keys = {prefix: set() for prefix in LOADERS}
    for key in client.scan_iter(count=2000):
        if key.startswith(b'mlc:{'):
            key = key[5:-1]         # a guard without its entry counts, too
        elif key.startswith(b'mlc:'):
            continue                # the state, the stream
        keys[key.split(b':')[0].decode()].add(key)
    results = {}
    for prefix, found in keys.items():
        results[prefix] = {}
        compare_prefix(client, cursor, prefix, sorted(found), results[prefix])
    return results


def differences(results):
    return sum(r.get('differs', 0) + r.get('unguarded', 0) for r in results.values())


def compare():
    client = connect_redis()
    cursor = connect_sql().cursor()
    results = compare_all(client, cursor)

    # replicate: whatever changed must be there, and every teller has
    cursor.execute("SELECT tid FROM pgbench_tellers")
    tellers = [f'teller:{tid}' for tid, in cursor.fetchall()]
    missing = len(tellers) - client.exists(*tellers)

    print('%-10s %8s %8s %8s %10s %8s' % ('prefix', 'same', 'differs', 'absent', 'unguarded', 'missing'))
    for prefix, result in results.items():
        print('%-10s %8d %8d %8d %10d %8s' % (
            prefix, result.get('same', 0), result.get('differs', 0), result.get('absent', 0),
            result.get('unguarded', 0), missing if prefix == 'teller' else '-'))
    found = differences(results) + missing

    empty = [prefix for prefix, result in results.items() if result.get('same', 0) == 0]
    if empty:
        print('nothing cached under ' + ', '.join(empty))
        found += len(empty)

    # would a wrong copy have been seen?
    client.set('product:1', '{"id":1,"price":0}')
    client.set('account:1', 'written past the protocol')
    client.delete('mlc:{account:1}')
    probe = {}
    print('two copies spoiled on purpose:')
    compare_prefix(client, cursor, 'product', [b'product:1'], probe)
    compare_prefix(client, cursor, 'account', [b'account:1'], probe)
    if sum(probe.values()) != 2 or 'same' in probe or 'absent' in probe:
        print('the comparison does not see a wrong copy')
        found += 1

    print(f'differences: {found}')
    return 1 if found else 0


if __name__ == '__main__':
    if sys.argv[1] == 'run':
        run(float(sys.argv[2]))
    else:
        sys.exit(compare())
