-- DDL on tables with rules: what is refused, what purges, what takes the rules along.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int, d int);
SELECT mlcache.attach('t', key => 'a:{a}');
SELECT mlcache.attach('t', key => 'u:{id}', action => 'update', columns => '{b}');
SELECT listen() \gset

-- columns that a rule uses
ALTER TABLE t DROP a;
\echo :SQLSTATE
ALTER TABLE t RENAME a TO x;
\echo :SQLSTATE
ALTER TABLE t DROP b;
ALTER TABLE t RENAME b TO x;
ALTER TABLE t DROP id;
SELECT * FROM events();
-- the hint is right
SELECT mlcache.detach('t', 'a:{a}');
ALTER TABLE t DROP a;
SELECT listen() \gset

-- others, and everything else, purge
ALTER TABLE t DROP c;
ALTER TABLE t RENAME d TO dd;
ALTER TABLE t ADD e text;
ALTER TABLE t ADD f int DEFAULT 5;
ALTER TABLE t ALTER b TYPE bigint;
ALTER TABLE t ALTER dd TYPE text USING dd::text || 'x';
ALTER TABLE t RENAME TO tt;
CREATE SCHEMA s;
ALTER TABLE tt SET SCHEMA s;
SELECT * FROM events();
SELECT relation, key FROM mlcache.rules;
INSERT INTO s.tt VALUES (1, 2);
UPDATE s.tt SET b = 3;
SELECT * FROM events();
-- several in one transaction, with changes between, purge once
BEGIN;
ALTER TABLE s.tt ADD g int;
INSERT INTO s.tt VALUES (2, 2);
ALTER TABLE s.tt ADD h int;
COMMIT;
SELECT * FROM events();
-- rolled back: nothing
BEGIN;
ALTER TABLE s.tt ADD i int;
ROLLBACK;
BEGIN;
SAVEPOINT a;
ALTER TABLE s.tt ADD i int;
ROLLBACK TO a;
INSERT INTO s.tt VALUES (3, 2);
COMMIT;
SELECT * FROM events();

-- what rewrites or moves rows and changes none says nothing of them
VACUUM FULL s.tt;
CLUSTER s.tt USING t_pkey;
REINDEX TABLE s.tt;
CREATE INDEX ON s.tt (b);
SELECT * FROM events();
UPDATE s.tt SET b = 4 WHERE id = 1;
SELECT * FROM events();

-- the replica identity goes: under wal nobody knows what a row was
ALTER TABLE s.tt REPLICA IDENTITY NOTHING;
SELECT listen() \gset
INSERT INTO s.tt VALUES (4, 2);
SELECT * FROM events();
UPDATE s.tt SET b = 5 WHERE id = 1;
SELECT * FROM events();
DELETE FROM s.tt WHERE id = 1;
SELECT * FROM events();
ALTER TABLE s.tt REPLICA IDENTITY DEFAULT;
SELECT listen() \gset
UPDATE s.tt SET b = 5 WHERE id = 2;
SELECT * FROM events();
-- one that no longer holds the key
CREATE TABLE i (id int PRIMARY KEY, k int NOT NULL UNIQUE);
SELECT mlcache.attach('i', key => 'i:{id}');
ALTER TABLE i REPLICA IDENTITY USING INDEX i_k_key;
SELECT listen() \gset
INSERT INTO i VALUES (1, 1);
UPDATE i SET k = 2;
SELECT * FROM events();
DELETE FROM i;
SELECT * FROM events();
ALTER TABLE i REPLICA IDENTITY DEFAULT;
ALTER TABLE i DROP CONSTRAINT i_pkey;
SELECT listen() \gset
INSERT INTO i VALUES (1, 1);
SELECT * FROM events();

-- dropping takes the rules along, and their entries
SELECT settle();
SELECT redis('SET i:1 stale') \gset
DROP TABLE i;
SELECT * FROM events();
SELECT key FROM mlcache.rules;
SELECT settle();
SELECT redis('EXISTS i:1');
BEGIN;
DROP SCHEMA s CASCADE;
SELECT key FROM mlcache.rules;
ROLLBACK;
SELECT key FROM mlcache.rules;
DROP SCHEMA s CASCADE;
SELECT * FROM events();
SELECT key FROM mlcache.rules;
-- the same name again is another table
CREATE TABLE i (id int PRIMARY KEY);
INSERT INTO i VALUES (1);
SELECT * FROM events();
DROP TABLE i;

-- names inside of types are in keys and documents
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN state AS mood;
CREATE TYPE pair AS (a int, b int);
CREATE TYPE other AS ENUM ('x');
CREATE TABLE en (id int PRIMARY KEY, m state, p pair[]);
SELECT mlcache.attach('en', key => 'en:{id}', action => 'update');
SELECT listen() \gset
ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';
SELECT * FROM events();
ALTER TYPE pair RENAME ATTRIBUTE a TO x;
SELECT * FROM events();
ALTER TYPE other RENAME VALUE 'x' TO 'y';
SELECT * FROM events();
DROP TABLE en;
DROP DOMAIN state;
DROP TYPE mood, pair, other;

-- an owner who is nobody else
CREATE ROLE mlctest_user;
GRANT CREATE ON SCHEMA public TO mlctest_user;
GRANT USAGE ON FOREIGN SERVER redis TO mlctest_user;
SET ROLE mlctest_user;
CREATE TABLE own (id int PRIMARY KEY, v int);
SELECT mlcache.attach('own', key => 'own:{id}');
ALTER TABLE own ADD w int;
ALTER TABLE own DROP id;
SELECT mlcache.after_ddl('own'::regclass, true);
RESET ROLE;
SELECT * FROM events();
SET ROLE mlctest_user;
DROP TABLE own;
RESET ROLE;
SELECT * FROM events();
SELECT key FROM mlcache.rules;
DROP OWNED BY mlctest_user;
DROP ROLE mlctest_user;

-- the extension goes, tables and their data stay
CREATE TABLE last (id int PRIMARY KEY, v int);
SELECT mlcache.attach('last', key => 'last:{v}');
INSERT INTO last VALUES (1, 1);
DROP EXTENSION mlcache;
SET client_min_messages = warning;
DROP EXTENSION mlcache CASCADE;
RESET client_min_messages;
INSERT INTO last VALUES (2, 2);
ALTER TABLE last ADD w int;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'last'::regclass;
SELECT count(*) FROM last;
SET client_min_messages = warning;
CREATE EXTENSION mlcache;
SELECT count(*) FROM mlcache.rules;
DROP TABLE last;
\i :end
