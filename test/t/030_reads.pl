# Guarded reads: histories under faults, Redis away and back, and readers that
# wait for each other.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use JSON::PP;
use MlcFaults;
use MlcTest;
use Test::More;
use Time::HiRes qw(time);

my $python = $ENV{MLC_PYTHON} // '/usr/bin/python3';
my $t = MlcTest->new('reads', no_tables => 1, conf => 'mlcache.l1_size = 4MB');

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE h (id int PRIMARY KEY, ver bigint NOT NULL);
CREATE TABLE u (id int PRIMARY KEY, ver bigint NOT NULL);
CREATE TABLE g (id int PRIMARY KEY, grp int, ver bigint NOT NULL);
INSERT INTO h SELECT n, 1 FROM generate_series(1, 200) n;
INSERT INTO u SELECT n, 1 FROM generate_series(1, 200) n;
INSERT INTO g SELECT n, n, 1 FROM generate_series(1, 200) n;
SELECT mlcache.attach('h', key => 'h:{id}');
SELECT mlcache.attach('u', key => 'u:{id}', action => 'update', ttl => '1 s');
SELECT mlcache.attach('g', key => 'g:{id}', action => 'refresh', capture => 'trigger');
SQL
$t->wait_armed;
$t->wait_applied;

# ---------- many keys at once ----------

# Each takes a ticket of L1 before the first is filled.
{
	my $fills = $t->sql('SELECT fills FROM mlcache.stat_l1');

	is($t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT 'h:' || n FROM generate_series(1, 200) n))"),
		200, '200 keys at once');
	$fills = $t->sql('SELECT fills FROM mlcache.stat_l1') - $fills;
	cmp_ok($fills, '>=', 165, 'most of them are in L1 afterwards');
}

my %history;

sub start_history
{
	my (%more) = @_;

	%history = (in => encode_json({ pg => $t->node->connstr('postgres'), keys => 6,
			tables => [qw(h u g)], writers => 2, readers => 4, %more }) . "\n",
		out => '', err => '');
	$history{run} = IPC::Run::start([ $python, "$FindBin::RealBin/lib/reads.py" ],
		'<', \$history{in}, '>', \$history{out}, '2>', \$history{err});
	$history{run}->pump_nb;
}

# Lets it run until so many more changes have been made.
sub let_write
{
	my ($n) = @_;
	my $sql = 'SELECT sum(ver) FROM (SELECT ver FROM h UNION ALL SELECT ver FROM u UNION ALL SELECT ver FROM g) x';

	$t->let_grow($sql, $n);
}

sub finish_history
{
	$history{in} .= "stop\n";
	$history{run}->finish or die "reads.py failed: $history{err}";
	my $report = decode_json($history{out});
	note($history{out});
	return $report;
}

# What is cached at the end, in L1 and in Redis, is what the tables say.
sub is_coherent
{
	my ($what) = @_;
	my $differ = "SELECT count(*) FROM (SELECT 'h' AS t, * FROM h UNION ALL SELECT 'u', * FROM u UNION ALL SELECT 'g', id, ver FROM g) x"
	  . " WHERE id <= 6 AND (mlcache.get(t || ':' || id)::json->>'ver')::bigint IS DISTINCT FROM ver";

	$t->wait_applied;
	is($t->sql($differ), 0, "$what: every key reads like its row");
	is($t->sql($differ), 0, "$what: and again, now from L1");
}

# ---------- a history with everything that can go wrong ----------

