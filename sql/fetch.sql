-- fetch: the result of any query, cached under a key and tags.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
CREATE TABLE product (id int PRIMARY KEY, name text, price int);
INSERT INTO product SELECT i, 'p' || i, i * 10 FROM generate_series(1, 5) i;

-- where a read came from
CREATE FUNCTION came() RETURNS text LANGUAGE sql AS $$ SELECT source FROM mlcache.last_read() $$;

-- without a relay: the query's result, and nothing is cached
SELECT mlcache.fetch('top', 'SELECT name FROM product ORDER BY price DESC LIMIT 2'), came();
SELECT mlcache.fetch('top', 'SELECT name FROM product ORDER BY price DESC LIMIT 2'), came();

SELECT mlcache.attach('product', tag => 'search');
SELECT armed();
SELECT mlcache.fetch('top', 'SELECT name FROM product ORDER BY price DESC LIMIT 2', tags => '{search}'), came();
SELECT mlcache.fetch('top', 'SELECT name FROM product ORDER BY price DESC LIMIT 2', tags => '{search}'), came();

-- another query, other parameters, tags or ttl: another entry
SELECT mlcache.fetch('top', 'SELECT name FROM product WHERE price > $1', '{30}', tags => '{search}'), came();
SELECT mlcache.fetch('top', 'SELECT name FROM product WHERE price > $1', '{40}', tags => '{search}'), came();
SELECT mlcache.fetch('top', 'SELECT name FROM product WHERE price > $1', '{30}', tags => '{search}'), came();
SELECT mlcache.fetch('top', 'SELECT name FROM product WHERE price > $1', '{30}'), came();
SELECT mlcache.fetch('top', 'SELECT name FROM product WHERE price > $1', '{30}', '1 hour', '{search}'), came();
-- another setting that the result may depend on
SELECT mlcache.fetch('now', 'SELECT timestamptz ''2026-01-01 00:00:00+00'' AS t'), came();
SET TimeZone = 'Asia/Tokyo';
SELECT mlcache.fetch('now', 'SELECT timestamptz ''2026-01-01 00:00:00+00'' AS t'), came();
RESET TimeZone;
SELECT mlcache.fetch('now', 'SELECT timestamptz ''2026-01-01 00:00:00+00'' AS t'), came();

-- any shape of result
SELECT mlcache.fetch('shape', 'SELECT name FROM product WHERE false');
SELECT mlcache.fetch('shape', 'SELECT');
SELECT mlcache.fetch('shape', 'VALUES (1, NULL), (2, ''a"b'')');
SELECT mlcache.fetch('shape', 'TABLE product ORDER BY id LIMIT 1');
SELECT * FROM json_populate_recordset(NULL::product, mlcache.fetch('shape', 'SELECT * FROM product WHERE id < 3 ORDER BY id'));
SELECT mlcache.fetch('shape', 'SELECT $1 AS a, $2::int AS b, $3::date AS c', ARRAY['x', NULL, '2026-02-03']), came();
SELECT mlcache.fetch('shape', 'SELECT $1 AS a, $2::int AS b, $3::date AS c', ARRAY['x', NULL, '2026-02-03']), came();
SELECT json_array_length(mlcache.fetch('long', 'SELECT repeat(''x'', 100) FROM generate_series(1, 10000)')), came();
SELECT json_array_length(mlcache.fetch('long', 'SELECT repeat(''x'', 100) FROM generate_series(1, 10000)')), came();

