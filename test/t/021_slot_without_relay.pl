# A slot that no relay consumes must not fill the disk: past
# mlcache.slot_max_retained the launcher drops it, and the relay purges when it
# runs again.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('slot_without_relay', bare => 1);
my $node = $t->node;

$t->create_server("timeout '60000'");
$t->sql("CREATE TABLE fence (n int)");
$t->sql("CREATE TABLE a (id int PRIMARY KEY, v text)");
$t->sql("SELECT mlcache.attach('a', key => 'a:{id}', action => 'replicate')");
$t->wait_armed;
$t->sql("INSERT INTO a VALUES (1, 'before')");
$t->wait_applied;
is($t->redis->command('GET', 'a:1'), '{"id":1,"v":"before"}', 'an entry');

my $position = $t->log_position;
$node->append_conf('postgresql.conf', "mlcache.relay_enabled = off\nmlcache.slot_max_retained = 1MB");
$node->reload;
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'mlcache relay'"),
	'no relay');
$t->sql("UPDATE a SET v = 'after'");
$t->sql("CREATE TABLE filler AS SELECT repeat('x', 1000) AS x FROM generate_series(1, 3000)");
$node->reload;					# the launcher looks when it is woken
$t->wait_log(qr/replication slot "mlcache_\d+" is given up/, $position);
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_replication_slots'),
	'the slot was dropped');

$node->append_conf('postgresql.conf', "mlcache.relay_enabled = on");
$node->reload;
$t->wait_armed;
ok(!defined $t->redis->command('GET', 'a:1'), 'the stale entry was purged');
$t->sql("UPDATE a SET v = 'again'");
$t->wait_applied;
is($t->redis->command('GET', 'a:1'), '{"id":1,"v":"again"}', 'and changes arrive again');
done_testing();
