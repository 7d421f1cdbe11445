# A synchronous physical standby is promoted under load: writers connect to it,
# its relay makes a slot and purges, and every copy equals its row.  So it is
# where the standby synchronizes failover slots (PostgreSQL 17): ours is none by
# default.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $t = MlcTest->new('primary', cold => 1000);
my $primary = $t->node;
my $standby = PostgreSQL::Test::Cluster->new('standby');
my $has_failover = MlcTest::knows_setting('sync_replication_slots');

$primary->backup('copy');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
if ($has_failover)
{
	$t->follow($standby, 'standby');
	$standby->append_conf('postgresql.conf', 'sync_replication_slots = on');
}
$standby->start;
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
# nothing that anybody has seen is lost
$t->sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
$primary->reload;
$t->wait_for('the standby to be synchronous',
	sub { $t->sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == 1 });

$t->start_load(pg => 'host=' . join(',', map { $_->host } $primary, $standby)
	  . ' port=' . join(',', map { $_->port } $primary, $standby)
	  . ' dbname=postgres target_session_attrs=read-write');
$t->let_write(500);

if ($has_failover)
{
	is($t->slot('failover'), 'f', 'the slot is no failover slot');
}
is($t->slot('count(*)', $standby), 0, 'the standby has no slot of ours');

$primary->stop('immediate');
$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$standby->promote;
$t->{node} = $standby;
$t->sql_patiently("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()");
$t->wait_armed;
is($t->purges, 1, 'what the old primary has cached is purged');
like($t->stat('applied'), qr/^00000002/, 'applied is of the new timeline');
is($t->sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '^mlcache_'"),
	1, 'the relay has made a slot');
$t->let_write(1000);
$t->finish_load('a standby promoted', missing => 1);
$t->stop;
done_testing();
