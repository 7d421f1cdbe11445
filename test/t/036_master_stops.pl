# A Redis Cluster, one of whose masters stops in the middle of a batch: the
# others go on being delivered to, and it is told what it has missed as soon as
# it answers, wherever keys have gone meanwhile.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;
use Time::HiRes qw(usleep);

# nobody is replaced, however long a test takes on a busy machine
$MlcCluster::node_timeout = 600_000;

my $t = MlcTest->new('master_stops', cluster => {}, cold => 500, server => "timeout '3600000'");
my $cluster = $t->redis;

# ---------- what is looked at ----------

$t->sql(<<'SQL');
CREATE TABLE g (id int PRIMARY KEY, n int);
INSERT INTO g SELECT n, 0 FROM generate_series(1, 2000) n;
SELECT mlcache.attach('g', key => 'g:{id}');
SQL
$t->wait_applied;
my @ids = 1 .. 2000;			# each is used once

sub freeze
{
	my ($node) = @_;

	$node->freeze;
	$node->{gone} = 1;			# nobody asks it
}

sub thaw
{
	my ($node) = @_;

	$node->thaw;
	$node->{gone} = 0;
}

# Those that give leave to fill; only one that was down is to be armed again, for
# which it needs all of them.
sub armed
{
	my %armed = map { $_ => 1 } split /\n/, $t->sql("SELECT node FROM mlcache.stat_nodes WHERE state = 'armed'");

	return grep { $armed{"127.0.0.1:$_->{port}"} } @_;
}

