# A rule is detached, and nothing of it stays in Redis: not what a reader is
# about to fill, nor what a relay that comes later knows nothing of.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('detach', no_tables => 1, server => "timeout '60000'");

sub keys_of
{
	my ($glob) = @_;

	return join ' ', sort @{ $t->redis->command('KEYS', $glob) };
}

# Rules a and b, and copies of both.
sub attach
{
	$t->sql("SELECT mlcache.attach(name, key => name || ':{id}') FROM unnest('{a,b}'::text[]) name"
		  . " WHERE NOT EXISTS (SELECT FROM mlcache.rules WHERE relation = name::regclass)");
	$t->wait_armed;
	$t->wait_applied;
	$t->sql("SELECT mlcache.get(name || ':' || n) FROM unnest('{a,b}'::text[]) name, generate_series(1, 3) n");
	is(keys_of('[ab]:*'), 'a:1 a:2 a:3 b:1 b:2 b:3', 'copies');
}

# The relay goes, and comes back after the statement.
sub without_relay
{
	my ($sql, @faults) = @_;

	$t->set_conf('mlcache.relay_enabled = off');
	$t->wait_for('the end of the relay', sub { $t->relay_pid eq '' });
	$t->sql($sql);
	$t->set_fault(@faults);
}

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE a (id int PRIMARY KEY, n int);
CREATE TABLE b (id int PRIMARY KEY, n int);
INSERT INTO a SELECT g, 0 FROM generate_series(1, 4) g;
INSERT INTO b SELECT g, 0 FROM generate_series(1, 3) g;
SQL

# ---------- a reader ----------

# It has found the rule, and takes its lease when the purge is over.
for my $skip (0, 1)
{
	my $reader = $t->node->background_psql('postgres');
	my $hold;

	attach();
	$t->set_fault('get-before-ask=wait', $skip ? 'get-detached=skip' : ());
	$t->wait_for('the setting', sub { $t->sql('SHOW mlcache.fault_points') =~ /get-before-ask/ });
	$reader->query_safe("BEGIN");
	$reader->query_safe("SELECT count(*) FROM a");
	$hold = $t->hold('get-before-ask');
	$reader->query_until(qr/^go$/m, "\\echo go\nSELECT 'n ' || (mlcache.get('a:4')::json->>'n');\n");
	$t->wait_held('get-before-ask');
	$t->clear_fault;
	$t->sql("UPDATE a SET n = n");
	$t->sql("SELECT mlcache.detach('a')");
	$t->wait_applied;
	is(keys_of('a:*'), '', 'purged');
	$hold->quit;
	like($reader->query_safe('COMMIT') // '', qr/./s, 'the reader has its row');
	$reader->quit;
	is(keys_of('a:*'), $skip ? 'a:4' : '', $skip ? 'or it does, where it does not look' : 'and fills nothing');
	$t->redis->command('DEL', 'a:4', 'mlc:{a:4}');
}

# ---------- the relay is away, and its slot lost ----------

for my $skip (0, 1)
{
	attach();
	without_relay("SELECT mlcache.detach('a'); SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
		$skip ? 'relay-templates=skip' : ());
	$t->wait_armed;
	$t->wait_applied;
	is(keys_of('[ab]:*'), $skip ? 'a:1 a:2 a:3' : '',
		$skip ? 'what only Redis knows of stays where nobody asks it' : 'all is purged');
	is(keys_of('mlc:{a:*'), $skip ? 'mlc:{a:1} mlc:{a:2} mlc:{a:3}' : '', 'guards, too');
}

# ---------- the last rule ----------

for my $skip (1, 0)
{
	$t->clear_fault;
	attach();
	without_relay("SELECT mlcache.detach('a'), mlcache.detach('b')", $skip ? 'relay-last-rule=skip' : ());
	$t->wait_for('the end of the slot', sub { $t->sql('SELECT count(*) FROM pg_replication_slots') eq '0' });
	is(keys_of('[ab]:*'), $skip ? 'a:1 a:2 a:3 b:1 b:2 b:3' : '',
		$skip ? 'what it had stays where the relay knows no server' : 'nothing stays when the last rule went');
	is($t->redis->command('FCALL', 'mlc_state', 0, $t->ns)->[4], $skip, $skip ? 'and is served' : 'and nobody is served');
}

$t->stop;
done_testing();
