-- Redis servers: what CREATE SERVER and CREATE USER MAPPING take and refuse.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin

-- every option
CREATE SERVER every FOREIGN DATA WRAPPER mlcache OPTIONS (
	url 'redis://cache.example:6380/3', connect_timeout '250', timeout '500',
	namespace 'shop.eu-1_x', stream '10000');
CREATE SERVER six FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://[::1]:6380');
CREATE SERVER path FOREIGN DATA WRAPPER mlcache OPTIONS (url 'unix:///run/redis%20x.sock?db=2');
ALTER SERVER every OPTIONS (SET timeout '1', DROP stream);
ALTER SERVER every OPTIONS (ADD stream '0');
SELECT srvname, srvoptions FROM pg_foreign_server WHERE srvname <> 'redis' ORDER BY 1;
DROP SERVER six, path;

-- url
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache;
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (timeout '1');
\echo :SQLSTATE
ALTER SERVER every OPTIONS (DROP url);
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url '');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'http://localhost');
\echo :SQLSTATE
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'localhost:6379');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://host:0');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://host:65536');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://host:6379x');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://::1:6379');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://[::1');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://host/first');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://host/-1');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://host/0?timeout=5');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'unix://run/redis.sock');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'unix:///run/redis.sock?db=x');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'unix:///run/redis.sock?timeout=5');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'unix:///run/redis%2');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'unix:///run/redis%00');
SELECT format('CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url %L)',
			  'unix:///' || repeat('x', 108)) AS statement \gset
:statement;

-- what looks like a password is not shown
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://:hunter2@host');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'redis://app:hunter2@host:6379/0');
CREATE SERVER bad FOREIGN DATA WRAPPER mlcache OPTIONS (url 'reds://app:hunter2@host:6379/0');
ALTER SERVER every OPTIONS (SET url 'redis://app:hunter2@host');

-- numbers
ALTER SERVER every OPTIONS (SET timeout '0');
\echo :SQLSTATE
ALTER SERVER every OPTIONS (SET timeout '-5');
ALTER SERVER every OPTIONS (SET timeout '1s');
ALTER SERVER every OPTIONS (SET timeout '');
ALTER SERVER every OPTIONS (SET timeout '3600001');
ALTER SERVER every OPTIONS (SET timeout '99999999999999999999');
ALTER SERVER every OPTIONS (SET connect_timeout '0');
ALTER SERVER every OPTIONS (SET stream '-1');
ALTER SERVER every OPTIONS (SET stream '2147483648');

-- namespace
ALTER SERVER every OPTIONS (SET namespace '');
\echo :SQLSTATE
ALTER SERVER every OPTIONS (SET namespace 'a b');
ALTER SERVER every OPTIONS (SET namespace 'a:b');
ALTER SERVER every OPTIONS (SET namespace 'a{b}');
ALTER SERVER every OPTIONS (SET namespace 'ä');
SELECT format('ALTER SERVER every OPTIONS (SET namespace %L)', repeat('n', 64)) AS fits,
	   format('ALTER SERVER every OPTIONS (SET namespace %L)', repeat('n', 65)) AS too_long \gset
:fits;
:too_long;

-- options that are not there
ALTER SERVER every OPTIONS (ADD host 'localhost');
\echo :SQLSTATE
ALTER SERVER every OPTIONS (ADD password 'hunter2');
CREATE USER MAPPING FOR PUBLIC SERVER every OPTIONS (url 'redis://host');
CREATE USER MAPPING FOR PUBLIC SERVER every OPTIONS (user 'app');
ALTER FOREIGN DATA WRAPPER mlcache OPTIONS (ADD url 'redis://host');
CREATE FOREIGN TABLE f (id int) SERVER every OPTIONS (key 'x');

-- credentials
CREATE USER MAPPING FOR PUBLIC SERVER every OPTIONS (username 'app', password 'hunter2');
CREATE USER MAPPING FOR CURRENT_USER SERVER every OPTIONS (password 'hunter3');
CREATE ROLE mlctest_user;
SET ROLE mlctest_user;
SELECT srvname, usename, umoptions FROM pg_user_mappings ORDER BY 1, 2;
SELECT umoptions FROM pg_user_mapping;
RESET ROLE;
DROP USER MAPPING FOR CURRENT_USER SERVER every;
DROP USER MAPPING FOR PUBLIC SERVER every;

-- what a failed statement leaves
SELECT srvname FROM pg_foreign_server ORDER BY 1;

-- a server is nothing to be queried
CREATE FOREIGN TABLE f (id int) SERVER every;
SELECT * FROM f;
IMPORT FOREIGN SCHEMA x FROM SERVER every INTO public;

DROP FOREIGN TABLE f;
DROP SERVER every;
DROP ROLE mlctest_user;
\i :end
