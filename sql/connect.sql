-- attach() and check_setup() talk to Redis once: what they say when it does not answer, or not as it should.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
CREATE TABLE t (id int PRIMARY KEY);

-- paths that differ from machine to machine are cut out of what is said
CREATE FUNCTION mlctest.attempt() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	PERFORM mlcache.attach('t', key => 't:{id}');
	RETURN 'attached';
EXCEPTION WHEN others THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	-- whom Redis means depends on its version
	detail := regexp_replace(detail, 'NOPERM (this user|User \w+)', 'NOPERM ...');
	RETURN regexp_replace(concat_ws(E'\n', state, message, detail, nullif(hint, '')),
						  ' at /[^ :]*', ' at /.../socket', 'g');
END
$$;
CREATE FUNCTION mlctest.checks() RETURNS TABLE (item text, ok boolean, detail text, fix text)
LANGUAGE sql AS $$
	SELECT item, ok, regexp_replace(detail, ' at /[^ :]*', ' at /.../socket', 'g'), fix
	FROM mlcache.check_setup() WHERE item ~ 'server|maxmemory'
$$;

-- nothing listens there
ALTER SERVER redis OPTIONS (SET url 'unix:///nonexistent/redis.sock');
SELECT attempt();
SELECT * FROM checks();

-- nobody answers at that port: 1 is tcpmux, and unused
ALTER SERVER redis OPTIONS (SET url 'redis://127.0.0.1:1');
SELECT attempt();

-- somebody answers, but not Redis: this very PostgreSQL, which hangs up
SELECT format('ALTER SERVER redis OPTIONS (SET url %L)', 'unix://' ||
	(string_to_array(current_setting('unix_socket_directories'), ','))[1] ||
	'/.s.PGSQL.' || current_setting('port')) AS statement \gset
:statement;
SELECT attempt();
SELECT * FROM checks();

-- a database that Redis does not have
SELECT format('ALTER SERVER redis OPTIONS (SET url %L)', :'redis_url' ||
	CASE WHEN :'redis_url' LIKE 'unix:%' THEN '?db=999999' ELSE '/999999' END) AS statement \gset
:statement;
SELECT attempt();

-- a password that is not given
SELECT format('ALTER SERVER redis OPTIONS (SET url %L)', :'redis_url') AS statement \gset
:statement;
SELECT redis('CONFIG SET requirepass "right secret"') \gset
SELECT attempt();
SELECT redis('--no-auth-warning -a "right secret" CONFIG SET requirepass ""') \gset

-- passwords: a wrong one, a wrong user, the right one
SELECT redis('ACL SETUSER mlctest on ">right secret" "~*" "&*" +@all') \gset
CREATE USER MAPPING FOR PUBLIC SERVER redis OPTIONS (username 'mlctest', password 'wrong secret');
SELECT attempt();
SELECT * FROM checks();
ALTER USER MAPPING FOR PUBLIC SERVER redis OPTIONS (SET username 'nobody');
SELECT attempt();
ALTER USER MAPPING FOR PUBLIC SERVER redis OPTIONS (SET username 'mlctest', SET password 'right secret');
SELECT * FROM checks();
SELECT attempt();
SELECT settle();
SELECT mlcache.detach('t');

-- the mapping of the server's owner comes before that of everybody
CREATE USER MAPPING FOR CURRENT_USER SERVER redis OPTIONS (username 'mlctest', password 'wrong secret');
SELECT attempt();
DROP USER MAPPING FOR CURRENT_USER SERVER redis;

-- an account that may not do what mlcache needs
SELECT redis('ACL SETUSER mlctest reset on ">right secret" "~*" "&*" +ping +hello +select') \gset
SELECT attempt();
DROP USER MAPPING FOR PUBLIC SERVER redis;
SELECT redis('ACL DELUSER mlctest') \gset

-- one of several that fails is enough
CREATE SERVER second FOREIGN DATA WRAPPER mlcache OPTIONS (url 'unix:///nonexistent/redis.sock');
SELECT attempt();
SELECT mlcache.attach('t', key => 't:{id}', servers => '{redis}');
SELECT mlcache.detach('t');
DROP SERVER second;

-- none at all
DROP SERVER redis;
SELECT attempt();
SELECT * FROM checks();

SELECT format('CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url %L, timeout ''60000'')', :'redis_url') AS statement \gset
:statement;
SELECT attempt();
SELECT settle();
DROP TABLE t;
\i :end
