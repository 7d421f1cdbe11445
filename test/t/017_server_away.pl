# Several servers: one that is away, or connects and says nothing, does not
# hold up the others, however long its timeouts are.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IO::Select;
use IO::Socket::UNIX;
use MlcRedis;
use MlcTest;
use Test::More;

my $t = MlcTest->new('away', cold => 100, bare => 1);

$t->create_server("timeout '60000'");
$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE a (id int PRIMARY KEY, n int);
INSERT INTO a SELECT g, 0 FROM generate_series(1, 100) g;
SELECT mlcache.attach('a', key => 'a:{id}', action => 'update');
SQL
$t->wait_applied;

# Changes a row, and waits until Redis knows.
sub delivers
{
	my ($id, $name) = @_;

	# refused while the relay has it connected anew
	$t->wait_for('a copy', sub { $t->fill_key("a:$id") =~ /^(?:ok|hit)$/ });
	$t->sql("UPDATE a SET n = n + 1 WHERE id = $id");
	$t->wait_for("the change of row $id",
		sub { $t->redis->command('GET', "a:$id") eq $t->row("a:$id") });
	ok(1, $name);
}

delivers(1, 'one server');

# A socket that listens: connecting to it works, and that is all.
my $path = $t->redis->{dir} . '/hole';
my $hole = IO::Socket::UNIX->new(Local => $path, Listen => 5) or die "$path: $!";
chmod 0777, $path;
$t->sql("CREATE SERVER hole FOREIGN DATA WRAPPER mlcache OPTIONS"
	  . " (url 'unix://$path', connect_timeout '3600000', timeout '3600000')");
ok(IO::Select->new($hole)->can_read(60), 'the relay has connected');
my $silent = $hole->accept;
sysread($silent, my $word, 4);
delivers($_, "while the other one says nothing, row $_") for 2 .. 6;
is($t->sql("SELECT state FROM mlcache.stat_servers WHERE server = 'hole'"), 'down', 'it is not served');

# it may go, and the relay stays
my $pid = $t->running_relay;
$t->sql('DROP SERVER hole');
$t->wait_for('the end of the connection', sub { !sysread($silent, $word, 1000) });
delivers(7, 'without it');
is($t->running_relay, $pid, 'the same relay');

# A host that answers nobody: connecting does not end.  The backlog of this
# one is full.
my $full = "$path.full";
my $closed = IO::Socket::UNIX->new(Local => $full, Listen => 1) or die "$full: $!";
chmod 0777, $full;
my @queue = map { IO::Socket::UNIX->new(Type => SOCK_STREAM, Blocking => 0, Peer => $full) } 1 .. 4;
$t->sql("CREATE SERVER hole FOREIGN DATA WRAPPER mlcache OPTIONS"
	  . " (url 'unix://$full', connect_timeout '3600000', timeout '3600000')");
$t->wait_for('the failure', sub {
		$t->sql("SELECT errors > 0 OR state = 'down' FROM mlcache.stat_servers WHERE server = 'hole'") eq 't' });
delivers($_, "while the other one takes no connection, row $_") for 8, 9;
$t->sql('DROP SERVER hole');

# A real one is stopped, and goes on later.
my $eu = MlcRedis->new('eu');
$eu->start;
$t->sql("CREATE SERVER eu FOREIGN DATA WRAPPER mlcache OPTIONS (url '" . $eu->url . "', timeout '300')");
$t->wait_for('the second server',
	sub { $t->sql("SELECT state FROM mlcache.stat_servers WHERE server = 'eu'") eq 'armed' });
$t->wait_applied;
$eu->freeze;
delivers($_, "while the other one is stopped, row $_") for 10 .. 15;
$eu->thaw;
$t->wait_for('the second server again',
	sub { $t->sql("SELECT state FROM mlcache.stat_servers WHERE server = 'eu'") eq 'armed' });
$t->wait_applied;
is(join(' ', @{ $eu->command('KEYS', 'a:*') }), '', 'nothing is left there');
delivers(16, 'both again');
$eu->stop;
$t->stop;
done_testing();
