# Values of a large transaction that changes no row twice are sent while it is
# decoded; of one that does, never but the last, whichever way a row changes.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $rows = 12_000;
my $t = MlcTest->new('once', no_tables => 1, server => "stream '10000000', timeout '60000'",
	conf => "mlcache.relay_work_mem = '1MB'\nlogical_decoding_work_mem = '1MB'\nlog_temp_files = 0\n"
	  . "autovacuum = off\n");

$t->sql(<<"SQL");
CREATE TABLE fence (n int);
CREATE TABLE small (id int PRIMARY KEY, n int);
CREATE TABLE o (id int PRIMARY KEY, n int, pad text);
SELECT mlcache.attach('o', key => 'o:{id}', action => 'replicate');
CREATE TABLE s (LIKE o INCLUDING ALL);
INSERT INTO s SELECT g, 0, repeat('x', 60) FROM generate_series(1, $rows) g;
SQL
$t->wait_armed;

# Every value that was sent of a key: id => [n, ...]
sub sent
{
	my %sent;

	for my $entry (@{ $t->redis->command('XRANGE', 'mlc:events', '-', '+') })
	{
		my %field = @{ $entry->[1] };

		push @{ $sent{$1} }, $field{payload} =~ /"n":(\d+)/ ? $1 : 'none'
		  if defined $field{payload} && ($field{key} // '') =~ /^o:(\d+)$/;
	}
	return \%sent;
}

sub rows { return { map { split /\|/ } split /\n/, $t->sql('SELECT id, n FROM o') } }

# Runs a transaction on a table of all rows.  What may be seen of it is what it
# committed; is it held back on disk?
sub changes
{
	my ($run) = @_;

	$t->sql("TRUNCATE o; INSERT INTO o SELECT * FROM s; INSERT INTO small VALUES (1, 0)"
		  . " ON CONFLICT (id) DO UPDATE SET n = small.n + 1");
	$t->wait_applied;
	$t->redis->command('DEL', 'mlc:events');
	my $position = $t->log_position;
	ref $run ? $run->() : $t->sql($run);
	$t->wait_applied;
	my ($sent, $rows) = (sent(), rows());
	my @wrong = grep { @{ $sent->{$_} } != 1 || $sent->{$_}[0] ne ($rows->{$_} // 'gone') } sort keys %$sent;
	my @lost = grep { ($t->redis->command('GET', "o:$_") // '') !~ /"n":$rows->{$_}\b/ }
	  grep { $_ % 100 < 3 } sort keys %$rows;
	my @left = grep { defined $t->redis->command('GET', "o:$_") }
	  grep { !exists $rows->{$_} } 1 .. 50, $rows + 1 .. $rows + 50;

	return { wrong => scalar @wrong, lost => scalar @lost, left => scalar @left,
		sent => scalar keys %$sent, held => $t->count_log(qr/temporary file: path/, $position) > 0 ? 1 : 0 };
}

sub expect
{
	my ($name, $held, $sent, $run) = @_;

	is_deeply(changes($run), { wrong => 0, lost => 0, left => 0, sent => $sent, held => $held }, $name);
}

my $all = 'UPDATE o SET n = n + 1;';

expect('every row once', 0, $rows, $all);
expect('prepared', 0, $rows, "BEGIN; $all PREPARE TRANSACTION 'x'; COMMIT PREPARED 'x'");
expect('a key that comes back in another row', 0, $rows,
	"BEGIN; DELETE FROM o WHERE id < 3; INSERT INTO o VALUES (2, 7, ''), (1, 8, '');"
	  . " UPDATE o SET n = n + 1 WHERE id > 2; COMMIT");
expect('another key', 0, $rows, 'UPDATE o SET id = id + 1000000, n = n + 1');
expect('new rows', 0, $rows, "INSERT INTO o SELECT id + $rows, n + 1, pad FROM s");
expect('a savepoint that is rolled back, after which nothing is known', 1, $rows,
	"BEGIN; SAVEPOINT a; UPDATE o SET n = 7 WHERE id = 1; ROLLBACK TO a; $all COMMIT");

expect('the first row again', 1, $rows, "BEGIN; $all UPDATE o SET n = 7 WHERE id = 1; COMMIT");
expect('the last row before', 1, $rows, "BEGIN; UPDATE o SET n = 7 WHERE id = $rows; $all COMMIT");
expect('a row that goes again', 1, $rows - 1, "BEGIN; $all DELETE FROM o WHERE id = 1; COMMIT");
expect('a new row that changes', 1, $rows,
	"BEGIN; INSERT INTO o SELECT id + $rows, n + 1, pad FROM s; UPDATE o SET n = 7 WHERE id = $rows + 1; COMMIT");
expect('a copied row that changes', 1, $rows, sub {
	my $file = $t->node->basedir . '/copied';

	$t->sql("COPY (SELECT id + $rows, n + 1, pad FROM s) TO '$file'");
	$t->sql("BEGIN; COPY o FROM '$file'; UPDATE o SET n = 7 WHERE id = $rows + 1; COMMIT");
});
expect('a row that goes elsewhere', 1, $rows,
	"BEGIN; $all UPDATE o SET id = id + 1000000 WHERE id = 1; COMMIT");
expect('again in a savepoint', 1, $rows,
	"BEGIN; $all SAVEPOINT a; UPDATE o SET n = 7 WHERE id = 1; RELEASE a; COMMIT");
expect('TRUNCATE', 1, 1, "BEGIN; $all TRUNCATE o; INSERT INTO o VALUES (1, 7, ''); COMMIT");
expect('again after the table was rewritten', 1, $rows,
	"BEGIN; $all CLUSTER o USING o_pkey; UPDATE o SET n = 7 WHERE id = 1; COMMIT");

# what came before the transaction's slot was lost is not known
expect('while others write', 1, $rows, sub {
	my $session = $t->node->background_psql('postgres');
	my $xid = $session->query_safe('BEGIN; UPDATE o SET n = 7 WHERE id = 1; SELECT pg_current_xact_id()');

	$t->sql("DO 'BEGIN FOR i IN 1 .. 64 LOOP UPDATE small SET n = i; COMMIT; END LOOP; END'");
	$session->query_safe("$all COMMIT");
	$session->quit;
});

# the test sees what it looks for
$t->set_fault('relay-once=skip');
$t->wait_for('a value that was never committed', sub {
	return changes("BEGIN; $all UPDATE o SET n = 7 WHERE id = 1; COMMIT")->{wrong} > 0;
});
$t->clear_fault;
$t->stop;
done_testing();
