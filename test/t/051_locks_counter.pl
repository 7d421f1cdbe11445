# A counter under a lock, incremented by 50 clients inside and outside, which
# are killed and stopped for longer than the ttl while Redis is flushed and
# replaced by one that knows nothing, as in a failover to a replica that lags:
# with fencing nothing is lost, without it something is.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $t = MlcTest->new('counter', no_tables => 1,
	conf => "mlcache.relay_enabled = off\nmax_connections = 120\nfsync = off");
my $ns = $t->sql('SELECT mlcache.lock_namespace()');

$ENV{PGHOST} = $t->node->host;
$ENV{PGPORT} = $t->node->port;
$ENV{PGDATABASE} = 'postgres';
$t->sql('CREATE TABLE counter (n int); CREATE TABLE done (id serial)');

# -> increments, lost, refused, stopped, killed, flushed
sub count
{
	my ($mode, $seconds) = @_;
	my ($out, $err) = ('', '');

	$t->sql('TRUNCATE counter, done; INSERT INTO counter VALUES (0)');
	my $run = IPC::Run::start(
		[ $ENV{MLC_PYTHON} // '/usr/bin/python3', "$FindBin::RealBin/lib/counter.py",
		  $t->redis->socket, $ns, 50, $seconds, $mode ],
		'>', \$out, '2>', \$err, IPC::Run::timeout(120));
	for (1 .. 2)
	{
		my $until = time() + $seconds / 3;

		$run->pump_nb, usleep(50_000) while time() < $until;
		$t->redis->kill9;
		$t->redis->start;
	}
	$run->finish or die "counter.py: $err";
	diag("$mode: increments, lost, refused, stopped, killed, flushed: $out");
	return split ' ', $out;
}

my ($done, $lost, $refused, $stopped, $killed, $flushed) = count('fenced', 12);
cmp_ok($done, '>', 50, 'the counter was incremented');
ok($stopped > 0 && $killed > 0 && $flushed > 0, 'under faults');
is($lost, 0, 'with fencing nothing is lost');
cmp_ok($refused, '>', 0, 'since late writes were refused');

for (1 .. 4)
{
	(undef, $lost) = count('unfenced', 6);
	last if $lost > 0;
}
cmp_ok($lost, '>', 0, 'without it something is');

done_testing();
