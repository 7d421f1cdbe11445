# Redis is full (maxmemory, noeviction) under load: it takes no value, so what
# is stale goes, nothing is acknowledged that was not done, and all of it is
# delivered once there is room.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('redis_full', cold => 1500, server => "timeout '60000'",
	redis => [ '--maxmemory-policy', 'noeviction' ]);
my $log = $t->log_position;

sub full { $t->redis->command('CONFIG', 'SET', 'maxmemory', '1mb') }
sub roomy { $t->redis->command('CONFIG', 'SET', 'maxmemory', '0') }

# ---------- under load ----------

$t->start_load;
for (1 .. 2)
{
	my $errors;

	$t->let_write(300);
	$errors = $t->stat('errors');
	full();
	$t->let_write(300);
	$t->wait_for('errors', sub { $t->stat('errors') > $errors });
	# it is forgotten whenever a batch has gone through
	$t->wait_for('the reason', sub { $t->stat('last_error') =~ /OOM|out of memory/ });
	ok(1, 'stat_servers says why');
	roomy();
	$t->wait_armed;
}
$t->let_write(300);
$t->finish_load('Redis full');
is($t->purges($log), 0, 'no purge was needed');

# ---------- what is stale goes meanwhile ----------

# Caches, fills Redis up, changes; what becomes of the copies?
sub change_while_full
{
	my ($id) = @_;
	my %was;

	for my $table ('r', 'u', 'i')
	{
		$t->sql("UPDATE $table SET n = 0, ver = 0 WHERE id = $id");
		$t->wait_applied;
		$t->fill_key("$table:$id");
		$was{$table} = $t->look_up("$table:$id");
		is($was{$table}, $t->row("$table:$id"), "$table: cached");
	}
	full();
	$t->sql("UPDATE $_ SET n = 1 WHERE id = $id") for ('r', 'u', 'i');
	return %was;
}

sub gone
{
	my ($key) = @_;

	return !defined $t->redis->command('GET', $key);
}

my %was = change_while_full(1001);

$t->wait_for('removal', sub { gone('r:1001') && gone('u:1001') && gone('i:1001') });
ok(1, 'a full Redis loses what is stale');
roomy();
$t->wait_applied;
is($t->look_up('r:1001'), $t->row('r:1001'), 'what is replicated comes when there is room');

$t->set_fault('relay-oom=skip');
$t->redis->command('SET', 'u:1001', '');	# no oom pause is left from before
%was = change_while_full(1002);
my $errors = $t->stat('errors');

$t->wait_for('errors', sub { $t->stat('errors') > $errors + 5 });
is($t->redis->command('GET', 'u:1002'), $was{u}, 'without that safeguard it stays');
roomy();
$t->clear_fault;
$t->wait_applied;
is($t->look_up('r:1002'), $t->row('r:1002'), 'fresh in the end');
isnt($t->look_up('u:1002'), $was{u}, 'and nothing is stale in the end');
$t->stop;
done_testing();
