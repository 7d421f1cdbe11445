"""A day's worth of changes (115 a second, all day): is the relay's memory flat?"""
import time

from harness import CACHE, PREFIX, Database, create_table, driver
from memory import BYTES, memory

CHANGES = 10_000_000
ROWS = 500_000
A_TRANSACTION = 100
A_LINE = 1_000_000


def run(db):
    create_table(db, 'day', ROWS)
    db.run(f"SELECT mlcache.attach('day', key => '{PREFIX}{{id}}')")
    db.wait_applied()
    pid = db.relay_pid()
    other = Database()
    other.run("SET synchronous_commit = off")
    began = time.monotonic()
    print(f'\n### {CHANGES:,} changes in transactions of {A_TRANSACTION} rows, the relay running\n')
    print('| changes written | seconds | anonymous memory, MB | resident, MB |')
    print('|---|---|---|---|')
    for done in range(0, CHANGES + 1, ROWS):
        if done:
            driver(CACHE, 'fill', PREFIX, ROWS, BYTES, 1)
            other.run(f"CALL bench_write('day', {ROWS}, {A_TRANSACTION})")
            db.wait_applied()
        if done % A_LINE == 0:
            anonymous, resident = memory(pid)
            print(f'| {done:,} | {time.monotonic() - began:.0f} | {anonymous:.1f} | {resident:.1f} |',
                  flush=True)
    if db.relay_pid() != pid:
        raise RuntimeError('the relay was started anew')
    db.run("SELECT mlcache.detach('day')")
