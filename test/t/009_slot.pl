# The replication slot: held back for a server that is away or paused, given up
# when it holds too much, dropped or invalidated behind the relay's back.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('slot', cold => 1000,
	conf => "min_wal_size = 32MB\nmax_wal_size = 64MB\nwal_keep_size = 0\nmlcache.redelivery_window = 0\n");
my $log = $t->log_position;
my ($position, $retained);

# Writes so many MB of WAL that concern no rule.
sub write_wal
{
	my ($mb) = @_;

	$t->sql('CREATE TABLE IF NOT EXISTS bulk (t text)');
	for (1 .. $mb)
	{
		$t->sql("INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 1000)");
	}
	$t->sql('TRUNCATE bulk');
}

sub slot { return $t->sql("SELECT $_[0] FROM pg_replication_slots WHERE slot_name ~ '^mlcache_'") }

# A server that is busy may be purged twice.
sub purged { return $t->purges($position) > 0 ? 1 : 0 }

# What became of a copy that was made before, and whose row has changed.
sub verdict
{
	my ($key, $old) = @_;
	my $found = $t->look_up($key);

	return $found eq $old ? 'stale' : $found eq $t->row($key) ? 'fresh' : $found;
}

sub cached
{
	my ($key) = @_;

	$t->fill_key($key);
	my $old = $t->row($key);
	is($t->look_up($key), $old, "$key: cached");
	return $old;
}

# ---------- pause and resume, under load ----------

$t->start_load;
for (1 .. 2)
{
	$t->let_write(200);
	$t->sql("SELECT mlcache.pause('redis')");
	$t->wait_state('paused');
	$retained = $t->stat('retained_bytes');
	$t->let_write(300);
	cmp_ok($t->stat('retained_bytes'), '>', $retained, 'the slot waits for a paused server');
	$t->sql("SELECT mlcache.resume('redis')");
	$t->wait_armed;
}
$t->let_write(200);
$t->finish_load('paused and resumed');
is($t->purges($log), 0, 'no purge was needed');

# ---------- confirmed behind what has been applied ----------

# With a slot that runs ahead of Redis, a relay that starts again has lost
# something; it notices, but has to purge.
for my $skip (0, 1)
{
	my $key = 'i:' . (1001 + $skip);
	my $old = cached($key);
	my $confirmed;

	$t->wait_published;
	$position = $t->log_position;
	$t->set_conf("mlcache.redelivery_window = 0\n"
		  . ($skip ? "mlcache.fault_points = 'relay-confirm=skip'" : ''));
	$t->redis->freeze;
	# progress of which Redis does not hear holds it back, too
	my $changed = $t->sql('INSERT INTO fence VALUES (3); SELECT pg_current_wal_lsn()');
	$t->wait_log(qr/Redis did not answer in time/, $position);
	if (!$skip)
	{
		is(slot("confirmed_flush_lsn >= '$changed'"), 'f', 'the slot is held back by what Redis does not know');
	}
	$t->sql("UPDATE i SET n = n + 1 WHERE id = 1001 + $skip");
	$changed = $t->sql('SELECT pg_current_wal_lsn()');
	if ($skip)
	{
		$t->wait_for('the slot to run ahead',
			sub { slot("confirmed_flush_lsn >= '$changed'") eq 't' });
	}
	else
	{
		is(slot("confirmed_flush_lsn >= '$changed'"), 'f', 'the slot is held back');
	}
	my $pid = $t->running_relay;
	$t->sql("SELECT pg_terminate_backend($pid)");
	$t->wait_for('its end', sub { !kill 0, $pid });
	$t->redis->thaw;
	$t->wait_applied;
	is(purged(), $skip,
		$skip ? 'not held back: a purge is needed' : 'held back: no purge');
	isnt(verdict($key, $old), 'stale', 'nothing stale either way');
	$t->clear_fault;
}

# ---------- given up, away or paused ----------

for my $skip (0, 1)
{
	my $key = 'i:' . (1011 + $skip);
	my $old = cached($key);

	$t->wait_published;
	$position = $t->log_position;
	# what a frozen server was sent reaches it in the end, a paused one is sent nothing
	if ($skip)
	{
		$t->sql("SELECT mlcache.pause('redis')");
		$t->wait_state('paused');
	}
	else
	{
		$t->redis->freeze;
	}
	$t->sql("UPDATE i SET n = n + 1 WHERE id = 1011 + $skip");
	$t->set_conf("mlcache.slot_max_retained = '1MB'\nmlcache.redelivery_window = 0");
	write_wal(6);
	$t->wait_state('given up');
	like($t->stat('last_error'), qr/./, 'and says why it was away') unless $skip;
	$retained = $t->stat('retained_bytes');
	write_wal(6);
	$t->sql('CHECKPOINT');
	$t->wait_for('WAL to be let go',
		sub { $t->stat('retained_bytes') < 6 * 1024 * 1024 });
	ok(1, 'a server that is given up holds no WAL');
	$t->set_conf($skip ? "mlcache.fault_points = 'relay-gap=skip'" : '');
	$skip ? $t->sql("SELECT mlcache.resume('redis')") : $t->redis->thaw;
	$t->wait_armed;
	$t->wait_applied;
	is(purged(), 1 - $skip, 'on return: ' . ($skip ? 'not purged' : 'purged'));
	is(verdict($key, $old), $skip ? 'stale' : 'lease',
		$skip ? 'and stale without that safeguard' : 'and nothing stale');
	$t->clear_fault;
}

# ---------- dropped ----------

sub without_relay
{
	my ($do) = @_;

	$t->set_conf('mlcache.relay_enabled = off');
	$t->wait_for('the relay to end', sub { $t->relay_pid eq '' });
	$do->();
	$t->clear_fault;
	$t->wait_armed;
	$t->wait_applied;
}

my $old = cached('i:1021');
$position = $t->log_position;
without_relay(
	sub {
		my $name = slot('slot_name');
		$t->sql("SELECT pg_drop_replication_slot('$name')");
		$t->sql("UPDATE i SET n = n + 1 WHERE id = 1021");
	});
is(purged(), 1, 'slot dropped: purged');
is(verdict('i:1021', $old), 'lease', 'and nothing stale');

# ---------- invalidated ----------

$old = cached('i:1022');
$position = $t->log_position;
without_relay(
	sub {
		$t->sql("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'; SELECT pg_reload_conf()");
		$t->sql("UPDATE i SET n = n + 1 WHERE id = 1022");
		$t->wait_for('the slot to be lost',
			sub {
				$t->sql('SELECT pg_switch_wal(); INSERT INTO fence VALUES (2)');
				$t->sql('CHECKPOINT');
				slot('wal_status') eq 'lost';
			});
	});
$t->sql('ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()');
$t->wait_log(qr/has lost WAL that it needed/, $position);
is(purged(), 1, 'slot invalidated: purged');
is(verdict('i:1022', $old), 'lease', 'and nothing stale');
is(slot('count(*)'), 1, 'there is one slot');
$t->stop;
done_testing();
