# Alerts: one when a condition begins, one when it ends, on the channel and in
# the log; nothing in between, and no storm.  The monitor looks ten times a
# second here.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use JSON::PP;
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $t = MlcTest->new('alerts', no_tables => 1, conf => <<'CONF');
mlcache.alert_hit_ratio = 0
mlcache.redelivery_window = '1h'
wal_keep_size = 0
CONF
my $redis = $t->redis;

$t->sql(<<'SQL');
CREATE TABLE p (id int PRIMARY KEY, name text);
CREATE TABLE fence (n int);
SELECT mlcache.attach('p', key => 'p:{id}');
INSERT INTO p VALUES (1, 'one');
SQL
$t->wait_armed;

my $file = $t->node->basedir . '/heard';
my $said = '';
my $ear = IPC::Run::start(
	[ $ENV{MLC_PYTHON} // '/usr/bin/python3', "$FindBin::RealBin/lib/listen.py",
		$t->node->connstr('postgres'), 'mlcache_alert', $file ], '>', \$said);
$ear->pump until $said =~ /listening/;
my @heard;
my $forgotten = 0;				# of them

# What has been heard, and not been forgotten: "alert state subject".
sub heard
{
	my @lines = slurp_file($file) =~ /^(.*)\n/mg;		# the last one may be half a line

	@heard = map { decode_json($_) } @lines[$forgotten .. $#lines];
	return join(', ', map { "$_->{alert} $_->{state} $_->{subject}" } @heard);
}

# Lets the monitor look so many times more.
sub looks
{
	my ($n) = @_;
	my $now = $t->sql('SELECT clock_timestamp()');

	$t->wait_for("$n looks",
		sub { $t->sql("SELECT count(*) >= $n FROM mlcache.stat_history WHERE seconds = 1 AND at > '$now'") eq 't' });
}

sub expect
{
	my ($what, @alerts) = @_;
	my $all = join(', ', @alerts);

	$t->wait_for("alerts: $all", sub { length heard() >= length $all });
	is(heard(), $all, $what);
}

# Settings, besides those of the start.
sub set
{
	$t->set_conf(join "\n", "mlcache.fault_points = 'monitor-second=skip'", @_);
	looks(3);
}

sub forget { $forgotten += @heard }

$t->wait_for('a monitor', sub {
	$t->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mlcache monitor'") == 1;
});
set("mlcache.alert_pause = '1h'");
looks(15);
is(heard(), '', 'nothing is said while all is well');

# ---- a server that is away ----
my $position = $t->log_position;
$redis->kill9;
expect('Redis killed: one alert', 'server down begin redis');
looks(15);
is(heard(), 'server down begin redis', '...and no more while it is away');
my $alert = $heard[0];
is_deeply([ sort keys %$alert ],
	[qw(advice alert at database detail severity state subject)], 'what it tells');
is("$alert->{severity} $alert->{database}", 'critical postgres', '...how bad, and where');
like($alert->{advice}, qr/^redis-cli -s \S+ PING$/, '...and what to type');
is($t->sql("SELECT severity || ' ' || subject || ' ' || finding FROM mlcache.health()"),
	'critical redis server down', 'health() says so, too');
is($t->sql("SELECT max(down) FROM mlcache.stat_history"), '1', 'the history has it');

$redis->start;
expect('Redis back: one more', 'server down begin redis', 'server down over redis');
cmp_ok($heard[1]{lasted_s}, '>', 1, '...which tells how long');
looks(15);
is(heard(), 'server down begin redis, server down over redis', '...and no more');
is($t->sql('SELECT count(*) FROM mlcache.health()'), '0', 'health() has nothing to say');
is($t->count_log(qr/mlcache alert: \{"alert":"server down","state":"(begin|over)"/, $position),
	2, 'the same lines stand in the log');
forget();

# ---- not again before the pause is over ----
$redis->kill9;
looks(15);
$redis->start;
$t->wait_armed;
looks(15);
is(heard(), '', 'within the pause nothing is said');

# ---- lag ----
set('mlcache.alert_pause = 0', "mlcache.alert_lag = '1500ms'");
my $relay = $t->running_relay;
kill 'STOP', $relay;
$t->sql("UPDATE p SET name = 'two'");
expect('relay stopped: lag', 'lag begin redis');
like($heard[0]{detail}, qr/Changes of \d+\.\d s ago are not applied/, '...and how much');
kill 'CONT', $relay;
expect('it goes on: lag is over', 'lag begin redis', 'lag over redis');
cmp_ok($t->sql('SELECT max(lag_ms) FROM mlcache.stat_history'), '>', 1500, 'the history has it');
forget();

# ---- a value about its limit does not ring again and again ----
$t->sql("SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, 20)");
set('mlcache.alert_pause = 0', 'mlcache.alert_retained = 10');
expect('WAL retained', 'retained WAL begin mlcache_' . $t->sql('SELECT oid FROM pg_database WHERE datname = current_database()'));
my $begun = heard();
my $mb = $t->sql('SELECT ceil(retained_mb)::int + 2 FROM mlcache.stat_history WHERE seconds = 1 ORDER BY at DESC LIMIT 1');
set('mlcache.alert_pause = 0', "mlcache.alert_retained = $mb");
looks(15);
is(heard(), $begun, 'a little below its limit it is not over');
is($t->sql("SELECT count(*) FROM mlcache.health()"), '0', '...though a new one would not begin there');

# ---- the monitor ends, the alert stands ----
my $monitor = $t->sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'mlcache monitor'");
kill 'TERM', $monitor;
$t->wait_for('another monitor', sub {
	$t->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mlcache monitor' AND pid <> $monitor") == 1;
});
looks(15);
is(heard(), $begun, 'a new monitor does not repeat it');
set('mlcache.alert_pause = 0', 'mlcache.alert_retained = 4096');
expect('far below, it is over', $begun, $begun =~ s/begin/over/r);
forget();

# ---- no relay: what follows from it is not said ----
set('mlcache.alert_pause = 0', 'mlcache.relay_enabled = off');
expect('no relay', 'relay down begin postgres');
like($heard[0]{advice}, qr/relay_enabled = on/, '...and what to type');
looks(15);
# while it has not come to its servers, none of them is called down
my $gate = $t->hold('relay-before-slot');
$t->set_conf("mlcache.fault_points = 'monitor-second=skip,relay-before-slot=wait'\nmlcache.alert_pause = 0");
$t->wait_held('relay-before-slot');
looks(15);
$gate->quit;
expect('a relay', 'relay down begin postgres', 'relay down over postgres');
$t->wait_armed;
looks(15);
is(heard(), 'relay down begin postgres, relay down over postgres', '...and nothing else');

# ---- it leaves with the last rule ----
$t->sql("SELECT mlcache.detach('p')");
$t->wait_for('no monitor', sub {
	$t->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mlcache monitor'") == 0;
});
ok(1, 'without rules there is no monitor');

$ear->kill_kill;
$t->stop;
done_testing();