-- a change of the table reaches all that has the tag
UPDATE product SET price = 1000 WHERE id = 1;
SELECT settle();
SELECT mlcache.fetch('top', 'SELECT name FROM product ORDER BY price DESC LIMIT 2', tags => '{search}'), came();
SELECT mlcache.fetch('top', 'SELECT name FROM product WHERE price > $1', '{30}', tags => '{search}'), came();
-- without the tag, only its ttl and who invalidates it
SELECT mlcache.fetch('top', 'SELECT name FROM product WHERE price > $1', '{30}'), came();
SELECT mlcache.invalidate('top');
SELECT settle();
SELECT mlcache.fetch('top', 'SELECT name FROM product WHERE price > $1', '{30}'), came();
SELECT mlcache.fetch('top', 'SELECT name FROM product ORDER BY price DESC LIMIT 2', tags => '{search}'), came();
SELECT mlcache.fetch('topmost', 'SELECT 1 AS one'), came();
SELECT mlcache.invalidate('top');
SELECT settle();
SELECT mlcache.fetch('topmost', 'SELECT 1 AS one'), came();
SELECT mlcache.invalidate_pattern('#*:topmost');
SELECT settle();
SELECT mlcache.fetch('topmost', 'SELECT 1 AS one'), came();
-- also where a rule has the very key, and its row changes
SELECT mlcache.attach('product', key => 'product:{id}');
SELECT armed();
SELECT mlcache.fetch('product:1', 'SELECT 1 AS one'), came();
SELECT mlcache.pause('redis');
SELECT paused();
SELECT mlcache.invalidate('product:1');
UPDATE product SET price = 1001 WHERE id = 1;
SELECT mlcache.resume('redis');
SELECT armed();
SELECT mlcache.fetch('product:1', 'SELECT 1 AS one'), came();
SELECT mlcache.detach('product', 'product:{id}');
-- that empties L1
SELECT settle();
-- a ttl
SELECT mlcache.fetch('brief', 'SELECT 1 AS one', ttl => '50 ms'), came();
SELECT pg_sleep(0.06);
SELECT mlcache.fetch('brief', 'SELECT 1 AS one', ttl => '50 ms'), came();

-- who has written, keeps a snapshot or has invalidated something: the query itself
SELECT mlcache.fetch('count', 'SELECT count(*) FROM product', tags => '{search}'), came();
BEGIN;
INSERT INTO product VALUES (6, 'p6', 60);
SELECT mlcache.fetch('count', 'SELECT count(*) FROM product', tags => '{search}'), came();
ROLLBACK;
SELECT mlcache.fetch('count', 'SELECT count(*) FROM product', tags => '{search}'), came();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT mlcache.fetch('count', 'SELECT count(*) FROM product', tags => '{search}'), came();
COMMIT;
BEGIN;
SELECT mlcache.invalidate('count');
SELECT mlcache.fetch('count', 'SELECT count(*) FROM product', tags => '{search}'), came();
ROLLBACK;
-- so does a query that writes
CREATE FUNCTION writes() RETURNS int LANGUAGE sql VOLATILE AS $$ INSERT INTO product VALUES (7, 'p7', 70) RETURNING id $$;
BEGIN;
SELECT mlcache.fetch('writes', 'SELECT writes() AS id'), came();
ROLLBACK;
SELECT count(*) FROM redis('--raw KEYS "#*:writes"') k WHERE k <> '';

-- rights: each role has its own copies, and they are checked each time
CREATE ROLE mlctest_a;
CREATE ROLE mlctest_b;
GRANT USAGE ON SCHEMA mlctest TO mlctest_a, mlctest_b;
GRANT SELECT ON product TO mlctest_a, mlctest_b;
SET ROLE mlctest_a;
SELECT mlcache.fetch('who', 'SELECT current_user AS role, count(*) FROM product'), came();
SELECT mlcache.fetch('who', 'SELECT current_user AS role, count(*) FROM product'), came();
SET ROLE mlctest_b;
SELECT mlcache.fetch('who', 'SELECT current_user AS role, count(*) FROM product'), came();
RESET ROLE;
REVOKE SELECT ON product FROM mlctest_a;
SET ROLE mlctest_a;
SELECT mlcache.fetch('who', 'SELECT current_user AS role, count(*) FROM product'), came();
SELECT mlcache.get('who');
RESET ROLE;
GRANT SELECT (id) ON product TO mlctest_a;
SET ROLE mlctest_a;
SELECT mlcache.fetch('ids', 'SELECT count(id) FROM product'), came();
SELECT mlcache.fetch('ids', 'SELECT count(id) FROM product'), came();
SELECT mlcache.fetch('ids', 'SELECT max(price) FROM product'), came();
RESET ROLE;

