# MlcCluster.pm
#	  A private Redis Cluster for the TAP tests: masters and as many replicas,
#	  on loopback ports.  Stands in for an MlcRedis where a test says `redis`.
package MlcCluster;

use strict;
use warnings;
use MlcRedis;
use Time::HiRes qw(usleep time);

our $node_timeout = 20_000;		# ms until a master counts as gone: never, here
our $patience = 60;				# seconds for any condition

# new(name, masters => 3, replicas => 1 a master, seeds => 3, args => [...]):
# nothing runs yet.  "seeds" says how many nodes the url names.
sub new
{
	my ($class, $name, %opt) = @_;

	return bless { name => $name, masters => $opt{masters} // 3,
		replicas => $opt{replicas} // 1, seeds => $opt{seeds} // 3, args => $opt{args} // [], nodes => [] }, $class;
}

# Both ports of a node: its own, and the one of the bus.
sub start_node
{
	my ($self) = @_;
	my $redis = MlcRedis->new("$self->{name}-" . @{ $self->{nodes} });

	$redis->{port} = MlcRedis::free_port();
	$redis->start('--port', $redis->{port}, '--cluster-enabled', 'yes', '--cluster-port',
		MlcRedis::free_port(), '--cluster-node-timeout', $node_timeout,
		'--cluster-replica-validity-factor', 0, '--cluster-migration-barrier', 99,
		'--repl-ping-replica-period', 1, @{ $self->{args} });
	$redis->{id} = $redis->command('CLUSTER', 'MYID');
	push @{ $self->{nodes} }, $redis;
	return $redis;
}

sub wait_for
{
	my ($self, $what, $condition) = @_;
	my $until = time() + $patience;

	until ($condition->())
	{
		die "redis cluster: timed out waiting for $what" if time() > $until;
		usleep(20_000);
	}
}

sub meet
{
	my ($self, $node) = @_;
	my $first = $self->{nodes}[0];
	my $bus;

	return if $node == $first;
	($bus) = $node->command('CLUSTER', 'NODES') =~ /:\d+@(\d+)[^\n]*myself/;
	$first->command('CLUSTER', 'MEET', '127.0.0.1', $node->{port}, $bus);
}

sub knows
{
	my ($node, $n) = @_;
	my @known = grep { !/handshake|noaddr/ } split /\n/, $node->command('CLUSTER', 'NODES');

	return @known == $n;
}

sub start
{
	my ($self) = @_;
	my $n = $self->{masters};
	my @nodes = map { $self->start_node } 1 .. $n * (1 + $self->{replicas});

	for my $i (0 .. $n - 1)
	{
		$nodes[$i]->command('CLUSTER', 'SET-CONFIG-EPOCH', $i + 1);
		$nodes[$i]->command('CLUSTER', 'ADDSLOTSRANGE', int(16384 * $i / $n),
			int(16384 * ($i + 1) / $n) - 1);
	}
	$self->meet($_) for @nodes;
	$self->wait_for('all to meet', sub { !grep { !knows($_, scalar @nodes) } @nodes });
	for my $i ($n .. $#nodes)
	{
		$nodes[$i]->command('CLUSTER', 'REPLICATE', $nodes[ $i % $n ]{id});
	}
	$self->wait_ok(scalar @nodes - $n);
	return $self;
}

sub running { return grep { !$_->{gone} } @{ $_[0]->{nodes} } }

# Every node that runs agrees that all slots are served; so many replicas follow.
sub wait_ok
{
	my ($self, $replicas) = @_;

	$self->wait_for('the cluster to be up',
		sub { !grep { $_->command('CLUSTER', 'INFO') !~ /cluster_state:ok/ } $self->running });
	$self->wait_for('the replicas',
		sub { $replicas == grep { $_->info('replication', 'master_link_status') // '' eq 'up' }
			  grep { $_->info('replication', 'role') eq 'slave' } $self->running });
}

sub url
{
	my ($self) = @_;

	return 'redis://' . join(',', map { "127.0.0.1:$_->{port}" } @{ $self->{nodes} }[ 0 .. $self->{seeds} - 1 ]);
}

# What load.py takes for the path of a socket.
sub socket
{
	my ($self) = @_;

	return 'cluster:' . join(',', map { "127.0.0.1:$_->{port}" } $self->running);
}

sub stop { $_->stop for $_[0]->running }

# ---------- slots ----------

sub slot
{
	my ($self, $key) = @_;

	return ($self->running)[0]->command('CLUSTER', 'KEYSLOT', $key);
}

# The master that has a slot, as most nodes see it.
sub owner
{
	my ($self, $slot) = @_;

	for my $node ($self->running)
	{
		for my $range (@{ $node->command('CLUSTER', 'SLOTS') })
		{
			next if $slot < $range->[0] || $slot > $range->[1];
			my ($found) = grep { $_->{id} eq $range->[2][2] } $self->running;

			return $found if $found;
		}
	}
	return undef;
}

sub masters
{
	my ($self) = @_;

	return grep { $_->info('replication', 'role') eq 'master' } $self->running;
}

# Kills a master; its replica is promoted at once, as it would be in the end.
sub fail_over
{
	my ($self, $node) = @_;
	my ($replica) = grep { ($_->info('replication', 'master_port') // '') eq $node->{port} }
	  $self->running;

	die "no replica of $node->{port}:\n" . join("\n", map { $_->command('CLUSTER', 'NODES') } $self->running)
	  unless $replica;
	$node->{gone} = 1;
	$node->kill9;
	$replica->command('CLUSTER', 'FAILOVER', 'TAKEOVER');
	$self->wait_for('everybody to know the new master',
		sub { !grep { !knows_master($_, $replica) } $self->running });
	return $replica;
}

sub replicas_of
{
	my ($self, $node) = @_;

	return grep { ($_->info('replication', 'master_port') // '') eq $node->{port} } $self->running;
}

# Kills a master and tells nobody: the others find out and elect a replica of it,
# and refuse whatever is asked until they have.
sub elect
{
	my ($self, $node) = @_;
	my ($range) = grep { $_->[2][2] eq $node->{id} } @{ $node->command('CLUSTER', 'SLOTS') };
	my @replicas = $self->replicas_of($node);
	my $new;

	die "no replica of $node->{port}" unless @replicas;
	# long enough for nobody else to be taken for dead on a busy machine
	$_->command('CONFIG', 'SET', 'cluster-node-timeout', 5000) for $self->running;
	$node->{gone} = 1;
	$node->kill9;
	$self->wait_for('an election', sub {
		($new) = grep { has_slot($_, $range->[0], $_) } @replicas;
		return $new && !grep { !has_slot($_, $range->[0], $new)
			  || $_->command('CLUSTER', 'INFO') !~ /cluster_state:ok/ } $self->running;
	});
	$_->command('CONFIG', 'SET', 'cluster-node-timeout', $node_timeout) for $self->running;
	return $new;
}

# Ends whatever moves of slots were broken off: each slot stays where it is.
sub settle
{
	my ($self) = @_;

	for my $node ($self->masters)
	{
		for my $slot ($node->command('CLUSTER', 'NODES') =~ /\[(\d+)-[<>]-/g)
		{
			$_->try('CLUSTER', 'SETSLOT', $slot, 'STABLE') for $self->masters;
		}
	}
}

sub knows_master
{
	my ($node, $master) = @_;

	return grep { $_->[2][2] eq $master->{id} } @{ $node->command('CLUSTER', 'SLOTS') };
}

sub other_master
{
	my ($self, $key) = @_;
	my $owner = $self->owner($self->slot($key));

	return (grep { $_ != $owner } $self->masters)[0];
}

# Of each master the last slot, where its state is at first.
sub last_slots
{
	my ($self) = @_;
	my %last;

	for my $range (@{ ($self->running)[0]->command('CLUSTER', 'SLOTS') })
	{
		my $id = $range->[2][2];

		$last{$id} = $range->[1] if !defined $last{$id} || $last{$id} < $range->[1];
	}
	return map { { id => $_, last => $last{$_} } } keys %last;
}

sub first_slot					# of a master
{
	my ($self, $master) = @_;
	my @first = sort { $a <=> $b } map { $_->[0] }
	  grep { $_->[2][2] eq $master->{id} } @{ $master->command('CLUSTER', 'SLOTS') };

	return $first[0];
}

# Some key of a slot.
sub key_in
{
	my ($self, $slot) = @_;

	$self->{keys} //= {};
	for (my $n = $self->{tried} // 0; !defined $self->{keys}{$slot}; $n++)
	{
		$self->{keys}{ $self->slot("{$n}") } //= "{$n}";
		$self->{tried} = $n + 1;
	}
	return $self->{keys}{$slot};
}

# The key's slot is found by its node: a command with a key, or FCALL with one.
sub command
{
	my ($self, @words) = @_;
	my $reply = $self->try(@words);

	die $$reply if ref $reply eq 'SCALAR';
	return $reply;
}

sub try
{
	my ($self, @words) = @_;
	my $key = uc $words[0] eq 'FCALL' ? ($words[2] ? $words[3] : undef) : $words[1];
	my $node = defined $key ? $self->owner($self->slot($key)) : ($self->masters)[0];

	return $node->try(@words);
}

# Moves a slot step by step, as redis-cli does; keys go $batch at a time, and
# $between is called after each lot.
sub move_slot
{
	my ($self, $slot, $to, %opt) = @_;
	my $from = $self->owner($slot);
	my $batch = $opt{batch} // 100;

	return if $from == $to;
	$to->command('CLUSTER', 'SETSLOT', $slot, 'IMPORTING', $from->{id});
	$from->command('CLUSTER', 'SETSLOT', $slot, 'MIGRATING', $to->{id});
	$opt{between}->() if $opt{between};
	while (my @keys = @{ $from->command('CLUSTER', 'GETKEYSINSLOT', $slot, $batch) })
	{
		my $answer = $from->try('MIGRATE', '127.0.0.1', $to->{port}, '', 0, 60_000, 'KEYS', @keys);

		die "MIGRATE: $$answer" if ref $answer;
		$opt{between}->() if $opt{between};
	}
	$to->command('CLUSTER', 'SETSLOT', $slot, 'NODE', $to->{id});
	$_->try('CLUSTER', 'SETSLOT', $slot, 'NODE', $to->{id})
	  for $from, grep { $_ != $from && $_ != $to } $self->masters;
	# a replica that is promoted before it has heard would not take it over
	$self->wait_for('everybody to know the owner',
		sub { !grep { !has_slot($_, $slot, $to) } $self->running });
}

# What the masters have of a key, even those it does not belong to.
sub copies
{
	my ($self, $key) = @_;
	my @found;

	for my $node ($self->masters)
	{
		$node->command('ASKING');
		my $answer = $node->try('GET', $key);

		push @found, $answer if defined $answer && !ref $answer;
	}
	return @found;
}

sub has_slot
{
	my ($node, $slot, $owner) = @_;

	return grep { $slot >= $_->[0] && $slot <= $_->[1] && $_->[2][2] eq $owner->{id} }
	  @{ $node->command('CLUSTER', 'SLOTS') };
}

1;
