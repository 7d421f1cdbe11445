-- Strong rules: a commit puts what it changed under quarantine, and ends that.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
SET client_min_messages = warning;
CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL, branch int NOT NULL);
CREATE TABLE other (id int PRIMARY KEY);
INSERT INTO account SELECT n, 100 * n, n % 2 FROM generate_series(1, 5) n;

-- what cannot be strong
SELECT mlcache.attach('account', key => 'account:{id}', consistency => 'strong', capture => 'wal');
SELECT mlcache.attach('account', key => 'account:{id}', consistency => 'strong', action => 'replicate');
SELECT (mlcache.attach('account', key => 'account:{id}', consistency => 'strong')).id > 0 AS attached;
SELECT mlcache.attach('other', key => 'account:{id}');
SELECT mlcache.attach('other', key => 'account:{id}', consistency => 'strong', on_unreachable => 'degrade');
SELECT (mlcache.attach('account', key => 'branch:{branch}', consistency => 'strong',
	loader => 'SELECT sum(balance)::text FROM account WHERE branch = $1')).id > 0 AS attached;
SELECT key, consistency, capture, on_unreachable FROM mlcache.rules ORDER BY key;

SELECT armed();
CREATE FUNCTION read(key text) RETURNS TABLE (value text, source text) LANGUAGE plpgsql AS $$
BEGIN
	value := mlcache.get(key);
	source := (mlcache.last_read()).source;
	RETURN NEXT;
END $$;
SELECT * FROM read('account:1');
SELECT * FROM read('account:1');
SELECT * FROM read('branch:1');
SELECT * FROM read('branch:1');

-- a change is seen at once, and by the transaction itself
BEGIN;
UPDATE account SET balance = balance + 1 WHERE id = 1;
SELECT * FROM read('account:1');
COMMIT;
SELECT value FROM read('account:1');
SELECT value FROM read('branch:1');

-- what was loaded after a commit stays when the relay comes by
CREATE PROCEDURE loaded_again(INOUT n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 20 LOOP
		UPDATE account SET balance = balance WHERE id = 4;
		COMMIT;
		PERFORM read('account:4');
		PERFORM settle();
		n := n + (SELECT count(*) FROM read('account:4') WHERE source = 'load');
		COMMIT;
	END LOOP;
END $$;
CALL loaded_again(0);

-- what is rolled back has never been
SELECT value FROM read('account:2');
BEGIN;
UPDATE account SET balance = 0 WHERE id = 2;
SAVEPOINT s;
UPDATE account SET balance = 0 WHERE id = 3;
ROLLBACK TO s;
ROLLBACK;
SELECT value FROM read('account:2');

-- a key that a row leaves, and one that it enters
UPDATE account SET branch = 0 WHERE id = 1;
SELECT value FROM read('branch:0');
SELECT value FROM read('branch:1');
DELETE FROM account WHERE id = 5;
SELECT value IS NULL AS gone FROM read('account:5');
SELECT value FROM read('branch:1');
INSERT INTO account VALUES (5, 1, 1);
SELECT value FROM read('account:5');

-- everything at once
TRUNCATE account;
SELECT value IS NULL AS gone FROM read('account:2');
INSERT INTO account VALUES (2, 22, 0);
SELECT value FROM read('account:2');
SET mlcache.quarantine_max_keys = 2;
INSERT INTO account SELECT n, n, 0 FROM generate_series(10, 20) n;
SELECT value FROM read('account:12');
RESET mlcache.quarantine_max_keys;
SELECT armed();

-- a Redis out of reach: an error, or a warning
ALTER SERVER redis OPTIONS (SET url 'unix:///nowhere/redis.sock');
\set VERBOSITY sqlstate
UPDATE account SET balance = 23 WHERE id = 2;
\set VERBOSITY default
SELECT value FROM read('account:2');
SELECT mlcache.detach('account');
DO $$ BEGIN EXECUTE format('ALTER SERVER redis OPTIONS (SET url %L)', current_setting('mlctest.redis_url')); END $$;
SELECT (mlcache.attach('account', key => 'account:{id}', consistency => 'strong',
	on_unreachable => 'degrade')).id > 0 AS attached;
ALTER SERVER redis OPTIONS (SET url 'unix:///nowhere/redis.sock');
UPDATE account SET balance = 24 WHERE id = 2;
SELECT value FROM read('account:2');

DROP TABLE account, other;
DROP PROCEDURE loaded_again;
DROP FUNCTION read;
\i :end
