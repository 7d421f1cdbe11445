-- A relay that is no longer needed goes, also when its Redis is out of reach; one that
-- comes after it reads WAL of before the extension was made anew.  In a database of its
-- own, since a relay that stays would be in the way of other tests.
\set main :DBNAME
\getenv redis_url MLC_REDIS_URL
SET client_min_messages = warning;
CREATE DATABASE mlctest_retire;
\c mlctest_retire
SET client_min_messages = warning;

CREATE FUNCTION slot_goes() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	deadline timestamptz := clock_timestamp() + '60 s';
BEGIN
	WHILE EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database()) LOOP
		IF clock_timestamp() > deadline THEN
			RETURN false;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN true;
END
$$;

CREATE EXTENSION mlcache;
CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url :'redis_url', connect_timeout '60000', timeout '60000');
CREATE TABLE t (id int PRIMARY KEY);
SELECT mlcache.attach('t', key => 't:{id}');
SELECT mlcache.wait_applied(mlcache.last_commit_version(), '60 s');

-- paused when the last rule goes
SELECT mlcache.pause('redis');
DO $$
BEGIN
	WHILE (SELECT state FROM mlcache.stat_servers) IS DISTINCT FROM 'paused' LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
DROP TABLE t;
SELECT slot_goes();
DROP EXTENSION mlcache CASCADE;

-- the same names again
CREATE EXTENSION mlcache;
CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url :'redis_url', connect_timeout '60000', timeout '60000');
CREATE TABLE t (id int PRIMARY KEY);
SELECT mlcache.attach('t', key => 't:{id}');
SELECT mlcache.wait_applied(mlcache.last_commit_version(), '60 s');

-- made anew while the slot still stands before the old one's end
SELECT mlcache.pause('redis');
DROP EXTENSION mlcache CASCADE;
CREATE EXTENSION mlcache;
CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url :'redis_url', connect_timeout '60000', timeout '60000');
SELECT mlcache.attach('t', key => 't:{id}');
SELECT mlcache.wait_applied(mlcache.last_commit_version(), '60 s');

DROP TABLE t;
DROP EXTENSION mlcache CASCADE;
SELECT slot_goes();
\c :main
SET client_min_messages = warning;
-- a worker that is about to leave is in its way
DO $$
BEGIN
	WHILE EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'mlctest_retire') LOOP
		PERFORM pg_sleep(0.01);
		PERFORM pg_stat_clear_snapshot();
	END LOOP;
END
$$;
DROP DATABASE mlctest_retire;
