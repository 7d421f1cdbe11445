"""What the measurements share: connections, the peers' processes, tables.

Environment: PGHOST and its like; MLC_PG_BINDIR; MLC_CACHE_SOCKET, a Redis that
mlcache serves, and MLC_GLUE_SOCKET, one for the peers; MLC_BENCH_BIN, where the
drivers were built; MLC_WORK.
"""
import glob
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time

import psycopg2
import redis

HERE = os.path.dirname(os.path.abspath(__file__))
BINDIR = os.environ['MLC_PG_BINDIR']
CACHE = os.environ['MLC_CACHE_SOCKET']
GLUE = os.environ['MLC_GLUE_SOCKET']
BIN = os.environ['MLC_BENCH_BIN']
WORK = os.environ['MLC_WORK']
REPETITIONS = int(os.environ.get('BENCH_REPETITIONS', '5'))
QUICK = os.environ.get('BENCH_QUICK', '') == '1'
NICE = int(os.environ.get('BENCH_NICE', '0'))
PROFILES = os.environ.get('BENCH_PERF')
PREFIX = 'item:'
PAD = 100                       # bytes of a row beside its numbers


def log(*words):
    print(time.strftime('%H:%M:%S'), *words, file=sys.stderr, flush=True)


def boost(pid):
    """Measured processes go before what else the machine does, if asked to."""
    if NICE:
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        # Linux weighs sessions first, where it groups processes by them; one
        # that others are in, such as the caller's, is left as it is
        group = f'/proc/{pid}/autogroup'
        if os.getsid(pid) == pid and os.path.exists(group):
            with open(group, 'w', encoding='ascii') as out:
                out.write(str(NICE))


def renice():
    """In a child, before it becomes what is measured: in a session of its own."""
    if NICE:
        os.setsid()
        boost(os.getpid())


class Database:
    """One session, each statement its own transaction."""

    def __init__(self):
        self.conn = psycopg2.connect('')
        self.conn.autocommit = True
        self.cursor = self.conn.cursor()

    def run(self, query, *args):
        self.cursor.execute(query, args or None)

    def value(self, query, *args):
        self.run(query, *args)
        return self.cursor.fetchone()[0]

    def row(self, query, *args):
        self.run(query, *args)
        return self.cursor.fetchone()

    def set(self, name, value):
        """A setting of the whole server, in force when this returns."""
        self.run(f"ALTER SYSTEM SET {name} = '{value}'")
        before = self.value("SELECT pg_conf_load_time()")
        self.run("SELECT pg_reload_conf()")
        wait_for(lambda: self.value("SELECT pg_conf_load_time()") != before)

    def state(self):
        return self.value("SELECT state FROM mlcache.stat_servers WHERE server = 'redis'")

    def pause(self):
        """Nothing is delivered, or decoded, from now on."""
        self.wait_applied()
        # what was applied is published once more in a quiet second
        time.sleep(1.5)
        self.run("SELECT mlcache.pause('redis')")
        wait_for(lambda: self.state() == 'paused')

    def commit_version(self):
        self.run("SET synchronous_commit = on")
        self.run("UPDATE bench_last SET n = n + 1")
        self.run("RESET synchronous_commit")
        return self.value("SELECT mlcache.last_commit_version()")

    def wait_applied(self, version=None, timeout=600):
        if not self.value("SELECT mlcache.wait_applied(%s, %s * interval '1 s')",
                          version or self.commit_version(), timeout):
            sys.exit('not applied in time: %s' % (self.row(
                "SELECT state, last_error FROM mlcache.stat_servers WHERE server = 'redis'"),))

    def stop_relay(self):
        self.set('mlcache.relay_enabled', 'off')
        wait_for(lambda: self.relay_pid() is None)

    def start_relay(self):
        """With everything applied that was written meanwhile."""
        self.set('mlcache.relay_enabled', 'on')
        wait_for(lambda: self.relay_pid() is not None)
        self.wait_applied()
        wait_for(lambda: self.state() == 'armed')

    def relay_pid(self):
        return self.value("SELECT max(pid) FROM pg_stat_activity "
                          "WHERE backend_type = 'mlcache relay' AND datname = current_database()")


