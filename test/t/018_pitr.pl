# Recovery to a point in the middle of history, from a backup and archived WAL:
# what was cached of the commits that were undone is purged.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $t = MlcTest->new('history', cold => 1000, server => "timeout '60000'");
my $key = 'i:1001';

$t->node->enable_archiving;
$t->node->restart;
$t->wait_armed;
$t->start_load;
$t->let_write(200);
$t->node->backup('begun');
$t->let_write(200);
my $row = $t->row($key);
$t->sql("SELECT pg_create_restore_point('middle')");
$t->let_write(300);
$t->stop_load;
$t->sql('UPDATE i SET n = 4711 WHERE id = 1001');
$t->wait_applied;
$t->fill_key($key);
like($t->look_up($key), qr/"n":4711/, 'cached after the point');
$t->wait_published;

my $last = $t->sql('SELECT pg_walfile_name(pg_current_wal_lsn())');
$t->sql('SELECT pg_switch_wal()');
$t->wait_for('the archive',
	sub { $t->sql("SELECT coalesce(last_archived_wal >= '$last', false) FROM pg_stat_archiver") eq 't' });
$t->node->stop;

my $node = PostgreSQL::Test::Cluster->new('middle');
$node->init_from_backup($t->node, 'begun', has_restoring => 1, standby => 0);
$node->append_conf('postgresql.conf',
	"recovery_target_name = 'middle'\nrecovery_target_action = 'promote'\narchive_mode = off");
$t->{node} = $node;
$node->start;
$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
$t->end_prepared;
$t->wait_armed;
is($t->purges, 1, 'purged');
like($t->stat('applied'), qr/^00000002/, 'applied is of the new timeline');
unlike($t->row($key), qr/"n":4711/, 'the commit was undone');
is($t->look_up($key), 'lease', 'and is not cached any more');

$t->start_load;
$t->let_write(2000);
$t->finish_load('recovered to the middle', missing => 1);
$t->stop;
done_testing();
