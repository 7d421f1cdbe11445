# report(): the page as a person sees it, in a real browser: what it shows, that
# its plots have the samples, that it asks nobody, and that it can be read in
# light and in dark.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use JSON::PP;
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $t = MlcTest->new('report', no_tables => 1, conf => <<'CONF');
mlcache.fault_points = 'monitor-second=skip'
CONF

# A name that would end the script and begin another.
my $evil = '</script><script>document.title = 1</script>';
$t->sql(<<"SQL");
CREATE TABLE p (id int PRIMARY KEY, name text);
CREATE TABLE "$evil" (id int PRIMARY KEY);
INSERT INTO p SELECT g, 'x' FROM generate_series(1, 100) g;
SELECT mlcache.attach('p', key => 'p:{id}', consistency => 'strong');
SELECT mlcache.attach('"$evil"', key => 'evil:{id}');
SELECT mlcache.wait_applied(mlcache.last_commit_version(), '60 s');
SQL
$t->wait_armed;
$t->sql("UPDATE p SET name = 'y' WHERE id <= 10");
$t->wait_for('a history', sub {
	$t->sql("SELECT count(mlcache.get('p:' || g)) FROM generate_series(1, 100) g, generate_series(1, 20)");
	$t->sql('SELECT count(*) > 70 AND count(apply_p99) > 0 AND sum(hits) >= 1900 FROM mlcache.stat_history') eq 't';
});
$t->redis->command('SET', 'p:50', 'wrong', 'KEEPTTL');
is($t->sql("SELECT class FROM mlcache.audit('p')"), 'corrupt', 'a copy is wrong');
$t->wait_for('it in the history', sub { $t->sql('SELECT sum(violations) > 0 FROM mlcache.stat_history') eq 't' });
$t->redis->kill9;
$t->wait_for('a server that is down', sub {
	$t->sql('SELECT max(down) = 1 FROM mlcache.stat_history WHERE at > (SELECT max(at) FROM mlcache.stat_history) - interval \'1 s\'') eq 't'
	  && $t->sql("SELECT count(*) FROM mlcache.health() WHERE finding = 'server down'") == 1;
});

my $page = $t->sql('SELECT mlcache.report()');

