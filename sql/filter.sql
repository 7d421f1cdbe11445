-- Filters: rows that pass neither before nor after concern nobody.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE t (id int PRIMARY KEY, state text, n int);
SELECT mlcache.attach('t', key => 'open:{id}', filter => $$state = 'open'$$);
SELECT mlcache.attach('t', key => 'big:{id}', filter => 'n > 10 AND state IS DISTINCT FROM ''closed''');
SELECT listen() \gset
INSERT INTO t VALUES (1, 'open', 1), (2, 'closed', 20), (3, NULL, 30), (4, 'open', NULL);
SELECT * FROM events();
-- in, out, within, outside
UPDATE t SET state = 'open' WHERE id = 2;
SELECT * FROM events();
UPDATE t SET state = 'closed' WHERE id = 1;
SELECT * FROM events();
UPDATE t SET n = n + 1 WHERE id = 2;
SELECT * FROM events();
UPDATE t SET n = 1 WHERE id = 1;
SELECT * FROM events();
DELETE FROM t WHERE id IN (1, 4);
SELECT * FROM events();
-- a transaction whose changes all fall through is no transaction without its trigger
DELETE FROM t WHERE state = 'nosuch';
INSERT INTO t VALUES (5, 'other', 0);
SELECT * FROM events();

-- names mean what they mean in the table's schema, whoever writes
CREATE SCHEMA app;
CREATE SCHEMA evil;
CREATE TABLE app.a (id int PRIMARY KEY, v text);
CREATE FUNCTION app.wanted(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$ SELECT $1 = 'yes' $$;
CREATE FUNCTION evil.wanted(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil'; END $$;
CREATE FUNCTION evil.differs(text, text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil'; END $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.differs);
SET search_path = evil, public, mlctest;
SELECT mlcache.attach('app.a', key => 'a:{id}', filter => $$wanted(v)$$);
SELECT mlcache.attach('app.a', key => 'b:{id}', filter => $$v OPERATOR(pg_catalog.=) 'yes' OR v = 'maybe'$$);
SET search_path = public, mlctest;
SELECT listen() \gset
SET search_path = evil;
INSERT INTO app.a VALUES (1, 'yes'), (2, 'no'), (3, 'maybe');
SET search_path = public, mlctest;
SELECT * FROM events();
DROP TABLE app.a;

-- an error in the filter is an error of the statement
CREATE TABLE e (id int PRIMARY KEY, n int);
SELECT mlcache.attach('e', key => 'e:{id}', filter => '10 / n > 1');
SELECT listen() \gset
INSERT INTO e VALUES (1, 0);
\echo :SQLSTATE
INSERT INTO e VALUES (2, 1);
SELECT * FROM events();
-- after one, the session goes on
UPDATE e SET n = 0;
UPDATE e SET n = 2;
SELECT * FROM events();

-- it is evaluated with the table as it is: a column that it needs stays
ALTER TABLE e ADD m int DEFAULT 1;
UPDATE e SET m = 2;
SELECT listen() \gset
ALTER TABLE e RENAME n TO k;
\echo :SQLSTATE
ALTER TABLE e DROP n;
\echo :SQLSTATE
ALTER TABLE e ALTER n TYPE text;
\echo :SQLSTATE
ALTER TABLE e ALTER n TYPE bigint;
SELECT listen() \gset
UPDATE e SET n = 3;
SELECT * FROM events();

-- partitions of other shapes
CREATE TABLE p (id int, v text, n int) PARTITION BY LIST (id);
CREATE TABLE p1 (n int, gone int, v text, id int);
ALTER TABLE p1 DROP gone;
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
SELECT mlcache.attach('p', key => 'p:{v}', filter => 'n > 0');
SELECT listen() \gset
INSERT INTO p VALUES (1, 'a', 1), (1, 'b', 0), (2, 'c', 1), (2, 'd', 0);
SELECT * FROM events();
UPDATE p SET id = 3 - id, n = 1 - n;
SELECT * FROM events();

-- a generated column is there after the row is written
CREATE TABLE g (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED);
SELECT mlcache.attach('g', key => 'g:{twice}', filter => 'twice > 4');
SELECT listen() \gset
INSERT INTO g (id, n) VALUES (1, 2), (2, 3);
UPDATE g SET n = 4 WHERE id = 1;
SELECT * FROM events();

-- a writer needs no rights on mlcache
CREATE ROLE mlctest_user;
GRANT ALL ON t TO mlctest_user;
SET ROLE mlctest_user;
INSERT INTO t VALUES (100, 'open', 1);
RESET ROLE;
SELECT * FROM events();
DROP OWNED BY mlctest_user;
DROP ROLE mlctest_user;

DROP TABLE t, e, p, g;
DROP SCHEMA app, evil CASCADE;
\i :end
