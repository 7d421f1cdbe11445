"""What a strong commit costs, beside a trigger that deletes, with pgbench."""
import os

from harness import (BIN, CACHE, GLUE, PREFIX, QUICK, REPETITIONS, Table, boost, create_table,
                     driver, in_turn, log, pgbench, quantile)

ROWS = 100_000
BYTES = 128
CLIENTS = (1, 16)
SECONDS = 2 if QUICK else 4
MEMCACHED = os.environ.get('MLC_MEMCACHED_SOCKET')


def update(db, table, clients):
    tps, (took,) = pgbench(db, table, [(f'\\set id random(1, {ROWS})\n'
                                        f'UPDATE {table} SET v = v + 1 WHERE id = :id;\n', 1)],
                           clients, SECONDS)
    return tps, quantile(took, 0.5), quantile(took, 0.99)


def with_mlcache(db, table, prefix, clients):
    db.start_relay()
    boost(db.relay_pid())
    driver(CACHE, 'fill', prefix, ROWS, BYTES, 1)
    figures = update(db, table, clients)
    db.stop_relay()
    return figures


def with_delete(db, clients):
    driver(GLUE, 'fill', PREFIX, ROWS, BYTES, 0)
    return update(db, 'strong_delete', clients)


def run(db):
    names = ['plain', 'delete', 'strong', 'eventual']
    if MEMCACHED:
        names.append('memcache')
    for name in names:
        create_table(db, f'strong_{name}', ROWS)
    db.run(f"CREATE FUNCTION sync_delete() RETURNS trigger LANGUAGE c AS '{BIN}/delete'")
    db.run("CREATE TRIGGER d AFTER UPDATE ON strong_delete FOR EACH ROW "
           f"EXECUTE FUNCTION sync_delete('{GLUE}', '{PREFIX}')")
    db.run("SELECT mlcache.attach('strong_strong', key => %s, consistency => 'strong')", PREFIX + '{id}')
    db.run("SELECT mlcache.attach('strong_eventual', key => 'eventual:{id}', capture => 'trigger')")
    contenders = {
        'no cache': lambda c: update(db, 'strong_plain', c),
        'DEL in a trigger': lambda c: with_delete(db, c),
        'mlcache, strong': lambda c: with_mlcache(db, 'strong_strong', PREFIX, c),
        'mlcache, eventual, trigger': lambda c: with_mlcache(db, 'strong_eventual', 'eventual:', c),
    }
    if MEMCACHED:
        # as pgmemcache's manual does it
        db.run("""
            CREATE FUNCTION memcache_forget() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM memcache_delete(TG_ARGV[0] || OLD.id);
                RETURN NULL;
            END $$""")
        db.run("CREATE TRIGGER d AFTER UPDATE ON strong_memcache FOR EACH ROW "
               f"EXECUTE FUNCTION memcache_forget('{PREFIX}')")
        contenders['pgmemcache'] = lambda c: update(db, 'strong_memcache', c)
    db.stop_relay()
    for clients in CLIENTS:
        rates = Table(f'{clients} clients', 'transactions/s')
        tables = {part: Table(f'{clients} clients, {part}', 'ms') for part in ('p50', 'p99')}
        for _ in range(REPETITIONS):
            for contender in in_turn(contenders):
                tps, p50, p99 = contenders[contender](clients)
                rates.add(contender, tps)
                tables['p50'].add(contender, p50)
                tables['p99'].add(contender, p99)
        rates.print(['no cache', 'DEL in a trigger'])
        for table in tables.values():
            table.print(digits=3)
    if not MEMCACHED:
        log('pgmemcache was not to be had')
    db.start_relay()
    for name in 'strong', 'eventual':
        db.run(f"SELECT mlcache.detach('strong_{name}')")
