# health(): each finding provoked for real, seen, and gone when its cause is.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcRedis;
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $t = MlcTest->new('health', no_tables => 1, redis => [ '--enable-debug-command', 'yes' ], server => "timeout '30000'",
	conf => <<'CONF');
mlcache.l1_size = '1MB'
mlcache.redelivery_window = '1h'
mlcache.alert_retained = 0
# a checkpoint would make an end of the slot whose limit is tried out
checkpoint_timeout = 1h
CONF
my $redis = $t->redis;

# The monitor looks ten times a second here; and settings for a while.
sub set
{
	my ($faults, @settings) = @_;

	$t->set_conf(join "\n", "mlcache.fault_points = 'monitor-second=skip,$faults'", @settings);
}
set('');

# finding and subject -> [severity, detail, advice]
sub findings
{
	my %found;

	for my $line (split /\n/, $t->sql('SELECT finding, subject, severity, detail, advice FROM mlcache.health()'))
	{
		my ($finding, $subject, @rest) = split /\|/, $line;

		$found{"$finding: $subject"} = \@rest;
	}
	return \%found;
}

# Waits for a finding, and looks at its words.
sub found
{
	my ($what, $severity, $detail, $advice) = @_;
	my $found;

	$t->wait_for($what, sub { $found = findings()->{$what} });
	is($found->[0], $severity, "$what: $severity");
	like($found->[1], $detail, '...the detail');
	like($found->[2], $advice, '...and what to type');
	return $found;
}

sub gone
{
	my ($what) = @_;

	$t->wait_for("no $what", sub { !findings()->{$what} });
	ok(1, "$what: gone");
}

