# The audit: seeded faults under load, all found and none invented; repair;
# Redis lost and the query cancelled in the middle.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use MlcTest;
use Test::More;
use Time::HiRes qw(usleep);

my @tables = qw(i u s w d r);
my $hot = 200;					# ids up to here are written to
my $rows = 1500;
my $t = MlcTest->new('audit', no_tables => 1, conf => <<'CONF', server => "timeout '30000'");
track_commit_timestamp = on
mlcache.l1_size = 1MB
# for thousands of keys at once
mlcache.lease_timeout = 60s
# a reload that takes longer is given up, an audit says so
mlcache.refresh_timeout = 4s
mlcache.audit_timeout = 60s
CONF

for my $table (@tables)
{
	$t->sql("CREATE TABLE $table (id int PRIMARY KEY, v int, pad text)");
}
$t->sql(<<'SQL');
CREATE TABLE fence (n int);
SELECT mlcache.attach('i', key => 'i:{id}');
SELECT mlcache.attach('u', key => 'u:{id}', action => 'update');
SELECT mlcache.attach('s', key => 's:{id}', consistency => 'strong');
SELECT mlcache.attach('w', key => 'w:{id}', action => 'update', consistency => 'weak');
SELECT mlcache.attach('d', key => 'd:{id}', action => 'refresh',
	loader => 'SELECT json_build_object(''id'', id, ''v'', v) FROM d WHERE id = $1');
SELECT mlcache.attach('r', key => 'r:{id}', action => 'replicate');
SQL
$t->wait_armed;
for my $table (@tables)
{
	$t->sql("INSERT INTO $table SELECT g, 0, repeat('x', 40) FROM generate_series(1, $rows) g");
}
$t->wait_applied;
fill();

sub fill
{
	for my $table (@tables)
	{
		$t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT '$table:' || g FROM generate_series(1, $rows) g))");
	}
}

# key => class of everything that an audit of all tables finds
sub audit
{
	my ($arguments, $settings) = @_;
	my %found;

	$arguments //= '';
	$settings = $settings ? "$settings;" : '';
	for my $table (@tables)
	{
		my ($status, $out, $err) = $t->node->psql('postgres',
			"$settings SELECT key || ' ' || class FROM mlcache.audit('$table'$arguments)");

		die "audit failed: $err" if $status != 0;
		$found{$1} = $2 while $out =~ /^(\S+) (\S+)$/mg;
		note($err);
		ok(0, "nothing of $table is left unsettled: $err") if $err =~ /could not be judged/;
	}
	return \%found;
}

# ---------- load ----------

my $script = PostgreSQL::Test::Utils::tempdir() . '/load.sql';
open my $file, '>', $script or die $!;
print $file "\\set id random(1, $hot)\n";
print $file "UPDATE $_ SET v = v + 1 WHERE id = :id;\nSELECT mlcache.get('$_:' || :id);\n" for @tables;
close $file;

my %load;

sub start_load
{
	%load = (out => '', err => '');
	$load{run} = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-j', 2, '-T', 600, '-f', $script,
			'-h', $t->node->host, '-p', $t->node->port, '-U', getpwuid($<) . '', 'postgres' ],
		'<', \undef, '>', \$load{out}, '2>', \$load{err});
}

sub written { return $t->sql('SELECT ' . join(' + ', map { "(SELECT sum(v) FROM $_)" } @tables)) }

sub let_write
{
	my ($n) = @_;
	my $goal = written() + $n;

	$t->wait_for("$n changes", sub { written() >= $goal });
}

