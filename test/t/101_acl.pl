# Redis users that may do just what mlcache, and what a reader outside, needs:
# the lines of README.md, to the letter, and nothing is refused.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $t = MlcTest->new('acl', bare => 1);
my $readme = slurp_file("$FindBin::RealBin/../../README.md");
my %words;

for my $line ($readme =~ /^(ACL SETUSER .*)$/mg)
{
	my @words = split ' ', $line;

	$words{ $words[2] } = [@words];
	# its keys are those of the rules below
	@words = map { $_ eq '~product:*' ? map { "~$_:*" } qw(r u i w p s category banner) : $_ } @words;
	is($t->redis->command(@words), 'OK', "Redis takes the line of $words[2]");
}
is(join(' ', sort keys %words), 'app mlcache', 'README has both');

# ---------- everything mlcache does ----------

$t->create_server;
$t->sql("CREATE USER MAPPING FOR PUBLIC SERVER redis OPTIONS (username 'mlcache', password 'secret')");
$t->sql("ALTER SERVER redis OPTIONS (ADD stream '1000')");
$t->create_tables;
$t->sql(<<'SQL');
CREATE TABLE s (id int PRIMARY KEY, n int);
INSERT INTO s VALUES (1, 1), (2, 2);
SELECT mlcache.attach('s', key => 's:{id}', consistency => 'strong');
SQL
$t->wait_armed;
$t->wait_applied;
is($t->sql("SELECT mlcache.get('s:1')::json->>'n'; SELECT source FROM mlcache.last_read()"),
	"1\nload", 'a reader fills');
is($t->sql("UPDATE s SET n = 3 WHERE id = 1; SELECT mlcache.get('s:1')::json->>'n'"),
	'3', 'a strong writer');
is($t->sql("SELECT mlcache.lock_acquire('a') IS NOT NULL; SELECT mlcache.lock_release('a')"),
	"t\n", 'a lock');
$t->redis->command('FCALL', 'mlc_lock', 0, $t->ns, 'b', 'somebody', 'X', 60000, 0);
is($t->sql("SELECT mlcache.lock_acquire('b:c', wait => '50 ms') IS NULL"), 't', 'a lock that is held outside');
$t->sql("SELECT mlcache.attach('s', tag => 'front')");
$t->wait_applied;
for my $n (1 .. 3)
{
	$t->sql("SELECT mlcache.set('banner:$n', '<b>Sale</b>', tags => '{front}')");
}
$t->sql("SELECT mlcache.touch('banner:1', '1 hour'), mlcache.touch('banner:2')");
$t->wait_applied;
is($t->sql("SELECT mlcache.get('banner:1')"), '<b>Sale</b>', 'a key with a tag');
$t->sql("SELECT mlcache.invalidate_tag('front')");
$t->wait_applied;
is($t->redis->command('EXISTS', 'banner:1'), 0, 'and without its tag');
$t->sql("SELECT count(mlcache.get('s:' || id)) FROM s");
$t->redis->command('SET', 's:9', 'x');
$t->redis->command('HSET', 's:10', 'a', 'b');
is($t->sql("SELECT string_agg(key || ' ' || class, ', ' ORDER BY key) FROM mlcache.audit('s', repair => true)"),
	's:10 corrupt, s:9 unguarded', 'an audit');
$t->wait_applied;
is($t->sql("SELECT count(*) FROM mlcache.audit('s')"), 0, 'and its repair');
$t->sql('TRUNCATE s');
$t->wait_applied;
is($t->sql('SELECT count(*) FROM mlcache.check_setup() WHERE NOT ok'), 0, 'check_setup is content');
# a new server: the library is loaded, what there was is purged
my $position = $t->log_position;
$t->redis->command('FLUSHALL');
$t->redis->command('FUNCTION', 'FLUSH');
$t->wait_log(qr/server "redis" is purged/, $position);
$t->wait_armed;

# ---------- everything a reader outside does ----------

my $secret = 'secret';

is($t->redis->command('AUTH', 'app', $secret), 'OK', 'an application logs in');
is($t->fill_key('u:1'), 'ok', 'it fills');
is($t->look_up('u:1'), $t->row('u:1'), 'and reads');
is($t->redis->command('GET', 'u:1'), $t->row('u:1'), 'a bare GET, too');
like(${ $t->redis->try('GET', 'other') }, qr/^NOPERM/, 'and sees its own keys only');

# ---------- a whole load ----------

$t->redis->command('AUTH', 'default', '');
$t->start_load;
$t->let_write(1000);
$t->finish_load('ACL', missing => 1);
my @refused = grep { my %entry = @$_; $entry{username} ne 'app' } @{ $t->redis->command('ACL', 'LOG', 100) };
is(join("\n", map { join ' ', @$_ } @refused), '', 'Redis has refused nothing');

# ---------- a key that is not mlcache's ----------

# Whoever may set keys must not be able to stop the relay.
$t->sql("SELECT mlcache.set('other', 'x')");
$t->sql("SELECT mlcache.delete('other')");
$t->sql("SELECT mlcache.set('banner:4', 'y')");
$t->wait_applied;
is($t->sql("SELECT mlcache.get('banner:4')"), 'y', 'a set that Redis refuses holds nothing up');

# ---------- nothing that it does not need ----------

# Every right of mlcache's has been used by somebody; +select goes with a
# database other than 0, +role with Sentinel.
my $used = $t->redis->command('INFO', 'commandstats');

is(join(' ', grep { !/select|role/ && $used !~ /^cmdstat_\Q$_\E:/m } map { /^\+(.*)/ } @{ $words{mlcache} }),
	'', 'no right is idle');

# One right less, and a reader is refused something.
my $id = 100;

$t->sql("INSERT INTO i SELECT n, 0, 0 FROM generate_series(100, 130) n");
for my $word (grep { /^\+/ } @{ $words{app} })
{
	my $off = $word =~ s/^\+/-/r;
	my $key = 'i:' . $id++;

	$t->redis->command('SET', $key, 'nobody vouches for this');
	$t->redis->command('ACL', 'SETUSER', 'app', $off);
	$t->redis->command('AUTH', 'app', $secret);
	my $works = eval {
		$t->fill_key($key) eq 'ok' or die;
		$t->look_up($key);
		$t->redis->command('GET', $key);
		$t->redis->command('MGET', $key, $key);
		$t->fill_key('i:' . (50000 + $id));
		1;
	};
	ok(!$works, "an application needs $word");
	$t->redis->command('AUTH', 'default', '');
	$t->redis->command('ACL', 'SETUSER', 'app', $word);
}
$t->stop;
done_testing();
