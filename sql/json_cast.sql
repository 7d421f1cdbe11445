-- Types with a cast to JSON: functions of users are for loaders and triggers to run.
-- The relay decodes, where any that is not written in C would crash the server: it
-- removes the entry, or loads the row.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN moods AS mood[];
CREATE TYPE state AS (n int, m moods);
CREATE TABLE guest (id int PRIMARY KEY, m mood, s state, n int);
SELECT mlcache.attach('guest', key => 'u:{id}', action => 'update');
SELECT mlcache.attach('guest', key => 'r:{id}', action => 'replicate', columns => '{id,s,n}');
SELECT mlcache.attach('guest', key => 't:{id}', action => 'update', capture => 'trigger');
SELECT mlcache.attach('guest', key => 's:{id}', action => 'update', consistency => 'strong', columns => '{id,m,n}');
SELECT mlcache.attach('guest', key => 'n:{id}', action => 'update', columns => '{id,n}');
SELECT armed();
INSERT INTO guest VALUES (1, 'good', '(1,"{bad,good}")', 1);
SELECT settle();
CREATE VIEW cached AS
	SELECT key, redis FROM (VALUES ('n:1'), ('r:1'), ('t:1'), ('u:1')) k(key), redis('get ' || key);

-- without a cast
SELECT key, mlcache.get(key) FROM (VALUES ('u:1'), ('r:1'), ('t:1'), ('s:1'), ('n:1')) k(key);
SELECT listen() \gset
UPDATE guest SET n = 2;
SELECT settle();
SELECT * FROM cached;
SELECT * FROM events();
CALL change('s:1', 'UPDATE guest SET n = 0; UPDATE guest SET n = 2');

-- and with one that comes later, in SQL and in PL/pgSQL
CREATE FUNCTION tells(mood) RETURNS json STABLE LANGUAGE sql AS $$ SELECT json_build_object('mood', $1::text) $$;
CREATE CAST (mood AS json) WITH FUNCTION tells(mood);
SELECT listen() \gset
UPDATE guest SET n = 3;
SELECT settle();
SELECT mlcache.get('r:1');		-- the relay may not have loaded it yet
SELECT * FROM cached;
SELECT * FROM events();
CALL change('s:1', 'UPDATE guest SET n = 0; UPDATE guest SET n = 3');
CREATE OR REPLACE FUNCTION tells(mood) RETURNS json STABLE LANGUAGE plpgsql AS
	$$ BEGIN RETURN (SELECT json_build_array($1::text, count(*)) FROM guest); END $$;
SELECT mlcache.get('u:1');
SELECT listen() \gset
UPDATE guest SET n = 4;
SELECT settle();
SELECT mlcache.get('r:1');
SELECT * FROM cached;
SELECT * FROM events();
CALL change('s:1', 'UPDATE guest SET n = 0; UPDATE guest SET n = 4');

SET client_min_messages = warning;
DROP TABLE guest CASCADE;
DROP TYPE state;
DROP DOMAIN moods;
DROP TYPE mood CASCADE;
\i :end
