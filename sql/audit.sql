-- audit: what is cached against the rows; every seeded fault is found, with its
-- class, and repaired; bad input changes nothing.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.psql'
\i :begin

-- without what differs from run to run
CREATE FUNCTION found(relation regclass, repair boolean DEFAULT false)
RETURNS TABLE (key text, class text, cached boolean, "row" boolean, detail text)
LANGUAGE sql VOLATILE AS $$
	SELECT key, class, cached_version IS NOT NULL, row_version IS NOT NULL,
		   regexp_replace(regexp_replace(detail, '[0-9a-f]{24}', 'V'), 'on [0-9]+ wrote', 'on N wrote')
	FROM mlcache.audit(relation, repair => repair) ORDER BY 1, 2
$$;
SET client_min_messages = warning;
CREATE TABLE p (id int PRIMARY KEY, name text, price numeric);
INSERT INTO p SELECT g, 'p' || g, g * 1.5 FROM generate_series(1, 20) g;
CREATE TABLE u (a text, b numeric(6,2), v int, PRIMARY KEY (a, b));
INSERT INTO u SELECT 'k' || g, g, g FROM generate_series(1, 9) g;
CREATE TABLE r (id int PRIMARY KEY, v int);
SELECT mlcache.attach('p', key => 'p:{id}');
SELECT mlcache.attach('p', key => 'name:{id}', columns => '{id,name}', action => 'update');
SELECT mlcache.attach('p', key => 'doc:{name}', loader => 'SELECT json_build_object(''price'', price) FROM p WHERE name = $1');
SELECT mlcache.attach('u', key => 'u:{{{a}}}:{b}', action => 'update');
SELECT mlcache.attach('r', key => 'r:{id}', action => 'replicate');
RESET client_min_messages;
SELECT armed();
INSERT INTO r SELECT g, g FROM generate_series(1, 5) g;
SELECT settle();
SELECT count(mlcache.get('p:' || id)), count(mlcache.get('name:' || id)),
	count(mlcache.get('doc:p' || id)) FROM p;
SELECT count(mlcache.get('u:{' || a || '}:' || b)) FROM u;
SELECT mlcache.get('p:99');

-- what is coherent gives no rows
SELECT * FROM mlcache.audit('p');
SELECT * FROM mlcache.audit('u');
SELECT * FROM mlcache.audit('r');
SELECT * FROM mlcache.audit('p', 0);

-- one fault of each kind
SELECT redis('SET p:1 ''{"id":1,"name":"other","price":1.5}'' KEEPTTL');
SELECT redis('SET p:2 garbage KEEPTTL');
SELECT redis('DEL mlc:{p:3}');
SELECT redis('SET mlc:{p:4} garbage');
SELECT redis('SET p:77 ''{"id":77}''');
SELECT redis('DEL p:5'), redis('LPUSH p:5 a');
SELECT redis('SET p:x ''{"id":77}''');
-- with the guard of another one: of no row, in another spelling, not a number
SELECT redis('COPY p:6 p:66'), redis('COPY mlc:{p:6} mlc:{p:66}');
SELECT redis('COPY p:6 p:06'), redis('COPY mlc:{p:6} mlc:{p:06}');
SELECT redis('COPY p:6 p:six'), redis('COPY mlc:{p:6} mlc:{p:six}');
-- the same in other words is no fault
SELECT redis('SET p:8 ''{"price": 12.0, "name": "p8", "id": 8}'' KEEPTTL');
-- keys of nobody
SELECT redis('SET p:1:2 x'), redis('SET xp:1 x'), redis('SET mlc:{p:1:2} x');
SELECT redis('SET name:1 ''{"id":1,"name":"other"}'' KEEPTTL');
SELECT redis('SET doc:p1 ''{"price" : 2}'' KEEPTTL');
SELECT redis('SET u:{k1}:1.00 ''{"a":"k1","b":1.00,"v":2}'' KEEPTTL');
SELECT redis('COPY u:{k2}:2.00 u:{k2}:2.000'), redis('COPY mlc:u:{k2}:2.00 mlc:u:{k2}:2.000');
SELECT redis('DEL r:1 mlc:{r:1}');
SELECT * FROM found('p');
SELECT * FROM found('u');
SELECT * FROM found('r');

-- a row that was thought absent
SELECT redis('COPY mlc:{p:99} mlc:{p:20} REPLACE'), redis('DEL p:20');
SELECT * FROM found('p') WHERE key = 'p:20';

-- repair takes effect at commit, or not at all
BEGIN;
SELECT count(*) FROM mlcache.audit('p', repair => true);
ROLLBACK;
SELECT settle();
SELECT count(*) FROM mlcache.audit('p');
SELECT count(*) FROM mlcache.audit('p', repair => true);
SELECT count(*) FROM mlcache.audit('u', repair => true);
SELECT count(*) FROM mlcache.audit('r', repair => true);
SELECT settle();
-- the relay loads what was missing after it has removed the rest
DO $$
BEGIN
	FOR i IN 1 .. 1200 LOOP
		EXIT WHEN (SELECT redis('EXISTS r:1')) = '1';
		PERFORM pg_sleep(0.05);
	END LOOP;
END $$;
SELECT * FROM found('p');
SELECT * FROM found('u');
SELECT * FROM found('r');
SELECT redis('EXISTS p:1 p:2 p:3 p:4 p:66 p:77 name:1 doc:p1');
SELECT redis('EXISTS r:1');

-- bad input
SELECT * FROM mlcache.audit('nowhere');
SELECT * FROM mlcache.audit(NULL);
SELECT * FROM mlcache.audit('p', 1.5);
SELECT * FROM mlcache.audit('p', -0.1);
SELECT * FROM mlcache.audit('p', 'NaN');
SELECT * FROM mlcache.audit('pg_class');
BEGIN;
UPDATE p SET price = 0 WHERE id = 1;
SELECT * FROM mlcache.audit('p');
ROLLBACK;

-- rights
CREATE ROLE mlctest_owner;
CREATE ROLE mlctest_other;
CREATE ROLE mlctest_admin IN ROLE mlcache_admin;
ALTER TABLE r OWNER TO mlctest_owner;
SELECT settle();
SELECT redis('SET r:7 x');
SET ROLE mlctest_other;
SELECT * FROM mlcache.audit('r');
SET ROLE mlctest_owner;
SELECT count(*) FROM mlcache.audit('r');
SELECT count(*) FROM mlcache.audit('r', repair => true);
SET ROLE mlctest_admin;
SELECT count(*) FROM mlcache.audit('r');
SELECT count(*) FROM mlcache.audit('r', repair => true);
RESET ROLE;
SELECT settle();
SELECT redis('EXISTS r:7');
SELECT redis('DEL p:1:2 xp:1 mlc:{p:1:2}');
SELECT * FROM mlcache.stat_progress WHERE state = 'running';
DROP TABLE p, u, r;
DROP FUNCTION found;
DROP ROLE mlctest_owner, mlctest_other, mlctest_admin;
\i :end
