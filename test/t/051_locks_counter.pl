# A counter under a lock, incremented by 50 clients inside and outside, which
# are killed and stopped for longer than the ttl while Redis is flushed, killed
# and replaced by a replica that lacks the last writes: with fencing nothing is
# lost, without it something is.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcRedis;
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $port = MlcRedis::free_port();
my $t = MlcTest->new('counter', no_tables => 1, redis => [ '--port', $port ],
	conf => "mlcache.relay_enabled = off\nmax_connections = 120\nfsync = off");
my $ns = $t->sql('SELECT mlcache.lock_namespace()');

$ENV{PGHOST} = $t->node->host;
$ENV{PGPORT} = $t->node->port;
$ENV{PGDATABASE} = 'postgres';
$t->sql('CREATE TABLE counter (n int); CREATE TABLE done (id serial)');

# Everybody's way to the Redis that serves just now.
my $link = PostgreSQL::Test::Utils::tempdir_short() . '/r';
my $replicas = 0;

sub point_to
{
	symlink $_[0]->socket, "$link.new" or die "symlink: $!";
	rename "$link.new", $link or die "rename: $!";
}

point_to($t->redis);
$t->sql("ALTER SERVER redis OPTIONS (SET url 'unix://$link')");

sub fail_over
{
	my ($keep_running) = @_;
	my $replica = MlcRedis->new('replica' . ++$replicas);
	my $next = MlcRedis::free_port();

	$replica->start('--replicaof', "127.0.0.1 $port", '--port', $next);
	$t->wait_for('replication',
		sub { $replica->info('replication', 'master_link_status') eq 'up' });
	$replica->command('REPLICAOF', 'NO', 'ONE');
	$keep_running->(0.3);		# what locks change from here on is lost
	$t->redis->kill9;
	point_to($replica);
	$t->{redis} = $replica;
	$port = $next;
}

# -> increments, lost, refused, stopped, killed, flushed
sub count
{
	my ($mode, $seconds) = @_;
	my ($in, $out, $err) = ('', '', '');

	$t->sql('TRUNCATE counter, done; INSERT INTO counter VALUES (0)');
	my $run = IPC::Run::start(
		[ $ENV{MLC_PYTHON} // '/usr/bin/python3', "$FindBin::RealBin/lib/counter.py",
		  $link, $ns, 50, $mode ],
		'<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(300));
	my $keep_running = sub {
		my $until = time() + $_[0];

		$run->pump_nb, usleep(50_000) while time() < $until;
	};
	$keep_running->($seconds / 3);
	fail_over($keep_running);
	$keep_running->($seconds / 3);
	$t->redis->kill9;
	$t->redis->start('--port', $port);
	$keep_running->($seconds / 3);
	$run->finish or die "counter.py: $err";
	diag("$mode: increments, lost, refused, stopped, killed, flushed: $out");
	return split ' ', $out;
}

my ($done, $lost, $refused, $stopped, $killed, $flushed) = count('fenced', 12);
cmp_ok($done, '>', 50, 'the counter was incremented');
ok($stopped > 0 && $killed > 0 && $flushed > 0, 'under faults');
is($lost, 0, 'with fencing nothing is lost');
cmp_ok($refused, '>', 0, 'since late writes were refused');

(undef, $lost) = count('unfenced', 6);
cmp_ok($lost, '>', 0, 'without it something is');

done_testing();
