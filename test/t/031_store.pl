# L1's store alone: random operations beside a plain table.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::RealBin/../..";
my $program = PostgreSQL::Test::Utils::tempdir() . '/store_test';
my $cc = $ENV{CC} // 'cc';
my ($include) = run_command([ $ENV{PG_CONFIG} // 'pg_config', '--includedir-server' ]);

command_ok(
	[
		$cc, '-O1', '-g', '-DFRONTEND', '-fsanitize=address,undefined', '-fno-sanitize-recover=all',
		'-I', "$top/src", '-I', $include, '-o', $program,
		"$FindBin::RealBin/lib/store_test.c", "$top/src/shm/store.c"
	],
	'the store compiles alone');
command_ok([$program], 'finds what was put, and nothing else');
done_testing();
