# Several servers, one of which stops in the middle of a batch: the others go
# on without it, and it is told what it has missed as soon as it answers.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use MlcRedis;
use MlcTest;
use Test::More;
use Time::HiRes qw(time);

my $t = MlcTest->new('stops', cold => 500, bare => 1);
my $eu = MlcRedis->new('eu');

# Commits, each of which must become applied at the server that goes on; what
# the longest took, in seconds.
sub others_go_on
{
	my ($name, $n) = @_;
	my $longest = 0;
	my $version;

	for (1 .. $n)
	{
		my $began = time();

		$version = $t->wait_applied;
		my $took = time() - $began;
		$longest = $took if $took > $longest;
	}
	ok(1, $name);
	note(sprintf('the longest commit took %.0f ms to be applied', $longest * 1000));
	return $version;
}

sub wait_eu
{
	my ($version) = @_;

	$t->wait_for("eu at $version", sub {
			$t->sql("SELECT state = 'armed' AND applied >= '$version' FROM mlcache.stat_servers WHERE server = 'eu'") eq 't' });
}

# Every copy there equals its row.
sub eu_is_coherent
{
	my ($name, %opt) = @_;
	my $result;

	wait_eu($t->wait_applied);
	$result = $t->python('compare', redis => $eu->socket);
	is(join("\n", $result->{nstale}, @{ $result->{stale} }), '0', "$name: every copy equals its row");
	is(join("\n", $result->{nmissing}, @{ $result->{missing} }), '0', "$name: every replicated row is there")
	  unless $opt{missing};
	cmp_ok($result->{entries}, '>', 100, "$name: there were copies to compare");
}

$eu->start;
# one that comes back has changes delivered again, and closes what is set aside
$t->create_server("timeout '60000'");
$t->sql("CREATE SERVER eu FOREIGN DATA WRAPPER mlcache OPTIONS (url '" . $eu->url . "', timeout '3600000')");
$t->create_tables;
$t->wait_armed('eu');
my $position = $t->log_position;

# ---------- under load ----------

$t->start_load;
$t->python('fill', redis => $eu->socket);
for my $n (1 .. 5)
{
	my $version;

	$t->let_write(100);
	$eu->freeze;
	# something it has to be told
	$t->sql('UPDATE i SET n = n + 1 WHERE id = 1001');
	$version = others_go_on("$n: the other server goes on", 10);
	$t->let_write(50);
	is($t->stat("state || ' ' || (applied < '$version')", 'eu'), 'armed true',
		"$n: the one that is stopped stays behind");
	$eu->thaw;
	wait_eu($version);
	$t->let_write(20);
}
$t->finish_load('stopped');
eu_is_coherent('stopped');
is($t->count_log(qr/server "eu" is (?:out of reach|purged)/, $position), 0, 'it was not connected anew');

# ---------- what it misses, of all kinds ----------

