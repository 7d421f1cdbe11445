# Free keys, tags and fetch in a Redis Cluster: what one Redis promises, whatever
# slots move and whichever masters are killed.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcFetchLoad;
use MlcTest;
use Test::More;

my $t = MlcTest->new('cluster_fetch', no_tables => 1,
	# every master may be replaced before a new relay has to find the cluster
	cluster => { replicas => 2, seeds => 9 }, conf => "mlcache.l1_size = 0\n");
my $cluster = $t->redis;
my $ns = $t->ns;

my $load = MlcFetchLoad->new($t);

sub run
{
	my ($sql) = @_;

	$t->sql($sql);
	$t->wait_applied;
}

sub get { return $t->sql("SELECT mlcache.get('$_[0]')") }

# How many of so many keys are there?
sub count
{
	my ($prefix, $n) = @_;

	return $t->sql("SELECT count(mlcache.get('$prefix:' || i)) FROM generate_series(1, $n) i");
}

# All names of indexes, whichever master has them; not what was left behind on
# another when a move of its slot was broken off.
sub indexes
{
	my ($what) = @_;
	my @found;

	for my $node ($cluster->masters)
	{
		push @found, grep { !ref $node->try('EXISTS', $_) }
		  @{ $node->command('KEYS', "mlc:state:{*}tag:$ns:$what") };
	}
	return @found;
}

# The lowest number whose digits are in the slot of a key.
my %number;
sub number_of
{
	my $slot = $cluster->slot($_[0]);
	my ($node) = $cluster->masters;

	for (my $n = 1; !$number{$slot}; $n++)
	{
		$number{$slot} = $n if $node->command('CLUSTER', 'KEYSLOT', $n) == $slot;
	}
	return $number{$slot};
}

# ---------- free keys ----------

run("SELECT count(mlcache.set('set:' || i, 'one ' || i, CASE WHEN i % 2 = 0 THEN interval '1 hour' END,"
	  . " ARRAY['all', 't' || i % 3])) FROM generate_series(1, 60) i");
is(get('set:7'), 'one 7', 'what is set is read back');
is(count('set', 60), 60, 'wherever its slot is');
for my $node ($cluster->masters)
{
	cmp_ok($node->command('DBSIZE'), '>', 20, 'a master has its share');
}
is($t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT 'set:' || i FROM generate_series(1, 60) i))"),
	60, 'many at once');
is($cluster->command('GET', 'set:7'), 'one 7', 'a bare GET works');
is($t->sql("SELECT mlcache.exists('set:7'), mlcache.exists('set:nine')"), 't|f', 'exists');
cmp_ok($cluster->command('PTTL', 'set:8'), '>', 3000000, 'with a time to live');
run("SELECT mlcache.touch('set:7', '1 hour'), mlcache.touch('set:8')");
cmp_ok($cluster->command('PTTL', 'set:7'), '>', 3000000, 'touch gives one');
is($cluster->command('PTTL', 'set:8'), -1, 'and takes it');
run("SELECT mlcache.set('set:9', 'two'), mlcache.delete('set:10'), mlcache.invalidate('set:11')");
is(get('set:9'), 'two', 'it is set again');
is($t->sql("SELECT mlcache.get('set:10') IS NULL, mlcache.get('set:11') IS NULL"), 't|t', 'delete and invalidate');
$t->sql("BEGIN; SELECT mlcache.set('set:9', 'three'); ROLLBACK");
$t->wait_applied;
is(get('set:9'), 'two', 'a rollback sets nothing');

run("SELECT mlcache.set('a}{b}', 'odd')");
is(get('a}{b}'), 'odd', 'a hash tag behind a brace');

# ---------- tags and patterns ----------

run("SELECT mlcache.invalidate_tag('t1')");
is($t->sql("SELECT string_agg(i % 3 || ' ' || (v IS NOT NULL)::text, ',' ORDER BY i % 3) FROM (SELECT i % 3 AS i, max(mlcache.get('set:' || i)) AS v FROM generate_series(12, 60) i GROUP BY 1) s"),
	'0 true,1 false,2 true', 'a tag goes on every master, and others stay');
is(scalar(indexes('t:t1')), 0, 'and so does its index');
run("SELECT mlcache.invalidate_pattern('set:2*')");
is($t->sql("SELECT count(mlcache.get('set:' || i)) FROM generate_series(20, 29) i"), 0, 'a pattern');
run("SELECT mlcache.set('late', 'x', NULL, '{t2}'), mlcache.invalidate_tag('t2'), mlcache.set('later', 'x', NULL, '{t2}')");
is($t->sql("SELECT mlcache.get('late') IS NULL, mlcache.get('later')"), 't|x', 'in the order of the calls');
run("SELECT mlcache.invalidate_tag('all')");
is(count('set', 60), 1, 'all of them, but for what was set again without it');
# more members in a slot than a step looks at
run("SELECT count(mlcache.set('{big}:' || i, 'x', NULL, '{big}')) FROM generate_series(1, 1000) i");
is(count('{big}', 1000), 1000, 'many in one slot');
run("SELECT mlcache.invalidate_tag('big')");
is(count('{big}', 1000), 0, 'go with their tag');

