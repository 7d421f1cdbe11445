-- TRUNCATE removes all entries of the rules of every table it touches.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE a (id int PRIMARY KEY, v int);
CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a);
SELECT mlcache.attach('a', key => 'a:{id}');
SELECT mlcache.attach('b', key => 'b:{id}');
SELECT mlcache.attach('b', key => 'ba:{a_id}');
INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 1);
SELECT listen() \gset
TRUNCATE b;
SELECT * FROM events();
TRUNCATE a CASCADE;
SELECT * FROM events();
TRUNCATE a, b RESTART IDENTITY;
SELECT * FROM events();

-- rolled back: nothing
BEGIN;
TRUNCATE a CASCADE;
ROLLBACK;
BEGIN;
SAVEPOINT s;
TRUNCATE b;
ROLLBACK TO s;
INSERT INTO a VALUES (2);
COMMIT;
SELECT * FROM events();

-- before and after other changes
BEGIN;
INSERT INTO b VALUES (1, 2);
TRUNCATE b;
INSERT INTO b VALUES (2, 2);
COMMIT;
SELECT * FROM events();

-- in a Redis: the entries of these rules and no others
SELECT settle();
SELECT redis('MSET a:1 x b:1 x b:2 x ba:1 x bab:1 x c:1 x') \gset
TRUNCATE b;
SELECT settle();
SELECT * FROM redis('MGET a:1 b:1 b:2 ba:1 bab:1 c:1') WITH ORDINALITY;

-- session_replication_role does not keep it back
SET session_replication_role = replica;
TRUNCATE b;
RESET session_replication_role;
SELECT listen() > 0 AS heard;
DROP TABLE b, a;
\i :end
