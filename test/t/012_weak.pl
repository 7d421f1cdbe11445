# Weak rules: changes of a key within the window become one, and somebody who
# waits for them gets them at once.  Waiting in general, and commits that
# nobody has flushed.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;
use Time::HiRes qw(time);

my $t = MlcTest->new('weak', cold => 100, conf => "mlcache.weak_window = 900ms\n");

sub updated { return $t->stat('updated') }

# ---------- coalescing ----------

$t->wait_applied;
$t->fill_key('w:1001');
my $before = updated();
for (1 .. 40)
{
	$t->sql('UPDATE w SET n = n + 1 WHERE id = 1001; ' x 5);
}
$t->wait_applied;
is($t->look_up('w:1001'), $t->row('w:1001'), 'weak: fresh in the end');
cmp_ok(updated() - $before, '<=', 40, 'weak: 200 changes became a few');
cmp_ok(updated() - $before, '>=', 1, 'weak: but one at least');

# the same on an eventual rule, one by one
$t->fill_key('u:1001');
$before = updated();
for (1 .. 10)
{
	my $version = $t->sql(
		'UPDATE u SET n = n + 1 WHERE id = 1001; SELECT mlcache.last_commit_version()');
	is($t->sql("SELECT mlcache.wait_applied('$version')"), 't', 'eventual: applied');
	is($t->look_up('u:1001'), $t->row('u:1001'), 'eventual: fresh once applied');
}
is(updated() - $before, 10, 'eventual: each of 10 changes arrived');

# The lag is that of the oldest change of a batch, however young the last is.
$before = $t->stat('batches');
$t->wait_for('a batch of weak changes', sub {
	$t->sql('UPDATE w SET n = n + 1 WHERE id = 1001');
	return $t->stat('batches') > $before;
});
cmp_ok($t->stat('lag_ms'), '>=', 900, 'weak: lag_ms says how long the first change waited');

# ---------- hurry ----------

# Held back in its window; a waiter shortens that, in one run of several.
my $shortest = 1e9;
for (1 .. 5)
{
	my $began = time();
	my $version = $t->sql(
		'UPDATE w SET n = n + 1 WHERE id = 1001; SELECT mlcache.last_commit_version()');

	is($t->sql("SELECT mlcache.wait_applied('$version')"), 't', 'weak: applied');
	is($t->look_up('w:1001'), $t->row('w:1001'), 'weak: fresh once applied');
	$shortest = time() - $began if time() - $began < $shortest;
}
cmp_ok($shortest, '<', 0.9, 'weak: a waiter does not wait for the window');

# ---------- waiting ----------

my $future = 'ffffffff' x 3;

is($t->sql("SELECT mlcache.wait_applied('$future', '100 ms')"), 'f', 'a timeout says false');
is($t->sql("SELECT mlcache.wait_applied('$future', '0')"), 'f', 'so does none at all');
my ($status, undef, $err) = $t->node->psql('postgres',
	"SET statement_timeout = '200ms'; SELECT mlcache.wait_applied('$future', NULL)");
like($err, qr/statement timeout/, 'waiting for ever can be cancelled');
is($t->sql("SELECT mlcache.wait_applied(NULL) IS NULL"), 't', 'NULL is NULL');

my $frozen = $t->sql('UPDATE u SET n = n + 1 WHERE id = 1001; SELECT mlcache.last_commit_version()');
is($t->sql("SELECT mlcache.wait_applied('$frozen', NULL)"), 't', 'applied');
$t->redis->freeze;
my $version = $t->sql('UPDATE u SET n = n + 1 WHERE id = 1001; SELECT mlcache.last_commit_version()');
is($t->sql("SELECT mlcache.wait_applied('$version', '300 ms')"), 'f', 'Redis does not answer: false');
is($t->sql("SELECT mlcache.wait_applied('$frozen', '300 ms')"), 't', 'what was applied before: true');
$t->redis->thaw;
is($t->sql("SELECT mlcache.wait_applied('$version', '30 s')"), 't', 'it answers again: true');

# a Redis that has lost what it had: what was once applied is so no more
my $position = $t->log_position;
$version = $t->sql('UPDATE u SET n = n + 1 WHERE id = 1001; SELECT mlcache.last_commit_version()');
is($t->sql("SELECT mlcache.wait_applied('$version', '30 s')"), 't', 'applied');
$t->redis->freeze;
my $pid = $t->running_relay;
$t->sql("SELECT pg_terminate_backend($pid)");
$t->wait_for('its end', sub { !kill 0, $pid });
is($t->sql("SELECT mlcache.wait_applied('$version', '100 ms')"), 't', 'still applied without a relay');
my $later = $t->sql('UPDATE u SET n = n + 1 WHERE id = 1001; SELECT mlcache.last_commit_version()');
is($t->sql("SELECT mlcache.wait_applied('$later', '100 ms')"), 'f', 'nothing new without one');
$t->redis->thaw;
is($t->sql("SELECT mlcache.wait_applied('$later', '30 s')"), 't', 'until it comes back');