# ---------- fetch ----------

sub source
{
	my ($call) = @_;

	return $t->sql("SELECT 1 FROM (SELECT $call) s; SELECT source FROM mlcache.last_read()") =~ s/^1\n//r;
}
for my $g (0, 2, 3)
{
	is(source("document($g)"), 'load', "$g: the query runs");
	is(source("document($g)"), 'L2', "$g: and is cached");
}
run('UPDATE doc SET ver = 2 WHERE id = 2');
is(source('document(2)'), 'load', 'a change of the table removes it');
run("SELECT mlcache.invalidate('doc:2')");
is(source('document(2)'), 'load', 'so does an invalidation of the key');
is(source('document(2)'), 'L2', 'and it is cached again');

# ---------- while a slot is on its way ----------

# Everything that can be done to a key, at each step of its slot, one name (entry,
# guard, index) at a time.
{
	my $key = 'move:1';
	my $to = $cluster->other_master($key);
	my $step = 0;
	my $hits = 0;

	run("SELECT mlcache.set('$key', 'old', NULL, '{here,all}'), mlcache.set('{$key}:2', 'old', NULL, '{here}')");
	$cluster->move_slot($cluster->slot($key), $to, batch => 1, between => sub {
		$step++;
		$hits += $t->sql("SELECT (mlcache.get('$key') IS NOT NULL)::int");
		run("SELECT mlcache.set('$key', 'new $step', NULL, '{here}')");
		is(get($key), "new $step", "step $step: what is set is read back");
		is(join(' ', grep { $_ ne "new $step" } $cluster->copies($key)), '', "step $step: no old copy is anywhere");
		run("SELECT mlcache.touch('$key', '1 hour')");
		is(get($key), "new $step", "step $step: it is touched");
		return if $step % 3 == 1;
		run("SELECT mlcache.invalidate_tag('here')") if $step % 3 == 2;
		run("SELECT mlcache.delete('$key')") if $step % 3 == 0;
		is(join(' ', $cluster->copies($key), $step % 3 == 2 ? $cluster->copies("{$key}:2") : ()), '', "step $step: removed, it is nowhere");
		run("SELECT mlcache.set('$key', 'left', NULL, '{here,all}'), mlcache.set('{$key}:2', 'left', NULL, '{here}')");
	});
	cmp_ok($step, '>=', 4, 'there were steps');
	cmp_ok($hits, '>=', 1, 'and it was read before it was set again');
	run("SELECT mlcache.set('$key', 'moved', NULL, '{here}')");
	is($to->command('GET', $key), 'moved', 'it is set at the new master');
	run("SELECT mlcache.invalidate_tag('all')");
	is(join(' ', $cluster->copies($key)), 'moved', 'without the tag that it had before');
	run("SELECT mlcache.set('{$key}:2', 'moved', NULL, '{here}')");
	run("SELECT mlcache.invalidate_tag('here')");
	is(join(' ', $cluster->copies($key), $cluster->copies("{$key}:2")), '', 'and an invalidation finds it');
}

# What was filled before, with nothing set on the way, at each step of another key.
my $moving = 0;
sub move_with
{
	my ($n, $what, $between, @fault) = @_;
	my $left = '';

	for my $when (0 .. $n - 1)
	{
		my $key = 'with:' . ++$moving;
		my $step = 0;

		run("SELECT mlcache.set('$key', 'old', NULL, '{with}'), mlcache.set('{$key}:2', 'old', NULL, '{with}')");
		$t->set_relay_fault(@fault) if @fault;
		$cluster->move_slot($cluster->slot($key), $cluster->other_master($key), batch => 1, between => sub {
			return if $step++ != $when;
			run($between->($key));
			$left .= join ' ', $cluster->copies($key), $cluster->copies("{$key}:2");
		});
		$t->clear_fault if @fault;
		cmp_ok($step, '>', $when, "$what: step $when");
	}
	return $left;
}
is(move_with(7, 'tag', sub { "SELECT mlcache.invalidate_tag('with')" }), '', 'a tag reaches both sides of a slot');
isnt(move_with(4, 'no detour', sub { "SELECT mlcache.invalidate_tag('with')" }, 'relay-detour=skip'),
	'', 'without the detour it does not');
run("SELECT mlcache.invalidate_pattern('*with:*')");

