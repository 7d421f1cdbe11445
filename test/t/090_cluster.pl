# Redis Cluster: three masters and their replicas.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('cluster', no_tables => 1, cluster => {});
my $cluster = $t->redis;

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE p (id int PRIMARY KEY, name text);
INSERT INTO p SELECT n, 'one' FROM generate_series(1, 300) n;
SELECT mlcache.attach('p', key => 'p:{id}');
SQL
$t->wait_armed;

# ---------- reading and invalidating, wherever a key is ----------

is($t->sql("SELECT count(*) FROM generate_series(1, 300) n, mlcache.get('p:' || n) v WHERE v::json->>'name' = 'one'"),
	300, 'rows are read');
is($t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT 'p:' || n FROM generate_series(1, 300) n))"),
	300, 'many at once');
for my $node ($cluster->masters)
{
	cmp_ok($node->command('DBSIZE'), '>', 100, "a master has its share of entries");
}
is($cluster->command('GET', 'p:7'), '{"id":7,"name":"one"}', 'a bare GET works');
$t->sql("UPDATE p SET name = 'two'");
$t->wait_applied;
is(scalar(grep { defined $cluster->command('GET', "p:$_") } 1 .. 300), 0, 'a change removes all of them');
is($t->sql("SELECT count(*) FROM generate_series(1, 300) n, mlcache.get('p:' || n) v WHERE v::json->>'name' = 'two'"),
	300, 'and the new rows are read');

$t->stop;
done_testing();
