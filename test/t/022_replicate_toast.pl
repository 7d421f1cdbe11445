# A replicated row keeps its entry when an UPDATE leaves a value out of line
# untouched, which WAL does not repeat: the relay loads the row again.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('replicate_toast', bare => 1);

$t->create_server("timeout '60000'");
$t->sql("CREATE TABLE fence (n int)");
$t->sql("CREATE TABLE a (id int PRIMARY KEY, v int, big text)");
$t->sql("ALTER TABLE a ALTER COLUMN big SET STORAGE EXTERNAL");
$t->sql("SELECT mlcache.attach('a', key => 'a:{id}', action => 'replicate')");
$t->wait_armed;
$t->sql("INSERT INTO a VALUES (1, 0, repeat('x', 10000))");
$t->wait_applied;
like($t->redis->command('GET', 'a:1'), qr/^\{"id":1,"v":0,"big":"x{10000}"\}$/, 'the whole row');

$t->sql("UPDATE a SET v = 1");
$t->wait_for('the row of the update',
	sub { ($t->redis->command('GET', 'a:1') // '') =~ /^\{"id":1,"v":1,"big":"x{10000}"\}$/ });
ok(1, 'the whole row after an update that leaves big alone');

$t->sql("BEGIN; UPDATE a SET v = 2; DELETE FROM a; COMMIT");
$t->wait_applied;
$t->wait_for('no entry', sub { !defined $t->redis->command('GET', 'a:1') });
ok(1, 'and none after the row is gone');
done_testing();