-- not cached: what depends on more than role, query and parameters
CREATE TABLE secret (owner name, what text);
INSERT INTO secret VALUES ('mlctest_a', 'of a'), ('mlctest_b', 'of b');
GRANT SELECT ON secret TO mlctest_b;
SET ROLE mlctest_b;
SELECT mlcache.fetch('secret', 'SELECT what FROM secret'), came();
SELECT mlcache.fetch('secret', 'SELECT what FROM secret'), came();
RESET ROLE;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secret USING (owner = current_user);
SET ROLE mlctest_b;
SELECT mlcache.fetch('secret', 'SELECT what FROM secret'), came();
SELECT mlcache.fetch('secret', 'SELECT what FROM secret'), came();
RESET ROLE;
SELECT mlcache.fetch('sub', 'SELECT 1 AS x WHERE EXISTS (SELECT FROM secret)'), came();
SELECT mlcache.fetch('sub', 'SELECT 1 AS x WHERE EXISTS (SELECT FROM secret)'), came();
CREATE VIEW tenant AS SELECT * FROM product WHERE name = current_setting('app.tenant');
SET app.tenant = 'p1';
SELECT mlcache.fetch('tenant', 'SELECT id FROM tenant'), came();
SET app.tenant = 'p2';
SELECT mlcache.fetch('tenant', 'SELECT id FROM tenant'), came();
SELECT mlcache.fetch('temp', 'SELECT count(*) FROM product'), came();
CREATE TEMP TABLE product (id int);
SELECT mlcache.fetch('temp', 'SELECT count(*) FROM product'), came();
DROP TABLE pg_temp.product;
SELECT mlcache.fetch('temp', 'SELECT count(*) FROM product'), came();
-- the search path decides what is meant
CREATE SCHEMA other;
CREATE TABLE other.product (id int);
SET search_path = other, public, mlctest;
SELECT mlcache.fetch('temp', 'SELECT count(*) FROM product'), came();
SET search_path = public, mlctest;

-- DDL: the result has another shape
SELECT mlcache.fetch('all', 'SELECT * FROM product WHERE id = 1', tags => '{search}'), came();
ALTER TABLE product ADD COLUMN extra int DEFAULT 7;
SELECT settle();
SELECT mlcache.fetch('all', 'SELECT * FROM product WHERE id = 1', tags => '{search}'), came();

-- bad input
\set VERBOSITY default
SELECT mlcache.fetch(NULL, 'SELECT 1');
SELECT mlcache.fetch('k', NULL);
SELECT mlcache.fetch('k', '');
SELECT mlcache.fetch('k', 'SELEC 1');
SELECT mlcache.fetch('k', 'SELECT 1; SELECT 2');
SELECT mlcache.fetch('k', 'DELETE FROM product');
SELECT mlcache.fetch('k', 'WITH d AS (DELETE FROM product RETURNING id) SELECT * FROM d');
SELECT mlcache.fetch('k', 'SELECT * FROM product FOR UPDATE');
SELECT mlcache.fetch('k', 'SELECT 1 INTO x');
SELECT mlcache.fetch('k', 'SELECT $1::int');
SELECT mlcache.fetch('k', 'SELECT 1', '{1}');
SELECT mlcache.fetch('k', 'SELECT $1::int', '{x}');
SELECT mlcache.fetch('k', 'SELECT 1 / 0');
SELECT mlcache.fetch('k', 'SELECT nosuch FROM product');
SELECT mlcache.fetch('#k', 'SELECT 1');
SELECT mlcache.fetch('k', 'SELECT 1', ttl => '-1 s');
-- the lease of a query that failed is given back
CREATE TABLE flag (bad boolean);
INSERT INTO flag VALUES (true);
SELECT mlcache.fetch('k', 'SELECT 1 / (NOT bad)::int AS x FROM flag');
UPDATE flag SET bad = false;
SELECT mlcache.fetch('k', 'SELECT 1 / (NOT bad)::int AS x FROM flag'), came();

DROP VIEW tenant;
DROP TABLE product, other.product, secret, flag;
DROP SCHEMA other;
DROP FUNCTION came(), writes();
REVOKE ALL ON SCHEMA mlctest FROM mlctest_a, mlctest_b;
DROP ROLE mlctest_a, mlctest_b;
\i :end
