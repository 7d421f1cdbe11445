# A backup is promoted that lacks the old primary's last commits: another
# timeline, no slot.  What the old primary has cached is purged.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $t = MlcTest->new('old_primary', cold => 1000, server => "timeout '60000'");
my $old_node = $t->node;
my $position;

# A copy of the primary, promoted; with a standby's slot or without.
sub restore
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init_from_backup($t->node, $name, has_streaming => 1);
	return $node;
}

# ---------- lost commits, under load ----------

$t->start_load;
$t->let_write(300);
$t->node->backup('lossy');
$t->let_write(300);
$t->stop_load;

my $applied = $t->wait_applied;
my $node;

# the copy never connects to the old primary, so it lacks what came after
$node = restore('lossy');
$node->append_conf('postgresql.conf', "primary_conninfo = ''");
$t->node->stop;
$t->{node} = $node;
$node->start;
$node->promote;
$t->end_prepared;
$t->wait_armed;
is($t->purges, 1, 'purged by the new primary');
like($t->stat('applied'), qr/^00000002/, 'applied is of the new timeline');
like($applied, qr/^00000001/, 'and was of the old one');
is($t->sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '^mlcache_'"),
	1, 'the relay has made a slot');

$t->start_load;
$t->let_write(3000);
$t->finish_load('another timeline', missing => 1);

# ---------- without looking at the gap ----------

# The old primary's copy of a commit that the new one does not have.
for my $skip (0, 1)
{
	my $key = 'i:' . (1001 + $skip);
	my $name = "again$skip";
	my $found;

	$t->node->backup($name);
	$node = restore($name);
	$node->append_conf('postgresql.conf', "primary_conninfo = ''");
	$t->sql("UPDATE i SET n = 4711 WHERE id = 1001 + $skip");
	$t->wait_applied;
	$t->fill_key($key);
	like($t->look_up($key), qr/"n":4711/, 'cached by the old primary');
	$t->wait_published;
	$t->node->stop;
	$t->{node} = $node;
	$t->set_fault('relay-gap=skip') if $skip;
	$node->start;
	$node->promote;
	$t->wait_armed;
	$t->wait_applied;
	unlike($t->row($key), qr/"n":4711/, 'the new one does not have it');
	$found = $t->look_up($key);
	$skip
	  ? like($found, qr/"n":4711/, 'without looking at the timeline it stays cached')
	  : is($found, 'lease', 'it is not cached any more');
}
$t->stop;
done_testing();