# ---------- commits that nobody has flushed ----------

# A WAL writer that sleeps; the relay asks for the flush itself.
$t->set_conf("wal_writer_delay = '10s'");
my $writer = $t->sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");
$t->stop_asleep($writer);
for my $n (1 .. 5)
{
	$version = $t->sql('SET synchronous_commit = off; UPDATE u SET n = n + 1 WHERE id = 1001;'
		  . 'SELECT mlcache.last_commit_version()');
	$t->wait_for('an asynchronous commit', sub { $t->look_up('u:1001') eq $t->row('u:1001') });
	ok(1, "an asynchronous commit arrives while the WAL writer sleeps, $n");
}
kill 'CONT', $writer;

# ---------- a weak change before a large transaction, by way of the disk, that removes the row ----------

$t->sql("CREATE TABLE wr (id int PRIMARY KEY, pad text);"
	  . "SELECT mlcache.attach('wr', key => 'wr:{id}', action => 'replicate', consistency => 'weak');");
$t->wait_applied;
$t->sql("INSERT INTO wr SELECT g, '' FROM generate_series(1, 10) g");
$t->wait_applied;
for my $skip (0, 1)
{
	my $faults = 'relay-stream=skip' . ($skip ? ',relay-weak-order=skip' : '');
	my $settings = "mlcache.relay_work_mem = '1MB'\nmlcache.fault_points = '$faults";

	$t->sql("DELETE FROM wr; INSERT INTO wr SELECT g, '' FROM generate_series(1, 10) g");
	$t->wait_applied;
	# where the order is not kept, the weak change is not due before the other
	$t->set_conf($settings . ($skip ? ',relay-weak-due=skip' : '') . "'");
	$t->wait_applied;
	$t->sql("UPDATE wr SET pad = 'old' WHERE id <= 10");
	$t->sql("BEGIN; INSERT INTO wr SELECT g, repeat('x', 500) FROM generate_series(1001, 6000) g;"
		  . 'DELETE FROM wr WHERE id <= 10; COMMIT');
	$t->wait_for('the large transaction',
		sub { $t->redis->command('EXISTS', map { "wr:$_" } 1001 .. 6000) == 5000 });
	$t->set_conf("$settings'");
	$t->wait_applied;
	is($t->redis->command('EXISTS', map { "wr:$_" } 1 .. 10), $skip ? 10 : 0,
		$skip
		? 'they do come back without that safeguard'
		: 'rows that a large transaction removed do not come back');
	is($t->redis->command('EXISTS', map { "wr:$_" } 1001 .. 6000), 5000, 'and its own are all there');
	$t->clear_fault;
}

# ---------- nobody to wait for ----------

# What is to come when the last rule goes will not: those who wait hear of it.
my $to_come = substr($t->wait_applied, 0, 8) . 'f' x 16;
my ($said, $complaint) = ('', '');
my $waiter = IPC::Run::start([ 'psql', '-XAt', '-d', $t->node->connstr('postgres'),
		'-c', "SET statement_timeout = '20 s'", '-c', "SELECT mlcache.wait_applied('$to_come', NULL)" ], '>', \$said, '2>', \$complaint);
$t->wait_for('a waiter', sub {
	$t->sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%$to_come%'"
		  . " AND wait_event_type = 'Extension' AND pid <> pg_backend_pid()") == 1;
});
my $done = $t->wait_applied;
$t->sql("SELECT mlcache.detach(relation) FROM (SELECT DISTINCT relation FROM mlcache.rules) r");
$waiter->finish;
like($complaint, qr/no relay runs in this database/, 'who waits is told that the relay has gone');
$t->wait_for('the end of the relay', sub { $t->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mlcache relay'") == 0 });
is($t->sql("SELECT mlcache.wait_applied('$done')"), 't', 'what was applied is so without a relay');
($status, undef, $err) = $t->node->psql('postgres', "SELECT mlcache.wait_applied('$to_come', NULL)");
like($err, qr/no relay runs in this database/, 'there is no relay to wait for');
$t->stop;
done_testing();
