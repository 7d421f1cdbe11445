# The auditor: samples what is cached at a set rate, measures convergence by
# probes; the view consistency.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('auditor', no_tables => 1, conf => "mlcache.l1_size = 1MB\nmlcache.audit_timeout = 2s\nmlcache.lease_timeout = 60s",
	server => "timeout '30000'");

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE i (id int PRIMARY KEY, v int);
CREATE TABLE d (id int PRIMARY KEY, v int);
INSERT INTO i SELECT g, 0 FROM generate_series(1, 300) g;
INSERT INTO d SELECT g, 1 FROM generate_series(1, 300) g;
SELECT mlcache.attach('i', key => 'i:{id}');
SELECT mlcache.attach('d', key => 'd:{id}', action => 'refresh', loader => 'SELECT to_json(10 / v) FROM d WHERE id = $1');
SQL
$t->wait_armed;
$t->wait_applied;
$t->sql("SELECT count(value) FROM mlcache.mget(ARRAY(SELECT t || g FROM generate_series(1, 300) g, (VALUES ('i:'), ('d:')) x(t)))");
is($t->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mlcache auditor'"), 0, 'there is none unless asked for');
is($t->sql('SELECT string_agg(checked || coalesce(nines::text, $$-$$) || probes || coalesce(convergence_p50_ms::text, $$-$$), $$ $$) FROM mlcache.consistency'),
	'0-0- 0-0- 0-0-', 'and nothing has been seen');

my $rate = "mlcache.audit_rate = 5000\n";
my $consistency = sub { return $t->sql("SELECT $_[0] FROM mlcache.consistency WHERE \"window\" = '$_[1]'") };

$t->set_conf($rate);
$t->wait_for('copies compared', sub { $consistency->('checked', '1 min') >= 600 });
$t->wait_for('probes', sub { $consistency->('probes', '1 min') >= 3 });
for my $window ('1 min', '1 h', '1 day')
{
	is($consistency->('violations, per_million, nines >= 2.7, overdue, convergence_p50_ms > 0 AND convergence_p50_ms <= convergence_p99_ms'
			  . ' AND convergence_p99_ms <= convergence_p999_ms AND convergence_p999_ms <= convergence_max_ms', $window),
		'0|0.00|t|0|t', "what it saw within $window");
}
# the row changes all the time; nobody else may see the probes
$t->sql("SELECT pg_create_logical_replication_slot('mlctest', 'mlcache')");
my $probes = $consistency->('probes', '1 h');
$t->sql(join ';', map { "UPDATE i SET v = v + 1 WHERE id = $_" } 1 .. 100);
$t->wait_for('more probes', sub { $consistency->('probes', '1 h') > $probes + 2 });
is($consistency->('violations', '1 h'), 0, 'changes are no violations');
is($t->sql("SELECT count(*), count(DISTINCT data::json->>'key') FROM pg_logical_slot_get_changes('mlctest', NULL, NULL)"),
	'100|100', 'probes are no events');
$t->sql("SELECT pg_drop_replication_slot('mlctest')");

# what is wrong is found, counted and told
my $position = $t->log_position;

$t->redis->command('SET', 'i:200', '{"id":200,"v":-1}', 'KEEPTTL');
$t->redis->command('DEL', 'mlc:{i:201}');
$t->wait_log(qr/cached copy "i:200" on server "redis" is stale/, $position);
$t->wait_log(qr/cached copy "i:201" on server "redis" is unguarded/, $position);
$t->wait_for('violations', sub { $consistency->('violations', '1 h') >= 2 });
is($consistency->('per_million > 0 AND nines < 6', '1 h'), 't', 'and counted');
$t->sql("SELECT count(*) FROM mlcache.audit('i', repair => true)");
$t->wait_applied;

# a loader that fails stops nobody
$position = $t->log_position;
$t->set_relay_fault('lose-d:7=skip');
$t->sql('UPDATE d SET v = 0 WHERE id = 7');
$t->wait_applied;
$t->set_conf($rate);
$t->wait_log(qr/could not be audited: division by zero/, $position);
my $checked = $consistency->('checked', '1 h');
$t->wait_for('others compared', sub { $consistency->('checked', '1 h') > $checked + 300 });
ok(1, 'a loader that fails stops nobody');

# a table that is locked is left out, not waited for
my $session = $t->node->background_psql('postgres');
$session->query_safe('BEGIN; LOCK TABLE d');
$checked = $consistency->('checked', '1 h');
$t->wait_for('the other table compared', sub { $consistency->('checked', '1 h') > $checked + 500 });
is($t->sql("SELECT count(*) FROM pg_locks WHERE NOT granted"), 0, 'the auditor waits for no lock');
$session->quit;

# Redis away and back
my $pid = $t->sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'mlcache auditor'");
$t->redis->kill9;
$t->wait_state('down');
$t->redis->start;
$t->wait_armed;
$probes = $consistency->('probes', '1 day');
$t->wait_for('probes again', sub { $consistency->('probes', '1 day') > $probes + 1 });
is($t->sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'mlcache auditor'"), $pid, 'it goes on when Redis is back');

$t->clear_fault;
$t->wait_for('its end',
	sub { $t->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mlcache auditor'") == 0 });
ok(1, 'and leaves when it is turned off');
cmp_ok($consistency->('checked', '1 day'), '>', 0, 'what it has seen stays');
$t->sql('SELECT mlcache.reset_stats()');
is($consistency->('checked', '1 day'), 0, 'until it is reset');
$t->stop;
done_testing();
