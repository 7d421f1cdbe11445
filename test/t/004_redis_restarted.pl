# Redis comes back from its append-only file, which may lack the last writes:
# the relay delivers again from where the file ends, and arms the server only
# then.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

# A Redis that syncs now and then puts off writes meanwhile; what is written
# outlives its process in any case.
my $t = MlcTest->new('redis_restarted', cold => 1500, server => "timeout '60000'",
	conf => "mlcache.redelivery_window = '10min'\n",
	redis => [ '--appendonly', 'yes', '--appendfsync', 'no' ]);
my $log = $t->log_position;

# How much of the file there is now.
sub file
{
	my ($file) = glob($t->redis->{dir} . '/appendonlydir/*.incr.aof');

	return $file;
}

# Killed, and the file ends where it ended then.
sub lose_since
{
	my ($size) = @_;

	$t->redis->kill9;
	truncate file(), $size or die $!;
}

# ---------- under load ----------

$t->start_load;
for my $lost (0, 1, 1)
{
	my ($size, $position);

	$t->let_write(300);
	$size = -s file();
	$t->let_write(300) if $lost;
	$position = $t->log_position;
	if ($lost)
	{
		# in the middle of a command, as a crash leaves it
		$t->wait_for('more', sub { -s file() > $size + 13 });
		lose_since($size + 13);
	}
	else
	{
		$t->redis->kill9;
	}
	$t->let_write(50);
	$t->redis->start;
	$t->wait_log(qr/server "redis" is armed/, $position);
	is($t->purges($position), 0,
		$lost ? 'its last writes lost: caught up without a purge' : 'killed: caught up without a purge');
}
$t->let_write(200);
$t->finish_load('Redis restarted from its file');
is($t->purges($log), 0, 'no purge was needed');

# ---------- each safeguard ----------

# One key of each action is cached, changes, and Redis loses the change.
my $id = 0;

sub lose_a_change
{
	my $position;
	my $size;

	$id++;
	$t->sql("UPDATE r SET n = 0 WHERE id = 1000 + $id;"
		  . "UPDATE u SET n = 0 WHERE id = 1000 + $id;"
		  . "UPDATE i SET n = 0 WHERE id = 1000 + $id");
	$t->wait_applied;
	for my $table ('r', 'u', 'i')
	{
		$t->fill_key("$table:100$id");
		is($t->look_up("$table:100$id"), $t->row("$table:100$id"), "$table: cached, $id");
	}
	$t->wait_published;
	$size = -s file();
	$t->sql("UPDATE r SET n = 1 WHERE id = 1000 + $id;"
		  . "UPDATE u SET n = 1 WHERE id = 1000 + $id;"
		  . "UPDATE i SET n = 1 WHERE id = 1000 + $id");
	$t->wait_applied;
	lose_since($size);
}

sub fresh
{
	return join ' ', map {
		my $found = $t->look_up("$_:100$id");
		$found eq 'lease' ? "$_=none" : $found eq $t->row("$_:100$id") ? "$_=fresh" : "$_=stale"
	} ('r', 'u', 'i');
}

lose_a_change();
$t->redis->start;
$t->wait_published;
is(fresh(), 'r=fresh u=fresh i=none', 'what was lost is delivered again');

lose_a_change();
$t->set_relay_fault('relay-rewind=skip');
$t->redis->start;
$t->wait_published;
is(fresh(), 'r=stale u=stale i=stale', 'not delivered again without that safeguard');
$t->clear_fault;
$t->sql("UPDATE $_ SET n = 2 WHERE id = 1000 + $id") for ('r', 'u', 'i');

# Delivered, but not yet: is a reader served?
for my $skip (0, 1)
{
	my $session;
	my $what = $skip ? 'armed at once, without that safeguard' : 'not served while it is caught up';

	lose_a_change();
	$session = $t->hold('relay-before-applying');
	$t->set_relay_fault('relay-before-applying=wait', $skip ? 'relay-arm=skip' : ());
	$t->redis->start;
	$t->wait_held('relay-before-applying');
	is($t->look_up("u:100$id") eq 'unarmed' ? 'unarmed' : fresh(),
		$skip ? 'r=stale u=stale i=stale' : 'unarmed', $what);
	$t->clear_fault;
	$session->quit;
	$t->wait_published;
	is(fresh(), 'r=fresh u=fresh i=none', 'and served afterwards');
}
$t->stop;
done_testing();
