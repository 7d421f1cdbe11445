# MlcRedis.pm
#	  Private Redis servers for the TAP tests, on unix sockets, and a small
#	  client for them.
#
# Every server is stopped when the test ends, however it ends.
package MlcRedis;

use strict;
use warnings;
use IO::Socket::UNIX;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Time::HiRes qw(usleep time);

my %running;					# pid -> 1

# new(name): a directory, no server yet.
sub new
{
	my ($class, $name) = @_;

	return bless { name => $name, dir => PostgreSQL::Test::Utils::tempdir_short() }, $class;
}

# One that no connection is given, and no other test of the run.
sub free_port { return PostgreSQL::Test::Cluster::get_free_port() }

sub socket { return "$_[0]->{dir}/s" }
sub url { return 'unix://' . $_[0]->socket }
sub pid { return $_[0]->{pid} }

# start(args...): waits until it answers; data of an earlier start is kept.
# Arguments stay for later starts without any.
sub start
{
	my ($self, @args) = @_;
	my $pid;

	@args ? ($self->{args} = [@args]) : (@args = @{ $self->{args} // [] });
	$pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$self->{dir}/log";
		open STDERR, '>&', \*STDOUT;
		# a pipe to some other child would never end
		POSIX::close($_) for 3 .. 255;
		{ exec $ENV{MLC_REDIS_SERVER} // 'redis-server', $self->{conf}, '--sentinel' if $self->{conf};
		  exec $ENV{MLC_REDIS_SERVER} // 'redis-server', '--port', '0', '--unixsocket', $self->socket,
		  '--dir', $self->{dir}, '--save', '', '--appendonly', 'no',
		  '--daemonize', 'no', '--repl-diskless-sync-delay', '0', @args; }
		POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	$running{$pid} = 1;
	for (1 .. 600)
	{
		my $answer = eval { $self->command('PING') };

		return $self if defined $answer && $answer eq 'PONG';
		if (waitpid($pid, POSIX::WNOHANG) == $pid)
		{
			delete $running{$pid};
			last;
		}
		usleep(50_000);
	}
	die "redis $self->{name} does not start:\n" . slurp_file("$self->{dir}/log");
}

sub signal { kill $_[1], $_[0]->{pid} or die "kill: $!" }

sub reap
{
	my ($self) = @_;

	waitpid $self->{pid}, 0;
	delete $running{ $self->{pid} };
	delete $self->{connection};
	unlink $self->socket;
}

sub stop
{
	my ($self) = @_;

	return unless $self->{pid} && $running{ $self->{pid} };
	$self->signal('TERM');
	$self->signal('CONT');
	$self->reap;
}

sub kill9 { $_[0]->signal('KILL'); $_[0]->reap }
sub freeze { $_[0]->signal('STOP') }
sub thaw { $_[0]->signal('CONT') }

# ---------- client ----------

# command(words...): the reply; arrays as references, nil as undef, an error
# dies with its text.  Connects again when the server has been restarted.
sub command
{
	my ($self, @words) = @_;
	my $reply = $self->try(@words);

	die $$reply if ref $reply eq 'SCALAR';
	return $reply;
}

# The same, but an error is returned as a reference to its text.
sub try
{
	my ($self, @words) = @_;

	$self->send(@words);
	return $self->receive;
}

sub send
{
	my ($self, @words) = @_;
	my $text = '*' . scalar(@words) . "\r\n";

	$self->{connection} //= IO::Socket::UNIX->new(Peer => $self->socket)
	  or die "connect: $!";
	$text .= '$' . length($_) . "\r\n$_\r\n" for @words;
	local $SIG{PIPE} = 'IGNORE';
	if (!print { $self->{connection} } $text)
	{
		delete $self->{connection};
		die "redis: connection lost";
	}
	$self->{connection}->flush;
}

sub receive
{
	my ($self) = @_;
	my $connection = $self->{connection};
	my $line = <$connection>;
	my ($type, $rest);

	if (!defined $line)
	{
		delete $self->{connection};
		die "redis: connection lost";
	}
	$line =~ s/\r\n$//;
	($type, $rest) = (substr($line, 0, 1), substr($line, 1));
	return $rest if $type eq '+' || $type eq ':';
	return \$rest if $type eq '-';
	if ($type eq '$')
	{
		my $text;

		return undef if $rest < 0;
		read($connection, $text, $rest + 2) == $rest + 2 or die "redis: short reply";
		return substr($text, 0, $rest);
	}
	if ($type eq '*')
	{
		return undef if $rest < 0;
		return [ map { $self->receive } 1 .. $rest ];
	}
	die "redis: unknown reply $line";
}

sub info
{
	my ($self, $section, $field) = @_;
	my ($value) = $self->command('INFO', $section) =~ /^\Q$field\E:(.*?)\r$/m;

	return $value;
}

END
{
	my $status = $?;

	for my $pid (keys %running)
	{
		kill 'CONT', $pid;
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
	$? = $status;
}

1;
