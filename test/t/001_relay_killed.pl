# The relay is killed, in every way and at every point of its work, under load:
# it comes back, nothing is lost, and no purge is needed for that.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('relay_killed', cold => 1500, server => "timeout '60000'");
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
my $pid = $t->running_relay;
$t->sql("SELECT pg_terminate_backend($pid)");
new_relay($pid);
ok(1, 'a relay that was terminated comes back');

# at each point of a batch's way
for my $point (
	qw(relay-before-applying relay-before-send relay-after-send relay-before-applied))
{
	$t->exit_relay($point);
	$t->let_write(100);
	ok(1, "comes back after it ended at $point");
}

# killed: PostgreSQL restarts itself
for my $n (1 .. 2)
{
	$t->let_write(100);
	$pid = $t->running_relay;
	kill 'KILL', $pid;
	new_relay($pid);
	ok(1, "comes back after kill -9, $n");
}
$t->let_write(200);
$t->finish_load('relay killed');
is($t->purges($log), 0, 'no purge was needed');

# ---------- delivered again in other portions ----------

# A replicated row changes and goes, both are delivered, but `applied` is held
# back by a weak change.  Then a relay that delivers them again ends between the
# two: the row that was gone must not be served.
# (Plain removals of b would take the weak change along as they fill a batch.)
$t->sql("CREATE TABLE b (id int PRIMARY KEY, n int);"
	  . "SELECT mlcache.attach('b', key => 'b:{id}', action => 'update');"
	  . 'INSERT INTO b SELECT g, 0 FROM generate_series(1, 5000) g');
for my $skip (0, 1)
{
	my $id = 7100 + $skip;
	my $window = 'mlcache.redelivery_window = 0';
	my $before;

	# nothing older is delivered again
	$t->set_conf($window);
	$t->sql("INSERT INTO r VALUES ($id, 0, 0)");
	$before = substr($t->wait_published, 8);
	$t->wait_for('the slot to go on',
		sub {
			$t->sql('INSERT INTO fence VALUES (1);'
				  . "SELECT lpad(to_hex((confirmed_flush_lsn - '0/0')::bigint), 16, '0') >= '$before'"
				  . ' FROM pg_replication_slots') eq 't';
		});
	$t->set_conf("$window\nmlcache.fault_points = 'relay-weak-due=skip,relay-stream=skip'");
	$t->wait_applied;
	$t->sql('UPDATE w SET n = n + 1 WHERE id = 2400');
	$t->sql("UPDATE r SET n = 1 WHERE id = $id");
	$t->sql('UPDATE b SET n = n + 1');		# more than a batch holds
	$t->sql("DELETE FROM r WHERE id = $id");
	$t->wait_for('both', sub { $t->redis->command('EXISTS', "r:$id") == 0 });

	$t->set_fault('relay-before-applied=exit', $skip ? 'relay-redelivery=skip' : ());
	$t->wait_for('the row to be back', sub { $t->redis->command('EXISTS', "r:$id") == 1 });
	$skip
	  ? like($t->look_up("r:$id"), qr/"n":1/, 'what is back is served without that safeguard')
	  : is($t->look_up("r:$id"), 'unarmed', 'what is back for a moment is not served');
	$t->clear_fault;
	$t->wait_applied;
	is($t->look_up("r:$id"), 'lease', 'and is gone in the end');
}
$t->stop;
done_testing();
