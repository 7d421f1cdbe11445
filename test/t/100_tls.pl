# TLS: every connection verifies whom it talks to, and no build without TLS
# falls back to plain text.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IO::Socket::INET;
use MlcRedis;
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# What the Makefile asks for.
my $built = system("pkg-config --exists 'hiredis >= 1' hiredis_ssl openssl") == 0;
my $wrapper = 'FOREIGN DATA WRAPPER mlcache OPTIONS';

if (!$built)
{
	my $t = MlcTest->new('no_tls', bare => 1);
	my ($status, $out, $err);

	$t->sql('CREATE EXTENSION mlcache');
	($status, $out, $err) = $t->node->psql('postgres',
		"\\set VERBOSITY verbose\nCREATE SERVER redis $wrapper (url 'rediss://127.0.0.1:1')");
	like($err, qr/ERROR:  HV024.*DETAIL:  mlcache was built without TLS support/s,
		'without TLS rediss:// is refused');
	$t->stop;
	done_testing();
	exit;
}

# ---------- certificates ----------

my $dir = PostgreSQL::Test::Utils::tempdir_short();

sub openssl
{
	my $out = '';

	IPC::Run::run([ 'openssl', @_ ], '>', \$out, '2>', \$out) or die "openssl @_: $out";
}

sub make_authority
{
	my ($name) = @_;

	openssl(qw(req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj),
		"/CN=$name", '-keyout', "$dir/$name.key", '-out', "$dir/$name.crt");
}

# name.crt and name.key, for the names and addresses in alt, signed by an authority.
sub make_certificate
{
	my ($name, $authority, $alt) = @_;

	append_to_file("$dir/$name.ext", "subjectAltName=$alt\n");
	openssl(qw(req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj),
		"/CN=$name", '-keyout', "$dir/$name.key", '-out', "$dir/$name.csr");
	openssl(qw(x509 -req -days 2 -in), "$dir/$name.csr", '-CA', "$dir/$authority.crt", '-CAkey',
		"$dir/$authority.key", '-CAcreateserial', '-extfile', "$dir/$name.ext",
		'-out', "$dir/$name.crt");
}

make_authority($_) for qw(authority stranger);
make_certificate('redis', 'authority', 'IP:127.0.0.1,DNS:redis.test');
make_certificate('mlcache', 'authority', 'DNS:mlcache');

sub tls_redis
{
	my ($port, $clients) = @_;

	return ('--tls-port', $port, '--tls-cert-file', "$dir/redis.crt", '--tls-key-file',
		"$dir/redis.key", '--tls-ca-cert-file', "$dir/authority.crt", '--tls-auth-clients', $clients);
}

# ---------- everything through TLS, under load ----------

my $port = MlcRedis::free_port();
my $t = MlcTest->new('tls', cold => 500, redis => [ tls_redis($port, 'no') ],
	url => "rediss://127.0.0.1:$port", server => "tls_ca_file '$dir/authority.crt'");

$t->sql(<<'SQL');
CREATE TABLE s (id int PRIMARY KEY, n int);
INSERT INTO s VALUES (1, 1), (2, 2);
SELECT mlcache.attach('s', key => 's:{id}', consistency => 'strong', servers => '{redis}');
SQL
$t->wait_armed;
$t->start_load;
$t->let_write(1000);
$t->redis->kill9;
$t->redis->start;
$t->let_write(1000);
$t->finish_load('TLS', missing => 1);
$t->sql("INSERT INTO i VALUES (-1, 0, 0)");
is($t->sql("SELECT mlcache.get('s:1')::json->>'n'; SELECT source FROM mlcache.last_read()"),
	"1\nload", 'a reader fills');
is($t->sql("UPDATE s SET n = 3 WHERE id = 1; SELECT mlcache.get('s:1')::json->>'n'"),
	'3', 'a strong writer');
is($t->sql("SELECT mlcache.lock_acquire('a') IS NOT NULL; SELECT mlcache.lock_release('a')"),
	"t\n", 'a lock');
# the relay, and whoever else is connected just now; none of them on a plain port
my @clients = $t->redis->command('CLIENT', 'LIST') =~ /\baddr=127\.0\.0\.1:/g;
cmp_ok(scalar @clients, '>=', 1, 'the relay is connected through TLS');

# ---------- whom we trust ----------

# What check_setup() says of a server with these options.
sub try
{
	my ($options, $url) = @_;

	$url //= "rediss://127.0.0.1:$port";
	$t->sql("DROP SERVER IF EXISTS z CASCADE; CREATE SERVER z $wrapper (url '$url'"
		  . ($options ? ", $options" : '') . ')');
	return $t->sql("SELECT detail FROM mlcache.check_setup() WHERE item = 'server z'");
}
my $good = 'It answers, and runs the function library.';