start_history();
let_write(300);
everything_goes_wrong($t, \&let_write, 60, 60);
let_write(300);
my $report = finish_history();
cmp_ok($report->{commits}, '>', 500, 'there were changes');
for my $source (qw(L1 L2 load row))
{
	cmp_ok($report->{sources}{$source} // 0, '>', 10, "there were reads from $source");
}
is(join("\n", $report->{nviolations}, @{ $report->{violations} }), '0',
	'no read was older than what had been applied, and no cache went backwards');
is_coherent('after faults');

# ---------- the same is seen to fail ----------

# what is left out, and in which process; the relay is told by the server's file
for my $fault ([ 'l1-close', 'relay' ], [ 'get-own-writes', 'reader' ])
{
	my ($name, $who) = @$fault;

	$t->set_fault("$name=skip") if $who eq 'relay';
	start_history($who eq 'reader' ? (faults => "$name=skip") : ());
	let_write(400);
	$report = finish_history();
	cmp_ok($report->{nviolations}, '>', 0, "without $name the history shows it");
	$t->clear_fault;
	$t->wait_applied;
	# what is wrong now stays so until the row changes again
	$t->sql("UPDATE $_ SET ver = ver + 1") for qw(h u g);
	is_coherent("after $name");
}

# ---------- Redis away and back ----------

sub sources
{
	my ($n) = @_;
	my $sql = join ';', map { "SELECT mlcache.get('h:$_') IS NOT NULL; SELECT source FROM mlcache.last_read()" } 1 .. $n;
	my %count;

	$count{$_}++ for split /\n/, $t->sql($sql);
	return \%count;
}

$t->wait_for('all keys in L1', sub { (sources(100)->{L1} // 0) == 100 });
ok(1, 'with Redis, reads come from L1');
my $position = $t->log_position;
$t->redis->kill9;
$t->wait_state('down');
$t->wait_for('L1 shut', sub { (sources(1)->{row} // 0) == 1 });
my $answer = sources(100);
is($answer->{row}, 100, 'without Redis, every read gives the row');
is($answer->{t}, 100, 'and none fails');
$t->sql('UPDATE h SET ver = ver + 1 WHERE id = 1');
$t->redis->start;
$t->wait_armed;
$t->wait_applied;
$t->wait_for('filling again', sub { (sources(5)->{L1} // 0) == 5 });
is_coherent('after Redis was away');

# a server that does not answer is not asked each time
my $url = $t->redis->url;
$t->redis->freeze;
my $session = $t->node->background_psql('postgres');
my $start = time;
$session->query_safe("SELECT mlcache.get('u:$_')") for 101 .. 160;
my $took = time - $start;
$t->redis->thaw;
cmp_ok($took, '<', 60 * 0.9, 'a silent Redis is not waited for by every read');
note("60 reads with a silent Redis took $took s");
$session->quit;
$t->wait_published;

# the session that saw it away comes back to it, and ALTER SERVER counts at once
$session = $t->node->background_psql('postgres');
$session->query_safe("SELECT mlcache.get('h:150')");
is($session->query_safe('SELECT source FROM mlcache.last_read()'), 'load', 'a session reads through Redis');
$t->sql("ALTER SERVER redis OPTIONS (SET url 'unix:///nowhere/redis.sock')");
$session->query_safe("SELECT mlcache.get('h:151')");
is($session->query_safe('SELECT source FROM mlcache.last_read()'), 'row', 'ALTER SERVER closes its connection');
$t->sql("ALTER SERVER redis OPTIONS (SET url '$url')");
$t->wait_armed;
$t->wait_for('the session to come back',
	sub {
		$session->query_safe("SELECT mlcache.get('h:152')");
		$session->query_safe('SELECT source FROM mlcache.last_read()') ne 'row';
	});
ok(1, 'and it comes back');
$session->quit;

# ---------- one loader a key ----------

my $first = $t->node->background_psql('postgres');
my $holder = $t->hold('get-before-load');
$first->query_safe("SET mlcache.lease_timeout = '10min'");
$first->query_safe("SET mlcache.fault_points = 'get-before-load=wait'");
$first->{stdin} .= "SELECT mlcache.get('h:180');\n";
$first->{run}->pump_nb;
$t->wait_held('get-before-load');
is($t->sql("SET mlcache.lease_wait = 0; SELECT mlcache.get('h:180') IS NOT NULL; SELECT source FROM mlcache.last_read()"),
	"t\nrow", 'who does not wait for the loader reads the row');
my $waiter = $t->node->background_psql('postgres');
$waiter->query_safe("SET mlcache.lease_wait = '60s'");
$waiter->{stdin} .= "SELECT mlcache.get('h:180'); SELECT 'waited ' || source FROM mlcache.last_read();\n";
$waiter->{run}->pump_nb;
$t->wait_for('the waiter to wait', sub {
	$t->sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%h:180%'"
		  . " AND wait_event_type = 'Extension' AND pid <> pg_backend_pid()") == 1 });
$holder->quit;
$t->wait_for('the waiter',
	sub { $waiter->{run}->pump_nb; $waiter->{stdout} =~ /waited/ });
like($waiter->{stdout}, qr/waited L[12]/, 'who waits gets what the loader cached');
$waiter->quit;
$first->quit;

$t->stop;
done_testing();
