# What was hot outlives the server, whatever happens to the file it is kept in;
# it is filled again at the start; filling ahead can be watched and cancelled,
# and holds up no writer.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $t = MlcTest->new('warm', no_tables => 1, server => "timeout '60000'");
my $node = $t->node;
my $file = $node->data_dir . '/pg_stat/mlcache.hot';

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE h (id int PRIMARY KEY, v int);
INSERT INTO h SELECT g, g FROM generate_series(1, 250) g;
ANALYZE h;
SELECT mlcache.attach('h', key => 'h:{id}');
SQL
$t->wait_armed;
$t->wait_applied;

sub hottest { return $t->sql_patiently("SELECT string_agg(key, ' ') FROM mlcache.hot_keys(1)") }

# Until the launcher, which has just begun, has read the file.
sub remembers
{
	my ($name) = @_;

	$t->wait_for('what was hot', sub { hottest() ne '' });
	is(hottest(), 'h:7', $name);
}

sub heat_up
{
	$t->sql_patiently("SELECT count(*) FROM mlcache.mget((SELECT array_agg('h:' || CASE WHEN g % 2 = 0 THEN 7 ELSE g % 20 + 1 END) FROM generate_series(1, 20000) g))");
}

# ---------- watched, cancelled, in nobody's way ----------

my $holder = $t->hold('get-before-load');
my $warmer = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $warmer->query_safe('SELECT pg_backend_pid()');
$warmer->query_safe("SET mlcache.fault_points = 'get-before-load=wait'");
$warmer->{stdin} .= "SELECT mlcache.warm('h');\n";
$warmer->{run}->pump_nb;
$t->wait_held('get-before-load');
is($t->sql("SELECT activity, object, done, total FROM mlcache.stat_progress WHERE activity = 'warm' AND state = 'running'"),
	'warm|h|0|250', 'it shows how far it is');
is($t->sql("SET lock_timeout = '10s'; UPDATE h SET v = v + 1 WHERE id <= 3 RETURNING v"),
	"2\n3\n4", 'a writer does not wait for it');
$t->wait_applied;
$t->sql("SELECT pg_cancel_backend($pid)");
$t->wait_for('the cancel', sub { $t->sql("SELECT count(*) FROM mlcache.stat_progress WHERE activity = 'warm' AND state = 'running'") == 0 });
ok(1, 'it can be cancelled');
$holder->quit;
$warmer->{run}->kill_kill;
is($t->sql("SELECT mlcache.warm('h')"), 250, 'and done anew: no lease was left behind');
is($t->sql("SELECT mlcache.get('h:1')"), '{"id":1,"v":2}', 'what was filled is what the writer left');

# ---------- through a restart ----------

heat_up();
is(hottest(), 'h:7', 'the hottest key is known');
ok(!-e $file, 'nothing has been written yet');
$node->restart;
ok(-e $file, 'it is written when the server stops');
remembers('and known after a restart');

# ---------- killed while it writes ----------

for my $point (qw(heat-opened heat-header heat-written heat-renamed))
{
	$node->stop;
	$t->set_fault("$point=kill");
	$node->start;
	$t->wait_for('what was hot', sub { hottest() ne '' });
	system_log('pg_ctl', '-D', $node->data_dir, '-m', 'fast', '-w', 'stop');
	$t->clear_fault;
	# a postmaster that found a child killed is gone all the same
	$t->wait_for('the server to be down', sub { !-e $node->data_dir . '/postmaster.pid' });
	$node->{_pid} = undef;
	$node->start;
	remembers("killed at $point, the server remembers");
}
is($t->count_log(qr/which is not whole/), 0, 'the file was whole each time');

# ---------- a file that is not whole ----------

my $good;

for my $case (
	[ 'cut short', sub { substr($_[0], 0, length($_[0]) / 2) } ],
	[ 'changed', sub { my $x = $_[0]; substr($x, 300, 1) ^= 'x'; $x } ],
	[ 'empty', sub { '' } ],
	[ 'of many cells', sub { my $x = $_[0]; substr($x, 8, 4) = "\xff\xff\xff\xff"; $x } ])
{
	my ($what, $damage) = @$case;

	heat_up();
	$node->stop;
	$good = slurp_file($file);
	my $bad = $damage->($good);
	open my $out, '>:raw', $file or die $!;
	print $out $bad;
	close $out;
	my $position = $t->log_position;
	$node->start;
	$t->wait_log(qr/ignoring file "pg_stat\/mlcache.hot", which is not whole/, $position);
	is(hottest(), '', "a file that is $what is ignored");
}

# ---------- filled at the start ----------

heat_up();
$node->stop;
$t->redis->command('FLUSHALL');
$t->set_conf('mlcache.warm_on_start = on');
my $position = $t->log_position;
$node->start;
$t->wait_log(qr/of \d+ keys that were hot, \d+ have been filled/, $position);
is($t->redis->command('EXISTS', 'h:7'), 1, 'what was hot is in Redis');
is($t->sql("SELECT mlcache.get('h:7'); SELECT source FROM mlcache.last_read()"),
	qq({"id":7,"v":7}\nL1), 'and in L1');

$t->stop;
done_testing();
