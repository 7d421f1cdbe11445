# A replica that lacks the master's last writes is promoted, under load: it
# serves nobody until the relay has delivered again what it lacks; where the
# slot does not reach back that far, it is purged.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcRedis;
use MlcTest;
use Test::More;

my $port = MlcRedis::free_port();
my $t = MlcTest->new('redis_failover', cold => 1500, redis => [ '--port', $port ],
	server => "timeout '60000'");
my $log = $t->log_position;
my $generation = 0;

# A replica of the server in use, in step with it.
sub new_replica
{
	my $replica = MlcRedis->new('replica' . ++$generation);
	my $next = MlcRedis::free_port();

	$replica->start('--replicaof', "127.0.0.1 $port", '--port', $next);
	$replica->{port} = $next;
	$t->wait_for('replication',
		sub { $replica->info('replication', 'master_link_status') eq 'up' });
	return $replica;
}

# From here on the replica lacks what the master is told.
sub cut_off { $_[0]->command('REPLICAOF', 'NO', 'ONE') }

sub promote
{
	my ($replica, $while) = @_;

	$t->redis->kill9;
	$while->() if $while;
	$t->{redis} = $replica;
	$port = $replica->{port};
	$t->sql("ALTER SERVER redis OPTIONS (SET url '" . $replica->url . "')");
}

# Waits until the relay has armed the server it was sent to.
sub wait_armed_since
{
	my ($position) = @_;

	$t->wait_log(qr/server "redis" is armed/, $position);
}

# ---------- under load ----------

$t->set_conf("mlcache.redelivery_window = '10min'");
$t->wait_applied;
$t->start_load;
for my $n (1 .. 2)
{
	my ($replica, $position, $state);

	$t->let_write(200);
	$replica = new_replica();
	$t->let_write(100);
	cut_off($replica);
	$t->let_write(300);
	$position = $t->log_position;
	promote($replica,
		sub {
			$state = $replica->command('FCALL', 'mlc_state', 0, $t->ns);
			$t->redirect_load($replica->socket);
		});
	isnt($state->[1], '', 'the replica has a history');
	is($state->[4], 0, 'and is not armed');
	wait_armed_since($position);
	is($t->purges($position), 0, "failed over without a purge, $n");
}
$t->let_write(200);
$t->finish_load('failover');

# the same with a gap that the slot does not cover
my ($replica, $position);

$t->set_conf('mlcache.redelivery_window = 0');
$t->start_load;
$replica = new_replica();
cut_off($replica);
$t->let_write(300);
$t->wait_for('the slot to go on',
	sub {
		my $applied = substr($replica->command('FCALL', 'mlc_state', 0, $t->ns)->[1], 8);
		$t->sql("SELECT lpad(to_hex((confirmed_flush_lsn - '0/0')::bigint), 16, '0') > '$applied'"
			  . ' FROM pg_replication_slots') eq 't';
	});
$position = $t->log_position;
promote($replica);
$t->redirect_load($replica->socket);
wait_armed_since($position);
is($t->purges($position), 1, 'further behind than the window: purged');
$t->let_write(200);
$t->finish_load('failover with a gap', missing => 1);

# ---------- each safeguard ----------

# A copy that the promoted replica holds and that has changed since; what the
# relay makes of it.
sub fail_over
{
	my ($id, $fault, $gap) = @_;
	my $old;

	# a window of nothing, but what follows counts from a settled slot
	$t->set_conf('mlcache.redelivery_window = ' . ($gap ? 0 : 600000));
	$t->fill_key("u:$id");
	$old = $t->row("u:$id");
	is($t->look_up("u:$id"), $old, 'cached');
	$t->wait_published;
	$replica = new_replica();
	cut_off($replica);
	my $applied = substr($replica->command('FCALL', 'mlc_state', 0, $t->ns)->[1], 8);
	$t->sql("UPDATE u SET n = n + 1 WHERE id = $id");
	$t->wait_applied;
	$t->wait_for('the slot to go on',
		sub {
			$t->sql("SELECT lpad(to_hex((confirmed_flush_lsn - '0/0')::bigint), 16, '0') > '$applied'"
				  . ' FROM pg_replication_slots') eq 't';
		}) if $gap;
	$t->set_relay_fault($fault) if $fault;
	$position = $t->log_position;
	promote($replica);
	wait_armed_since($position);
	$t->wait_applied;
	$t->clear_fault;
	my $found = $t->look_up("u:$id");
	return $found eq $old ? 'stale' : $found eq $t->row("u:$id") ? 'fresh' : $found;
}

is(fail_over(1001, undef, 0), 'fresh', 'what it lacks is delivered again');
is(fail_over(1002, 'relay-rewind=skip', 0), 'stale', 'not without that safeguard');
is(fail_over(1003, undef, 1), 'lease', 'what cannot be delivered again is purged');
is(fail_over(1004, 'relay-gap=skip', 1), 'stale', 'not without looking at the gap');
is(fail_over(1005, 'relay-purge=skip', 1), 'stale', 'not without the purge');
$t->stop;
done_testing();
