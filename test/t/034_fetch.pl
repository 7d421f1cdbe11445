# fetch, set and tags under load while everything dies: no fetched document is
# older than what has been applied, and at the end each is what its query says,
# and each free key what was set last, or gone.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use MlcTest;
use Test::More;

my $t = MlcTest->new('fetch', no_tables => 1);

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE doc (id int PRIMARY KEY, grp int, ver bigint NOT NULL);
INSERT INTO doc SELECT i, i % 4, 1 FROM generate_series(1, 40) i;
CREATE TABLE ack (grp int PRIMARY KEY, ver bigint NOT NULL);
INSERT INTO ack SELECT g, 0 FROM generate_series(0, 3) g;
CREATE TABLE stop (n int);
CREATE TABLE violation (grp int, ver bigint, ack bigint, source text);
CREATE TABLE sources (source text, n bigint);

CREATE FUNCTION document(g int) RETURNS json LANGUAGE sql VOLATILE AS $$
	SELECT mlcache.fetch('doc:' || g, 'SELECT sum(ver) AS ver, json_agg(id ORDER BY id) AS ids FROM doc WHERE grp = $1',
		ARRAY[g::text], CASE WHEN g = 1 THEN interval '1 s' END, '{doc}') -> 0
$$;

CREATE PROCEDURE reader() LANGUAGE plpgsql AS $$
DECLARE
	n bigint[] := '{0,0,0}';
	g int;
	a bigint;
	v bigint;
	s text;
BEGIN
	WHILE NOT EXISTS (SELECT FROM stop) LOOP
		g := (random() * 3)::int;
		SELECT ack.ver INTO a FROM ack WHERE ack.grp = g;
		v := (document(g) ->> 'ver')::bigint;
		s := (mlcache.last_read()).source;
		n[CASE s WHEN 'L2' THEN 1 WHEN 'load' THEN 2 ELSE 3 END] :=
			n[CASE s WHEN 'L2' THEN 1 WHEN 'load' THEN 2 ELSE 3 END] + 1;
		COMMIT;
		IF v < a THEN
			INSERT INTO violation VALUES (g, v, a, s);
			COMMIT;
		END IF;
	END LOOP;
	INSERT INTO sources SELECT x, y FROM unnest('{L2,load,row}'::text[], n) u(x, y);
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
			COMMIT;
		END IF;
		PERFORM pg_sleep(0.002);
		COMMIT;
	END LOOP;
END $$;
SELECT mlcache.attach('doc', tag => 'doc');
SQL
$t->wait_armed;

my @running;

# Sessions that call a procedure, again when the server crashes under them.
sub start_sessions
{
	my $psql = sprintf "psql -XAtq -d '%s'", $t->node->connstr('postgres');

	$t->sql_patiently('TRUNCATE stop, violation, sources');
	for my $call (qw(reader reader reader writer writer))
	{
		push @running, IPC::Run::start([ 'sh', '-c',
				"until $psql -c 'CALL $call()' 2>/dev/null; do sleep 0.05; done" ]);
	}
}

sub stop_sessions
{
	$t->sql_patiently('INSERT INTO stop VALUES (1)');
	$_->finish for @running;
	@running = ();
}

# Lets it run until so many more changes have been made.
sub let_write
{
	my ($n) = @_;
	my $goal = $t->sql_patiently('SELECT sum(ver) FROM doc') + $n;

	$t->wait_for("$n changes", sub { $t->sql_patiently('SELECT sum(ver) FROM doc') >= $goal });
}

sub is_coherent
{
	my ($what) = @_;
	my $free = "SELECT count(*) FILTER (WHERE mlcache.get('free:' || id) <> ver::text),"
	  . " count(*) FILTER (WHERE mlcache.get('free:' || id) IS NOT NULL) > 0 FROM doc";

	$t->wait_armed;
	$t->wait_applied;
	for my $round (1 .. 2)
	{
		is($t->sql(<<'SQL'), 4, "$what: every document is what its query says, $round");
SELECT count(*) FROM generate_series(0, 3) g WHERE document(g)::jsonb =
	(SELECT jsonb_build_object('ver', sum(ver), 'ids', json_agg(id ORDER BY id)) FROM doc WHERE grp = g)
SQL
	}
	is($t->sql($free), '0|t', "$what: every free key is what was set last, or gone");
}

start_sessions();
let_write(100);
for my $point (qw(relay-before-applying relay-before-send relay-after-send relay-before-applied))
{
	my $position = $t->log_position;

	$t->set_fault("$point=exit");
	$t->wait_log(qr/fault point "$point" reached/, $position);
	$t->clear_fault;
	$t->wait_armed;
	let_write(40);
}
my $position = $t->log_position;
$t->redis->command('FLUSHALL');
$t->wait_log(qr/server "redis" is armed/, $position);
let_write(40);
kill 'KILL', $t->relay_pid;			# a crash of the whole server
let_write(40);
$t->wait_armed;
let_write(40);
$t->redis->kill9;
let_write(20);
$t->redis->start;
$t->wait_armed;
let_write(40);
$t->redis->freeze;
let_write(10);
$t->redis->thaw;
$t->wait_armed;
let_write(100);
stop_sessions();
is($t->sql('SELECT count(*) FROM violation'), 0, 'no document was older than what had been applied');
for my $source (qw(L2 load row))
{
	cmp_ok($t->sql("SELECT coalesce(sum(n), 0) FROM sources WHERE source = '$source'"), '>', 10,
		"there were reads from $source");
}
is_coherent('after faults');

# ---------- the same is seen to fail ----------

for my $fault (qw(decode-tag))
{
	$t->set_fault("$fault=skip");
	start_sessions();
	let_write(60);
	stop_sessions();
	cmp_ok($t->sql('SELECT count(*) FROM violation'), '>', 0, "without $fault it is seen");
	$t->clear_fault;
	$t->sql('UPDATE doc SET ver = ver + 1');
	$t->sql('SELECT mlcache.invalidate_pattern(\'free:*\')');
	$t->sql('SELECT mlcache.set(\'free:1\', (SELECT ver::text FROM doc WHERE id = 1))');
	is_coherent("after $fault");
}

# ---------- what is left behind ----------

# Members whose entries are gone leave the indexes.
$t->sql("SELECT count(mlcache.set('brief:' || i, 'x', '1 ms', '{brief}')) FROM generate_series(1, 500) i");
$t->wait_for('the index to be empty', sub {
	$t->redis->command('EXISTS', 'mlc:tag:' . $t->ns . ':t:brief') == 0 });
pass('an index that nobody asks for is emptied');
# The last rule takes all of it along.
$t->sql("SELECT mlcache.detach('doc')");
$t->wait_for('the purge', sub { !@{ $t->redis->command('KEYS', 'mlc:tag:*') } });
is(scalar @{ $t->redis->command('KEYS', '*free:*') }, 0, 'without rules nothing is left');
$t->stop;
done_testing();
