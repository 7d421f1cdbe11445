# The queries for prometheus-postgres-exporter: the real exporter is started,
# scraped, and tells what the views say.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IO::Socket::INET;
use IPC::Run;
use MlcRedis;
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($exporter) = grep { -x } map { "$_/prometheus-postgres-exporter" } split /:/, $ENV{PATH};
my $sharedir = `pg_config --sharedir`;
chomp $sharedir;
my $queries = "$sharedir/extension/mlcache_queries.yaml";

ok(-r $queries, 'the queries are installed with the extension');

SKIP:
{
	skip 'prometheus-postgres-exporter is not installed', 1 unless $exporter;

	my $t = MlcTest->new('prometheus', no_tables => 1, server => "timeout '30000'");
	$t->set_conf("mlcache.fault_points = 'monitor-second=skip'");
	$t->sql(<<'SQL');
CREATE TABLE p (id int PRIMARY KEY, name text);
INSERT INTO p SELECT g, 'x' FROM generate_series(1, 100) g;
SELECT mlcache.attach('p', key => 'p:{id}');
CREATE ROLE exporter LOGIN IN ROLE pg_monitor;
SELECT mlcache.wait_applied(mlcache.last_commit_version(), '60 s');
SQL
	$t->wait_armed;
	$t->sql("SELECT count(mlcache.get('p:' || g)) FROM generate_series(1, 100) g, generate_series(1, 3)");
	is($t->sql("UPDATE p SET name = 'y' WHERE id <= 7; SELECT mlcache.wait_applied(mlcache.last_commit_version(), '60 s')"),
		't', 'changes are applied');
	$t->redis->command('SET', 'p:50', 'wrong', 'KEEPTTL');
	is($t->sql("SELECT class FROM mlcache.audit('p')"), 'corrupt', 'a copy is wrong');
	$t->redis->command('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru');
	$t->wait_for('a history', sub { $t->sql('SELECT count(*) > 3 FROM mlcache.stat_history') eq 't' });

	my $port = MlcRedis::free_port();
	my ($log, $text) = ('', '');
	local $ENV{DATA_SOURCE_NAME} =
	  sprintf("user=exporter dbname=postgres host=%s port=%d sslmode=disable", $t->node->host, $t->node->port);
	my $process = IPC::Run::start(
		[ $exporter, "--web.listen-address=127.0.0.1:$port", "--extend.query-path=$queries",
			qw(--disable-default-metrics --disable-settings-metrics --no-collector.database --no-collector.bgwriter) ],
		'<', \undef, '>&', \$log);

	# One scrape over plain HTTP.
	my $scrape = sub {
		$process->pump_nb if $process->pumpable;
		my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 30) or return 0;

		print $socket "GET /metrics HTTP/1.0\r\n\r\n";
		$text = do { local $/; <$socket> };
		return $text =~ /^pg_up 1/m;
	};
	$t->wait_for('the exporter', sub { $scrape->() || !$process->pumpable });

	# the value of a metric with these labels, in any order among others
	my $value = sub {
		my ($name, %labels) = @_;

		for my $line (split /\n/, $text)
		{
			my ($metric, $found, $number) = $line =~ /^(\w+)(?:\{(.*)\})? (\S+)$/ or next;

			return $number + 0
			  if $metric eq $name && !grep { index($found, qq($_="$labels{$_}")) < 0 } keys %labels;
		}
		return undef;
	};
	like($text, qr/^HTTP\S+ 200/, 'it answers') or diag($log);
	is($value->('pg_exporter_user_queries_load_error') // 0, 0, '...having understood the queries');
	is($value->('pg_exporter_last_scrape_error'), 0, '...and run them without an error');
	unlike($log, qr/level=(error|warn)/, '...and no complaint in its log');

	is($value->('mlcache_server_armed', redis => 'redis'), 1, 'the server is armed');
	# what is decoded and sent twice, after a reconnection, counts twice
	is($value->('mlcache_server_invalidated_total', redis => 'redis'), $t->stat('invalidated'), '...has lost entries');
	is($value->('mlcache_server_retained_bytes', redis => 'redis') > 0, 1, '...and WAL is held');
	is($value->('mlcache_rule_hits_l1_total', relation => 'p', key => 'p:{id}'), 200, 'the rule has its hits');
	is($value->('mlcache_rule_misses_total', key => 'p:{id}'), 100, '...its misses');
	is($value->('mlcache_rule_events_total', key => 'p:{id}'),
		$t->sql('SELECT events FROM mlcache.stat_rules'), '...and its changes');
	is($value->('mlcache_operation_count_total', operation => 'get L1'), 200, 'the operation has its count');
	my $p99 = $t->sql("SELECT p99 / 1000 FROM mlcache.stat WHERE operation = 'get load'");
	cmp_ok(abs($value->('mlcache_operation_p99_seconds', operation => 'get load') - $p99), '<', 1e-9,
		'...and its percentile, in seconds');
	is($value->('mlcache_l1_lines'), 93, 'L1 has its lines');
	is($value->('mlcache_consistency_checked', window_seconds => 3600),
		$t->sql(q{SELECT checked FROM mlcache.consistency WHERE "window" = '1 h'}), 'the audit has its copies');
	is($value->('mlcache_consistency_violations', window_seconds => 3600), 1, '...and its violation');
	is($value->('mlcache_last_servers_down'), 0, 'the monitor sees no server down');
	is($value->('mlcache_health_found', finding => 'unsafe eviction policy', subject => 'redis', severity => 'critical'),
		1, 'what health() finds is there');

	# every column of the file has come, as what it claims to be
	my ($query, %usage);
	for my $line (split /\n/, slurp_file($queries))
	{
		$query = $1 if $line =~ /^(\w+):/;
		$usage{"${query}_$1"} = lc $2 if $line =~ /^    - (\w+): \{usage: (COUNTER|GAUGE)/;
	}
	my %type = $text =~ /^# TYPE (mlcache_\w+) (\w+)/mg;
	is_deeply(\%type, \%usage, 'every metric is there, and has its type');

	$t->redis->kill9;
	$t->wait_for('a scrape that sees it', sub {
		$scrape->() && ($value->('mlcache_server_armed', redis => 'redis') // 1) == 0
		  && ($value->('mlcache_last_servers_down') // 0) == 1;
	});
	ok(1, 'a server that goes down is seen');

	$process->kill_kill;
	$t->stop;
}
done_testing();
