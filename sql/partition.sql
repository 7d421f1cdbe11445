-- Partitioned tables: a rule of the root speaks for every partition.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE p (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu');
-- other order, a dropped column, one level deeper
CREATE TABLE p_us (gone int, v text, region text NOT NULL, id int NOT NULL);
ALTER TABLE p_us DROP gone;
ALTER TABLE p ATTACH PARTITION p_us FOR VALUES IN ('us');
CREATE TABLE p_other PARTITION OF p DEFAULT PARTITION BY RANGE (id);
CREATE TABLE p_low PARTITION OF p_other FOR VALUES FROM (0) TO (100);
SELECT mlcache.attach('p', key => 'p:{region}:{id}', action => 'update');
SELECT mlcache.attach('p', key => 'v:{v}');
SELECT mlcache.attach('p_us', key => 'us:{id}:{v}');
SELECT listen() \gset

-- through the root and into partitions themselves; the payload reads like the root's row
INSERT INTO p VALUES (1, 'eu', 'a'), (1, 'us', 'b'), (1, 'jp', 'c');
SELECT * FROM events();
INSERT INTO p_us (id, region, v) VALUES (2, 'us', 'b2');
INSERT INTO p_low VALUES (2, 'jp', 'c2');
SELECT * FROM events();
SELECT row_to_json(p) FROM p WHERE region = 'us' AND id = 2;

-- a row that changes its partition
UPDATE p SET region = 'us', id = 5 WHERE region = 'eu';
SELECT * FROM events();
UPDATE p SET v = 'd' WHERE region = 'jp' AND id = 1;
DELETE FROM p WHERE region = 'us' AND id = 5;
SELECT * FROM events();

-- TRUNCATE of one partition, and of all
TRUNCATE p_eu;
SELECT * FROM events();
TRUNCATE p;
SELECT * FROM events();

-- every partition has the trigger, and it fires always: new ones, attached ones
CREATE TABLE p_new PARTITION OF p FOR VALUES IN ('new');
CREATE TABLE p_att (LIKE p INCLUDING ALL);
ALTER TABLE p ATTACH PARTITION p_att FOR VALUES IN ('att');
SELECT tgrelid::regclass::text, tgenabled, tgparentid <> 0 AS child FROM pg_trigger
	WHERE tgname = 'mlcache_capture' ORDER BY 1;
SELECT * FROM events();
SET session_replication_role = replica;
INSERT INTO p VALUES (1, 'new', 'n'), (1, 'att', 'a');
RESET session_replication_role;
SELECT * FROM events();

-- a partition that goes takes its rows along
ALTER TABLE p DETACH PARTITION p_att;
SELECT * FROM events();
INSERT INTO p_att VALUES (2, 'att', 'nobody''s');
SELECT * FROM events();
SELECT tgname FROM pg_trigger WHERE tgrelid = 'p_att'::regclass;
DROP TABLE p_new;
SELECT * FROM events();

-- what cannot be captured cannot be attached, nor become so
CREATE UNLOGGED TABLE p_unlogged PARTITION OF p FOR VALUES IN ('unlogged');
CREATE TABLE p_ok PARTITION OF p FOR VALUES IN ('ok');
ALTER TABLE p_ok SET UNLOGGED;

SELECT listen() \gset

-- a rule of a partition beside one of the root: each may go, the other stays
SELECT mlcache.detach('p_us');
SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'mlcache_capture' ORDER BY 1;
SELECT mlcache.attach('p_us', key => 'us:{id}:{v}');
SELECT listen() \gset
INSERT INTO p VALUES (7, 'us', 'x');
SELECT * FROM events();
SELECT mlcache.detach('p', 'v:{v}');
SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'mlcache_capture' ORDER BY 1;
SELECT listen() \gset
INSERT INTO p VALUES (8, 'us', 'y');
SELECT * FROM events();
SELECT mlcache.attach('p_other', key => 'other:{v}');
SELECT mlcache.attach('p', key => 'v:{v}');
SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'mlcache_capture' ORDER BY 1;
SELECT listen() \gset
INSERT INTO p VALUES (9, 'us', 'z'), (9, 'cn', 'z');
SELECT * FROM events();
DROP TABLE p, p_att;

-- without a default partition nothing but we refuse it: its rows go in a transaction
-- that says nothing of them
CREATE TABLE q (id int PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE q1 PARTITION OF q FOR VALUES IN (1);
SELECT mlcache.attach('q', key => 'q:{id}');
ALTER TABLE q DETACH PARTITION q1 CONCURRENTLY;
SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'q'::regclass;
DROP TABLE q;
\i :end
