# MlcSentinel.pm
#	  A master, its replicas, and three sentinels that watch over them.
#
#	  my $set = MlcSentinel->new('name')->start(3);	servers
#	  $set->master		the MlcRedis that the sentinels name
#	  $set->wait_master_is_not($redis)	and that says so itself
#	  $set->url			of the sentinels
package MlcSentinel;

use strict;
use warnings;
use MlcRedis;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep time);

sub new
{
	my ($class, $name) = @_;

	return bless { name => $name, servers => [], sentinels => [] }, $class;
}

our $down_after = 4000;			# ms: a busy machine's master is not down

# Has all sentinels wait for so long until the master counts as down.
sub set_down_after
{
	my ($self, $ms) = @_;

	$_->command('SENTINEL', 'SET', 'mymaster', 'down-after-milliseconds', $ms) for $self->sentinels;
}

sub servers { return @{ $_[0]->{servers} } }
sub sentinels { return @{ $_[0]->{sentinels} } }
sub url { return 'redis://' . join ',', map { "127.0.0.1:$_->{port}" } $_[0]->sentinels }

sub start
{
	my ($self, $servers) = @_;
	my $replicas = ($servers // 3) - 1;
	my $first;

	for my $n (0 .. $replicas)
	{
		my $redis = MlcRedis->new("$self->{name}$n");

		$redis->{port} = MlcRedis::free_port();
		$first //= $redis;
		$redis->start('--port', $redis->{port},
			$n > 0 ? ('--replicaof', "127.0.0.1 $first->{port}") : ());
		push @{ $self->{servers} }, $redis;
	}
	wait_for('replication',
		sub { $replicas == (() = $first->command('INFO', 'replication') =~ /state=online/g) });
	for my $n (0 .. 2)
	{
		my $sentinel = MlcRedis->new("$self->{name}-sentinel$n");

		$sentinel->{port} = MlcRedis::free_port();
		$sentinel->{conf} = "$sentinel->{dir}/sentinel.conf";
		append_to_file($sentinel->{conf}, <<"CONF");
port $sentinel->{port}
unixsocket @{[$sentinel->socket]}
dir $sentinel->{dir}
sentinel monitor mymaster 127.0.0.1 $first->{port} 2
sentinel down-after-milliseconds mymaster $down_after
sentinel failover-timeout mymaster 2000
sentinel parallel-syncs mymaster 9
CONF
		$sentinel->start;
		push @{ $self->{sentinels} }, $sentinel;
	}
	wait_for('the sentinels to find each other and the replicas',
		sub {
			3 == grep {
				my %seen = @{ $_->command('SENTINEL', 'MASTER', 'mymaster') };

				$seen{'num-slaves'} == $replicas && $seen{'num-other-sentinels'} == 2;
			} $self->sentinels;
		});
	return $self;
}

# What most of the sentinels that answer say.
sub master
{
	my ($self) = @_;
	my %votes;

	for my $sentinel ($self->sentinels)
	{
		my $address = eval { $sentinel->command('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', 'mymaster') };

		$votes{ $address->[1] }++ if $address;
	}
	my ($port) = sort { $votes{$b} <=> $votes{$a} } keys %votes;
	my ($redis) = grep { $_->{port} == ($port // 0) } $self->servers;

	return $redis;
}

sub wait_master_is_not
{
	my ($self, $old) = @_;
	my $new;

	wait_for('another master',
		sub {
			$new = $self->master;
			$new && $new != $old && eval { $new->command('ROLE')->[0] eq 'master' };
		});
	return $new;
}

sub wait_for
{
	my ($what, $condition) = @_;
	my $until = time() + 60;

	while (!$condition->())
	{
		die "timed out waiting for $what" if time() > $until;
		usleep(20_000);
	}
}

1;
