# Locks behind pgbouncer: nothing is left over by DISCARD ALL in session mode,
# nor by transaction locks in transaction mode.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use MlcRedis;
use MlcTest;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my ($pgbouncer) = grep { -x } '/usr/sbin/pgbouncer', '/usr/bin/pgbouncer';

plan skip_all => 'pgbouncer is not installed' unless $pgbouncer;

my $t = MlcTest->new('pool', no_tables => 1, conf => 'mlcache.relay_enabled = off');
my $node = $t->node;
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $port = MlcRedis::free_port();
my $user = $t->sql('SELECT current_user');
my $pid;

sub bouncer
{
	my ($mode) = @_;

	append_to_file("$dir/users", "\"$user\" \"\"\n");
	open my $ini, '>', "$dir/ini" or die $!;
	print $ini <<"INI";
[databases]
postgres = host=@{[$node->host]} port=@{[$node->port]} user=$user
[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $dir
auth_type = any
pool_mode = $mode
default_pool_size = 1
server_reset_query = DISCARD ALL
logfile = $dir/log
pidfile = $dir/pid
INI
	close $ini;
	$pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$dir/out";
		open STDERR, '>&', \*STDOUT;
		POSIX::close($_) for 3 .. 255;
		{ exec $pgbouncer, "$dir/ini"; }
		POSIX::_exit(127);
	}
	$t->wait_for('pgbouncer', sub { -S "$dir/.s.PGSQL.$port" && pooled('SELECT 1')->[0] eq "1\n" });
}

sub stop_bouncer
{
	return unless $pid;
	kill 'KILL', $pid;
	waitpid $pid, 0;
	undef $pid;
	unlink "$dir/.s.PGSQL.$port", "$dir/pid";
}
END { my $status = $?; stop_bouncer(); $? = $status }

# [output, errors] of statements, each sent by itself
sub pooled
{
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'psql', '-XAtq', '-h', $dir, '-p', $port, '-d', 'postgres', map { ('-c', $_) } @_ ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(60));
	return [ $out, $err ];
}

sub holders { return $t->sql("SELECT count(*) FROM mlcache.lock_holders('$_[0]')") }
sub backend { return pooled('SELECT pg_backend_pid()')->[0] }

bouncer('session');
my $backend = backend();
like(pooled("SELECT mlcache.lock_acquire('s')")->[0], qr/^\d+$/, 'a lock through a pool of sessions');
$t->wait_for('DISCARD ALL', sub { $t->sql('SELECT count(*) FROM mlcache.locks') == 0 && holders('s') == 0 });
is(backend(), $backend, 'the server connection is used again');
is($t->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'userlock'"), 0, 'and holds nothing');
like(pooled("SELECT mlcache.lock_release('s')")->[1], qr/not held by this session/, 'nor knows of it');
stop_bouncer();

bouncer('transaction');
$backend = backend();
like(pooled('BEGIN', "SELECT mlcache.lock_acquire_xact('x')", 'COMMIT')->[0], qr/^\d+$/,
	'a lock through a pool of transactions');
$t->wait_for('release', sub { holders('x') == 0 });
like(pooled("SELECT mlcache.lock_acquire_xact('x')", "SELECT mlcache.lock_acquire_xact('x', wait => '0')")->[0],
	qr/^\d+\n\d+$/, 'a single statement is a transaction, too');
like(pooled('BEGIN', "SELECT mlcache.lock_acquire_xact('x')", 'SELECT 1/0', 'COMMIT')->[1],
	qr/division by zero/, 'a transaction fails');
$t->wait_for('release', sub { holders('x') == 0 && $t->sql('SELECT count(*) FROM mlcache.locks') == 0 });
is(backend(), $backend, 'all in one server connection, which holds nothing');

# what the documentation warns of
pooled("SELECT mlcache.lock_acquire('leak')");
is(holders('leak'), 1, 'a session\'s lock stays with the server connection');
is(pooled("SELECT mlcache.lock_release('leak')")->[1], '', 'whoever comes next has it');

# a client that goes away in its transaction
my ($in, $out) = ("BEGIN; SELECT mlcache.lock_acquire_xact('gone');\n", '');
my $client = IPC::Run::start([ 'psql', '-XAtq', '-h', $dir, '-p', $port, '-d', 'postgres' ],
	'<', \$in, '>', \$out, IPC::Run::timeout(60));
$t->wait_for('the lock', sub { $client->pump_nb; holders('gone') == 1 });
$client->kill_kill;
$t->wait_for('release', sub { holders('gone') == 0 });
pass('a client that goes away leaves nothing behind');

done_testing();
