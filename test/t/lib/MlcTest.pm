# MlcTest.pm
#	  What the TAP tests share: a PostgreSQL with mlcache loaded, private Redis
#	  servers, load in the background, and the comparison at the end.
#
#	  my $t = MlcTest->new('name', cold => 1000);	server, Redis, tables, rules, armed
#	  $t->start_load; ...faults...; $t->finish_load('what happened');
#
# A fault point is set with set_fault() and cleared with clear_fault(), which
# work while the server is down or comes up, too: they edit a file of their own
# that postgresql.conf includes.  Who is started from then on knows of it; who
# runs hears of it later, the relay at the latest when set_relay_fault() returns.
package MlcTest;

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

use MlcCluster;
use MlcRedis;

my $dir = dirname(abs_path(__FILE__));
my $python = $ENV{MLC_PYTHON} // '/usr/bin/python3';

our $timeout = 180;				# seconds for any condition

# new(name, cold => N, redis => [args], tables => 0/1, conf => text, url => url, server => options,
#	  cluster => {options of MlcCluster}, sentinel => MlcSentinel)
sub new
{
	my ($class, $name, %opt) = @_;
	my $self = bless { cold => $opt{cold} // 500, name => $name, url => $opt{url} }, $class;

	if ($opt{cluster})
	{
		$self->{redis} = MlcCluster->new("$name-redis", %{ $opt{cluster} })->start;
		$opt{server} = "cluster 'true'" . ($opt{server} ? ", $opt{server}" : '');
	}
	elsif ($opt{sentinel})
	{
		$self->{redis} = $opt{sentinel}->master;
		$self->{url} = $opt{sentinel}->url;
		$opt{server} = "sentinel 'mymaster'" . ($opt{server} ? ", $opt{server}" : '');
	}
	else
	{
		$self->{redis} = MlcRedis->new("$name-redis");
		$self->{redis}->start(@{ $opt{redis} // [] });
	}
	$self->{node} = $self->new_node($name, $opt{conf});
	$self->{node}->start;
	$self->create_server($opt{server}) unless $opt{bare};
	$self->create_tables unless $opt{bare} || $opt{no_tables};
	$self->wait_armed unless $opt{bare} || $opt{no_tables};
	return $self;
}

sub node { return $_[0]->{node} }
sub redis { return $_[0]->{redis} }

sub knows_setting
{
	my ($setting) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'postgres', '--describe-config' ], '>', \$out, '2>', \$err);
	return $out =~ /^\Q$setting\E\t/m;
}

# A cluster, initialized and configured, not started.
sub new_node
{
	my ($self, $name, $conf) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(allows_streaming => 'logical', extra => [ '--no-locale', '-E', 'UTF8' ]);
	$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'mlcache'
max_worker_processes = 16
max_prepared_transactions = 20
max_connections = 50
shared_buffers = 32MB
restart_after_crash = on
log_statement = none
log_replication_commands = off
deadlock_timeout = 50ms
autovacuum_naptime = 5s
mlcache.reconnect_max = 200ms
include_if_exists = 'fault.conf'
CONF
	$node->append_conf('postgresql.conf',
		"output_plugin_libraries = 'pgoutput, test_decoding, mlcache'")
	  if knows_setting('output_plugin_libraries');
	$node->append_conf('postgresql.conf', $conf) if $conf;
	return $node;
}

sub create_server
{
	my ($self, $options) = @_;
	my $url = $self->{url} // $self->{redis}->url;

	$options = $options ? ", $options" : '';
	$self->sql('CREATE EXTENSION mlcache');
	$self->sql("CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url '$url'$options)");
}

# The tables and rules that load.py knows.
sub create_tables
{
	my ($self) = @_;
	my $cold = $self->{cold};

	$self->sql(<<"SQL");
CREATE SEQUENCE ver;
CREATE TABLE r (id int PRIMARY KEY, n int, ver bigint, note text);
CREATE TABLE u (LIKE r INCLUDING ALL);
CREATE TABLE i (LIKE r INCLUDING ALL);
CREATE TABLE w (LIKE r INCLUDING ALL);
CREATE TABLE p (id int PRIMARY KEY, n int, ver bigint, category_id int NOT NULL);
CREATE TABLE fence (n int);
INSERT INTO r SELECT g, 0, nextval('ver') FROM generate_series(1, 60) g;
INSERT INTO u SELECT g, 0, nextval('ver') FROM generate_series(1, 60) g;
INSERT INTO i SELECT g, 0, nextval('ver') FROM generate_series(1, 60) g;
INSERT INTO w SELECT g, 0, nextval('ver') FROM generate_series(1, 60) g;
INSERT INTO p SELECT g, 0, nextval('ver'), g % 12 FROM generate_series(1, 60) g;
SELECT mlcache.attach('r', key => 'r:{id}', action => 'replicate');
SELECT mlcache.attach('u', key => 'u:{id}', action => 'update');
SELECT mlcache.attach('i', key => 'i:{id}');
SELECT mlcache.attach('w', key => 'w:{id}', action => 'update', consistency => 'weak');
SELECT mlcache.attach('p', key => 'p:{id}');
SELECT mlcache.attach('p', key => 'category:{category_id}',
	loader => 'SELECT json_agg(json_build_array(id, ver) ORDER BY id) FROM p WHERE category_id = \$1 HAVING count(*) > 0');
SQL
	# what was there before the relay began is not replicated
	$self->wait_armed;
	$self->sql(<<"SQL");
INSERT INTO r SELECT 1000 + g, 0, nextval('ver') FROM generate_series(1, $cold) g;
INSERT INTO u SELECT 1000 + g, 0, nextval('ver') FROM generate_series(1, $cold) g;
INSERT INTO i SELECT 1000 + g, 0, nextval('ver') FROM generate_series(1, $cold) g;
INSERT INTO w SELECT 1000 + g, 0, nextval('ver') FROM generate_series(1, $cold) g;
INSERT INTO p SELECT 1000 + g, 0, nextval('ver'), 100 + (g - 1) / 5 FROM generate_series(1, $cold) g;
UPDATE r SET ver = nextval('ver') WHERE id < 1000;
SQL
	# else what is filled now goes again
	$self->wait_applied;
}

# ---------- SQL ----------

sub sql
{
	my ($self, $sql) = @_;

	return $self->{node}->safe_psql('postgres', $sql);
}

# safe_psql dies when the server is just restarting; this one tries again.
sub sql_patiently
{
	my ($self, $sql) = @_;
	my $until = time() + $timeout;

	while (1)
	{
		# psql may go before it has read the query: "ack Broken pipe"
		my ($status, $out) =
		  eval { $self->{node}->psql('postgres', $sql, on_error_stop => 1) };
		return $out if defined $status && $status == 0;
		die "no answer to: $sql" if time() > $until;
		usleep(50_000);
	}
}

sub ns { return $_[0]->{ns} //= 'db' . $_[0]->sql("SELECT oid FROM pg_database WHERE datname = 'postgres'") }

sub stat
{
	my ($self, $column, $server) = @_;

	$server //= 'redis';
	return $self->sql_patiently(
		"SELECT $column FROM mlcache.stat_servers WHERE server = '$server'");
}

# '' when there is none.
sub relay_pid
{
	my ($self) = @_;

	return $self->sql_patiently(
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'mlcache relay'");
}

# One may just have ended, and the next not begun.
sub running_relay
{
	my ($self) = @_;
	my $pid;

	$self->wait_for('a relay', sub { ($pid = $self->relay_pid) ne '' });
	return $pid;
}

# ---------- standbys that synchronize failover slots (PostgreSQL 17) ----------

# Makes a server that is stopped follow the node, through a slot of that name.
sub follow
{
	my ($self, $follower, $slot) = @_;
	my $conninfo = $self->{node}->connstr('postgres') =~ s/'/''/gr;
	my $name = $follower->name;

	$self->sql("SELECT pg_create_physical_replication_slot('$slot', true)");
	$follower->append_conf('postgresql.conf', <<"CONF");
primary_conninfo = '$conninfo application_name=$name'
primary_slot_name = '$slot'
hot_standby_feedback = on
CONF
}

# One of the node, started; conf => text.
sub new_standby
{
	my ($self, $name, $conf) = @_;
	my $node = $self->{node};
	my $standby = PostgreSQL::Test::Cluster->new($name);

	$node->backup($name);
	$standby->init_from_backup($node, $name, has_streaming => 1);
	$self->follow($standby, $name);
	$standby->append_conf('postgresql.conf', $conf) if $conf;
	$standby->start;
	return $standby;
}

# Columns of the relay's slot, there or on another node; '' when there is none.
sub slot
{
	my ($self, $columns, $node) = @_;

	return ($node // $self->{node})->safe_psql('postgres',
		"SELECT $columns FROM pg_replication_slots WHERE slot_name ~ '^mlcache_'");
}

# Until the standby has a slot that outlives the synchronization.  For that the
# primary's must have come past all that the standby knows when it begins, with
# a point in between where decoding can begin; so nothing else is written.
sub synchronize
{
	my ($self, $standby) = @_;
	my $node = $self->{node};

	$self->wait_for('the slot to be synchronized',
		sub {
			my $goal = $self->sql('SELECT pg_log_standby_snapshot();'
				  . " SELECT pg_logical_emit_message(false, 'test', '')") =~ s/.*\n//r;

			$self->wait_for('the slot to be confirmed',
				sub { $self->slot("confirmed_flush_lsn >= '$goal'") eq 't' });
			$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
			$standby->psql('postgres', 'SELECT pg_sync_replication_slots()');
			return $self->slot('temporary', $standby) eq 'f';
		});
}

# ---------- waiting ----------

sub wait_for
{
	my ($self, $what, $condition) = @_;
	my $until = time() + $timeout;

	while (!$condition->())
	{
		if (time() > $until)
		{
			diag("timed out waiting for $what");
			diag($self->state_of_affairs);
			die "timed out waiting for $what";
		}
		usleep(20_000);
	}
	return 1;
}

sub state_of_affairs
{
	my ($self) = @_;
	my (undef, $out) = $self->{node}->psql('postgres',
		'SELECT * FROM mlcache.stat_servers', extra_params => ['-x']);
	my $log = slurp_file($self->{node}->logfile);

	return $out . substr($log, -3000);
}

# Until the number that the query gives has grown by so much, however long that
# takes while it grows.
sub let_grow
{
	my ($self, $sql, $n) = @_;
	my $now = $self->sql_patiently($sql);
	my $goal = $now + $n;

	while ($now < $goal)
	{
		my $last = $now;

		$self->wait_for("$n changes", sub { ($now = $self->sql_patiently($sql)) > $last });
	}
}

sub wait_state
{
	my ($self, $state, $server) = @_;

	$self->wait_for("state $state", sub { $self->stat('state', $server) eq $state });
}

sub wait_armed { $_[0]->wait_state('armed', $_[1]) }

# A commit, and everything up to it has reached the armed Redis.
sub wait_applied
{
	my ($self) = @_;
	my $version = $self->sql_patiently(
		'INSERT INTO fence VALUES (1); SELECT mlcache.last_commit_version()');

	$self->wait_for("applied $version",
		sub {
			$self->sql_patiently("SELECT state = 'armed' AND applied >= '$version'"
				  . " FROM mlcache.stat_servers WHERE server = 'redis'") eq 't';
		});
	is($self->sql("SELECT mlcache.wait_applied('$version', '30 s')"),
		't', 'wait_applied says so, too') if $self->{strict};
	return $version;
}

# The same, and Redis itself has been told, and serves: what the relay says of
# one that has just been killed, it may not know yet.
sub wait_published
{
	my ($self) = @_;
	my $version = $self->wait_applied;

	$self->wait_for("$version published",
		sub {
			my $state = $self->{redis}->command('FCALL', 'mlc_state', 0, $self->ns);

			return ($state->[1] // '') ge $version && $state->[4] == 1;
		});
	return $version;
}

sub log_position { return -s $_[0]->{node}->logfile }

sub wait_log
{
	my ($self, $regexp, $position) = @_;

	$self->wait_for("$regexp in the log",
		sub { slurp_file($self->{node}->logfile, $position // 0) =~ $regexp });
}

sub count_log
{
	my ($self, $regexp, $position) = @_;
	my $log = slurp_file($self->{node}->logfile, $position // 0);
	my @found = $log =~ /$regexp/g;

	return scalar @found;
}

sub purges { return $_[0]->count_log(qr/server "redis" is purged/, $_[1]) }

# ---------- faults ----------

sub set_fault
{
	my ($self, @points) = @_;

	$self->write_fault("mlcache.fault_points = '" . join(',', @points) . "'\n");
}

sub clear_fault { $_[0]->write_fault('') }

# The same, and the relay has read it: it stops at a point that is named along
# with them.
sub set_relay_fault
{
	my ($self, @points) = @_;

	$self->set_relay_conf('', @points);
}

# Settings along with the points.
sub set_relay_conf
{
	my ($self, $text, @points) = @_;
	my $holder = $self->hold('relay-turn');

	$self->write_fault("$text\nmlcache.fault_points = '" . join(',', @points, 'relay-turn=wait') . "'\n");
	$self->wait_held('relay-turn');
	$holder->quit;
}

sub write_fault
{
	my ($self, $text) = @_;
	my $data = $self->{node}->data_dir;

	open my $file, '>', "$data/fault.tmp" or die $!;
	print $file $text;
	close $file;
	rename "$data/fault.tmp", "$data/fault.conf" or die $!;
	my $pidfile = "$data/postmaster.pid";
	if (-e $pidfile)
	{
		my ($pid) = split /\n/, slurp_file($pidfile);
		kill 'HUP', $pid if $pid;	# it is written in two steps
	}
}

# The relay exits at the point, and the next one has come to terms with it.
sub exit_relay
{
	my ($self, $point) = @_;
	my $position = $self->log_position;
	my $pid = $self->running_relay;

	$self->set_fault("$point=exit");
	$self->wait_log(qr/fault point "$point" reached/, $position);
	$self->clear_fault;
	$self->wait_for('its end', sub { !kill 0, $pid });
	$self->wait_armed;
}

# Stops processes of the server, each of which sleeps and so holds nothing that
# others would wait for.
sub stop_asleep
{
	my ($self, @pids) = @_;
	my $list = join ',', @pids;

	$self->wait_for('processes that sleep',
		sub {
			my ($asleep, $late);

			kill 'STOP', @pids;
			$self->{node}->psql('postgres',
				"SELECT count(*) FROM pg_stat_activity WHERE pid IN ($list)"
				  . " AND wait_event_type IN ('Activity', 'Extension')",
				stdout => \$asleep, timeout => 10, timed_out => \$late);
			return 1 if !$late && $asleep eq @pids;
			kill 'CONT', @pids;
			return 0;
		});
}

# Settings for the same file; only one call's text stands.
sub set_conf { $_[0]->write_fault($_[1] . "\n") }

# A session that keeps the relay waiting at a point "name=wait".
sub hold
{
	my ($self, $point) = @_;
	my $session = $self->{node}->background_psql('postgres');

	$session->query_safe(
		"SELECT pg_advisory_lock(classid, objid) FROM mlcache.fault_lock('$point')");
	return $session;
}

# Is some process waiting at the point?
sub is_held
{
	my ($self, $point) = @_;

	return $self->sql("SELECT count(*) FROM pg_locks l, mlcache.fault_lock('$point') f"
		  . " WHERE l.locktype = 'advisory' AND l.classid = f.classid::oid"
		  . " AND l.objid = f.objid::bigint::bit(32)::bigint::oid AND NOT l.granted") > 0;
}

sub wait_held
{
	my ($self, $point) = @_;

	$self->wait_for("a process at $point", sub { $self->is_held($point) });
}

# ---------- load ----------

sub options
{
	my ($self, %more) = @_;

	return encode_json({
			pg => $self->{node}->connstr('postgres'),
			redis => $self->{redis}->socket,
			ns => $self->ns,
			cold => $self->{cold},
			prepared => JSON::PP::true,
			%more }) . "\n";
}

sub python
{
	my ($self, $mode, %more) = @_;
	my ($in, $out, $err) = ($self->options(%more), '', '');

	IPC::Run::run([ $python, "$dir/load.py", $mode ], '<', \$in, '>', \$out, '2>', \$err)
	  or die "load.py $mode failed: $err";
	return decode_json($out);
}

# What a load that is no more has left prepared, in a backup say, would keep its
# locks, and others from making a slot.
sub end_prepared
{
	my ($self) = @_;

	$self->sql("ROLLBACK PREPARED '$_'")
	  for split /\n/, $self->sql("SELECT gid FROM pg_prepared_xacts WHERE gid ~ '^w\\d+-'");
}

# Fills everything once, then writes, reads and watches until finish_load.
sub start_load
{
	my ($self, %more) = @_;
	my %load = (in => $self->options(%more), out => '', err => '');

	$self->end_prepared;
	$self->python('fill');
	$self->{load} = \%load;
	$load{harness} = IPC::Run::start([ $python, "$dir/load.py", 'run' ],
		'<', \$load{in}, '>', \$load{out}, '2>', \$load{err});
	$load{harness}->pump_nb;
	return;
}

# Sends readers and watcher to another Redis.
sub redirect_load
{
	my ($self, $socket) = @_;

	$self->{load}{in} .= "redis $socket\n";
	$self->{load}{harness}->pump_nb;
}

# Lets the load go on until so many more commits have been made.
sub let_write
{
	my ($self, $n) = @_;

	$self->let_grow('SELECT last_value FROM ver', $n);
}

sub stop_load
{
	my ($self) = @_;
	my $load = delete $self->{load};
	my $report;

	$load->{in} .= "stop\n";
	$load->{harness}->finish or die "load failed: $load->{err}";
	$report = decode_json($load->{out});
	diag($load->{err}) if $load->{err};
	return $report;
}

# Ends the load and judges: nothing went backwards, every copy equals its row.
# missing => 1: replicated entries may be missing (after a purge).
sub finish_load
{
	my ($self, $what, %opt) = @_;
	my $report = $self->stop_load;
	my $counts = $report->{counts};

	cmp_ok($counts->{transactions} // 0, '>', 100, "$what: there was load");
	cmp_ok($counts->{watched} // 0, '>', 10, "$what: it was watched");
	is(($counts->{violations} // 0) . join(', ', @{ $report->{violations} }),
		'0', "$what: versions never go backwards");
	note(join ', ', map { "$_ $counts->{$_}" } sort keys %$counts);
	$self->is_coherent($what, %opt);
	return $report;
}

sub is_coherent
{
	my ($self, $what, %opt) = @_;
	my $result;

	$self->wait_applied;
	$result = $self->python('compare');
	is(join("\n", $result->{nstale}, @{ $result->{stale} }),
		'0', "$what: every cached copy equals its row");
	cmp_ok($result->{entries}, '>', $opt{entries} // 100, "$what: there were copies to compare");
	is(join("\n", $result->{nmissing}, @{ $result->{missing} }),
		'0', "$what: every replicated row is there")
	  unless $opt{missing};
	is($result->{unguarded}, 0, "$what: no copy without its guard")
	  unless $opt{unguarded};
	note(encode_json($result));
	return $result;
}

# ---------- one reader, step by step ----------

# Fills one key through the protocol; what mlc_fill answered.
sub fill_key
{
	my ($self, $key) = @_;
	my $lease = $self->lease($key);

	return $lease->{answer} unless $lease->{lo};
	return $self->fill_lease($lease, $self->load_row($key));
}

# Asks until nobody else holds a lease: a reader of the load that was stopped may
# have left one behind, and so does look_up, for a millisecond.
sub lease
{
	my ($self, $key, $token) = @_;
	my $answer;

	$token //= 'test';
	$self->wait_for("a lease of $key", sub {
		$answer = $self->{redis}->command('FCALL', 'mlc_get', 1, $key, $token, 60000, $self->ns);
		return !ref $answer || $answer->[0] ne 'busy';
	});
	return { key => $key, token => $token, answer => ref $answer ? $answer->[0] : $answer }
	  unless ref $answer && $answer->[0] eq 'lease';
	return { key => $key, token => $token, lo => $answer->[1], answer => 'lease' };
}

# A row in a new snapshot, and the insert position after it.
sub load_row
{
	my ($self, $key) = @_;
	my ($table, $id) = split /:/, $key;
	my $out = $self->sql(
		"SELECT 'row ' || row_to_json(t)::text FROM (SELECT * FROM ONLY $table) t WHERE id = $id;"
		  . "SELECT 'hi ' || lower(substr(pg_walfile_name(l), 1, 8))"
		  . " || lpad(to_hex((l - '0/0')::bigint), 16, '0') FROM pg_current_wal_insert_lsn() l");
	my ($row) = $out =~ /^row (.*)$/m;
	my ($hi) = $out =~ /^hi (.*)$/m;

	return { row => $row, hi => $hi };
}

sub fill_lease
{
	my ($self, $lease, $loaded) = @_;

	return $self->{redis}->command('FCALL', 'mlc_fill', 1, $lease->{key}, $lease->{token},
		$loaded->{row} // '', 0, $lease->{lo}, $loaded->{hi}, defined $loaded->{row} ? 0 : 1,
		$self->ns);
}

# What a reader is told: the payload of a hit, or the answer's name.
sub look_up
{
	my ($self, $key) = @_;
	my $answer = $self->{redis}->command('FCALL', 'mlc_get', 1, $key, 'look', 1, $self->ns);

	return ref $answer ? ($answer->[0] eq 'hit' ? $answer->[1] : $answer->[0]) : $answer;
}

sub row
{
	my ($self, $key) = @_;
	my ($table, $id) = split /:/, $key;

	return $self->sql("SELECT row_to_json(t)::text FROM (SELECT * FROM ONLY $table) t WHERE id = $id");
}

sub stop
{
	my ($self) = @_;

	$self->clear_fault;
	$self->{node}->stop;
	$self->{redis}->stop;
}

1;
