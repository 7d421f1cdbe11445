# Histories on a Redis Cluster: many sessions read and write a few keys while
# slots move and masters are replaced; what they saw is judged afterwards.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use JSON::PP;
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

my $t = MlcTest->new('cluster_histories', no_tables => 1,
	# every master may be replaced before a new relay has to find the cluster
	cluster => { masters => 3, replicas => 2, seeds => 9 },
	conf => "mlcache.l1_size = 4MB\nmax_connections = 100\n");
my $cluster = $t->redis;
$t->sql('CREATE TABLE fence (n int)');

my %history;
my $tables = 0;

sub begin
{
	my ($model, $sessions, $rule) = @_;
	my $table = 'h' . ++$tables;
	my $third = int($sessions / 3);

	$t->sql(<<"SQL");
CREATE TABLE $table (id int PRIMARY KEY, ver bigint NOT NULL, op bigint NOT NULL);
CREATE TABLE ${table}_log (op bigint, id int, ver bigint, gone boolean);
CREATE INDEX ON ${table}_log (id, ver);
INSERT INTO $table SELECT n, 1, 0 FROM generate_series(1, 8) n;
INSERT INTO ${table}_log SELECT 0, n, 1, false FROM generate_series(1, 8) n;
SELECT mlcache.attach('$table', key => '$table:{id}', $rule);
SQL
	$t->wait_armed;
	%history = (model => $model, table => $table, in => '', out => '', err => '', file => "$dir/$table");
	$history{run} = IPC::Run::start(
		[
			$driver, 'pg=' . $t->node->connstr('postgres'), 'redis=' . $cluster->socket,
			'ns=' . $t->ns, "table=$table", 'keys=8', "inside=$third", "outside=$third",
			'writers=' . ($sessions - 2 * $third), 'think=' . $sessions * 150, "out=$history{file}"
		],
		'<', \$history{in}, '>', \$history{out}, '2>', \$history{err});
	$history{run}->pump_nb;
	return;
}

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
	append_to_file("$history{file}.log",
		$t->sql("SELECT op || ' ' || id || ' ' || ver || ' ' || gone FROM $history{table}_log WHERE op > 0") . "\n");
	IPC::Run::run([ $python, "$top/test/history/check.py", $history{model}, $history{file},
			"$history{file}.log" ], '>', \$out, '2>', \$err) or die "check.py failed: $err";
	note($out, $history{out});
	return decode_json($out);
}

# Each key's slot goes to another master, with changes at every step.
sub reshard
{
	for my $id (1 .. 8)
	{
		my $key = "$history{table}:$id";

		$cluster->move_slot($cluster->slot($key), $cluster->other_master($key), batch => 1,
			between => sub { let_change(5) });
	}
}

# A master of one of the keys that can be replaced.
sub victim
{
	my @owners = map { $cluster->owner($cluster->slot("$history{table}:$_")) } 1 .. 8;
	my ($owner) = grep { $cluster->replicas_of($_) } @owners, $cluster->masters;

	return $owner;
}

sub fail_over { $cluster->fail_over(victim()) }

my %fault = (
	'slots that move' => \&reshard,
	'a master killed' => \&fail_over,
	'a master killed while a slot is on its way' => sub {
		my $key = "$history{table}:2";
		my $n = 0;

		eval {
			$cluster->move_slot($cluster->slot($key), $cluster->other_master($key), batch => 1,
				between => sub { let_change(5); fail_over() if ++$n == 1; });
		};
		$cluster->settle;
	},
	'a master killed, another elected' => sub { $cluster->elect(victim()) },
	'a master paused' => sub {
		my $master = $cluster->owner($cluster->slot("$history{table}:3"));

		$master->freeze;
		usleep(1_500_000);
		$master->thaw;
	},
	'the relay killed' => sub { kill 'KILL', $t->running_relay; reshard() },
);

for my $model ('eventual', 'strong')
{
	my $report;

	begin($model, 24, $model eq 'strong' ? "consistency => 'strong'" : "action => 'update'");
	let_change(100);
	for my $name (sort { length $a <=> length $b || $a cmp $b } keys %fault)
	{
		note("$model: $name");
		$fault{$name}->();
		$t->wait_armed;
		let_change(60);
	}
	let_change(100);
	$report = finish();
	cmp_ok($report->{writes}, '>', 300, "$model: there were writes");
	for my $source (qw(L2 load row))
	{
		cmp_ok($report->{sources}{$source} // 0, '>', 10, "$model: reads from $source");
	}
	is(join("\n", $report->{nviolations}, @{ $report->{examples} }), '0', "$model: no violation");
	$t->wait_applied;
	is($t->sql("SELECT count(*) FROM generate_series(1, 8) AS n(id) LEFT JOIN $history{table} h USING (id)"
			. " WHERE (mlcache.get('$history{table}:' || n.id)::json->>'ver')::bigint IS DISTINCT FROM h.ver"),
		0, "$model: in the end every key reads like its row");
}

$t->stop;
done_testing();
