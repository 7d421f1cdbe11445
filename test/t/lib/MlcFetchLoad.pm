# MlcFetchLoad.pm
#	  Load on fetch, free keys and tags, for the TAP tests: readers that note what
#	  is older than what has been applied, and writers.
package MlcFetchLoad;

use strict;
use warnings;
use IPC::Run;
use Test::More;

my $sql = <<'SQL';
CREATE TABLE fence (n int);
CREATE TABLE doc (id int PRIMARY KEY, grp int, ver bigint NOT NULL);
INSERT INTO doc SELECT i, i % 4, 1 FROM generate_series(1, 40) i;
CREATE TABLE ack (grp int PRIMARY KEY, ver bigint NOT NULL);
INSERT INTO ack SELECT g, 0 FROM generate_series(0, 3) g;
CREATE TABLE note (id int PRIMARY KEY, ver bigint NOT NULL);
INSERT INTO note SELECT i, 1 FROM generate_series(1, 4) i;
CREATE TABLE free_ack (key text PRIMARY KEY, ver bigint NOT NULL);
INSERT INTO free_ack SELECT 'free:' || g, 0 FROM generate_series(1, 40) g;
INSERT INTO free_ack SELECT 'note:' || id, 0 FROM note;
CREATE TABLE stop (n int);
CREATE TABLE violation (grp int, ver bigint, ack bigint, source text);
CREATE TABLE sources (source text, n bigint);

CREATE FUNCTION document(g int) RETURNS json LANGUAGE sql VOLATILE AS $$
	SELECT mlcache.fetch('doc:' || g, 'SELECT sum(ver) AS ver, json_agg(id ORDER BY id) AS ids FROM doc WHERE grp = $1',
		ARRAY[g::text], CASE WHEN g = 1 THEN interval '1 s' END, '{doc}') -> 0
$$;

CREATE PROCEDURE reader() LANGUAGE plpgsql AS $$
DECLARE
	n jsonb := '{}';
	g int;
	k text;
	a bigint;
	v bigint;
	s text;
BEGIN
	WHILE NOT EXISTS (SELECT FROM stop) LOOP
		IF random() < 0.5 THEN
			g := (random() * 3)::int;
			SELECT ack.ver INTO a FROM ack WHERE ack.grp = g;
			v := (document(g) ->> 'ver')::bigint;
			s := (mlcache.last_read()).source;
		ELSE
			k := CASE WHEN random() < 0.5 THEN 'free:' || 1 + (random() * 39)::int
				ELSE 'note:' || 1 + (random() * 3)::int END;
			SELECT free_ack.ver INTO a FROM free_ack WHERE key = k;
			v := mlcache.get(k);
			s := coalesce('free ' || (mlcache.last_read()).source, 'free none');
		END IF;
		n := n || jsonb_build_object(s, coalesce((n ->> s)::int, 0) + 1);
		COMMIT;
		IF v < a THEN
			INSERT INTO violation VALUES (g, v, a, s);
			COMMIT;
		END IF;
		IF random() < 0.02 THEN
			INSERT INTO sources SELECT key, value::bigint FROM jsonb_each_text(n);
			COMMIT;
			n := '{}';
		END IF;
	END LOOP;
END $$;

CREATE PROCEDURE writer() LANGUAGE plpgsql AS $$
DECLARE
	chosen int;
	g int;
	v bigint;
	total bigint;
BEGIN
	WHILE NOT EXISTS (SELECT FROM stop) LOOP
		chosen := 1 + (random() * 39)::int;
		UPDATE doc SET ver = ver + 1 WHERE id = chosen RETURNING grp, ver INTO g, v;
		PERFORM mlcache.set('free:' || chosen, v::text,
			CASE WHEN chosen % 2 = 0 THEN interval '1 hour' END, ARRAY['g' || g]);
		IF random() < 0.2 THEN
			ROLLBACK;
			CONTINUE;
		ELSIF random() < 0.1 THEN
			PERFORM mlcache.invalidate_tag('g' || g);
		END IF;
		COMMIT;
		SELECT sum(doc.ver) INTO total FROM doc WHERE doc.grp = g;
		IF mlcache.wait_applied(mlcache.last_commit_version(), '200 ms') THEN
			UPDATE ack SET ver = greatest(ack.ver, total) WHERE ack.grp = g;
			UPDATE free_ack SET ver = greatest(free_ack.ver, v) WHERE key = 'free:' || chosen;
			COMMIT;
		END IF;
		PERFORM pg_sleep(0.002);
		COMMIT;
	END LOOP;
