-- Changes that other changes cause: foreign keys, triggers, deferred constraints, replication roles.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE parent (id int PRIMARY KEY, v int);
CREATE TABLE kid (id int PRIMARY KEY, p int REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE);
CREATE TABLE nil (id int PRIMARY KEY, p int REFERENCES parent ON DELETE SET NULL);
SELECT mlcache.attach('kid', key => 'kid:{id}');
SELECT mlcache.attach('kid', key => 'kids:{p}');
SELECT mlcache.attach('nil', key => 'nils:{p}');
INSERT INTO parent VALUES (1), (2);
INSERT INTO kid VALUES (1, 1), (2, 1), (3, 2);
INSERT INTO nil VALUES (2, 2);
SELECT listen() \gset
UPDATE parent SET id = 10 WHERE id = 1;
SELECT * FROM events();
DELETE FROM parent WHERE id IN (2, 10);
SELECT * FROM events();

-- deferred until the commit
ALTER TABLE kid ALTER CONSTRAINT kid_p_fkey DEFERRABLE INITIALLY DEFERRED;
SELECT listen() \gset
BEGIN;
INSERT INTO kid VALUES (4, 4);
INSERT INTO parent VALUES (4);
COMMIT;
SELECT * FROM events();
BEGIN;
INSERT INTO kid VALUES (5, 5);
COMMIT;
SELECT * FROM events();

-- a deferred trigger that changes a captured table while the transaction commits
CREATE TABLE log (id int PRIMARY KEY, kid int);
SELECT mlcache.attach('log', key => 'log:{kid}');
CREATE FUNCTION write_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log VALUES (new.id, new.id);
	UPDATE log SET kid = kid + 100 WHERE id = new.id;
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON kid DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION write_log();
SELECT listen() \gset
INSERT INTO kid VALUES (6, 4);
SELECT * FROM events();

-- BEFORE triggers decide what the key is
CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF new.kid < 0 THEN
		RETURN NULL;
	END IF;
	new.kid := new.kid * 2;
	RETURN new;
END
$$;
CREATE TRIGGER early BEFORE INSERT OR UPDATE ON log FOR EACH ROW EXECUTE FUNCTION move();
INSERT INTO log VALUES (20, 20), (21, -1);
SELECT * FROM events();
DROP TRIGGER early ON log;

-- a replica that applies changes fires our trigger, too
SET session_replication_role = replica;
INSERT INTO log VALUES (30, 30);
DELETE FROM kid;
RESET session_replication_role;
SELECT * FROM events();

-- a change behind the trigger's back purges the rule, and only that
ALTER TABLE kid DISABLE TRIGGER mlcache_capture;
SELECT listen() \gset
INSERT INTO kid VALUES (7, 4);
SELECT * FROM events();
-- with a message of another rule of the transaction
BEGIN;
INSERT INTO kid VALUES (8, 4);
DELETE FROM log WHERE id = 30;
COMMIT;
SELECT * FROM events();
ALTER TABLE kid ENABLE ALWAYS TRIGGER mlcache_capture;
-- only from the origin: as if it were not there where a replica applies
ALTER TABLE kid ENABLE TRIGGER mlcache_capture;
SELECT listen() \gset
SET session_replication_role = replica;
INSERT INTO kid VALUES (12, 4);
RESET session_replication_role;
SELECT * FROM events();

-- the trigger is dropped by hand
DROP TRIGGER mlcache_capture ON log;
SELECT listen() \gset
INSERT INTO log VALUES (40, 40);
SELECT * FROM events();

-- and called by hand
CREATE TRIGGER wrong BEFORE INSERT ON parent FOR EACH ROW EXECUTE FUNCTION mlcache.capture();
INSERT INTO parent VALUES (50);
\echo :SQLSTATE
CREATE OR REPLACE TRIGGER wrong AFTER INSERT ON parent EXECUTE FUNCTION mlcache.capture();
INSERT INTO parent VALUES (50);
CREATE OR REPLACE TRIGGER wrong AFTER INSERT ON parent FOR EACH ROW EXECUTE FUNCTION mlcache.capture();
INSERT INTO parent VALUES (50);
SELECT mlcache.capture();
SELECT * FROM events();

DROP TABLE parent, kid, nil, log;
DROP FUNCTION write_log(), move();
\i :end
