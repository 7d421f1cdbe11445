"""test/bench/audit/clean: see there."""
import os
import re
import subprocess
import sys
import time

from common import cache, db, log, sql, wait_applied

MINUTES, RATE, ROWS = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
BINDIR, WORK = os.environ['MLC_PG_BINDIR'], os.environ['MLC_WORK']
RULES = {
    'i': "",
    'u': "action => 'update'",
    'w': "action => 'update', consistency => 'weak'",
    's': "consistency => 'strong'",
    'r': "action => 'replicate'",
    'd': "action => 'refresh', loader => 'SELECT json_build_object(''id'', id, ''v'', v) FROM d WHERE id = $1'",
}
EACH = ROWS // len(RULES)


def prepare():
    sql("CREATE EXTENSION mlcache")
    sql("CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url %s, timeout '20000')",
        'unix://' + os.environ['MLC_REDIS_SOCKET'])
    sql("CREATE TABLE fence (n int)")
    for table, options in RULES.items():
        sql(f"CREATE TABLE {table} (id int PRIMARY KEY, v int NOT NULL, pad text) WITH (fillfactor = 70)")
        sql(f"SELECT mlcache.attach('{table}', key => '{table}:{{id}}'{', ' if options else ''}{options})")
    while sql("SELECT state FROM mlcache.stat_servers")[0][0] != 'armed':
        time.sleep(0.05)
    for table in RULES:
        sql(f"INSERT INTO {table} SELECT g, 0, repeat('x', 60) FROM generate_series(1, {EACH}) g")
    wait_applied('5 min')
    for table in RULES:
        sql(f"""SELECT count(value) FROM generate_series(1, {EACH}, 1000) g,
            LATERAL mlcache.mget(ARRAY(SELECT '{table}:' || i
                FROM generate_series(g, least(g + 999, {EACH})) i))""")


def start_load():
    """One change in twenty deletes a row, one puts it there again; one in five reads."""
    scripts = []
    for table in RULES:
        path = f'{WORK}/{table}.sql'
        with open(path, 'w') as script:
            script.write(f"""\\set id random(1, {EACH})
\\set dice random(1, 20)
\\if :dice = 1
DELETE FROM {table} WHERE id = :id;
\\elif :dice < 4
INSERT INTO {table} VALUES (:id, 0, 'new') ON CONFLICT (id) DO UPDATE SET v = {table}.v + 1;
\\else
UPDATE {table} SET v = v + 1 WHERE id = :id;
\\endif
\\if :dice > 16
SELECT mlcache.get('{table}:' || :id);
\\endif
""")
        scripts += ['-f', path]
    return subprocess.Popen([f'{BINDIR}/pgbench', '-n', '-M', 'prepared', '-c', '6', '-j', '1', '-R', str(RATE),
                             '-T', str(int(MINUTES * 60)), *scripts],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Sum:
    found, compared, unsettled, audits = {}, 0, 0, 0


def audit(table):
    del db.notices[:]
    found = dict(sql("SELECT key, class FROM mlcache.audit(%s)", table))
    said = ''.join(db.notices)
    Sum.compared += int(re.search(r'(\d+) cached keys compared', said).group(1))
    Sum.unsettled += sum(int(n) for n in re.findall(r'(\d+) keys differ and could not', said))
    Sum.audits += 1
    return found


def row(*cells):
    print('| ' + ' | '.join(str(cell) for cell in cells) + ' |', flush=True)


prepare()
log('filled')
sql("SELECT mlcache.reset_stats()")
load = start_load()
while load.poll() is None:
    for name in RULES:
        Sum.found.update(audit(name))
    log(f'{Sum.audits} audits, {Sum.compared:,} copies, found {Sum.found}')
out, err = load.communicate()
rate = re.search(r'^tps = ([0-9.]+)', out, re.M)
changes = re.search(r'transactions actually processed: (\d+)', out)
if not rate or not changes:
    sys.exit('pgbench failed: ' + err)
wait_applied('5 min')
for name in RULES:
    Sum.found.update(audit(name))
checked, violations, probes, overdue, p50, p99, worst = sql(
    "SELECT checked, violations, probes, overdue, convergence_p50_ms, convergence_p99_ms, convergence_max_ms"
    " FROM mlcache.consistency WHERE \"window\" = '1 day'")[0]

# it would have found something
keys = [f'{name}:1' for name in RULES]
for name in RULES:
    sql(f"INSERT INTO {name} VALUES (1, 0, '') ON CONFLICT DO NOTHING")
wait_applied('5 min')
sql("SELECT count(*) FROM mlcache.mget(%s)", keys)
for key in keys:
    cache.set(key, '{}', keepttl=True)
seeded = {}
for name in RULES:
    seeded.update(audit(name))

print('| what | count |\n|---|---|')
row('changes', f'{int(changes.group(1)):,}, {float(rate.group(1)):,.0f} a second for {MINUTES:g} min')
row('compared by audit()', f'{Sum.compared:,} in {Sum.audits} audits')
row('compared in all, the auditor included', f'{checked:,}')
row('violations', f'{len(Sum.found)} found by audit(), {violations} counted')
row('left unsettled', Sum.unsettled)
row('convergence', f'{probes} probes, {overdue} overdue, p50 {p50} ms, p99 {p99} ms, max {worst} ms')
row(f'seeded in the end, of {len(keys)}', len(seeded))
if Sum.found or violations or set(seeded) != set(keys):
    sys.exit(f'found {Sum.found}, counted {violations}, seeded {seeded}')
