# DROP EXTENSION while the relay is behind: it meets WAL that nobody can decode
# any more, since mlcache.rule is gone, and no relay follows.  Redis must not be
# left armed, with entries that nobody invalidates.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('drop_extension', bare => 1);

for my $skip (0, 1)
{
	my ($ns, $held);

	$t->create_server("timeout '60000'");
	$t->sql('DROP TABLE IF EXISTS a, fence');
	$t->sql('CREATE TABLE fence (n int); CREATE TABLE a (id int PRIMARY KEY, n int);'
		  . " INSERT INTO a VALUES (1, 0); SELECT mlcache.attach('a', key => 'a:{id}')");
	$t->wait_armed;
	$t->wait_applied;
	is($t->fill_key('a:1'), 'ok', 'cached');
	$ns = $t->ns;

	$t->set_fault('relay-before-applying=wait', $skip ? 'relay-last-will=skip' : ());
	$t->wait_applied;
	$held = $t->hold('relay-before-applying');
	$t->sql('UPDATE a SET n = n + 1');
	$t->wait_held('relay-before-applying');
	$t->sql("SET client_min_messages = error; SELECT mlcache.detach('a'); DROP EXTENSION mlcache CASCADE");
	$held->quit;
	$t->wait_for('the end of the relay',
		sub { $t->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mlcache relay'") eq '0'
			  && $t->sql('SELECT count(*) FROM pg_replication_slots') eq '0' });
	is($t->redis->command('FCALL', 'mlc_state', 0, $ns)->[4], $skip,
		$skip ? 'without its last will it stays armed' : 'it is not armed');
	is($t->redis->command('EXISTS', 'a:1'), 0, 'nor is anything left') unless $skip;
	$t->clear_fault;
}
$t->stop;
done_testing();
