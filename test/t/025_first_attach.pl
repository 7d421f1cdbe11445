# The first attach() of a database: the relay has its slot before the table has
# its rule, so that no change is missed; without ever waiting for itself.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('first_attach', bare => 1);
my $url = $t->redis->url;
my $attach = "SELECT mlcache.attach('a', key => 'a:{id}', action => 'replicate')";

# A database that has no relay yet.
sub make
{
	my ($name) = @_;

	$t->sql("CREATE DATABASE $name");
	$t->node->safe_psql($name, <<"SQL");
CREATE EXTENSION mlcache;
CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url '$url', namespace '$name', timeout '60000');
CREATE TABLE a (id text PRIMARY KEY);
SQL
	return $name;
}

sub is_replicated
{
	my ($name, $id) = @_;

	for my $row ('fence', $id)
	{
		$t->node->safe_psql($name, "INSERT INTO a VALUES ('$row');"
			  . " SELECT mlcache.wait_applied(mlcache.last_commit_version(), '60 s')");
	}
	return $t->redis->command('EXISTS', "a:$id");
}

# Keeps the relay from making its slot.
sub hold
{
	my ($name) = @_;
	my $session = $t->node->background_psql($name);

	$session->query_safe("SELECT pg_advisory_lock(classid, objid)"
		  . " FROM mlcache.fault_lock('relay-before-slot')");
	return $session;
}

sub wait_held
{
	$t->wait_for('the relay without its slot',
		sub { $t->sql("SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
			  . " WHERE backend_type = 'mlcache relay' AND locktype = 'advisory' AND NOT granted") > 0 });
}

# What attach() says beside the capture, and how it ended.
sub attach
{
	my ($name, $sql) = @_;
	my (undef, undef, $err) = $t->node->psql($name, $sql);

	return join ' ', $err =~ /(ERROR: .*|rows are replicated.*|It is made after.*|It waits for.*)/g;
}

# ---------- the rule comes after the slot ----------

for my $skip (0, 1)
{
	my $name = make("slow$skip");
	my ($held, $session);

	$t->set_fault('relay-before-slot=wait', $skip ? 'attach-slot=skip' : 'attach-deadline=skip');
	$held = hold($name);
	if ($skip)
	{
		$t->node->psql($name, "$attach; INSERT INTO a VALUES ('$name')");
		wait_held();
		$held->quit;
	}
	else
	{
		$session = $t->node->background_psql($name);
		$session->query_until(qr/begun/, "\\echo begun\n$attach;\nINSERT INTO a VALUES ('$name');\n");
		wait_held();
		is($t->node->safe_psql($name, 'SELECT count(*) FROM mlcache.rules'), 0,
			'no rule while there is no slot');
		$held->quit;
		$t->wait_for('the row', sub { $t->node->safe_psql($name, 'SELECT count(*) FROM a') == 1 });
		$session->quit;
	}
	$t->clear_fault;
	is(is_replicated($name, "$name.later"), 1, 'a later row is replicated');
	is($t->redis->command('EXISTS', "a:$name"), 1 - $skip,
		$skip ? 'without the wait the first row is missed' : 'the first row, too');
}

# ---------- never for itself ----------

my $name = make('writes');

is(attach($name, "BEGIN; CREATE TABLE x (); $attach; COMMIT"),
	'rows are replicated from the moment the replication slot exists'
	  . ' It is made after this transaction, since that has written already.',
	'a transaction that has written');
is(is_replicated($name, 'w'), 1, 'it is attached all the same');

$name = make('waits');
my $writer = $t->node->background_psql($name);
$writer->query_safe('BEGIN');
$writer->query_safe('CREATE TABLE x ()');
is(attach($name, $attach),
	'rows are replicated from the moment the replication slot exists'
	  . ' It waits for transactions that have begun before.',
	'somebody else writes, and does not end');
$writer->query_safe('COMMIT');
$writer->quit;
is(is_replicated($name, 'v'), 1, 'it is attached all the same');

# ---------- a transaction that comes to nothing ----------

# however long it takes until there is a relay
$t->set_fault('attach-deadline=skip');
$name = make('undone');
is(attach($name, "BEGIN; $attach; ROLLBACK"), '', 'rolled back');
is(attach($name, "SELECT mlcache.attach('a', key => 'a:{nothing}')") =~ /ERROR/ ? 1 : 0, 1, 'refused');
$t->wait_for('the end of a relay that is not needed',
	sub { $t->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mlcache relay'"
		  . " AND datname = '$name'") eq '0' });
is($t->sql("SELECT count(*) FROM pg_replication_slots WHERE database = '$name'"), 0, 'its slot is gone');
is(attach($name, "$attach; INSERT INTO a VALUES ('u')"), '', 'attached');
$t->wait_for('the row', sub { $t->redis->command('EXISTS', 'a:u') });
ok(1, 'and delivered');
$t->stop;
done_testing();
