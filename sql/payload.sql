-- Actions update and replicate: the payload is the text that row_to_json() gives.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TYPE pair AS (a int, b text);
CREATE TABLE t (id int PRIMARY KEY, "Na me" text, n numeric(10,2), b bool, d date, ts timestamp, tz timestamptz,
	iv interval, j jsonb, js json, ar int[], ta text[], by bytea, f float8, f4 float4, p pair, u uuid, r int4range, x xml);
ALTER TABLE t DROP x;
SELECT mlcache.attach('t', key => 'u:{id}', action => 'update');
SELECT mlcache.attach('t', key => 'r:{id}', action => 'replicate', capture => 'trigger');
SELECT mlcache.attach('t', key => 'c:{id}', action => 'update', columns => '{ts,id,"Na me"}');
-- what changes from here on is replicated
SELECT settle();
SELECT listen() \gset

CREATE FUNCTION payloads() RETURNS TABLE (op text, key text, payload text) LANGUAGE sql AS $$
	SELECT data::json->>'op', data::json->>'key', data::json->>'payload'
	FROM pg_logical_slot_get_changes('mlctest', NULL, NULL)
$$;

SET DateStyle = 'German';
SET TimeZone = 'Asia/Kolkata';
SET IntervalStyle = 'iso_8601';
SET bytea_output = 'escape';
SET extra_float_digits = -5;
INSERT INTO t VALUES (1, E'quote " back \\ line \n tab \t bell \x07 uml ä €', 1.5, true, '2026-02-01', '2026-02-01 10:00',
	'2026-02-01 10:00Z', '1 day 2 hours', '{"b": [1, {"c": null}], "a": "x"}', '{"z" : 1,  "a":2}', '{1,NULL,3}',
	'{a,"b c",NULL}', '\x00ff', 0.1, 0.1, '(1,"x y")', '00000000-0000-0000-0000-000000000001', '[1,3)');
INSERT INTO t (id) VALUES (2);
INSERT INTO t (id, f, n) VALUES (3, 'Infinity', 'NaN');
RESET ALL;
SET search_path = public, mlctest;
SELECT op, key, payload FROM payloads();

-- letter by letter what the loader will say, whose settings are pinned the same
UPDATE t SET n = n;
SET TimeZone = 'UTC';
SET IntervalStyle = 'postgres';
SELECT key, payload = CASE WHEN key LIKE 'c:%'
		THEN (SELECT row_to_json(c) FROM (SELECT ts, id, "Na me" FROM t WHERE id = split_part(key, ':', 2)::int) c)::text
		ELSE (SELECT row_to_json(t) FROM t WHERE id = split_part(key, ':', 2)::int)::text END AS same
	FROM payloads();
RESET TimeZone;
RESET IntervalStyle;

-- a column list: a change of others is a change all the same under wal
UPDATE t SET n = 7 WHERE id = 2;
SELECT op, key, length(payload) FROM payloads();

-- a changed key takes the value away from the old one
UPDATE t SET id = 4 WHERE id = 2;
SELECT op, key, length(payload) FROM payloads();
DELETE FROM t WHERE id = 4;
SELECT op, key, length(payload) FROM payloads();
-- an upsert, two in one transaction: the last one is what Redis gets
BEGIN;
INSERT INTO t (id, n) VALUES (1, 8) ON CONFLICT (id) DO UPDATE SET n = excluded.n;
UPDATE t SET n = 9 WHERE id = 1;
COMMIT;
SELECT op, key, payload::json->>'n' AS n FROM payloads();
SELECT settle();
SELECT redis('GET r:1')::json->>'n' AS n;
-- update never makes an entry, replicate does
SELECT redis('EXISTS u:1');
DELETE FROM t WHERE id = 1;
SELECT settle();
SELECT redis('EXISTS r:1');
DROP TABLE t;

