"""Memory of the relay: over many small transactions, and in one large one."""
import os
import threading
import time

from harness import CACHE, PREFIX, Database, create_table, driver

CHANGES = 2_000_000
ROWS = 500_000
LARGE = (250_000, 500_000, 1_000_000, 2_000_000)
BYTES = 128


def memory(pid):
    """(anonymous, all resident) in MB; shared buffers are in the latter."""
    with open(f'/proc/{pid}/status', encoding='ascii') as status:
        fields = dict(line.split(':', 1) for line in status)
    return [int(fields[name].split()[0]) / 1024 for name in ('RssAnon', 'VmRSS')]


def size_of(directory):
    total = 0
    for path, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                pass            # it has gone meanwhile
    return total / 1e6


class Watch(threading.Thread):
    """The largest of what is seen until stop()."""

    def __init__(self, pid, data):
        super().__init__()
        self.pid = pid
        self.data = data
        self.anonymous = self.sorted = self.spilled = 0
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.02):
            self.anonymous = max(self.anonymous, memory(self.pid)[0])
            self.sorted = max(self.sorted, size_of(f'{self.data}/base/pgsql_tmp'))
            self.spilled = max(self.spilled, size_of(f'{self.data}/pg_replslot'))

    def stop(self):
        self.done.set()
        self.join()


def many_small(db):
    print(f'\n### {CHANGES:,} changes in transactions of one row, the relay running\n')
    print('| changes written | anonymous memory, MB | resident, MB |')
    print('|---|---|---|')
    pid = db.relay_pid()
    other = Database()
    other.run("SET synchronous_commit = off")
    for done in range(0, CHANGES + 1, ROWS // 2):
        if done:
            driver(CACHE, 'fill', PREFIX, ROWS, BYTES, 1)
            other.run("CALL bench_write('memory', %s, 1)", ROWS // 2)
            db.wait_applied()
        anonymous, resident = memory(pid)
        print(f'| {done:,} | {anonymous:.1f} | {resident:.1f} |', flush=True)
    if db.relay_pid() != pid:
        raise RuntimeError('the relay was started anew')


def one_large(db, data):
    print('\n### one transaction\n')
    print('| changes | seconds | largest anonymous memory, MB | sort files, MB | decoding spilled, MB |')
    print('|---|---|---|---|---|')
    for changes in LARGE:
        db.pause()
        db.run("BEGIN")
        left = changes
        while left > 0:
            db.run("UPDATE memory SET v = v + 1 WHERE id <= %s", min(left, ROWS))
            left -= ROWS
        db.run("COMMIT")
        version = db.commit_version()
        driver(CACHE, 'fill', PREFIX, ROWS, BYTES, 1)
        watch = Watch(db.relay_pid(), data)
        watch.start()
        began = time.monotonic()
        db.run("SELECT mlcache.resume('redis')")
        db.wait_applied(version)
        seconds = time.monotonic() - began
        watch.stop()
        print(f'| {changes:,} | {seconds:.1f} | {watch.anonymous:.1f} | {watch.sorted:.0f} | '
              f'{watch.spilled:.0f} |', flush=True)


def run(db):
    create_table(db, 'memory', ROWS)
    db.run(f"SELECT mlcache.attach('memory', key => '{PREFIX}{{id}}')")
    db.wait_applied()
    many_small(db)
    one_large(db, db.value("SHOW data_directory"))
    db.run("SELECT mlcache.detach('memory')")
