# Redis loses everything under load: killed without persistence, flushed, its
# function library flushed.  The relay notices, starts a new history where it
# is, and arms the server again; nothing stale is left, and nobody is served
# meanwhile.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('redis_emptied', cold => 1500, server => "timeout '60000'");
my $log = $t->log_position;
my $position;

# ---------- under load ----------

$t->start_load;
$t->let_write(200);

for my $n (1 .. 2)
{
	$t->redis->kill9;
	$t->let_write(50);
	$position = $t->log_position;
	$t->redis->start;
	$t->wait_log(qr/server "redis" is armed/, $position);
	is($t->purges($position), 1, "killed without persistence: a new history, $n");
	$t->let_write(200);
}

$position = $t->log_position;
$t->redis->command('FLUSHALL');
$t->wait_log(qr/server "redis" is armed/, $position);
is($t->purges($position), 1, 'FLUSHALL: a new history');
$t->let_write(200);

$position = $t->log_position;
$t->redis->command('FUNCTION', 'FLUSH');
$t->wait_log(qr/server "redis" is armed/, $position);
is($t->purges($position), 0, 'FUNCTION FLUSH: the library is loaded again, no data is lost');
$t->let_write(200);

$position = $t->log_position;
$t->redis->command('FUNCTION', 'FLUSH');
$t->redis->command('FLUSHALL');
$t->wait_log(qr/server "redis" is armed/, $position);
$t->let_write(200);
$t->finish_load('Redis emptied', missing => 1);

# ---------- nobody is served before the relay has looked ----------

is($t->fill_key('i:1001'), 'ok', 'an entry is filled') if $t->look_up('i:1001') ne $t->row('i:1001');
$t->set_fault('relay-before-arm=wait');
my $session = $t->hold('relay-before-arm');

my $lease = $t->lease('i:77777', 'before');
my $loaded = $t->load_row('i:77777');

is($lease->{answer}, 'lease', 'a lease is given while armed');
$t->redis->command('FLUSHALL');
is($t->look_up('i:1001'), 'unarmed', 'flushed, and the relay has not looked: no lease');
is($t->fill_lease($lease, $loaded), 'refused', 'nor is a fill accepted');
$t->wait_held('relay-before-arm');
is($t->look_up('i:1001'), 'unarmed', 'a new history that is not armed: no lease');
is($t->fill_lease($lease, $loaded), 'refused', 'nor is a fill accepted');
$t->clear_fault;
$session->quit;
$t->wait_armed;
is($t->fill_lease($lease, $loaded), 'refused', 'nor a fill whose lease is of the old history');
is($t->look_up('i:1001'), 'lease', 'armed again: leases are given');
$t->stop;
done_testing();
