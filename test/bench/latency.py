"""How long after a commit its effect is there, at a steady low rate."""
import os
import subprocess

from harness import (BIN, CACHE, GLUE, PREFIX, QUICK, REPETITIONS, Glue, Table, boost, create_slot,
                     create_table, drop_slot, in_turn, renice)

ROWS = 100_000
RATE = 200                      # commits a second
COUNT = 400 if QUICK else 1000

SETTINGS = {                    # name: fsync, options of the writer
    'fsync off': ('off', ''),
    'fsync on': ('on', ''),
    'synchronous_commit off': ('off', '-c synchronous_commit=off'),
}


def latencies(kind, where, table, options, count):
    """Sorted microseconds."""
    out = subprocess.run(
        [f'{BIN}/latency', kind, where, PREFIX, table, str(ROWS), str(RATE), str(count)],
        check=True, capture_output=True, text=True, preexec_fn=renice,
        env={**os.environ, 'PGOPTIONS': options})
    return sorted(map(int, out.stdout.split()))


def time_mlcache(db, table, options, count):
    db.start_relay()
    boost(db.relay_pid())
    result = latencies('redis', CACHE, table, options, count)
    db.stop_relay()
    return result


def time_glue(db, options, count):
    create_slot(db, 'peer_glue', 'wal2json')
    glue = Glue()
    glue.start()
    result = latencies('redis', GLUE, 'latency_plain', options, count)
    glue.stop()
    drop_slot(db, 'peer_glue')
    return result


def time_decoder(db, options, count):
    create_slot(db, 'peer_decoder', 'test_decoding')
    result = latencies('decoder', 'peer_decoder', 'latency_plain', options, count)
    drop_slot(db, 'peer_decoder')
    return result


def run(db):
    for name in 'plain', 'wal', 'trigger':
        create_table(db, f'latency_{name}', ROWS)
    for name in 'wal', 'trigger':
        db.run(f"SELECT mlcache.attach('latency_{name}', key => '{PREFIX}{{id}}', capture => '{name}')")
    db.stop_relay()

    contenders = {
        'mlcache, wal capture': lambda *a: time_mlcache(db, 'latency_wal', *a),
        'mlcache, trigger capture': lambda *a: time_mlcache(db, 'latency_trigger', *a),
        'glue': lambda *a: time_glue(db, *a),
        'bare decoder': lambda *a: time_decoder(db, *a),
    }
    for setting, (fsync, options) in SETTINGS.items():
        db.set('fsync', fsync)
        # what waits for the WAL writer takes a fifth of a second each
        tables = [Table(f'{setting}: {p}', 'us') for p in ('p50', 'p99', 'largest')]
        for _ in range(REPETITIONS):
            for contender in in_turn(contenders):
                count = COUNT if 'off' not in options or 'mlcache' in contender else COUNT // 20
                found = contenders[contender](options, count)
                tables[0].add(contender, found[len(found) // 2])
                tables[1].add(contender, found[len(found) * 99 // 100])
                tables[2].add(contender, found[-1])
        for table in tables:
            table.print(['glue', 'bare decoder'])
    db.set('fsync', 'off')
    db.start_relay()
    for name in 'wal', 'trigger':
        db.run(f"SELECT mlcache.detach('latency_{name}')")
