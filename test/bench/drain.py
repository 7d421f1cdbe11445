"""How fast a backlog of committed changes reaches Redis.

One backlog is written while mlcache is paused and the peers' slots stand; then
each contender works off the very same WAL, in random order.  Redis holds every
key that is about to change, or a tenth of them.  What "alone" means: the same
commands to the same Redis from a driver that does nothing else.
"""
import time

from harness import (CACHE, GLUE, PAD, PREFIX, QUICK, REPETITIONS, Glue, Profile, Table, boost,
                     create_slot, create_table, driver, drop_slot, in_turn, log, recvlogical, redis_client)

SHAPES = {                      # name: (rows a transaction, changes, entries)
    '1-row transactions': (1, 300_000, 300_000),
    '100-row transactions': (100, 500_000, 500_000),
    '100-row transactions, a tenth cached': (100, 500_000, 50_000),
    'one transaction': (1_000_000, 1_000_000, 1_000_000),
}
if QUICK:
    SHAPES = {
        '1-row transactions': (1, 100_000, 100_000),
        '100-row transactions': (100, 200_000, 200_000),
        '100-row transactions, a tenth cached': (100, 200_000, 20_000),
        # large enough to be spilled by decoding
        'one transaction of 500 k': (500_000, 500_000, 500_000),
    }


def write_backlog(db, table, rows, total):
    """The version and LSN at the end of it."""
    db.run("SET synchronous_commit = off")
    if rows == total:
        # rows lie in scattered order
        db.run(f"UPDATE {table} SET v = v + 1")
    else:
        db.run("CALL bench_write(%s, %s, %s)", table, total, rows)
    db.run("RESET synchronous_commit")
    version = db.commit_version()
    return version, db.value("SELECT pg_current_wal_insert_lsn()")


def time_mlcache(db, version):
    began = time.monotonic()
    db.run("SELECT mlcache.resume('redis')")
    db.wait_applied(version)
    return time.monotonic() - began


def time_glue(what, endpos):
    glue = Glue(what)
    began = time.monotonic()
    glue.start(endpos)
    glue.wait()
    return time.monotonic() - began


def time_decoder(endpos):
    began = time.monotonic()
    if recvlogical('peer_decoder', (), endpos).wait() != 0:
        raise RuntimeError('pg_recvlogical failed')
    return time.monotonic() - began


def check_invalidated(cached):
    left = sum(1 for n in range(1, cached + 1, 997)
               if redis_client(CACHE).exists(f'{PREFIX}{n}'))
    if left:
        raise RuntimeError(f'{left} entries were not removed')


def check_updated(db, before, total):
    updated = db.value("SELECT updated FROM mlcache.stat_servers WHERE server = 'redis'") - before
    if updated != total:
        raise RuntimeError(f'{updated} of {total} entries were updated')


def shape_table(shape):
    return 'drain_' + str(SHAPES[shape][1])


def measure(db, shape, action):
    rows, total, cached = SHAPES[shape]
    table = shape_table(shape)
    if db.value("SELECT to_regclass(%s)", table) is None:
        create_table(db, table, total)
    db.run(f"SELECT mlcache.attach('{table}', key => '{PREFIX}{{id}}', action => '{action}')")
    db.wait_applied()
    figures = Table(f'{action}, {shape}', 'changes/s')
    peers = redis_client(GLUE)
    change = 'del' if action == 'invalidate' else 'set'
    glue = 'glue, ' + change.upper()
    own = 'mlcache'
    profile = Profile(f'drain-{action}-{rows}')
    bytes_ = len('{"id":123456,"v":10,"pad":""}') + PAD

    for _ in range(REPETITIONS):
        db.pause()
        create_slot(db, 'peer_decoder', 'test_decoding')
        create_slot(db, 'peer_glue', 'wal2json')
        log('writing')
        version, endpos = write_backlog(db, table, rows, total)
        contenders = [own, glue, 'test_decoding to /dev/null']
        if action == 'invalidate':
            contenders += ['UNLINK alone, 256 entries and guards a command']
        else:
            contenders += ['mlc_apply alone, 64 entries a call']
        # the driver removes what mlcache is to remove, so each fills before
        for contender in in_turn(contenders):
            if contender == own:
                driver(CACHE, 'fill', PREFIX, cached, bytes_, 1)
                before = db.value("SELECT updated FROM mlcache.stat_servers WHERE server = 'redis'")
                boost(db.relay_pid())
                profile.start(db)
                seconds = time_mlcache(db, version)
                profile.stop()
                if action == 'invalidate':
                    check_invalidated(cached)
                else:
                    check_updated(db, before, total)
            elif contender == glue:
                peers.flushall()
                driver(GLUE, 'fill', PREFIX, cached, bytes_, 0)
                seconds = time_glue(change, endpos)
                if action == 'invalidate' and peers.dbsize() != 0:
                    raise RuntimeError('the glue left keys behind')
            elif contender.startswith('test_decoding'):
                seconds = time_decoder(endpos)
            elif contender.startswith('UNLINK'):
                driver(CACHE, 'fill', PREFIX, cached, bytes_, 1)
                seconds = driver(CACHE, 'unlink', PREFIX, total, 256, 1)
            else:
                driver(CACHE, 'fill', PREFIX, cached, bytes_, 1)
                seconds = driver(CACHE, 'apply', PREFIX, total, 64, bytes_, namespace(db))
            figures.add(contender, total / seconds)
        drop_slot(db, 'peer_decoder')
        drop_slot(db, 'peer_glue')
    db.run("SELECT mlcache.detach(%s)", table)
    return figures, glue


def namespace(db):
    return 'db%d' % db.value("SELECT oid FROM pg_database WHERE datname = current_database()")


def run(db):
    for shape, (_, total, cached) in SHAPES.items():
        # an update of what is not cached does nothing
        for action in ('invalidate', 'update') if cached == total else ('invalidate',):
            figures, glue = measure(db, shape, action)
            figures.print([glue, 'test_decoding to /dev/null'] +
                          [c for c in figures.figures if c.endswith(('command', 'call'))])
