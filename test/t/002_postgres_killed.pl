# A backend is killed, and the whole server is stopped without a checkpoint,
# under load with asynchronous commits and prepared transactions: the caches
# hold what the database holds afterwards, without a purge.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('postgres_killed', cold => 1500, server => "timeout '60000'");
my $log = $t->log_position;

# ---------- under load ----------

$t->start_load(async => 0.3);
for my $n (1 .. 2)
{
	$t->let_write(200);
	my $position = $t->log_position;
	$t->wait_for('a backend that writes', sub {
		my $pid = $t->sql_patiently(
			"SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
			  . " AND pid <> pg_backend_pid() AND query ~ '^UPDATE' ORDER BY query_start LIMIT 1");
		return $pid ne '' && kill 'KILL', $pid;
	});
	$t->wait_log(qr/server "redis" is connected/, $position);
	$t->wait_armed;
	ok(1, "kill -9 of a backend, $n");
}
for my $n (1 .. 2)
{
	$t->let_write(200);
	$t->node->stop('immediate');
	$t->node->start;
	$t->wait_armed;
	ok(1, "stopped without a checkpoint, $n");
}
$t->let_write(200);
$t->node->restart;
$t->wait_armed;
$t->let_write(200);
$t->finish_load('PostgreSQL killed');
is($t->purges($log), 0, 'no purge was needed');

# ---------- what a crash undoes must not be cached ----------

# An asynchronous commit is visible before it is flushed; a reader fills what
# it saw, and then the server crashes and the commit never was.
sub crash_before_flush
{
	my ($wait) = @_;
	my ($lease, $loaded, $hi, $answer);

	# nobody may flush meanwhile
	$t->set_conf('autovacuum = off');
	$t->sql("UPDATE i SET n = 0 WHERE id = 1001; CHECKPOINT");
	$t->wait_applied;
	$t->redis->command('DEL', 'i:1001');
	$t->wait_for('the end of autovacuum',
		sub { $t->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'autovacuum'") == 0 });
	my $relay = $t->running_relay;
	my @stopped = ($relay, split /\n/,
		$t->sql("SELECT pid FROM pg_stat_activity WHERE backend_type IN"
			  . " ('walwriter', 'background writer', 'checkpointer')"));
	$t->stop_asleep(@stopped);
	$t->sql("SET synchronous_commit = off; UPDATE i SET n = 42 WHERE id = 1001");
	$lease = $t->lease('i:1001', 'crash' . ($wait ? 1 : 0));
	$loaded = $t->load_row('i:1001');
	like($loaded->{row}, qr/"n":42/, 'the commit is visible');
	is($t->sql("SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()"),
		't', 'and not flushed');
	$answer = $t->fill_lease($lease, $loaded) unless $wait;
	# it kills itself those that do not end
	$t->node->stop('immediate', fail_ok => 1);
	$t->wait_for('the end of the server', sub { !kill 0, $relay });
	$t->clear_fault;
	$t->node->start;
	$t->wait_applied;
	like($t->row('i:1001'), qr/"n":0/, 'the crash undid it');
	return $t->look_up('i:1001');
}

SKIP:
{
	my $found = crash_before_flush(1);

	is($found, 'lease', 'nothing was filled by a reader that waits for the flush');
	$found = crash_before_flush(0);
	like($found, qr/"n":42/, 'what never was stays cached by one that does not');
}
$t->stop;
done_testing();
