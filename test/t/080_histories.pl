# Histories: many sessions inside and outside PostgreSQL read and write a few
# keys while everything fails in turn; what they saw is judged afterwards.  The
# same load without mlcache, as people do it, is seen to fail.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use JSON::PP;
use MlcRedis;
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $top = "$FindBin::RealBin/../..";
my $python = $ENV{MLC_PYTHON} // '/usr/bin/python3';
my $dir = PostgreSQL::Test::Utils::tempdir();
my $driver = "$dir/driver";
my $cc = $ENV{CC} // 'cc';
my @flags = split ' ', `pkg-config --cflags --libs libpq hiredis`;

command_ok([ $cc, '-O2', '-pthread', '-o', $driver, "$top/test/history/driver.c", @flags ],
	'the driver compiles');
command_ok([ $python, "$top/test/history/check.py", '--self-test' ], 'the checker knows good from bad');

my $port = MlcRedis::free_port();
my $t = MlcTest->new('histories', no_tables => 1,
	redis => [ '--port', $port ],
	conf => "mlcache.l1_size = 4MB\nmax_connections = 280\n");
$t->sql('CREATE TABLE fence (n int)');

# ---------- one history ----------

my %history;
my $tables = 0;

# A table of its own, so that one history's end is not the next one's start.
sub begin
{
	my ($model, $sessions, %more) = @_;
	my $table = 'h' . ++$tables;
	my $third = int($sessions / 3);

	$t->sql(<<"SQL");
CREATE TABLE $table (id int PRIMARY KEY, ver bigint NOT NULL, op bigint NOT NULL);
CREATE TABLE ${table}_log (op bigint, id int, ver bigint, gone boolean);
CREATE INDEX ON ${table}_log (id, ver);
INSERT INTO $table SELECT n, 1, 0 FROM generate_series(1, 8) n;
INSERT INTO ${table}_log SELECT 0, n, 1, false FROM generate_series(1, 8) n;
SQL
	$t->sql("SELECT mlcache.attach('$table', key => '$table:{id}', $more{rule})") if $more{rule};
	$t->wait_armed if $more{rule};
	%history = (model => $model, table => $table, in => '', out => '', err => '', file => "$dir/$table");
	$history{run} = IPC::Run::start(
		[
			$driver, 'pg=' . $t->node->connstr('postgres'), 'redis=' . $t->redis->socket,
			'ns=' . ($more{rule} ? $t->ns : ''), "table=$table", 'keys=8', "inside=$third",
			"outside=$third", 'writers=' . ($sessions - 2 * $third),
			'think=' . ($more{think} // $sessions * 150), 'mode=' . ($more{mode} // 'guarded'),
			"out=$history{file}"
		],
		'<', \$history{in}, '>', \$history{out}, '2>', \$history{err});
	$history{run}->pump_nb;
	return;
}

# Lets it go on until so many more changes have been committed.
sub let_change
{
	my ($n) = @_;
	my $sql = "SELECT count(*) FROM $history{table}_log";
	my $goal = $t->sql_patiently($sql) + $n;

	$t->wait_for("$n changes", sub { $t->sql_patiently($sql) >= $goal });
}

sub finish
{
	my ($out, $err) = ('', '');

	$history{in} .= "stop\n";
	$history{run}->finish or die "driver failed: $history{err}";
	$history{late}->() if $history{late};
	append_to_file("$history{file}.log",
		$t->sql("SELECT op || ' ' || id || ' ' || ver || ' ' || gone FROM $history{table}_log WHERE op > 0") . "\n");
	IPC::Run::run([ $python, "$top/test/history/check.py", $history{model}, $history{file},
			"$history{file}.log" ], '>', \$out, '2>', \$err) or die "check.py failed: $err";
	note($out, $history{out});
	return decode_json($out);
}

# ---------- what goes wrong ----------

sub kill_backend
{
	my $sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
	  . " AND query ~ 'COMMIT|UPDATE' AND pid <> pg_backend_pid() LIMIT 1";
	my $pid;

	$t->wait_for('a writer', sub { $pid = $t->sql_patiently($sql) });
	kill 'KILL', $pid;
}

sub fail_over
{
	my $replica = MlcRedis->new('replica' . ++$history{replicas} . $history{table});
	my $next = MlcRedis::free_port();
	my $position;

	$replica->start('--replicaof', "127.0.0.1 $port", '--port', $next);
	$t->wait_for('replication', sub { $replica->info('replication', 'master_link_status') eq 'up' });
	let_change(20);
	$replica->command('REPLICAOF', 'NO', 'ONE');
	let_change(60);			# which the replica lacks
	$position = $t->log_position;
	$history{in} .= 'redis ' . $replica->socket . "\n";
	$history{run}->pump_nb;
	$t->redis->kill9;
	$t->{redis} = $replica;
	$port = $next;
	$t->sql_patiently("ALTER SERVER redis OPTIONS (SET url '" . $replica->url . "')");
	$t->wait_log(qr/server "redis" is armed/, $position);
}

my %fault = (
	'a relay that exits' => sub {
		for my $point (qw(relay-before-send relay-after-send relay-before-applied))
		{
			my $position = $t->log_position;

			$t->set_fault("$point=exit");
			$t->wait_log(qr/fault point "$point" reached/, $position);
			$t->clear_fault;
			$t->wait_armed;
		}
	},
	'a backend killed' => \&kill_backend,
	'the relay killed' => sub { kill 'KILL', $t->running_relay },
	'Redis paused' => sub { $t->redis->freeze; usleep(1_500_000); $t->redis->thaw },
	'FLUSHALL' => sub { $t->redis->command('FLUSHALL') },
	'Redis killed' => sub { $t->redis->kill9; usleep(300_000); $t->redis->start('--port', $port) },
	'a failover that loses writes' => \&fail_over,
);

sub run_with_faults
{
	my ($what, $model, $sessions, %more) = @_;
	my $report;

	begin($model, $sessions, %more);
	let_change(200);
	for my $name ('a relay that exits', sort grep { $_ ne 'a relay that exits' } keys %fault)
	{
		note("$what, $sessions sessions: $name");
		$fault{$name}->();
		$t->wait_armed;
		let_change(60);
	}
	let_change(200);
	$report = finish();
	cmp_ok($report->{writes}, '>', 500, "$what, $sessions sessions: there were writes");
	for my $source (qw(L1 L2 load row))
	{
		cmp_ok($report->{sources}{$source} // 0, '>', 10, "$what, $sessions sessions: reads from $source");
	}
	is(join("\n", $report->{nviolations}, @{ $report->{examples} }),
		'0', "$what, $sessions sessions: no violation");
	$t->wait_applied;
	is($t->sql("SELECT count(*) FROM generate_series(1, 8) AS n(id) LEFT JOIN $history{table} h USING (id)"
			. " WHERE (mlcache.get('$history{table}:' || n.id)::json->>'ver')::bigint IS DISTINCT FROM h.ver"),
		0, "$what, $sessions sessions: in the end every key reads like its row");
	return;
}

for my $sessions (10, 100, 200)
{
	run_with_faults('eventual', 'eventual', $sessions,
		rule => "action => '" . ($sessions == 100 ? 'update' : 'invalidate') . "'");
}

for my $sessions (10, 100, 200)
{
	run_with_faults('strong', 'strong', $sessions,
		rule => "consistency => 'strong', action => '" . ($sessions == 200 ? 'invalidate' : 'update') . "'");
}

# ---------- readers through the clients, in Python and in Node ----------

my %readers = (python => [ $python, 'readers.py' ], node => [ 'node', 'readers.js' ]);

sub begin_readers
{
	my ($first, $name) = @_;
	my ($program, $script) = @{ $readers{$name} };
	my $reader = { file => "$history{file}.$name", in => '', err => '' };

	$reader->{run} = IPC::Run::start(
		[
			$program, "$top/test/history/$script", $t->node->connstr('postgres'), $t->redis->socket, $t->ns,
			$history{table}, 8, 5, $first, $reader->{file}
		],
		'<', \$reader->{in}, '2>', \$reader->{err});
	$reader->{run}->pump_nb;
	return $reader;
}

# What they saw becomes part of the history; how many reads were hits.
sub finish_readers
{
	my ($reader) = @_;
	my $record;

	$reader->{run}->finish or die "readers failed: $reader->{err}";
	$record = slurp_file($reader->{file});
	append_to_file($history{file}, $record);
	return scalar(() = $record =~ / L2 /g);
}

{
	my ($report, %reader, %hits);

	begin('strong', 20, rule => "consistency => 'strong'");
	$reader{python} = begin_readers(1000, 'python');
	$reader{node} = begin_readers(2000, 'node');
	let_change(300);
	$t->redis->command('FLUSHALL');
	$t->wait_armed;
	let_change(300);
	$fault{'a relay that exits'}->();
	let_change(1000);
	$history{late} = sub { $hits{$_} = finish_readers($reader{$_}) for keys %reader };
	$report = finish();
	cmp_ok($hits{$_}, '>', 100, "readers in $_ had hits") for sort keys %hits;
	is(join("\n", $report->{nviolations}, @{ $report->{examples} }), '0', 'and saw nothing that was stale');
}

# ---------- strong without what makes it strong ----------

for my $safeguard (qw(strong-quarantine l1-writer-close))
{
	my $report;

	$t->set_fault("$safeguard=skip");
	begin('strong', 10, rule => "consistency => 'strong'");
	let_change(3000);
	$report = finish();
	cmp_ok($report->{nviolations}, '>', 0, "without $safeguard the history shows it");
	$t->clear_fault;
}

# ---------- the same load without mlcache ----------

# The model of strong rules: a stale read is one that gives less than what was
# committed, or read, before it began.
begin('strong', 30, mode => 'naive', think => 200);
let_change(3000);
my $report = finish();
cmp_ok($report->{stale_share}, '>', 0.01, 'naive cache-aside gives stale reads, more than 1 %');
note("naive cache-aside: $report->{violations}{stale} of $report->{reads} reads are stale");

$t->stop;
done_testing();
