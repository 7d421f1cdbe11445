-- Tags: what was filled with one goes when a table changes, or somebody says so.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
CREATE TABLE product (id int PRIMARY KEY, name text, price int);
CREATE TABLE heap (n int);
SELECT mlcache.attach('product', tag => 'search');
SELECT mlcache.attach('heap', tag => 'odd {}%*tag');
SELECT relation, key, tag, capture FROM mlcache.rules ORDER BY id;
-- until readers are served
SELECT armed();
SELECT listen() \gset

-- which of these are there?
CREATE FUNCTION alive() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(key, ' ' ORDER BY key) FROM mlcache.mget('{a,b,c,d,e}') WHERE value IS NOT NULL
$$;
CREATE FUNCTION refill() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM mlcache.set('a', '1', NULL, '{search}'), mlcache.set('b', '2', '1 hour', '{search,other}'),
		mlcache.set('c', '3', NULL, '{other}'), mlcache.set('d', '4'),
		mlcache.set('e', '5', NULL, ARRAY['odd {}%*tag']);
	RETURN true;
END $$;
SELECT refill();
SELECT settle();
SELECT alive();
SELECT * FROM events();

-- any change of the table
INSERT INTO product VALUES (1, 'one', 1);
SELECT settle();
SELECT alive();
SELECT * FROM events();
SELECT refill();
SELECT settle();
SELECT listen() \gset
UPDATE product SET price = 2;
SELECT settle();
SELECT alive();
SELECT * FROM events();
SELECT refill();
SELECT settle();
SELECT listen() \gset
DELETE FROM product;
SELECT settle();
SELECT alive();
SELECT refill();
SELECT settle();
SELECT listen() \gset
TRUNCATE product;
SELECT settle();
SELECT alive();
SELECT * FROM events();
-- and nothing else: what is rolled back, what changes nothing
SELECT refill();
SELECT settle();
SELECT listen() \gset
BEGIN; INSERT INTO product VALUES (2, 'two', 2); ROLLBACK;
UPDATE product SET price = 3 WHERE id = 99;
SELECT settle();
SELECT alive();
SELECT * FROM events();
-- once a transaction, whatever the number of rows
INSERT INTO product SELECT i, 'n', i FROM generate_series(10, 1000) i;
SELECT * FROM events();
-- a table without any key
INSERT INTO heap VALUES (1);
UPDATE heap SET n = 2;
DELETE FROM heap;
SELECT settle();
SELECT alive();
SELECT * FROM events();

-- by hand
SELECT refill();
SELECT settle();
SELECT listen() \gset
SELECT mlcache.invalidate_tag('other');
SELECT settle();
SELECT alive();
SELECT * FROM events();
-- in L1, too, what has the tag and nothing else
SELECT count(mlcache.get(k)) FROM unnest('{a,d,e}'::text[]) k;
SELECT k, mlcache.get(k), (mlcache.last_read()).source FROM unnest('{a,d,e}'::text[]) k;
SELECT mlcache.invalidate_tag('search');
SELECT settle();
SELECT k, mlcache.get(k), (mlcache.last_read()).source FROM unnest('{a,d,e}'::text[]) k;
SELECT refill();
SELECT settle();
SELECT mlcache.invalidate_tag('other');
SELECT settle();
SELECT listen() \gset
-- in the order of the calls, within a transaction
BEGIN;
SELECT mlcache.set('a', 'before', NULL, '{other}'), mlcache.invalidate_tag('other'),
	mlcache.set('b', 'after', NULL, '{other}');
SELECT mlcache.get('a'), mlcache.get('b');
COMMIT;
SELECT settle();
SELECT mlcache.get('a'), mlcache.get('b');
SELECT * FROM events();
-- and from one to the next, however they are put together
SELECT mlcache.pause('redis');
SELECT paused();
SELECT mlcache.set('a', 'before', NULL, '{other}');
SELECT mlcache.invalidate_tag('other');
SELECT mlcache.set('b', 'after', NULL, '{other}');
SELECT mlcache.resume('redis');
SELECT armed();
SELECT mlcache.get('a'), mlcache.get('b');
-- a savepoint takes it back
SELECT listen() \gset
BEGIN;
SELECT mlcache.set('a', 'again', NULL, '{other}');
SAVEPOINT s;
SELECT mlcache.invalidate_tag('other');
SELECT mlcache.get('a');
ROLLBACK TO s;
SELECT mlcache.get('a');
COMMIT;
SELECT settle();
SELECT alive();
SELECT * FROM events();

