# One transaction of many changes, with little memory for its events: they go
# to disk, the last value of each key wins, and the relay stays small.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $rows = 300_000;
my $t = MlcTest->new('large', cold => 200, server => "timeout '60000'",
	conf => "mlcache.relay_work_mem = '4MB'\nlogical_decoding_work_mem = '4MB'\nmax_wal_size = 2GB\n");
my $peak = 0;

sub rss
{
	my ($status) = eval { slurp('/proc/' . $t->relay_pid . '/status') } // '';

	return $status =~ /^VmRSS:\s+(\d+) kB/m ? $1 : 0;
}

sub slurp
{
	open my $file, '<', $_[0] or die $!;
	local $/;
	return <$file>;
}

sub watch_until_applied
{
	my ($version) = @_;

	$t->wait_for('the large transaction',
		sub {
			my $now = rss();

			$peak = $now if $now > $peak;
			$t->sql("SELECT state = 'armed' AND applied >= '$version'"
				  . " FROM mlcache.stat_servers WHERE server = 'redis'") eq 't';
		});
}

$t->sql(<<'SQL');
CREATE TABLE big (id int PRIMARY KEY, n int, pad text);
SELECT mlcache.attach('big', key => 'big:{id}', action => 'replicate');
CREATE TABLE bigi (id int PRIMARY KEY, n int);
SELECT mlcache.attach('bigi', key => 'bigi:{id}');
INSERT INTO bigi SELECT g, 0 FROM generate_series(1, 1000) g;
SQL
$t->wait_applied;
$t->fill_key("bigi:$_") for 1 .. 5;
like($t->look_up('bigi:1'), qr/"n":0/, 'cached');

my $before = rss();
my $position = $t->log_position;
my $version = $t->sql("BEGIN;"
	  . "INSERT INTO big SELECT g, 1, repeat('x', 40) FROM generate_series(1, $rows) g;"
	  . "UPDATE bigi SET n = 1;"
	  . "UPDATE big SET n = 2 WHERE id % 3 = 0;"
	  . "UPDATE big SET n = 3 WHERE id % 30 = 0;"
	  . "SAVEPOINT a; UPDATE big SET n = 4 WHERE id % 7 = 0; ROLLBACK TO a;"
	  . "DELETE FROM big WHERE id % 100 = 0;"
	  . "COMMIT; SELECT mlcache.last_commit_version()");

watch_until_applied($version);
is($t->redis->command('EXISTS', 'mlc:state:' . $t->ns), 1, 'applied');
unlike($t->node->safe_psql('postgres', 'SELECT 1') . $t->look_up("bigi:$_"), qr/"n":0/,
	"bigi:$_: not stale") for 1 .. 5;
is(scalar @{ $t->redis->command('KEYS', 'big:*') }, $rows - $rows / 100, 'every row is there');

my %seen;
for my $id (1 .. 2000)
{
	my $found = $t->redis->command('GET', "big:$id");
	my $want = $id % 100 == 0 ? 'none' : $id % 30 == 0 ? 3 : $id % 3 == 0 ? 2 : 1;
	my ($n) = ($found // '') =~ /"n":(\d+)/;

	$seen{ ($n // 'none') eq $want ? 'right' : 'wrong' }++;
}
is_deeply(\%seen, { right => 2000 }, 'the last value of each key has won');
cmp_ok($t->sql('SELECT count(*) FROM pg_ls_tmpdir()'), '==', 0, 'no temporary file is left');
note("relay: $before kB before, $peak kB at most");

# 300 000 events of about 150 bytes are more than 40 MB
cmp_ok($peak - $before, '<', 36 * 1024, 'the relay stays within its budget');
is($t->count_log(qr/not closed at end-of-transaction/, $position), 0, 'no complaint in the log');

# truncated in its middle: only what comes after stays
$version = $t->sql("BEGIN; UPDATE big SET n = 5 WHERE id < 60000; TRUNCATE big;"
	  . "INSERT INTO big SELECT g, 6, repeat('y', 40) FROM generate_series(1, 60000) g;"
	  . "COMMIT; SELECT mlcache.last_commit_version()");
watch_until_applied($version);
is(scalar @{ $t->redis->command('KEYS', 'big:*') }, 60000, 'TRUNCATE in a large transaction');
like($t->look_up('big:42'), qr/"n":6/, 'and what came after it');

# and killed while it is delivered
$t->set_relay_fault('relay-before-applied=exit');
$position = $t->log_position;
$version = $t->sql("UPDATE big SET n = 7; SELECT mlcache.last_commit_version()");
$t->wait_log(qr/fault point "relay-before-applied" reached/, $position);
$t->clear_fault;
watch_until_applied($version);
my $wrong = grep { ($t->redis->command('GET', "big:$_") // '') !~ /"n":7/ } map { $_ * 20 } 1 .. 3000;
is($wrong, 0, 'delivered again from its beginning after the relay was killed in it');

# Plain removals are sent while the transaction is decoded, values of the same
# transaction come last, through the disk.
$t->sql(<<'SQL');
CREATE TABLE plain (id int PRIMARY KEY, n int);
INSERT INTO plain SELECT g, 0 FROM generate_series(1, 40000) g;
SELECT mlcache.attach('plain', key => 'plain:{id}');
CREATE TABLE weak AS SELECT * FROM plain;
ALTER TABLE weak ADD PRIMARY KEY (id);
SELECT mlcache.attach('weak', key => 'weak:{id}', consistency => 'weak');
SQL
$t->wait_applied;
my @some = (1, 100, 20_000, 40_000);

for my $fault ('', 'relay-after-send=exit', 'relay-before-applied=exit', 'relay-stream=skip')
{
	my $case = $fault || 'undisturbed';
	my $exits = $fault =~ /exit/;
	my $n;

	$t->wait_armed;
	is(join(' ', map { $t->fill_key("plain:$_"), $t->fill_key("weak:$_") } @some),
		join(' ', ('ok') x 8), "$case: filled");
	$t->set_relay_fault($fault) if $fault;
	$position = $t->log_position;
	$version = $t->sql('BEGIN; UPDATE plain SET n = n + 1; UPDATE big SET n = n + 1;'
		  . ' UPDATE weak SET n = n + 1;'
		  . ' DELETE FROM plain WHERE id % 7 = 0; UPDATE big SET n = n + 1 WHERE id % 2 = 0;'
		  . ' INSERT INTO plain SELECT g * 7, 1 FROM generate_series(1, 5714) g;'
		  . ' COMMIT; SELECT mlcache.last_commit_version()');
	$t->wait_log(qr/fault point "\S+" reached/, $position) if $exits;
	$t->clear_fault if $fault;
	watch_until_applied($version);
	is(scalar(grep { $t->redis->command('EXISTS', "plain:$_", "weak:$_") } @some), 0,
		"$case: entries are gone");
	$wrong = grep { $t->redis->command('GET', "big:$_->[0]") !~ /"n":$_->[1]\b/ }
	  map { [split / /] }
	  split /\n/, $t->sql("SELECT id || ' ' || n FROM big WHERE id % 40 < 2");
	is($wrong, 0, "$case: values are the last ones");
}
$t->stop;
done_testing();
