# Redis is lost in the middle of an audit: one that comes back is waited for, and
# the audit goes on where it was; one that stays away is an error that tells how
# far it came and what it had found, and repairs nothing.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $cold = 2000;
my $rows = $cold + 60;
my $t = MlcTest->new('audit_lost', cold => $cold,
	# no changed row may get to where the audit begins
	conf => "mlcache.audit_timeout = 60s\nmlcache.lease_timeout = 60s\nautovacuum = off",
	redis => [ '--appendonly', 'yes', '--appendfsync', 'always' ]);
my $redis = $t->redis;

# An audit that stops before each batch of copies: see step().
sub begin_audit
{
	my ($table, %opt) = @_;
	my $point = $opt{point} // 'audit-before-copies';
	my $audit = { point => $point, holder => $t->hold($point) };
	my $session = $audit->{session} = $t->node->background_psql('postgres', on_error_stop => 0);

	$session->query_safe("SET mlcache.audit_timeout = '$opt{timeout}'") if $opt{timeout};
	$session->query_safe("SET mlcache.fault_points = '$point=wait" . ($opt{faults} // '') . "'");
	$session->{stdin} .= "\\set VERBOSITY verbose\n"
	  . ($opt{query} // "SELECT key || ' ' || class FROM mlcache.audit('$table'" . ($opt{arguments} // '') . ")")
	  . ";\n\\echo over\n";
	$session->{run}->pump_nb;
	$t->wait_held($point);
	return $audit;
}

# One batch: who waits for the lock comes before the next one who holds it.
sub step
{
	my ($audit) = @_;
	my $next = $t->node->background_psql('postgres');
	my $waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";

	$next->{stdin} .= "SELECT pg_advisory_lock(classid, objid) FROM mlcache.fault_lock('$audit->{point}');\n\\echo held\n";
	$next->{run}->pump_nb;
	$t->wait_for('the next holder', sub { $t->sql($waiting) == 2 });
	$audit->{holder}->quit;
	$audit->{holder} = $next;
	$t->wait_for('its turn', sub { $next->{run}->pump_nb; $next->{stdout} =~ /held/ });
	$t->wait_held($audit->{point});
}

sub progress
{
	return $t->sql("SELECT $_[0] FROM mlcache.stat_progress WHERE activity = 'audit' AND state = '$_[1]' " . ($_[1] eq 'failed' ? ' ORDER BY ended DESC LIMIT 1' : '') . "");
}

# Until it has met all rows, and what it found there.
sub step_to_scan
{
	step($_[0]) while progress("done <= $rows", 'running') eq 't';
}

sub finish
{
	my ($audit) = @_;
	my $session = $audit->{session};

	$t->wait_for('the audit', sub { $session->{run}->pump_nb; $session->{stdout} =~ /^over$/m });
	$audit->{err} = $session->{stderr};
	$audit->{found} = join ', ', sort $session->{stdout} =~ /^([a-z]:\d+ \w+)$/mg;
	$session->quit;
	return $audit;
}

sub go_on
{
	$_[0]->{holder}->quit;
	return finish($_[0]);
}

sub lose_redis
{
	$redis->kill9;
	$redis->start;
}

sub seed
{
	$redis->command('SET', 'u:1001', '{"id":1001,"v":-1}', 'KEEPTTL');
	$redis->command('DEL', 'mlc:{u:1002}');
	$redis->command('SET', 'u:2990', 'garbage', 'KEEPTTL');
}
my $seeded = 'u:1001 stale, u:1002 unguarded, u:2990 corrupt';

$t->wait_applied;
$t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT 'u:' || id FROM u))");
seed();

# ---------- it comes back ----------

my $audit = begin_audit('u');
step($audit);
lose_redis();
go_on($audit);
is($audit->{found}, $seeded, 'lost while rows are walked over: everything is found, and once');
unlike($audit->{err}, qr/ERROR|could not be judged/, 'no error');

$audit = begin_audit('u');
step_to_scan($audit);
step($audit);
$redis->kill9;
$t->sql('UPDATE u SET n = n + 1 WHERE id BETWEEN 1100 AND 1200');
$redis->start;
go_on($audit);
is($audit->{found}, $seeded, 'lost while Redis is scanned, and rows change meanwhile: likewise');
unlike($audit->{err}, qr/ERROR|could not be judged/, 'no error');
is(progress('true', 'failed'), '', 'nothing is called failed');

$audit = begin_audit('u', point => 'audit-before-recheck');
lose_redis();
go_on($audit);
is($audit->{found}, $seeded, 'lost before differences are looked at again: likewise');

# A Redis comes back that lacks a change, before the relay has noticed: what
# shared memory says of it is not true.
sub comes_back_older
{
	my ($faults) = @_;
	my ($file) = glob("$redis->{dir}/appendonlydir/*.incr.aof");
	my ($size, $audit, $pid);

	$t->wait_applied;
	$size = -s $file;
	$t->sql('UPDATE u SET n = n + 1 WHERE id = 2500');
	$t->wait_applied;
	$audit = begin_audit('u', faults => $faults, timeout => '20s');
	$pid = $t->running_relay;
	kill 'STOP', $pid or die $!;
	$redis->kill9;
	truncate $file, $size or die $!;
	$redis->start;
	$audit->{holder}->quit;
	if ($faults)
	{
		finish($audit);
		kill 'CONT', $pid;
	}
	else
	{
		$t->wait_for('the audit to wait for Redis', sub {
				$t->sql("SELECT count(*) FROM pg_stat_activity WHERE query ~ 'mlcache.audit' AND wait_event = 'Extension'") == 1;
			});
		kill 'CONT', $pid;
		finish($audit);
	}
	$t->wait_armed;
	$t->wait_applied;
	note($audit->{err});
	return $audit->{found};
}

is(comes_back_older(''), $seeded, 'a Redis that has lost a change is read once it is armed');
my $false = '';
for (1 .. 5)
{
	$false = comes_back_older(',audit-armed=skip');
	last if $false =~ /u:2500/;
}
like($false, qr/u:2500 stale/, 'unless it is not asked whether it is');

# ---------- it stays away ----------

$audit = begin_audit('u', arguments => ', repair => true', timeout => '3s');
step_to_scan($audit);
step($audit);
$redis->kill9;
go_on($audit);
like($audit->{err}, qr/ERROR:  08\w{3}: could not read from Redis server "redis"/, 'a Redis that stays away is an error');
like($audit->{err}, qr/did not serve again within 3000 ms; [1-9]\d* keys had been compared/, 'that tells how far it came');
like($audit->{err}, qr/CONTEXT:  audit of "u", not finished: [1-9]\d* cached keys compared: .*1 stale, 1 corrupt/, 'what it had counted');
like($audit->{err}, qr/^u:1001 is stale on server redis$/m, 'and found');
is(progress("object, done >= $rows, done < total, ended > now() - interval '1 hour'", 'failed'),
	'u|t|t|t', 'how far it came can be seen afterwards');
is(progress('true', 'running'), '', 'and that it is over');
$redis->start;
$t->wait_armed;
$audit = go_on(begin_audit('u'));
is($audit->{found}, $seeded, 'nothing was repaired');

# in a savepoint the transaction goes on, without a part of the repair
my $log = $t->log_position;
$audit = begin_audit('u', timeout => '3s', query => <<'SQL');
DO $$
BEGIN
	BEGIN
		PERFORM FROM mlcache.audit('u', repair => true);
	EXCEPTION WHEN connection_exception THEN
		RAISE WARNING 'failed: %', (SELECT string_agg(state, ',') FROM mlcache.stat_get_progress() WHERE pid = pg_backend_pid());
	END;
	INSERT INTO fence VALUES (2);
END
$$
SQL
step_to_scan($audit);
$redis->kill9;
go_on($audit);
like($audit->{err}, qr/WARNING:  01000: failed: failed/, 'within a savepoint: the call has failed');
is($t->sql('SELECT count(*) FROM fence WHERE n = 2'), 1, 'and the transaction goes on');
$redis->start;
$t->wait_armed;
$audit = go_on(begin_audit('u'));
is($audit->{found}, $seeded, 'nothing was repaired');

# ---------- cancelled while it waits ----------

$audit = begin_audit('u');
$redis->kill9;
$audit->{holder}->quit;
my $pid = $t->sql("SELECT pid FROM pg_stat_activity WHERE query ~ 'mlcache.audit' AND pid <> pg_backend_pid()");
$t->wait_for('the audit to wait for Redis', sub {
		$t->sql("SELECT wait_event = 'Extension' FROM pg_stat_activity WHERE pid = $pid") eq 't';
	});
$t->sql("SELECT pg_cancel_backend($pid)");
finish($audit);
like($audit->{err}, qr/57014/, 'an audit that waits for Redis can be cancelled');
$redis->start;
$t->wait_armed;

# ---------- repaired, and under load ----------

$t->sql("SELECT count(*) FROM mlcache.audit('u', repair => true)");
$t->wait_applied;
$t->start_load;
for my $round (1 .. 3)
{
	$t->let_write(200);
	$audit = begin_audit('u');
	$round % 2 ? step_to_scan($audit) : step($audit);
	$redis->kill9;
	$t->let_write(50);
	$redis->start;
	go_on($audit);
	is($audit->{found}, '', "under load, with Redis killed, nothing is invented ($round)");
	unlike($audit->{err}, qr/ERROR/, 'and the audit comes to its end');
}
$t->finish_load('Redis killed during audits');

$t->stop;
done_testing();
