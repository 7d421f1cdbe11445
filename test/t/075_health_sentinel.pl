# health() with Redis Sentinel: it looks at the master, and says where that is.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcRedis;
use MlcSentinel;
use MlcTest;
use Test::More;

my $set = MlcSentinel->new('health')->start(2);
my $t = MlcTest->new('health_sentinel', no_tables => 1, sentinel => $set);
my ($master) = $set->master;

$t->sql(<<'SQL');
CREATE TABLE p (id int PRIMARY KEY);
SELECT mlcache.attach('p', key => 'p:{id}');
SQL
$t->wait_armed;
is($t->sql('SELECT count(*) FROM mlcache.health()'), '0', 'nothing to say while all is well');
$master->command('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru');
my $advice = $t->sql("SELECT advice FROM mlcache.health() WHERE finding = 'unsafe eviction policy' AND subject = 'redis'");
is($advice, "redis-cli -h 127.0.0.1 -p $master->{port} CONFIG SET maxmemory-policy volatile-lru",
	'what to type names the master');
is(system("$advice >/dev/null"), 0, '...and can be typed');
is($t->sql('SELECT count(*) FROM mlcache.health()'), '0', '...which helps');

# nobody tells where it is
$_->kill9 for $set->sentinels, $set->servers;
$t->wait_for('the finding', sub { $t->sql("SELECT count(*) FROM mlcache.health() WHERE finding = 'server down'") == 1 });
like($t->sql("SELECT advice FROM mlcache.health() WHERE finding = 'server down'"),
	qr/^redis-cli -h 127\.0\.0\.1 -p \d+ SENTINEL MASTER mymaster$/, 'a server that is down: ask Sentinel');
$t->node->stop;
done_testing();
