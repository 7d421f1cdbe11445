-- Every kind of change under both captures, and who of a row's keys hears of it.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse

-- wal: the key is the replica identity; trigger: it is not
CREATE TABLE w (id int PRIMARY KEY, v text);
CREATE TABLE t (id int PRIMARY KEY, grp int, v text);
SELECT mlcache.attach('w', key => 'w:{id}');
SELECT mlcache.attach('t', key => 't:{id}', capture => 'trigger');
SELECT mlcache.attach('t', key => 'grp:{grp}');
SELECT * FROM events();

-- one statement
INSERT INTO w VALUES (1, 'a'), (2, 'b');
INSERT INTO t VALUES (1, 10, 'a'), (2, 20, 'b');
SELECT * FROM events();
UPDATE w SET v = 'c' WHERE id = 1;
UPDATE t SET v = 'c' WHERE id = 1;
SELECT * FROM events();
DELETE FROM w WHERE id = 2;
DELETE FROM t WHERE id = 2;
SELECT * FROM events();

-- a changed key goes under both names
UPDATE w SET id = 3 WHERE id = 1;
SELECT * FROM events();
UPDATE t SET id = 3 WHERE id = 1;
SELECT * FROM events();
UPDATE t SET grp = 11 WHERE id = 3;
SELECT * FROM events();

-- two rows that change places
INSERT INTO t VALUES (4, 12, 'd');
SELECT listen() \gset
UPDATE t SET grp = 23 - grp;
SELECT * FROM events();

-- an update that changes nothing is a change all the same
UPDATE w SET v = v;
UPDATE t SET v = v WHERE id = 3;
SELECT * FROM events();

-- nothing matched, nothing said
UPDATE w SET v = 'x' WHERE false;
DELETE FROM t WHERE false;
SELECT * FROM events();

-- upsert
INSERT INTO w VALUES (3, 'u') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
INSERT INTO w VALUES (3, 'n') ON CONFLICT DO NOTHING;
INSERT INTO w VALUES (5, 'i') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
SELECT * FROM events();
INSERT INTO t VALUES (3, 99, 'u') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
INSERT INTO t VALUES (3, 99, 'n') ON CONFLICT DO NOTHING;
INSERT INTO t VALUES (5, 50, 'i') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
SELECT * FROM events();

-- MERGE
MERGE INTO w USING (VALUES (3), (5), (6)) s (id) ON w.id = s.id
	WHEN MATCHED AND s.id = 3 THEN DELETE
	WHEN MATCHED THEN UPDATE SET v = 'm'
	WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'm');
SELECT * FROM events();
MERGE INTO t USING (VALUES (3), (5), (6)) s (id) ON t.id = s.id
	WHEN MATCHED AND s.id = 3 THEN DELETE
	WHEN MATCHED THEN UPDATE SET v = 'm'
	WHEN NOT MATCHED THEN INSERT VALUES (s.id, 60, 'm');
SELECT * FROM events();

-- COPY, which writes rows in bulk
COPY w FROM stdin;
7	c
8	c
\.
COPY t FROM stdin;
7	70	c
8	80	c
\.
SELECT * FROM events();

-- a statement that writes several tables
WITH gone AS (DELETE FROM t WHERE id = 7 RETURNING id, v),
	 kept AS (UPDATE t SET v = 'cte' WHERE id = 8)
INSERT INTO w SELECT id + 100, v FROM gone;
SELECT * FROM events();

-- within a transaction: wal tells every change, a trigger every key once
BEGIN;
INSERT INTO w VALUES (20, 'a');
UPDATE w SET v = 'b' WHERE id = 20;
INSERT INTO t VALUES (20, 200, 'a');
UPDATE t SET v = 'b' WHERE id = 20;
DELETE FROM t WHERE id = 20;
COMMIT;
SELECT * FROM events();

-- a rollback says nothing
BEGIN;
INSERT INTO w VALUES (21, 'a');
INSERT INTO t VALUES (21, 210, 'a');
ROLLBACK;
INSERT INTO t VALUES (22, 220, 'a'), (22, 220, 'twice');
SELECT * FROM events();

-- a table of no rule says nothing
CREATE TABLE other AS SELECT 1 AS id;
SELECT * FROM events();

DROP TABLE w, t, other;
\i :end
