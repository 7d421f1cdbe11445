-- Values out of line: an unchanged one is not in WAL.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE t (id int PRIMARY KEY, v text, big text);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
SELECT mlcache.attach('t', key => 'u:{id}', action => 'update');
SELECT mlcache.attach('t', key => 'r:{id}', action => 'replicate', capture => 'trigger');
SELECT mlcache.attach('t', key => 'c:{id}', action => 'update', columns => '{id,v}');
SELECT mlcache.attach('t', key => 'i:{id}');
SELECT listen() \gset

-- the whole row is there
INSERT INTO t VALUES (1, 'a', repeat('x', 3000));
SELECT left(event, 90), length(event) FROM events();
-- big is not: invalidate instead, or load again what must be there; a payload
-- without it is not concerned
UPDATE t SET v = 'b';
SELECT * FROM events();
-- changed, so it is there again
UPDATE t SET big = repeat('y', 3000);
SELECT left(event, 90), length(event) FROM events();
UPDATE t SET big = NULL;
SELECT * FROM events();

-- with the full row as identity the old row has it, but the new one counts
UPDATE t SET big = repeat('z', 3000);
ALTER TABLE t REPLICA IDENTITY FULL;
SELECT listen() \gset
UPDATE t SET v = 'c';
SELECT * FROM events();
DROP TABLE t;

-- a key out of line
CREATE TABLE k (id int PRIMARY KEY, k text, v int);
ALTER TABLE k ALTER k SET STORAGE EXTERNAL;
ALTER TABLE k REPLICA IDENTITY FULL;
SELECT mlcache.attach('k', key => 'k:{k}');
SELECT mlcache.attach('k', key => 'kt:{k}', capture => 'trigger');
SELECT listen() \gset
INSERT INTO k VALUES (1, repeat('k', 3000));
SELECT left(event, 40), length(event) FROM events();
-- unchanged: WAL has it in the old row; what is certain is said, and more than enough
UPDATE k SET v = 1;
SELECT left(event, 40), length(event) FROM events();
UPDATE k SET k = repeat('l', 3000);
SELECT left(event, 40), length(event), event ~ 'lll' AS l FROM events();
DELETE FROM k;
SELECT left(event, 40), length(event) FROM events();
DROP TABLE k;
\i :end
