-- Filling ahead: warm, and what is hot.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
SET client_min_messages = warning;

CREATE FUNCTION read(key text) RETURNS TABLE (value text, source text)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	value := mlcache.get(key);
	source := (mlcache.last_read()).source;
	RETURN NEXT;
END
$$;

CREATE TABLE w (id int PRIMARY KEY, grp int, name text, day date);
INSERT INTO w SELECT g, nullif(g % 10, 0), 'n' || g, '2026-01-01'::date + g FROM generate_series(1, 250) g;
SELECT mlcache.attach('w', key => 'w:{id}');
SELECT armed();

-- some rows, all of them, and none is left
SELECT mlcache.warm('w', max_rows => 5);
SELECT mlcache.warm('w', 'id <= 10');
SELECT * FROM read('w:7');
SELECT redis('EXISTS w:11');
SELECT mlcache.warm('w');
SELECT mlcache.warm('w');
SELECT * FROM read('w:250');
SELECT count(*) FROM mlcache.stat_progress;

-- a change is loaded again
UPDATE w SET name = 'new' WHERE id = 7;
SELECT settle();
SELECT mlcache.warm('w', 'id < 100');
SELECT value::json->>'name', source FROM read('w:7');

-- every rule of the relation, keys that several rows have, and NULLs; what
-- types write is written as keys have it, what the caller writes as he does
SELECT mlcache.attach('w', key => 'group:{grp}', loader => 'SELECT count(*) FROM w WHERE grp = $1');
SELECT mlcache.attach('w', key => 'day:{day}', columns => '{id}');
SELECT settle();
SET datestyle = 'SQL, DMY';
SELECT mlcache.warm('w', $$day <= '05/01/2026'$$);
SELECT * FROM read('day:2026-01-05');
SELECT * FROM read('group:4');
RESET datestyle;
SELECT redis('EXISTS day:2026-01-06');

-- a transaction that fills nothing says so
BEGIN;
UPDATE w SET name = 'mine' WHERE id = 1;
SELECT mlcache.warm('w');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT mlcache.warm('w');
ROLLBACK;

-- bad input
SELECT mlcache.warm('w', 'nonsense');
SELECT mlcache.warm('w', 'id');
SELECT mlcache.warm('w', 'true); SELECT (1');
CREATE SEQUENCE mlctest.s;
SELECT mlcache.warm('w', $$nextval('mlctest.s') > 0$$);
SELECT mlcache.warm('w', max_rows => -1);
SELECT mlcache.warm('pg_class');
SELECT mlcache.warm(NULL);
SELECT mlcache.warm(0);

-- who may not read the rows may not fill with them
CREATE ROLE regress_warm_nobody;
GRANT USAGE ON SCHEMA mlctest TO regress_warm_nobody;
SET ROLE regress_warm_nobody;
SELECT mlcache.warm('w');
SELECT * FROM mlcache.hot_keys();
RESET ROLE;
GRANT SELECT (id) ON w TO regress_warm_nobody;
SET ROLE regress_warm_nobody;
SELECT mlcache.warm('w');
RESET ROLE;

-- what nobody can fill
SELECT mlcache.pause('redis');
SELECT paused();
SELECT redis('HDEL mlc:state:db' || oid || ' applied') IS NOT NULL FROM pg_database WHERE datname = current_database();
SELECT redis('DEL w:1 w:2 w:3') IS NOT NULL;
SELECT mlcache.warm('w', 'id <= 3') FROM mlcache.stat_l1 WHERE lines >= 0;
SELECT mlcache.resume('redis');

-- what is hot: one read in 32 is counted
SELECT count(*) FROM mlcache.mget((SELECT array_agg(CASE WHEN g % 4 = 0 THEN 'w:' || g % 200 + 1 ELSE 'w:1' END) FROM generate_series(1, 40000) g));
SELECT key, reads BETWEEN 15000 AND 45000 FROM mlcache.hot_keys(1);
SELECT count(*) FROM mlcache.hot_keys(10);
SELECT count(*) > 10, max(reads) = (SELECT reads FROM mlcache.hot_keys(1)) FROM mlcache.hot_keys(1000);
SELECT * FROM mlcache.hot_keys(0);
SELECT mlcache.hot_keys(-1);

DROP TABLE w;
DROP OWNED BY regress_warm_nobody;
DROP ROLE regress_warm_nobody;
DROP FUNCTION read;
\i :end
