-- Locks: tokens, who holds what, scopes, escalation, fencing, bad input.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin

-- what holders look like, without what differs from run to run
CREATE FUNCTION held() RETURNS TABLE (name text, mode text, scope text, mine boolean, ttl interval, lost boolean)
LANGUAGE sql VOLATILE AS $$
	SELECT name, mode, scope, pid = pg_backend_pid(), ttl, lost FROM mlcache.locks ORDER BY name
$$;
CREATE FUNCTION holders(path text) RETURNS TABLE (mode text, path text, inside boolean, mine boolean, lives boolean)
LANGUAGE sql VOLATILE AS $$
	SELECT mode, path, inside, pid IS NOT DISTINCT FROM pg_backend_pid(), expires > now() + '10 s'
	FROM mlcache.lock_holders($1) ORDER BY 2, 1
$$;
-- the keeper releases what a transaction or DISCARD ALL has left
CREATE FUNCTION released(path text, others int DEFAULT 0) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		IF (SELECT count(*) = $2 FROM mlcache.lock_holders($1)) THEN
			RETURN true;
		END IF;
		PERFORM pg_sleep(0.05);
	END LOOP;
	RETURN false;
END
$$;
SELECT mlcache.lock_namespace() AS ns \gset

-- a session's lock, taken twice
SELECT mlcache.lock_acquire('account:1') AS token \gset
SELECT mlcache.lock_acquire('account:1') = :token AS same;
SELECT * FROM held();
SELECT * FROM holders('account');
SELECT * FROM holders('account:1');
SELECT mlcache.lock_renew('account:1') > now() + '29 s' AS renewed;
SELECT mlcache.lock_renew('account:1', '1 h') > now() + '59 min' AS renewed;
SELECT mlcache.lock_release('account:1');
SELECT count(*) FROM held();
SELECT mlcache.lock_release('account:1');
SELECT count(*) FROM held();
SELECT count(*) FROM mlcache.lock_holders('account');
SELECT mlcache.lock_release('account:1');

-- tokens grow, those for programs outside, too
SELECT mlcache.lock_acquire('account:1') AS next \gset
SELECT mlcache.lock_token() AS outside \gset
SELECT mlcache.lock_acquire('b') AS later \gset
SELECT :token < :next AND :next < :outside AND :outside < :later AS grow;
BEGIN READ ONLY;
SELECT mlcache.lock_token() > :later AS grows;
COMMIT;

-- a program outside is in the way, then not
SELECT redis('FCALL mlc_lock 0 ' || :'ns' || ' account:2 outside X 60000 0');
SELECT redis('FCALL mlc_lock 0 ' || :'ns' || ' account:1 outside X 60000 0') ~ '^(busy|\d+)$' AS busy;
SELECT mlcache.lock_acquire('account:2', wait => '0') IS NULL AS busy;
SELECT mlcache.lock_acquire('account:2', wait => '50 ms') IS NULL AS busy;
SELECT mlcache.lock_acquire('account', wait => '0') IS NULL AS busy;
SELECT * FROM held();
SELECT redis('FCALL mlc_unlock 0 ' || :'ns' || ' account:2 outside');
SELECT mlcache.lock_acquire('account:2', wait => '0') IS NOT NULL AS had;
SELECT mlcache.lock_release('account:2'), mlcache.lock_release('account:1'), mlcache.lock_release('b');

-- shared
SELECT mlcache.lock_acquire('s', shared => true) IS NOT NULL AS had;
SELECT redis('FCALL mlc_lock 0 ' || :'ns' || ' s outside S 60000 0');
SELECT redis('FCALL mlc_lock 0 ' || :'ns' || ' s other X 60000 0') ~ '^(busy|\d+)$' AS busy;
SELECT mlcache.lock_acquire('s');
SELECT * FROM holders('s');
SELECT redis('FCALL mlc_unlock 0 ' || :'ns' || ' s outside');
SELECT mlcache.lock_release('s');

-- a transaction's locks end with it, or with its savepoint
BEGIN;
SELECT mlcache.lock_acquire_xact('x') IS NOT NULL AS had;
SAVEPOINT s;
SELECT mlcache.lock_acquire_xact('y') IS NOT NULL AS had;
SELECT * FROM held();
ROLLBACK TO s;
SELECT * FROM held();
SAVEPOINT s;
SELECT mlcache.lock_acquire_xact('y') IS NOT NULL AS had;
RELEASE s;
SELECT * FROM held();
SAVEPOINT s;
SELECT mlcache.lock_release('x');
ROLLBACK TO s;
COMMIT;
SELECT * FROM held();
SELECT released('x'), released('y');
BEGIN;
SELECT mlcache.lock_acquire_xact('x') IS NOT NULL AS had;
PREPARE TRANSACTION 'locks';
SELECT * FROM held();

