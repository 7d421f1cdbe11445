-- attach(): what it refuses, each with SQLSTATE, detail and hint, and with nothing changed.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
CREATE TABLE product (id int PRIMARY KEY, sku text, category int, price numeric(10,2));
CREATE UNIQUE INDEX ON product (sku) WHERE price > 0;
CREATE UNIQUE INDEX ON product (lower(sku));

-- the relation
SELECT mlcache.attach('nosuch', key => 'x:{id}');
\echo :SQLSTATE
SELECT mlcache.attach(4294967295::oid, key => 'x:{id}');
\echo :SQLSTATE
SELECT mlcache.attach(NULL, key => 'x:{id}');
\echo :SQLSTATE

-- the template's syntax
SELECT mlcache.attach('product', key => NULL);
\echo :SQLSTATE
SELECT mlcache.attach('product', key => '');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product');
SELECT mlcache.attach('product', key => 'product:{id');
SELECT mlcache.attach('product', key => 'product:id}');
SELECT mlcache.attach('product', key => 'product:{}');
SELECT mlcache.attach('product', key => 'p:{id}{sku}');
SELECT mlcache.attach('product', key => 'p:{id}-{sku}');
SELECT mlcache.attach('product', key => '{id}');
SELECT mlcache.attach('product', key => '{id}:product');
SELECT mlcache.attach('product', key => '{{{id}}}');
SELECT mlcache.attach('product', key => 'a}}{id}');
SELECT mlcache.attach('product', key => 'mlc:{id}');
SELECT mlcache.attach('product', key => E'a\tb:{id}');
\set VERBOSITY sqlstate
SELECT mlcache.attach('product', key => rpad('x', 1025, 'x') || '{id}');
\set VERBOSITY default

-- its columns
SELECT mlcache.attach('product', key => 'product:{nr}');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{ID}');
SELECT mlcache.attach('product', key => 'product:{ctid}');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', columns => '{price,cost}');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', columns => '{xmin}');
SELECT mlcache.attach('product', key => 'product:{id}', columns => '{}');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', columns => '{id,NULL}');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', columns => '{id,price,id}');
\echo :SQLSTATE
DO $$ BEGIN
	EXECUTE (SELECT format('CREATE TABLE wide (%s)', string_agg('c' || n || ' int', ', '))
			 FROM generate_series(1, 130) n);
END $$;
SELECT mlcache.attach('wide', key => 'wide:{c1}', columns => array_agg('c' || n))
	FROM generate_series(1, 130) n;
\echo :SQLSTATE
DROP TABLE wide;

-- words
SELECT mlcache.attach('product', key => 'product:{id}', consistency => 'strict');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', consistency => NULL);
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', action => 'delete');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', action => NULL);
SELECT mlcache.attach('product', key => 'product:{id}', capture => 'WAL');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', on_unreachable => 'ignore');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', on_unreachable => NULL);

-- times to live
SELECT mlcache.attach('product', key => 'product:{id}', ttl => '0');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', ttl => '-1 s');
SELECT mlcache.attach('product', key => 'product:{id}', ttl => '999 us');
SELECT mlcache.attach('product', key => 'product:{id}', negative_ttl => '-1 day');
SELECT mlcache.attach('product', key => 'product:{id}', stale => '0');
SELECT mlcache.attach('product', key => 'product:{id}', stale => '1 min', consistency => 'strong');
SELECT mlcache.attach('product', tag => 'x', stale => '1 min');

-- an action that needs a key of one row
SELECT mlcache.attach('product', key => 'category:{category}', action => 'update');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'sku:{sku}', action => 'replicate');
SELECT mlcache.attach('product', key => 'category:{category}', action => 'refresh');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', action => 'update', loader => 'SELECT 1');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', action => 'replicate', filter => 'true');
\echo :SQLSTATE

-- capture wal without a replica identity that holds the key
SELECT mlcache.attach('product', key => 'category:{category}', capture => 'wal');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', capture => 'wal', filter => 'true');
\echo :SQLSTATE
CREATE TABLE bare (id int);
SELECT mlcache.attach('bare', key => 'bare:{id}', capture => 'wal');

-- loaders and filters
SELECT mlcache.attach('product', key => 'product:{id}', action => 'refresh', loader => 'SELEC 1');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', action => 'refresh', loader => 'SELECT nr FROM product');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', action => 'refresh', loader => 'SELECT $2');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', action => 'refresh', loader => 'DELETE FROM product');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', action => 'refresh', loader => 'SELECT 1; SELECT 2');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', action => 'refresh', loader => '');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', action => 'refresh',
	loader => rpad('SELECT 1', 3001));
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', filter => 'price <');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', filter => 'nr = 1');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', filter => 'price');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', filter => 'true FROM product');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', filter => 'true), (true');
SELECT mlcache.attach('product', key => 'product:{id}', filter => 'true); DROP TABLE product; SELECT (true');
SELECT mlcache.attach('product', key => 'product:{id}', filter => 'EXISTS (SELECT FROM product)');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', filter => 'count(*) > 1');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', filter => '');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', filter => rpad('true', 1001));
\echo :SQLSTATE

