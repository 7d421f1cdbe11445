-- Every version that has ever been released can be updated to this one, and is
-- then what a new installation is.  mlcache--A--B.sql are found as they come.
SET client_min_messages = warning;
CREATE SCHEMA mlctest;

-- What belongs to the extension, word by word.
CREATE FUNCTION mlctest.shape() RETURNS TABLE (object text, definition text)
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
	SELECT pg_describe_object(d.classid, d.objid, 0),
		coalesce(CASE d.classid
			WHEN 'pg_proc'::regclass THEN (
				SELECT CASE WHEN p.prokind = 'a' THEN '' ELSE pg_get_functiondef(p.oid) END
					|| coalesce(p.proacl::text, '') FROM pg_proc p WHERE p.oid = d.objid)
			WHEN 'pg_class'::regclass THEN (
				SELECT concat_ws(E'\n', c.relkind, c.relacl, c.reloptions,
					CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END,
					(SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod),
							a.attnotnull, a.attstorage, pg_get_expr(f.adbin, f.adrelid)), E'\n' ORDER BY attnum)
						FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
						WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
					(SELECT string_agg(pg_get_constraintdef(oid), E'\n' ORDER BY conname)
						FROM pg_constraint WHERE conrelid = c.oid),
					(SELECT string_agg(pg_get_triggerdef(oid), E'\n' ORDER BY tgname)
						FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal))
				FROM pg_class c WHERE c.oid = d.objid)
		END, '') || coalesce(obj_description(d.objid, d.classid::regclass::name), '')
	FROM pg_depend d JOIN pg_extension e
		ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
	WHERE e.extname = 'mlcache' AND d.deptype = 'e'
$$;

CREATE EXTENSION mlcache;
SELECT extversion = (SELECT default_version FROM pg_available_extensions WHERE name = 'mlcache') AS newest
	FROM pg_extension WHERE extname = 'mlcache';
CREATE TABLE mlctest.fresh AS SELECT * FROM mlctest.shape();
SELECT count(*) > 50 AS objects, sum(length(definition)) > 20000 AS definitions FROM mlctest.fresh;
DROP EXTENSION mlcache;

-- there is a way from each version to the newest
SELECT source, target FROM pg_extension_update_paths('mlcache')
	WHERE target = (SELECT default_version FROM pg_available_extensions WHERE name = 'mlcache')
		AND path IS NULL;

-- and it leads to the same
DO $$
DECLARE
	old text;
	bad text;
BEGIN
	FOR old IN SELECT version FROM pg_available_extension_versions
		WHERE name = 'mlcache'
	LOOP
		EXECUTE format('CREATE EXTENSION mlcache VERSION %L', old);
		ALTER EXTENSION mlcache UPDATE;
		FOR bad IN SELECT coalesce(f.object, s.object)
			FROM mlctest.fresh f FULL JOIN mlctest.shape() s USING (object)
			WHERE f.definition IS DISTINCT FROM s.definition OR f.object IS NULL OR s.object IS NULL
		LOOP
			RAISE WARNING 'updated from %: % differs', old, bad;
		END LOOP;
		DROP EXTENSION mlcache;
	END LOOP;
END
$$;

-- what differs is seen
CREATE EXTENSION mlcache;
COMMENT ON FUNCTION mlcache.check_setup() IS 'x';
ALTER EXTENSION mlcache DROP FUNCTION mlcache.last_commit_version();
SELECT coalesce(f.object, s.object) AS differs
	FROM mlctest.fresh f FULL JOIN mlctest.shape() s USING (object)
	WHERE f.definition IS DISTINCT FROM s.definition OR f.object IS NULL OR s.object IS NULL
	ORDER BY 1;
DROP FUNCTION mlcache.last_commit_version();
DROP EXTENSION mlcache CASCADE;
DROP SCHEMA mlctest CASCADE;
