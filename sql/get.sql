-- Guarded reads: what get, mget, get_row and exists return, where it came from,
-- and who may have it.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse

-- value and source in one row; the source is that of the value before it
CREATE FUNCTION read(key text) RETURNS TABLE (value text, source text)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	value := mlcache.get(key);
	source := (mlcache.last_read()).source;
	RETURN NEXT;
END
$$;

CREATE TABLE p (id int PRIMARY KEY, name text, price numeric, secret text DEFAULT 's', at timestamptz DEFAULT '2026-01-02 03:04:05+00');
INSERT INTO p SELECT g, 'p' || g, g * 1.5 FROM generate_series(1, 9) g;
SELECT mlcache.attach('p', key => 'p:{id}');
SELECT mlcache.attach('p', key => 'name:{id}', columns => '{id,name}', ttl => '1 h');
SELECT mlcache.attach('p', key => 'doc:{name}', loader => 'SELECT json_build_object(''price'', price) FROM p WHERE name = $1');
SELECT armed();

-- the row is loaded once; then it comes from shared memory
SELECT * FROM read('p:1');
SELECT * FROM read('p:1');
SELECT redis('GET p:1');
SELECT * FROM read('name:1');
SELECT * FROM read('name:1');
SELECT * FROM read('doc:p3');
SELECT * FROM read('doc:p3');
SELECT mlcache.get(NULL), mlcache.exists(NULL);

-- whether or not a session looks for the answer before it sleeps
SET mlcache.redis_spin = 0;
SELECT * FROM read('p:8');
SET mlcache.redis_spin = 1000;
SELECT * FROM read('p:9');
RESET mlcache.redis_spin;

-- a change is seen once it is applied
UPDATE p SET name = 'one' WHERE id = 1;
SELECT settle();
SELECT * FROM read('p:1');
SELECT * FROM read('name:1');
SELECT * FROM read('doc:one');
SELECT * FROM read('doc:p1');

-- that there is no row is cached, and forgotten when there is one
SELECT * FROM read('p:99');
SELECT * FROM read('p:99');
SELECT mlcache.exists('p:99'), mlcache.exists('p:1');
SELECT redis('EXISTS p:99');
INSERT INTO p VALUES (99, 'late', 1);
SELECT settle();
SELECT * FROM read('p:99');
DELETE FROM p WHERE id = 99;
SELECT settle();
SELECT * FROM read('p:99');

-- keys that no rendering gives are read, and never cached
SELECT * FROM read('p:01');
SELECT * FROM read('p:01');
SELECT redis('EXISTS p:01 mlc:{p:01}');
-- nor what types take for equal
CREATE TABLE n (x numeric PRIMARY KEY, v int);
INSERT INTO n VALUES (1.0, 10);
SELECT mlcache.attach('n', key => 'n:{x}');
SELECT settle();
SELECT * FROM read('n:1.00');
SELECT * FROM read('n:1.00');
SELECT * FROM read('n:1.0');
SELECT * FROM read('n:1.0');
SELECT * FROM read('n:7');
SELECT * FROM read('n:7');
SELECT redis('EXISTS n:1.00 n:1.0');
UPDATE n SET v = 11;
SELECT settle();
SELECT * FROM read('n:1.00');
SELECT * FROM read('n:1.0');

-- many at once, in their order
SELECT * FROM mlcache.mget('{p:2,p:98,NULL,p:3,p:2,name:4,p:02}');
SELECT * FROM mlcache.mget('{p:2,p:98,NULL,p:3,p:2,name:4,p:02}');
SELECT * FROM mlcache.mget('{}');
SELECT count(*), count(value) FROM mlcache.mget((SELECT array_agg('p:' || g) FROM generate_series(1, 2000) g));
SELECT count(*), count(value) FROM mlcache.mget((SELECT array_agg('p:' || g) FROM generate_series(1, 2000) g));

-- rows
SELECT mlcache.get_row(NULL::p, 2);
SELECT r.id, r.name, r.at = '2026-01-02 03:04:05+00' AS at FROM mlcache.get_row(NULL::p, 3) r;
SELECT mlcache.get_row(NULL::p, 98) IS NULL, mlcache.get_row(NULL::p, NULL) IS NULL;
SELECT mlcache.get_row(NULL::n, '1.0'::text);
SELECT mlcache.get_row(NULL::p, 1, 2);
SELECT mlcache.get_row(NULL::int, 1);

-- this transaction's own writes, and nothing of them stays
BEGIN;
UPDATE p SET name = 'mine' WHERE id = 2;
SELECT * FROM read('p:2');
INSERT INTO p VALUES (98, 'mine', 0);
SELECT * FROM read('p:98');
SELECT value FROM mlcache.mget('{p:2,p:98}');
ROLLBACK;
SELECT * FROM read('p:2');
SELECT value IS NULL FROM read('p:98');
WITH changed AS (UPDATE p SET price = 0 WHERE id = 3 RETURNING id)
SELECT mlcache.get('p:' || id) FROM changed;
SELECT settle();
-- a kept snapshot reads rows
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM read('p:2');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT * FROM read('p:2');
COMMIT;

