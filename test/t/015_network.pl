# The network between the relay and Redis is cut, both sides alive: the relay
# connects anew, and what it had sent over the old connection arrives later,
# between the commands of the new one.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use MlcTest;
use Test::More;

my $t = MlcTest->new('network', cold => 1000, bare => 1);
my $through = $t->redis->{dir} . '/p';
my ($in, $out) = ('', '');
my $proxy = IPC::Run::start(
	[ $ENV{MLC_PYTHON} // '/usr/bin/python3', "$FindBin::RealBin/lib/proxy.py",
		$through, $t->redis->socket ],
	'<', \$in, '>', \$out);

# Says a word to the proxy, or nothing, and waits for its answer.
sub network
{
	my ($word) = @_;

	$in .= "$word\n" if $word;
	$t->wait_for('the proxy', sub { $proxy->pump_nb; $out =~ s/^ok\n// });
}

network('');
$t->sql('CREATE EXTENSION mlcache');
$t->sql("CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url 'unix://$through', timeout '500')");
$t->create_tables;
$t->wait_armed;
my $log = $t->log_position;

# ---------- under load ----------

$t->start_load;
for my $n (1 .. 4)
{
	my $position = $t->log_position;

	$t->let_write(150);
	network('cut');
	$t->wait_log(qr/Redis did not answer in time/, $position);
	$t->wait_armed;
	$t->let_write(150);
	network('heal');
	ok(1, "late commands arrive among new ones, $n");
}
$t->let_write(200);
$t->wait_armed;
$t->finish_load('network cut');
is($t->purges($log), 0, 'no purge was needed');

# ---------- a late removal, a late value ----------

# Connections to Redis other than ours, by number.
sub connections
{
	my $own = $t->redis->command('CLIENT', 'ID');

	return grep { $_ != $own } $t->redis->command('CLIENT', 'LIST') =~ /^id=(\d+)/mg;
}

for my $skip (0, 0, 1)
{
	my $position = $t->log_position;
	my ($row, @old);

	$t->set_fault('relay-late-removal=skip') if $skip;
	$t->sql("INSERT INTO r VALUES (7001, 0, 0) ON CONFLICT DO NOTHING;"
		  . "INSERT INTO r VALUES (7002, 0, 0) ON CONFLICT (id) DO UPDATE SET n = 0");
	$t->wait_published;
	@old = connections();
	network('cut');

	# one batch in the old connection: a removal and a value
	$t->sql('BEGIN; DELETE FROM r WHERE id = 7001; UPDATE r SET n = 1 WHERE id = 7002; COMMIT');
	$t->wait_log(qr/Redis did not answer in time/, $position);
	$t->wait_applied;
	$t->sql('INSERT INTO r VALUES (7001, 2, 0); UPDATE r SET n = 2 WHERE id = 7002');
	$t->wait_applied;
	$row = $t->row('r:7001');
	is($t->look_up('r:7001'), $row, 'the row is there again');

	# the old connection ends when Redis has read all of it
	network('heal');
	$t->wait_for('late commands',
		sub {
			my %open = map { $_ => 1 } connections();
			return !grep { $open{$_} } @old;
		});
	$skip
	  ? is($t->look_up('r:7001'), 'lease', 'without that safeguard a late removal takes it away')
	  : is($t->look_up('r:7001'), $row, 'a late removal removes nothing');
	is($t->look_up('r:7002'), $t->row('r:7002'), 'a late value changes nothing');
	$t->clear_fault;
}
$in .= "quit\n";
$proxy->finish;
$t->stop;
done_testing();
