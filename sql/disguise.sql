-- The text of keys and payloads is the same whoever makes it, a session, the relay
-- or a loader: also of types whose text depends on names, or on functions of users.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE ROLE regress_mlcache_shop;
CREATE SCHEMA shop AUTHORIZATION regress_mlcache_shop;
SET search_path = shop, public, mlctest;
CREATE TABLE item (id int PRIMARY KEY, what regclass, whats regclass[], n int);
CREATE TABLE thing (what regclass PRIMARY KEY, n int);
ALTER TABLE item OWNER TO regress_mlcache_shop;
ALTER TABLE thing OWNER TO regress_mlcache_shop;
SELECT mlcache.attach('item', key => 'u:{id}', action => 'update');
SELECT mlcache.attach('item', key => 't:{id}', action => 'update', capture => 'trigger');
SELECT mlcache.attach('item', key => 's:{id}', action => 'update', consistency => 'strong');
SELECT mlcache.attach('thing', key => 'thing:{what}');
SELECT mlcache.attach('thing', key => 'other:{what}', capture => 'trigger');
SET search_path = public, mlctest;
INSERT INTO shop.item VALUES (1, 'shop.item', '{shop.item,pg_class,mlcache.rule}', 1);
INSERT INTO shop.thing VALUES ('shop.item', 1);
SELECT armed();

-- the text of a loader, of the relay, and of a strong commit
SELECT mlcache.get('u:1');
SELECT mlcache.get('t:1') = mlcache.get('u:1') AS t, mlcache.get('s:1') = mlcache.get('u:1') AS s;
UPDATE shop.item SET n = 2;
SELECT settle();
SELECT key, redis FROM (VALUES ('u:1'), ('t:1')) k(key), redis('get ' || key);
CALL change('s:1', 'UPDATE shop.item SET n = 2');
-- and of a session that listens to the plugin, which is itself again afterwards
SELECT listen() \gset
UPDATE shop.item SET n = 3;
SELECT data::json->>'key' AS key, data::json->>'payload' AS payload
FROM pg_logical_slot_get_changes('mlctest', NULL, NULL) WHERE data::json->>'payload' <> '' ORDER BY 1;
SHOW search_path;
SELECT current_user = session_user AS same;
-- a schema that the writer may not use is in the path all the same
CREATE ROLE regress_mlcache_writer;
CREATE VIEW public.items AS SELECT * FROM shop.item;
ALTER VIEW public.items OWNER TO regress_mlcache_shop;
GRANT SELECT, UPDATE ON public.items TO regress_mlcache_writer;
CALL change('s:1', 'SET LOCAL ROLE regress_mlcache_writer; UPDATE public.items SET n = 4');

-- a cast to JSON is run as the owner, by loaders and strong commits; never by the relay
SET search_path = shop, public, mlctest;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN moods AS mood[];
CREATE TYPE state AS (n int, m moods);
CREATE FUNCTION tells(mood) RETURNS json STABLE LANGUAGE plpgsql AS
	$$ BEGIN RETURN json_build_array($1::text, current_user, current_setting('search_path')); END $$;
CREATE CAST (mood AS json) WITH FUNCTION tells(mood);
CREATE TABLE guest (id int PRIMARY KEY, m mood, s state, n int);
ALTER TABLE guest OWNER TO regress_mlcache_shop;
SELECT mlcache.attach('guest', key => 'guest:{id}', action => 'update');
SELECT mlcache.attach('guest', key => 'copy:{id}', action => 'replicate', columns => '{id,s,n}');
SELECT mlcache.attach('guest', key => 'strong:{id}', action => 'update', consistency => 'strong', columns => '{id,m,n}');
SET search_path = public, mlctest;
SELECT settle();
INSERT INTO shop.guest VALUES (1, 'good', '(1,"{bad,good}")', 1);
SELECT settle();
SELECT mlcache.get('guest:1');
SELECT mlcache.get('copy:1');
SELECT mlcache.get('strong:1');
SELECT listen() \gset
UPDATE shop.guest SET n = 2;
SELECT settle();
SELECT redis('get guest:1');
SELECT mlcache.get('copy:1');
SELECT * FROM events();
CALL change('strong:1', 'UPDATE shop.guest SET n = 0; UPDATE shop.guest SET n = 2');

-- keys
SELECT key, mlcache.get(key) FROM (VALUES ('thing:item'), ('other:item')) k(key);
SET search_path = mlctest;
UPDATE shop.thing SET n = 2;
SELECT settle();
SELECT key, mlcache.get(key) FROM (VALUES ('thing:item'), ('other:item')) k(key);
SET search_path = public, mlctest;
INSERT INTO shop.thing VALUES ('shop.guest', 1);
SELECT settle();
SELECT mlcache.warm('shop.thing');
SELECT redis('exists thing:guest other:guest');

-- a filter sees the settings that a loader sees, and so do functions that it calls
SET search_path = shop, public, mlctest;
CREATE TABLE day (id int, on_day date) PARTITION BY RANGE (id);
CREATE TABLE public.day_1 PARTITION OF day FOR VALUES FROM (1) TO (100);
CREATE FUNCTION nice(text) RETURNS boolean STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN also_nice($1); END $$;
CREATE FUNCTION also_nice(text) RETURNS boolean STABLE LANGUAGE sql AS $$ SELECT $1 = '2026-02-01' $$;
SELECT mlcache.attach('day', key => 'day:{id}', filter => 'nice(on_day::text)');
SET search_path = public, mlctest;
SET DateStyle = 'German';
SELECT listen() \gset
INSERT INTO shop.day VALUES (1, '1.2.2026'), (2, '2.2.2026');
SELECT * FROM events();
RESET DateStyle;

SET search_path = public, mlctest;
DROP SCHEMA shop CASCADE;
DROP VIEW IF EXISTS public.items;
DROP ROLE regress_mlcache_shop, regress_mlcache_writer;
\i :end
