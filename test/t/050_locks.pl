# Locks of sessions and programs outside: renewal, loss, release however a
# session ends, deadlocks, tokens over restarts, crashes and promotion.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use MlcRedis;
use MlcTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $t = MlcTest->new('locks', no_tables => 1, conf => "mlcache.relay_enabled = off");
my $node = $t->node;
my $ns = $t->sql('SELECT mlcache.lock_namespace()');
my @tokens;

# What Redis says to a program outside.
sub outside { return $t->redis->command('FCALL', shift, 0, $ns, @_) }
sub take { return outside('mlc_lock', @_)->[0] }
sub holders { return $t->sql_patiently("SELECT count(*) FROM mlcache.lock_holders('$_[0]')") }

# A session with a lock of its own.
sub session
{
	my ($sql) = @_;
	my $session = $node->background_psql('postgres', on_error_die => 1);

	$session->query_safe($sql) if $sql;
	return $session;
}

# A session that runs one statement; finish() gives its output and errors.
sub start
{
	my ($sql) = @_;
	my %run = (out => '', err => '');

	$run{handle} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres'), '-c', $sql ],
		'>', \$run{out}, '2>', \$run{err}, IPC::Run::timeout(90));
	return \%run;
}
sub finish { my ($run) = @_; $run->{handle}->finish; return $run->{out} . $run->{err} }
sub wait_waiting
{
	my ($n, $what) = @_;

	$t->wait_for("$n waiting",
		sub { $t->redis->command('HLEN', "mlc:waits:$ns") >= $n });
}

# ---------- renewal ----------

# Those of some locks that a program outside can take within more than a ttl, of
# 6 s: a keeper that gets no processor for two thirds of it loses them rightly.
sub taken
{
	my (@names) = @_;
	my $until = time() + 6.5;
	my %taken;

	while (time() < $until)
	{
		take($_, 'outside', 'X', 1000, 0) eq 'busy' or $taken{$_} = 1 for @names;
		usleep(20_000);
	}
	return join ' ', sort keys %taken;
}

# a backend that is stopped has its lock all the same
my $holder = session("SELECT mlcache.lock_acquire('r', ttl => '6 s')");
my $stopped = session("SELECT mlcache.lock_acquire('stopped', ttl => '6 s')");
my $pid = $t->sql("SELECT pid FROM mlcache.locks WHERE name = 'stopped'");
kill 'STOP', $pid;
is(taken('r', 'stopped'), '', 'a lock is renewed while its session lives, also while its backend is stopped');
kill 'CONT', $pid;
$stopped->quit;
$holder->query_safe("SELECT mlcache.lock_release('r')");
is(holders('r'), 0, 'released');

# without the keeper's renewal it is lost: seen, and told at the next use
$t->set_fault('keeper-renews=skip');
$holder->query_safe("SELECT mlcache.lock_acquire('r', ttl => '1 s')");
$t->wait_for('expiry', sub { take('r', 'outside', 'X', 60000, 0) eq 'ok' });
my $until_lost = "DO \$\$ BEGIN WHILE NOT EXISTS (SELECT FROM mlcache.locks WHERE name = 'w'"
  . " AND (lost OR expires < clock_timestamp())) LOOP PERFORM pg_sleep(0.05); END LOOP; END \$\$";
my $out = start("SELECT mlcache.lock_acquire('w', ttl => '1 s'); $until_lost; SELECT mlcache.lock_release('w')");
like(finish($out), qr/ML001.*lock "w" has been lost/s, 'a lost lock is told at its release');
my $guarded = "BEGIN; CREATE TABLE lost (n int); SELECT mlcache.lock_acquire_xact('w', ttl => '1 s'); $until_lost; COMMIT";
$out = start($guarded);
like(finish($out), qr/ML001.*lock "w" has been lost/s, 'and at commit');
is($t->sql("SELECT to_regclass('lost')"), '', 'which fails');
$t->set_fault('keeper-renews=skip, lock-check-at-commit=skip');
$out = start($guarded);
finish($out);
is($t->sql("SELECT to_regclass('lost')"), 'lost', 'but not without that safeguard');
$t->clear_fault;
outside('mlc_unlock', 'r', 'outside');
$holder->quit;

# the keeper dies: another one takes over in time
$holder = session("SELECT mlcache.lock_acquire('r', ttl => '6 s')");
$t->wait_for('the keeper', sub { $t->sql(
	"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'mlcache lock keeper'") == 1 });
is(taken('r'), '', 'also when the keeper dies');
$holder->quit;

# Redis forgets everything: noticed by the renewal
$holder = session("SELECT mlcache.lock_acquire('f', ttl => '600 ms')");
$t->redis->command('FLUSHALL');
$t->wait_for('the loss', sub { $t->sql("SELECT lost FROM mlcache.locks WHERE name = 'f'") eq 't' });
pass('a lock that Redis has forgotten is lost');
$holder->quit;

