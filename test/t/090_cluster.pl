# Redis Cluster: three masters and their replicas.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('cluster', no_tables => 1, cluster => {}, conf => "mlcache.l1_size = 0\n");
my $cluster = $t->redis;

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE i (id int PRIMARY KEY, name text);
CREATE TABLE u (LIKE i INCLUDING ALL);
CREATE TABLE r (LIKE i INCLUDING ALL);
CREATE TABLE s (LIKE i INCLUDING ALL);
SELECT mlcache.attach('i', key => 'i:{id}');
SELECT mlcache.attach('u', key => 'u:{id}', action => 'update');
SELECT mlcache.attach('r', key => 'r:{id}', action => 'replicate');
SELECT mlcache.attach('s', key => 's:{id}', consistency => 'strong');
SQL
$t->wait_armed;
for my $table (qw(i u r s))
{
	$t->sql("INSERT INTO $table SELECT n, 'one' FROM generate_series(1, 300) n");
}
# else what is filled from here on goes again
$t->wait_applied;

sub name_of
{
	my ($key) = @_;

	return $t->sql("SELECT mlcache.get('$key')::json->>'name'");
}

# ---------- reading and invalidating, wherever a key is ----------

for my $table (qw(i u s))
{
	is($t->sql("SELECT count(*) FROM generate_series(1, 300) n, mlcache.get('$table:' || n) v WHERE v::json->>'name' = 'one'"),
		300, "$table: rows are read");
}
is($t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT 'i:' || n FROM generate_series(1, 300) n))"),
	300, 'many at once');
for my $node ($cluster->masters)
{
	cmp_ok($node->command('DBSIZE'), '>', 400, 'a master has its share of entries');
}
is($cluster->command('GET', 'i:7'), '{"id":7,"name":"one"}', 'a bare GET works');
$t->sql("UPDATE i SET name = 'two'; UPDATE u SET name = 'two'; UPDATE r SET name = 'two'; UPDATE s SET name = 'two'");
$t->wait_applied;
is(scalar(grep { defined $cluster->command('GET', "i:$_") } 1 .. 300), 0, 'a change removes all of them');
is(scalar(grep { defined $cluster->command('GET', "s:$_") } 1 .. 300), 0, 'and strong ones');
for my $table (qw(u r))
{
	is(scalar(grep { $cluster->command('GET', "$table:$_") =~ /two/ } 1 .. 300), 300, "$table: has new values");
}
$t->sql('TRUNCATE u');
$t->wait_applied;
is(scalar(grep { defined $cluster->command('GET', "u:$_") } 1 .. 300), 0, 'TRUNCATE purges every master');
$t->sql("INSERT INTO u SELECT n, 'two' FROM generate_series(1, 300) n");

# ---------- locks ----------

like($t->sql('SELECT mlcache.lock_namespace()'), qr/^\{db\d+\}$/, 'locks are in one slot');
is($t->sql("SELECT mlcache.lock_acquire_xact('account:7') > 0"), 't', 'a lock is taken');

# ---------- while a slot is on its way ----------

