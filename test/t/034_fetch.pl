# fetch, set and tags under load while everything dies: no fetched document and
# no free key is older than what has been applied, from L1 or from Redis, and at
# the end each document is what its query says, and each free key what was set
# last, or gone.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcFaults;
use MlcFetchLoad;
use MlcTest;
use Test::More;

my $t = MlcTest->new('fetch', no_tables => 1);

my $load = MlcFetchLoad->new($t);

# ---------- what fetch has cached in L1 is for fetch only ----------

# Without generations to tell them apart: that of some copy is what get looks for.
$t->sql(<<'SQL');
SELECT mlcache.fetch('mine', 'SELECT 1', tags => ARRAY(SELECT 'never ' || i FROM generate_series(1, n) i))
FROM generate_series(0, 20) n, generate_series(1, 2)
SQL
is($t->sql('SELECT hits_l1 FROM mlcache.stat_rules WHERE id = -1'), 21, 'copies in L1');
my @copies = grep { /^#/ } @{ $t->redis->command('KEYS', '#*:mine') };
is(scalar @copies, 21, '...and in Redis');
my ($shown, $errors);
$t->node->psql('postgres', join(';', map { "SELECT mlcache.get('$_')" } @copies),
	on_error_stop => 0, stdout => \$shown, stderr => \$errors);
is($shown, '', '...are not shown by get');
is(() = $errors =~ /invalid key/g, 21, '...which says so');

$load->start;
$load->let_write(100);
everything_goes_wrong($t, sub { $load->let_write(@_) }, 40, 10);
$load->let_write(100);
$load->let_read('L1', 'L2', 'load', 'row', 'free L1', 'free L2');
$load->stop;
$load->was_coherent;
$load->is_coherent('after faults');

# ---------- the same is seen to fail ----------

for (
	[ 'decode-tag', qw(reader reader reader writer writer) ],
	[ 'l1-close-tag', qw(reader reader reader writer writer) ],
	[ 'l1-close', qw(reader reader noter) ])
{
	my ($fault, @calls) = @$_;

	$t->set_fault("$fault=skip");
	$load->start(@calls);
	$t->wait_for('a violation', sub { $load->violations > 0 });
	$load->stop;
	ok(1, "without $fault it is seen");
	$t->clear_fault;
	$t->wait_applied;
	$t->sql('UPDATE doc SET ver = ver + 1');
	$t->sql("SELECT mlcache.invalidate_pattern('free:*'), mlcache.invalidate_pattern('note:*')");
	$t->sql('SELECT mlcache.set(\'free:1\', (SELECT ver::text FROM doc WHERE id = 1))');
	$load->is_coherent("after $fault");
}

# ---------- what is left behind ----------

# Members whose entries are gone leave the indexes.
$t->sql("SELECT count(mlcache.set('brief:' || i, 'x', '1 ms', '{brief}')) FROM generate_series(1, 500) i");
$t->wait_for('the index to be empty', sub {
	$t->redis->command('EXISTS', 'mlc:tag:' . $t->ns . ':t:brief') == 0 });
pass('an index that nobody asks for is emptied');
# The last rule takes all of it along.
$t->sql("SELECT mlcache.detach('doc')");
$t->wait_for('the end of the slot', sub { $t->sql('SELECT count(*) FROM pg_replication_slots') == 0 });
is(join(' ', map { @{ $t->redis->command('KEYS', $_) } } qw(mlc:tag:* *free:*)), '', 'without rules nothing is left');
$t->stop;
done_testing();
