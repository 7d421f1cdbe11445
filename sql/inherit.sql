-- What becomes of a table with rules must not take it out of what they see.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
CREATE TABLE t (id int PRIMARY KEY, v int);
SELECT mlcache.attach('t', key => 't:{id}');

-- inheritance
CREATE TABLE child () INHERITS (t);
CREATE FOREIGN TABLE far () INHERITS (t) SERVER redis;
CREATE TABLE child (id int NOT NULL, v int);
ALTER TABLE child INHERIT t;
CREATE FOREIGN TABLE far (id int NOT NULL, v int) SERVER redis;
ALTER FOREIGN TABLE far INHERIT t;
\echo :SQLSTATE
CREATE SCHEMA s CREATE TABLE c () INHERITS (public.t);

-- storage
ALTER TABLE t SET UNLOGGED;
\echo :SQLSTATE

-- row security
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
\echo :SQLSTATE

-- nothing of it has happened
SELECT relname, relpersistence, relrowsecurity, relhassubclass FROM pg_class WHERE relname IN ('t', 'c') ORDER BY 1;
SELECT listen() \gset
-- other tables are nobody's business
CREATE TABLE other (id int PRIMARY KEY);
CREATE TABLE other_child () INHERITS (other);
ALTER TABLE other_child ADD v int;
ALTER TABLE other ENABLE ROW LEVEL SECURITY;
SELECT * FROM events();

-- a table inherits from others and has rules of its own
SELECT mlcache.attach('other_child', key => 'oc:{id}');
DROP TABLE other CASCADE;
SELECT key FROM mlcache.rules;

DROP TABLE t, child;
DROP FOREIGN TABLE far;
\i :end
