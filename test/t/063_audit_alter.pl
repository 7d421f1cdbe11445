# ALTER SERVER, or another user mapping, in the middle of an audit whose loader
# reads through mlcache: it closes the connection that both use.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('audit_alter', no_tables => 1, conf => <<'CONF');
mlcache.l1_size = 0
mlcache.audit_timeout = 60s
# for thousands of keys at once
mlcache.lease_timeout = 60s
CONF

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE a (id int PRIMARY KEY, v int);
CREATE TABLE d (id int PRIMARY KEY, v int);
INSERT INTO a SELECT g, 0 FROM generate_series(1, 3000) g;
INSERT INTO d SELECT g, 0 FROM generate_series(1, 3000) g;
SELECT mlcache.attach('a', key => 'a:{id}');
CREATE TABLE e (id int PRIMARY KEY, v int);
INSERT INTO e SELECT g, 0 FROM generate_series(1, 3000) g;
SELECT mlcache.attach('e', key => 'e:{id}', loader => 'SELECT mlcache.get(''a:0'' || $1)');
SELECT mlcache.attach('d', key => 'd:{id}', loader => 'SELECT mlcache.get(''a:'' || $1)');
SQL
$t->wait_armed;
$t->wait_applied;
$t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT 'a:' || g FROM generate_series(1, 3000) g))");
$t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT 'd:' || g FROM generate_series(1, 3000) g))");

$t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT 'e:' || g FROM generate_series(1, 3000) g))");

for my $change (
	"CREATE USER MAPPING FOR PUBLIC SERVER redis OPTIONS (username 'default', password '" . 'x' x 3000 . "')",
	"ALTER SERVER redis OPTIONS (ADD timeout '900')")
{
	my $holder = $t->hold('audit-before-copies');
	my $session = $t->node->background_psql('postgres', on_error_stop => 0);
	my $position = $t->log_position;

	$session->query_safe("SET mlcache.fault_points = 'audit-before-copies=wait'");
	$session->{stdin} .= "SELECT 'found ' || count(*) FROM mlcache.audit('d');\n\\echo over\n";
	$session->{run}->pump_nb;
	$t->wait_held('audit-before-copies');
	$t->sql($change);
	$holder->quit;
	$t->wait_for('the audit', sub { $session->{run}->pump_nb; $session->{stdout} =~ /^over$/m });
	like($session->{stdout}, qr/^found 0$/m, 'the audit goes on over another connection');
	unlike($session->{stderr}, qr/ERROR|WARNING/, '...and has nothing to complain of');
	$session->quit;
	$t->wait_log(qr/server "redis" is connected/, $position);
	$t->wait_armed;
}

# A read that gives its lease back does not wait for the answer.
(undef, my $found, my $said) = $t->node->psql('postgres', "SELECT count(*) FROM mlcache.audit('e')");
is($found, 0, 'what a loader has not waited for is not taken for an answer');
like($said, qr/3000 cached keys compared/, '...while it is asked for each key');
(undef, undef, my $err) = $t->node->psql('postgres',
	"SET mlcache.fault_points = 'audit-drain=skip'; SELECT count(*) FROM mlcache.audit('e')");
like($err, qr/unexpected reply from Redis|out of order/, '...as it is without that safeguard');
$t->stop;
done_testing();
