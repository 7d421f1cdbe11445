# Strong rules: once COMMIT has returned, no guarded read returns an older
# value, inside PostgreSQL or outside, whatever is paused or dies meanwhile;
# and each safeguard is seen to be missed.  The relay is held where it could
# hide what a strong commit has not done itself.  Keys of rows are written through,
# sums are removed.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;
use Time::HiRes qw(usleep);

my $t = MlcTest->new('strong', no_tables => 1, server => "timeout '30000'",
	conf => "mlcache.l1_size = 4MB\n");

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE s (id int PRIMARY KEY, n int NOT NULL, cat int NOT NULL);
CREATE TABLE d (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO s SELECT g, 0, g % 10 FROM generate_series(1, 100) g;
INSERT INTO d SELECT g, 0 FROM generate_series(1, 100) g;
SELECT mlcache.attach('s', key => 's:{id}', consistency => 'strong', action => 'update');
SELECT mlcache.attach('s', key => 'c:{cat}', consistency => 'strong',
	loader => 'SELECT json_build_object(''n'', sum(n)) FROM s WHERE cat = $1');
SELECT mlcache.attach('d', key => 'd:{id}', consistency => 'strong', on_unreachable => 'degrade');
SQL
$t->wait_armed;

# ---------- readers ----------

sub number { return defined $_[0] && $_[0] =~ /"n"\s*:\s*(\d+)/ ? $1 : 'none' }

sub in_row
{
	my ($key) = @_;
	my ($table, $id) = split /:/, $key;

	return $t->sql("SELECT sum(n) FROM s WHERE cat = $id") if $table eq 'c';
	my $n = $t->sql("SELECT n FROM $table WHERE id = $id");
	return $n eq '' ? 'none' : $n;
}

# As mlcache.get() in a new session: L1, L2, or the row.
sub inside { return number($t->sql_patiently("SELECT mlcache.get('$_[0]')")) }

# As a client does: a hit counts, everything else means the row.
sub outside
{
	my $answer = $t->look_up($_[0]);

	return $answer =~ /^\{/ ? number($answer) : in_row($_[0]);
}

# Both readers, asked twice, since the first may fill.
sub reads { return join ' ', map { inside($_[0]), outside($_[0]) } 1 .. 2 }

sub reads_like_its_row
{
	my ($key, $what) = @_;
	my $n = in_row($key);

	return is(reads($key), "$n $n $n $n", $what);
}

# Cached in Redis and in L1.
sub warm
{
	for my $key (@_)
	{
		$t->wait_for("$key in the cache", sub { inside($key); $t->look_up($key) =~ /^\{/ });
		inside($key) for 1 .. 2;
	}
}

sub is_free
{
	my ($key) = @_;

	$t->wait_for("no mark on $key", sub { $t->look_up($key) ne 'quarantined' });
	return;
}

# ---------- writers ----------

# A session that runs SQL and, if the point is held, waits there.
sub writer
{
	my ($points, $sql) = @_;
	my $session = $t->node->background_psql('postgres', on_error_stop => 0);

	$session->query_until(qr/begun/,
		"SET mlcache.fault_points = '$points';\n\\echo begun\n$sql;\n");
	return $session;
}

sub wait_done
{
	my ($session) = @_;

	$session->query_until(qr/finished/, "\\echo finished\n");
	$session->quit;
}

# status and what was said
sub try_sql
{
	my ($sql) = @_;
	my ($status, $out, $err) = $t->node->psql('postgres', $sql,
		extra_params => [ '-v', 'VERBOSITY=verbose', '-v', 'ON_ERROR_STOP=1' ]);

	return ($status, $err);
}

# Keeps the relay from delivering, until the session quits.  No view tells
# whether it has read the setting: it has once a commit stops it.
sub hold_relay
{
	my $point = 'relay-before-applying';
	my $holder = $t->hold($point);

	$t->set_fault("$point=wait");
	$t->wait_for('a relay that waits', sub {
		$t->sql('UPDATE d SET n = n + 1 WHERE id = 100');
		usleep(20_000);
		$t->is_held($point);
	});
	return $holder;
}

# What it does must come from the commit, not from the relay.
sub without_relay
{
	my ($action) = @_;
	my $holder = hold_relay();

	$action->();
	$t->clear_fault;
	$holder->quit;
	$t->wait_applied;
	return;
}

sub restarted
{
	my ($position) = @_;

	$t->wait_log(qr/server "redis" is connected/, $position);
	$t->wait_armed;
}

# ---------- plain commits ----------

without_relay(sub {
	my $old = 0;

	for my $n (1 .. 50)
	{
		my $key = 's:' . (1 + $n % 3);

		inside($key);
		$t->sql("UPDATE s SET n = n + 1 WHERE id = 1 + $n % 3");
		my $now = in_row($key);
		$old++ if outside($key) ne $now || inside($key) ne $now;
	}
	is($old, 0, 'nothing old is read after a commit');

	warm('s:4');
	$t->sql('UPDATE s SET n = n + 1 WHERE id = 4');
	is(number($t->look_up('s:4')), in_row('s:4'), 'what was cached is written through');
	$t->redis->command('DEL', 's:4', 'mlc:{s:4}');
	$t->sql('UPDATE s SET n = n + 1 WHERE id = 4');
	unlike($t->look_up('s:4'), qr/^\{/, 'what was not is not');

	warm('s:1');
	$t->sql("SET mlcache.fault_points = 'strong-quarantine=skip,strong-release=skip'; UPDATE s SET n = n + 1 WHERE id = 1");
	isnt(outside('s:1'), in_row('s:1'), 'without the quarantine it is');
});
reads_like_its_row('s:1', 'until the relay has been there');

# ---------- savepoints ----------

warm('s:11', 's:12');
$t->sql(<<'SQL');
BEGIN;
UPDATE s SET n = n + 1 WHERE id = 11;
SAVEPOINT a;
UPDATE s SET n = n + 1 WHERE id = 12;
ROLLBACK TO a;
COMMIT;
SQL
like($t->look_up('s:12'), qr/^\{/, 'a key of a savepoint that was rolled back is left alone');
reads_like_its_row('s:11', 'the other key is not');

# ---------- between quarantine and commit ----------

sub between_quarantine_and_commit
{
	my ($end) = @_;
	my $key = 's:21';
	my ($holder, $session, $lease, $old);

	is_free($key);
	$t->redis->command('DEL', $key);
	$t->wait_for('a lease',
		sub { $lease = $t->lease($key, 'early'); $lease->{answer} eq 'lease' });
	is($lease->{answer}, 'lease', "$end: a reader has a lease");
	$old = in_row($key);
	$holder = $t->hold('strong-after-quarantine');
	$session = writer('strong-after-quarantine=wait', 'UPDATE s SET n = n + 1 WHERE id = 21');
	$t->wait_held('strong-after-quarantine');
	is($t->look_up($key), 'quarantined', "$end: nobody is served meanwhile");
	is($t->fill_lease($lease, $t->load_row($key)), 'refused', "$end: nor is the reader's fill accepted");
	is(reads($key), "$old $old $old $old", "$end: what is read is the row");
	if ($end eq 'cancelled')
	{
		$t->sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ '^UPDATE s SET' AND state = 'active'");
	}
	else
	{
		$holder->quit;
	}
	wait_done($session);
	$holder->quit if $end eq 'cancelled';
	is(in_row($key), $end eq 'cancelled' ? $old : $old + 1, "$end: as it should be");
	reads_like_its_row($key, "$end: and read like that");
	is_free($key);
}

between_quarantine_and_commit('committed');
between_quarantine_and_commit('cancelled');

# ---------- between commit and release ----------

{
	my $key = 's:22';
	my ($holder, $session, $old, $now);

	warm($key);
	$old = in_row($key);
	$holder = $t->hold('strong-before-release');
	$session = writer('strong-before-release=wait', 'UPDATE s SET n = n + 1 WHERE id = 22');
	$t->wait_held('strong-before-release');
	$now = $old + 1;
	is(in_row($key), $now, 'committed, not released: visible');
	is($t->look_up($key), 'quarantined', 'nobody is served');
	is(reads($key), "$now $now $now $now", 'the new row is read');
	$holder->quit;
	wait_done($session);
	is_free($key);
	reads_like_its_row($key, 'and after the release');
}

# ---------- two writers, one key, different rows ----------

{
	my $key = 'c:3';
	my ($holder, $session);

	warm($key);
	$holder = $t->hold('strong-after-quarantine');
	$session = writer('strong-after-quarantine=wait', 'UPDATE s SET n = n + 1 WHERE id = 3');
	$t->wait_held('strong-after-quarantine');
	$t->sql('UPDATE s SET n = n + 1 WHERE id = 13');
	$t->wait_applied;
	is($t->look_up($key), 'quarantined', 'the mark of one writer survives the other, and the relay');
	reads_like_its_row($key, 'the row is read');
	$holder->quit;
	wait_done($session);
	is_free($key);
	reads_like_its_row($key, 'both are seen in the end');
}

# The relay delivers the commit of one while the other still has its mark.
{
	my $key = 'c:4';
	my ($holder, $session);

	warm($key);
	$t->set_fault('relay-marks-stay=skip');
	$holder = $t->hold('strong-after-quarantine');
	$session = writer('strong-after-quarantine=wait', 'UPDATE s SET n = n + 1 WHERE id = 4');
	$t->wait_held('strong-after-quarantine');
	$t->wait_for('a lost mark', sub {
		$t->sql('UPDATE s SET n = n + 1 WHERE id = 14');
		$t->wait_applied;
		$t->look_up($key) ne 'quarantined';
	});
	ok(1, 'a relay that does not look at marks removes those of others');
	$t->clear_fault;
	$holder->quit;
	wait_done($session);
	$t->wait_applied;
}

# ---------- a backend is killed ----------

for my $point (qw(strong-before-quarantine strong-after-quarantine strong-before-release))
{
	my $key = 's:31';
	my $position = $t->log_position;
	my ($old, $session);

	warm($key);
	$old = in_row($key);
	$t->node->psql('postgres',
		"SET mlcache.fault_points = '$point=kill'; UPDATE s SET n = n + 1 WHERE id = 31");
	$t->wait_log(qr/all server processes terminated; reinitializing/, $position);
	$t->sql_patiently('SELECT 1');
	reads_like_its_row($key, "killed at $point: at once");
	is(in_row($key), $point eq 'strong-before-release' ? $old + 1 : $old, "killed at $point: the row");
	restarted($position);
	is_free($key);
	warm($key);
	reads_like_its_row($key, "killed at $point: cached again");
}

# without the sweep nobody ends the mark
{
	my $position = $t->log_position;

	$t->set_fault('relay-sweep=skip');
	$t->node->psql('postgres',
		"SET mlcache.fault_points = 'strong-after-quarantine=kill'; UPDATE s SET n = n + 1 WHERE id = 32");
	$t->wait_log(qr/all server processes terminated; reinitializing/, $position);
	$t->sql_patiently('SELECT 1');
	restarted($position);
	$t->wait_applied;
	usleep(1_500_000);
	is($t->look_up('s:32'), 'quarantined', 'without the sweep a mark is for ever');
	$t->clear_fault;
	is_free('s:32');
	reads_like_its_row('s:32', 'swept');
}

# ---------- the relay, or PostgreSQL as a whole ----------

{
	my $position = $t->log_position;

	warm('s:33');
	kill 'KILL', $t->running_relay;
	$t->wait_log(qr/all server processes terminated; reinitializing/, $position);
	$t->sql_patiently('SELECT 1');
	$t->sql_patiently('UPDATE s SET n = n + 1 WHERE id = 33');
	reads_like_its_row('s:33', 'the relay killed: a commit meanwhile');
	restarted($position);
	reads_like_its_row('s:33', 'the relay is back');

	$position = $t->log_position;
	warm('s:34');
	$t->sql('UPDATE s SET n = n + 1 WHERE id = 34');
	$t->node->stop('immediate');
	$t->node->start;
	reads_like_its_row('s:34', 'PostgreSQL killed: at once');
	restarted($position);
	reads_like_its_row('s:34', 'PostgreSQL killed: armed again');
}

# ---------- marks are lost under a commit ----------

sub flush_under_commit
{
	my ($skip) = @_;
	my $key = $skip ? 's:41' : 's:42';
	my $id = substr $key, 2;
	my $position = $t->log_position;
	my ($holder, $second, $third, $session);

	warm($key);
	$t->set_fault('relay-commits-over=skip') if $skip;
	$holder = $t->hold('strong-after-quarantine');
	$second = $t->hold('strong-before-release');
	$session = writer('strong-after-quarantine=wait,strong-before-release=wait',
		"UPDATE s SET n = n + 1 WHERE id = $id");
	$t->wait_held('strong-after-quarantine');
	$t->redis->command('FLUSHALL');
	$t->wait_log(qr/server "redis" is purged/, $position);
	if ($skip)
	{
		$t->wait_armed;
		is($t->fill_key($key), 'ok', 'armed under a commit that has lost its marks: a reader fills');
	}
	else
	{
		usleep(500_000);
		isnt($t->stat('state'), 'armed', 'not armed under a commit that has lost its marks');
		is($t->look_up($key), 'unarmed', 'nobody is served');
		reads_like_its_row($key, 'the row is read');
	}
	if ($skip)
	{
		# the relay would make up for it
		$third = hold_relay();
	}
	$holder->quit;
	$t->wait_held('strong-before-release');
	if ($skip)
	{
		isnt(outside($key), in_row($key), 'and what is read is older than the row');
	}
	else
	{
		reads_like_its_row($key, 'committed: the new row');
	}
	$second->quit;
	wait_done($session);
	$t->clear_fault;
	$third->quit if $third;
	$t->wait_armed;
	$t->wait_applied;
	reads_like_its_row($key, 'armed when it is over');
}

flush_under_commit(0);
flush_under_commit(1);

# ---------- Redis is paused, or down ----------

# where it is to be silent it is not waited for
$t->sql("ALTER SERVER redis OPTIONS (SET timeout '500')");
for my $how ('paused', 'down')
{
	my ($status, $said, $old);

	warm('s:51', 'd:51');
	$old = in_row('s:51');
	$how eq 'paused' ? $t->redis->freeze : $t->redis->stop;
	($status, $said) = try_sql('UPDATE s SET n = n + 1 WHERE id = 51');
	isnt($status, 0, "$how: a strong commit fails");
	like($said, qr/ERROR:  08\d\d\d: could not put changed keys under quarantine/, "$how: and says so");
	is(in_row('s:51'), $old, "$how: nothing has changed");
	($status, $said) = try_sql('UPDATE d SET n = n + 1 WHERE id = 51');
	is($status, 0, "$how: it goes on under degrade");
	like($said, qr/WARNING:  08\d\d\d:/, "$how: with a warning");
	my $position = $t->log_position;
	$how eq 'paused' ? $t->redis->thaw : $t->redis->start;
	$t->wait_for('the armed server', sub {
		$t->node->psql('postgres', 'UPDATE s SET n = n + 1 WHERE id = 52') == 0 });
	$t->wait_applied;
	is_free($_) for ('s:51', 'd:51');
	reads_like_its_row($_, "$how: $_ afterwards") for ('s:51', 'd:51');
}

$t->sql("ALTER SERVER redis OPTIONS (SET timeout '30000')");

# ---------- a Redis that may evict marks ----------

{
	my ($status, $said);

	warm('s:53');
	$t->redis->command('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru');
	$t->wait_for('the refusal', sub {
		($status, $said) = try_sql('UPDATE s SET n = n + 1 WHERE id = 53');
		$status != 0;
	});
	like($said, qr/ERROR:  08P01: .*allkeys-lru may evict marks/s, 'a Redis that may evict marks is refused');
	$t->redis->command('CONFIG', 'SET', 'maxmemory-policy', 'noeviction');
	$t->wait_for('a commit', sub { (try_sql('UPDATE s SET n = n + 1 WHERE id = 53'))[0] == 0 });
	reads_like_its_row('s:53', 'and taken again when it may not');
}

# ---------- prepared transactions ----------

for my $end ('COMMIT', 'ROLLBACK')
{
	for my $between ('nothing', 'a restart', 'FLUSHALL')
	{
		my $key = 's:61';
		my $old;

		$t->wait_armed;
		warm($key, 's:62');
		$old = in_row($key);
		$t->sql("BEGIN; UPDATE s SET n = n + 1 WHERE id = 61; PREPARE TRANSACTION 'p'");
		$t->node->restart if $between eq 'a restart';
		$t->redis->command('FLUSHALL') if $between eq 'FLUSHALL';
		usleep(1_000_000) if $between ne 'nothing';
		like($t->look_up($key), qr/^(quarantined|unarmed)$/, "prepared, $between: nobody is served");
		is(reads($key), "$old $old $old $old", "prepared, $between: the old row is read");
		without_relay_if($between eq 'nothing', sub {
			$t->sql("$end PREPARED 'p'");
			reads_like_its_row($key, "$end PREPARED, $between: at once");
		});
		is(in_row($key), $end eq 'COMMIT' ? $old + 1 : $old, "$end PREPARED, $between: the row");
		$t->wait_armed;
		$t->wait_applied;
		is_free($key);
		warm($key);
		reads_like_its_row($key, "$end PREPARED, $between: cached again");
	}
}

# L1 has nobody to close its lines at COMMIT PREPARED.
{
	my $key = 's:63';

	warm($key);
	$t->sql("BEGIN; UPDATE s SET n = n + 1 WHERE id = 63; PREPARE TRANSACTION 'p'");
	inside($key) for 1 .. 3;
	without_relay(sub {
		$t->sql("COMMIT PREPARED 'p'");
		is(inside($key), in_row($key), 'L1 keeps nothing of before COMMIT PREPARED');
	});
	is_free($key);
}

sub without_relay_if
{
	my ($wanted, $action) = @_;

	return $wanted ? without_relay($action) : $action->();
}

# ---------- a rule as a whole ----------

sub change_all
{
	my ($what, $sql) = @_;

	for my $skip (0, 1)
	{
		$t->sql('TRUNCATE s; INSERT INTO s SELECT g, 1, g % 10 FROM generate_series(1, 100) g');
		$t->wait_applied;
		$t->wait_armed;
		warm('s:71', 's:72');
		without_relay(sub {
			my $skipped = $skip ? 'strong-quarantine=skip,strong-release=skip' : '';

			warm('s:71') if $t->look_up('s:71') !~ /^\{/;
			$t->sql("SET mlcache.fault_points = '$skipped'; $sql");
			$skip ? isnt(outside('s:71'), in_row('s:71'), "$what: without the closing something old is read")
			  : reads_like_its_row('s:71', "$what: at once");
		});
		$t->wait_armed;
		reads_like_its_row($_, "$what: afterwards") for ('s:71', 's:72');
	}
}

change_all('TRUNCATE', 'TRUNCATE s');
change_all('many keys', 'SET mlcache.quarantine_max_keys = 5; UPDATE s SET n = n + 1');

$t->stop;
done_testing();
