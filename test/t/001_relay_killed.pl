# The relay is killed, in every way and at every point of its work, under load:
# it comes back, nothing is lost, and no purge is needed for that.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('relay_killed', cold => 1500);
my $log = $t->log_position;

sub new_relay
{
	my ($old) = @_;

	$t->wait_for('another relay',
		sub {
			my $pid = $t->sql_patiently(
				"SELECT pid FROM pg_stat_activity WHERE backend_type = 'mlcache relay'");
			$pid ne '' && $pid ne $old;
		});
	$t->wait_armed;
}

$t->start_load;
$t->let_write(200);

# told to end
my $pid = $t->relay_pid;
$t->sql("SELECT pg_terminate_backend($pid)");
new_relay($pid);
ok(1, 'a relay that was terminated comes back');

# at each point of a batch's way
for my $point (
	qw(relay-before-applying relay-before-send relay-after-send relay-before-applied))
{
	my $position = $t->log_position;

	$t->set_fault("$point=exit");
	$t->wait_log(qr/fault point "$point" reached/, $position);
	$pid = $t->sql_patiently(
		"SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'mlcache relay'");
	$t->clear_fault;
	$t->wait_armed;
	$t->let_write(100);
	ok(1, "comes back after it ended at $point");
}

# killed: PostgreSQL restarts itself
for my $n (1 .. 2)
{
	$t->let_write(100);
	$pid = $t->relay_pid;
	kill 'KILL', $pid;
	new_relay($pid);
	ok(1, "comes back after kill -9, $n");
}
$t->let_write(200);
$t->finish_load('relay killed');
is($t->purges($log), 0, 'no purge was needed');
$t->stop;
done_testing();
