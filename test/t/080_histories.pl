# Histories: many sessions inside and outside PostgreSQL read and write a few
# keys while everything fails in turn; what they saw is judged afterwards.  The
# same load without mlcache, as people do it, is seen to fail.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use MlcHistory;
use MlcRedis;
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $top = "$FindBin::RealBin/../..";
my $python = $ENV{MLC_PYTHON} // '/usr/bin/python3';

command_ok([ $python, "$top/test/history/check.py", '--self-test' ], 'the checker knows good from bad');

my $port = MlcRedis::free_port();
my $t = MlcTest->new('histories', no_tables => 1,
	redis => [ '--port', $port ],
	conf => "mlcache.l1_size = 4MB\nmax_connections = 280\n");
$t->sql('CREATE TABLE fence (n int)');
my $history = MlcHistory->new($t);

# ---------- what goes wrong ----------

sub kill_backend
{
	my $sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
	  . " AND query ~ 'COMMIT|UPDATE' AND pid <> pg_backend_pid() LIMIT 1";
	my $pid;

	$t->wait_for('a writer', sub { $pid = $t->sql_patiently($sql) });
	kill 'KILL', $pid;
}

my $replicas = 0;

sub fail_over
{
	my $replica = MlcRedis->new('replica' . ++$replicas);
	my $next = MlcRedis::free_port();
	my $position;

	$replica->start('--replicaof', "127.0.0.1 $port", '--port', $next);
	$t->wait_for('replication', sub { $replica->info('replication', 'master_link_status') eq 'up' });
	$history->let_change(20);
	$replica->command('REPLICAOF', 'NO', 'ONE');
	$history->let_change(60);			# which the replica lacks
	$position = $t->log_position;
	$history->redirect($replica);
	$t->redis->kill9;
	$t->{redis} = $replica;
	$port = $next;
	$t->sql_patiently("ALTER SERVER redis OPTIONS (SET url '" . $replica->url . "')");
	$t->wait_log(qr/server "redis" is armed/, $position);
}

my %fault = (
	'a relay that exits' => sub {
		$t->exit_relay($_) for qw(relay-before-send relay-after-send relay-before-applied);
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

	$history->begin($model, $sessions, %more);
	$history->let_change(200);
	for my $name ('a relay that exits', sort grep { $_ ne 'a relay that exits' } keys %fault)
	{
		note("$what, $sessions sessions: $name");
		$fault{$name}->();
		$t->wait_armed;
		$history->let_change(60);
	}
	$history->let_change(200);
	$history->is_sound("$what, $sessions sessions", $history->finish,
		writes => 500, sources => [qw(L1 L2 load row)]);
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
	my $reader = { file => $history->file . ".$name", in => '', out => '', err => '' };

	$reader->{run} = IPC::Run::start(
		[
			$program, "$top/test/history/$script", $t->node->connstr('postgres'), $t->redis->socket, $t->ns,
			$history->table, 8, 5, $first, $reader->{file}
		],
		'<', \$reader->{in}, '>', \$reader->{out}, '2>', \$reader->{err});
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
	append_to_file($history->file, $record);
	return scalar(() = $record =~ / L2 /g);
}

{
	my ($report, %reader, %hits);

	$history->begin('strong', 20, rule => "consistency => 'strong'");
	$reader{python} = begin_readers(1000, 'python');
	$reader{node} = begin_readers(2000, 'node');
	$history->let_change(300);
	$t->redis->command('FLUSHALL');
	$t->wait_armed;
	$history->let_change(300);
	$fault{'a relay that exits'}->();
	$history->let_change(1000);
	for my $name (sort keys %reader)
	{
		$t->wait_for("enough hits in $name",
			sub { $reader{$name}{run}->pump_nb; $reader{$name}{out} =~ /enough/ });
	}
	$report = $history->finish(
		late => sub { $hits{$_} = finish_readers($reader{$_}) for keys %reader });
	cmp_ok($hits{$_}, '>', 100, "readers in $_ had hits") for sort keys %hits;
	$history->has_no_violation('readers in Python and Node', $report);
}

# ---------- strong without what makes it strong ----------

for my $safeguard (qw(strong-quarantine l1-writer-close))
{
	my $report;

	$t->set_fault("$safeguard=skip");
	for (1 .. 5)
	{
		$history->begin('strong', 10, rule => "consistency => 'strong'");
		$history->let_change(3000);
		$report = $history->finish();
		last if $report->{nviolations} > 0;
	}
	cmp_ok($report->{nviolations}, '>', 0, "without $safeguard the history shows it");
	$t->clear_fault;
}

# ---------- the same load without mlcache ----------

# The model of strong rules: a stale read is one that gives less than what was
# committed, or read, before it began.  While the machine keeps the writers from
# writing, readers only see the same copies again, which waters the share down.
my $naive;
for (1 .. 10)
{
	$history->begin('strong', 30, mode => 'naive', think => 200);
	$history->let_change(3000);
	$naive = $history->finish();
	last if $naive->{stale_share} > 0.01;
}
cmp_ok($naive->{stale_share}, '>', 0.01, 'naive cache-aside gives stale reads, more than 1 %');
note("naive cache-aside: $naive->{violations}{stale} of $naive->{reads} reads are stale");

$t->stop;
done_testing();