# ---- without a browser ----
like($page, qr/^<!DOCTYPE html>.*<\/html>\s*$/s, 'one page');
unlike($page, qr/https?:|\bsrc=|<link|\@import|url\(/i, 'that names nothing outside it');
my ($json) = $page =~ /<script id="data" type="application\/json">(.*?)<\/script>/s;
my $data = decode_json($json);
cmp_ok(scalar @{ $data->{history} }, '>', 70, 'it has the history');
is($t->node->psql('postgres', 'CREATE ROLE nobody; SET ROLE nobody; SELECT mlcache.report()'),
	3, 'not everybody may have it');
is($t->sql('CREATE ROLE watcher IN ROLE pg_monitor; SET ROLE watcher; SELECT length(mlcache.report()) > 10000'),
	't', 'pg_monitor may');

# ---- in a browser ----
# Added to the page, since only a script in it can tell: what contrast its texts
# have, in the words of WCAG 2 (1.4.3: 4.5 at least).
my $probe = <<'JS';
<script>
function light(color) {
	const [r, g, b] = color.match(/[\d.]+/g).map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
	return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function background(e) {
	for (; e; e = e.parentElement) {
		const color = getComputedStyle(e).backgroundColor;
		if (color !== 'rgba(0, 0, 0, 0)') return color;
	}
	return 'rgb(255, 255, 255)';
}
let least = 99, texts = 0;
for (const e of document.querySelectorAll('body *')) {
	if (!['SCRIPT', 'NOSCRIPT'].includes(e.tagName) && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) {
		const style = getComputedStyle(e);
		const [a, b] = [light(e instanceof SVGElement ? style.fill : style.color), light(background(e))];
		least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
		texts++;
	}
}
document.body.dataset.contrast = least;
document.body.dataset.texts = texts;
document.body.dataset.ground = light(background(document.body));
document.body.dataset.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
</script>
JS

my $dir = $t->node->basedir;
my $file = "$dir/report.html";
my ($browser) = grep { -x } map { "$_/chromium" } split /:/, $ENV{PATH};

# chromium(what to do): its standard output, and what the page's console said.
sub chromium
{
	my (@args) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run(
		[ $browser, qw(--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
			--disable-background-networking --disable-component-update --disable-sync
			--disable-dev-shm-usage --hide-scrollbars --enable-logging=stderr),
			'--window-size=1280,2000', "--user-data-dir=$dir/chromium", @args, "file://$file" ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(300));
	return ($out, join("\n", grep { /CONSOLE/ } split /\n/, $err));
}

# The text of an element of the DOM that was dumped, by a pattern of its start.
sub text_of
{
	my ($dom, $start) = @_;
	my ($text) = $dom =~ /$start[^>]*>(.*?)<\/(?:div|span|h1|main)>/s;

	$text =~ s/<[^>]*>/ /g;
	return $text;
}

SKIP:
{
	skip 'chromium is not installed', 1 unless $browser;
	append_to_file($file, $page . $probe);

	my ($dom, $console) = chromium('--dump-dom');
	my %body = $dom =~ /data-(contrast|texts|ground|overflow)="([^"]*)"/g;
	$dom =~ s/<script.*?<\/script>//gs;
	is($console, '', 'the console says nothing');
	like($dom, qr/<title>mlcache report: postgres<\/title>/, 'the title names the database');
	like($dom, qr/<h1 id="title">mlcache: postgres<\/h1>/, '...as the heading does');

	my @titles = $dom =~ /<h3>(.*?)<\/h3>/g;
	is(scalar @titles, 6, 'six plots');
	my %paths = $dom =~ /data-series="(.*?)"[^>]* d="(.*?)"/g;
	my %points = map { $_ => scalar(() = $paths{$_} =~ /[ML]/g) } keys %paths;
	my @seconds = grep { $_->[1] == 1 } @{ $data->{history} };
	is($points{lag}, scalar @seconds, 'as many points of lag as samples');
	is($points{retained}, scalar(grep { defined $_->[4] } @seconds), '...of WAL held');
	is($points{p99}, scalar(grep { defined $_->[6] } @seconds), '...of convergence');
	cmp_ok($points{p99}, '>', 0, '...of which there are some');
	is($points{'hit ratio'}, scalar(grep { $_->[7] + $_->[8] > 0 } @seconds), '...of the hit ratio');
	is($points{violations}, scalar(grep { $_->[11] > 0 || $_->[12] > 0 } @seconds), '...of violations, where copies were compared');
	cmp_ok($points{violations}, '>', 0, '...which was done');
	unlike($dom, qr/ d="[^"]*(NaN|Infinity|undefined)/, 'all of them numbers');
	my @bands = $dom =~ /<rect /g;
	my $down = grep { $_->[13] > 0 } @seconds[1 .. $#seconds];
	is(scalar @bands, 6 * $down, 'the time without a server is shaded');
	cmp_ok($down, '>', 0, '...and there was some');
	like($dom, qr/Shaded: a server did not serve\./, '...and explained');

	like(text_of($dom, '<div class="tiles"'), qr/State/, 'tiles');
	like($dom, qr/<b class="critical">\d findings?<\/b>/, '...that tell how it is');
	like($dom, qr/<td class="critical">critical<\/td><td class="">redis<\/td><td class="">server down<\/td>/,
		'the finding');
	like($dom, qr/<code>redis-cli -s \S+ PING<\/code>/, '...and what to type');
	for my $row ('get L1', 'get load', 'quarantine', 'apply')
	{
		like($dom, qr/<td class="">$row<\/td><td class="n">\d/, "the latency of $row");
	}
	like($dom, qr/<td class=""><code>p:\{id\}<\/code><\/td><td class="">strong<\/td>/, 'the rule');
	like($dom, qr/<td class="">an hour<\/td><td class="n">\d+<\/td><td class="n">1<\/td>/, 'what the audit found');
	like($dom, qr/<td class=""><code>p:\d+<\/code><\/td><td class="n">\d+<\/td>/, 'hot keys');
	like($dom, qr/&lt;\/script&gt;&lt;script&gt;/, 'a name that is a script is a name');
	cmp_ok($body{texts}, '>', 100, 'there is a lot to read');
	cmp_ok($body{contrast}, '>=', 4.5, '...and it can be read');
	cmp_ok($body{ground}, '>', 0.8, '...on light ground');
	is($body{overflow}, 0, '...without scrolling sideways');

	# the same in the dark, with a click on "a day"
	append_to_file($file, q{<script>document.querySelector('[data-seconds="60"]').click()</script>});
	($dom, $console) = chromium('--dump-dom', '--blink-settings=preferredColorScheme=0');
	%body = $dom =~ /data-(contrast|texts|ground|overflow)="([^"]*)"/g;
	%paths = $dom =~ /data-series="(.*?)"[^>]* d="(.*?)"/g;
	my @minutes = grep { $_->[1] == 60 } @{ $data->{history} };
	cmp_ok(scalar @minutes, '>', 0, 'there are minutes');
	is(scalar(() = $paths{lag} =~ /[ML]/g), scalar @minutes, '...which a click shows');
	is($console, '', 'in the dark the console says nothing, too');
	cmp_ok($body{contrast}, '>=', 4.5, '...it can be read');
	cmp_ok($body{ground}, '<', 0.05, '...on dark ground');

	chromium("--screenshot=$dir/report.png");
	cmp_ok(-s "$dir/report.png" // 0, '>', 50_000, 'there is something to see');
}

$t->stop;
done_testing();
