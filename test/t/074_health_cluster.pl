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

# ---------- the nodes that the url names are replaced, one by one ----------

sub seeds { return $t->sql("SELECT string_agg(severity || ' ' || finding || ' ' || subject, ', ') FROM mlcache.health()") }

sub replace
{
	my $new = $cluster->fail_over($_[0]);

	$t->wait_for('the new master', sub {
		$t->sql("SELECT state FROM mlcache.stat_nodes WHERE node = '127.0.0.1:$new->{port}'") eq 'armed' });
	$t->wait_armed;
}

$position = $t->log_position;
my @named = ($cluster->masters)[0 .. 2];
replace($named[0]);
is(seeds(), '', 'two of three nodes are left: nothing to say');
replace($named[1]);
is(seeds(), 'warning url out of date redis', 'one is left: a warning');
$t->wait_log(qr/mlcache alert: \{"alert":"url out of date","state":"begin","severity":"warning"/, $position);
replace($named[2]);
is(seeds(), 'critical url leads nowhere redis', 'none: it is critical');
$t->wait_log(qr/mlcache alert: \{"alert":"url leads nowhere","state":"begin","severity":"critical"/, $position);
my ($detail, $advised) = split /\|/, $t->sql('SELECT detail, advice FROM mlcache.health()');
my @there = sort map { "127.0.0.1:$_->{port}" } $cluster->masters;
is(join(' ', sort $detail =~ /(127\.0\.0\.1:\d+)/g), join(' ', @there), 'it tells which masters there are');
like($advised, qr/^ALTER SERVER redis OPTIONS \(SET url 'redis:\/\//, '...and what to type');
$t->sql($advised);
$t->wait_for('nothing to say', sub { seeds() eq '' });
$t->wait_log(qr/mlcache alert: \{"alert":"url leads nowhere","state":"over"/, $position);
my $old = $t->running_relay;

$t->sql("SELECT pg_terminate_backend($old)");
$t->wait_for('another relay', sub { $t->running_relay ne $old });
$t->wait_armed;
pass('a relay that begins anew finds the cluster again');
$t->stop;
done_testing();
