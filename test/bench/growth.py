"""Whether a change costs more where there are more rules."""
import time

from harness import (CACHE, PREFIX, REPETITIONS, Table, boost, create_slot, create_table, driver,
                     drop_slot, in_turn)
from drain import time_decoder, time_mlcache, write_backlog

RULES = (10, 1000, 10_000)
ROWS = 100_000
BYTES = 128


def add_rules(db, first, last):
    """Rules on tables of their own; what attach() takes for the last of them.

    The others are stored as attach() stores them, since each attach() looks at
    every rule there is.
    """
    for start in range(first, last + 1, 500):
        db.run("DO $$ BEGIN FOR i IN %d .. %d LOOP "
               "EXECUTE format('CREATE TABLE growth_%%s (id int PRIMARY KEY, v int)', i); "
               "END LOOP; END $$" % (start, min(start + 499, last)))
    db.run("""
        INSERT INTO mlcache.rule (relation, key, action, consistency, capture, on_unreachable, secret)
        SELECT format('growth_%%s', i)::regclass, format('growth_%%s:{id}', i), 'invalidate',
               'eventual', 'wal', 'error', i
        FROM generate_series(%s, %s - 1) i""", first, last)
    began = time.monotonic()
    db.run(f"SELECT mlcache.attach('growth_{last}', key => 'growth_{last}:{{id}}')")
    return time.monotonic() - began


def run(db):
    create_table(db, 'growth', ROWS)
    db.run(f"SELECT mlcache.attach('growth', key => '{PREFIX}{{id}}')")
    have = 1
    print('\n| rules | attach(), ms | wait for it to be applied, s |')
    print('|---|---|---|')
    tables = []
    for rules in RULES:
        # a new rule's key space is looked for among all keys
        driver(CACHE, 'unlink', PREFIX, ROWS, 256, 1)
        seconds = add_rules(db, have, rules - 1)
        have = rules
        began = time.monotonic()
        db.wait_applied()
        print(f'| {rules:,} | {seconds * 1000:.1f} | {time.monotonic() - began:.2f} |', flush=True)
        table = Table(f'{rules:,} rules, 1-row transactions, invalidate', 'changes/s')
        for _ in range(REPETITIONS):
            db.pause()
            create_slot(db, 'peer_decoder', 'test_decoding')
            version, endpos = write_backlog(db, 'growth', 1, ROWS)
            for contender in in_turn(['mlcache', 'test_decoding to /dev/null']):
                if contender == 'mlcache':
                    driver(CACHE, 'fill', PREFIX, ROWS, BYTES, 1)
                    boost(db.relay_pid())
                    seconds = time_mlcache(db, version)
                else:
                    seconds = time_decoder(endpos)
                table.add(contender, ROWS / seconds)
            drop_slot(db, 'peer_decoder')
        tables.append(table)
    for table in tables:
        table.print(['test_decoding to /dev/null'])