# Redis is away for longer than the ttl
$holder = session("SELECT mlcache.lock_acquire('g', ttl => '500 ms')");
$t->redis->freeze;
$t->wait_for('the loss',
	sub { $t->sql("SELECT lost OR expires < now() FROM mlcache.locks WHERE name = 'g'") eq 't' });
pass('so is one that could not be renewed in time');
$t->redis->thaw;
$holder->quit;

# ---------- release ----------

for my $how ('quit', 'terminate')
{
	$holder = session("SELECT mlcache.lock_acquire('e:1', ttl => '1 h')");
	is(holders('e:1'), 1, "held, $how");
	$how eq 'quit' ? $holder->quit :
	  $t->sql("SELECT pg_terminate_backend(pid) FROM mlcache.locks WHERE name = 'e:1'");
	$t->wait_for('release', sub { holders('e:1') == 0 && holders('e') == 0 });
	pass("released when its session ends, $how");
	eval { $holder->quit } if $how ne 'quit';
}
$t->sql("BEGIN; SELECT mlcache.lock_acquire_xact('e:1', ttl => '1 h'); ROLLBACK");
$t->wait_for('release', sub { holders('e:1') == 0 });
pass('released by a rollback');

# The keeper stops before it tells Redis of a release, until what this gives quits.
sub stop_keeper
{
	my $gate = $t->hold('keeper-before-redis');

	$t->wait_for('the keeper to stop', sub {
		$t->sql("BEGIN; SELECT mlcache.lock_acquire_xact('k', ttl => '1 h'); COMMIT");
		return $t->is_held('keeper-before-redis');
	});
	return $gate;
}

# the next session need not wait for the keeper, and keeps its lock from it
$t->set_fault('keeper-before-redis=wait');
my $gate = stop_keeper();
$holder = session();
$holder->query_safe("BEGIN; SELECT mlcache.lock_acquire_xact('k', ttl => '1 h'); COMMIT");
my $began = time();
$holder->query_safe("SELECT mlcache.lock_acquire('k', ttl => '1 h', wait => '20 s')");
cmp_ok(time() - $began, '<', 10, 'sessions do not wait for the keeper, nor for each other');
$gate->quit;
$t->wait_for('the keeper', sub { $t->redis->command('HLEN', "mlc:lock:$ns|k") == 1
	  && $t->sql("SELECT count(*) FROM mlcache.locks") == 1 });
usleep(300_000);
is(take('k', 'outside', 'X', 1000, 0), 'busy', 'and its late release does no harm');
$holder->quit;

# it dies before it has told Redis, and nobody holds anything: another one does
$gate = stop_keeper();
$t->clear_fault;
$t->sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'mlcache lock keeper'");
$t->wait_for('release', sub { holders('k') == 0 });
pass('what a keeper has not told Redis before it dies another one does');
$gate->quit;

# a wait can be cancelled, and leaves nothing behind
take('q', 'outside', 'X', 60000, 0);
$out = start("SET statement_timeout = '300 ms'; SELECT mlcache.lock_acquire('q', wait => '60 s')");
like(finish($out), qr/57014/, 'a wait for a program outside is cancelled');
$t->wait_for('no waiter', sub { $t->redis->command('HLEN', "mlc:waits:$ns") == 0 });
$holder = session("SELECT mlcache.lock_acquire('q2')");
$out = start("SET statement_timeout = '300 ms'; SELECT mlcache.lock_acquire('q3'); "
	  . "SELECT mlcache.lock_acquire('q2', wait => '60 s')");