$t->sql('CREATE TABLE product (id int PRIMARY KEY, n int)');
$t->sql("SELECT mlcache.attach('product', tag => 'search')");
$t->sql("SELECT mlcache.set('banner', 'old'); SELECT mlcache.set('tagged', 'old', tags => '{search}'); SELECT mlcache.set('list:1', 'old')");
wait_eu($t->wait_applied);
is(join(' ', map { $eu->command('GET', $_) } qw(banner tagged list:1)), 'old old old', 'free keys');
$t->python('fill', redis => $eu->socket);
cmp_ok(scalar @{ $eu->command('KEYS', 'i:*') }, '>', 100, 'copies');
$eu->freeze;
others_go_on('a first one', 1);
$t->sql("SELECT mlcache.set('banner', 'new'); SELECT mlcache.set('other', 'new')");
$t->sql("INSERT INTO product VALUES (1, 1)");
$t->sql("SELECT mlcache.invalidate_pattern('list:*')");
others_go_on('a second', 1);
$t->sql('TRUNCATE i');
$t->sql("INSERT INTO i VALUES (1, 1, 1)");
$t->sql("UPDATE u SET n = n + 1; UPDATE r SET n = n + 1; DELETE FROM r WHERE id = 1");
$t->sql("SELECT mlcache.set('other', 'newer')");
others_go_on('a third', 2);
$eu->thaw;
wait_eu($t->wait_applied);
is(join(' ', map { $eu->command('GET', $_) // 'none' } qw(banner other tagged list:1 r:1)),
	'new newer none none none', 'values, tags, patterns, removals');
is(scalar @{ $eu->command('KEYS', 'i:*') }, 0, 'TRUNCATE');
$t->sql("SELECT mlcache.delete('banner'), mlcache.delete('other')");
eu_is_coherent('all kinds');

# ---------- more than is kept for it ----------

$position = $t->log_position;
$t->set_conf("mlcache.relay_work_mem = '1MB'");
$t->wait_for('the setting', sub { $t->sql('SHOW mlcache.relay_work_mem') eq '1MB' });
$eu->freeze;
others_go_on('with a large one before', 1);
$t->sql("UPDATE u SET note = repeat('x', 3000); UPDATE r SET note = repeat('y', 3000)");
others_go_on('with a large one after', 2);
$t->wait_log(qr/server "eu" is out of reach.*\n.*mlcache.relay_work_mem/, $position);
$eu->thaw;
eu_is_coherent('too much');
$t->set_conf('');

# ---------- both stop, and one comes back ----------

$t->sql("ALTER SERVER redis OPTIONS (SET timeout '2000')");
$t->wait_applied;
wait_eu($t->wait_applied);
$eu->freeze;
$t->redis->freeze;
$t->sql('UPDATE u SET n = n + 1');
$t->wait_state('down');
$t->redis->thaw;
others_go_on('the one that is back goes on', 3);
$eu->thaw;
eu_is_coherent('both');
$t->sql("ALTER SERVER redis OPTIONS (SET timeout '60000')");
$t->wait_applied;

# ---------- nobody is left who knows what it has missed ----------

$t->start_load;
$eu->freeze;
others_go_on('before the relay goes', 2);
$t->sql("SELECT pg_terminate_backend(" . $t->running_relay . ")");
$eu->thaw;
$t->wait_armed;
$t->let_write(50);
$t->finish_load('relay gone');
eu_is_coherent('relay gone');

# ---------- a reload does not wait for it ----------

$t->sql('CREATE TABLE d (id int PRIMARY KEY, n int); INSERT INTO d VALUES (1, 0);'
	  . "SELECT mlcache.attach('d', key => 'd:{id}', action => 'refresh')");
wait_eu($t->wait_applied);

# It stops while the relay is held at a point before or in a reload.
sub stops_at
{
	my ($point, $what) = @_;
	my ($holder, $n);

	$t->set_relay_fault("$point=wait");
	$holder = $t->hold($point);
	$n = $t->sql('UPDATE d SET n = n + 1 RETURNING n');
	$t->wait_held($point);
	$eu->freeze;
	$t->clear_fault;
	$holder->quit;
	others_go_on("$what: changes do not wait", 2);
	$t->wait_for("$what: the document",
		sub { ($t->redis->command('GET', 'd:1') // '') eq qq({"id":1,"n":$n}) });
	pass("$what: nor does the document");
	$eu->thaw;
	wait_eu($t->wait_applied);
}

stops_at('relay-before-applied', 'before it gives a lease');
stops_at('relay-reload', 'before it takes the document');

# Nor for one that is paused before it has taken it.
$t->set_relay_fault('relay-reload=wait');
my $holder = $t->hold('relay-reload');
$t->sql('UPDATE d SET n = 7');
$t->wait_held('relay-reload');
$eu->freeze;
$t->clear_fault;
$holder->quit;
$t->wait_for('the document',
	sub { ($t->redis->command('GET', 'd:1') // '') eq '{"id":1,"n":7}' });
$t->sql("SELECT mlcache.pause('eu')");
$t->sql('UPDATE d SET n = 8');
$t->wait_for('the next one',
	sub { ($t->redis->command('GET', 'd:1') // '') eq '{"id":1,"n":8}' });
pass('documents do not wait for a server that is paused');
$eu->thaw;
$t->sql("SELECT mlcache.resume('eu')");
wait_eu($t->wait_applied);

# ---------- L1 ----------

# Readers of this server get through to the Redis that does not answer the
# relay, and put what they find there into L1.
my $through = $t->redis->{dir} . '/p';
my ($in, $out) = ('', '');
my $proxy = IPC::Run::start(
	[ $ENV{MLC_PYTHON} // '/usr/bin/python3', "$FindBin::RealBin/lib/proxy.py", $through, $t->redis->socket ],
	'<', \$in, '>', \$out);

sub network
{
	my ($word) = @_;

	$in .= "$word\n" if $word;
	$t->wait_for('the proxy', sub { $proxy->pump_nb; $out =~ s/^ok\n// });
}

network('');
$position = $t->log_position;
$t->sql("ALTER SERVER redis OPTIONS (SET url 'unix://$through', SET timeout '3600000'); ALTER SERVER eu RENAME TO zeta");
$t->wait_log(qr/server "redis" is connected/, $position);
$t->wait_armed($_) for qw(redis zeta);
$t->sql('CREATE TABLE a (id int PRIMARY KEY, n int); INSERT INTO a SELECT g, 0 FROM generate_series(1, 9) g;'
	  . "SELECT mlcache.attach('a', key => 'a:{id}')");

# What is read of row 1 and in Redis of row 2 once the server has answered.
sub missed
{
	my (@faults) = @_;
	my $version;

	$t->sql('UPDATE a SET n = 0');
	$t->set_fault(@faults);
	$t->wait_applied;
	$t->sql("SELECT mlcache.get('a:1'), mlcache.get('a:2')");
	network('cut');
	for my $id (1, 2)
	{
		$version = $t->sql("UPDATE a SET n = 1 WHERE id = $id; SELECT mlcache.last_commit_version()");
		$t->wait_for('the other server', sub {
				$t->sql("SELECT applied >= '$version' FROM mlcache.stat_servers WHERE server = 'zeta'") eq 't' });
	}
	is($t->sql("SELECT mlcache.get('a:1')::json->>'n'; SELECT mlcache.get('a:1')::json->>'n'; SELECT source FROM mlcache.last_read()"),
		"0\n0\nL1", 'a reader puts what the server still has into L1');
	network('heal');
	$t->wait_for('the server', sub {
			$t->sql("SELECT applied >= '$version' FROM mlcache.stat_servers WHERE server = 'redis'") eq 't' });
	return $t->sql("SELECT mlcache.get('a:1')::json->>'n'") . ' '
	  . ($t->redis->command('GET', 'a:2') // 'none');
}

is(missed(), '1 none', 'L1 and Redis forget what the server has missed');
is(missed('relay-aside-l1=skip'), '0 none', 'unless L1 is not closed once more');
$t->sql("UPDATE a SET n = 2");
$t->wait_applied;
is(missed('relay-aside-keep=skip'), '0 {"id":2,"n":0}', 'or nothing is kept for it');

$t->clear_fault;
$in .= "quit\n";
$proxy->finish;
$eu->stop;
$t->stop;
done_testing();
