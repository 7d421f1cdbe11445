# A physical standby beside a running relay: it has none of its own, it reads
# what the primary's keeps coherent, and it carries on when it is promoted.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $t = MlcTest->new('beside', cold => 1000, server => "timeout '60000'");
my $primary = $t->node;
my $standby = PostgreSQL::Test::Cluster->new('standby');
my @keys = map { ("i:$_", "u:$_") } 1001 .. 1020;

sub caught_up
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
}

# What get() says there, and where it came from.
sub read_there
{
	my ($key) = @_;

	return split /\|/, $standby->safe_psql('postgres',
		"SELECT source, value FROM (SELECT mlcache.get('$key') AS value) v,"
		  . " LATERAL (SELECT source FROM mlcache.last_read() WHERE v.value IS NOT NULL) s"), 2;
}

$primary->backup('beside');
$standby->init_from_backup($primary, 'beside', has_streaming => 1);
$standby->start;
is($standby->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mlcache relay'"), 0,
	'no relay runs on it');

# ---------- reads, while the primary writes ----------

my $log = $t->log_position;
my %sources;

$t->start_load;
for my $round (1 .. 3)
{
	$t->let_write(300);
	$sources{ (read_there($_))[0] // 'nothing' }++ for @keys[0 .. 9];
}
$t->finish_load('a standby reads');
is($t->purges($log), 0, 'no purge was needed');
note(join ' ', map { "$_ $sources{$_}" } sort keys %sources);

# what is read there is what the primary has
$t->wait_applied;
caught_up();
my $wrong = 0;
for my $key (@keys)
{
	my (undef, $value) = read_there($key);

	$wrong++ if ($value // '') ne $t->row($key);
}
is($wrong, 0, 'what it reads are the rows');

# a change is seen there as soon as it has been applied
$t->fill_key($keys[0]);
my $before = $t->row($keys[0]);
is((read_there($keys[0]))[1], $before, 'a hit');
$t->sql('UPDATE i SET n = 4711 WHERE id = 1001');
$t->wait_applied;
caught_up();
like((read_there($keys[0]))[1], qr/"n":4711/, 'nothing older than what was applied');

# ---------- promoted ----------

$t->start_load;
$t->let_write(300);
$t->stop_load;
$t->wait_published;
caught_up();
$primary->stop;
$t->{node} = $standby;
$log = $t->log_position;
$standby->promote;
$t->end_prepared;
$t->wait_armed;
is($t->purges($log), 1, 'purged: it is another timeline, and the slot was not there');
like($t->stat('applied'), qr/^00000002/, 'applied is of the new timeline');
$t->start_load;
$t->let_write(2000);
$t->finish_load('promoted', missing => 1);
$t->stop;
done_testing();
