-- The unique index that makes a key one row's stays while a rule needs it.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL UNIQUE, b int, c int);
CREATE UNIQUE INDEX t_bc ON t (b, c);
SET client_min_messages = warning;
SELECT (mlcache.attach('t', key => 'u:{id}', action => 'update')).action;
SELECT (mlcache.attach('t', key => 'r:{a}', action => 'replicate')).action;
SELECT (mlcache.attach('t', key => 'f:{b}:{c}', action => 'refresh')).action;
SELECT (mlcache.attach('t', key => 'i:{c}', capture => 'trigger')).action;
RESET client_min_messages;

-- refused, with nothing changed
ALTER TABLE t DROP CONSTRAINT t_pkey;
\echo :SQLSTATE
ALTER TABLE t DROP CONSTRAINT t_a_key;
\echo :SQLSTATE
DROP INDEX t_bc;
\echo :SQLSTATE
DROP INDEX CONCURRENTLY t_bc;
\echo :SQLSTATE
SELECT indexrelid::regclass, indisvalid FROM pg_index WHERE indrelid = 't'::regclass ORDER BY 1;
BEGIN;
DROP INDEX t_bc;
PREPARE TRANSACTION 'unique';
\echo :SQLSTATE
BEGIN;
SAVEPOINT s;
DROP INDEX t_bc;
RELEASE s;
COMMIT;
\echo :SQLSTATE

-- whatever is set for triggers
SET session_replication_role = replica;
DROP INDEX t_bc;
RESET session_replication_role;
ALTER EVENT TRIGGER mlcache_ddl DISABLE;
DROP INDEX t_bc;
ALTER TABLE t DROP CONSTRAINT t_pkey;
ALTER EVENT TRIGGER mlcache_ddl ENABLE ALWAYS;

-- the hint is right
SELECT mlcache.detach('t', 'f:{b}:{c}');
DROP INDEX t_bc;
CREATE UNIQUE INDEX t_bc ON t (b, c);
SET client_min_messages = warning;
SELECT (mlcache.attach('t', key => 'f:{b}:{c}', action => 'refresh')).action;
RESET client_min_messages;

-- another one will do, be it made later in the transaction
CREATE UNIQUE INDEX t_b ON t (b);
DROP INDEX t_bc;
DROP INDEX t_b;
BEGIN;
DROP INDEX t_b;
CREATE UNIQUE INDEX t_bc ON t (b, c);
COMMIT;
CREATE UNIQUE INDEX CONCURRENTLY t_id ON t (id);
ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY USING INDEX t_id;
-- but none that leaves keys to several rows
CREATE INDEX ON t (b, c);
CREATE UNIQUE INDEX ON t (b, c) WHERE b > 0;
CREATE UNIQUE INDEX ON t (b, abs(c));
CREATE UNIQUE INDEX ON t (b, c, id);
DROP INDEX t_bc;
INSERT INTO t VALUES (1, 1, 1, 1), (2, 2, 1, 2);
CREATE UNIQUE INDEX CONCURRENTLY t_b ON t (b);
DROP INDEX t_bc;
DROP INDEX CONCURRENTLY t_bc;
DROP INDEX CONCURRENTLY t_b;

-- with a column that it only includes
CREATE UNIQUE INDEX t_inc ON t (b, c) INCLUDE (a);
DROP INDEX t_bc;
ALTER TABLE t ADD d int;
CREATE UNIQUE INDEX t_bc ON t (b, c) INCLUDE (d);
DROP INDEX t_inc;
ALTER TABLE t DROP d;
\echo :SQLSTATE
SELECT mlcache.detach('t', 'r:{a}');
ALTER TABLE t DROP CONSTRAINT t_a_key;

-- rebuilt, rolled back
REINDEX TABLE t;
REINDEX TABLE CONCURRENTLY t;
REINDEX INDEX CONCURRENTLY t_bc;
ALTER TABLE t ALTER id TYPE bigint;
ALTER TABLE t ALTER b TYPE bigint, ALTER c TYPE bigint;
VACUUM FULL t;
BEGIN;
DROP INDEX t_bc;
ROLLBACK;
BEGIN;
SAVEPOINT s;
DROP INDEX t_bc;
ROLLBACK TO s;
COMMIT;
DO $$ BEGIN
	DROP INDEX t_bc;
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN NULL;
END $$;
SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 't'::regclass AND indisunique ORDER BY 1;

