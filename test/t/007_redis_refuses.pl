# One command in the middle of a pipeline is answered with an error, under
# load: the batch is not acknowledged, and is delivered again.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('redis_refuses', cold => 1500, server => "timeout '60000'");
my $log = $t->log_position;

sub refuse { $t->redis->command('ACL', 'SETUSER', 'default', '-unlink') }
sub accept_again { $t->redis->command('ACL', 'SETUSER', 'default', '+unlink') }

# ---------- under load ----------

$t->start_load;
for (1 .. 3)
{
	my $position = $t->log_position;

	$t->let_write(200);
	refuse();
	$t->wait_log(qr/Redis answered: NOPERM/, $position);
	$t->let_write(100);
	accept_again();
	$t->wait_armed;
}
$t->let_write(200);
$t->finish_load('Redis refuses a command');
is($t->purges($log), 0, 'no purge was needed');

# ---------- with and without looking at the replies ----------

for my $skip (0, 1)
{
	my $id = 1001 + $skip;
	my $old;

	$t->fill_key("i:$id");
	$old = $t->look_up("i:$id");
	is($old, $t->row("i:$id"), 'cached');
	$t->set_fault('relay-reply=skip') if $skip;
	$t->wait_applied;
	refuse();
	if ($skip)
	{
		# acknowledged, though it was refused
		$t->sql("UPDATE i SET n = n + 1 WHERE id = $id");
		$t->wait_applied;
		accept_again();
		$t->clear_fault;
		$t->wait_applied;
		is($t->look_up("i:$id"), $old, 'without looking at replies an invalidation is lost');
	}
	else
	{
		my $position = $t->log_position;

		$t->sql("UPDATE i SET n = n + 1 WHERE id = $id");
		$t->wait_log(qr/Redis answered: NOPERM/, $position);
		accept_again();
		$t->wait_applied;
		is($t->look_up("i:$id"), 'lease', 'a refused invalidation is delivered later');
	}
}
$t->stop;
done_testing();
