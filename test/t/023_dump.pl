# A dump of a database with rules, restored into another one: servers, mappings,
# rules and triggers come back, a relay of its own starts, and the copies of
# both databases equal their rows.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcRedis;
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $t = MlcTest->new('dump', no_tables => 1, server => "timeout '60000'");
my $other = MlcRedis->new('dump-other');
my $file = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';

$other->start;
$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE SCHEMA shop;
CREATE TABLE shop.product (id int PRIMARY KEY, name text, category_id int);
CREATE TABLE shop.part (id int, region text, n int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE shop.part_eu PARTITION OF shop.part FOR VALUES IN ('eu');
INSERT INTO shop.product SELECT n, 'p' || n, n % 5 FROM generate_series(1, 50) n;
INSERT INTO shop.part SELECT n, 'eu', n FROM generate_series(1, 50) n;
CREATE ROLE app;
CREATE USER MAPPING FOR app SERVER redis OPTIONS (username 'default', password 'unused');
SELECT mlcache.attach('shop.product', key => 'product:{id}', action => 'update', ttl => '1 hour');
SELECT mlcache.attach('shop.product', key => 'category:{category_id}', filter => 'id > 0',
	loader => 'SELECT json_agg(id ORDER BY id) FROM shop.product WHERE category_id = $1');
SELECT mlcache.attach('shop.part', key => 'part:{region}:{id}', consistency => 'strong');
SQL
$t->wait_armed;

my @views = (
	'SELECT relation, key, action, consistency, capture, ttl, columns, loader, filter, on_unreachable, servers'
	  . ' FROM mlcache.rules ORDER BY key',
	'SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE tgrelid::regclass::text ~ \'^shop\' ORDER BY tgrelid::regclass::text, tgname',
	'SELECT srvname, fdwname FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw',
	'SELECT usename, option FROM pg_user_mappings, unnest(umoptions) option ORDER BY 1, 2');
my %before = map { $_ => $t->sql($_) } @views;

command_ok([ 'pg_dump', '-f', $file, '-d', $t->node->connstr('postgres') ], 'pg_dump');
$t->sql('CREATE DATABASE restored');

# it must not share the keys of the first
my $text = slurp_file($file);
my ($old, $new) = ($t->redis->url, $other->url);
$text =~ s/\Q$old\E/$new/g;
append_to_file("$file.other", $text);
$t->node->command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$file.other", 'restored' ],
	'restored');

sub sql { return $t->node->safe_psql('restored', $_[0]) }

is(sql($_), $before{$_}, 'the same: ' . substr($_, 0, 60)) for @views;

$t->wait_for('its own relay', sub { sql("SELECT state FROM mlcache.stat_servers") eq 'armed' });
ok(1, 'a relay serves the restored database');

# reads fill, writes of all kinds are seen, in each database its own
for my $db (qw(postgres restored))
{
	my $run = sub { $t->node->safe_psql($db, $_[0]) };

	$run->("INSERT INTO fence VALUES (1); SELECT mlcache.wait_applied(mlcache.last_commit_version(), NULL)");
	$run->("SELECT mlcache.get('product:1'), mlcache.get('category:1'), mlcache.get('part:eu:1')");
	is($run->("SELECT mlcache.get('product:1'); SELECT source FROM mlcache.last_read()"),
		qq({"id":1,"name":"p1","category_id":1}\nL1), "$db: cached");
	$run->("UPDATE shop.product SET name = '$db', category_id = 2 WHERE id = 1; UPDATE shop.part SET n = -1 WHERE id = 1");
	is($run->("SELECT mlcache.get('part:eu:1')::json->>'n'"), -1, "$db: a strong read sees the change at once");
	$run->("SELECT mlcache.wait_applied(pg_catalog.max(v), '60 s') FROM (SELECT mlcache.fill_version()) AS f(v)");
	like($run->("SELECT mlcache.get('product:1')"), qr/"name":"$db","category_id":2/, "$db: the change has arrived");
	is($run->("SELECT mlcache.get('category:1')"), '[6, 11, 16, 21, 26, 31, 36, 41, 46]', "$db: and left the old category");
}

# a table restored over itself: its constraint goes first, its rules with it
my $archive = PostgreSQL::Test::Utils::tempdir() . '/dump.archive';
my $connstr = $t->node->connstr('postgres');
command_ok([ 'pg_dump', '-Fc', '-t', 'shop.product', '-f', $archive, '-d', $connstr ], 'pg_dump of a table');
command_ok([ 'pg_restore', '--clean', '--single-transaction', '-d', $connstr, $archive ], 'restored over itself');
is($t->sql('SELECT key FROM mlcache.rules'), 'part:{region}:{id}', 'its rules went with the old table');

$other->stop;
$t->stop;
done_testing();
