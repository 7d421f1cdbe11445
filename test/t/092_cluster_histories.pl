# Histories on a Redis Cluster: many sessions read and write a few keys while
# slots move and masters are replaced; what they saw is judged afterwards.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcHistory;
use MlcTest;
use Test::More;
use Time::HiRes qw(usleep);

my $t = MlcTest->new('cluster_histories', no_tables => 1,
	# every master may be replaced before a new relay has to find the cluster
	cluster => { masters => 3, replicas => 2, seeds => 9 },
	conf => "mlcache.l1_size = 4MB\nmax_connections = 100\n");
my $cluster = $t->redis;
$t->sql('CREATE TABLE fence (n int)');

my $history = MlcHistory->new($t);

# Each key's slot goes to another master, with changes at every step.
sub reshard
{
	for my $id (1 .. 8)
	{
		my $key = $history->key($id);

		$cluster->move_slot($cluster->slot($key), $cluster->other_master($key), batch => 1,
			between => sub { $history->let_change(5) });
	}
}

# A master of one of the keys that can be replaced.
sub victim
{
	my @owners = map { $cluster->owner($cluster->slot($history->key($_))) } 1 .. 8;
	my ($owner) = grep { $cluster->replicas_of($_) } @owners, $cluster->masters;

	return $owner;
}

sub fail_over { $cluster->fail_over(victim()) }

my %fault = (
	'slots that move' => \&reshard,
	'a master killed' => \&fail_over,
	'a master killed while a slot is on its way' => sub {
		my $key = $history->key(2);
		my $n = 0;

		eval {
			$cluster->move_slot($cluster->slot($key), $cluster->other_master($key), batch => 1,
				between => sub { $history->let_change(5); fail_over() if ++$n == 1; });
		};
		$cluster->settle;
	},
	'a master killed, another elected' => sub { $cluster->elect(victim()) },
	'a master paused' => sub {
		my $master = $cluster->owner($cluster->slot($history->key(3)));

		$master->freeze;
		usleep(1_500_000);
		$master->thaw;
	},
	'the relay killed' => sub { kill 'KILL', $t->running_relay; reshard() },
);

for my $model ('eventual', 'strong')
{
	$history->begin($model, 24, rule => $model eq 'strong' ? "consistency => 'strong'" : "action => 'update'");
	$history->let_change(100);
	for my $name (sort { length $a <=> length $b || $a cmp $b } keys %fault)
	{
		note("$model: $name");
		$fault{$name}->();
		$t->wait_armed;
		$history->let_change(60);
	}
	$history->let_change(100);
	$history->is_sound($model, $history->finish, writes => 300, sources => [qw(L2 load row)]);
}

$t->stop;
done_testing();