like(finish($out), qr/57014/, 'so is one for a session');
is($t->sql("SELECT mlcache.lock_acquire('q2', wait => '200 ms') IS NULL"), 't', 'which may end without it, too');
$holder->quit;
outside('mlc_unlock', 'q', 'outside');
$t->wait_for('release', sub { $t->redis->command('HLEN', "mlc:waits:$ns") == 0 && holders('q3') == 0
	  && $t->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'userlock'") == 0 });
pass('and nothing is left');

# a lock that was over before its token was drawn is not given
$t->set_fault('lock-before-token=wait');
$gate = $t->hold('lock-before-token');
$out = start("SELECT mlcache.lock_acquire('late', ttl => '300 ms')");
$t->wait_held('lock-before-token');
$t->wait_for('its end', sub { take('late', 'outside', 'X', 10, 0) eq 'ok' });
$gate->quit;
like(finish($out), qr/ML001/, 'a lock that ended before its token was drawn is not given');
$t->clear_fault;

# killed: the server restarts, Redis forgets by the ttl
push @tokens, $t->sql("SELECT mlcache.lock_token()");
$holder = session("SELECT mlcache.lock_acquire('c', ttl => '2 s')");
$pid = $t->sql("SELECT pid FROM mlcache.locks WHERE name = 'c'");
my $position = $t->log_position;
kill 'KILL', $pid;
eval { $holder->quit };
$t->wait_log(qr/all server processes terminated; reinitializing/, $position);
$t->sql_patiently('SELECT 1');
$t->wait_for('expiry', sub { take('c', 'outside', 'X', 100, 0) eq 'ok' });
pass('a killed session\'s lock ends with its ttl');

# ---------- deadlocks ----------

# of two inside
my $b = $node->background_psql('postgres', on_error_stop => 0);
$b->query("SELECT mlcache.lock_acquire('d2')");
my $first = start("SELECT mlcache.lock_acquire('d1'); "
	  . "SELECT 'had ' || (mlcache.lock_acquire('d2', wait => '60 s') IS NOT NULL)");
wait_waiting(1);
$out = $b->query("SELECT mlcache.lock_acquire('d1', wait => '60 s')");
is($out, '', 'one of two sessions is the victim');
$b->query("SELECT mlcache.lock_release('d2')");
like(finish($first), qr/had true/, 'the other one goes on');
$b->quit;
$t->wait_for('release', sub { holders('d1') == 0 && holders('d2') == 0 });

# the same for PostgreSQL's own detector, with the graph of Redis left out
$t->set_fault('lock-wait-graph=skip');
my @two = map {
	my ($x, $y) = @$_;
	start("SELECT mlcache.lock_acquire('$x'); DO \$\$ BEGIN WHILE NOT EXISTS (SELECT FROM mlcache.lock_holders('$y'))"
		  . " LOOP PERFORM pg_sleep(0.01); END LOOP; END \$\$; "
		  . "SELECT mlcache.lock_acquire('$y', wait => '30 s') IS NOT NULL; "
		  . "SELECT mlcache.lock_release('$x')")
} ([ 'd1', 'd2' ], [ 'd2', 'd1' ]);
my $all = join '', map { finish($_) } @two;
is(() = $all =~ /40P01/g, 1, 'PostgreSQL\'s detector finds one victim among sessions');

# Of three, one of them outside: found by the graph only.  The wait that closes
# the ring comes last, when the lock that it stops at is let go.
sub ring
{
	my ($wait) = @_;
	my $last = session('SELECT pg_advisory_lock(3)');
	my @runs;

	outside('mlc_lock', 'x', 'outside', 'X', 60000, 0);
	@runs = start("SELECT mlcache.lock_acquire('y'); DO \$\$ BEGIN WHILE NOT EXISTS (SELECT FROM mlcache.lock_holders('z'))"
		  . " LOOP PERFORM pg_sleep(0.01); END LOOP; END \$\$; SELECT mlcache.lock_acquire('z', wait => '$wait') IS NOT NULL");
	push @runs, start("SELECT mlcache.lock_acquire('z'); SELECT pg_advisory_lock(3); "
		  . "SELECT mlcache.lock_acquire('x', wait => '$wait') IS NOT NULL");
	$t->wait_for('both hold', sub { holders('y') == 1 && holders('z') == 1 });
	is(outside('mlc_lock', 'y', 'outside', 'X', 60000, 60000)->[0], 'busy', 'the program waits');
	$last->quit;
	my $all = join '', map { finish($_) } @runs;
	outside('mlc_unlock', 'x', 'outside');
	outside('mlc_lock_nowait', 'outside');
	$t->wait_for('release', sub { holders('y') == 0 && holders('z') == 0 });
	return $all;
}
unlike(ring('3 s'), qr/40P01/, 'a ring of three ends with the wait without the graph');
$t->clear_fault;
$all = ring('60 s');
is(() = $all =~ /40P01/g, 1, 'with it one of them is the victim');
like($all, qr/DETAIL:.*blocked by outside/, 'and is told the cycle');

# ---------- tokens ----------

push @tokens, $t->sql_patiently("SELECT mlcache.lock_token()");
$node->stop('immediate');
$node->start;
push @tokens, $t->sql("SELECT mlcache.lock_token()");
$t->redis->command('FLUSHALL');
push @tokens, $t->sql("SELECT mlcache.lock_acquire('n')");
$node->restart;
push @tokens, $t->sql("SELECT mlcache.lock_token()");

# a standby that lacks the last WAL is promoted
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay');
my ($status, $o, $error) = $standby->psql('postgres', "SELECT mlcache.lock_acquire('n')");
like($error, qr/no locks during recovery/, 'a standby gives none');
$standby->append_conf('postgresql.conf', "primary_conninfo = ''");
$standby->restart;
push @tokens, $t->sql("SELECT mlcache.lock_token() FROM generate_series(1, 100000) g ORDER BY 1 DESC LIMIT 1");
$node->stop('immediate');
$standby->promote;
push @tokens, $standby->safe_psql('postgres', "SELECT mlcache.lock_token()");
my $sorted = 1;
$sorted &&= $tokens[$_ - 1] < $tokens[$_] for 1 .. $#tokens;
ok($sorted, 'tokens grow over crash, restart, flush and a lossy promotion') or diag("@tokens");

done_testing();
