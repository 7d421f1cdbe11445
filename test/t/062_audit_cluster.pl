# Audits of a Redis Cluster: each master by itself.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('audit_cluster', no_tables => 1, cluster => {},
	conf => 'mlcache.lease_timeout = 60s');
my $cluster = $t->redis;

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE u (id int PRIMARY KEY, v int);
CREATE TABLE r (id int PRIMARY KEY, v int);
SELECT mlcache.attach('u', key => 'u:{id}', action => 'update');
SELECT mlcache.attach('r', key => 'r:{id}', action => 'replicate');
SQL
$t->wait_armed;
$t->sql("INSERT INTO $_ SELECT g, 0 FROM generate_series(1, 300) g") for qw(u r);
$t->wait_applied;
$t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT 'u:' || g FROM generate_series(1, 300) g))");

sub audit
{
	my ($repair) = @_;

	return $t->sql(join ' UNION ALL ', map { "SELECT key || ' ' || class FROM mlcache.audit('$_', repair => $repair)" } qw(u r));
}

is(audit('false'), '', 'nothing is found');
my @expected;
for my $id (1 .. 20)
{
	$cluster->command('SET', "u:$id", '{}', 'KEEPTTL');
	push @expected, "u:$id stale";
	$cluster->command('DEL', "mlc:{r:$id}");
	push @expected, "r:$id unguarded";
}
for my $id (41 .. 50)
{
	$cluster->command('DEL', $_) for "r:$id", "mlc:{r:$id}";
	push @expected, "r:$id missing";
}
is(join("\n", sort split /\n/, audit('false')), join("\n", sort @expected), 'on every master, what is wrong is found');
audit('true');
$t->wait_applied;
$t->wait_for('the repair', sub { audit('false') eq '' });
ok(1, 'and repaired');

$t->set_conf('mlcache.audit_rate = 1000');
$t->wait_for('samples and probes', sub {
		$t->sql("SELECT checked > 500 AND probes > 1 AND violations >= 80 FROM mlcache.consistency WHERE \"window\" = '1 h'") eq 't' });
ok(1, 'the auditor gets along with it');
$t->stop;
done_testing();