sub stop_load
{
	$load{run}->signal('TERM');
	$load{run}->finish;
	$t->wait_for('its sessions to end',
		sub { $t->sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'") == 0 });
}

is_deeply(audit(), {}, 'without load, nothing is found');
start_load();
let_write(200);
my $before = written();
for my $n (1 .. 30)
{
	is_deeply(audit(), {}, "under load, nothing is found ($n)");
	last if $n >= 3 && written() - $before > 100;
}
cmp_ok(written() - $before, '>', 100, 'there was load');

# ---------- seeded faults ----------

my $redis = $t->redis;
my %seeded;

$t->set_relay_fault(map { "lose-$_:1234=skip" } @tables);
for my $table (@tables)
{
	my $guard = sub { return "mlc:{$table:$_[0]}" };

	$redis->command('SET', "$table:1001", "{\"id\":1001,\"v\":-1}", 'KEEPTTL');
	$redis->command('SET', "$table:1002", "\x00\xff garbage", 'KEEPTTL');
	$redis->command('DEL', $guard->(1003));
	$redis->command('SET', $guard->(1004), 'garbage');
	$redis->command('COPY', "$table:1005", "$table:9999");
	$redis->command('COPY', $guard->(1005), $guard->(9999));
	$redis->command('COPY', "$table:1005", "$table:1006", 'REPLACE');
	$t->sql("UPDATE $table SET v = v + 1 WHERE id = 1234");
	%seeded = (%seeded, "$table:1001" => 'stale', "$table:1002" => 'corrupt',
		"$table:1003" => 'unguarded', "$table:1004" => 'unguarded',
		"$table:9999" => 'orphan', "$table:1006" => 'stale', "$table:1234" => 'stale');
}
$t->wait_applied;
$t->clear_fault;

# strong rules need no event: the quarantine has removed the entry
delete $seeded{'s:1234'};
is_deeply(audit(), \%seeded, 'under load, every seeded fault is found, and nothing else');
is_deeply(audit(", 0.5"), { map { $_ => $seeded{$_} } keys %{ audit(', 0.5') } },
	'a sample finds a part of them');
my ($n, $all) = (scalar keys %{ audit(', 0.5') }, scalar keys %seeded);
ok($n > 0 && $n < $all, "$n of $all");

# the version that was lost lies between what is cached and what the row is
my $lost = $t->sql(<<'SQL');
SELECT cached_version < row_version, age < '1 hour' AND age > '0', detail ~ 'Transaction [0-9]+ wrote the row and committed at',
	detail ~ ('Transaction ' || (SELECT xmin FROM u WHERE id = 1234) || ' wrote')
FROM mlcache.audit('u') WHERE key = 'u:1234' AND server <> 'L1'
SQL
is($lost, 't|t|t|t', 'the version that was lost is told');

# without waiting for the relay there are false alarms, which are seen
{
	my $waiting;

	$t->set_relay_fault('relay-before-applying=wait');
	$waiting = $t->hold('relay-before-applying');
	$t->sql('UPDATE u SET v = v + 1 WHERE id = 1301');
	$t->wait_held('relay-before-applying');
	is(audit('', "SET mlcache.fault_points = 'audit-wait=skip'")->{'u:1301'}, 'stale',
		'without the wait, something is invented');
	$t->clear_fault;
	$waiting->quit;
}

# A key that was wrong, then set anew, and changed again between the second
# reading of the entry and that of the row.
sub changing_key
{
	my ($faults) = @_;
	my ($first, $second) = map { $t->hold($_) } qw(audit-before-recheck audit-before-rows);
	my $session = $t->node->background_psql('postgres');
	my $found;

	$redis->command('SET', 'u:1300', '{}', 'KEEPTTL');
	$session->query_safe("SET mlcache.fault_points = 'audit-before-recheck=wait,audit-before-rows=wait$faults'");
	$session->{stdin} .= "SELECT key || ' ' || class FROM mlcache.audit('u') WHERE key = 'u:1300';\n\\echo over\n";
	$session->{run}->pump_nb;
	$t->wait_held('audit-before-recheck');
	$t->sql('UPDATE u SET v = v + 1 WHERE id = 1300');
	$t->wait_applied;
	$first->quit;
	$t->wait_held('audit-before-rows');
	$t->sql('UPDATE u SET v = v + 1 WHERE id = 1300');
	$second->quit;
	$t->wait_for('the audit', sub { $session->{run}->pump_nb; $session->{stdout} =~ /over/ });
	$found = $session->{stdout} =~ /u:1300 stale/;
	$session->quit;
	return $found ? 1 : 0;
}

is(changing_key(''), 0, 'a key that changes meanwhile is not reported');
is(changing_key(',audit-same-entry=skip'), 1, 'unless it is not asked whether the entry is the same');

# ---------- Redis lost in the middle ----------

my $holder = $t->hold('audit-before-copies');
my $session = $t->node->background_psql('postgres', on_error_stop => 0);
$session->query_safe("SET mlcache.fault_points = 'audit-before-copies=wait'");
$session->{stdin} .= "\\set VERBOSITY verbose\nSELECT count(*) FROM mlcache.audit('u', repair => true);\n\\echo over\n";
$session->{run}->pump_nb;
$t->wait_held('audit-before-copies');
is($t->sql("SELECT activity, object, done >= 0, total > 0 FROM mlcache.stat_progress WHERE activity = 'audit' AND state = 'running'"),
	'audit|u|t|t', 'its progress is seen');

# ---------- and cancelled ----------

stop_load();
$t->sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ 'mlcache.audit' AND pid <> pg_backend_pid()");
$t->wait_for('the cancel', sub { $session->{run}->pump_nb; $session->{stdout} =~ /over/ });
like($session->{stderr}, qr/57014/, 'it is cancelled at once');
is($t->sql("SELECT string_agg(state, ',') FROM mlcache.stat_progress WHERE activity = 'audit'"), 'failed', 'and the view says so');
$session->{stderr} = $session->{stdout} = '';
$session->{stdin} .= "SET mlcache.audit_timeout = 200;\nSELECT count(*) FROM mlcache.audit('u', repair => true);\n\\echo over\n";
$session->{run}->pump_nb;
$t->wait_held('audit-before-copies');
my $position = $t->log_position;
$redis->kill9;
$holder->quit;
$t->wait_for('the error', sub { $session->{run}->pump_nb; $session->{stdout} =~ /over/ });
like($session->{stderr}, qr/08\w{3}: could not read from Redis server "redis"/, 'Redis lost in the middle is an error');
like($session->{stderr}, qr/keys had been compared/, 'that tells how far it came');
$session->quit;
$redis->start;
$t->wait_log(qr/server "redis" is armed/, $position);

# ---------- repair ----------

fill();
$t->sql("UPDATE r SET v = v + 1");
$t->wait_applied;
is_deeply(audit(), {}, 'after Redis came back empty and was filled, nothing is found');
for my $table (@tables)
{
	$redis->command('SET', "$table:1001", "{\"id\":1001,\"v\":-1}", 'KEEPTTL');
	$redis->command('DEL', "mlc:{$table:1003}");
	$redis->command('COPY', "$table:1005", "$table:9999");
	$redis->command('COPY', "mlc:{$table:1005}", "mlc:{$table:9999}");
}
$redis->command('DEL', 'r:1007', 'mlc:{r:1007}');
start_load();
let_write(100);
is(scalar keys %{ audit(', repair => true') }, 3 * @tables + 1, 'repairs are reported');
$t->wait_applied;
$t->wait_for('refreshed', sub { $redis->command('EXISTS', 'r:1001', 'r:1003', 'r:1007') == 3 });
is_deeply(audit(), {}, 'and nothing is found afterwards');
is($redis->command('EXISTS', map { ("$_:9999", "$_:1003") } grep { $_ ne 'd' && $_ ne 'r' } @tables), 0, 'bad copies are gone');
stop_load();

# a stale line of L1, whether or not Redis has the key
$t->wait_applied;				# changes of weak rules, too
for my $table (qw(u i))
{
	$t->sql("SELECT mlcache.get('$table:1400')");
	$t->set_relay_fault('l1-close=skip');
	$t->sql("UPDATE $table SET v = v + 1 WHERE id = 1400");
	$t->wait_applied;
	$t->set_relay_fault();
	is($t->sql("SELECT key, class, server FROM mlcache.audit('$table', repair => true)"), "$table:1400|stale|L1",
		"a stale line of L1 is found ($table)");
	$t->wait_applied;
}
is_deeply(audit(), {}, 'and repaired');

# a relay that does not get on leaves differences unsettled, and says so
$t->sql("SELECT mlcache.pause('redis')");
$t->wait_state('paused');
$t->sql('UPDATE u SET v = v + 1 WHERE id BETWEEN 1100 AND 1110');
my (undef, $out, $err) = $t->node->psql('postgres', "SET mlcache.audit_timeout = 100; SELECT key FROM mlcache.audit('u')");
is($out, '', 'while the server is paused, nothing is a violation');
like($err, qr/11 keys differ and could not be judged/, 'but a warning tells');
$t->sql("SELECT mlcache.resume('redis')");
$t->wait_armed;
is_deeply(audit(), {}, 'once it has caught up, nothing is found');

$t->stop;
done_testing();
