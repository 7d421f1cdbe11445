-- Views stat and stat_rules: what is counted, and for which rule.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin

-- counts, and whether the times make sense
CREATE VIEW seen AS
SELECT operation, count,
	CASE WHEN p50 IS NULL THEN 'not timed'
		WHEN p50 > 0 AND p50 <= p99 AND p99 <= p999 AND p999 <= max AND mean <= max AND max < 60000 THEN 'sane'
		ELSE format('%s %s %s %s %s', p50, p99, p999, max, mean) END AS times
FROM mlcache.stat;
CREATE VIEW rules AS
SELECT key, hits_l1, hits_l2, misses, hit_ratio, bypassed, fills, refused FROM mlcache.stat_rules ORDER BY id;

CREATE TABLE p (id int PRIMARY KEY, name text);
INSERT INTO p SELECT g, 'p' || g FROM generate_series(1, 9) g;
CREATE TABLE account (id int PRIMARY KEY, balance int);
INSERT INTO account VALUES (1, 100);
SELECT (mlcache.attach('p', key => 'p:{id}')).id > 0 AS attached;
SELECT (mlcache.attach('account', key => 'account:{id}', consistency => 'strong')).id > 0 AS attached;
SELECT armed();
SELECT mlcache.reset_stats();
SELECT * FROM seen;
SELECT * FROM rules;

-- a load, then hits in L1: all are counted, some are timed
SELECT mlcache.get('p:1');
SELECT count(mlcache.get('p:1')) FROM generate_series(1, 5000);
SELECT * FROM rules;
SELECT * FROM seen WHERE operation ~ '^(get|fill)';

-- free keys and fetch have rows of their own, once there is something to tell
SELECT count(*) FROM mlcache.attach('p', tag => 'p');
SELECT mlcache.set('note', 'x');
SELECT settle();
SELECT mlcache.get('note'), mlcache.get('nothing');
SELECT mlcache.get('note');
SELECT count(mlcache.fetch('count', 'SELECT count(*) FROM p', tags => '{p}')) FROM generate_series(1, 3);
-- a pattern empties L1
SELECT mlcache.invalidate_pattern('nothing:*');
SELECT settle();
SELECT count(mlcache.fetch('count', 'SELECT count(*) FROM p', tags => '{p}'));
BEGIN;
UPDATE p SET name = name WHERE id = 1;
SELECT count(mlcache.fetch('count', 'SELECT count(*) FROM p', tags => '{p}'));
COMMIT;
SELECT settle();
SELECT id, events FROM mlcache.stat_rules WHERE id <= 0 ORDER BY id;
SELECT * FROM rules WHERE key IN ('free keys', 'fetch');
SELECT * FROM seen WHERE operation ~ '^fetch';
SELECT mlcache.detach('p', tag => 'p');
SELECT mlcache.reset_stats();
SELECT count(*) FROM mlcache.stat_rules WHERE id <= 0;
SELECT count(mlcache.get('p:1')) FROM generate_series(1, 5001);

-- one call for many keys is one call, under the slowest source of it
SELECT count(value) FROM mlcache.mget('{p:1,p:2,p:3,p:777,NULL}');
SELECT count(value) FROM mlcache.mget('{p:1,p:2,p:3,p:777,NULL}');
SELECT count(value) FROM mlcache.mget('{}');
SELECT mlcache.get(NULL);
SELECT * FROM rules;
SELECT operation, count FROM mlcache.stat WHERE operation ~ '^(get|fill)';

-- reads that must not use the cache are no misses
BEGIN;
UPDATE p SET name = 'x' WHERE id = 9;
SELECT mlcache.get('p:1');
ROLLBACK;
SELECT * FROM rules;
-- an aborted transaction's reads are reads
BEGIN;
SELECT count(mlcache.get('p:1')) FROM generate_series(1, 10);
ROLLBACK;
SELECT key, hits_l1 FROM rules;

-- what a program outside has filled is a hit in Redis, and then in L1
SELECT 'db' || oid AS ns FROM pg_database WHERE datname = current_database() \gset
SELECT line AS lo FROM redis('FCALL mlc_get 1 p:5 outside 60000 ' || :'ns') WITH ORDINALITY r(line, n) WHERE n = 2 \gset
SELECT mlcache.fill_version() AS hi \gset
SELECT redis(format('FCALL mlc_fill 1 p:5 outside its-copy 0 %s %s 0 %s', :'lo', :'hi', :'ns'));
SELECT mlcache.get('p:5');
SELECT mlcache.get('p:5');
SELECT * FROM rules;
SELECT * FROM seen WHERE operation = 'get L2';

-- a strong commit, one that fails, and one of nothing
SELECT mlcache.reset_stats();
UPDATE account SET balance = 90;
BEGIN; UPDATE account SET balance = 80; ROLLBACK;
SELECT settle();
SELECT * FROM seen WHERE operation IN ('quarantine', 'release');
SELECT operation, count > 0 AS some, times FROM seen WHERE operation = 'apply';

-- locks that were given
SELECT mlcache.lock_acquire('a') > 0 AS given;
SELECT mlcache.lock_acquire_xact('b') > 0 AS given;
SELECT mlcache.lock_release('a');
SELECT * FROM seen WHERE operation = 'lock';

-- what is told is within a sixteenth of what was
DO $$
DECLARE
	s record;
BEGIN
	FOR i IN 1 .. 40 LOOP
		PERFORM mlcache.reset_stats();
		PERFORM mlcache.lock_acquire('a');
		PERFORM pg_sleep(0.01) WHERE i % 10 = 0;
		PERFORM mlcache.lock_release('a');
		SELECT * INTO s FROM mlcache.stat WHERE operation = 'lock';
		IF s.count <> 1 OR s.mean <> s.max OR s.p50 > s.max OR s.p50 < s.mean * 15 / 16 OR s.p50 <> s.p999 THEN
			RAISE WARNING '%', s;
		END IF;
	END LOOP;
END
$$;

-- a fill that comes too late is refused, and cached nowhere
CREATE FUNCTION forget_lease(key text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', (SELECT command FROM mlctest.redis_cli) || ' DEL mlc:{' || key || '} >/dev/null');
	RETURN '"late"';
END
$$;
SELECT (mlcache.attach('account', key => 'late:{id}', consistency => 'strong',
	loader => 'SELECT public.forget_lease(''late:'' || $1)')).id > 0 AS attached;
SELECT settle();
SELECT mlcache.get('late:1');
SELECT mlcache.get('late:1');
SELECT * FROM rules WHERE key = 'late:{id}';

-- anew
SELECT count(mlcache.get('p:1')) FROM generate_series(1, 100);
SELECT mlcache.reset_stats();
SELECT * FROM seen;
SELECT * FROM rules;
SELECT count(*) FROM mlcache.stat WHERE since BETWEEN now() - interval '1 min' AND clock_timestamp();

-- who may look, and who may reset
CREATE ROLE stat_nobody;
CREATE ROLE stat_monitor IN ROLE pg_monitor;
SET ROLE stat_nobody;
SELECT count(*) FROM mlcache.stat;
SELECT mlcache.reset_stats();
SET ROLE stat_monitor;
SELECT count(*) FROM mlcache.stat;
SELECT count(*) FROM mlcache.stat_rules;
SELECT mlcache.reset_stats();
RESET ROLE;

DROP VIEW seen, rules;
DROP TABLE p, account;
DROP FUNCTION forget_lease(text);
DROP ROLE stat_nobody, stat_monitor;
\i :end
