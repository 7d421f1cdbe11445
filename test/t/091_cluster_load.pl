# Redis Cluster under load: slots move, masters are killed and replaced, by us or
# by an election.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('cluster_load', cluster => {}, cold => 1000);
my $cluster = $t->redis;

# ---------- resharding ----------

sub move
{
	my ($batch, @keys) = @_;
	my @masters = $cluster->masters;

	for my $key (@keys)
	{
		my $slot = $cluster->slot($key);
		my $from = $cluster->owner($slot);
		my ($to) = grep { $_ != $from } sort { rand() <=> 0.5 } @masters;

		$cluster->move_slot($slot, $to, batch => $batch);
	}
}

my $purges = $t->stat('purges');

$t->start_load;
$t->let_write(200);
move(1, map { ("r:$_", "u:$_", "i:$_", "w:$_", "p:$_") } 1 .. 8);
# the slot of a state, and some around it
move(100, map { $cluster->key_in($_->{last}) } $cluster->last_slots);
$t->let_write(200);
$t->finish_load('slots moved', missing => 0);
is($t->stat('purges'), $purges, 'nothing was purged');

# ---------- a long way ----------

# A slot that is on its way for as long as it likes holds nobody up.
{
	my @between;

	$t->start_load;
	$cluster->move_slot($cluster->slot('r:3'), $cluster->other_master('r:3'), batch => 1,
		between => sub { $t->let_write(50); push @between, $t->stat('state'); $t->wait_applied; });
	$t->finish_load('a slot on its way');
}

# ---------- failover ----------

$t->start_load;
$t->let_write(200);
my $new = $cluster->fail_over(($cluster->masters)[0]);
$t->wait_armed;
$t->let_write(200);
move(10, map { ("r:$_", "u:$_") } 20 .. 23);
$cluster->fail_over((grep { $_ != $new } $cluster->masters)[0]);
$t->let_write(200);
$t->wait_armed;
$t->finish_load('masters replaced');

# ---------- an election ----------

# Nobody is told, and until the cluster has found out all of it is down.
$t->start_load;
$t->let_write(200);
$cluster->elect((grep { $cluster->replicas_of($_) } $cluster->masters)[0]);
$t->let_write(200);
$t->wait_armed;
$t->finish_load('a master elected');

$t->stop;
done_testing();
