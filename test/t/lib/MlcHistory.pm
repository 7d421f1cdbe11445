# MlcHistory.pm
#	  Histories: many sessions inside and outside PostgreSQL read and write a few
#	  keys (test/history/driver.c), and what they saw is judged afterwards
#	  (test/history/check.py).
#
#	  my $h = MlcHistory->new($t);					compiles the driver
#	  $h->begin('strong', 30, rule => "consistency => 'strong'");
#	  $h->let_change(100); ...faults...; my $report = $h->finish;
#	  $h->is_sound('what happened', $report, writes => 500, sources => [qw(L2 load)]);
package MlcHistory;

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = dirname(abs_path(__FILE__)) . '/../../..';
my $python = $ENV{MLC_PYTHON} // '/usr/bin/python3';

sub new
{
	my ($class, $t) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my @flags = split ' ', `pkg-config --cflags --libs libpq hiredis`;

	command_ok(
		[ $ENV{CC} // 'cc', '-O2', '-pthread', '-o', "$dir/driver", "$top/test/history/driver.c", @flags ],
		'the driver compiles');
	return bless { t => $t, dir => $dir, tables => 0 }, $class;
}

sub table { return $_[0]->{table} }
sub file { return $_[0]->{file} }		# the record
sub key { return "$_[0]->{table}:$_[1]" }

# begin(model, sessions, rule => options of attach, mode => of the driver, think => us)
# A table of its own, so that one history's end is not the next one's start.
sub begin
{
	my ($self, $model, $sessions, %more) = @_;
	my $t = $self->{t};
	my $table = 'h' . ++$self->{tables};
	my $third = int($sessions / 3);

	$t->sql(<<"SQL");
CREATE TABLE $table (id int PRIMARY KEY, ver bigint NOT NULL, op bigint NOT NULL);
CREATE TABLE ${table}_log (op bigint, id int, ver bigint, gone boolean);
CREATE INDEX ON ${table}_log (id, ver);
INSERT INTO $table SELECT n, 1, 0 FROM generate_series(1, 8) n;
INSERT INTO ${table}_log SELECT 0, n, 1, false FROM generate_series(1, 8) n;
SQL
	if ($more{rule})
	{
		$t->sql("SELECT mlcache.attach('$table', key => '$table:{id}', $more{rule})");
		$t->wait_armed;
	}
	$self->{model} = $model;
	$self->{table} = $table;
	$self->{file} = "$self->{dir}/$table";
	$self->{$_} = '' for qw(in out err);
	$self->{run} = IPC::Run::start(
		[
			"$self->{dir}/driver", 'pg=' . $t->node->connstr('postgres'), 'redis=' . $t->redis->socket,
			'ns=' . ($more{rule} ? $t->ns : ''), "table=$table", 'keys=8', "inside=$third",
			"outside=$third", 'writers=' . ($sessions - 2 * $third),
			'think=' . ($more{think} // $sessions * 150), 'mode=' . ($more{mode} // 'guarded'),
			"out=$self->{file}"
		],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err});
	$self->{run}->pump_nb;
	return;
}

# Sends the sessions outside PostgreSQL to another Redis.
sub redirect
{
	my ($self, $redis) = @_;

	$self->{in} .= 'redis ' . $redis->socket . "\n";
	$self->{run}->pump_nb;
}

# Lets it go on until so many more changes have been committed.
sub let_change
{
	my ($self, $n) = @_;

	$self->{t}->let_grow("SELECT count(*) FROM $self->{table}_log", $n);
}

# Ends it and judges.  late: called when the driver has ended, for more to put
# into the record.
sub finish
{
	my ($self, %more) = @_;
	my ($out, $err) = ('', '');
	my $log = "$self->{file}.log";

	$self->{in} .= "stop\n";
	$self->{run}->finish or die "driver failed: $self->{err}";
	$more{late}->() if $more{late};
	append_to_file($log,
		$self->{t}->sql("SELECT op || ' ' || id || ' ' || ver || ' ' || gone FROM $self->{table}_log WHERE op > 0") . "\n");
	IPC::Run::run([ $python, "$top/test/history/check.py", $self->{model}, $self->{file}, $log ],
		'>', \$out, '2>', \$err) or die "check.py failed: $err";
	note($out, $self->{out});
	return decode_json($out);
}

sub has_no_violation
{
	my ($self, $what, $report) = @_;

	is(join("\n", $report->{nviolations}, @{ $report->{examples} }), '0', "$what: no violation");
}

# There was enough of everything (writes => at least, sources => [...]), nobody saw
# what he should not have, and in the end the cache says what the table says.
sub is_sound
{
	my ($self, $what, $report, %more) = @_;
	my $t = $self->{t};
	my $table = $self->{table};

	cmp_ok($report->{writes}, '>', $more{writes}, "$what: there were writes");
	for my $source (@{ $more{sources} })
	{
		cmp_ok($report->{sources}{$source} // 0, '>', 10, "$what: reads from $source");
	}
	$self->has_no_violation($what, $report);
	$t->wait_applied;
	is($t->sql("SELECT count(*) FROM generate_series(1, 8) AS n(id) LEFT JOIN $table h USING (id)"
			. " WHERE (mlcache.get('$table:' || n.id)::json->>'ver')::bigint IS DISTINCT FROM h.ver"),
		0, "$what: in the end every key reads like its row");
}

1;
