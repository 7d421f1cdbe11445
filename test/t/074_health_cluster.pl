# health() and alerts with a Redis Cluster: one server, several masters.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('health_cluster', no_tables => 1, cluster => {},
	conf => "mlcache.alert_hit_ratio = 0\nmlcache.alert_pause = 0");
my $cluster = $t->redis;

sub health { return $t->sql("SELECT string_agg(finding || ': ' || subject, ', ' ORDER BY finding) FROM mlcache.health()") }

$t->set_conf("mlcache.fault_points = 'monitor-second=skip'");
$t->sql(<<'SQL');
CREATE TABLE p (id int PRIMARY KEY, name text);
SELECT mlcache.attach('p', key => 'p:{id}');
SQL
$t->wait_armed;
$t->wait_for('looks', sub { $t->sql('SELECT count(*) > 10 FROM mlcache.stat_history') eq 't' });
is(health(), '', 'nothing to say while all is well');
is($t->sql('SELECT max(down) <= 1 FROM mlcache.stat_history'), 't', 'it counts as one server');

# one master has the wrong policy, and one little memory
my ($first, $second) = $cluster->masters;
my ($a, $b) = map { "127.0.0.1:$_->{port}" } $first, $second;
$first->command('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru');
$second->command('CONFIG', 'SET', 'maxmemory', int($second->info('memory', 'used_memory') * 1.1));
is(health(), join(', ', sort "unsafe eviction policy: redis ($a)", "Redis memory: redis ($b)"),
	'each master is looked at, and named') or note(health());
my $advice = $t->sql("SELECT advice FROM mlcache.health() WHERE finding = 'unsafe eviction policy'");
like($advice, qr/^redis-cli -h 127\.0\.0\.1 -p $first->{port} CONFIG SET/, 'what to type names it, too');
is(system("$advice >/dev/null"), 0, '...and can be typed');
$second->command('CONFIG', 'SET', 'maxmemory', 0);
is(health(), '', '...which helps');

# a master that hangs
my $position = $t->log_position;
$second->freeze;
$t->wait_log(qr/mlcache alert: \{"alert":"server down","state":"begin"/, $position);
like(health(), qr/^server down: redis\b/, 'a master that hangs: the server is down');
$second->thaw;
$t->wait_log(qr/mlcache alert: \{"alert":"server down","state":"over"/, $position);
$t->wait_armed;
is($t->count_log(qr/mlcache alert: \{"alert":"server down","state":"begin"/, $position),
	$t->count_log(qr/mlcache alert: \{"alert":"server down","state":"over"/, $position),
	'what began is over');
$t->stop;
done_testing();
