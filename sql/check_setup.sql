-- check_setup(): one row a prerequisite.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
SELECT item, ok, regexp_replace(detail, '\d+', 'N', 'g') AS detail, fix
	FROM mlcache.check_setup() WHERE item <> 'output_plugin_libraries';
-- servers of older minors have no such setting
SELECT ok, fix FROM mlcache.check_setup() WHERE item = 'output_plugin_libraries';

-- a Redis that evicts anything may evict mlcache's own state
SELECT redis('CONFIG SET maxmemory-policy allkeys-lru');
SELECT ok, detail, fix FROM mlcache.check_setup() WHERE item LIKE 'maxmemory%';
SELECT redis('CONFIG SET maxmemory-policy noeviction');

-- a relay that runs says so
CREATE TABLE t (id int PRIMARY KEY);
SELECT mlcache.attach('t', key => 't:{id}');
SELECT settle();
SELECT ok, regexp_replace(detail, '\d+', 'N', 'g') AS detail, fix
	FROM mlcache.check_setup() WHERE item = 'relay';

-- for whom
CREATE ROLE mlctest_user;
SET ROLE mlctest_user;
SELECT * FROM mlcache.check_setup();
RESET ROLE;
GRANT pg_monitor TO mlctest_user;
SET ROLE mlctest_user;
SELECT count(*) > 5 AS rows FROM mlcache.check_setup();
RESET ROLE;
DROP ROLE mlctest_user;
DROP TABLE t;
\i :end
