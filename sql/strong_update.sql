-- Write-through: under a strong rule with the action update, the release of a
-- commit puts the new row where its quarantine has removed the old one.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
SET client_min_messages = warning;
CREATE TABLE account (id int PRIMARY KEY, balance numeric, at timestamptz, note text, big text);
ALTER TABLE account ALTER big SET STORAGE EXTERNAL;
INSERT INTO account SELECT n, 100 * n, '2026-01-01 00:00Z' FROM generate_series(1, 9) n;
SELECT (mlcache.attach('account', key => 'account:{id}', consistency => 'strong', action => 'update',
	ttl => '1 h')).id > 0 AS attached;
SELECT (mlcache.attach('account', key => 'note:{id}', consistency => 'strong', action => 'update',
	columns => '{id,note}')).id > 0 AS attached;


SELECT armed();

CALL change('account:1', 'UPDATE account SET balance = 1.50 WHERE id = 1');
SELECT pttl::int BETWEEN 3000000 AND 3600000 AS ttl FROM redis('PTTL account:1') pttl;
CALL change('note:1', $$UPDATE account SET note = 'one' WHERE id = 1$$);
SELECT pttl FROM redis('PTTL note:1') pttl;

-- nothing that the rule looks at: until the relay comes, the copy is what it was
SELECT mlcache.get('note:1') IS NOT NULL AS cached;
SELECT mlcache.pause('redis');
SELECT paused();
SELECT redis('GET mlc:{note:1}') AS guard \gset
UPDATE account SET balance = 2 WHERE id = 1;
SELECT redis('GET mlc:{note:1}') = :'guard' AS untouched, redis('EXISTS note:1');
UPDATE account SET note = 'two' WHERE id = 1;
SELECT redis('GET mlc:{note:1}') = :'guard' AS untouched, redis('GET note:1');
SELECT mlcache.resume('redis');
SELECT armed();

-- the last change of a transaction
CALL change('account:2', 'DO $$ BEGIN
	UPDATE account SET balance = 3 WHERE id = 2;
	UPDATE account SET balance = 4 WHERE id = 2;
END $$');
-- and the one before where a savepoint is rolled back
CALL change('account:2', 'DO $$ BEGIN
	UPDATE account SET balance = 5 WHERE id = 2;
	BEGIN
		UPDATE account SET balance = 6 WHERE id = 2;
		RAISE EXCEPTION ''never'';
	EXCEPTION WHEN raise_exception THEN
	END;
END $$');
CALL change('account:2', 'DO $$ BEGIN
	BEGIN
		UPDATE account SET balance = 7 WHERE id = 2;
		RAISE EXCEPTION ''never'';
	EXCEPTION WHEN raise_exception THEN
	END;
	UPDATE account SET note = ''two'' WHERE id = 2;
END $$');

-- the same text that a reader would have loaded, whatever the session's settings
SET TimeZone = 'Asia/Tokyo';
SET extra_float_digits = -10;
CALL change('account:3', $$UPDATE account SET at = '2026-02-03 04:05:06+09' WHERE id = 3$$);
RESET TimeZone;
RESET extra_float_digits;
SELECT redis('GET account:3') AS written \gset
SELECT count(*) > 0 AS removed FROM redis('DEL account:3 mlc:{account:3}');
UPDATE account SET at = at WHERE id = 3;
SELECT mlcache.get('account:3') = :'written' AS same;

-- a row that was known to be absent
CALL change('account:100', 'INSERT INTO account VALUES (100, 1) ON CONFLICT (id) DO UPDATE SET balance = 1');

-- what was not cached is not made
SELECT settle();
UPDATE account SET balance = 9 WHERE id = 9;
SELECT mlcache.get('account:9'), (mlcache.last_read()).source = 'L2' AS through;

-- a row that goes, and one that leaves its key and comes to another
CALL change('account:4', 'DELETE FROM account WHERE id = 4');
CALL change('account:5', 'UPDATE account SET id = 55 WHERE id = 5');
CALL change('account:66', 'UPDATE account SET id = 72 - id WHERE id IN (6, 66)');

-- of a value out of line nothing is read: the key is loaded
UPDATE account SET big = repeat('x', 3000) WHERE id = 7;
CALL change('account:7', 'UPDATE account SET balance = balance + 1 WHERE id = 7');
-- nor of rows that do not go out at once
UPDATE account SET big = NULL, note = repeat('x', 20000) WHERE id = 7;
CALL change('account:7', 'UPDATE account SET balance = balance + 1 WHERE id = 7');

-- a trigger of others that changes the row once more: its event comes first
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.balance < 1000 THEN
		UPDATE account SET balance = 1000 WHERE id = NEW.id;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER a AFTER UPDATE ON account FOR EACH ROW EXECUTE FUNCTION again();
CALL change('account:8', 'UPDATE account SET balance = 8 WHERE id = 8');
SET mlcache.fault_points = 'capture-last-version=skip';
CALL change('account:8', 'UPDATE account SET balance = 8 WHERE id = 8');
RESET mlcache.fault_points;
DROP TRIGGER a ON account;

-- what a crash may undo
SET synchronous_commit = off;
CALL change('account:1', 'UPDATE account SET balance = 10 WHERE id = 1');
SET mlcache.fault_points = 'strong-async=skip';
CALL change('account:1', 'UPDATE account SET balance = 10 WHERE id = 1');
RESET mlcache.fault_points;
RESET synchronous_commit;

-- a prepared transaction, and a rule that goes on without its Redis
SELECT mlcache.get('account:1') IS NOT NULL AS cached;
BEGIN;
UPDATE account SET balance = 11 WHERE id = 1;
PREPARE TRANSACTION 'strong_update';
COMMIT PREPARED 'strong_update';
SELECT settle();
SELECT redis('EXISTS account:1');
SELECT mlcache.detach('account');
SELECT (mlcache.attach('account', key => 'account:{id}', consistency => 'strong', action => 'update',
	on_unreachable => 'degrade')).id > 0 AS attached;
SELECT armed();
CALL change('account:2', 'UPDATE account SET balance = 12 WHERE id = 2');

DROP TABLE account;
DROP FUNCTION again;
\i :end
