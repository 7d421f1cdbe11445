# The relay's failover slot (PostgreSQL 17) after a crash of the primary; and a
# standby is promoted whose copy of it is of no use: it was not complete yet, it
# was invalidated, or its WAL is not there.  The relay makes a slot of its own.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Cluster;
use Test::More;

plan skip_all => 'PostgreSQL has failover slots from 17 on'
  unless MlcTest::knows_setting('sync_replication_slots');

my $conf = "mlcache.failover_slot = on\nmlcache.redelivery_window = 0\n";
my $t = MlcTest->new('primary', cold => 200, server => "timeout '60000'");

$t->set_conf($conf);

# So many segments of WAL, and a checkpoint that needs none of them.
sub leave_behind
{
	my ($standby, $segments) = @_;

	$t->sql('SELECT pg_switch_wal(); INSERT INTO fence VALUES (2)') for 1 .. $segments;
	$t->sql('CHECKPOINT');
	$t->node->wait_for_catchup($standby, 'replay', $t->node->lsn('flush'));
	$standby->safe_psql('postgres', 'CHECKPOINT');
}

# ---------- the primary crashes ----------

my $other = $t->new_standby('other');

# What a standby has synchronized is on the primary's disk.
$t->synchronize($other);
for my $skip (1, 0)
{
	my $errors = '';

	# PostgreSQL writes the slot now and then itself
	for (1 .. ($skip ? 10 : 1))
	{
		$t->set_relay_conf($conf, $skip ? 'relay-save-slot=skip' : ());
		for (1 .. 2)
		{
			my $goal = $t->sql('INSERT INTO fence VALUES (2); SELECT pg_current_wal_lsn()');

			$t->wait_for('the slot to be confirmed',
				sub { $t->slot("confirmed_flush_lsn >= '$goal'") eq 't' });
		}
		$t->node->wait_for_catchup($other, 'replay', $t->node->lsn('flush'));
		$other->psql('postgres', 'SELECT pg_sync_replication_slots()', on_error_die => 1);
		$t->set_conf("${conf}mlcache.relay_enabled = off");
		$t->node->stop('immediate');
		$t->node->start;
		$other->psql('postgres', 'SELECT pg_sync_replication_slots()', stderr => \$errors);
		$t->set_conf($conf);
		$t->wait_armed;
		last if $errors;
		$t->synchronize($other);
	}
	$skip
	  ? like($errors, qr/cannot synchronize local slot/, 'a slot that went back in a crash is refused')
	  : is($errors, '', 'the slot has not gone back in a crash');
	# it comes to where it was
	$t->wait_for('the slot to be synchronized again',
		sub {
			$t->sql('INSERT INTO fence VALUES (2)');
			$other->psql('postgres', 'SELECT pg_sync_replication_slots()') == 0;
		});
}
$other->stop;
$t->sql("SELECT pg_drop_replication_slot('other')");

# ---------- the standby's slot is of no use ----------

# a standby has the settings of the one before
my $by_hand = 'sync_replication_slots = off';
my %lost = (
	# the slot on the primary is behind where the standby began
	'not complete' => sub {
		my ($name) = @_;

		$t->set_relay_conf("${conf}mlcache.redelivery_window = '1h'");
		$t->wait_applied for 1 .. 3;
		my $standby = $t->new_standby($name, 'sync_replication_slots = on');
		$t->wait_for('the standby to begin', sub { $t->slot('temporary', $standby) eq 't' });
		# what a slot that goes on need not wait for
		$t->sql("BEGIN; UPDATE i SET n = 4712 WHERE id = 1002; PREPARE TRANSACTION 'over'");
		return $standby;
	},
	'invalidated' => sub {
		my ($name) = @_;
		my $standby = $t->new_standby($name, "$by_hand\nmax_slot_wal_keep_size = '1MB'");

		$t->synchronize($standby);
		leave_behind($standby, 4);
		is($t->slot('wal_status', $standby), 'lost', 'it has lost WAL');
		$standby->append_conf('postgresql.conf', 'max_slot_wal_keep_size = -1');
		$standby->reload;
		return $standby;
	},
	'without WAL' => sub {
		my ($name) = @_;
		my $standby = $t->new_standby($name, $by_hand);

		$t->synchronize($standby);
		my $segment = $t->sql("SELECT pg_walfile_name('" . $t->slot('restart_lsn', $standby) . "')");
		leave_behind($standby, 2);
		$standby->stop;
		ok(unlink($standby->data_dir . "/pg_wal/$segment"), "$segment removed");
		$standby->start;
		isnt($t->slot('wal_status', $standby), 'lost', 'and PostgreSQL does not know');
		return $standby;
	},
);

my $number = 0;
for my $how (sort keys %lost)
{
	my $primary = $t->node;
	my $standby = $lost{$how}->('standby' . ++$number);
	my $log;

	# two primaries would be worse than none
	$t->sql('UPDATE i SET n = n + 1 WHERE id = 1001');
	$t->wait_applied;
	$t->fill_key('i:1001');
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	$t->set_conf("${conf}mlcache.relay_enabled = off");
	$t->wait_for('the relay to end', sub { $t->relay_pid eq '' });
	$t->{node} = $standby;
	$log = $t->log_position;
	$standby->promote;
	$primary->stop;
	$t->set_conf($conf);
	if ($how eq 'not complete')
	{
		$t->wait_log(qr/Waiting for transactions/, $log);
		isnt($t->stat('state'), 'armed', 'a new slot waits for a prepared transaction');
		$t->sql("COMMIT PREPARED 'over'");
	}
	$t->wait_armed;
	cmp_ok($t->purges($log), '>=', 1, "$how: purged");
	is($t->slot('failover, synced'), 't|f', "$how: the relay has made a slot");
	$t->sql('UPDATE i SET n = n + 1 WHERE id = 1001; UPDATE r SET n = n + 1 WHERE id < 1050');
	$t->wait_applied;
	$t->fill_key('i:1001');
	is($t->look_up('i:1001'), $t->row('i:1001'), "$how: the cache is of use");
	is($t->redis->command('GET', 'r:7'), $t->row('r:7'), "$how: changes arrive");
}
$t->is_coherent('after all that', missing => 1, entries => 50);
$t->stop;
done_testing();