# The next row whose key this master has, or another one that is armed.
sub key_of
{
	my ($node, $other) = @_;
	my @nodes = $other ? armed(grep { $_ != $node } $cluster->masters) : ($node);

	for (0 .. $#ids)
	{
		my $key = "g:$ids[$_]";
		my $owner = $cluster->owner($cluster->slot($key));

		next unless defined $owner && grep { $_ == $owner } @nodes;
		splice(@ids, $_, 1);
		return $key;
	}
	die 'no more keys';
}

# Two of one slot.
sub pair_of
{
	my ($node) = @_;
	my %found;

	for my $id (@ids)
	{
		my $slot = $cluster->slot("g:$id");

		if ($found{$slot} && $cluster->owner($slot) == $node)
		{
			@ids = grep { $_ != $id && $_ != $found{$slot} } @ids;
			return ("g:$found{$slot}", "g:$id");
		}
		$found{$slot} = $id;
	}
	die 'no more pairs';
}

sub cache
{
	my ($key) = @_;

	$t->wait_for("a copy of $key", sub { $t->fill_key($key) eq 'ok' });
	return $key;
}

# Changes the row; the version of that.
sub change
{
	my ($key) = @_;
	my ($id) = $key =~ /(\d+)/;

	return $t->sql("UPDATE g SET n = n + 1 WHERE id = $id; SELECT mlcache.last_commit_version()");
}

sub is_gone { return !defined $cluster->command('GET', $_[0]) }

# While a master is stopped, keys of the others go.
sub others_go_on
{
	my ($node, $name, $n) = @_;
	my $version;

	for (1 .. $n)
	{
		my $key = cache(key_of($node, 1));

		$version = change($key);
		$t->wait_for("$key to go", sub { is_gone($key) });
	}
	pass("$name: keys of the others go");
	return $version;
}

sub applied_anywhere
{
	return $t->sql("SELECT count(*) FROM mlcache.stat_nodes WHERE applied >= '$_[0]'");
}

my $position = $t->log_position;

# ---------- under load ----------

$t->start_load;
for my $n (0 .. 2)
{
	my $node = ($cluster->masters)[$n];
	my $key = cache(key_of($node));
	my $version;

	$t->let_write(50);
	freeze($node);
	change($key);
	$version = others_go_on($node, "master $n", 5);
	$t->let_write(50);
	is(applied_anywhere($version), 0, "master $n: nothing is called applied");
	is($t->stat('state'), 'armed', "master $n: nobody is down");
	thaw($node);
	$t->wait_applied;
	ok(is_gone($key), "master $n: it is told what it has missed");
}
$t->finish_load('stopped');
is($t->count_log(qr/is (?:out of reach|purged)/, $position), 0, 'nobody was connected anew');

# ---------- what it misses, of all kinds ----------

{
	my $node = ($cluster->masters)[1];

	$t->python('fill');
	cmp_ok(scalar @{ $node->command('KEYS', 'i:*') }, '>', 100, 'copies');
	freeze($node);
	others_go_on($node, 'before', 1);
	$t->sql("SELECT mlcache.invalidate_pattern('p:*')");
	others_go_on($node, 'a pattern', 1);
	$t->sql('TRUNCATE i');
	$t->sql("INSERT INTO i VALUES (1, 1, 1)");
	$t->sql("UPDATE u SET n = n + 1; UPDATE r SET n = n + 1; DELETE FROM r WHERE id < 10");
	others_go_on($node, 'TRUNCATE', 1);
	$t->sql("INSERT INTO r VALUES (5, 5, 5); UPDATE r SET n = n + 1 WHERE id = 5");
	others_go_on($node, 'values', 1);
	thaw($node);
	$t->is_coherent('all kinds');
	is(scalar(map { @{ $_->command('KEYS', '[ip]:*') } } $cluster->masters), 0, 'TRUNCATE and the pattern');
	is(join(' ', map { $cluster->command('GET', "r:$_") // 'none' } 1 .. 9),
		'none none none none {"id":5,"n":6,"ver":5,"note":null} none none none none', 'replicated rows');
}

# ---------- slots that move meanwhile ----------

# From one of the others to the other, which need not ask the one that is stopped.
$t->start_load;
for my $n (0 .. 2)
{
	my $node = ($cluster->masters)[$n];

	freeze($node);
	others_go_on($node, "slots and master $n", 1);
	for my $key (map { ("r:$_", "u:$_", "i:$_") } 1 .. 60)
	{
		my $from = $cluster->owner($cluster->slot($key));
		my ($to) = grep { $_ != ($from // $node) } $cluster->masters;

		next if !$from || rand() > 0.1;
		$cluster->move_slot($cluster->slot($key), $to, batch => 1);
	}
	others_go_on($node, "slots moved and master $n", 1);
	thaw($node);
	$t->wait_applied;
}
$t->finish_load('slots moved', missing => 0);
is($t->count_log(qr/is (?:out of reach|purged)/, $position), 0, 'still nobody was connected anew');

# From one that answers all but the relay, to another, along with a key that was
# changed meanwhile.  Is that copy left there?
sub is_left
{
	my (@faults) = @_;
	my ($node) = $cluster->masters;
	my ($moving, $other) = map { cache($_) } pair_of($node);
	my $to = $cluster->other_master($moving);
	my $left;

	$t->set_relay_fault("relay-take-back-$node->{port}=skip", @faults);
	freeze($node);
	others_go_on($node, 'it does not answer', 2);
	change($moving);
	others_go_on($node, 'it has missed a change', 1);
	thaw($node);
	$cluster->move_slot($cluster->slot($moving), $to);
	ok(!is_gone($moving), "$moving: the old copy has moved");
	$t->wait_for('the relay to know where', sub { change($other); is_gone($other) });
	$t->set_fault(@faults);
	$t->wait_applied;
	$left = !is_gone($moving);
	$t->clear_fault;
	change($moving);
	$t->wait_applied;
	return $left;
}

ok(!is_left(), 'what it has missed goes where it is by now');
# a moment's silence of another one brings it there, too
my $left;

for (1 .. 10)
{
	last if $left = is_left('relay-aside-members=skip');
}
ok($left, 'but not when it alone gets that');

# A pattern names a key whose guard it has met alone, while the entry is with
# another master by now.  It is set aside when it tells so, or that one is.
for my $silent (0, 1)
{
	my @masters = $cluster->masters;
	my ($from, $to) = @masters;
	my $key = cache(key_of($from));
	my $slot = $cluster->slot($key);
	my $holder;

	$to->command('CLUSTER', 'SETSLOT', $slot, 'IMPORTING', $from->{id});
	$from->command('CLUSTER', 'SETSLOT', $slot, 'MIGRATING', $to->{id});
	$from->command('MIGRATE', '127.0.0.1', $to->{port}, '', 0, 60_000, 'KEYS', $key);
	is(scalar $cluster->copies($key), 1, "$key: the entry has moved");
	$t->set_relay_fault('relay-before-send=wait');
	$holder = $t->hold('relay-before-send');
	$t->sql("SELECT mlcache.invalidate_pattern('$key')");
	$t->wait_held('relay-before-send');
	freeze($masters[$silent]);
	$holder->quit;
	others_go_on($masters[$silent], 'a pattern meets half a key', 1);
	thaw($masters[$silent]);
	$t->wait_applied;
	is(join(' ', $cluster->copies($key)), '', "$key: the pattern has removed it all the same");
	$t->clear_fault;
	$cluster->move_slot($slot, $to);
}

# ---------- killed while it is set aside ----------

$t->start_load;
{
	my $node = ($cluster->masters)[0];
	my $key = cache(key_of($node));

	$t->let_write(50);
	freeze($node);
	change($key);
	others_go_on($node, 'about to be killed', 3);
	$cluster->fail_over($node);
	$t->let_write(50);
	$t->wait_applied;
	ok(is_gone($key), 'its replica is told');
}
$t->finish_load('killed');
$t->wait_armed;

# ---------- more than is kept for it ----------

{
	my $node = ($cluster->masters)[1];

	$position = $t->log_position;
	$t->set_relay_conf("mlcache.relay_work_mem = '1MB'");
	freeze($node);
	others_go_on($node, 'with a large one before', 1);
	$t->sql("UPDATE u SET note = repeat('x', 3000); UPDATE r SET note = repeat('y', 3000)");
	others_go_on($node, 'with a large one after', 2);
	$t->wait_log(qr/is out of reach.*\n.*mlcache.relay_work_mem/, $position);
	# unless they have hung, too, while so much was sent
	others_go_on($node, 'while it is down', 2) if armed(grep { $_ != $node } $cluster->masters);
	thaw($node);
	$t->is_coherent('too much');
	$t->set_conf('');
}

# ---------- without ----------

# Nothing is kept.
{
	my ($node) = $cluster->masters;
	my $key = cache(key_of($node));

	$t->set_relay_fault('relay-aside-keep=skip');
	freeze($node);
	change($key);
	others_go_on($node, 'nothing kept', 2);
	thaw($node);
	$t->wait_applied;
	ok(!is_gone($key), 'what is not kept stays');
	$t->clear_fault;
	change($key);
	$t->wait_applied;
}

# Applied by each master alone.
{
	my ($node) = $cluster->masters;
	my $version;

	$t->set_relay_fault('relay-together=skip');
	freeze($node);
	$version = others_go_on($node, 'alone', 1);
	$t->wait_for('another claim', sub { applied_anywhere($version) > 0 });
	pass('others call applied what one has not had');
	$t->clear_fault;
	thaw($node);
	$t->wait_applied;
}

# Nobody is set aside: whichever master it is that stops, all of them stand.
for my $n (0 .. 2)
{
	my $node = ($cluster->masters)[$n];
	my @keys = map { cache(key_of($_)) } $cluster->masters;
	my $waits = 0;

	$t->set_relay_fault('relay-aside=skip');
	freeze($node);
	change($_) for @keys;
	# for much longer than it is waited for otherwise
	for (1 .. 25)
	{
		usleep(20_000);
		$waits++ unless grep { $cluster->owner($cluster->slot($_)) && is_gone($_) } @keys;
	}
	is($waits, 25, "master $n: nothing is delivered");
	thaw($node);
	$t->wait_applied;
	is(scalar(grep { !is_gone($_) } @keys), 0, "master $n: and then all is");
	$t->clear_fault;
}

# Commands wait until every master knows, the first one, too.
for my $n (0 .. 2)
{
	my $node = ($cluster->masters)[$n];
	my $key = cache(key_of($node, 1));

	$t->set_relay_fault('relay-aside=skip', 'relay-announced=skip');
	freeze($node);
	change($key);
	ok($t->wait_for("$key to go", sub { is_gone($key) }), "master $n: what is not waited for goes");
	thaw($node);
	$t->clear_fault;
	$t->wait_applied;
}

$t->stop;
done_testing();
