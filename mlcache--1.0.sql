/* mlcache--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION mlcache" to load this file. \quit

REVOKE ALL ON SCHEMA mlcache FROM PUBLIC;
GRANT USAGE ON SCHEMA mlcache TO PUBLIC;

DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles
				   WHERE rolname OPERATOR(pg_catalog.=) 'mlcache_admin') THEN
		CREATE ROLE mlcache_admin NOLOGIN;
	END IF;
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles
				   WHERE rolname OPERATOR(pg_catalog.=) 'mlcache_reader') THEN
		CREATE ROLE mlcache_reader NOLOGIN;
	END IF;
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles
				   WHERE rolname OPERATOR(pg_catalog.=) 'mlcache_writer') THEN
		CREATE ROLE mlcache_writer NOLOGIN;
	END IF;
END
$$;
GRANT mlcache_reader TO mlcache_writer, mlcache_admin;

-- ---------------------------------------------------------------------
-- Redis servers
-- ---------------------------------------------------------------------

CREATE FUNCTION mlcache.fdw_validator(options text[], catalog oid)
RETURNS void
AS 'MODULE_PATHNAME', 'mlc_fdw_validator'
LANGUAGE C STRICT STABLE PARALLEL SAFE;
COMMENT ON FUNCTION mlcache.fdw_validator(text[], oid)
IS 'checks the options of Redis servers and their user mappings';

CREATE FOREIGN DATA WRAPPER mlcache VALIDATOR mlcache.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER mlcache
IS 'a server of this wrapper names a Redis that mlcache keeps coherent';

CREATE TABLE mlcache.paused_server (
	server name PRIMARY KEY
);
COMMENT ON TABLE mlcache.paused_server
IS 'servers that mlcache.pause() holds back';
REVOKE ALL ON mlcache.paused_server FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('mlcache.paused_server', '');

-- ---------------------------------------------------------------------
-- Rules
-- ---------------------------------------------------------------------

-- A user catalog table: logical decoding reads it as of each change's own
-- time.  Its columns are read by number in model/rule.h.  Nothing may be
-- moved out of line, since TOAST is vacuumed without regard to decoding.
CREATE SEQUENCE mlcache.rule_id_seq AS int;
CREATE TABLE mlcache.rule (
	id int NOT NULL DEFAULT pg_catalog.nextval('mlcache.rule_id_seq')
		CONSTRAINT rule_pkey PRIMARY KEY,
	relation regclass NOT NULL,
	key text,
	action text NOT NULL
		CHECK (action IN ('invalidate', 'update', 'replicate', 'refresh')),
	consistency text NOT NULL
		CHECK (consistency IN ('strong', 'eventual', 'weak')),
	capture text NOT NULL CHECK (capture IN ('wal', 'trigger')),
	ttl bigint CHECK (ttl > 0),
	negative_ttl bigint CHECK (negative_ttl > 0),
	columns name[],
	loader text CHECK (pg_catalog.octet_length(loader) <= 3000),
	filter text CHECK (pg_catalog.octet_length(filter) <= 1000),
	on_unreachable text NOT NULL CHECK (on_unreachable IN ('error', 'degrade')),
	servers name[],
	secret bigint NOT NULL,
	tag text CHECK (pg_catalog.octet_length(tag) BETWEEN 1 AND 1024),
	stale bigint CHECK (stale > 0),
	CHECK (id OPERATOR(pg_catalog.=) 0
		   OR (key IS NULL) OPERATOR(pg_catalog.<>) (tag IS NULL))
) WITH (user_catalog_table = true, toast_tuple_target = 8160);
ALTER TABLE mlcache.rule ALTER COLUMN key SET STORAGE MAIN;
ALTER TABLE mlcache.rule ALTER COLUMN columns SET STORAGE MAIN;
ALTER TABLE mlcache.rule ALTER COLUMN loader SET STORAGE MAIN;
ALTER TABLE mlcache.rule ALTER COLUMN filter SET STORAGE MAIN;
ALTER TABLE mlcache.rule ALTER COLUMN servers SET STORAGE MAIN;
ALTER TABLE mlcache.rule ALTER COLUMN tag SET STORAGE MAIN;
ALTER TABLE mlcache.rule REPLICA IDENTITY FULL;
CREATE INDEX rule_relation_idx ON mlcache.rule (relation);
ALTER SEQUENCE mlcache.rule_id_seq OWNED BY mlcache.rule.id;
COMMENT ON SEQUENCE mlcache.rule_id_seq
IS 'numbers of cache rules';
COMMENT ON TABLE mlcache.rule
IS 'what mlcache.attach() stored; seen through the view mlcache.rules';
-- Row 0 is no rule: it has the secret of messages about keys of no rule.
INSERT INTO mlcache.rule (id, relation, action, consistency, capture,
						  on_unreachable, secret)
VALUES (0, 0, 'invalidate', 'eventual', 'trigger', 'error',
		('x' OPERATOR(pg_catalog.||) pg_catalog.left(pg_catalog.md5(pg_catalog.gen_random_uuid()::text), 16))::bit(64)::bigint);
REVOKE ALL ON mlcache.rule FROM PUBLIC;
REVOKE ALL ON SEQUENCE mlcache.rule_id_seq FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('mlcache.rule', 'WHERE id OPERATOR(pg_catalog.>) 0');
SELECT pg_catalog.pg_extension_config_dump('mlcache.rule_id_seq', '');

CREATE VIEW mlcache.rules AS
SELECT id, relation, key, action, consistency, capture,
	   ttl OPERATOR(pg_catalog.*) interval '1 ms' AS ttl,
	   negative_ttl OPERATOR(pg_catalog.*) interval '1 ms' AS negative_ttl,
	   columns, loader, filter, on_unreachable, servers, tag,
	   stale OPERATOR(pg_catalog.*) interval '1 ms' AS stale
FROM mlcache.rule
WHERE id OPERATOR(pg_catalog.>) 0;
COMMENT ON VIEW mlcache.rules
IS 'cache rules, one row each';
GRANT SELECT ON mlcache.rules TO pg_monitor, mlcache_admin;

CREATE FUNCTION mlcache.attach(
	relation regclass,
	key text DEFAULT NULL,
	consistency text DEFAULT 'eventual',
	action text DEFAULT 'invalidate',
	ttl interval DEFAULT NULL,
	columns name[] DEFAULT NULL,
	loader text DEFAULT NULL,
	filter text DEFAULT NULL,
	tag text DEFAULT NULL,
	capture text DEFAULT NULL,
	on_unreachable text DEFAULT 'error',
	negative_ttl interval DEFAULT NULL,
	servers name[] DEFAULT NULL,
	stale interval DEFAULT NULL)
RETURNS mlcache.rules
AS 'MODULE_PATHNAME', 'mlc_attach'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.attach(regclass, text, text, text, interval, name[], text, text, text, text, text, interval, name[], interval)
IS 'attaches a cache rule to a table; returns the rule, a row of mlcache.rules';

CREATE FUNCTION mlcache.detach(relation regclass, key text DEFAULT NULL,
	tag text DEFAULT NULL)
RETURNS int
AS 'MODULE_PATHNAME', 'mlc_detach'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.detach(regclass, text, text)
IS 'removes a table''s cache rules, or the one with this key or tag, and their entries; returns how many';

CREATE FUNCTION mlcache.rules_restored() RETURNS trigger
AS 'MODULE_PATHNAME', 'mlc_rules_restored'
LANGUAGE C;
COMMENT ON FUNCTION mlcache.rules_restored()
IS 'has a relay started for rules that a dump brought';
REVOKE ALL ON FUNCTION mlcache.rules_restored() FROM PUBLIC;

CREATE TRIGGER rules_restored AFTER INSERT OR UPDATE OR DELETE ON mlcache.rule
	FOR EACH STATEMENT EXECUTE FUNCTION mlcache.rules_restored();
ALTER TABLE mlcache.rule ENABLE ALWAYS TRIGGER rules_restored;

CREATE FUNCTION mlcache.capture() RETURNS trigger
AS 'MODULE_PATHNAME', 'mlc_capture'
LANGUAGE C;
COMMENT ON FUNCTION mlcache.capture()
IS 'collects the keys of changed rows; its triggers are made by mlcache.attach()';

CREATE FUNCTION mlcache.after_ddl(relation oid, purge boolean) RETURNS void
AS 'MODULE_PATHNAME', 'mlc_after_ddl'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.after_ddl(oid, boolean)
IS 'checks, and purges if asked to, the rules of a table that DDL has made or changed';

CREATE FUNCTION mlcache.on_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
	relation oid;
	altered boolean;
BEGIN
	-- a new table has no entries, but may be the child of one with rules
	FOR relation, altered IN
		SELECT objid, pg_catalog.bool_or(command_tag OPERATOR(pg_catalog.~) '^ALTER')
		FROM pg_catalog.pg_event_trigger_ddl_commands()
		WHERE classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
		GROUP BY objid
	LOOP
		PERFORM mlcache.after_ddl(relation, altered);
	END LOOP;

	-- an enum's label or a composite's column has another name: so have keys
	-- and documents, though no row has changed
	IF TG_TAG OPERATOR(pg_catalog.<>) 'ALTER TYPE' THEN
		RETURN;
	END IF;
	FOR relation IN
		WITH RECURSIVE changed(type) AS (
			SELECT CASE WHEN classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
				THEN (SELECT reltype FROM pg_catalog.pg_class
					  WHERE oid OPERATOR(pg_catalog.=) objid)
				ELSE objid END
			FROM pg_catalog.pg_event_trigger_ddl_commands()
			WHERE command_tag OPERATOR(pg_catalog.=) 'ALTER TYPE'
			UNION
			SELECT t.oid
			FROM changed
				JOIN pg_catalog.pg_type t
					ON type IN (t.typelem, t.typbasetype) OR EXISTS (
						SELECT FROM pg_catalog.pg_attribute a
						WHERE a.attrelid OPERATOR(pg_catalog.=) t.typrelid
							AND a.atttypid OPERATOR(pg_catalog.=) type
							AND t.typtype OPERATOR(pg_catalog.=) 'c'))
		SELECT DISTINCT c.oid
		FROM changed
			JOIN pg_catalog.pg_attribute a ON a.atttypid OPERATOR(pg_catalog.=) type
			JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
		WHERE c.relkind IN ('r', 'p')
	LOOP
		PERFORM mlcache.after_ddl(relation, true);
	END LOOP;
END
$$;
COMMENT ON FUNCTION mlcache.on_ddl()
IS 'event trigger: checks the rules that DDL on tables concerns, and purges them';

CREATE EVENT TRIGGER mlcache_ddl ON ddl_command_end
	WHEN TAG IN ('ALTER TABLE', 'ALTER FOREIGN TABLE', 'CREATE TABLE',
				 'CREATE FOREIGN TABLE', 'CREATE SCHEMA', 'ALTER TYPE')
	EXECUTE FUNCTION mlcache.on_ddl();
ALTER EVENT TRIGGER mlcache_ddl ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER mlcache_ddl
IS 'keeps cache rules right when DDL changes their tables';

-- ---------------------------------------------------------------------
-- Guarded reads
-- ---------------------------------------------------------------------

CREATE FUNCTION mlcache.get(key text, max_age interval DEFAULT NULL,
	min_version text DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'mlc_sql_get'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.get(text, interval, text)
IS 'what is cached under a key, else the row, which is cached then; NULL where there is no such row; never older than max_age, or than the commit min_version';

CREATE FUNCTION mlcache.mget(keys text[], max_age interval DEFAULT NULL,
	min_version text DEFAULT NULL)
RETURNS TABLE (key text, value text)
AS 'MODULE_PATHNAME', 'mlc_sql_mget'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.mget(text[], interval, text)
IS 'get() for many keys at once, in the order asked for';

CREATE FUNCTION mlcache.hot_keys(n int DEFAULT 100)
RETURNS TABLE (key text, reads bigint)
AS 'MODULE_PATHNAME', 'mlc_sql_hot_keys'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION mlcache.hot_keys(int)
IS 'the keys of this database that are read most, estimated from a sample; older reads count less';

CREATE FUNCTION mlcache.warm(relation regclass, filter text DEFAULT NULL,
	max_rows bigint DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'mlc_sql_warm'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.warm(regclass, text, bigint)
IS 'fills ahead what is cached of the rows that satisfy filter, max_rows at most a rule; returns how many entries were filled';

CREATE FUNCTION mlcache.get_row(base anyelement, VARIADIC keys "any")
RETURNS anyelement
AS 'MODULE_PATHNAME', 'mlc_sql_get_row'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.get_row(anyelement, VARIADIC "any")
IS 'the row of a table as it is cached, found by the columns of the key: get_row(NULL::product, 42)';

CREATE FUNCTION mlcache.exists(key text) RETURNS boolean
AS 'MODULE_PATHNAME', 'mlc_sql_exists'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.exists(text)
IS 'is there a row for the key? as get() would know';

CREATE FUNCTION mlcache.last_read(OUT source text, OUT version text)
RETURNS record
AS 'MODULE_PATHNAME', 'mlc_sql_last_read'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.last_read()
IS 'where this session''s last read came from: L1, L2 (Redis), load (the row, now cached) or row; and the version that a cached value is no older than';

CREATE FUNCTION mlcache.fetch(key text, query text,
	params text[] DEFAULT NULL, ttl interval DEFAULT NULL,
	tags text[] DEFAULT NULL)
RETURNS json
AS 'MODULE_PATHNAME', 'mlc_sql_fetch'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.fetch(text, text, text[], interval, text[])
IS 'the result of a query as a JSON array of its rows, cached for this role until its ttl ends, the key or one of its tags is invalidated; params are the texts of $1, $2, ...';

-- ---------------------------------------------------------------------
-- Writing to the cache, as part of the transaction
-- ---------------------------------------------------------------------

CREATE FUNCTION mlcache.set(key text, value text, ttl interval DEFAULT NULL,
	tags text[] DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'mlc_sql_set'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.set(text, text, interval, text[])
IS 'caches a value under a key that no rule gives, if and when the transaction commits';

CREATE FUNCTION mlcache.touch(key text, ttl interval DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'mlc_sql_touch'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.touch(text, interval)
IS 'gives the entry of a key that no rule gives another time to live, if and when the transaction commits; NULL: for ever';

CREATE FUNCTION mlcache.delete(key text) RETURNS void
AS 'MODULE_PATHNAME', 'mlc_sql_delete'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.delete(text)
IS 'removes what is cached under a key, if and when the transaction commits';

CREATE FUNCTION mlcache.invalidate(key text) RETURNS void
AS 'MODULE_PATHNAME', 'mlc_sql_invalidate'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.invalidate(text)
IS 'removes what is cached under a key, be it a row''s, set or fetched, if and when the transaction commits';

CREATE FUNCTION mlcache.invalidate_tag(tag text) RETURNS void
AS 'MODULE_PATHNAME', 'mlc_sql_invalidate_tag'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.invalidate_tag(text)
IS 'removes all that was filled with a tag, if and when the transaction commits';

CREATE FUNCTION mlcache.invalidate_pattern(glob text) RETURNS void
AS 'MODULE_PATHNAME', 'mlc_sql_invalidate_pattern'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.invalidate_pattern(text)
IS 'removes all that is cached under keys that match a glob of Redis, if and when the transaction commits; looks at every key there is';

REVOKE ALL ON FUNCTION
	mlcache.set(text, text, interval, text[]), mlcache.touch(text, interval),
	mlcache.delete(text),
	mlcache.invalidate(text), mlcache.invalidate_tag(text),
	mlcache.invalidate_pattern(text)
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	mlcache.set(text, text, interval, text[]), mlcache.touch(text, interval),
	mlcache.delete(text),
	mlcache.invalidate(text), mlcache.invalidate_tag(text),
	mlcache.invalidate_pattern(text)
TO mlcache_writer, mlcache_admin;

-- ---------------------------------------------------------------------
-- Locks
-- ---------------------------------------------------------------------

CREATE SEQUENCE mlcache.fence_seq;
COMMENT ON SEQUENCE mlcache.fence_seq
IS 'ranges of fencing tokens';
REVOKE ALL ON SEQUENCE mlcache.fence_seq FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('mlcache.fence_seq', '');

CREATE TABLE mlcache.fence (
	name text PRIMARY KEY,
	token bigint NOT NULL
);
COMMENT ON TABLE mlcache.fence
IS 'the highest fencing token that mlcache.fence_check() has seen, by lock';
REVOKE ALL ON mlcache.fence FROM PUBLIC;

CREATE FUNCTION mlcache.lock_acquire(name text, ttl interval DEFAULT '30 s',
	wait interval DEFAULT '10 s', shared boolean DEFAULT false)
RETURNS bigint
AS 'MODULE_PATHNAME', 'mlc_sql_lock_acquire'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.lock_acquire(text, interval, interval, boolean)
IS 'takes a lock until it is released or the session ends; returns its fencing token, or NULL where it was not to be had within the wait';

CREATE FUNCTION mlcache.lock_acquire_xact(name text, ttl interval DEFAULT '30 s',
	wait interval DEFAULT '10 s', shared boolean DEFAULT false)
RETURNS bigint
AS 'MODULE_PATHNAME', 'mlc_sql_lock_acquire_xact'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.lock_acquire_xact(text, interval, interval, boolean)
IS 'takes a lock until the transaction, or the savepoint it was taken in, ends';

CREATE FUNCTION mlcache.lock_release(name text) RETURNS void
AS 'MODULE_PATHNAME', 'mlc_sql_lock_release'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.lock_release(text)
IS 'gives a lock of this session back';

CREATE FUNCTION mlcache.lock_renew(name text, ttl interval DEFAULT NULL)
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'mlc_sql_lock_renew'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.lock_renew(text, interval)
IS 'prolongs a lock at once, with a new ttl where one is given; returns until when it is held without another renewal';

CREATE FUNCTION mlcache.lock_holders(name text,
	OUT owner text, OUT mode text, OUT path text, OUT expires timestamptz,
	OUT inside boolean, OUT pid int)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_sql_lock_holders'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.lock_holders(text)
IS 'who holds a lock, and what lies below it, as Redis has it: sessions and programs outside';

CREATE FUNCTION mlcache.lock_token() RETURNS bigint
AS 'MODULE_PATHNAME', 'mlc_sql_lock_token'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.lock_token()
IS 'a fencing token for a program outside that holds a lock; ask after taking it, and renew before using it';

CREATE FUNCTION mlcache.lock_namespace() RETURNS text
AS 'MODULE_PATHNAME', 'mlc_sql_lock_namespace'
LANGUAGE C STRICT STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.lock_namespace()
IS 'the namespace of this database''s locks: first argument of mlc_lock, mlc_unlock and mlc_renew';

CREATE FUNCTION mlcache.lock_check(token bigint) RETURNS void
AS 'MODULE_PATHNAME', 'mlc_sql_lock_check'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.lock_check(bigint)
IS 'raises ML001 where the token is of a lock that this session has lost';

CREATE FUNCTION mlcache.fence_check(name text, token bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	seen bigint;
BEGIN
	IF $1 IS NULL OR $2 IS NULL OR $2 OPERATOR(pg_catalog.<=) 0 THEN
		RAISE EXCEPTION 'a fencing check needs a name and a token'
			USING ERRCODE = 'null_value_not_allowed',
				  HINT = 'The token is what mlcache.lock_acquire() returned.';
	END IF;
	PERFORM mlcache.lock_check($2);
	-- the row stays locked until the transaction ends, changed or not
	INSERT INTO mlcache.fence AS f VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET token = excluded.token
		WHERE f.token OPERATOR(pg_catalog.<) excluded.token;
	IF NOT FOUND THEN
		SELECT f.token INTO seen FROM mlcache.fence f
		WHERE f.name OPERATOR(pg_catalog.=) $1;
		IF seen OPERATOR(pg_catalog.>) $2 THEN
			RAISE EXCEPTION 'mlcache fencing: lock "%" has been held by somebody else since', $1
				USING ERRCODE = 'ML002',
					  DETAIL = pg_catalog.format('This token is %s, the newest seen is %s.', $2, seen),
					  HINT = 'Take the lock again, and begin anew.';
		END IF;
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION mlcache.fence_check(text, bigint)
IS 'true, or ERROR ML002 where a newer fencing token has been seen for the lock; holds off others until the transaction ends';

CREATE FUNCTION mlcache.fence_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	fields jsonb;
	name text;
	field text;
BEGIN
	IF TG_NARGS OPERATOR(pg_catalog.<>) 2 THEN
		RAISE EXCEPTION 'mlcache.fence_guard() needs the name of the lock and the column of the token'
			USING ERRCODE = 'invalid_parameter_value',
				  HINT = 'EXECUTE FUNCTION mlcache.fence_guard(''account:{id}'', ''token'')';
	END IF;
	fields := pg_catalog.to_jsonb(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END);
	name := TG_ARGV[0];
	FOR field IN SELECT m[1] FROM pg_catalog.regexp_matches(TG_ARGV[0], '\{([^}]+)\}', 'g') m
	LOOP
		IF NOT fields OPERATOR(pg_catalog.?) field THEN
			RAISE EXCEPTION 'table "%" has no column "%"', TG_TABLE_NAME, field
				USING ERRCODE = 'undefined_column';
		END IF;
		name := pg_catalog.replace(name, '{' OPERATOR(pg_catalog.||) field OPERATOR(pg_catalog.||) '}',
								   coalesce(fields OPERATOR(pg_catalog.->>) field, ''));
	END LOOP;
	PERFORM mlcache.fence_check(name, (fields OPERATOR(pg_catalog.->>) TG_ARGV[1])::bigint);
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
COMMENT ON FUNCTION mlcache.fence_guard()
IS 'BEFORE trigger: fence_check() with a lock named after the row and the token that a column brings';

CREATE FUNCTION mlcache.stat_get_locks(
	OUT name text, OUT mode text, OUT scope text, OUT pid int,
	OUT token bigint, OUT ttl bigint, OUT expires timestamptz,
	OUT lost boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_stat_get_locks'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.stat_get_locks()
IS 'the locks that sessions of this database hold';

CREATE VIEW mlcache.locks AS
SELECT name, mode, scope, pid, token,
	   ttl OPERATOR(pg_catalog.*) interval '1 ms' AS ttl, expires, lost
FROM mlcache.stat_get_locks();
COMMENT ON VIEW mlcache.locks
IS 'the locks that sessions of this database hold; mlcache.lock_holders() shows programs outside, too';
GRANT SELECT ON mlcache.locks TO pg_monitor, mlcache_admin;

REVOKE ALL ON FUNCTION
	mlcache.lock_acquire(text, interval, interval, boolean),
	mlcache.lock_acquire_xact(text, interval, interval, boolean),
	mlcache.lock_release(text), mlcache.lock_renew(text, interval),
	mlcache.lock_holders(text), mlcache.lock_token(),
	mlcache.lock_namespace(), mlcache.fence_check(text, bigint),
	mlcache.fence_guard(), mlcache.lock_check(bigint),
	mlcache.stat_get_locks()
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	mlcache.lock_acquire(text, interval, interval, boolean),
	mlcache.lock_acquire_xact(text, interval, interval, boolean),
	mlcache.lock_release(text), mlcache.lock_renew(text, interval),
	mlcache.lock_holders(text), mlcache.lock_token(),
	mlcache.lock_namespace(), mlcache.fence_check(text, bigint),
	mlcache.fence_guard() TO mlcache_admin;
GRANT EXECUTE ON FUNCTION mlcache.stat_get_locks() TO pg_monitor, mlcache_admin;

-- ---------------------------------------------------------------------
-- Reading one's own writes across connections
-- ---------------------------------------------------------------------

CREATE FUNCTION mlcache.last_commit_version() RETURNS text
AS 'MODULE_PATHNAME', 'mlc_last_commit_version'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.last_commit_version()
IS 'version of this session''s last commit that wrote something, or NULL';

CREATE FUNCTION mlcache.fill_version() RETURNS text
AS 'MODULE_PATHNAME', 'mlc_fill_version'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.fill_version()
IS 'upper bound of what this transaction''s snapshot has seen, flushed: the argument hi of the Redis function mlc_fill; call it after the loading query, or in it';

CREATE FUNCTION mlcache.wait_applied(version text, timeout interval DEFAULT '10 s')
RETURNS boolean
AS 'MODULE_PATHNAME', 'mlc_wait_applied'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.wait_applied(text, interval)
IS 'waits until every commit up to a version has reached all servers; false on timeout; NULL timeout waits for ever';

-- ---------------------------------------------------------------------
-- Operations
-- ---------------------------------------------------------------------

CREATE FUNCTION mlcache.pause(server name) RETURNS void
AS 'MODULE_PATHNAME', 'mlc_pause'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION mlcache.pause(name)
IS 'stops delivery to a server; what changes meanwhile is delivered by resume()';

CREATE FUNCTION mlcache.resume(server name) RETURNS void
AS 'MODULE_PATHNAME', 'mlc_resume'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION mlcache.resume(name)
IS 'takes up delivery to a paused server again';

CREATE FUNCTION mlcache.check_setup(
	OUT item text, OUT ok boolean, OUT detail text, OUT fix text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_check_setup'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.check_setup()
IS 'one row a prerequisite: fulfilled or not, and the line to type';

CREATE FUNCTION mlcache.audit(relation regclass,
	sample double precision DEFAULT 1, repair boolean DEFAULT false,
	OUT key text, OUT class text, OUT cached_version text,
	OUT row_version text, OUT age interval, OUT detail text,
	OUT rule int, OUT server name)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_sql_audit'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.audit(regclass, double precision, boolean)
IS 'compares what is cached of a table with its rows: one row a copy that is stale, missing, orphan, corrupt or unguarded; repair removes it when the transaction commits';

CREATE FUNCTION mlcache.health(
	OUT severity text, OUT subject text, OUT finding text, OUT detail text,
	OUT advice text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_health'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.health()
IS 'one row a finding, worst first, with the line to type; none when all is well';

CREATE FUNCTION mlcache.report() RETURNS text
AS 'MODULE_PATHNAME', 'mlc_report_page'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION mlcache.report()
IS 'how things are, as one HTML page for a browser: \o report.html';

CREATE FUNCTION mlcache.reset_stats() RETURNS void
AS 'MODULE_PATHNAME', 'mlc_reset_stats'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION mlcache.reset_stats()
IS 'sets the counters of this database to zero';

-- ---------------------------------------------------------------------
-- Statistics
-- ---------------------------------------------------------------------

CREATE FUNCTION mlcache.stat_get_servers(
	OUT serverid oid, OUT state text, OUT applied text, OUT lag_bytes bigint,
	OUT lag_ms double precision, OUT lag_ms_max double precision,
	OUT retained_bytes bigint, OUT batches bigint, OUT invalidated bigint,
	OUT updated bigint, OUT skipped bigint, OUT purges bigint,
	OUT errors bigint, OUT reconnects bigint, OUT last_error text,
	OUT last_error_at timestamptz,
	OUT catch_up_done bigint, OUT catch_up_total bigint,
	OUT catch_up_rate double precision)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_stat_get_servers'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.stat_get_servers()
IS 'the relay''s counters, one row a server';

CREATE FUNCTION mlcache.stat_get_nodes(
	OUT serverid oid, OUT node text, OUT state text, OUT applied text,
	OUT invalidated bigint, OUT updated bigint, OUT purges bigint,
	OUT errors bigint, OUT reconnects bigint, OUT last_error text,
	OUT last_error_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_stat_get_nodes'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.stat_get_nodes()
IS 'the relay''s counters, one row a master of a Redis Cluster';
REVOKE ALL ON FUNCTION mlcache.stat_get_nodes() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mlcache.stat_get_nodes() TO pg_monitor, mlcache_admin;

CREATE VIEW mlcache.stat_nodes AS
SELECT s.srvname AS server, t.node, t.state, t.applied, t.invalidated, t.updated,
	   t.purges, t.errors, t.reconnects, t.last_error, t.last_error_at
FROM mlcache.stat_get_nodes() t
	JOIN pg_catalog.pg_foreign_server s
		ON s.oid OPERATOR(pg_catalog.=) t.serverid;
COMMENT ON VIEW mlcache.stat_nodes
IS 'state and counters of each master of a Redis Cluster';
REVOKE ALL ON mlcache.stat_nodes FROM PUBLIC;
GRANT SELECT ON mlcache.stat_nodes TO pg_monitor, mlcache_admin;

CREATE VIEW mlcache.stat_servers AS
SELECT s.srvname AS server, coalesce(t.state, 'no relay') AS state,
	   t.applied, t.lag_bytes, t.lag_ms, t.lag_ms_max, t.retained_bytes,
	   t.batches, t.invalidated, t.updated, t.skipped, t.purges, t.errors,
	   t.reconnects, t.last_error, t.last_error_at
FROM pg_catalog.pg_foreign_server s
	JOIN pg_catalog.pg_foreign_data_wrapper w
		ON w.oid OPERATOR(pg_catalog.=) s.srvfdw
		   AND w.fdwname OPERATOR(pg_catalog.=) 'mlcache'
	LEFT JOIN mlcache.stat_get_servers() t
		ON t.serverid OPERATOR(pg_catalog.=) s.oid;
COMMENT ON VIEW mlcache.stat_servers
IS 'state, lag and counters of each Redis server';

CREATE FUNCTION mlcache.stat_get_progress(
	OUT pid int, OUT activity text, OUT relid oid, OUT done bigint,
	OUT total bigint, OUT rate double precision, OUT state text,
	OUT ended timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_stat_get_progress'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.stat_get_progress()
IS 'long-running calls of sessions';

CREATE VIEW mlcache.stat_progress AS
SELECT 'catch-up' AS activity, s.srvname::text AS object,
	   t.catch_up_done AS done, t.catch_up_total AS total,
	   t.catch_up_rate AS rate, 'running' AS state,
	   NULL::pg_catalog.timestamptz AS ended
FROM mlcache.stat_get_servers() t
	JOIN pg_catalog.pg_foreign_server s
		ON s.oid OPERATOR(pg_catalog.=) t.serverid
WHERE t.state OPERATOR(pg_catalog.=) 'catch-up'
UNION ALL
SELECT activity, relid::pg_catalog.regclass::text, done, total, rate, state,
	   ended
FROM mlcache.stat_get_progress();
COMMENT ON VIEW mlcache.stat_progress
IS 'work under way, or failed within the last hour: catch-up in bytes of WAL, audit in keys of the server looked at, warm in rows; rate a second';

CREATE FUNCTION mlcache.stat_get_consistency(
	OUT "window" interval, OUT checked bigint, OUT violations bigint,
	OUT probes bigint, OUT overdue bigint, OUT p50 double precision,
	OUT p99 double precision, OUT p999 double precision,
	OUT max double precision)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_stat_get_consistency'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.stat_get_consistency()
IS 'what audits found, and how long commits took to reach Redis, over windows';

CREATE VIEW mlcache.consistency AS
SELECT "window", checked, violations,
	   round(violations OPERATOR(pg_catalog.*) 1000000.0
			 OPERATOR(pg_catalog./) nullif(checked, 0), 2) AS per_million,
	   CASE WHEN checked OPERATOR(pg_catalog.>) 0 THEN
			round(log(checked::numeric OPERATOR(pg_catalog./) greatest(violations, 1)), 2)
	   END AS nines,
	   probes, overdue,
	   p50 AS convergence_p50_ms, p99 AS convergence_p99_ms,
	   p999 AS convergence_p999_ms, max AS convergence_max_ms
FROM mlcache.stat_get_consistency();
COMMENT ON VIEW mlcache.consistency
IS 'cached copies that were compared with their rows, those found wrong, and the time from a commit to its effect in every Redis; nines count up to what the number of copies can show';

CREATE FUNCTION mlcache.stat_get_rules(
	OUT rule int, OUT events bigint, OUT null_keys bigint, OUT purges bigint,
	OUT hits_l1 bigint, OUT hits_l2 bigint, OUT misses bigint,
	OUT bypassed bigint, OUT fills bigint, OUT refused bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_stat_get_rules'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.stat_get_rules()
IS 'counters, one row a rule';

CREATE VIEW mlcache.stat_rules AS
SELECT r.id, r.relation, r.key,
	   coalesce(t.events, 0) AS events,
	   coalesce(t.null_keys, 0) AS null_keys,
	   coalesce(t.purges, 0) AS purges,
	   coalesce(t.hits_l1, 0) AS hits_l1,
	   coalesce(t.hits_l2, 0) AS hits_l2,
	   coalesce(t.misses, 0) AS misses,
	   pg_catalog.round((t.hits_l1 OPERATOR(pg_catalog.+) t.hits_l2)
		   OPERATOR(pg_catalog./) nullif(t.hits_l1 OPERATOR(pg_catalog.+) t.hits_l2
			   OPERATOR(pg_catalog.+) t.misses, 0)::numeric, 4) AS hit_ratio,
	   coalesce(t.bypassed, 0) AS bypassed,
	   coalesce(t.fills, 0) AS fills,
	   coalesce(t.refused, 0) AS refused
FROM (SELECT id, relation, key FROM mlcache.rule WHERE id OPERATOR(pg_catalog.>) 0
	UNION ALL VALUES (0, NULL::regclass, 'free keys'), (-1, NULL, 'fetch')) r
	LEFT JOIN mlcache.stat_get_rules() t ON t.rule OPERATOR(pg_catalog.=) r.id
WHERE r.id OPERATOR(pg_catalog.>) 0
	OR t.events OPERATOR(pg_catalog.+) t.hits_l1 OPERATOR(pg_catalog.+) t.hits_l2
		OPERATOR(pg_catalog.+) t.misses OPERATOR(pg_catalog.+) t.bypassed OPERATOR(pg_catalog.>) 0;
COMMENT ON VIEW mlcache.stat_rules
IS 'counters of each rule: decoded events, changes skipped for a NULL in the key, purges; and of its reads in SQL, a key each: hits, misses, those that might not use the cache, fills taken and refused; row 0: of free keys, row -1: of fetch, where events are copies that a tag or key removed';

CREATE FUNCTION mlcache.stat_get_operations(
	OUT operation text, OUT count bigint, OUT p50 double precision,
	OUT p99 double precision, OUT p999 double precision,
	OUT max double precision, OUT mean double precision,
	OUT since timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_stat_get_operations'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.stat_get_operations()
IS 'how often and how fast, one row an operation; ms';

CREATE VIEW mlcache.stat AS
SELECT operation, count, p50, p99, p999, max, mean, since
FROM mlcache.stat_get_operations();
COMMENT ON VIEW mlcache.stat
IS 'how often and how fast, one row an operation, in ms: calls of get and of fetch by where the answer came from, fills, quarantine and release of strong commits, commit to applied, locks; since the start or reset_stats()';

CREATE FUNCTION mlcache.stat_get_l1(
	OUT budget bigint, OUT used bigint, OUT lines bigint,
	OUT line_bytes bigint, OUT payload bigint, OUT hits bigint,
	OUT misses bigint, OUT fills bigint, OUT refused bigint,
	OUT evictions bigint, OUT closed bigint)
RETURNS record
AS 'MODULE_PATHNAME', 'mlc_stat_get_l1'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.stat_get_l1()
IS 'counters of the cache in shared memory';

CREATE VIEW mlcache.stat_l1 AS
SELECT budget, used, lines, payload,
	   round(payload OPERATOR(pg_catalog./) nullif(line_bytes, 0)::numeric, 3) AS payload_share,
	   hits, misses,
	   round(hits OPERATOR(pg_catalog./) nullif(hits OPERATOR(pg_catalog.+) misses, 0)::numeric, 4) AS hit_ratio,
	   fills, refused, evictions, closed
FROM mlcache.stat_get_l1();
COMMENT ON VIEW mlcache.stat_l1
IS 'the cache in this server''s shared memory: bytes, lines, hits; all databases together';

CREATE FUNCTION mlcache.stat_get_history(
	OUT at timestamptz, OUT seconds int, OUT lag_ms real, OUT lag_mb real,
	OUT retained_mb real, OUT apply_p50 real, OUT apply_p99 real,
	OUT hits bigint, OUT misses bigint, OUT events bigint,
	OUT evictions bigint, OUT checked bigint, OUT violations bigint,
	OUT down int)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'mlc_stat_get_history'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION mlcache.stat_get_history()
IS 'what the monitor remembers: the last ten minutes by the second, the last day by the minute';

CREATE VIEW mlcache.stat_history AS
SELECT at, seconds, lag_ms, lag_mb, retained_mb, apply_p50, apply_p99,
	   hits, misses, events, evictions, checked, violations, down
FROM mlcache.stat_get_history();
COMMENT ON VIEW mlcache.stat_history
IS 'the last ten minutes by the second (seconds = 1), the last day by the minute (seconds = 60): counts are sums, all else the worst of the time; lag_ms is the age of the oldest change not applied everywhere, apply_* ms from commit to applied, down the servers that did not serve';

GRANT SELECT ON mlcache.stat_l1 TO pg_monitor, mlcache_admin;
GRANT SELECT ON mlcache.stat_servers, mlcache.stat_progress, mlcache.stat_rules,
	mlcache.stat, mlcache.stat_history TO pg_monitor, mlcache_admin;

REVOKE ALL ON FUNCTION
	mlcache.after_ddl(oid, boolean), mlcache.on_ddl(),
	mlcache.pause(name), mlcache.resume(name), mlcache.reset_stats(),
	mlcache.stat_get_servers(), mlcache.stat_get_rules(),
	mlcache.stat_get_l1(), mlcache.stat_get_operations(),
	mlcache.stat_get_history(), mlcache.health(), mlcache.report(),
	mlcache.check_setup()
FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mlcache.pause(name), mlcache.resume(name),
	mlcache.reset_stats() TO mlcache_admin;
GRANT EXECUTE ON FUNCTION mlcache.stat_get_servers(), mlcache.stat_get_rules(),
	mlcache.stat_get_l1(), mlcache.stat_get_operations(),
	mlcache.stat_get_history(), mlcache.health(), mlcache.report(),
	mlcache.check_setup()
	TO pg_monitor, mlcache_admin;

GRANT SELECT ON mlcache.consistency TO pg_monitor, mlcache_admin;
REVOKE ALL ON FUNCTION mlcache.stat_get_consistency() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mlcache.stat_get_consistency() TO pg_monitor, mlcache_admin;

REVOKE ALL ON FUNCTION mlcache.hot_keys(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mlcache.hot_keys(int) TO pg_monitor, mlcache_admin;

REVOKE ALL ON FUNCTION mlcache.stat_get_progress() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION mlcache.stat_get_progress() TO pg_monitor, mlcache_admin;

CREATE FUNCTION mlcache.fault_lock(point text, OUT classid int, OUT objid int)
RETURNS record
AS 'MODULE_PATHNAME', 'mlc_fault_lock'
LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION mlcache.fault_lock(text)
IS 'the advisory lock that a stop point of the tests waits for';
REVOKE ALL ON FUNCTION mlcache.fault_lock(text) FROM PUBLIC;
