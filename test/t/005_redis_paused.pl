# Redis does not answer for 10 seconds under load, longer than the relay waits;
# what the relay had sent before arrives late, beside what it sends anew.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;
use Time::HiRes qw(time usleep);

my $t = MlcTest->new('redis_paused', cold => 1500, server => "timeout '1000'");
my $log = $t->log_position;
my $position;
my $began;

$t->start_load;
$t->let_write(200);
$t->redis->freeze;
$began = time();
$t->wait_log(qr/Redis did not answer in time/, $log);
ok(1, 'the relay notices that Redis does not answer');
$t->let_write(300);
ok(1, 'writers go on meanwhile');
$t->wait_for('ten seconds', sub { time() > $began + 10 });
$position = $t->log_position;
$t->redis->thaw;
$t->wait_log(qr/server "redis" is armed|is connected.*armed/, $position);
$t->let_write(200);

# shorter than the timeout, with much in flight
for (1 .. 3)
{
	$t->redis->freeze;
	$t->let_write(100);
	$t->redis->thaw;
	$t->let_write(100);
}
$t->wait_armed;
$t->finish_load('Redis paused');
is($t->purges($log), 0, 'no purge was needed');

# ---------- late commands of a connection that was given up ----------

# Removals of many replicated rows are in the socket when the relay gives up;
# the rows come back before Redis reads them.
$t->sql("CREATE TABLE late (id int PRIMARY KEY, n int, pad text);"
	  . "SELECT mlcache.attach('late', key => 'late:{id}', action => 'replicate');"
	  . "INSERT INTO late SELECT g, 0, repeat('x', 20) FROM generate_series(1, 3000) g");
$t->wait_published;
for my $n (1 .. 5)
{
	$position = $t->log_position;
	$t->redis->freeze;
	$t->sql("DELETE FROM late; INSERT INTO late SELECT g, -1, '' FROM generate_series(1, 10) g; DELETE FROM late");
	$t->wait_log(qr/Redis did not answer in time/, $position);
	$t->sql("INSERT INTO late SELECT g, $n, repeat('x', 20) FROM generate_series(1, 3000) g");
	$t->redis->thaw;
	$t->wait_applied;
	my $keys = $t->redis->command('KEYS', 'late:*');
	is(scalar @$keys, 3000, "every replicated row is there though removals came late, $n");
}
# A relay that was held up itself for longer than the timeout, before it sent
# what it had laid out, does not take that for Redis' silence.
{
	my $log = $t->log_position;
	my $holder;

	$t->set_relay_fault('relay-before-send=wait');
	$holder = $t->hold('relay-before-send');
	$t->sql('UPDATE i SET n = n + 1 WHERE id = 1001');
	$t->wait_held('relay-before-send');
	usleep(1_500_000);
	$holder->quit;
	$t->wait_applied;
	is($t->count_log(qr/is out of reach/, $log), 0, 'a relay that was held up does not blame Redis');
	$t->clear_fault;
}

# ---------- pause() in the middle of a removal by pattern ----------

# What was in flight then is not taken for what is asked later.
$t->sql("ALTER SERVER redis OPTIONS (SET timeout '60000')");
$t->wait_armed;
$t->sql("SELECT count(mlcache.set(k || ':' || g, 'x')) FROM generate_series(1, 3000) g, unnest('{first,second}'::text[]) k");
$t->wait_applied;
is(scalar @{ $t->redis->command('KEYS', "$_:*") }, 3000, "$_ keys") for qw(first second);
{
	my $holder;

	$t->set_relay_fault('relay-before-send=wait');
	$holder = $t->hold('relay-before-send');
	$t->sql("SELECT mlcache.invalidate_pattern('first:*')");
	$t->wait_held('relay-before-send');
	$t->redis->freeze;
	$t->sql("SELECT mlcache.pause('redis')");
	$t->clear_fault;
	$holder->quit;
	$t->wait_state('paused');
	$t->redis->thaw;
	$t->sql("SELECT mlcache.resume('redis')");
	$t->wait_applied;
	$t->sql("SELECT mlcache.invalidate_pattern('second:*')");
	$t->wait_applied;
	is(scalar @{ $t->redis->command('KEYS', "$_:*") }, 0, "no $_ keys") for qw(first second);
}

$t->stop;
done_testing();
