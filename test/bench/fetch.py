"""fetch and free keys: what a hit costs, and what invalidating tags does to L1.

A pattern empties L1 as a whole, which is what every tag would do if lines knew
nothing of tags; so it is measured beside them.
"""
import subprocess

from harness import BINDIR, QUICK, REPETITIONS, WORK, Table, in_turn, pgbench, renice, wait_for

DOCUMENTS = 100                 # that L1 holds
MANY = 20_000                   # that it does not
RATE = 100                      # invalidations a second
SECONDS = 2 if QUICK else 4

FETCH = ("SELECT mlcache.fetch('list:' || :id, 'SELECT id, v, pad FROM part WHERE grp = $1 ORDER BY v DESC', "
         "ARRAY[(:id)::text], '1 h', '{list}');\n")
QUERY = 'SELECT json_agg(p) FROM (SELECT id, v, pad FROM part WHERE grp = :id ORDER BY v DESC) p;\n'
FEW = f'\\set id random(1, {DOCUMENTS})\n'
ALL = f'\\set n :n + 1\n\\set id 1 + mod(:n, {MANY})\n'     # each in its turn: L1 has let it go


def sources(db, row):
    """Shares of L1 and Redis, %."""
    l1, l2, all_reads = db.row("SELECT hits_l1, hits_l2, hits_l1 + hits_l2 + misses + bypassed "
                               "FROM mlcache.stat_rules WHERE " + row)
    return 100 * l1 / all_reads, 100 * l2 / all_reads


class Writer:
    """Invalidates at a steady rate; nothing: not at all."""

    def __init__(self, statement):
        self.process = None
        if statement:
            path = f'{WORK}/writer.pgbench'
            with open(path, 'w', encoding='ascii') as out:
                out.write(statement)
            self.process = subprocess.Popen(
                [f'{BINDIR}/pgbench', '-n', '-T', '1000', '-R', str(RATE), '-f', path],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=renice)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()


def hits(db):
    """1 client, one statement."""
    contenders = {
        'SELECT 1': (FEW, 'SELECT 1;\n', None),
        'the query': (FEW, QUERY, None),
        'fetch, hit in L1': (FEW, FETCH, 'id = -1'),
        'fetch, hit in Redis': (ALL, FETCH, 'id = -1'),
        'free key, hit in L1': (FEW, "SELECT mlcache.get('free:' || :id);\n", 'id = 0'),
        'free key, hit in Redis': (ALL, "SELECT mlcache.get('free:' || :id);\n", 'id = 0'),
    }
    rates = Table('1 client, one read', 'reads/s')
    shares = Table('answered as named', '%')
    for _ in range(REPETITIONS):
        for name in in_turn(contenders):
            choose, text, row = contenders[name]
            pgbench(db, 'warm', [(choose + text, 1)], 1, 1)
            db.run("SELECT mlcache.reset_stats()")
            rates.add(name, pgbench(db, 'hit', [(choose + text, 1)], 1, SECONDS)[0])
            if row:
                shares.add(name, sources(db, row)['Redis' in name])
    rates.print(['SELECT 1', 'the query'])
    shares.print(digits=1)


def invalidations(db):
    """Rows, documents and free keys read from L1 while something is invalidated."""
    contenders = {
        'nothing': None,
        'another tag': "SELECT mlcache.invalidate_tag('other');\n",
        'the tag of the documents': "SELECT mlcache.invalidate_tag('list');\n",
        'a pattern (all of L1)': "SELECT mlcache.invalidate_pattern('other:*');\n",
    }
    scripts = [(FEW + "SELECT mlcache.get('part:' || :id);\n", 1), (FEW + FETCH, 1),
               (FEW + "SELECT mlcache.get('free:' || :id);\n", 1)]
    rates = Table('reads/s', 'reads/s')
    shares = {what: Table(f'{what}: share of L1', '%') for what in ('rows', 'documents', 'free keys')}
    for _ in range(REPETITIONS):
        for name in in_turn(contenders):
            writer = Writer(contenders[name])
            pgbench(db, 'warm', scripts, 1, 1)
            db.run("SELECT mlcache.reset_stats()")
            rates.add(name, pgbench(db, 'read', scripts, 1, SECONDS)[0])
            for what, row in ('rows', "key = 'part:{id}'"), ('documents', 'id = -1'), ('free keys', 'id = 0'):
                shares[what].add(name, sources(db, row)[0])
            writer.stop()
            db.wait_applied()
    print(f'\nA writer invalidates {RATE} times a second; 1 client reads.')
    rates.print(['nothing'])
    for table in shares.values():
        table.print(digits=1)


def run(db):
    db.run(f"""
        CREATE TABLE part (id int PRIMARY KEY, grp int, v int, pad text);
        INSERT INTO part SELECT g, 1 + g % {MANY}, g * 7 % 1000, repeat('x', 100)
            FROM generate_series(1, 10 * {MANY}) g;
        CREATE INDEX ON part (grp)""")
    db.run("VACUUM ANALYZE part")
    db.run("SELECT mlcache.attach('part', key => 'part:{id}')")
    wait_for(lambda: db.state() == 'armed')
    for first in range(1, MANY, 1000):
        db.run(f"SELECT mlcache.set('free:' || g, repeat('x', 1500)) FROM generate_series({first}, {first + 999}) g")
    db.wait_applied()
    pgbench(db, 'fill', [(ALL + FETCH, 1)], 1, 10)
    hits(db)
    invalidations(db)
