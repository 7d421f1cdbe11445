-- What a column's value looks like in a key: escaping, types, settings of the session, NULLs, length.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse

-- everything that Redis or a template gives a meaning to is escaped
CREATE TABLE a (v text PRIMARY KEY, n int);
CREATE TABLE b (v text PRIMARY KEY, n int);
SELECT mlcache.attach('a', key => 'a:{v}');
SELECT mlcache.attach('b', key => 'b:{v}:{n}');
SELECT listen() \gset
INSERT INTO a VALUES ('plain-Text_0.9~@+=,'), (''), (' '), ('a b'), ('*?[a-z]\'), ('{x}'), ('x:y'),
	('100%'), ('%25'), (E'\n\t\x01\x7f'), ('"''/;$()|&<>!#^`'), ('äöü €'), ('日本');
INSERT INTO b SELECT v, 1 FROM a;
SELECT * FROM events();
UPDATE a SET v = '*' WHERE v = '{x}';
DELETE FROM a WHERE v LIKE 'a %';
SELECT * FROM events();
-- and reaches Redis like that: nothing but that very key goes
SELECT settle();
SELECT redis('MSET "a:%2A" x "a:*" x a:other x') \gset
INSERT INTO a VALUES ('x*');
UPDATE a SET n = 1 WHERE v = '*';
SELECT settle();
SELECT * FROM redis('MGET "a:%2A" "a:*" a:other') WITH ORDINALITY;
DROP TABLE a, b;

-- types
CREATE TYPE mood AS ENUM ('sad', 'so so');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE types (i2 int2, i4 int4, i8 int8, t text, vc varchar(10), bc char(5), u uuid,
	n numeric, n2 numeric(10,2), b bool, m mood, d positive, f8 float8, f4 float4, by bytea,
	na name, ch "char", o oid, ip inet, j jsonb, ar int[], r int4range);
SELECT mlcache.attach('types', key => 'i:{i2}:{i4}:{i8}:{d}:{o}');
SELECT mlcache.attach('types', key => 's:{t}:{vc}:{bc}:{na}:{ch}');
SELECT mlcache.attach('types', key => 'n:{n}:{n2}:{b}:{m}:{f8}:{f4}');
SELECT mlcache.attach('types', key => 'x:{u}:{by}:{ip}:{j}:{ar}:{r}');
SELECT listen() \gset
INSERT INTO types VALUES (-32768, -2147483648, -9223372036854775808, 'text', 'var', 'bp',
	'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 1.50, 1.5, true, 'so so', 7, 0.1, 0.1, '\x00ff',
	'name', 'c', 4294967295, '10.0.0.1/8', '{"b": 1, "a": [null]}', '{1,NULL,3}', '[1,4)');
INSERT INTO types VALUES (32767, 2147483647, 9223372036854775807, '', '', '',
	'00000000-0000-0000-0000-000000000000', 'NaN', -0.005, false, 'sad', 1, '-Infinity', 1e10, '',
	'', '', 0, '::1', '"x"', '{}', 'empty');
SELECT * FROM events();
DROP TABLE types;

-- the same key whatever the session's settings, by either capture
CREATE TABLE times (d date, ts timestamp, tz timestamptz, iv interval, f float8, mo money, by bytea,
	PRIMARY KEY (d, ts, tz, iv, f, mo, by));
SELECT mlcache.attach('times', key => 'w:{d}:{ts}:{tz}:{iv}:{f}:{by}');
SELECT mlcache.attach('times', key => 't:{d}:{ts}:{tz}:{iv}:{f}:{by}', capture => 'trigger');
SELECT listen() \gset
SET timezone = 'UTC';
INSERT INTO times VALUES ('2026-02-01', '2026-02-01 10:00', '2026-02-01 10:00Z', '1 day 02:00', 0.1::float8 + 0.2, 5, '\x41ff');
SET DateStyle = 'SQL, DMY';
SET TimeZone = 'America/New_York';
SET IntervalStyle = 'iso_8601';
SET extra_float_digits = -10;
SET bytea_output = 'escape';
UPDATE times SET mo = 6;
SELECT * FROM events();
SET DateStyle = 'German';
SET TimeZone = 'Asia/Kolkata';
SET IntervalStyle = 'postgres_verbose';
DELETE FROM times;
SELECT * FROM events();
-- the trigger has put everything back
SHOW DateStyle;
SHOW TimeZone;
SHOW IntervalStyle;
SHOW extra_float_digits;
SHOW bytea_output;
RESET ALL;
SET search_path = public, mlctest;
DROP TABLE times;

-- a NULL in the key: no key, no event, but a count
CREATE TABLE n (id int PRIMARY KEY, a int, b int);
SELECT mlcache.attach('n', key => 'n:{a}:{b}');
SELECT mlcache.attach('n', key => 'id:{id}');
SELECT listen() \gset
SELECT mlcache.reset_stats();
INSERT INTO n VALUES (1, 1, NULL), (2, NULL, NULL), (3, 3, 3);
SELECT * FROM events();
UPDATE n SET b = 1 WHERE id = 1;
UPDATE n SET a = NULL WHERE id = 3;
SELECT * FROM events();
SELECT key, null_keys FROM mlcache.stat_rules ORDER BY id;
-- under wal capture the decoder counts, so the relay does, too: at least one
ALTER TABLE n REPLICA IDENTITY FULL;
SELECT mlcache.attach('n', key => 'full:{a}:{b}');
SELECT settle();
SELECT listen() \gset
INSERT INTO n VALUES (4, 4, NULL);
SELECT * FROM events();
SELECT settle();
SELECT null_keys > 0 AS counted FROM mlcache.stat_rules WHERE key LIKE 'full:%';
DROP TABLE n;

-- a key of 65535 bytes is one, a longer one can be nobody's
CREATE TABLE long (id int PRIMARY KEY, v text);
SELECT mlcache.attach('long', key => 'l:{v}');
SELECT listen() \gset
INSERT INTO long VALUES (1, repeat('x', 65533)), (2, repeat('x', 65534));
SELECT left(event, 40), length(event) FROM events();
UPDATE long SET v = 'short';
SELECT left(event, 40), length(event) FROM events();
DROP TABLE long;

-- a key that would be mlcache's own
CREATE TABLE own (v text, id int, PRIMARY KEY (v, id));
SELECT mlcache.attach('own', key => 'm{v}:{id}');
SELECT listen() \gset
INSERT INTO own VALUES ('lc', 1), ('ld', 1);
SELECT * FROM events();
DROP TABLE own;
DROP DOMAIN positive;
DROP TYPE mood;
\i :end
