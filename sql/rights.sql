-- Who may see and do what.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE t (id int PRIMARY KEY, v int);
SELECT mlcache.attach('t', key => 't:{id}');
SELECT armed();
CREATE ROLE mlctest_nobody;
CREATE ROLE mlctest_monitor IN ROLE pg_monitor;
CREATE ROLE mlctest_admin IN ROLE mlcache_admin;

-- an ordinary user
SET ROLE mlctest_nobody;
SELECT count(*) FROM mlcache.rules;
\echo :SQLSTATE
SELECT count(*) FROM mlcache.rule;
SELECT count(*) FROM mlcache.stat_servers;
SELECT count(*) FROM mlcache.stat_rules WHERE id > 0;
SELECT count(*) FROM mlcache.stat_progress;
SELECT count(*) FROM mlcache.stat_get_servers();
SELECT count(*) FROM mlcache.stat_get_rules();
SELECT mlcache.pause('redis');
SELECT mlcache.resume('redis');
SELECT mlcache.reset_stats();
SELECT mlcache.after_ddl('t'::regclass, true);
SELECT mlcache.on_ddl();
SELECT mlcache.fault_lock('x');
SET mlcache.fault_points = 'x=error';
SELECT mlcache.attach('t', key => 'x:{id}');
SELECT mlcache.detach('t');
CREATE SERVER mine FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://localhost');
CREATE TABLE mlcache.mine (id int);
SELECT count(*) FROM mlcache.check_setup();

-- who watches
SET ROLE mlctest_monitor;
SELECT count(*) FROM mlcache.rules;
SELECT count(*) FROM mlcache.stat_servers;
SELECT count(*) FROM mlcache.stat_rules WHERE id > 0;
SELECT count(*) FROM mlcache.stat_progress;
SELECT count(*) > 0 AS seen FROM mlcache.check_setup();
SELECT mlcache.pause('redis');
SELECT mlcache.reset_stats();
SELECT count(*) FROM mlcache.rule;

-- who operates
SET ROLE mlctest_admin;
SELECT count(*) FROM mlcache.rules;
SELECT count(*) FROM mlcache.stat_servers;
SELECT mlcache.pause('redis');
SELECT mlcache.pause('redis');
SELECT mlcache.resume('redis');
SELECT mlcache.resume('redis');
SELECT mlcache.pause('nosuch');
\echo :SQLSTATE
SELECT mlcache.pause(NULL);
SELECT mlcache.reset_stats();
SELECT mlcache.detach('t');
SELECT count(*) FROM mlcache.rule;
RESET ROLE;
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER other FOREIGN DATA WRAPPER other;
SELECT mlcache.pause('other');
\echo :SQLSTATE
DROP FOREIGN DATA WRAPPER other CASCADE;

-- the state that only the owner of a mapping may see
CREATE USER MAPPING FOR PUBLIC SERVER redis OPTIONS (username 'default', password 'hunter2');
SET ROLE mlctest_admin;
SELECT umoptions FROM pg_user_mappings WHERE srvname = 'redis';
SELECT * FROM mlcache.stat_servers WHERE last_error ~ 'hunter2';
RESET ROLE;
DROP USER MAPPING FOR PUBLIC SERVER redis;
SELECT settle();

-- every object is documented
SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'mlcache')
		AND classid <> 'pg_type'::regclass
		AND coalesce(obj_description(objid, classid::regclass::name), '') = ''
	ORDER BY 1;
-- and nothing but these is for everybody
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'mlcache'::regnamespace
	AND has_function_privilege('mlctest_nobody', oid, 'EXECUTE') ORDER BY oid::regprocedure::text COLLATE "C";
SELECT relname, relkind FROM pg_class WHERE relnamespace = 'mlcache'::regnamespace AND relkind IN ('r', 'v', 'S')
	AND (has_table_privilege('mlctest_nobody', oid, 'SELECT,INSERT,UPDATE,DELETE,TRUNCATE'));

DROP TABLE t;
DROP ROLE mlctest_nobody, mlctest_monitor, mlctest_admin;
\i :end
