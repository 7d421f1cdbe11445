-- Versions of commits, and waiting until they have been applied.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
-- a session that has written nothing has none
\c
SET search_path = public, mlctest;
SELECT mlcache.last_commit_version() IS NULL AS none;
CREATE TABLE t (id int PRIMARY KEY, v int);
SELECT mlcache.last_commit_version() ~ '^[0-9a-f]{24}$' AS version;
SELECT mlcache.attach('t', key => 't:{id}');

-- they grow with each commit that writes, and only with those
SELECT mlcache.last_commit_version() AS a \gset
INSERT INTO t VALUES (1);
SELECT mlcache.last_commit_version() AS b \gset
SELECT :'b' > :'a' AS grown;
-- one that only reads may tidy a page up, and writes that
BEGIN;
SELECT mlcache.last_commit_version() AS b \gset
INSERT INTO t VALUES (2);
SELECT mlcache.last_commit_version() = :'b' AS same_within;
ROLLBACK;
SELECT mlcache.last_commit_version() = :'b' AS same;

-- it is the version that events carry, and the timeline comes first
SELECT listen() \gset
INSERT INTO t VALUES (3);
SELECT mlcache.last_commit_version() AS c \gset
SELECT data::json->>'version' = :'c' AS same FROM pg_logical_slot_get_changes('mlctest', NULL, NULL);
SELECT left(:'c', 8) = lpad(to_hex(timeline_id), 8, '0') AS timeline FROM pg_control_checkpoint();

-- asynchronous commits have one, too, and are waited for
SET synchronous_commit = off;
INSERT INTO t VALUES (4);
SELECT settle();
RESET synchronous_commit;

-- waiting
SELECT mlcache.wait_applied(mlcache.last_commit_version());
SELECT mlcache.wait_applied(mlcache.last_commit_version(), NULL);
SELECT mlcache.wait_applied(:'a', '0');
SELECT mlcache.wait_applied(NULL);
SELECT mlcache.wait_applied('00000001ffffffffffffffff', '10 ms');
SELECT mlcache.wait_applied('00000001ffffffffffffffff', '0');
SELECT mlcache.wait_applied('00000001ffffffffffffffff', '-1 s');
SET statement_timeout = '50 ms';
SELECT mlcache.wait_applied('00000001ffffffffffffffff', NULL);
\echo :SQLSTATE
RESET statement_timeout;

-- what is no version
SELECT mlcache.wait_applied('');
\echo :SQLSTATE
SELECT mlcache.wait_applied('0/1234');
SELECT mlcache.wait_applied('00000001FFFFFFFFFFFFFFFF');
SELECT mlcache.wait_applied('00000001fffffffffffffffff');
SELECT mlcache.wait_applied(' 0000001ffffffffffffffff');
SELECT mlcache.wait_applied('000000010000000000000001', 'soon');

-- anybody may
CREATE ROLE mlctest_user;
SET ROLE mlctest_user;
SELECT mlcache.wait_applied(mlcache.last_commit_version());
RESET ROLE;
DROP ROLE mlctest_user;

-- a paused server is waited for, a resumed one has everything
SELECT settle() \gset
SELECT mlcache.pause('redis');
SELECT paused();
SELECT redis('SET t:3 stale') \gset
UPDATE t SET v = 1 WHERE id = 3;
SELECT mlcache.wait_applied(mlcache.last_commit_version(), '100 ms');
SELECT redis('GET t:3');
SELECT mlcache.resume('redis');
SELECT settle();
SELECT redis('GET t:3');
SELECT armed();

DROP TABLE t;
\i :end
