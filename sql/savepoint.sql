-- What a transaction says when parts of it were rolled back: trigger capture keeps its keys in memory, and cuts them where a savepoint began.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE w (id int PRIMARY KEY, v int);
CREATE TABLE t (id int PRIMARY KEY, grp int, v int);
SELECT mlcache.attach('w', key => 'w:{id}');
SELECT mlcache.attach('t', key => 'g:{grp}');
SELECT listen() \gset

-- rolled back, and kept
BEGIN;
INSERT INTO w VALUES (1); INSERT INTO t VALUES (1, 1);
SAVEPOINT a;
INSERT INTO w VALUES (2); INSERT INTO t VALUES (2, 2);
ROLLBACK TO a;
INSERT INTO w VALUES (3); INSERT INTO t VALUES (3, 3);
SAVEPOINT b;
INSERT INTO w VALUES (4); INSERT INTO t VALUES (4, 4);
RELEASE b;
COMMIT;
SELECT * FROM events();

-- what was changed before the savepoint stays when the same key is rolled back
BEGIN;
UPDATE t SET v = 1 WHERE id = 1;
SAVEPOINT a;
UPDATE t SET v = 2 WHERE id = 1;
ROLLBACK TO a;
COMMIT;
SELECT * FROM events();
-- and what is rolled back first may come again
BEGIN;
SAVEPOINT a;
UPDATE t SET v = 3 WHERE id = 1;
ROLLBACK TO a;
UPDATE t SET v = 4 WHERE id = 1;
COMMIT;
SELECT * FROM events();
BEGIN;
SAVEPOINT a;
UPDATE t SET v = 3 WHERE id = 1;
ROLLBACK TO a;
UPDATE t SET v = 4 WHERE id = 3;
COMMIT;
SELECT * FROM events();

-- nested: released into a parent that is rolled back
BEGIN;
SAVEPOINT a;
UPDATE t SET v = 5 WHERE id = 1;
SAVEPOINT b;
UPDATE t SET v = 5 WHERE id = 3;
RELEASE b;
ROLLBACK TO a;
UPDATE t SET v = 5 WHERE id = 4;
COMMIT;
SELECT * FROM events();

-- nested: a child that is rolled back within one that is released
BEGIN;
SAVEPOINT a;
UPDATE t SET v = 6 WHERE id = 1;
SAVEPOINT b;
UPDATE t SET v = 6 WHERE id = 3;
ROLLBACK TO b;
RELEASE a;
UPDATE t SET v = 6 WHERE id = 4;
COMMIT;
SELECT * FROM events();

-- a savepoint whose first change comes from a grandchild
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SAVEPOINT c;
UPDATE t SET v = 7 WHERE id = 1;
RELEASE c;
RELEASE b;
UPDATE t SET v = 7 WHERE id = 3;
SAVEPOINT d;
UPDATE t SET v = 7 WHERE id = 4;
ROLLBACK TO d;
RELEASE d;
RELEASE a;
COMMIT;
SELECT * FROM events();
BEGIN;
UPDATE t SET v = 8 WHERE id = 4;
SAVEPOINT a;
SAVEPOINT b;
UPDATE t SET v = 8 WHERE id = 1;
RELEASE b;
ROLLBACK TO a;
COMMIT;
SELECT * FROM events();

-- all of it: the table changed, the transaction did nothing
BEGIN;
SAVEPOINT a;
UPDATE t SET v = 9;
ROLLBACK TO a;
COMMIT;
SELECT * FROM events();

-- exception blocks
DO $$
BEGIN
	FOR i IN 10..15 LOOP
		BEGIN
			INSERT INTO t VALUES (i, i);
			INSERT INTO w VALUES (i);
			IF i % 2 = 0 THEN
				RAISE 'even';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END
$$;
SELECT * FROM events();

-- deep
CREATE FUNCTION nest(depth int, fail int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO t VALUES (1000 + depth, 1000 + depth);
	IF depth < 100 THEN
		PERFORM nest(depth + 1, fail);
	END IF;
	IF depth = fail THEN
		RAISE 'fail';
	END IF;
EXCEPTION WHEN raise_exception THEN
	NULL;
END
$$;
SELECT nest(1, 4);
SELECT * FROM events();
DELETE FROM t WHERE id > 1000;
SELECT listen() \gset
SELECT nest(1, 0);
SELECT count(*), min(event), max(event) FROM events();

-- a key that moves back and forth
BEGIN;
UPDATE t SET grp = 101 WHERE id = 1;
SAVEPOINT a;
UPDATE t SET grp = 102 WHERE id = 1;
ROLLBACK TO a;
UPDATE t SET grp = 1 WHERE id = 1;
COMMIT;
SELECT * FROM events();

-- a transaction with more keys than its memory holds gives up the single keys;
-- where that is rolled back, they count again
SET mlcache.capture_work_mem = '64kB';
BEGIN;
UPDATE t SET v = 10 WHERE id = 1;
SAVEPOINT a;
INSERT INTO t SELECT i, i FROM generate_series(10000, 20000) i;
ROLLBACK TO a;
UPDATE t SET v = 10 WHERE id = 3;
COMMIT;
SELECT * FROM events();
BEGIN;
UPDATE t SET v = 10 WHERE id = 1;
SAVEPOINT a;
INSERT INTO t SELECT i, i FROM generate_series(10000, 20000) i;
RELEASE a;
UPDATE t SET v = 10 WHERE id = 3;
COMMIT;
SELECT * FROM events();
RESET mlcache.capture_work_mem;
-- within its memory: every one of them, in messages of limited size
INSERT INTO t SELECT i, i FROM generate_series(100000, 139999) i;
SELECT count(*), count(DISTINCT event) FROM events();

DROP FUNCTION nest(int, int);
DROP TABLE w, t;
\i :end
