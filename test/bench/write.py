"""What writers pay for a cache that follows: updates by key, with pgbench."""
import re
import subprocess

from harness import (BINDIR, CACHE, GLUE, PREFIX, QUICK, REPETITIONS, WORK, Glue, Table, boost,
                     create_slot, create_table, driver, drop_slot, in_turn, recvlogical, renice,
                     wait_for)

ROWS = 100_000
CLIENTS = (1, 4, 16)
SECONDS = 1 if QUICK else 4
BYTES = 128


def pgbench(db, table, clients):
    """Transactions a second."""
    script = f'{WORK}/{table}.pgbench'
    with open(script, 'w', encoding='ascii') as out:
        out.write(f'\\set id random(1, {ROWS})\n'
                  f'UPDATE {table} SET v = v + 1 WHERE id = :id;\n')
    process = subprocess.Popen(
        [f'{BINDIR}/pgbench', '-n', '-M', 'prepared', '-T', str(SECONDS), '-c', str(clients),
         '-j', str(min(clients, 2)), '-f', script],
        stdout=subprocess.PIPE, text=True, preexec_fn=renice)
    wait_for(lambda: db.value("SELECT count(*) FROM pg_stat_activity "
                              "WHERE application_name = 'pgbench'") == clients)
    db.run("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'")
    for pid, in db.cursor.fetchall():
        boost(pid)
    out = process.communicate()[0]
    if process.returncode != 0:
        raise RuntimeError('pgbench failed')
    return float(re.search(r'^tps = ([0-9.]+)', out, re.M).group(1))


def without(db, clients):
    return pgbench(db, 'write_plain', clients), 0


def behind_slot(db, slot):
    """Bytes of WAL that the receiver has not been sent."""
    return db.value("""
        SELECT pg_current_wal_insert_lsn() - sent_lsn FROM pg_stat_replication
        JOIN pg_replication_slots ON active_pid = pid WHERE slot_name = %s""", slot)


def with_decoder(db, clients):
    create_slot(db, 'peer_decoder', 'test_decoding')
    receiver = recvlogical('peer_decoder')
    tps = pgbench(db, 'write_plain', clients)
    behind = behind_slot(db, 'peer_decoder')
    receiver.terminate()
    receiver.wait()
    drop_slot(db, 'peer_decoder')
    return tps, behind


def with_glue(db, clients):
    create_slot(db, 'peer_glue', 'wal2json')
    driver(GLUE, 'fill', PREFIX, ROWS, BYTES, 0)
    glue = Glue()
    glue.start()
    tps = pgbench(db, 'write_plain', clients)
    behind = behind_slot(db, 'peer_glue')
    glue.stop()
    drop_slot(db, 'peer_glue')
    return tps, behind


def with_mlcache(db, table, clients):
    db.start_relay()
    boost(db.relay_pid())
    driver(CACHE, 'fill', PREFIX, ROWS, BYTES, 1)
    tps = pgbench(db, table, clients)
    behind = db.value("SELECT lag_bytes FROM mlcache.stat_servers WHERE server = 'redis'")
    db.stop_relay()
    return tps, behind


def run(db):
    for name in 'plain', 'wal', 'trigger':
        create_table(db, f'write_{name}', ROWS)
    for name in 'wal', 'trigger':
        db.run(f"SELECT mlcache.attach('write_{name}', key => '{PREFIX}{{id}}', capture => '{name}')")
    db.stop_relay()

    contenders = {
        'no cache': lambda c: without(db, c),
        'slot, test_decoding to /dev/null': lambda c: with_decoder(db, c),
        'glue': lambda c: with_glue(db, c),
        'mlcache, wal capture': lambda c: with_mlcache(db, 'write_wal', c),
        'mlcache, trigger capture': lambda c: with_mlcache(db, 'write_trigger', c),
    }
    for fsync in 'off', 'on':
        db.set('fsync', fsync)
        for clients in CLIENTS:
            rates = Table(f'fsync {fsync}, {clients} clients', 'transactions/s')
            left = Table(f'fsync {fsync}, {clients} clients: WAL still to be delivered at the end', 'MB')
            for _ in range(REPETITIONS):
                for contender in in_turn(contenders):
                    tps, behind = contenders[contender](clients)
                    rates.add(contender, tps)
                    if contender != 'no cache':
                        left.add(contender, float(behind) / 1e6)
            rates.print(['no cache', 'slot, test_decoding to /dev/null'])
            left.print(digits=2)
    db.set('fsync', 'off')
    db.start_relay()
    for name in 'wal', 'trigger':
        db.run(f"SELECT mlcache.detach('write_{name}')")
