-- Keys that no rule gives: set, delete and invalidate are part of the transaction.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE t (id int PRIMARY KEY, name text);

-- nobody would deliver it
SELECT mlcache.set('greeting', 'hello');
\echo :SQLSTATE

SELECT mlcache.attach('t', key => 'fk:{id}');
SELECT armed();
SELECT listen() \gset

-- takes effect at commit, in and outside PostgreSQL
BEGIN;
SELECT mlcache.set('greeting', 'hello');
SELECT mlcache.get('greeting');
SELECT * FROM redis('--raw EXISTS greeting');
COMMIT;
SELECT settle();
SELECT mlcache.get('greeting'), (mlcache.last_read()).source;
SELECT * FROM redis('--raw GET greeting');
SELECT * FROM events();

-- a time to live, an empty value, any text
SELECT mlcache.set('short', 'x', '100 s'), mlcache.set('empty', ''),
	mlcache.set('odd', E'a"\\\n{}ü');
SELECT settle();
SELECT line::int BETWEEN 1 AND 100 AS ttl FROM redis('--raw TTL short') line;
SELECT mlcache.get('empty') = '' AS empty, mlcache.get('odd') = E'a"\\\n{}ü' AS odd;
SELECT mlcache.exists('empty'), mlcache.exists('nothing');
SELECT * FROM mlcache.mget(ARRAY['greeting', 'nothing', NULL, 'empty', 'fk:1']);
SELECT * FROM events();