# The advice is typed, and helps.
sub follow
{
	my ($found) = @_;
	my ($command) = $found->[2] =~ /^(redis-cli .*)$/;

	if ($command)
	{
		is(system("$command >/dev/null"), 0, "typed: $command");
	}
	else
	{
		is($t->node->psql('postgres', $found->[2] =~ s/^\s*ALTER SYSTEM.*?;//r), 0, "typed: $found->[2]");
	}
}

is(join(' ', %{ findings() }), '', 'nothing to say where there are no rules');
$t->sql(<<'SQL');
CREATE TABLE p (id int PRIMARY KEY, name text);
CREATE TABLE fence (n int);
INSERT INTO p SELECT g, repeat('x', 500) FROM generate_series(1, 5000) g;
SELECT mlcache.attach('p', key => 'p:{id}');
SQL
$t->wait_armed;
$t->wait_for('samples', sub { $t->sql('SELECT count(*) > 3 FROM mlcache.stat_history') eq 't' });
is(join(' ', %{ findings() }), '', 'nothing to say while all is well');

# ---- what Redis says of itself ----
$redis->command('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru');
follow(found('unsafe eviction policy: redis', 'critical', qr/maxmemory-policy is allkeys-lru/,
	qr/CONFIG SET maxmemory-policy volatile-lru$/));
gone('unsafe eviction policy: redis');

my $used = $redis->info('memory', 'used_memory');
$redis->command('CONFIG', 'SET', 'maxmemory', int($used * 1.15));
follow(found('Redis memory: redis', 'warning', qr/It uses \d+ \w+ of \d+ \w+ \(maxmemory\)/,
	qr/CONFIG SET maxmemory \d+$/));
gone('Redis memory: redis');
$redis->command('CONFIG', 'SET', 'maxmemory', 0);

$redis->command('DEBUG', 'POPULATE', 40_000, 'filler', 2500);
$redis->command('EVAL', q{for i = 0, 39999 do if i % 20 ~= 0 then redis.call('DEL', 'filler:' .. i) end end}, 0);
found('Redis fragmentation: redis', 'warning', qr/It takes \d+ MB of memory for \d+ \w+ of data/,
	qr/CONFIG SET activedefrag yes$/);
$redis->command('EVAL', q{for i = 0, 39999, 20 do redis.call('DEL', 'filler:' .. i) end}, 0);
$redis->command('MEMORY', 'PURGE');
gone('Redis fragmentation: redis');

# ---- delivery ----
$t->sql("SELECT mlcache.pause('redis')");
follow(found('server paused: redis', 'warning', qr/not delivered/, qr/^SELECT mlcache\.resume\('redis'\);$/));
gone('server paused: redis');
$t->wait_armed;

my $gate = $t->hold('relay-before-arm');
$t->set_relay_fault('monitor-second=skip', 'relay-before-arm=wait');
$redis->kill9;
$t->wait_state('down');
$redis->start;
$t->wait_held('relay-before-arm');
found('server catching up: redis', 'info', qr/neither hits/, qr/stat_progress/);
$gate->quit;
set('');
gone('server catching up: redis');

# ---- the slot ----
my $slot = 'mlcache_' . $t->sql('SELECT oid FROM pg_database WHERE datname = current_database()');
my $emit = "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, 20)";
$t->sql($emit);
set('', "mlcache.slot_max_retained = '22MB'");
found("slot near its limit: $slot", 'critical', qr/It holds \d+ MB of WAL; past \d+ MB/,
	qr/^ALTER SYSTEM SET mlcache\.slot_max_retained = '44 MB'; SELECT pg_reload_conf\(\);$/);
set('', "max_slot_wal_keep_size = '1MB'");
found("slot near its limit: $slot", 'critical', qr/has lost WAL, or is about to/, qr/max_slot_wal_keep_size = -1/);
set('');
gone("slot near its limit: $slot");

set('', "mlcache.slot_max_retained = '22MB'");
$redis->kill9;
$t->sql($emit);
found('server given up: redis', 'critical', qr/purged when it returns/, qr/PING$/);
found('server down: redis', 'critical', qr/Readers read rows/, qr/PING$/);
$redis->start;
set('');
gone('server given up: redis');
gone('server down: redis');
$t->wait_armed;

# ---- locks ----
my $holder = $t->node->background_psql('postgres');
$holder->query_safe("SELECT mlcache.lock_acquire('account:1', ttl => '900 ms')");
my $position = $t->log_position;
$redis->command('FLUSHALL');
found('locks lost: locks', 'warning', qr/lost them in Redis, and do not know it yet: 1\.$/, qr/^SELECT \* FROM mlcache\.locks WHERE lost;$/);
is($t->sql('SELECT count(*) FROM mlcache.locks WHERE lost'), '1', '...which shows it');
$holder->quit;
gone('locks lost: locks');
$t->wait_for('the purge', sub { $t->purges($position) });
$t->wait_armed;

# ---- audits ----
$t->sql("SELECT mlcache.get('p:1')");
$t->redis->command('SET', 'p:1', '{"id":1,"name":"wrong"}', 'KEEPTTL');
is($t->sql("SELECT key, class FROM mlcache.audit('p')"), 'p:1|stale', 'a copy is wrong');
follow(found('violations: copies', 'critical', qr/^Of \d+ cached copies compared within the last hour, wrong: 1\./,
	qr/^SELECT a\.\* FROM .*audit\(r\.relation, repair => true\) a;$/));
my $alert = qr/mlcache alert: \{"alert":"violations","state":"begin"/;
$t->wait_for('the alert', sub { $t->count_log($alert) });
$t->wait_applied;
is($t->sql("SELECT count(*) FROM mlcache.audit('p')"), '0', '...and is no more');
$t->sql('SELECT mlcache.reset_stats()');
gone('violations: copies');
is($t->count_log($alert), 1, '...of which there was one alert');

# ---- rules and L1 ----
$t->sql(<<'SQL');
CREATE TABLE cold (id int PRIMARY KEY);
CREATE TABLE busy (id int PRIMARY KEY, n int);
INSERT INTO cold SELECT generate_series(1, 1000);
INSERT INTO busy SELECT g, 0 FROM generate_series(1, 10000) g;
SELECT mlcache.attach('cold', key => 'cold:{id}');
SELECT mlcache.attach('busy', key => 'busy:{id}');
SQL
$t->wait_applied;
$t->sql('SELECT mlcache.reset_stats()');
$t->sql("SELECT count(mlcache.get('cold:' || g)) FROM generate_series(1, 999) g");
is(findings()->{'rule never hit: cold:{id}'}, undefined(), 'too few reads to tell');
$t->sql("SELECT mlcache.get('cold:1000')");
found('rule never hit: cold:{id}', 'warning', qr/None of 1000 reads/,
	qr/^SELECT mlcache\.detach\('public\.cold', 'cold:\{id\}'\);$/);
$t->sql("SELECT count(mlcache.get('cold:' || g)) FROM generate_series(1, 1000) g");
found('hit ratio: cold:{id}', 'warning', qr/Of 2000 keys read, 50\.0 % were cached/, qr/stat_rules WHERE id = \d+;$/);
$t->sql("SELECT count(mlcache.get('cold:1')) FROM generate_series(1, 10000) g");
gone('hit ratio: cold:{id}');

$t->sql("SELECT count(mlcache.get('free:' || g)) FROM generate_series(1, 1000) g");
is(findings()->{'hit ratio: free keys'}, undefined(), 'a free key may well not be there');
$t->sql("SELECT count(mlcache.fetch('f' || g, 'SELECT 1')) FROM generate_series(1, 1000) g");
found('hit ratio: fetch', 'warning', qr/Of 1000 results fetched, 0\.0 % were cached .* removed 0 copies/, qr/stat_rules WHERE id = -1;$/);
$t->sql("SELECT count(mlcache.fetch('f1', 'SELECT 1')) FROM generate_series(1, 10000) g");
gone('hit ratio: fetch');

$t->sql('UPDATE busy SET n = 1');
found('rule never read: busy:{id}', 'info', qr/^10000 changes were delivered, and nothing was read/,
	qr/^SELECT mlcache\.detach\('public\.busy', 'busy:\{id\}'\);$/);
$t->sql("SELECT mlcache.get('busy:1')");
gone('rule never read: busy:{id}');

# more than L1 holds, again and again
my $small;
$t->wait_for('L1 too small', sub {
	$t->sql("SELECT count(mlcache.get('p:' || g)) FROM generate_series(1, 5000) g");
	$small = findings()->{'L1 too small: L1'};
});
is($small->[0], 'warning', 'L1 too small');
like($small->[1], qr/A line lives about [\d.]+ s: it holds \d+ lines, and evicts \d+ a second\. Values take \d+ % of it\./,
	'...the detail');
like($small->[2], qr/^ALTER SYSTEM SET mlcache\.l1_size = '4 MB';/, '...and what to type');
gone('L1 too small: L1');

# the last seconds, not what was long ago
$t->wait_for('enough samples', sub { $t->sql('SELECT count(*) >= 60 FROM mlcache.stat_history WHERE seconds = 1') eq 't' });
$t->sql("DELETE FROM p WHERE id > 3000");
$t->wait_applied;
$t->sql("SELECT count(mlcache.get('p:' || g)) FROM generate_series(3001, 5000) g");
found('hit ratio: reads', 'warning', qr/Of \d+ keys read within \d+ s, [\d.]+ % were cached/, qr/ORDER BY misses DESC;$/);
gone('hit ratio: reads');

# ---- the clock ----
{
	my $dir = $t->node->basedir;
	my $clock = MlcRedis->new('health-clock');
	my $set = sub {
		append_to_file("$dir/clock.new", $_[0]);
		rename "$dir/clock.new", "$dir/clock" or die $!;
	};

	system_or_bail($ENV{CC} // 'cc', '-shared', '-fPIC', '-O1', '-o', "$dir/clock.so",
		"$FindBin::RealBin/lib/clock.c");
	# how far it is from ours does not matter
	$set->('3600');
	{
		local $ENV{LD_PRELOAD} = "$dir/clock.so";
		local $ENV{MLC_CLOCK} = "$dir/clock";
		$clock->start;
	}
	my $url = $clock->url;
	$t->sql("CREATE SERVER clock FOREIGN DATA WRAPPER mlcache OPTIONS (url '$url')");
	$t->wait_armed('clock');
	my $now = $t->sql('SELECT clock_timestamp()');
	$t->wait_for('looks at it', sub {
		$t->sql("SELECT count(*) > 12 FROM mlcache.stat_history WHERE at > '$now'") eq 't' });
	is(findings()->{'clock jumped: clock'}, undefined(), 'a clock that is an hour ahead is none of our business');
	$set->('3605');
	found('clock jumped: clock', 'warning', qr/its clock moved by \+(?:4\.[5-9]|5\.[0-5]) s against this server's: leases and ttls ended early/,
		qr/^timedatectl timesync-status$/);
}

# ---- who may ask ----
is($t->node->psql('postgres', 'CREATE ROLE nobody; SET ROLE nobody; SELECT * FROM mlcache.health()'), 3,
	'not everybody may ask');
like($t->sql('CREATE ROLE watcher IN ROLE pg_monitor; SET ROLE watcher; SELECT count(*) FROM mlcache.health()'), qr/^\d+$/,
	'pg_monitor may');

$t->stop;
done_testing();

sub undefined { return undef }
