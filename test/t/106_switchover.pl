# Two servers change places, twice.  The one that has become a standby does not
# keep its relay's slot, and synchronizes the new primary's (PostgreSQL 17).
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $has_failover = MlcTest::knows_setting('sync_replication_slots');
my $t = MlcTest->new('one', cold => 200, server => "timeout '60000'",
	conf => "mlcache.failover_slot = on\nmlcache.redelivery_window = 0\n");
my $primary = $t->node;
my $standby = $t->new_standby('two');
my $log;

for my $round (1, 2)
{
	my $slot = $t->slot('slot_name');

	$t->synchronize($standby) if $has_failover;
	$t->sql('UPDATE i SET n = n + 1 WHERE id = 1001');
	$t->wait_applied;
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	$primary->stop;
	$t->{node} = $standby;
	$log = $t->log_position;
	$standby->promote;
	$t->wait_armed;
	is($t->purges($log), 1, 'purged');

	$t->follow($primary, "again$round");
	$primary->set_standby_mode;
	if ($round == 1)
	{
		$primary->append_conf('fault.conf', "mlcache.fault_points = 'standby-slots=skip'");
		$primary->start;
		is($t->slot('slot_name', $primary), $slot, 'left alone a standby keeps the slot of its relay');
		if ($has_failover)
		{
			my (undef, undef, $errors) = $primary->psql('postgres', 'SELECT pg_sync_replication_slots()');

			like($errors, qr/same name slot "$slot" already exists/, 'and synchronizes none');
		}
		$primary->append_conf('fault.conf', "mlcache.fault_points = ''");
		$primary->stop;
	}
	$log = -s $primary->logfile;
	$primary->start;
	$t->wait_for('the slot to be dropped',
		sub { slurp_file($primary->logfile, $log) =~ qr/dropped replication slot "$slot", which this server has/ });
	if ($has_failover)
	{
		$t->synchronize($primary);
		is($t->slot('synced', $primary), 't', 'it has the slot of the new primary');
	}
	else
	{
		is($t->slot('slot_name', $primary), '', 'it has no slot');
	}
	($primary, $standby) = ($standby, $primary);
}
$t->start_load;
$t->let_write(300);
$t->finish_load('after two switchovers', missing => 1);
$t->stop;
done_testing();
