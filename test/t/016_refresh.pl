# Documents that take long to load again do not keep other changes waiting.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use List::Util qw(max);
use MlcTest;
use Test::More;

my $t = MlcTest->new('refresh', cold => 10, server => "timeout '60000'",
	conf => "mlcache.refresh_timeout = '4s'\n");
my @keys = map { "d:$_" } 1 .. 200;

# A document says what had been applied when it was loaded, and when that was.
$t->sql(<<'SQL');
CREATE TABLE d (id int PRIMARY KEY, n int);
INSERT INTO d SELECT g, 0 FROM generate_series(1, 200) g;
CREATE FUNCTION slowly(int) RETURNS text STABLE LANGUAGE sql AS
	$$ SELECT applied || ' ' || extract(epoch FROM clock_timestamp())
	   FROM mlcache.stat_servers, pg_sleep(0.05) WHERE $1 IS NOT NULL $$;
SELECT mlcache.attach('d', key => 'd:{id}', action => 'refresh', loader => 'SELECT public.slowly($1)');
SQL
$t->wait_applied;

sub documents { return grep { defined } @{ $t->redis->command('MGET', @keys) } }

# The most documents that were loaded between a change and the moment when it
# was applied, of some changes while a backlog of ten seconds is loaded.
sub most
{
	my (@changes, @loaded);

	$t->sql('UPDATE d SET n = n + 1');
	$t->wait_for('the backlog', sub { documents() < @keys });
	while (@changes < 8 && documents() < @keys)
	{
		push @changes, [ split / /, $t->sql('UPDATE u SET n = n + 1 WHERE id = 1001;'
				  . " SELECT mlcache.last_commit_version() || ' ' || extract(epoch FROM clock_timestamp())") ];
		$t->sql("SELECT mlcache.wait_applied('$changes[-1][0]', NULL)");
	}
	$t->wait_for('all documents', sub { documents() == @keys });
	@loaded = map { [ split / / ] } documents();
	# those that found a backlog
	@changes = grep { my $change = $_; grep { $_->[1] > $change->[1] } @loaded } @changes;
	cmp_ok(scalar @changes, '>', 0, 'there were changes while documents were loaded');
	return max(0, map { my $change = $_;
			scalar grep { $_->[1] > $change->[1] && $_->[0] lt $change->[0] } @loaded } @changes);
}

cmp_ok(most(), '<=', 2, 'changes do not wait for a backlog of documents');
$t->set_fault('relay-refresh-budget=skip');
$t->wait_applied;
cmp_ok(most(), '>', 2, 'they do without that safeguard');
$t->clear_fault;

# Documents that change all the time do not keep others from their turn.
my $hot = $t->node->background_psql('postgres');

$hot->query_until(qr/begun/, <<'SQL');
\echo begun
DO $$
BEGIN
	WHILE NOT EXISTS (SELECT FROM fence WHERE n = -1) LOOP
		UPDATE d SET n = n + 1 WHERE id <= 150;
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
END
$$;
SQL
$t->let_grow('SELECT n FROM d WHERE id = 1', 10);
$t->sql('UPDATE d SET n = n + 1 WHERE id > 150');
$t->wait_applied;
# however long each of them takes
for (my $there = 0; $there < 50;)
{
	my $last = $there;

	$t->wait_for('the others',
		sub { ($there = $t->redis->command('EXISTS', map { "d:$_" } 151 .. 200)) > $last });
}
pass('documents that change all the time do not keep others from their turn');
$t->sql('INSERT INTO fence VALUES (-1)');
$hot->quit;

# A few are loaded under leases that were asked for together: those that have run
# out meanwhile are asked for again.
$t->sql('CREATE TABLE pace (s float8); INSERT INTO pace VALUES (0)');
$t->sql(<<'SQL');
CREATE OR REPLACE FUNCTION slowly(int) RETURNS text STABLE LANGUAGE sql AS
	$$ SELECT 'document' FROM public.pace, pg_sleep(s) WHERE $1 IS NOT NULL $$;
SQL

# How many of ten documents there are, once one that was changed after them is.
sub slow_documents
{
	my $wait = sub { my $id = shift;
		$t->wait_for("d:$id", sub { $t->redis->command('EXISTS', "d:$id") }) };

	$t->sql('UPDATE pace SET s = 0');
	# none takes long, so more and more are taken at a time
	for (1 .. 2)
	{
		$t->sql('UPDATE d SET n = n + 1; UPDATE d SET n = n + 1 WHERE id = 200');
		$t->wait_applied;
		$wait->(200);
	}
	$t->sql('UPDATE pace SET s = 0.7');
	$t->sql('UPDATE d SET n = n + 1 WHERE id <= 10');
	$t->wait_applied;
	$t->sql('UPDATE d SET n = n + 1 WHERE id = 11');
	$t->wait_applied;
	$wait->(11);
	return $t->redis->command('EXISTS', map { "d:$_" } 1 .. 10);
}

is(slow_documents(), 10, 'documents are loaded, however long the others take');
$t->set_relay_fault('relay-refresh-old=skip');
cmp_ok(slow_documents(), '<', 10, 'but for those whose leases have run out, without that safeguard');
$t->clear_fault;
$t->sql('UPDATE pace SET s = 0');

# A document that the relay could not load is left to its readers, who need not
# wait for the lease.
sub left_to_readers
{
	my (@faults) = @_;
	my $holder;

	$t->set_relay_fault('relay-reload=wait', @faults);
	$holder = $t->hold('relay-reload');
	$t->sql('UPDATE d SET n = n + 1 WHERE id = 3');
	$t->wait_held('relay-reload');
	$t->sql('SELECT pg_cancel_backend(' . $t->running_relay . ')');
	$t->wait_for('the end of the load', sub { !$t->is_held('relay-reload') });
	my $source = $t->sql("SELECT mlcache.get('d:3'); SELECT source FROM mlcache.last_read()");
	$t->clear_fault;
	$holder->quit;
	return $source;
}

is(left_to_readers(), "document\nload", 'a reader loads at once what the relay could not');
is(left_to_readers('relay-refresh-give-back=skip'), "document\nrow",
	'and finds the lease taken where it is not given back');

# What the relay's snapshot sees is kept until it has loaded it, though the relay
# decodes: else it would find no row where one is updated meanwhile.
$t->wait_applied;
$t->set_relay_fault('relay-reload=wait');
my $holder = $t->hold('relay-reload');

$t->sql('UPDATE d SET n = n + 1 WHERE id = 1');
$t->wait_held('relay-reload');
$t->sql('UPDATE d SET n = n + 1 WHERE id = 1');
my (undef, undef, $said) = $t->node->psql('postgres', 'VACUUM (VERBOSE) d');

like($said, qr/ [1-9]\d* are dead but not yet removable/, 'rows that a reload may see are kept');
$t->clear_fault;
$holder->quit;
$t->stop;
done_testing();
