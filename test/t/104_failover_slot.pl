# The relay's slot as a failover slot (PostgreSQL 17): a standby synchronizes
# it, and when it is promoted its relay goes on with that slot.  Caches are
# purged all the same.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $t = MlcTest->new('primary', cold => 200, server => "timeout '60000'");
my $log = $t->log_position;

is($t->sql('SHOW mlcache.failover_slot'), 'off', 'off by default');

# ---------- the setting ----------

if (!MlcTest::knows_setting('sync_replication_slots'))
{
	my $pid = $t->running_relay;

	$t->set_conf('mlcache.failover_slot = on');
	$t->wait_for('the setting', sub { $t->sql('SHOW mlcache.failover_slot') eq 'on' });
	$t->wait_applied;
	is($t->running_relay, $pid, 'the relay takes no notice of the setting');
	$t->sql("SELECT pg_terminate_backend($pid)");
	$t->wait_for('its end', sub { !kill 0, $pid });
	$t->wait_armed;
	$t->is_coherent('no failover slot', entries => 50);
	is($t->purges($log), 0, 'no purge was needed');
  SKIP:
	{
		skip('PostgreSQL has failover slots from 17 on', 1);
	}
	$t->stop;
	done_testing();
	exit;
}

my $pid = $t->running_relay;

is($t->slot('failover'), 'f', 'the slot is no failover slot');
for my $on ('on', 'off')
{
	$t->set_conf("mlcache.failover_slot = $on");
	$t->wait_for("a slot that is altered, failover $on",
		sub { $t->slot('failover') eq ($on eq 'on' ? 't' : 'f') });
}
$t->wait_applied;
is($t->running_relay, $pid, 'a reload alters the slot under the relay');
$t->set_conf("mlcache.failover_slot = on\nmlcache.relay_enabled = off");
$t->wait_for('the relay to end', sub { $t->relay_pid eq '' });
is($t->slot('failover'), 'f', 'nobody was there to alter it');
$t->set_conf("mlcache.failover_slot = on\nmlcache.redelivery_window = 0");
$t->wait_armed;
is($t->slot('failover'), 't', 'the next relay did');
is($t->purges($log), 0, 'no purge was needed');

# ---------- promoted with a slot that was synchronized ----------

# Without looking at where the timeline begins, what the old primary had
# applied would be gone on with, and a commit that is lost would stay cached.
for my $skip (1, 0)
{
	my $primary = $t->node;
	my $standby = $t->new_standby("standby$skip");
	my ($lost, $over) = map { $_ + 2 * $skip } 1001, 1002;

	$t->synchronize($standby);
	is($t->slot('synced, failover, temporary', $standby), 't|t|f', 'the standby has the slot');
	is( $standby->safe_psql('postgres',
			"SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^mlcache (launcher|relay)'"),
		0, 'nobody there would touch it');
	like(
		$standby->safe_psql('postgres',
			"SELECT detail FROM mlcache.check_setup() WHERE item = 'max_replication_slots'"),
		qr/"mlcache_\d+" is one of them/,
		'check_setup() knows of it');

	# a slot that is made anew waits for this one
	$t->sql("BEGIN; UPDATE i SET n = 4712 WHERE id = $over; UPDATE r SET n = 4712 WHERE id = $over;"
		  . " PREPARE TRANSACTION 'over'");
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));

	# a commit that the standby never hears of
	$standby->append_conf('postgresql.conf', "primary_conninfo = ''");
	$standby->reload;
	$t->wait_for('the standby to be alone',
		sub { $standby->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_wal_receiver') == 0 });
	$t->sql("UPDATE i SET n = 4711 WHERE id = $lost");
	$t->wait_applied;
	$t->fill_key("i:$lost");
	like($t->look_up("i:$lost"), qr/"n":4711/, 'cached by the old primary');
	$t->wait_published;
	$primary->stop;

	my $end = $standby->safe_psql('postgres', 'SELECT pg_last_wal_replay_lsn()');

	$t->{node} = $standby;
	$t->set_conf('mlcache.relay_enabled = off');
	$log = $t->log_position;
	$standby->promote;
	# and is past the position where the other one has lost something
	$t->sql('SELECT pg_switch_wal(); INSERT INTO fence VALUES (2)');
	$t->set_conf("mlcache.failover_slot = on\nmlcache.redelivery_window = 0"
		  . ($skip ? "\nmlcache.fault_points = 'relay-timeline=skip'" : ''));
	$t->wait_armed;
	is($t->slot("failover, restart_lsn < '$end'"), 't|t', 'the relay goes on with the slot');
	is($t->slot('synced'), 'f', 'as its own');
	is($t->count_log(qr/found initial starting point/, $log), 0, 'and has not made it');
	is($t->purges($log), 1 - $skip, $skip ? 'not purged' : 'purged');
	like($t->stat('applied'), qr/^0000000[23]/, 'applied is of the new timeline');
	$t->wait_applied;
	$skip
	  ? like($t->look_up("i:$lost"), qr/"n":4711/, 'and stale without that safeguard')
	  : is($t->look_up("i:$lost"), 'lease', 'what was lost is not cached');

	# what began before the promotion
	$t->fill_key("i:$over");
	unlike($t->look_up("i:$over"), qr/"n":4712/, 'a prepared transaction is not seen');
	$t->sql("COMMIT PREPARED 'over'");
	$t->wait_applied;
	is($t->look_up("i:$over"), 'lease', 'and is once it is committed, though it began before the promotion');
	is($t->redis->command('GET', "r:$over"), $t->row("r:$over"), 'with what it changed');
}
$t->start_load;
$t->let_write(500);
$t->finish_load('promoted', missing => 1);

# ---------- and dropped ----------

$t->sql("SELECT mlcache.detach('$_')") for qw(r u i w p);
$t->wait_for('the slot to be dropped with the last rule', sub { $t->slot('true') eq '' });
$t->stop;
done_testing();
