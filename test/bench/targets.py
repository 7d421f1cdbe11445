"""What a commit costs with one, two and three Redis servers, with pgbench."""
import os
import time

from harness import (CACHE, QUICK, REPETITIONS, Table, boost, create_table, driver, in_turn,
                     pgbench, redis_client, wait_for)

ROWS = 100_000
BYTES = 128
CLIENTS = 4
SECONDS = 2 if QUICK else 4
SOCKETS = [CACHE] + os.environ['MLC_MORE_SOCKETS'].split()
RULES = {
    'eventual, wal': "capture => 'wal'",
    'eventual, trigger': "capture => 'trigger'",
    'strong': "consistency => 'strong'",
}


def name_servers(db, n):
    """So many are there, of any number before.  With no relay."""
    for number, socket in enumerate(SOCKETS[1:], 2):
        db.run(f'DROP SERVER IF EXISTS redis{number}')
        if number <= n:
            db.run(f"CREATE SERVER redis{number} FOREIGN DATA WRAPPER mlcache "
                   f"OPTIONS (url 'unix://{socket}')")


def ended_backends(db):
    """CPU seconds of all that the postmaster has seen end."""
    with open(f"/proc/{db.value('SELECT pg_backend_pid()')}/stat", encoding='ascii') as stat:
        postmaster = stat.read().rsplit(')', 1)[1].split()[1]
    with open(f'/proc/{postmaster}/stat', encoding='ascii') as stat:
        fields = stat.read().rsplit(')', 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf('SC_CLK_TCK')


def measure(db, table, n):
    """Transactions a second, and microseconds of a backend's CPU for each."""
    name_servers(db, n)
    db.start_relay()
    boost(db.relay_pid())
    wait_for(lambda: db.row("SELECT count(*), bool_and(state = 'armed') FROM mlcache.stat_servers")
             == (n, True))
    for socket in SOCKETS[:n]:
        driver(socket, 'fill', f'{table}:', ROWS, BYTES, 1)
    before = ended_backends(db)
    tps, (took,) = pgbench(db, table, [(f'\\set id random(1, {ROWS})\n'
                                        f'UPDATE {table} SET v = v + 1 WHERE id = :id;\n', 1)],
                           CLIENTS, SECONDS)
    wait_for(lambda: db.value("SELECT count(*) FROM pg_stat_activity "
                              "WHERE application_name = 'pgbench'") == 0)
    time.sleep(0.3)             # for the postmaster to notice
    cpu = (ended_backends(db) - before) / len(took) * 1e6
    db.stop_relay()
    return tps, cpu


def run(db):
    for socket in SOCKETS[1:]:
        boost(redis_client(socket).info('server')['process_id'])
    db.stop_relay()
    for number, (rule, options) in enumerate(RULES.items()):
        create_table(db, f'targets{number}', ROWS)
        db.run(f"SELECT mlcache.attach('targets{number}', key => 'targets{number}:{{id}}', {options})")
    contenders = {f'{rule}, {n}': (f'targets{number}', n)
                  for number, rule in enumerate(RULES) for n in range(1, len(SOCKETS) + 1)}
    rates = {rule: Table(f'{rule}, {CLIENTS} clients', 'transactions/s') for rule in RULES}
    costs = {rule: Table(f'{rule}: CPU of the backend', 'us a transaction') for rule in RULES}
    for table in *rates.values(), *costs.values():
        table.figures = {str(n): [] for n in range(1, len(SOCKETS) + 1)}
    for _ in range(REPETITIONS):
        for contender in in_turn(contenders):
            rule, n = contender.rsplit(', ', 1)
            tps, cpu = measure(db, *contenders[contender])
            rates[rule].add(n, tps)
            costs[rule].add(n, cpu)
    for rule in RULES:
        rates[rule].print(['1'])
        costs[rule].print(['1'], digits=1)
    name_servers(db, 1)
    db.start_relay()
    for number in range(len(RULES)):
        db.run(f"SELECT mlcache.detach('targets{number}')")
