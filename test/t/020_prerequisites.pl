# What a server lacks: each missing prerequisite is one clear error of attach()
# with the line to type, and a row of check_setup(); nothing is changed.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use MlcRedis;
use PostgreSQL::Test::Cluster;
use Test::More;

my $redis = MlcRedis->new('prerequisites');
$redis->start;
my $url = $redis->url;
my $node = PostgreSQL::Test::Cluster->new('prerequisites');
# settings that the caller gives to every server would be in the way here
delete $ENV{TEMP_CONFIG};
$node->init(extra => [ '--no-locale', '-E', 'UTF8' ]);
$node->append_conf('postgresql.conf', "wal_level = replica\nmax_replication_slots = 0\nmax_wal_senders = 0");
$node->start;

# Runs attach(); what it says, with SQLSTATE, detail and hint.
sub refusal
{
	my ($status, $out, $err) = $node->psql('postgres',
		"\\set VERBOSITY verbose\nSELECT mlcache.attach('t', key => 't:{id}')",
		on_error_stop => 1);

	isnt($status, 0, 'attach is refused');
	return $err;
}

# The row of check_setup() for an item: ok|fix.
sub setup_row
{
	my ($item) = @_;

	return $node->safe_psql('postgres',
		"SELECT ok, fix FROM mlcache.check_setup() WHERE item = '$item'");
}

sub stays_unchanged
{
	is($node->safe_psql('postgres', 'SELECT count(*) FROM mlcache.rules'), 0, 'no rule was stored');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), 0, 'no slot was made');
}

# ---------- not preloaded ----------

$node->safe_psql('postgres', "CREATE EXTENSION mlcache");
$node->safe_psql('postgres', "CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url '$url')");
$node->safe_psql('postgres', "CREATE TABLE t (id int PRIMARY KEY)");
my $said = refusal();
like($said, qr/55000: mlcache must be loaded via shared_preload_libraries/, 'not preloaded: error');
like($said, qr/HINT:  Add shared_preload_libraries = 'mlcache'/, 'not preloaded: hint');
like(setup_row('shared_preload_libraries'), qr/^f\|Add shared_preload_libraries = 'mlcache'/,
	'not preloaded: check_setup');
like($node->safe_psql('postgres', "INSERT INTO t VALUES (1) RETURNING id"), qr/1/,
	'not preloaded: tables work');
stays_unchanged();

# ---------- wal_level ----------

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'mlcache'");
$node->restart;
$said = refusal();
like($said, qr/55000: mlcache requires wal_level = logical/, 'wal_level: error');
like($said, qr/HINT:  ALTER SYSTEM SET wal_level = logical;/, 'wal_level: hint');
like(setup_row('wal_level'), qr/^f\|ALTER SYSTEM SET wal_level = logical;/, 'wal_level: check_setup');
stays_unchanged();

# ---------- no replication slots ----------

$node->append_conf('postgresql.conf', "wal_level = logical\nmax_wal_senders = 5");
$node->restart;
$said = refusal();
like($said, qr/55000: mlcache requires a replication slot/, 'no slots: error');
like($said, qr/HINT:  ALTER SYSTEM SET max_replication_slots = 10;/, 'no slots: hint');
like(setup_row('max_replication_slots'), qr/^f\|ALTER SYSTEM SET max_replication_slots/,
	'no slots: check_setup');
stays_unchanged();

# ---------- output_plugin_libraries ----------

$node->append_conf('postgresql.conf', 'max_replication_slots = 5');
$node->restart;
SKIP:
{
	skip 'this server allows every output plugin', 7
	  unless MlcTest::knows_setting('output_plugin_libraries');
	$said = refusal();
	like($said, qr/55000: mlcache is not an approved output plugin/, 'plugin: error');
	like($said, qr/HINT:  ALTER SYSTEM SET output_plugin_libraries = .*, mlcache;/, 'plugin: hint');
	like(setup_row('output_plugin_libraries'), qr/^f\|ALTER SYSTEM SET output_plugin_libraries/,
		'plugin: check_setup');
	stays_unchanged();

	# the line to type is good as it stands
	my ($line) = $said =~ /HINT:  (ALTER SYSTEM SET output_plugin_libraries[^;]*;)/;
	$node->safe_psql('postgres', $line);
	$node->reload;
	$node->poll_query_until('postgres',
		"SELECT ok FROM mlcache.check_setup() WHERE item = 'output_plugin_libraries'");
	is(setup_row('output_plugin_libraries'), 't|', 'the hint helps');
}

# ---------- a Redis that is too old ----------

# One without functions, as all before 7.0 are: it does not know the commands.
my $old = MlcRedis->new('old');
$old->start(map { ('--rename-command', $_, '') } qw(FCALL FCALL_RO FUNCTION));
$node->safe_psql('postgres', "ALTER SERVER redis OPTIONS (SET url '" . $old->url . "')");
$said = refusal();
like($said, qr/0A000: .*/, 'too old: error');
like($said, qr/it must be Redis 7.0 or later/, 'too old: detail');
like($said, qr/HINT:  ALTER SERVER redis OPTIONS/, 'too old: hint');
# one that is slow to begin makes it after the refusal
ok($node->poll_query_until('postgres', "SELECT detail ~ '^None is needed' AND NOT EXISTS"
		  . " (SELECT FROM pg_replication_slots) FROM mlcache.check_setup() WHERE item = 'relay'"),
	'too old: the slot that was made for the rule goes');
stays_unchanged();
$node->safe_psql('postgres', "ALTER SERVER redis OPTIONS (SET url '$url')");
$old->stop;

# ---------- all there ----------

ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM mlcache.check_setup() WHERE NOT ok"),
	'nothing is missing any more');
$node->safe_psql('postgres', "SELECT mlcache.attach('t', key => 't:{id}')");
ok($node->poll_query_until('postgres', "SELECT state = 'armed' FROM mlcache.stat_servers"),
	'armed');

# ---------- the relay leaves when it is not wanted ----------

$node->append_conf('postgresql.conf', 'mlcache.relay_enabled = off');
$node->reload;
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'mlcache relay'"),
	'no relay while mlcache.relay_enabled is off');
$node->append_conf('postgresql.conf', 'mlcache.relay_enabled = on');
$node->reload;
ok($node->poll_query_until('postgres', "SELECT state = 'armed' FROM mlcache.stat_servers"),
	'and one when it is on again');
$node->safe_psql('postgres', "SELECT mlcache.detach('t')");
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_replication_slots'),
	'the slot goes with the last rule');
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'mlcache relay'"),
	'and so does the relay');
$node->stop;
done_testing();
