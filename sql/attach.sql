-- attach(): its options, what it says and what it stores.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
CREATE TABLE product (id int PRIMARY KEY, sku text UNIQUE NOT NULL, category int, price numeric(10,2));

-- the capture that is chosen, and why
SELECT mlcache.attach('product', key => 'product:{id}');
SELECT mlcache.attach('product', key => 'category:{category}');
SELECT mlcache.attach('product', key => 'sku:{sku}', capture => 'trigger');
SELECT mlcache.attach('product', key => 'asked:{id}', capture => 'trigger');
SELECT mlcache.attach('product', key => 'told:{id}', capture => 'wal');
SELECT mlcache.attach('product', key => 'cheap:{id}', filter => 'price < 10');

-- every option
SELECT mlcache.attach('product', key => 'p:{sku}:{id}', consistency => 'weak',
	action => 'replicate', ttl => '1 day 00:00:00.25', columns => '{id,price}',
	on_unreachable => 'degrade', servers => '{redis}');
SELECT mlcache.attach('product', 'doc:{category}', 'eventual', 'refresh',
	ttl => '1 mon', negative_ttl => '10 s',
	loader => 'SELECT json_agg(p) FROM product p WHERE category = $1');
SELECT mlcache.attach('product', key => 'u:{id}', action => 'update');

\x
SELECT * FROM mlcache.rules ORDER BY id;
\x

-- the replica identity decides
CREATE TABLE item (id int PRIMARY KEY, a text NOT NULL, b text NOT NULL, c text);
CREATE UNIQUE INDEX item_ab ON item (a, b);
SELECT mlcache.attach('item', key => 'item-1:{a}');
SELECT mlcache.attach('item', key => 'item-2:{id}');
ALTER TABLE item REPLICA IDENTITY USING INDEX item_ab;
SELECT mlcache.attach('item', key => 'item-3:{a}');
SELECT mlcache.attach('item', key => 'item-4:{b}:{a}');
SELECT mlcache.attach('item', key => 'item-5:{id}');
ALTER TABLE item REPLICA IDENTITY FULL;
SELECT mlcache.attach('item', key => 'item-6:{c}');
ALTER TABLE item REPLICA IDENTITY NOTHING;
SELECT mlcache.attach('item', key => 'item-7:{id}');
CREATE TABLE heap (id int);
SELECT mlcache.attach('heap', key => 'heap:{id}');

-- names that need quotes; braces and blanks in literal text
CREATE SCHEMA "Sch ema";
CREATE TABLE "Sch ema"."Tab'le" ("Col umn" int PRIMARY KEY, "{x}" int);
SELECT mlcache.attach('"Sch ema"."Tab''le"', key => 'it''s {Col umn}');
SELECT mlcache.attach('"Sch ema"."Tab''le"', key => 'cart:{{{Col umn}}}');
SELECT mlcache.attach('"Sch ema"."Tab''le"', key => 'no:{{x}}');
SELECT relation, key FROM mlcache.rules WHERE relation = '"Sch ema"."Tab''le"'::regclass ORDER BY id;

-- a rule is attached when the transaction commits
BEGIN;
SELECT mlcache.attach('heap', key => 'gone:{id}');
ROLLBACK;
SELECT key FROM mlcache.rules WHERE relation = 'heap'::regclass;

-- one trigger a table, whatever the number of its rules
SELECT tgrelid::regclass, tgname, tgenabled, tgisinternal, tgfoid::regprocedure
	FROM pg_trigger WHERE tgname LIKE 'mlcache%' ORDER BY tgrelid::regclass::text COLLATE "C";

DROP SCHEMA "Sch ema" CASCADE;
DROP TABLE product, item, heap;
SELECT count(*) FROM mlcache.rules;
\i :end