for my $table (qw(i u r s))
{
	my $key = "$table:7";
	my $slot = $cluster->slot($key);
	my $from = $cluster->owner($slot);
	my ($to) = grep { $_ != $from } $cluster->masters;
	my $step = 0;

	name_of($key);
	$cluster->move_slot($slot, $to, between => sub {
		my $name = "$table-" . ++$step;

		$t->sql("UPDATE $table SET name = '$name' WHERE id = 7");
		$t->wait_applied;
		is(name_of($key), $name, "$key, step $step: the new row is read");
		is(join(' ', grep { !/"$name"/ } $cluster->copies($key)), '', "$key, step $step: no old copy is anywhere");
		like($cluster->command('GET', $key) // '', qr/"$name"/, "$key, step $step: it is replicated")
		  if $table eq 'r' && $step == 99;
	});
	cmp_ok($step, '>=', 1, "$key: there were steps");
	$t->sql("UPDATE $table SET name = 'moved' WHERE id = 7");
	$t->wait_applied;
	is(name_of($key), 'moved', "$key: the new row is read at the new master");
	is($cluster->owner($slot), $to, "$key: the slot has moved");
	ok($t->wait_for('a hit', sub { name_of($key); ($to->command('GET', $key) // '') =~ /moved/ }),
		"$key: it is cached there");
}

# Without the detour an old copy is left on one of both sides.
{
	my $key = 'u:8';
	my $seen = 0;

	name_of($key);
	$t->set_relay_fault('relay-detour=skip');
	$cluster->move_slot($cluster->slot($key), $cluster->other_master($key), between => sub {
		$t->sql("UPDATE u SET name = 'late' WHERE id = 8");
		$t->wait_applied;
		$seen ||= grep { !/"late"/ } $cluster->copies($key);
		$t->sql("UPDATE u SET name = 'later' WHERE id = 8");
		$t->wait_applied;
		$seen ||= grep { !/"later"/ } $cluster->copies($key);
	});
	ok($seen, 'without the detour an old copy is seen');
	$t->clear_fault;
	$t->sql("UPDATE u SET name = 'late' WHERE id = 8");
	$t->wait_applied;
}

# A strong commit that no mark can cover: nobody fills until it is over.
for my $skip (0, 1)
{
	my $id = 20 + $skip;
	my $key = "s:$id";
	my $slot = $cluster->slot($key);
	my $to = $cluster->other_master($key);
	my $holder;
	my $writer;

	$t->wait_for('a hit', sub { name_of($key); defined $cluster->command('GET', $key) });
	$t->set_fault('strong-after-quarantine=wait', $skip ? 'strong-close-cluster=skip' : ());
	$holder = $t->hold('strong-after-quarantine');
	$writer = $t->node->background_psql('postgres', on_error_stop => 0);
	$cluster->move_slot($slot, $to, between => sub {
		return if $writer->{busy}++;
		$cluster->owner($slot)->command('UNLINK', $key, "mlc:{$key}");
		$writer->query_until(qr/sent/, "\\echo sent\nUPDATE s SET name = 'held' WHERE id = $id;\n");
		$t->wait_held('strong-after-quarantine');
	});
	is($to->command('FCALL', 'mlc_get', 1, $key, 'test', 60000)->[0], $skip ? 'lease' : 'unarmed',
		$skip ? 'without closing the cluster a reader may fill' : 'nobody fills while the commit is under way');
	$t->clear_fault;
	$holder->quit;
	$writer->quit;
	$t->wait_applied;
	$to->command('UNLINK', $key, "mlc:{$key}");
	is(name_of($key), 'held', 'and the new row is read');
}

# ---------- patterns while keys are on their way ----------

# A pattern meets what is on either side of a slot, or half there and half here.
for my $when (0 .. 2)
{
	for my $id (31, 32, 33)
	{
		my $key = "i:$id";
		my $step = 0;

		$t->wait_for('a hit', sub { name_of($key); defined $cluster->command('GET', $key) });
		$cluster->move_slot($cluster->slot($key), $cluster->other_master($key), batch => 1, between => sub {
			return if $step++ != $when;
			$t->sql("SELECT mlcache.invalidate_pattern('$key')");
			$t->wait_applied;
			is(join(' ', $cluster->copies($key)), '', "$key, step $when: the pattern leaves nothing anywhere");
		});
		cmp_ok($step, '>', $when, "$key: there was this step");
	}
}

# Keys that go from a master whose scan takes long to one that is through with
# his are met in a second round.
for my $skip (0, 1)
{
	my @keys = map { "i:$_" } 101 .. 160;
	my ($from, $to) = $cluster->masters;
	# what is to be scanned first: Redis 8 and Valkey go slot by slot
	my $tag = $cluster->key_in($cluster->first_slot($from));
	my $holder;
	my $pattern;
	my @late;

	$from->command('EVAL', "for i = 1, 50000 do redis.call('SET', KEYS[1] .. i, '') end", 1, $tag);
	# until another master is through first
	for (1 .. 30)
	{
		$t->wait_for('hits', sub {
			$t->sql("SELECT mlcache.mget(ARRAY(SELECT 'i:' || n FROM generate_series(101, 160) n))");
			return !grep { !defined $cluster->command('GET', $_) } @keys;
		});
		$t->wait_applied;
		# a master that is set aside gets the pattern once more, and all others
		$t->set_relay_fault('relay-swept=wait', 'relay-aside=skip', $skip ? 'relay-sweep-again=skip' : ());
		$holder = $t->hold('relay-swept');
		$pattern = $t->node->background_psql('postgres');
		$pattern->query_safe("SELECT mlcache.invalidate_pattern('i:1*')");
		$t->wait_held('relay-swept');
		@late = grep { defined $from->command('GET', $_) }
		  grep { $cluster->owner($cluster->slot($_)) == $from } @keys;
		last if @late;
		$t->clear_fault;
		$holder->quit;
		$pattern->quit;
	}
	cmp_ok(scalar @late, '>', 0, 'there are keys that the scan has not come to');
	$cluster->move_slot($cluster->slot($_), $to) for @late[ 0 .. ($#late < 5 ? $#late : 5) ];
	$t->clear_fault unless $skip;
	$holder->quit;
	$pattern->quit;
	$t->wait_applied;
	cmp_ok(scalar(grep { defined $cluster->command('GET', $_) } @keys), $skip ? '>' : '==', 0,
		$skip ? 'one round alone passes them by' : 'and they are gone');
	$t->clear_fault;
	$t->sql("SELECT mlcache.invalidate_pattern('i:1*')");
	$t->wait_applied;
	$from->command('EVAL', "for i = 1, 50000 do redis.call('UNLINK', KEYS[1] .. i) end", 1, $tag);
}

# ---------- a master away ----------

# The others are delivered to, but nothing is called applied: what comes to them
# from there with a slot must be as new as they say.
for my $skip (0, 1)
{
	my $away = $cluster->owner($cluster->slot('i:7'));
	my ($id) = grep { $cluster->owner($cluster->slot("i:$_")) != $away } 1 .. 300;
	my $version;

	$t->set_relay_fault('relay-together=skip') if $skip;
	name_of("i:$id");
	$t->wait_applied;
	$away->freeze;
	$away->{gone} = 1;			# nobody asks it
	$version = $t->sql("UPDATE i SET name = 'away $skip' WHERE id IN (7, $id);"
		  . 'SELECT mlcache.last_commit_version()');
	$t->wait_for('delivery', sub { !defined $cluster->command('GET', "i:$id") });
	$t->wait_state('down');
	if ($skip)
	{
		$t->wait_for('another claim', sub { $t->sql("SELECT count(*) FROM mlcache.stat_nodes WHERE applied >= '$version'") > 0 });
		pass('without that it is called applied');
	}
	else
	{
		is($t->sql("SELECT count(*) FROM mlcache.stat_nodes WHERE applied >= '$version'"),
			0, 'nothing is called applied while a master is away');
	}
	$away->thaw;
	$away->{gone} = 0;
	$t->clear_fault;
	$t->wait_applied;
	is(name_of('i:7'), "away $skip", 'it is caught up');
}

# ---------- a master killed ----------

{
	my $slot = $cluster->slot('i:7');
	my $victim = $cluster->owner($slot);
	my $position = $t->log_position;

	$cluster->fail_over($victim);
	$t->wait_armed;
	$t->sql("UPDATE i SET name = 'three'; UPDATE u SET name = 'three'; UPDATE r SET name = 'three'");
	$t->sql_patiently("UPDATE s SET name = 'three'");
	$t->wait_applied;
	for my $table (qw(i u r s))
	{
		is($t->sql("SELECT count(*) FROM generate_series(1, 300) n, mlcache.get('$table:' || n) v WHERE v::json->>'name' = 'three'"),
			300, "$table: all is read after the failover");
		is(scalar(grep { $cluster->command('GET', "$table:$_") =~ /three/ } 1 .. 300), 300, "$table: and cached");
	}
}

$t->stop;
done_testing();
