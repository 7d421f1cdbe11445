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

sub name_of
{
	my ($key) = @_;

	return $t->sql("SELECT mlcache.get('$key')::json->>'name'");
}

# What is left of a key anywhere, by the nodes that have it.
sub copies
{
	my ($key) = @_;
	my @found;

	for my $node ($cluster->masters)
	{
		$node->command('ASKING');
		my $answer = $node->try('GET', $key);

		push @found, $answer if defined $answer && !ref $answer;
	}
	return @found;
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
		is(join(' ', grep { !/"$name"/ } copies($key)), '', "$key, step $step: no old copy is anywhere");
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
