# Documents that take long to load again do not keep other changes waiting.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;
use Time::HiRes qw(time);

my $t = MlcTest->new('refresh', cold => 10);

$t->sql(<<'SQL');
CREATE TABLE d (id int PRIMARY KEY, n int);
INSERT INTO d SELECT g, 0 FROM generate_series(1, 200) g;
CREATE FUNCTION slowly(int) RETURNS text STABLE LANGUAGE sql AS
	$$ SELECT (SELECT n::text FROM public.d WHERE id = $1) FROM pg_sleep(0.05) $$;
SELECT mlcache.attach('d', key => 'd:{id}', action => 'refresh', loader => 'SELECT public.slowly($1)');
SQL
$t->wait_applied;

# The longest of some changes while a backlog of ten seconds is loaded.
sub longest
{
	my ($changes) = @_;
	my $longest = 0;

	$t->sql('UPDATE d SET n = n + 1');
	for (1 .. $changes)
	{
		my $began = time();
		my $version = $t->sql(
			'UPDATE u SET n = n + 1 WHERE id = 1001; SELECT mlcache.last_commit_version()');

		$t->sql("SELECT mlcache.wait_applied('$version', '30 s')");
		$longest = time() - $began if time() - $began > $longest;
	}
	cmp_ok($t->redis->command('EXISTS', map { "d:$_" } 1 .. 200), '<', 200, 'not all is loaded yet');
	return $longest;
}

my $with = longest(8);
cmp_ok($with, '<', 4, 'changes do not wait for a backlog of documents');
$t->wait_for('all documents',
	sub { $t->redis->command('EXISTS', map { "d:$_" } 1 .. 200) == 200 });
$t->set_fault('relay-refresh-budget=skip');
cmp_ok(longest(2), '>', $with, 'they do without that safeguard');
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
$t->wait_for('the others',
	sub { $t->redis->command('EXISTS', map { "d:$_" } 151 .. 200) == 50 });
pass('documents that change all the time do not keep others from their turn');
$t->sql('INSERT INTO fence VALUES (-1)');
$hot->quit;
$t->stop;
done_testing();
