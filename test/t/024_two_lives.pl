# The extension is dropped and made again while the relay's slot reaches back to
# its first life.  PostgreSQL cannot decode changes of a user catalog table that
# is gone; a relay that comes anew dies over them, and its successor starts over
# instead of dying again and again.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

# the slot reaches back however long this takes
my $t = MlcTest->new('two_lives', no_tables => 1, server => "timeout '60000'",
	conf => "mlcache.redelivery_window = '10min'\n");
my $url = $t->redis->url;
my $again = "BEGIN; DROP TABLE t; DROP EXTENSION mlcache CASCADE; CREATE EXTENSION mlcache;"
  . " CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url '$url', timeout '60000');"
  . " CREATE TABLE t (id int PRIMARY KEY, v text);"
  . " SELECT mlcache.attach('t', key => 't:{id}', capture => 'trigger'); COMMIT";
my $position;

$t->sql('CREATE TABLE fence (n int); CREATE TABLE t (id int PRIMARY KEY, v text)');
$t->sql("SELECT mlcache.attach('t', key => 't:{id}')");
$t->wait_armed;
for my $life (2, 3)
{
	$t->sql("INSERT INTO t VALUES (100, 'life $life')");
	$t->sql($again);
	$t->sql("INSERT INTO t VALUES (1, 'a'); SELECT mlcache.get('t:1')");
	$t->wait_armed;
	$t->wait_applied;
}

# by now, or when it comes anew, the relay has met what it cannot decode
$t->node->restart;
$t->wait_armed;
$t->wait_applied;
cmp_ok($t->count_log(qr/WAL at .* cannot be decoded/), '>', 0, 'the slot was made anew');
$t->sql("SELECT mlcache.get('t:1')");
is($t->sql("SELECT mlcache.get('t:1')"), '{"id":1,"v":"a"}', 'it is cached');
$t->sql("UPDATE t SET v = 'b'");
$t->wait_applied;
is($t->sql("SELECT mlcache.get('t:1')"), '{"id":1,"v":"b"}', 'and changes arrive');

# the next one has no trouble any more
$position = $t->log_position;
$t->node->restart;
$t->wait_armed;
$t->wait_applied;
is($t->count_log(qr/ERROR/, $position), 0, 'once');
$t->stop;
done_testing();