-- L1 has what was read, for the rest of its time
SELECT mlcache.set('brief', 'x', '10 s'), mlcache.set('touched', 'x', '1 hour');
SELECT settle();
SELECT mlcache.get('greeting'), (mlcache.last_read()).source;
SELECT mlcache.get('brief'), (mlcache.last_read()).source;
SELECT mlcache.get('brief'), (mlcache.last_read()).source;
SELECT mlcache.get('touched'), (mlcache.last_read()).source;
SELECT mlcache.get('touched'), (mlcache.last_read()).source;
SELECT mlcache.touch('touched', '50 ms');
SELECT settle();
CREATE PROCEDURE until_gone(key text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN mlcache.get(key) IS NULL;
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
CALL until_gone('brief');
CALL until_gone('touched');
SELECT mlcache.get('brief'), mlcache.get('touched');
-- not that nothing is there
SELECT mlcache.get('nothing'), (mlcache.last_read()).source;
SELECT mlcache.get('nothing'), (mlcache.last_read()).source;
-- a transaction that has written has its own, also after a pattern
BEGIN;
SELECT mlcache.set('greeting', 'mine');
SELECT mlcache.get('greeting'), (mlcache.last_read()).source;
ROLLBACK;
BEGIN;
SELECT mlcache.invalidate_pattern('gree*');
SELECT mlcache.get('greeting'), (mlcache.last_read()).source;
ROLLBACK;
SELECT mlcache.get('greeting'), (mlcache.last_read()).source;
SELECT listen() \gset

-- one event a key a transaction: the last
BEGIN;
SELECT mlcache.set('greeting', 'one'), mlcache.delete('greeting'), mlcache.set('greeting', 'two');
SELECT mlcache.get('greeting');
SELECT mlcache.set('short', 'y'), mlcache.delete('short');
SELECT mlcache.get('short');
COMMIT;
SELECT settle();
SELECT mlcache.get('greeting'), mlcache.get('short');
SELECT * FROM events();

-- rolled back: nothing
BEGIN;
SELECT mlcache.set('greeting', 'three'), mlcache.delete('empty');
ROLLBACK;
SELECT mlcache.get('greeting'), mlcache.get('empty');
SELECT * FROM events();

-- savepoints
BEGIN;
SELECT mlcache.set('greeting', 'four');
SAVEPOINT a;
SELECT mlcache.set('greeting', 'five'), mlcache.set('other', 'x');
SELECT mlcache.get('greeting');
ROLLBACK TO a;
SELECT mlcache.get('greeting'), mlcache.get('other');
SAVEPOINT b;
SELECT mlcache.delete('empty');
RELEASE b;
COMMIT;
SELECT settle();
SELECT mlcache.get('greeting'), mlcache.get('other'), mlcache.get('empty');
SELECT * FROM events();

-- two-phase
BEGIN;
SELECT mlcache.set('greeting', 'six');
PREPARE TRANSACTION 'mlctest';
SELECT mlcache.get('greeting');
COMMIT PREPARED 'mlctest';
SELECT settle();
SELECT mlcache.get('greeting');
SELECT * FROM events();

-- the entries of rows are the rows': only invalidate goes for them
INSERT INTO t VALUES (1, 'one');
SELECT settle();
SELECT listen() \gset
SELECT mlcache.get('fk:1'), (mlcache.last_read()).source;
SELECT mlcache.get('fk:1'), (mlcache.last_read()).source;
SELECT mlcache.invalidate('fk:1');
SELECT settle();
SELECT mlcache.get('fk:1'), (mlcache.last_read()).source;
SELECT * FROM events();
\set VERBOSITY default
SELECT mlcache.set('fk:1', 'forged');
\set VERBOSITY terse

-- another time to live: of what is there
SELECT mlcache.set('t1', 'x'), mlcache.set('t2', 'x', '100 s');
SELECT settle();
SELECT listen() \gset
SELECT mlcache.touch('t1', '100 s'), mlcache.touch('t2'), mlcache.touch('nothing', '100 s');
SELECT settle();
SELECT line::int BETWEEN 1 AND 100 AS ttl FROM redis('--raw TTL t1') line;
SELECT * FROM redis('--raw TTL t2');
SELECT * FROM redis('--raw EXISTS nothing');
SELECT * FROM events();
-- with a set or delete of the same transaction
BEGIN;
SELECT mlcache.set('t3', 'x', '10 s', '{tag}');
SAVEPOINT a;
SELECT mlcache.touch('t3', '100 s');
ROLLBACK TO a;
SELECT mlcache.touch('t3', '50 s'), mlcache.delete('t1'), mlcache.touch('t1', '10 s'),
	mlcache.touch('t2', '10 s'), mlcache.set('t2', 'y');
SELECT mlcache.get('t3'), mlcache.get('t1'), mlcache.get('t2');
COMMIT;
SELECT settle();
SELECT line::int BETWEEN 11 AND 50 AS ttl FROM redis('--raw TTL t3') line;
SELECT mlcache.get('t3'), mlcache.get('t1'), mlcache.get('t2');
SELECT * FROM events();
SELECT mlcache.invalidate_tag('tag');
SELECT settle();
SELECT mlcache.get('t3');
SELECT mlcache.touch('fk:1', '1 s');
SELECT mlcache.touch('t2', '0 s');

-- a rule that comes takes its keys over
SELECT mlcache.set('taken:1', 'mine');
SELECT settle();
SELECT mlcache.get('taken:1');
SELECT mlcache.attach('t', key => 'taken:{id}');
SELECT settle();
SELECT mlcache.get('taken:1');
-- also of who checked before it came
BEGIN;
SELECT mlcache.set('late:1', 'mine');
SAVEPOINT a;
SELECT mlcache.attach('t', key => 'late:{id}');
SELECT listen() \gset
COMMIT;
SELECT settle();
SELECT mlcache.get('late:1');
SELECT * FROM events() WHERE event NOT LIKE '%truncate%';

-- bad input
SELECT mlcache.set(NULL, 'x');
SELECT mlcache.set('k', NULL);
SELECT mlcache.set('', 'x');
SELECT mlcache.set('mlc:k', 'x');
SELECT mlcache.set('#k', 'x');
SELECT mlcache.set('a}b', 'x');
SELECT mlcache.set('state:{5}', 'x');
SELECT mlcache.set(repeat('k', 70000), 'x');
SELECT mlcache.set('k', 'x', '0 s');
SELECT mlcache.set('k', 'x', '1000 years');
SELECT mlcache.set('k', 'x', NULL, '{a,NULL}');
SELECT mlcache.set('k', 'x', NULL, '{""}');
SELECT mlcache.delete(NULL);
SELECT mlcache.get('#k');
SELECT mlcache.attach('t', key => '#{id}');
BEGIN READ ONLY;
SELECT mlcache.set('k', 'x');
ROLLBACK;
SET mlcache.capture_work_mem = '64kB';
SELECT mlcache.set('k', repeat('x', 70000));
RESET mlcache.capture_work_mem;
SELECT * FROM events();

-- rights: to write is the writers', to read the readers'
CREATE ROLE mlctest_user;
SELECT count(mlcache.get('greeting')) FROM generate_series(1, 2);
SELECT (mlcache.last_read()).source;
SET ROLE mlctest_user;
SELECT mlcache.set('k', 'x');
SELECT mlcache.invalidate('k');
SELECT mlcache.get('greeting');
RESET ROLE;
GRANT mlcache_reader TO mlctest_user;
SET ROLE mlctest_user;
SELECT mlcache.get('greeting');
SELECT mlcache.set('k', 'x');
RESET ROLE;
GRANT mlcache_writer TO mlctest_user;
SET ROLE mlctest_user;
SELECT mlcache.set('k', 'x');
RESET ROLE;
SELECT settle();
SELECT mlcache.get('k');
DROP ROLE mlctest_user;

-- what nobody keeps coherent any more is removed
SELECT mlcache.detach('t');
DO $$ BEGIN
	WHILE EXISTS (SELECT FROM pg_replication_slots WHERE slot_name LIKE 'mlcache\_%') LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT * FROM redis('--raw EXISTS greeting k odd');
DROP TABLE t;
DROP PROCEDURE until_gone;
\i :end