-- what is no table, or has no changes in WAL
CREATE VIEW a_view AS SELECT * FROM product;
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM product;
CREATE UNLOGGED TABLE an_unlogged (id int PRIMARY KEY);
CREATE TEMP TABLE a_temp (id int PRIMARY KEY);
CREATE FOREIGN TABLE a_foreign (id int) SERVER redis;
CREATE SEQUENCE a_sequence;
CREATE TYPE a_type AS (id int);
SELECT mlcache.attach('a_view', key => 'x:{id}');
\echo :SQLSTATE
SELECT mlcache.attach('a_matview', key => 'x:{id}');
SELECT mlcache.attach('an_unlogged', key => 'x:{id}');
\echo :SQLSTATE
SELECT mlcache.attach('a_temp', key => 'x:{id}');
SELECT mlcache.attach('a_foreign', key => 'x:{id}');
SELECT mlcache.attach('a_sequence', key => 'x:{last_value}');
\echo :SQLSTATE
-- PostgreSQL's own words for these depend on its version
\set VERBOSITY sqlstate
SELECT mlcache.attach('a_type', key => 'x:{id}');
SELECT mlcache.attach('product_pkey', key => 'x:{id}');
\set VERBOSITY default
SELECT mlcache.attach('pg_class', key => 'x:{oid}');
SELECT mlcache.attach('mlcache.rule', key => 'x:{id}');

-- inheritance
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child () INHERITS (parent);
SELECT mlcache.attach('parent', key => 'x:{id}');
\echo :SQLSTATE

-- a partition that cannot be captured
CREATE TABLE parted (id int) PARTITION BY LIST (id);
CREATE FOREIGN TABLE parted_far PARTITION OF parted FOR VALUES IN (1) SERVER redis;
SELECT mlcache.attach('parted', key => 'x:{id}');
DROP FOREIGN TABLE parted_far;
CREATE UNLOGGED TABLE parted_unlogged PARTITION OF parted FOR VALUES IN (1);
SELECT mlcache.attach('parted', key => 'x:{id}');

-- row security
ALTER TABLE product ENABLE ROW LEVEL SECURITY;
SELECT mlcache.attach('product', key => 'product:{id}');
\echo :SQLSTATE
ALTER TABLE product DISABLE ROW LEVEL SECURITY;

-- not there yet
SELECT mlcache.attach('product', key => 'product:{id}', tag => 'search');
\echo :SQLSTATE

-- servers
SELECT mlcache.attach('product', key => 'product:{id}', servers => '{nosuch}');
\echo :SQLSTATE
SELECT mlcache.attach('product', key => 'product:{id}', servers => '{}');
SELECT mlcache.attach('product', key => 'product:{id}', servers => '{NULL}');
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER other FOREIGN DATA WRAPPER other;
SELECT mlcache.attach('product', key => 'product:{id}', servers => '{redis,other}');
\echo :SQLSTATE

-- somebody else's table
CREATE ROLE mlctest_user;
GRANT ALL ON product TO mlctest_user;
GRANT USAGE ON FOREIGN SERVER redis TO mlctest_user;
SET ROLE mlctest_user;
SELECT mlcache.attach('product', key => 'product:{id}');
\echo :SQLSTATE
SELECT mlcache.attach('a_view', key => 'x:{id}');
\echo :SQLSTATE
RESET ROLE;

-- one's own table and somebody else's server
REVOKE USAGE ON FOREIGN SERVER redis FROM mlctest_user;
ALTER TABLE bare OWNER TO mlctest_user;
SET ROLE mlctest_user;
SELECT mlcache.attach('bare', key => 'bare:{id}');
\echo :SQLSTATE
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER redis TO mlctest_user;
SET ROLE mlctest_user;
SELECT mlcache.attach('bare', key => 'bare:{id}');
RESET ROLE;
DROP TABLE bare;

-- all this has left nothing behind
SELECT * FROM mlcache.rules;
SELECT tgrelid::regclass FROM pg_trigger WHERE tgname LIKE 'mlcache%';

DROP SERVER other;
DROP FOREIGN DATA WRAPPER other;
DROP TABLE product, an_unlogged, a_temp, child, parent, parted CASCADE;
DROP FOREIGN TABLE a_foreign;
DROP SEQUENCE a_sequence;
DROP TYPE a_type;
DROP OWNED BY mlctest_user;
DROP ROLE mlctest_user;
\i :end
