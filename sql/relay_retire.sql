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

-- one that retires has not failed: the next begins at once, however often, and also
-- where it is asked for before the last has quite gone
DROP TABLE t;
SELECT slot_goes();
ALTER SYSTEM SET mlcache.fault_points = 'relay-retired=wait';
SELECT pg_reload_conf();
CREATE PROCEDURE come_and_go(OUT soon boolean) LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz := clock_timestamp();
BEGIN
	FOR i IN 1 .. 9 LOOP
		began := clock_timestamp();
		-- who has written does not wait for the relay
		CREATE TABLE t (id int PRIMARY KEY);
		PERFORM mlcache.attach('t', key => 't:{id}');
		COMMIT;
		PERFORM pg_advisory_unlock(classid, objid) FROM mlcache.fault_lock('relay-retired') WHERE i > 1;
		WHILE NOT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database()) LOOP
			PERFORM pg_sleep(0.01);
		END LOOP;
		soon := clock_timestamp() < began + '9 s';
		PERFORM pg_advisory_lock(classid, objid) FROM mlcache.fault_lock('relay-retired') WHERE i < 9;
		DROP TABLE t;
		COMMIT;
		PERFORM slot_goes();
	END LOOP;
END
$$;
CALL come_and_go(NULL);
ALTER SYSTEM RESET mlcache.fault_points;
SELECT pg_reload_conf();
DROP PROCEDURE come_and_go;

DROP EXTENSION mlcache CASCADE;
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
