"""test/bench/audit/run: see there."""
import os
import statistics
import subprocess
import sys
import time

from common import cache, db, log, sql, wait_applied

ROWS, SECONDS, RATE = (int(word) for word in sys.argv[1:4])
BINDIR, WORK = os.environ['MLC_PG_BINDIR'], os.environ['MLC_WORK']
SIZES = {'a': ROWS - ROWS // 10, 'b': ROWS // 10}
ACTIONS = {'a': 'update', 'b': 'invalidate'}
TABLES = list(SIZES)
TURNS = 5
TURN = max(3, min(10, SECONDS // 6))
EACH = 25                       # faults of a kind and table


def audit(tables=TABLES, repair=False):
    """{key: class}, copies compared, seconds."""
    found, compared, start = {}, 0, time.monotonic()
    for table in tables:
        del db.notices[:]
        found.update(sql("SELECT key, class FROM mlcache.audit(%s, repair => %s)", table, repair))
        compared += int(db.notices[-1].split(': ', 2)[2].split()[0])
        if any('could not be judged' in notice for notice in db.notices):
            sys.exit('not settled: ' + ''.join(db.notices))
    return found, compared, time.monotonic() - start


class Load:
    """pgbench: updates with synchronous commits, one in five read through mlcache."""

    def __init__(self, name, seconds, rate=0, reads=True):
        path = f'{WORK}/{name}.sql'
        with open(path, 'w') as script:
            script.write(f'\\set a random(1, {SIZES["a"]})\n\\set b random(1, {SIZES["b"]})\n'
                         '\\set dice random(1, 5)\n\\if :dice < 5\n'
                         'UPDATE a SET v = v + 1 WHERE id = :a;\n'
                         '\\else\nUPDATE b SET v = v + 1 WHERE id = :b;\n\\endif\n')
            if reads:
                script.write("\\if :dice = 1\nSELECT mlcache.get('a:' || :a), "
                             "mlcache.get('b:' || :b);\n\\endif\n")
        command = [f'{BINDIR}/pgbench', '-n', '-M', 'prepared', '-c', '4', '-j', '1', '-T',
                   str(seconds), '-f', path]
        if rate:
            command += ['-R', str(rate)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)

    def running(self):
        return self.process.poll() is None

    def tps(self):
        out, err = self.process.communicate()
        for line in out.split('\n'):
            if line.startswith('tps = '):
                return float(line.split()[2])
        sys.exit('pgbench failed: ' + err)

    def stop(self):
        self.process.terminate()
        self.process.communicate()


def prepare():
    sql("CREATE EXTENSION mlcache")
    sql("CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url %s, timeout '20000')",
        'unix://' + os.environ['MLC_REDIS_SOCKET'])
    sql("CREATE TABLE fence (n int)")
    for table, action in ACTIONS.items():
        sql(f"CREATE TABLE {table} (id int PRIMARY KEY, v int NOT NULL, pad text) "
            "WITH (fillfactor = 70)")
        sql(f"INSERT INTO {table} SELECT 1 + i::bigint * 611953 % {SIZES[table]}, 0, "
            f"repeat('x', 60) FROM generate_series(0, {SIZES[table]} - 1) i")
        sql(f"VACUUM ANALYZE {table}")
        sql("SELECT mlcache.attach(%s, key => %s, action => %s)", table, table + ':{id}', action)
    while sql("SELECT state FROM mlcache.stat_servers")[0][0] != 'armed':
        time.sleep(0.05)
    wait_applied('60 s')
    fill()


def fill():
    for table in TABLES:
        sql(f"""SELECT count(value) FROM generate_series(1, {SIZES[table]}, 1000) g,
            LATERAL mlcache.mget(ARRAY(SELECT '{table}:' || i
                FROM generate_series(g, least(g + 999, {SIZES[table]})) i))""")


def row(table, cells):
    print('| ' + ' | '.join(str(cell) for cell in (table, *cells)) + ' |', flush=True)


def spread(figures, digits=0):
    return (f'{statistics.median(figures):,.{digits}f}',
            f'{min(figures):,.{digits}f} - {max(figures):,.{digits}f}')


def speed():
    figures = []
    for _ in range(TURNS):
        found, compared, seconds = audit(['a'])
        if found:
            sys.exit(f'invented: {found}')
        figures.append(compared / seconds)
        log(f'{compared} copies in {seconds:.2f} s: {compared / seconds:,.0f} a second')
    row('copies compared a second, no writers', spread(figures))


def audits_while(load, tables=TABLES):
    n = 0
    while load.running():
        found, compared, seconds = audit(tables)
        n += 1
        if found:
            load.stop()
            sys.exit(f'invented: {found}')
        yield compared, seconds
    log(f'{n} audits')


def writers(rate):
    shares, alone, speeds = [], [], []
    for _ in range(TURNS):
        alone.append(Load('writers', TURN, rate, reads=False).tps())
        load = Load('writers', TURN, rate, reads=False)
        speeds += [compared / seconds for compared, seconds in audits_while(load, ['a'])]
        shares.append(load.tps() / alone[-1])
        log(f'writers {alone[-1]:,.0f} a second; beside audits x {shares[-1]:.2f}')
    row(f'{rate:,} writes a second asked for' if rate else 'writes, as fast as they can, a second',
        spread(alone))
    row('beside audits, as a share', spread(shares, 2))
    row('copies compared a second beside them', spread(speeds))
    fill()


def clean():
    load = Load('clean', SECONDS, RATE)
    copies = audits = 0
    for compared, _ in audits_while(load):
        copies += compared
        audits += 1
    row(f'false alarms in {SECONDS} s', (0, f'{audits} audits, {copies:,} copies, '
                                            f'{load.tps():,.0f} writes a second'))


def set_fault(text):
    with open(os.environ['MLC_FAULT_CONF'], 'w') as conf:
        conf.write(text)
    sql("SELECT pg_reload_conf()")
    while bool(sql("SELECT current_setting('mlcache.fault_points') <> ''")[0][0]) != bool(text):
        time.sleep(0.02)


def faults():
    """On keys that the load writes to as well: what it heals must not be found."""
    seeded, kinds = {}, {}
    for name in TABLES:
        sql(f"INSERT INTO {name} SELECT i, 0, 'quiet' FROM generate_series({ROWS} + 1, {ROWS} + {6 * EACH}) i")
    wait_applied('60 s')
    for name in TABLES:
        sql(f"SELECT count(*) FROM mlcache.mget(ARRAY(SELECT '{name}:' || i FROM generate_series({ROWS} + 1, {ROWS} + {6 * EACH}) i))")
    load = Load('faults', 3600, RATE)
    time.sleep(1)
    lost = [f'{name}:{ROWS + 5 * EACH + i}' for name in TABLES for i in range(1, EACH + 1)]
    set_fault("mlcache.fault_points = '" + ','.join(f'lose-{key}=skip' for key in lost) + "'\n")
    for name in TABLES:
        def key(kind, i):
            return f'{name}:{ROWS + kind * EACH + i}'
        for i in range(1, EACH + 1):
            cache.set(key(0, i), '{"id":%d,"v":-1,"pad":"quiet"}' % (ROWS + i), keepttl=True)
            seeded[key(0, i)] = 'stale'
            cache.set(key(1, i), '\x00 garbage \xff'.encode('latin-1'), keepttl=True)
            seeded[key(1, i)] = 'corrupt'
            cache.delete('mlc:{%s}' % key(2, i))
            seeded[key(2, i)] = 'unguarded'
            cache.set('mlc:{%s}' % key(3, i), 'garbage')
            seeded[key(3, i)] = 'unguarded'
            orphan = f'{name}:{10 * ROWS + i}'
            cache.copy(key(4, i), orphan)
            cache.copy('mlc:{%s}' % key(4, i), 'mlc:{%s}' % orphan)
            seeded[orphan] = 'orphan'
            sql(f"UPDATE {name} SET v = v + 1 WHERE id = {ROWS + 5 * EACH + i}")
            seeded[key(5, i)] = 'stale'
    wait_applied('60 s')
    set_fault('')
    found, compared, seconds = audit()
    log(f'{compared} copies in {seconds:.2f} s')
    missed = {key: value for key, value in seeded.items() if found.get(key) != value}
    invented = {key: value for key, value in found.items() if key not in seeded}
    row(f'faults found of {len(seeded)}', (len(seeded) - len(missed), f'{len(invented)} invented, among {compared:,} copies'))
    audit(repair=True)
    wait_applied('60 s')
    left, _, _ = audit()
    row('left after repair', (len(left), ''))
    load.stop()
    if missed or invented or left:
        sys.exit(f'missed {missed}, invented {invented}, left {left}')


log('filling')
prepare()
log('filled')
print('| what | median | least - most |\n|---|---|---|', flush=True)
speed()
writers(RATE)
writers(0)
clean()
faults()