-- a filter, evaluated where the row changes
SELECT mlcache.attach('product', tag => 'cheap', filter => 'price < 100');
SELECT mlcache.set('c', 'c', NULL, '{cheap}');
SELECT settle();
SELECT listen() \gset
INSERT INTO product VALUES (2000, 'dear', 2000);
SELECT settle();
SELECT alive();
SELECT * FROM events();
UPDATE product SET price = 1 WHERE id = 2000;
SELECT settle();
SELECT alive();
SELECT * FROM events();
SELECT mlcache.set('c', 'c', NULL, '{cheap}');
SELECT settle();
UPDATE product SET price = 200 WHERE id = 2000;
SELECT settle();
SELECT alive();
SELECT mlcache.detach('product', tag => 'cheap');

-- many members take many steps
SELECT count(mlcache.set('m' || i, 'x', '1 hour', '{many}')) FROM generate_series(1, 3000) i;
SELECT settle();
SELECT * FROM redis('--raw EXISTS m1 m1500 m3000');
SELECT mlcache.invalidate_tag('many');
SELECT settle();
SELECT * FROM redis('--raw EXISTS m1 m1500 m3000');
SELECT count(*) FROM mlcache.mget((SELECT array_agg('m' || i) FROM generate_series(1, 3000) i)) WHERE value IS NOT NULL;

-- patterns
SELECT refill(), mlcache.set('list:1', 'x'), mlcache.set('list:{2}', 'y'), mlcache.set('liste', 'z');
SELECT settle();
SELECT listen() \gset
BEGIN;
SELECT mlcache.set('list:3', 'before'), mlcache.invalidate_pattern('list:*'), mlcache.set('list:4', 'after');
SELECT * FROM mlcache.mget(ARRAY['list:1','list:{2}','list:3','list:4','liste']);
COMMIT;
SELECT settle();
SELECT * FROM mlcache.mget(ARRAY['list:1','list:{2}','list:3','list:4','liste']);
SELECT * FROM events();
SELECT mlcache.invalidate_pattern('[a-c^]');
SELECT settle();
SELECT alive();
-- a row's entry, also in L1
SELECT mlcache.attach('product', key => 'pr:{id}');
SELECT settle();
SELECT mlcache.get('pr:10'), mlcache.get('pr:10'), (mlcache.last_read()).source;
SELECT mlcache.invalidate_pattern('pr:*');
SELECT settle();
SELECT mlcache.get('pr:10'), (mlcache.last_read()).source;

-- bad input
\set VERBOSITY default
SELECT mlcache.attach('product', key => 'p:{id}', tag => 'x');
SELECT mlcache.attach('product');
SELECT mlcache.attach('product', tag => 'search');
SELECT mlcache.attach('product', tag => 'x', consistency => 'strong');
SELECT mlcache.attach('product', tag => 'x', ttl => '1 min');
SELECT mlcache.attach('product', tag => 'x', action => 'update');
SELECT mlcache.attach('product', tag => '');
SELECT mlcache.attach('product', tag => 'x', capture => 'wal', filter => 'price < 1');
SELECT mlcache.detach('product', 'p', 'x');
SELECT mlcache.detach('product', tag => 'x');
SELECT mlcache.invalidate_tag('');
SELECT mlcache.invalidate_tag(NULL);
SELECT mlcache.invalidate_pattern('a[b');
SELECT mlcache.invalidate_pattern('a\');
SELECT mlcache.invalidate_pattern('[a-]');

-- detach: what had the tag goes, since nobody follows the table any more
SELECT refill();
SELECT settle();
SELECT mlcache.detach('product', tag => 'search');
SELECT settle();
SELECT alive();
SELECT tag, key FROM mlcache.rules ORDER BY id;
DROP TABLE product, heap;
DROP FUNCTION alive(), refill();
\i :end
