# A captured table that changes while the transaction commits, after the keys
# have been written: the commit fails, rather than leave a stale entry.
#
# Deferred triggers run before that; what runs after is another module's code.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
my ($include) = run_command([ $pg_config, '--includedir-server' ]);
my $module = PostgreSQL::Test::Utils::tempdir() . '/late';

command_ok(
	[
		$ENV{CC} // 'cc', '-O1', '-fPIC', '-shared', '-I', $include, '-o', "$module.so",
		"$FindBin::RealBin/lib/late.c"
	],
	'the module compiles');
chmod 0755, PostgreSQL::Test::Utils::tempdir();

my $t = MlcTest->new('late_change', bare => 1,
	conf => "shared_preload_libraries = '$module,mlcache'\n");

$t->create_server("timeout '60000'");
$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE captured (id int PRIMARY KEY, grp int, n int);
CREATE TABLE plain (id int PRIMARY KEY, n int);
INSERT INTO captured VALUES (1, 1, 0), (2, 2, 0);
INSERT INTO plain VALUES (1, 0);
SELECT mlcache.attach('captured', key => 'captured:{id}', capture => 'trigger');
SELECT mlcache.attach('plain', key => 'plain:{id}');
SQL
$t->wait_applied;

sub commit
{
	my ($late, $sql) = @_;
	my (undef, undef, $err) = $t->node->psql('postgres',
		"\\set VERBOSITY verbose\nBEGIN; SET LOCAL late.sql = '$late'; $sql; COMMIT;");

	return $err =~ /ERROR:  (.*)/ ? $1 : 'committed';
}

my $change = 'UPDATE captured SET n = n + 1 WHERE id = 2';

like(commit($change, 'UPDATE captured SET n = n + 1 WHERE id = 1'),
	qr/^25000: cannot change a cached table while the transaction commits$/, 'after keys have been written');
is($t->sql('SELECT sum(n) FROM captured'), 0, 'nothing of it has happened');

# the first change of all comes too late as well
like(commit($change, 'SELECT 1'), qr/^25000: /, 'without keys');
is($t->sql('SELECT sum(n) FROM captured'), 0, 'nothing of it has happened');

# what WAL tells may come at any time
$t->fill_key('plain:1');
is(commit('UPDATE plain SET n = n + 1', 'SELECT 1'), 'committed', 'a table captured from WAL');
$t->wait_applied;
isnt($t->look_up('plain:1'), '{"id":1,"n":0}', 'is delivered');

# a deferred trigger runs in time
$t->sql(<<'SQL');
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE captured SET n = n + 1 WHERE id = 2;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER follow AFTER UPDATE ON plain DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION follow();
SQL
$t->fill_key('captured:2');
is(commit('', 'UPDATE plain SET n = n + 1'), 'committed', 'a deferred trigger');
$t->wait_applied;
is($t->row('captured:2'), '{"id":2,"grp":2,"n":1}', 'changes the row');
isnt($t->look_up('captured:2'), '{"id":2,"grp":2,"n":0}', 'and its entry goes');
$t->stop;
done_testing();