# Without setting it where it belongs, a key is gone.
for my $skip (0, 1)
{
	my $left = move_with(5, $skip ? 'no set' : 'set',
		sub { "SELECT mlcache.set('$_[0]', 'set', NULL, '{with}'), mlcache.delete('{$_[0]}:2')" },
		$skip ? 'relay-detour-set=skip' : ());
	my $n = () = $left =~ /set/g;

	cmp_ok($n, $skip ? '<' : '==', 5, $skip ? 'or it is gone' : 'a key is set wherever its slot is');
	is($left =~ s/set//gr, '', 'and nothing else is there');
}

# A free key that is on its way is read where it is; else it would not be there.
for my $skip (0, 1)
{
	my $key = "follow:$skip";
	my @read;

	run("SELECT mlcache.set('$key', 'old')");
	$t->set_fault('free-follow=skip') if $skip;
	$cluster->move_slot($cluster->slot($key), $cluster->other_master($key), batch => 1,
		between => sub { push @read, get($key) });
	$t->clear_fault;
	is($read[0] . $read[-1], $skip ? 'old' : 'oldold', $skip ? 'without following it is not there' : 'a key that is on its way is read');
	is(get($key), 'old', 'when it has arrived it is there');
}

# A lease of a reader that goes with its slot.
{
	my $key = '{lease}:1';
	my $index = "mlc:state:{" . number_of($key) . "}tag:$ns:t:lease";
	my $to = $cluster->other_master($key);
	my $position;

	is($cluster->command('FCALL', 'mlc_get_tagged', 2, $key, $index, 'token', 600000, $ns, 0)->[0],
		'lease', 'a client takes a lease');
	$cluster->move_slot($cluster->slot($key), $to);
	run("SELECT mlcache.invalidate_tag('lease')");
	$position = $cluster->command('FCALL', 'mlc_state', 0, $ns)->[1];
	is($cluster->command('FCALL', 'mlc_fill', 1, $key, 'token', 'old', 0, $position, $position, 0, $ns),
		'refused', 'and cannot fill after the invalidation');
}

# ---------- under load, with L1 ----------

$t->node->append_conf('postgresql.conf', 'mlcache.l1_size = 4MB');
$t->node->restart;
$t->wait_armed;

# The slots of documents and free keys go to other masters.
sub reshard
{
	my @keys = (map({ "free:$_" } 1 .. 8), 'note:1', grep { /^#/ }
		map { @{ $_->command('KEYS', '#*:doc:*') } } $cluster->masters);

	for my $key (@keys)
	{
		$cluster->move_slot($cluster->slot($key), $cluster->other_master($key), batch => 1,
			between => sub { $load->let_write(3) });
	}
}

sub victim { return (grep { $cluster->replicas_of($_) } $cluster->masters)[0] }

$load->start;
$load->let_write(100);
reshard();
$load->let_write(50);
$cluster->fail_over(victim());
$t->wait_armed;
$load->let_write(50);
kill 'KILL', $t->running_relay;			# a crash of the whole server
$t->wait_armed;
$load->let_write(50);
$t->exit_relay('relay-after-send');
{
	my $n = 0;

	eval {
		$cluster->move_slot($cluster->slot('free:9'), $cluster->other_master('free:9'), batch => 1,
			between => sub { $load->let_write(5); $cluster->fail_over(victim()) if ++$n == 2; });
	};
	$cluster->settle;
}
$t->wait_armed;
$load->let_write(50);
$cluster->elect(victim());
$t->wait_armed;
$load->let_write(100);
$load->let_read('L1', 'L2', 'load', 'row', 'free L1', 'free L2');
$load->stop;
$load->was_coherent;
$load->is_coherent('after faults');

# Without its steps through the slots' indexes the load sees it.
$t->set_relay_fault('relay-untag=skip');
$load->start(qw(reader reader reader writer writer));
$t->wait_for('what is older', sub { $load->violations > 0 });
$load->stop;
pass('without tags on every master it is seen');
$t->set_relay_fault();
run('UPDATE doc SET ver = ver + 1');
run("SELECT mlcache.invalidate_pattern('free:*'), mlcache.invalidate_pattern('note:*')");
run("SELECT mlcache.set('free:1', (SELECT ver::text FROM doc WHERE id = 1))");
$load->is_coherent('after that');

# ---------- what is left behind ----------

$t->sql("SELECT count(mlcache.set('brief:' || i, 'x', '1 ms', '{brief}')) FROM generate_series(1, 300) i");
$t->wait_for('the indexes to be empty', sub { !indexes('t:brief') });
pass('indexes that nobody asks for are emptied');
$t->sql("SELECT mlcache.detach('doc')");
$t->wait_for('the purge', sub { !indexes('*') });
is(scalar(map { my $node = $_; grep { !ref $node->try('EXISTS', $_) } @{ $node->command('KEYS', '*free:*') } }
		  $cluster->masters), 0, 'without rules nothing is left');

$t->stop;
done_testing();
