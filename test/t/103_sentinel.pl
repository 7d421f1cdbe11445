# Redis Sentinel: whoever needs the master finds it, also under load, and nobody
# uses one that has been replaced.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcRedis;
use MlcSentinel;
use MlcTest;
use Test::More;

my $set = MlcSentinel->new('set')->start(5);		# each failover uses one up
my $t = MlcTest->new('sentinel', cold => 1000, sentinel => $set);

$t->sql(<<'SQL');
CREATE TABLE s (id int PRIMARY KEY, n int);
INSERT INTO s SELECT n, 0 FROM generate_series(1, 100) n;
SELECT mlcache.attach('s', key => 's:{id}', consistency => 'strong');
SQL
$t->wait_armed;

# ---------- failovers under load ----------

my ($old, $new, $position);

$t->start_load;
for my $fault (qw(kill9 freeze))
{
	$t->let_write(300);
	$old = $set->master;
	$position = $t->log_position;
	$old->$fault;
	$new = $set->wait_master_is_not($old);
	$t->{redis} = $new;
	$t->redirect_load($new->socket);
	$t->wait_log(qr/server "redis" is armed/, $position);
	$old->thaw if $fault eq 'freeze';
	$t->let_write(300);
}
$t->finish_load('Sentinel', missing => 1);

is($t->sql("UPDATE s SET n = n + 1 WHERE id = 1; SELECT mlcache.get('s:1')::json->>'n'"),
	'1', 'strong writers and readers have found the new master');
is($t->sql("SELECT mlcache.lock_acquire('a') IS NOT NULL; SELECT mlcache.lock_release('a')"),
	"t\n", 'and so have locks');

# ---------- a master that has been replaced, and does not know ----------

# Idle sessions are connected to it.  It goes on where it was stopped, while
# nobody tells it that it has been replaced.
my @session = map { $t->node->background_psql('postgres') } 0 .. 1;
my @read = map { "SELECT mlcache.get('i:$_')::json->>'n'" } 1001, 1002;	# not from L1

sub commands
{
	my ($calls) = $_[0]->command('INFO', 'commandstats') =~ /^cmdstat_fcall:calls=(\d+)/m;

	return $calls;
}

$session[1]->query_safe("SET mlcache.fault_points = 'conn-current=skip'");
$t->sql('UPDATE i SET n = 1 WHERE id IN (1001, 1002)');
$t->wait_applied;
for my $n (0, 1)
{
	$session[$n]->query_safe($read[$n]);
	is($session[$n]->query_safe($read[$n]), '1', 'a session reads');
}
$old = $set->master;
$position = $t->log_position;
$old->freeze;
$new = $set->wait_master_is_not($old);
$t->{redis} = $new;
$t->wait_log(qr/server "redis" is armed/, $position);
$_->freeze for $set->sentinels;
$t->sql('UPDATE i SET n = 2 WHERE id IN (1001, 1002)');
$t->wait_applied;
$old->thaw;
is($old->command('ROLE')->[0], 'master', 'the old master says that it is one');
is($session[0]->query_safe($read[0]), '2', 'no old copy is read');
is($session[1]->query_safe($read[1]), '1', 'not so without the epoch');
my $commands = commands($old);
$t->sql('UPDATE i SET n = 3 WHERE id IN (1001, 1002)');
$t->wait_applied;
is(commands($old), $commands, 'and nobody writes to the old master');
$_->thaw for $set->sentinels;
$_->quit for @session;

# ---------- a master that is none ----------

# Sentinel names it all the same, for a while: here, for as long as we like.
my $master = $set->master;
my $other;

MlcSentinel::wait_for('a replica',
	sub {
		($other) = grep { $_ != $master && (eval { $_->command('ROLE')->[3] } // '') eq 'connected' } $set->servers;
	});

$set->set_down_after(600_000);
$other->command('REPLICAOF', 'NO', 'ONE');
$master->command('REPLICAOF', '127.0.0.1', $other->{port});
$t->wait_for('the relay to notice', sub { $t->stat('last_error') =~ /is not the master/ });
my (undef, undef, $err) = $t->node->psql('postgres',
	"\\set VERBOSITY verbose\nUPDATE s SET n = 10 WHERE id = 3");
like($err, qr/ERROR:  08\w{3}:.*is not the master/s, 'a strong commit fails');
is($t->sql("SELECT mlcache.get('s:3')::json->>'n'; SELECT source FROM mlcache.last_read()"),
	"0\nrow", 'a reader reads the row');
$other->command('REPLICAOF', '127.0.0.1', $master->{port});
$master->command('REPLICAOF', 'NO', 'ONE');
$set->set_down_after($MlcSentinel::down_after);
$t->{redis} = $set->master;
$t->wait_armed;

# ---------- sentinels that cannot help ----------

sub try
{
	my ($url, $name) = @_;

	$t->sql('DROP SERVER IF EXISTS z CASCADE; CREATE SERVER z FOREIGN DATA WRAPPER mlcache'
		  . " OPTIONS (url '$url', sentinel '$name')");
	return $t->sql("SELECT detail FROM mlcache.check_setup() WHERE item = 'server z'");
}

is(try($set->url, 'mymaster'), 'It answers, and runs the function library.', 'all is well');
like(try($set->url, 'nobody'), qr/no sentinel tells where "nobody" is: .*No such master/, 'an unknown name');
like(try('redis://127.0.0.1:' . $t->redis->{port}, 'mymaster'),
	qr/no sentinel tells where "mymaster" is/, 'a server that is no sentinel');
$t->sql('DROP SERVER z');
$set->{sentinels}[0]->kill9;
is(try($set->url, 'mymaster'), 'It answers, and runs the function library.', 'one of them is dead');
$t->sql('DROP SERVER z');

$t->stop;
done_testing();