-- no older than asked for
UPDATE p SET name = 'newer' WHERE id = 4;
SELECT mlcache.get('p:4', min_version => mlcache.last_commit_version());
SELECT settle();
SELECT mlcache.get('p:5') IS NOT NULL;
SELECT mlcache.get('p:5', min_version => mlcache.last_commit_version()) IS NOT NULL;
SELECT source FROM mlcache.last_read();
SELECT mlcache.get('p:5', max_age => '1 h') IS NOT NULL;
SELECT source FROM mlcache.last_read();
SELECT mlcache.get('p:5', max_age => '0') IS NOT NULL;
SELECT source FROM mlcache.last_read();
SELECT mlcache.get('p:5', max_age => '-1 s');
SELECT mlcache.get('p:5', min_version => 'nonsense');
SELECT mlcache.get('p:5', min_version => 'ffffffff0000000000000000');

-- bad keys
SELECT mlcache.get('nobody:1');
SELECT mlcache.get('');
SELECT mlcache.get('p:');
SELECT mlcache.get('p:x');
SELECT count(*) FROM mlcache.mget('{p:1,nobody:1}');
-- a loader that fails leaves no lease behind
SELECT redis('EXISTS mlc:{p:x}');
-- more than one row
CREATE TABLE c (id int PRIMARY KEY, grp int);
INSERT INTO c VALUES (1, 1), (2, 1);
SELECT mlcache.attach('c', key => 'c:{grp}');
SELECT settle();
SELECT mlcache.get('c:1');

-- what others wrote past the protocol is not taken
SELECT redis('SET p:9001 forged');
SELECT * FROM read('p:9001');
SELECT redis('EXISTS p:9001');

-- rights: those on the table and the columns shown
CREATE ROLE mlctest_reader;
GRANT USAGE ON SCHEMA mlctest TO mlctest_reader;
SELECT mlcache.get('p:7') IS NOT NULL;
SET ROLE mlctest_reader;
SELECT mlcache.get('p:7');
SELECT mlcache.get('p:8');
SELECT count(*) FROM mlcache.mget('{p:7}');
SELECT mlcache.exists('p:7');
SELECT mlcache.get_row(NULL::p, 7);
RESET ROLE;
GRANT SELECT (id, name) ON p TO mlctest_reader;
SET ROLE mlctest_reader;
SELECT mlcache.get('name:7');
SELECT mlcache.get('p:7');
SELECT mlcache.get('doc:p7');
RESET ROLE;
GRANT SELECT ON p TO mlctest_reader;
SET ROLE mlctest_reader;
SELECT mlcache.get('p:7') IS NOT NULL;
SELECT mlcache.get('p:7') IS NOT NULL;
RESET ROLE;
REVOKE SELECT ON p FROM mlctest_reader;
SET ROLE mlctest_reader;
SELECT mlcache.get('p:7');
RESET ROLE;
-- what concerns a whole rule empties L1
SELECT value FROM read('n:1.0');
SELECT * FROM read('n:1.0');
TRUNCATE n;
SELECT settle();
SELECT * FROM read('n:1.0');

-- the table changes under the loader
ALTER TABLE p ADD COLUMN extra int DEFAULT 5;
SELECT settle();
SELECT value::json->>'extra' AS extra FROM read('p:8');
ALTER TABLE p ALTER COLUMN id TYPE bigint;
SELECT settle();
SELECT value::json->>'id' AS id FROM read('p:8');
ALTER TABLE p RENAME TO q;
SELECT settle();
SELECT value::json->>'id' AS id FROM read('p:9');
SELECT redis('FLUSHALL');
SELECT value::json->>'id' AS id FROM read('p:3');

-- a rule that is gone gives nothing
SELECT mlcache.detach('q', 'p:{id}');
SELECT mlcache.get('p:8');
SELECT mlcache.get('p:8');

SELECT budget > 0 AS budget, used <= budget AS within, lines > 0 AS lines, hits > 0 AS hits, misses > 0 AS misses, closed > 0 AS closed FROM mlcache.stat_l1;
-- values of a megabyte have their place in shared memory
CREATE TABLE big (id int PRIMARY KEY, v text);
INSERT INTO big SELECT g, repeat(chr(64 + g), 1024 * 1024) FROM generate_series(1, 3) g;
SELECT mlcache.attach('big', key => 'big:{id}', loader => 'SELECT v FROM big WHERE id = $1');
SELECT armed();
SELECT length(value), left(value, 1), source FROM read('big:1');
SELECT length(value), md5(value) = md5(repeat('A', 1024 * 1024)) AS same, source FROM read('big:1');
SELECT length(value), right(value, 1), source FROM read('big:2');
SELECT length(value), right(value, 1), source FROM read('big:2');
DROP TABLE big;

-- a row outside the filter is read and not cached, nor that there is none: who
-- would tell that it changed?
CREATE TABLE o (id int PRIMARY KEY, v int, open bool);
INSERT INTO o VALUES (1, 1, true), (2, 1, false);
SELECT mlcache.attach('o', key => 'o:{id}', filter => 'o.open AND v > 0');
SELECT settle();
SELECT * FROM read('o:1');
SELECT * FROM read('o:1');
SELECT * FROM read('o:2');
SELECT * FROM read('o:2');
SELECT * FROM read('o:3');
INSERT INTO o VALUES (3, 1, false);
UPDATE o SET v = 2;
SELECT settle();
SELECT key, value::json->>'v' AS v FROM mlcache.mget('{o:1,o:2,o:3}');
UPDATE o SET open = NOT open;
SELECT settle();
SELECT key, value::json->>'open' AS open FROM mlcache.mget('{o:1,o:2,o:3}');
SELECT redis('EXISTS o:1 o:2 o:3');
SELECT mlcache.warm('o', 'id = 1');
DROP TABLE o;

DROP TABLE q, n, c;
DROP FUNCTION read;
DROP OWNED BY mlctest_reader;
DROP ROLE mlctest_reader;
\i :end
