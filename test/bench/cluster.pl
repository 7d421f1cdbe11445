# test/bench/cluster.pl: a backlog of changes to one Redis, and to a Redis
# Cluster of three masters on the same machine, in turn.  Started by "cluster";
# prints a line a measurement and the ratios.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../t/lib";
use MlcRedis;
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $changes = $ENV{BENCH_CHANGES} // 100_000;
my $repetitions = $ENV{BENCH_REPETITIONS} // 5;
my %t = (
	one => MlcTest->new('one', no_tables => 1, redis => [ '--port', MlcRedis::free_port() ],
		conf => "mlcache.l1_size = 0\nfsync = off\nmax_wal_size = 4GB\n"),
	cluster => MlcTest->new('three', no_tables => 1, cluster => { replicas => 0 },
		conf => "mlcache.l1_size = 0\nfsync = off\nmax_wal_size = 4GB\n"));

# both over TCP
$t{one}->sql("ALTER SERVER redis OPTIONS (SET url 'redis://127.0.0.1:$t{one}{redis}{args}[1]')");
for my $t (values %t)
{
	$t->sql(<<"SQL");
CREATE TABLE fence (n int);
CREATE TABLE i (id int PRIMARY KEY, n int, pad text);
CREATE TABLE r (LIKE i INCLUDING ALL);
SELECT mlcache.attach('i', key => 'i:{id}');
SELECT mlcache.attach('r', key => 'r:{id}', action => 'replicate');
CREATE PROCEDURE change(what text, n int, rows int) LANGUAGE plpgsql AS \$\$
BEGIN
	FOR at IN 1 .. n BY rows LOOP
		EXECUTE format('UPDATE %I SET n = n + 1 WHERE id >= \$1 AND id < \$2', what) USING at, at + rows;
		COMMIT;
	END LOOP;
END \$\$;
SQL
	$t->wait_armed;
	$t->sql("INSERT INTO i SELECT n, 0, repeat('x', 80) FROM generate_series(1, $changes) n");
	$t->sql("INSERT INTO r SELECT n, 0, repeat('x', 80) FROM generate_series(1, $changes) n");
	$t->wait_applied;
}

# CPU microseconds of the relay, and of all Redis servers.
sub cpu
{
	my ($t) = @_;
	my @redis = $t->redis->isa('MlcCluster') ? $t->redis->running : $t->redis;
	my @used = (0, 0);

	for my $pid ($t->{relay} //= $t->running_relay)
	{
		$used[0] += (split ' ', slurp_file("/proc/$pid/schedstat"))[0] / 1000;
	}
	for my $node (@redis)
	{
		$used[1] += (split ' ', slurp_file($_))[0] / 1000 for glob "/proc/$node->{pid}/task/*/schedstat";
	}
	return @used;
}

# Seconds from resume() until all of it is applied; and microseconds of CPU.
sub drain
{
	my ($t, $table, $rows) = @_;
	my $began;
	my $version;
	my @before;
	my @after;

	$t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT 'i:' || n FROM generate_series(1, $changes) n))")
	  if $table eq 'i';
	$t->sql("SELECT mlcache.pause('redis')");
	$t->wait_state('paused');
	$version = $t->sql("SET synchronous_commit = off; CALL change('$table', $changes, $rows);"
		  . ' RESET synchronous_commit; INSERT INTO fence VALUES (1); SELECT mlcache.last_commit_version()');
	@before = cpu($t);
	$began = time();
	$t->sql("SELECT mlcache.resume('redis'); SELECT mlcache.wait_applied('$version', '120 s')");
	@after = (time() - $began, cpu($t));
	return ($after[0], map { $after[ $_ + 1 ] - $before[$_] } 0, 1);
}

sub median { my @sorted = sort { $a <=> $b } @_; return $sorted[ @sorted / 2 ] }

for my $table (qw(i r))
{
	for my $rows (1, 100)
	{
		my %rate;
		my %cpu;

		for my $n (1 .. $repetitions)
		{
			for my $kind (rand() < 0.5 ? qw(one cluster) : qw(cluster one))
			{
				my ($seconds, @cpu) = drain($t{$kind}, $table, $rows);

				push @{ $rate{$kind} }, $changes / $seconds;
				push @{ $cpu{$kind}[$_] }, $cpu[$_] / $changes for 0, 1;
			}
		}
		diag(sprintf '%s, %d-row transactions: one %.0f k/s (%s), three masters %.0f k/s (%s), ratio %.2f',
			$table eq 'i' ? 'invalidate' : 'replicate', $rows, median(@{ $rate{one} }) / 1000,
			join(' ', map { int($_ / 1000) } @{ $rate{one} }),
			median(@{ $rate{cluster} }) / 1000,
			join(' ', map { int($_ / 1000) } @{ $rate{cluster} }),
			median(map { $rate{cluster}[$_] / $rate{one}[$_] } 0 .. $repetitions - 1));
		diag(sprintf '  CPU us a change, relay and Redis: one %.2f %.2f, three masters %.2f %.2f',
			map { my $kind = $_; map { median(@{ $cpu{$kind}[$_] }) } 0, 1 } qw(one cluster));
	}
}
pass('measured');
$_->stop for values %t;
done_testing();
