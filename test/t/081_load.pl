# The load tester: what it reports of a load, and that it sees a broken promise.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::RealBin/../..";
my $load = PostgreSQL::Test::Utils::tempdir() . '/load';
my @flags = split ' ', `pkg-config --cflags --libs libpq`;

command_ok([ $ENV{CC} // 'cc', '-O2', '-o', $load, "$top/test/bench/load.c", @flags, '-lm', '-lpthread' ],
	'it compiles');

my $t = MlcTest->new('load', no_tables => 1, conf => "max_connections = 50\n", server => "timeout '30000'");
my @common = ('-d', $t->node->connstr('postgres'), '-t', 2, '-c', 8, '-k', 50, '-r', 80);

# exit status, what it printed
sub load
{
	my ($options, @arguments) = @_;

	local $ENV{PGOPTIONS} = $options;
	my ($out, $err) = run_command([ $load, @common, @arguments ]);
	return ($? >> 8, "$out\n$err");
}

my ($status, $text) = load('');
is($status, 0, 'strong: no violation') or diag($text);
like($text, qr/^   [12] s +[1-9]\d* reads\/s +[1-9]\d* writes\/s  hits so far/m, 'a line a second');
like($text, qr/^reads +[1-9]\d* /m, 'how fast the reads were');
like($text, qr/^hit ratio \d+\.\d+ %, of L1/m, 'how many were hits');
like($text, qr/^stale reads 0 .*\n(.*\n)?violations 0\nerrors 0$/m, 'and what they saw');

for (1 .. 10)
{
	($status, $text) = load('-c mlcache.fault_points=strong-quarantine=skip,strong-release=skip');
	last if $status == 1;
}
is($status, 1, 'without the quarantine there are violations');
like($text, qr/^violations [1-9]\d*: [1-9]\d* stale, 0 never written, 0 keys/m, 'which are counted');

($status, $text) = load('', '-C', 'eventual');
is($status, 0, 'eventual: stale reads are no violation') or diag($text);

($status, $text) = load('', '-n');
is($status, 0, 'without a cache') or diag($text);
unlike($text, qr/hit ratio/, 'there is no hit ratio');

is($t->sql("SELECT to_regclass('mlcache_load') IS NULL"), 't', 'nothing is left');
$t->sql('CREATE TABLE mlcache_load (n int)');
($status, $text) = load('');
is($status, 2, 'a table of that name is not touched');
like($text, qr/DROP TABLE mlcache_load/, 'and the way out is told');

done_testing();