def wait_for(condition, timeout=60):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.005)


def redis_client(socket):
    return redis.Redis(unix_socket_path=socket)


def driver(socket, *words):
    """Seconds the driver says it took."""
    out = subprocess.run([f'{BIN}/driver', socket, *map(str, words)], check=True,
                         capture_output=True, text=True, preexec_fn=renice)
    return float(out.stdout)


def recvlogical(slot, options=(), endpos=None, stdout=subprocess.DEVNULL):
    command = [f'{BINDIR}/pg_recvlogical', '-d', os.environ['PGDATABASE'], '--slot', slot,
               '--start', '--no-loop', '-f', '-', '-F', '0']
    for option in options:
        command += ['-o', option]
    if endpos:
        command += ['--endpos', endpos]
    process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL,
                               preexec_fn=renice)
    if NICE:
        db = Database()
        wait_for(lambda: process.poll() is not None or db.value(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s AND active", slot))
        db.run("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND active", slot)
        for pid, in db.cursor.fetchall():
            boost(pid)
        db.conn.close()
    return process


WAL2JSON = ('format-version=2', 'include-transaction=false', 'include-types=false',
            'filter-tables=*.bench_last,mlcache.*')


def pgbench(db, name, scripts, clients, seconds):
    """Transactions a second, and of each script the ms its transactions took,
    ascending.  scripts: of (text, weight)."""
    prefix = f'{WORK}/{name}'
    command = [f'{BINDIR}/pgbench', '-n', '-M', 'prepared', '-T', str(seconds), '-c', str(clients),
               '-j', str(min(clients, 2)), '-D', 'n=0', '-l', '--log-prefix', prefix + '.log']
    for number, (text, weight) in enumerate(scripts):
        path = f'{prefix}.{number}.pgbench'
        with open(path, 'w', encoding='ascii') as out:
            out.write(text)
        command += ['-f', f'{path}@{weight}']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=renice)
    if NICE:
        wait_for(lambda: db.value("SELECT count(*) FROM pg_stat_activity "
                                  "WHERE application_name = 'pgbench'") == clients)
        db.run("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'")
        for pid, in db.cursor.fetchall():
            boost(pid)
    out = process.communicate()[0]
    if process.returncode != 0:
        raise RuntimeError('pgbench failed')
    took = [[] for _ in scripts]
    for path in glob.glob(prefix + '.log.*'):
        with open(path, encoding='ascii') as lines:
            for line in lines:
                field = line.split(' ', 4)
                took[int(field[3])].append(int(field[2]) / 1000)
        os.unlink(path)
    return float(re.search(r'^tps = ([0-9.]+)', out, re.M).group(1)), [sorted(t) for t in took]


def quantile(values, q):
    """Of ascending values."""
    return values[min(int(len(values) * q), len(values) - 1)] if values else float('nan')


class Glue:
    """wal2json, pg_recvlogical, glue.py: running until stop() or endpos."""

    def __init__(self, what='del', slot='peer_glue'):
        self.what = what
        self.slot = slot
        self.receiver = None
        read, self.write = os.pipe()
        self.consumer = subprocess.Popen(
            [sys.executable, f'{HERE}/glue.py', GLUE, what, PREFIX], stdin=read,
            stdout=subprocess.PIPE, preexec_fn=renice)
        os.close(read)
        self.consumer.stdout.readline()         # ready

    def start(self, endpos=None):
        self.receiver = recvlogical(self.slot, WAL2JSON, endpos, self.write)
        os.close(self.write)

    def wait(self):
        if self.receiver.wait() != 0 or self.consumer.wait() != 0:
            sys.exit('the glue failed')

    def stop(self):
        self.receiver.terminate()
        self.receiver.wait()
        self.consumer.wait()


def create_slot(db, name, plugin):
    db.run("SELECT pg_create_logical_replication_slot(%s, %s)", name, plugin)


def drop_slot(db, name):
    """Once its receiver has gone."""
    wait_for(lambda: not db.value(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s AND active", name))
    db.run("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
           "WHERE slot_name = %s", name)


class Profile:
    """perf on the relay, into BENCH_PERF/NAME.txt; nothing without BENCH_PERF."""

    def __init__(self, name):
        self.data = f'{PROFILES}/{name}' if PROFILES else None
        self.process = None

    def start(self, db):
        if self.data:
            self.process = subprocess.Popen(
                ['perf', 'record', '-q', '-F', '999', '-g', '-p', str(db.relay_pid()),
                 '-o', self.data + '.data'], stderr=subprocess.DEVNULL)
            time.sleep(0.5)

    def stop(self):
        if self.data:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()
            with open(self.data + '.txt', 'w') as out:
                subprocess.run(['perf', 'report', '-i', self.data + '.data', '--stdio',
                                '--no-children', '-g', 'none', '--percent-limit', '0.5'],
                               stdout=out, stderr=subprocess.DEVNULL, check=True)


class Table:
    """Figures of several contenders, measured in turn."""

    def __init__(self, title, unit):
        self.title = title
        self.unit = unit
        self.figures = {}

    def add(self, contender, figure):
        self.figures.setdefault(contender, []).append(figure)
        log(f'{self.title}: {contender} {figure:,.4g} {self.unit}')

    def ratio(self, contender, peer):
        """Median of the ratios of each turn."""
        return statistics.median(a / b for a, b in zip(self.figures[contender], self.figures[peer]))

    def print(self, peers=(), digits=0):
        print(f'\n### {self.title}\n')
        head = ['', f'median, {self.unit}', 'least - most'] + [f'x {peer}' for peer in peers]
        print('| ' + ' | '.join(head) + ' |')
        print('|' + '---|' * len(head))
        for contender, figures in self.figures.items():
            cells = [contender, f'{statistics.median(figures):,.{digits}f}',
                     f'{min(figures):,.{digits}f} - {max(figures):,.{digits}f}']
            for peer in peers:
                cells.append(f'{self.ratio(contender, peer):.2f}')
            print('| ' + ' | '.join(cells) + ' |')
        sys.stdout.flush()


def in_turn(contenders):
    """The contenders in another order every time."""
    order = list(contenders)
    random.shuffle(order)
    return order


def prepare():
    """A database with mlcache, one server, and the procedure that writes."""
    db = Database()
    db.run("CREATE EXTENSION mlcache")
    db.run(f"CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url 'unix://{CACHE}')")
    for socket in CACHE, GLUE:
        boost(redis_client(socket).info('server')['process_id'])
    db.run("CREATE TABLE bench_last (n int)")
    db.run("INSERT INTO bench_last VALUES (0)")
    # every row of 1 .. total once, scattered, so many rows a transaction
    db.run("""
        CREATE PROCEDURE bench_write(target regclass, total int, rows int) LANGUAGE plpgsql AS $$
        DECLARE
            n int := 0;
        BEGIN
            WHILE n < total LOOP
                IF rows = 1 THEN
                    EXECUTE format('UPDATE %s SET v = v + 1 WHERE id = $1', target)
                        USING (1 + n::bigint * 611953 % total)::int;
                ELSE
                    EXECUTE format('UPDATE %s SET v = v + 1 WHERE id = ANY($1)', target)
                        USING ARRAY(SELECT (1 + i::bigint * 611953 % total)::int
                                    FROM generate_series(n, n + rows - 1) i);
                END IF;
                COMMIT;
                n := n + rows;
            END LOOP;
        END $$""")
    return db


def create_table(db, name, rows):
    db.run(f"CREATE TABLE {name} (id int PRIMARY KEY, v int NOT NULL, pad text NOT NULL) "
           "WITH (fillfactor = 50, autovacuum_enabled = off)")
    db.run(f"INSERT INTO {name} SELECT 1 + i::bigint * 611953 %% {rows}, 0, repeat('x', {PAD}) "
           f"FROM generate_series(0, {rows} - 1) i".replace('%%', '%'))
    db.run(f"VACUUM ANALYZE {name}")
