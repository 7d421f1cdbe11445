-- detach(): one rule or all of a table's, their entries, the trigger.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE t (id int PRIMARY KEY, a int, b int);
SELECT mlcache.attach('t', key => 'a:{a}');
SELECT mlcache.attach('t', key => 'b:{b}');
SELECT mlcache.attach('t', key => 'id:{id}');
SELECT settle();
SELECT redis('MSET a:1 x b:1 x id:1 x a-other:1 x') \gset
SELECT listen() \gset

-- one by its key: its entries go, others stay, and so does the trigger
SELECT mlcache.detach('t', 'a:{a}');
SELECT * FROM events();
SELECT settle();
SELECT * FROM redis('MGET a:1 b:1 id:1 a-other:1') WITH ORDINALITY;
SELECT key FROM mlcache.rules ORDER BY id;
SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass;
INSERT INTO t VALUES (1, 2, 3);
SELECT * FROM events();

-- the last one that needs a trigger takes it along
SELECT mlcache.detach('t', 'b:{b}');
SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass;
INSERT INTO t VALUES (2, 2, 3);
SELECT * FROM events();

-- all at once
SELECT mlcache.attach('t', key => 'a:{a}');
SELECT listen() \gset
SELECT mlcache.detach('t');
SELECT * FROM events();
SELECT * FROM mlcache.rules;

-- nothing there
SELECT mlcache.detach('t');
\echo :SQLSTATE
SELECT mlcache.detach('t', 'a:{a}');
\echo :SQLSTATE
SELECT mlcache.detach('nosuch');
\echo :SQLSTATE
SELECT mlcache.detach(NULL);
\echo :SQLSTATE
SELECT mlcache.detach(4294967295::oid);
\echo :SQLSTATE

-- a rolled back detach changes nothing
SELECT mlcache.attach('t', key => 'a:{a}');
SELECT listen() \gset
BEGIN;
SELECT mlcache.detach('t');
INSERT INTO t VALUES (3, 30, 3);
ROLLBACK;
INSERT INTO t VALUES (3, 31, 3);
SELECT * FROM events();

-- attached and detached in one transaction, with changes between
BEGIN;
SELECT mlcache.detach('t');
INSERT INTO t VALUES (4, 40, 4);
SELECT mlcache.attach('t', key => 'b:{b}');
INSERT INTO t VALUES (5, 50, 5);
COMMIT;
SELECT * FROM events();

-- nobody but the owner
CREATE ROLE mlctest_user;
SET ROLE mlctest_user;
SELECT mlcache.detach('t');
\echo :SQLSTATE
RESET ROLE;
ALTER TABLE t OWNER TO mlctest_user;
SET ROLE mlctest_user;
SELECT mlcache.detach('t');
RESET ROLE;

DROP TABLE t;
DROP ROLE mlctest_user;
\i :end