-- DISCARD ALL and pg_advisory_unlock_all() let go of a session's locks
SELECT mlcache.lock_acquire('d') IS NOT NULL AS had;
DISCARD ALL;
SET search_path = public, mlctest;
SELECT * FROM held();
SELECT released('d');
SELECT mlcache.lock_acquire('d') IS NOT NULL AS had;
SELECT pg_advisory_unlock_all();
SELECT * FROM held();
SELECT released('d');
SELECT count(*) FROM pg_locks WHERE locktype = 'userlock';

-- Redis has forgotten it: told at the next use
SELECT mlcache.lock_acquire('lost') AS token \gset
SELECT redis('DEL "mlc:lock:' || :'ns' || '|lost"');
SELECT mlcache.lock_renew('lost');
SELECT * FROM held();
SELECT mlcache.fence_check('lost', :token);
SELECT mlcache.lock_acquire('lost');
SELECT mlcache.lock_release('lost');
SELECT mlcache.lock_acquire('lost') > :token AS again;
SELECT mlcache.lock_release('lost');

-- escalation
SET mlcache.lock_escalation_threshold = 3;
SELECT mlcache.lock_acquire('p:' || i) IS NOT NULL AS had FROM generate_series(1, 3) i;
SELECT * FROM held();
SELECT mlcache.lock_acquire('p:4') AS token \gset
SELECT * FROM held();
SELECT released('p', 1);
SELECT * FROM holders('p');
SELECT mlcache.lock_acquire('p:5') = :token AS same;
SELECT mlcache.lock_release('p:1');
SELECT mlcache.lock_release('p:5');
SELECT count(*) AS modes, min(mode) AS mode FROM pg_locks WHERE locktype = 'userlock';
SELECT mlcache.lock_release('p');
SELECT * FROM held();
SELECT released('p'), count(*) FROM pg_locks WHERE locktype = 'userlock';
-- not where somebody else holds what lies below
SELECT redis('FCALL mlc_lock 0 ' || :'ns' || ' p:9 outside X 60000 0');
SELECT mlcache.lock_acquire('p:' || i) IS NOT NULL AS had FROM generate_series(1, 4) i;
SELECT * FROM held();
SELECT mlcache.lock_release('p:' || i) FROM generate_series(1, 4) i;
SELECT redis('FCALL mlc_unlock 0 ' || :'ns' || ' p:9 outside');
RESET mlcache.lock_escalation_threshold;

-- guarded writes
SELECT mlcache.fence_check('f', 10);
SELECT mlcache.fence_check('f', 10);
SELECT mlcache.fence_check('f', 11);
SELECT mlcache.fence_check('f', 10);
CREATE TABLE account (id int, balance int, token bigint);
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON account
	FOR EACH ROW EXECUTE FUNCTION mlcache.fence_guard('account:{id}', 'token');
INSERT INTO account VALUES (1, 0, 5);
UPDATE account SET balance = 1, token = 7;
UPDATE account SET balance = 2, token = 6;
SELECT * FROM account;
INSERT INTO account VALUES (2, 0, NULL);

-- bad input
SELECT mlcache.lock_acquire(NULL);
SELECT mlcache.lock_acquire('');
SELECT mlcache.lock_acquire(':a');
SELECT mlcache.lock_acquire('a::b');
SELECT mlcache.lock_acquire('a:');
SELECT mlcache.lock_acquire('a{b}');
SELECT mlcache.lock_acquire(E'a\nb');
SELECT mlcache.lock_acquire(repeat('x', 256));
SELECT mlcache.lock_acquire('a', ttl => '0');
SELECT mlcache.lock_acquire('a', ttl => '-1 s');
SELECT mlcache.lock_acquire('a', ttl => '2 days');
SELECT mlcache.lock_acquire('a', ttl => NULL);
SELECT mlcache.lock_acquire('a', wait => '-1 s');
SELECT mlcache.lock_acquire('a', wait => NULL);
SELECT mlcache.lock_release(NULL);
SELECT mlcache.lock_release('never taken');
SELECT mlcache.lock_renew('never taken');
SELECT mlcache.lock_holders('a::b');
SELECT mlcache.fence_check('f', NULL);
SELECT mlcache.fence_check(NULL, 1);
SET SESSION AUTHORIZATION pg_database_owner;
SELECT mlcache.lock_acquire('a');
RESET SESSION AUTHORIZATION;

-- without a server
DROP SERVER redis CASCADE;
SELECT mlcache.lock_acquire('a');
DROP TABLE account;
DROP FUNCTION held, holders, released;
\i :end