is(try("tls_ca_file '$dir/authority.crt'"), $good, 'the right authority');
like(try("tls_ca_file '$dir/stranger.crt'"), qr/certificate refused/, 'a wrong one is refused');
like(try(''), qr/certificate refused/, 'the system does not know it');
like(try("tls_ca_file '$dir/authority.crt'", "rediss://localhost:$port"),
	qr/certificate refused: hostname mismatch/i, 'a wrong name is refused');
like(try("tls_ca_file '$dir/authority.crt', tls_server_name 'other.test'"),
	qr/certificate refused: hostname mismatch/i, 'another name asked for is refused');
is(try("tls_ca_file '$dir/authority.crt', tls_server_name 'redis.test'", "rediss://localhost:$port"),
	$good, 'the name asked for');
is(try("tls_ca_file '$dir/stranger.crt', tls_verify 'off'"), $good, 'not verified when told so');
like(try("tls_ca_file '$dir/nothing.crt'"),
	qr/could not read certificates from ".*nothing.crt": No such file/, 'a file that is not there');

# what has been trusted is not for ever
$t->sql("ALTER SERVER redis OPTIONS (SET tls_ca_file '$dir/stranger.crt')");
$t->wait_for('the relay to notice', sub { $t->stat('last_error') =~ /certificate refused/ });
# a row that the load has not deleted
my $read = "SELECT mlcache.get('i:-1') IS NOT NULL; SELECT source FROM mlcache.last_read()";
# the relay shuts L1 right after it has noticed
$t->wait_for('a reader to read the row', sub { $t->sql($read) eq "t\nrow" });
is($t->sql($read), "t\nrow", 'and so do others');
my (undef, undef, $err) = $t->node->psql('postgres',
	"\\set VERBOSITY verbose\nUPDATE s SET n = 4 WHERE id = 2");
like($err, qr/ERROR:  08\w{3}:.*certificate refused/s, 'a strong commit fails');
$t->sql("ALTER SERVER redis OPTIONS (SET tls_ca_file '$dir/authority.crt')");
$t->wait_armed;

# ---------- who we are ----------

my $strict = MlcRedis->new('strict');
my $strict_port = MlcRedis::free_port();

$strict->start(tls_redis($strict_port, 'yes'));
# it hangs up once it has told us why; its reset can overtake that
like(try("tls_ca_file '$dir/authority.crt'", "rediss://127.0.0.1:$strict_port"),
	qr/certificate required|handshake failure|reset by peer/, 'without a certificate we are refused');
$t->sql("CREATE USER MAPPING FOR PUBLIC SERVER z"
	  . " OPTIONS (tls_cert_file '$dir/mlcache.crt', tls_key_file '$dir/mlcache.key')");
is($t->sql("SELECT detail FROM mlcache.check_setup() WHERE item = 'server z'"),
	$good, 'with one we are not');
$t->sql('CREATE ROLE r; GRANT USAGE ON FOREIGN SERVER z TO r');
(undef, undef, $err) = $t->node->psql('postgres',
	"SET ROLE r; CREATE USER MAPPING FOR r SERVER z OPTIONS (tls_cert_file '/a', tls_key_file '/a')");
like($err, qr/only superusers may set tls_cert_file/, 'not everybody may name files');

# ---------- no TLS there ----------

my $plain = MlcRedis->new('plain');
my $plain_port = MlcRedis::free_port();

$plain->start('--port', $plain_port);
like(try('', "rediss://127.0.0.1:$plain_port"), qr/did not finish the TLS handshake/, 'a server without TLS');
like(try('', "redis://127.0.0.1:$port"), qr/could not read from|does not speak/,
	'plain text to a server with TLS');
my $mute = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die $!;
my $began = time();
like(try("connect_timeout '300'", 'rediss://127.0.0.1:' . $mute->sockport),
	qr/did not finish the TLS handshake within 300 ms/, 'a server that says nothing');
cmp_ok(time() - $began, '<', 30, 'and does not hold us up');
(undef, undef, $err) = $t->node->psql('postgres',
	"CREATE SERVER b $wrapper (url 'redis://127.0.0.1', tls_ca_file '/a')");
like($err, qr/"tls_ca_file" needs a url that begins with rediss:/, 'no option without TLS');

$t->sql('DROP SERVER z CASCADE');
$t->stop;
done_testing();