END $$;
-- changes of free keys alone, without any tag
CREATE PROCEDURE noter() LANGUAGE plpgsql AS $$
DECLARE
	chosen int;
	v bigint;
BEGIN
	WHILE NOT EXISTS (SELECT FROM stop) LOOP
		chosen := 1 + (random() * 3)::int;
		UPDATE note SET ver = ver + 1 WHERE id = chosen RETURNING ver INTO v;
		PERFORM mlcache.set('note:' || chosen, v::text);
		COMMIT;
		IF mlcache.wait_applied(mlcache.last_commit_version(), '200 ms') THEN
			UPDATE free_ack SET ver = greatest(free_ack.ver, v) WHERE key = 'note:' || chosen;
			COMMIT;
		END IF;
		PERFORM pg_sleep(0.002);
		COMMIT;
	END LOOP;
END $$;
SELECT mlcache.attach('doc', tag => 'doc');
SQL

# new($t): the tables, a rule by tag, and the procedures.
sub new
{
	my ($class, $t) = @_;

	$t->sql($sql);
	$t->wait_armed;
	$t->wait_applied;
	return bless { t => $t, running => [] }, $class;
}

# Sessions that call a procedure, again when the server crashes under them.
sub start
{
	my ($self, @calls) = @_;
	my $psql = sprintf "psql -XAtq -d '%s'", $self->{t}->node->connstr('postgres');

	@calls = qw(reader reader reader writer writer noter) unless @calls;
	$self->{t}->sql_patiently('TRUNCATE stop, violation, sources');
	for my $call (@calls)
	{
		push @{ $self->{running} }, IPC::Run::start([ 'sh', '-c',
				"until $psql -c 'CALL $call()' 2>/dev/null; do sleep 0.05; done" ]);
	}
	return;
}

sub stop
{
	my ($self) = @_;

	$self->{t}->sql_patiently('INSERT INTO stop VALUES (1)');
	$_->finish for @{ $self->{running} };
	$self->{running} = [];
	return;
}

# Lets it run until so many more changes have been made.
sub let_write
{
	my ($self, $n) = @_;

	return $self->{t}->let_grow('SELECT (SELECT sum(ver) FROM doc) + (SELECT sum(ver) FROM note)', $n);
}

# Lets it run until there have been enough reads from each of these.
sub let_read
{
	my ($self, @sources) = @_;

	for my $source (@sources)
	{
		$self->{t}->wait_for("reads from $source",
			sub { $self->{t}->sql("SELECT sum(n) > 10 FROM sources WHERE source = '$source'") eq 't' });
	}
	return;
}

# So many reads were older than what had been applied.
sub violations { return $_[0]->{t}->sql('SELECT count(*) FROM violation') }

sub was_coherent
{
	my ($self) = @_;

	is($self->violations, 0, 'nothing was older than what had been applied')
	  or diag($self->{t}->sql('SELECT source, count(*) FROM violation GROUP BY 1'));
	return;
}

# Now every document is what its query says, and every free key what was set last.
sub is_coherent
{
	my ($self, $what) = @_;
	my $t = $self->{t};
	my $free = "SELECT count(*) FILTER (WHERE mlcache.get(key) <> ver::text),"
	  . " count(*) FILTER (WHERE mlcache.get(key) IS NOT NULL) > 0 FROM"
	  . " (SELECT 'free:' || id, ver FROM doc UNION ALL SELECT 'note:' || id, ver FROM note) k(key, ver)";

	$t->wait_armed;
	$t->wait_applied;
	for my $round (1 .. 2)
	{
		is($t->sql(<<'EQUAL'), 4, "$what: every document is what its query says, $round");
SELECT count(*) FROM generate_series(0, 3) g WHERE document(g)::jsonb =
	(SELECT jsonb_build_object('ver', sum(ver), 'ids', json_agg(id ORDER BY id)) FROM doc WHERE grp = g)
EQUAL
	}
	is($t->sql($free), '0|t', "$what: every free key is what was set last, or gone");
	return;
}

1;
