# A commit is in WAL before new snapshots see it.  An invalidation that is
# applied in between removes nothing for good: a reader fills the old row
# again, and nobody ever removes that.  A synchronous standby that does not
# answer makes the gap as long as a test wants.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('visibility', cold => 100, server => "timeout '60000'");

sub standby
{
	my ($names) = @_;

	# an empty list lets the waiting commits go
	$t->sql("ALTER SYSTEM SET synchronous_standby_names = '$names'; SELECT pg_reload_conf()");
	$t->wait_for('the setting',
		sub { $t->sql('SHOW synchronous_standby_names') eq $names });
}

for my $skip (0, 1)
{
	my $key = 'i:' . (1001 + $skip);
	my $key2 = 'u:' . (1001 + $skip);
	my ($session, $old, $old2, $flushed);

	$t->fill_key($_) for ($key, $key2);
	($old, $old2) = map { $t->row($_) } ($key, $key2);
	is($t->look_up($key), $old, 'cached');
	$t->set_fault('relay-visibility=skip') if $skip;
	$t->wait_applied;
	standby('nobody');

	# commits, and hangs between WAL and its end
	$session = $t->node->background_psql('postgres', on_error_stop => 0);
	$session->query_until(qr/begun/, "\\echo begun\n"
		  . "BEGIN; UPDATE i SET n = 77 WHERE id = 1001 + $skip;"
		  . " UPDATE u SET n = 77 WHERE id = 1001 + $skip; COMMIT;\n");
	$t->wait_for('the hanging commit',
		sub {
			$t->sql("SET synchronous_commit = local;"
				  . "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") > 0;
		});
	is($t->row($key), $old, 'not visible yet');

	# does the relay remove the copy now?
	if ($skip)
	{
		$t->wait_for('the invalidation', sub { $t->look_up($key) ne $old });
		$t->redis->command('DEL', "mlc:{$key}");
		is($t->fill_key($key), 'ok', 'a reader fills what it sees');
		is($t->look_up($key), $old, 'the old row');
	}
	else
	{
		# it waits for the transaction, and readers do as they always do
		$t->wait_for('the relay to wait',
			sub {
				$t->sql("SET synchronous_commit = local; SELECT count(*) FROM pg_stat_activity"
					  . " WHERE backend_type = 'mlcache relay' AND wait_event_type = 'Lock'") > 0;
			});
		is($t->look_up($key), $old, 'nothing is removed yet');
		$t->redis->command('DEL', $key, "mlc:{$key}");
		is($t->fill_key($key), 'ok', 'a reader fills what it sees');
	}

	standby('');
	$t->wait_for('its end', sub { $t->row($key) ne $old });
	$session->quit;
	$t->wait_applied;
	$skip
	  ? is($t->look_up($key), $old, 'without waiting for visibility the old row stays for good')
	  : isnt($t->look_up($key), $old, 'it does not outlive the commit');
	is($t->look_up($key2), $t->row($key2), 'what is updated is fresh') unless $skip;
	$t->clear_fault;
}
# The same for a transaction of which parts are sent while it is decoded: more
# changes than a batch holds.
$t->sql(<<'SQL');
CREATE TABLE many (id int PRIMARY KEY, n int);
INSERT INTO many SELECT g, 0 FROM generate_series(1, 10000) g;
SELECT mlcache.attach('many', key => 'many:{id}');
SQL
$t->wait_applied;
for my $skip (0, 1)
{
	my $key = 'many:' . (1 + $skip);
	my ($session, $old);

	$t->wait_applied;
	is($t->fill_key($key), 'ok', 'filled');
	$old = $t->look_up($key);
	$t->set_fault('relay-visibility=skip') if $skip;
	$t->wait_applied;
	standby('nobody');
	$session = $t->node->background_psql('postgres', on_error_stop => 0);
	$session->query_until(qr/begun/, "\\echo begun\nUPDATE many SET n = n + 1;\n");
	if ($skip)
	{
		$t->wait_for('the removal', sub { $t->look_up($key) ne $old });
		$t->redis->command('DEL', "mlc:{$key}");	# the lease that the look took
		is($t->fill_key($key), 'ok', 'a reader fills what it sees');
		is($t->look_up($key), $old, 'the old row');
	}
	else
	{
		$t->wait_for('the relay to wait while it decodes',
			sub {
				$t->sql("SET synchronous_commit = local; SELECT count(*) FROM pg_stat_activity"
					  . " WHERE backend_type = 'mlcache relay' AND xact_start < now()") > 0;
			});
		is($t->look_up($key), $old, 'nothing is removed yet');
	}
	standby('');
	$session->quit;
	$t->wait_applied;
	$skip
	  ? is($t->look_up($key), $old, 'sent too early, the removal is lost')
	  : isnt($t->look_up($key), $old, 'it does not outlive the commit');
	$t->clear_fault;
}
$t->stop;
done_testing();
