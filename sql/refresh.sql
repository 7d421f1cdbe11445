-- Action refresh: the document is made again by a loader.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE orders (id int PRIMARY KEY, customer text);
CREATE TABLE item (id int PRIMARY KEY, order_id int, what text);
CREATE FUNCTION order_document(int) RETURNS text STABLE LANGUAGE sql AS $$
	SELECT string_agg(what, ',' ORDER BY id) FROM public.item WHERE order_id = $1
$$;
-- the relay, which is yet to come, may be stopped while it loads
ALTER SYSTEM SET mlcache.refresh_timeout = '4 s';
SELECT pg_reload_conf();
SELECT mlcache.attach('item', key => 'order:{order_id}', action => 'refresh',
	loader => 'SELECT public.order_document($1)');
SELECT mlcache.attach('orders', key => 'o:{id}', action => 'refresh', ttl => '1 h', negative_ttl => '1 h');
-- changes of before the relay serves Redis are none that it makes documents for
SELECT armed();
SELECT listen() \gset

-- both documents of an item that moves are made again
INSERT INTO item VALUES (1, 1, 'pen'), (2, 1, 'ink'), (3, 2, 'cup');
SELECT * FROM events();
UPDATE item SET order_id = 2 WHERE id = 2;
SELECT * FROM events();
DELETE FROM item WHERE id = 3;
SELECT * FROM events();
INSERT INTO orders VALUES (1, 'Ann');
UPDATE orders SET id = 2;
SELECT * FROM events();

-- the relay does it after it has invalidated them: wait for what comes
CREATE FUNCTION wait_for(command text, expected text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	found text;
	deadline timestamptz := clock_timestamp() + '30 s';
BEGIN
	LOOP
		SELECT r INTO found FROM redis(command) r;
		EXIT WHEN found IS NOT DISTINCT FROM expected OR clock_timestamp() > deadline;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN found;
END
$$;
SELECT wait_for('GET order:1', 'pen');
SELECT wait_for('GET order:2', 'ink');
SELECT wait_for('GET o:2', '{"id":2,"customer":"Ann"}');
UPDATE item SET what = 'quill' WHERE id = 1;
SELECT wait_for('GET order:1', 'quill');
DELETE FROM item WHERE order_id = 1;
SELECT wait_for('EXISTS order:1', '0');
SELECT r::int BETWEEN 1 AND 3600000 AS expires FROM redis('PTTL o:2') r;

-- a loader that fails warns in the log, and the document is gone nevertheless
CREATE OR REPLACE FUNCTION order_document(int) RETURNS text STABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
SELECT redis('SET order:2 stale') \gset
UPDATE item SET what = 'blot' WHERE id = 2;
SELECT settle();
SELECT redis('EXISTS order:2');

-- the loader is run as the owner of the table, with a search_path of its own
CREATE ROLE mlctest_owner;
ALTER TABLE item OWNER TO mlctest_owner;
CREATE OR REPLACE FUNCTION order_document(int) RETURNS text STABLE LANGUAGE sql AS $$
	SELECT current_user || ' ' || current_setting('search_path') || ' ' || current_setting('DateStyle')
$$;
UPDATE item SET what = 'x' WHERE id = 2;
SELECT wait_for('GET order:2', 'mlctest_owner pg_catalog, public, pg_temp ISO, YMD');

ALTER SYSTEM RESET mlcache.refresh_timeout;
SELECT pg_reload_conf();
DROP TABLE orders, item;
DROP FUNCTION order_document(int);
DROP FUNCTION wait_for(text, text);
DROP ROLE mlctest_owner;
\i :end
