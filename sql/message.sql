-- Logical messages of others under our prefix are nothing to us.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE t (id int PRIMARY KEY, grp int);
SELECT mlcache.attach('t', key => 'g:{grp}');
SELECT listen() \gset

-- the bytes of a message: M, 1, then a section: rule, secret, flags, number of keys; a key: op, length, bytes
CREATE FUNCTION forge(secret bigint, flags int, key text) RETURNS bytea LANGUAGE sql AS $$
	SELECT '\x4d01'::bytea || int4send((SELECT id FROM mlcache.rules)) || int8send(secret)
		|| set_byte('\x00', 0, flags)
		|| CASE WHEN key IS NULL THEN int4send(0)
		   ELSE int4send(1) || 'i'::bytea || int4send(octet_length(key)) || convert_to(key, 'UTF8') END
$$;
-- the real secret works, so the format is right
SELECT count(pg_logical_emit_message(true, 'mlcache', forge(secret, 0, 'g:77'))) FROM mlcache.rule WHERE id > 0;
SELECT * FROM events();
-- any other does not
SELECT count(pg_logical_emit_message(true, 'mlcache', forge(secret # 1, 0, 'g:77'))) FROM mlcache.rule WHERE id > 0;
SELECT count(pg_logical_emit_message(true, 'mlcache', forge(0, 1, NULL)));
SELECT count(pg_logical_emit_message(false, 'mlcache', forge(secret, 0, 'g:77'))) FROM mlcache.rule WHERE id > 0;
SELECT count(pg_logical_emit_message(true, 'other', forge(secret, 0, 'g:77'))) FROM mlcache.rule WHERE id > 0;
SELECT count(pg_logical_emit_message(true, 'mlcache', 'nonsense'));
SELECT count(pg_logical_emit_message(true, 'mlcache', ''));
SELECT * FROM events();

-- nor does it cover for a trigger that has not spoken
ALTER TABLE t DISABLE TRIGGER mlcache_capture;
SELECT listen() \gset
BEGIN;
SELECT count(pg_logical_emit_message(true, 'mlcache', forge(0, 0, NULL)));
INSERT INTO t VALUES (1, 1);
COMMIT;
SELECT * FROM events();
ALTER TABLE t ENABLE ALWAYS TRIGGER mlcache_capture;

-- nor can anybody set a key of no rule without the secret of the database
CREATE FUNCTION forge_set(secret bigint, key text, value text) RETURNS bytea LANGUAGE sql AS $$
	SELECT '\x4d01'::bytea || int4send(0) || int8send(secret) || '\x00'::bytea || int4send(1)
		|| 's'::bytea || int4send(octet_length(key)) || convert_to(key, 'UTF8')
		|| int4send(12 + octet_length(value)) || int8send(0) || int4send(0) || convert_to(value, 'UTF8')
$$;
SELECT listen() \gset
SELECT count(pg_logical_emit_message(true, 'mlcache', forge_set(secret, 'free', 'forged'))) FROM mlcache.rule WHERE id = 0;
SELECT * FROM events();
SELECT count(pg_logical_emit_message(true, 'mlcache', forge_set(secret # 1, 'free', 'forged'))) FROM mlcache.rule WHERE id = 0;
SELECT count(pg_logical_emit_message(true, 'mlcache', forge_set(0, 'free', 'forged')));
-- nor a rule's key with the secret of the rule
SELECT count(pg_logical_emit_message(true, 'mlcache', overlay(forge_set(secret, 'g:77', 'forged') PLACING int4send(id) FROM 3))) FROM mlcache.rule WHERE id > 0;
SELECT * FROM events();
-- what tells lies about its length is malformed
SET client_min_messages = error;
SELECT count(pg_logical_emit_message(true, 'mlcache', overlay(forge_set(secret, 'free', 'forged') PLACING int4send(99) FROM 29))) FROM mlcache.rule WHERE id = 0;
SELECT * FROM events();
RESET client_min_messages;

-- cut off in the middle
SELECT listen() \gset
SELECT count(pg_logical_emit_message(true, 'mlcache', substr(forge(secret, 0, 'g:77'), 1, 25))) FROM mlcache.rule WHERE id > 0;
SET client_min_messages = error;		-- the warning tells a position in WAL
SELECT * FROM events();
RESET client_min_messages;
INSERT INTO t VALUES (2, 2);
SELECT * FROM events();

-- the secret is nobody's to read
CREATE ROLE mlctest_user;
GRANT pg_monitor, mlcache_admin TO mlctest_user;
ALTER TABLE t OWNER TO mlctest_user;
SET ROLE mlctest_user;
SELECT secret FROM mlcache.rule WHERE id > 0;
\echo :SQLSTATE
SELECT * FROM mlcache.paused_server;
INSERT INTO mlcache.rule DEFAULT VALUES;
DELETE FROM mlcache.rule WHERE id > 0;
SELECT nextval('mlcache.rule_id_seq');
SELECT count(*) FROM mlcache.rules;
\d mlcache.rules
RESET ROLE;

DROP TABLE t;
DROP FUNCTION forge(bigint, int, text);
DROP FUNCTION forge_set(bigint, text, text);
DROP ROLE mlctest_user;
\i :end