-- one that was lost behind our back is told of
SELECT severity, subject, detail, advice FROM mlcache.health() WHERE finding = 'rule not unique';
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 't_bc'::regclass;
SELECT severity, subject, detail, advice FROM mlcache.health() WHERE finding = 'rule not unique';
UPDATE pg_index SET indisvalid = true WHERE indexrelid = 't_bc'::regclass;

-- gone with what it belongs to
BEGIN;
DROP TABLE t;
COMMIT;
SELECT key FROM mlcache.rules;
CREATE SCHEMA s
	CREATE TABLE t (id int PRIMARY KEY);
SET client_min_messages = warning;
SELECT (mlcache.attach('s.t', key => 'u:{id}', action => 'update')).action;
DROP SCHEMA s CASCADE;
-- by cascade, without its table
CREATE OPERATOR CLASS my_ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=,
	OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int);
CREATE TABLE t (id int);
CREATE UNIQUE INDEX t_id ON t (id my_ops);
SELECT (mlcache.attach('t', key => 'u:{id}', action => 'update')).action;
RESET client_min_messages;
DROP OPERATOR FAMILY my_ops USING btree;
DROP OPERATOR FAMILY my_ops USING btree CASCADE;
SET client_min_messages = warning;
DROP TABLE t;
DROP OPERATOR FAMILY my_ops USING btree;

-- partitioned: the root's index, and those below it
CREATE TABLE root (r int, id int, PRIMARY KEY (r, id)) PARTITION BY LIST (r);
CREATE TABLE leaf PARTITION OF root FOR VALUES IN (1);
CREATE TABLE leaf2 (r int NOT NULL, id int NOT NULL);
CREATE UNIQUE INDEX ON leaf (id);
SELECT (mlcache.attach('root', key => 'p:{r}:{id}', action => 'update')).action;
SELECT (mlcache.attach('leaf', key => 'l:{id}', action => 'update')).action;
RESET client_min_messages;
ALTER TABLE root DROP CONSTRAINT root_pkey;
DROP INDEX leaf_id_idx;
DROP INDEX root_pkey;
DROP INDEX leaf_pkey;
CREATE UNIQUE INDEX CONCURRENTLY leaf_id ON leaf (id);
DROP INDEX CONCURRENTLY leaf_id_idx;
ALTER TABLE root ATTACH PARTITION leaf2 FOR VALUES IN (2);
ALTER TABLE root DETACH PARTITION leaf2;
DROP TABLE leaf2;
SELECT mlcache.detach('leaf');
SET client_min_messages = warning;
SELECT (mlcache.attach('leaf', key => 'l:{r}:{id}', action => 'update')).action;
RESET client_min_messages;
DROP INDEX leaf_id;
SELECT mlcache.detach('root');
-- a partition's rule needs what it has of the root
ALTER TABLE root DROP CONSTRAINT root_pkey;
ALTER TABLE root DETACH PARTITION leaf;
ALTER TABLE root DROP CONSTRAINT root_pkey;
ALTER TABLE leaf DROP CONSTRAINT leaf_pkey;
DROP TABLE root, leaf;

-- an owner who is nobody else
SET client_min_messages = warning;
CREATE ROLE mlctest_user;
GRANT CREATE ON SCHEMA public TO mlctest_user;
GRANT USAGE ON FOREIGN SERVER redis TO mlctest_user;
SET ROLE mlctest_user;
CREATE TABLE own (id int PRIMARY KEY);
SELECT (mlcache.attach('own', key => 'own:{id}', action => 'update')).action;
RESET client_min_messages;
ALTER TABLE own DROP CONSTRAINT own_pkey;
SELECT mlcache.detach('own');
ALTER TABLE own DROP CONSTRAINT own_pkey;
RESET ROLE;
SET client_min_messages = warning;
DROP OWNED BY mlctest_user CASCADE;
DROP ROLE mlctest_user;

-- the extension goes
CREATE TABLE last (id int PRIMARY KEY);
SELECT (mlcache.attach('last', key => 'last:{id}', action => 'update')).action;
BEGIN;
ALTER TABLE last DROP CONSTRAINT last_pkey;
DROP EXTENSION mlcache CASCADE;
COMMIT;
CREATE EXTENSION mlcache;
DROP TABLE last;
\i :end
