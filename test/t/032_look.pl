# A look at entry and guard decides on hits in the reader: it must take for one
# what mlc_get takes for one, and nothing else.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('look', no_tables => 1, server => "timeout '60000'", conf => 'mlcache.l1_size = 0');
my $redis = $t->redis;

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE q (id int PRIMARY KEY, v int);
INSERT INTO q SELECT g, g FROM generate_series(1, 250) g;
SELECT mlcache.attach('q', key => 'q:{id}', loader => 'SELECT v FROM q WHERE id = $1');
SQL
$t->wait_armed;
$t->wait_applied;

# value and source of a key
sub get
{
	my ($key, $settings) = @_;

	return join ' ', split /\n/,
	  $t->sql(($settings // '') . "SELECT coalesce(mlcache.get('$key'), 'none'); SELECT source FROM mlcache.last_read()");
}

is(get('q:1'), '1 load', 'what is not cached is loaded');
is(get('q:1'), '1 L2', 'and comes from Redis then');
is(get('q:999'), 'none load', 'so does a row that is not there');
is(get('q:999'), 'none L2', 'and that it is not there is known to Redis');
is(get('q:1', "SET mlcache.fault_points = 'get-look=skip'; "), '1 L2', 'mlc_get says the same');
is($t->sql("SELECT count(value) FROM mlcache.mget((SELECT array_agg('q:' || g) FROM generate_series(1, 250) g))"),
	250, 'many keys: those that are cached and those that are not');
is($t->sql("SELECT count(value), (mlcache.last_read()).source FROM mlcache.mget((SELECT array_agg('q:' || g) FROM generate_series(1, 250) g))"),
	'250|L2', 'and again');

# ---------- what is no hit ----------

my $guard = 'mlc:{q:2}';
my $good = $redis->command('GET', $guard);
my $bars = substr($good, 0, 49);

$redis->command('DEL', $guard);
is(get('q:2'), '2 load', 'an entry without a guard');
$redis->command('SET', 'q:2', 'forged');
for my $case (
	[ '||||||t|9999999999999|n|', 'quarantine or lease' ],
	[ "$bars||A||||", 'a guard of a row that is not there' ],
	[ "$bars|||||", 'a bar is missing' ],
	[ "$bars|||||| ", 'a blank more' ],
	[ "zzzzzzzzzzzzzzzzzzzzzzzz" . substr($bars, 24) . '||||||', 'no version' ])
{
	my ($text, $what) = @$case;

	$redis->command('SET', 'q:2', 'forged');
	$redis->command('SET', $guard, $text);
	unlike(get('q:2'), qr/forged/, "an entry beside another guard: $what");
	$redis->command('DEL', $guard, 'q:2');
}
$redis->command('SET', 'q:2', "\xff\xfe");
$redis->command('SET', $guard, $good);
is(get('q:2'), '2 row', 'an entry that is no text');
$redis->command('DEL', $guard, 'q:2');

# ---------- a server that must not serve ----------

# from here on the relay leaves it alone
get('q:3');
$t->sql("SELECT mlcache.pause('redis')");
$t->wait_state('paused');
is(get('q:3'), '3 L2', 'a server that is armed');

# what a process does not remember: as after a promotion
my $state = 'mlc:state:' . $t->ns;
my $nonce = $redis->command('HGET', $state, 'nonce');
my $applied = $redis->command('HGET', $state, 'applied');
my $library = $redis->command('FUNCTION', 'DUMP');
$redis->command('FUNCTION', 'FLUSH');
is(get('q:3'), '3 row', 'a server without the library');
$redis->command('FUNCTION', 'RESTORE', $library);
is(get('q:3'), '3 row', 'a process that is not armed');
like(get('q:3', "SET mlcache.fault_points = 'get-armed=skip'; "),
	qr/L2/, 'the same, with the safeguard out');
$redis->command('FCALL', 'mlc_arm', 0, $t->ns, $nonce);
is(get('q:3'), '3 L2', 'armed again');
$redis->command('HSET', $state, 'nonce', 'another');
is(get('q:3'), '3 row', 'armed with another nonce than the state has');
$redis->command('HSET', $state, 'nonce', $nonce);
$redis->command('HDEL', $state, 'applied');
is(get('q:3'), '3 row', 'nothing is known to be applied');
$redis->command('HSET', $state, 'applied', $applied);
is(get('q:3'), '3 L2', 'all is well again');

# a session that has looked before the server changed its mind
my $session = $t->node->background_psql('postgres');
$session->query_safe("SELECT mlcache.get('q:3')");
is($session->query_safe('SELECT source FROM mlcache.last_read()'), 'L2', 'a session has looked');
$redis->command('REPLICAOF', '127.0.0.1', '1');
$session->query_safe("SELECT mlcache.get('q:3')");
is($session->query_safe('SELECT source FROM mlcache.last_read()'), 'row', 'a replica serves nobody');
$redis->command('REPLICAOF', 'NO', 'ONE');
$session->query_safe("SELECT mlcache.get('q:3')");
is($session->query_safe('SELECT source FROM mlcache.last_read()'), 'L2', 'a master does');
$session->quit;

$t->stop;
done_testing();
