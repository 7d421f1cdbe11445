-- Two-phase commit: a prepared transaction speaks when it is committed, not when it is prepared.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin
\set VERBOSITY terse
CREATE TABLE w (id int PRIMARY KEY, v int);
CREATE TABLE t (id int PRIMARY KEY, grp int);
SELECT mlcache.attach('w', key => 'w:{id}');
SELECT mlcache.attach('t', key => 'g:{grp}');
-- the relay's slot waits for the end of all transactions, prepared ones, too
SELECT settle();
SELECT listen() \gset

BEGIN;
INSERT INTO w VALUES (1);
INSERT INTO t VALUES (1, 1);
PREPARE TRANSACTION 'mlctest';
SELECT * FROM events();
COMMIT PREPARED 'mlctest';
SELECT * FROM events();

BEGIN;
INSERT INTO w VALUES (2);
INSERT INTO t VALUES (2, 2);
PREPARE TRANSACTION 'mlctest';
ROLLBACK PREPARED 'mlctest';
SELECT * FROM events();

-- what comes between has its own say; order is that of the commits
BEGIN;
UPDATE t SET grp = 10 WHERE id = 1;
PREPARE TRANSACTION 'mlctest';
INSERT INTO t VALUES (3, 3);
SELECT * FROM events();
COMMIT PREPARED 'mlctest';
SELECT * FROM events();

-- savepoints, TRUNCATE
BEGIN;
SAVEPOINT a;
INSERT INTO t VALUES (4, 4);
ROLLBACK TO a;
INSERT INTO t VALUES (5, 5);
TRUNCATE w;
PREPARE TRANSACTION 'mlctest';
-- the session's next transaction does not inherit anything
INSERT INTO t VALUES (6, 6);
SELECT * FROM events();
COMMIT PREPARED 'mlctest';
SELECT * FROM events();

-- its version is that of COMMIT PREPARED, and it is waited for
BEGIN;
INSERT INTO t VALUES (7, 7);
PREPARE TRANSACTION 'mlctest';
SELECT settle() \gset
SELECT redis('MSET g:7 stale') \gset
SELECT redis('GET g:7');
COMMIT PREPARED 'mlctest';
SELECT settle();
SELECT redis('GET g:7');

-- rules cannot come or go in it, tables with rules can
BEGIN;
SELECT mlcache.attach('t', key => 't:{id}');
PREPARE TRANSACTION 'mlctest';
\echo :SQLSTATE
BEGIN;
SELECT mlcache.detach('t');
PREPARE TRANSACTION 'mlctest';
BEGIN;
ALTER TABLE t ADD c int;
PREPARE TRANSACTION 'mlctest';
COMMIT PREPARED 'mlctest';
SELECT * FROM events();
SELECT key FROM mlcache.rules ORDER BY id;

DROP TABLE w, t;
\i :end