-- an added column is in it, a dropped one is not
CREATE TABLE a (id int PRIMARY KEY, v int, w int);
SELECT mlcache.attach('a', key => 'a:{id}', action => 'update');
INSERT INTO a VALUES (1, 2, 3);
ALTER TABLE a ADD x text DEFAULT 'new';
UPDATE a SET v = 4;
ALTER TABLE a DROP w;
UPDATE a SET v = 5;
ALTER TABLE a RENAME v TO value;
UPDATE a SET value = 6;
ALTER TABLE a ALTER value TYPE text;
UPDATE a SET x = NULL;
SELECT op, key, payload FROM payloads();
DROP TABLE a;

-- a column list under trigger capture: what changes nothing of it says nothing
CREATE TABLE c (id int PRIMARY KEY, k int UNIQUE NOT NULL, v int, w int);
SELECT mlcache.attach('c', key => 'c:{k}', columns => '{v}');
INSERT INTO c VALUES (1, 10, 1, 1);
SELECT listen() \gset
UPDATE c SET w = 2;
SELECT * FROM events();
UPDATE c SET v = 2;
SELECT * FROM events();
UPDATE c SET k = 11;
SELECT * FROM events();
UPDATE c SET w = 3, v = NULL;
SELECT * FROM events();
DROP TABLE c;

-- two rules that could feed one key
CREATE TABLE x (id int PRIMARY KEY, v text);
CREATE TABLE y (id int PRIMARY KEY, v text);
SELECT mlcache.attach('x', key => 'x:{id}', action => 'update');
SELECT mlcache.attach('y', key => 'x:{id}');
\echo :SQLSTATE
SELECT mlcache.attach('y', key => 'x:{v}:{id}', action => 'update');
SELECT mlcache.attach('y', key => 'x:1{id}', action => 'replicate');
SELECT mlcache.attach('x', key => 'x:{id}');
SELECT mlcache.attach('y', key => 'y:{id}');
SELECT mlcache.attach('x', key => 'y:{id}', action => 'update');
SELECT mlcache.attach('x', key => 'y:{id}');
DROP TABLE x, y;

-- columns of usual types, which the relay writes by itself; again letter by letter
CREATE TABLE w ("i""d\" int PRIMARY KEY, s smallint, l bigint, b bool, t text, v varchar(200), ch char(5), n numeric,
	f float8, f4 float4, u uuid, d date, ts timestamp, tz timestamptz, j json, jb jsonb, gone int, big text);
ALTER TABLE w DROP gone;
ALTER TABLE w ADD late text DEFAULT 'late';
SELECT mlcache.attach('w', key => 'w:{i"d\}', action => 'update');
INSERT INTO w VALUES (1, -32768, -9223372036854775808, true, (SELECT string_agg(chr(i), '') FROM generate_series(1, 300) i),
	E'"\\', 'ab', -1.50, 0.1, 0.1, '00000000-0000-0000-0000-00000000000a', '2026-02-01', '2026-02-01 10:00:00.5',
	'2026-02-01 10:00Z', '{"z" : "\u0001",  "a":2}', '{"b": 1, "a": "\""}');
INSERT INTO w VALUES (2, 32767, 9223372036854775807, false, '', '', '', 'NaN', '-Infinity', 'Infinity',
	'ffffffff-ffff-ffff-ffff-ffffffffffff', 'infinity', '-infinity', 'infinity', 'null', '[]');
INSERT INTO w VALUES (3, 0, 0, NULL, repeat('"', 3000), repeat('x', 200), 'äöü', '-Infinity', 'NaN', '-0', NULL,
	'0044-03-15 BC', '0044-03-15 BC', '12026-02-01 10:00Z', '""', '1.00', repeat('compressed', 10000));
INSERT INTO w VALUES (4, 1, 1, true, 'x', 'x', 'x', 12345678901234567890.000, 1e300, 1e-30);
INSERT INTO w ("i""d\") VALUES (5);
INSERT INTO w ("i""d\", t, v) VALUES (6, E'a\tb', E'a\\b'), (7, 'a"b', 'a/b');
SET TimeZone = 'UTC';
SELECT key, payload = (SELECT row_to_json(w) FROM w WHERE "i""d\" = split_part(key, ':', 2)::int)::text AS same
	FROM payloads() WHERE key IS NOT NULL;
RESET TimeZone;
DROP TABLE w;
DROP FUNCTION payloads();
DROP TYPE pair;
\i :end
