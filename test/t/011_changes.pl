# Changes of every kind that are no plain row change: prepared transactions
# across a crash, TRUNCATE, DDL, detach, renamed keys, a trigger switched off.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('changes', cold => 500, server => "timeout '60000'");
my $log = $t->log_position;

sub cached
{
	my (@keys) = @_;
	my @old;

	for my $key (@keys)
	{
		$t->fill_key($key);
		push @old, $t->row($key);
		is($t->look_up($key), $old[-1], "$key: cached");
	}
	return @old;
}

sub none_of
{
	my ($what, @keys) = @_;

	is(join(' ', map { $t->look_up($_) } @keys), join(' ', map { 'lease' } @keys), $what);
}

# ---------- under load ----------

# TRUNCATE, DDL and prepared transactions that wait, among the writers; they may
# meet in a deadlock, and try again then
$t->start_load;
for my $n (1 .. 4)
{
	$t->let_write(150);
	$t->sql_patiently('BEGIN; TRUNCATE i, u;'
		  . "INSERT INTO i SELECT g, 0, nextval('ver') FROM generate_series(1, 60) g;"
		  . "INSERT INTO i SELECT g, 0, nextval('ver') FROM generate_series(2001, 2004) g;"
		  . "INSERT INTO u SELECT g, 0, nextval('ver') FROM generate_series(1, 60) g; COMMIT");
	$t->let_write(50);
	$t->sql_patiently('TRUNCATE p') if $n == 2;
	$t->sql_patiently("INSERT INTO p SELECT g, 0, nextval('ver'), g % 12 FROM generate_series(1, 60) g"
		  . ' ON CONFLICT DO NOTHING') if $n == 2;
	$t->sql_patiently("ALTER TABLE w ADD COLUMN extra$n int DEFAULT $n");
	$t->sql_patiently("ALTER TABLE r ALTER COLUMN note SET DEFAULT '$n'");
	$t->sql_patiently('INSERT INTO p SELECT g, 0, 0, 77 FROM generate_series(2001, 2004) g ON CONFLICT DO NOTHING');
	$t->sql_patiently("BEGIN; UPDATE i SET n = 0, ver = nextval('ver') WHERE id > 2000;"
		  . "UPDATE p SET n = 0, ver = nextval('ver') WHERE id > 2000; PREPARE TRANSACTION 'wait$n'");
	$t->let_write(50);
	$t->sql_patiently($n % 2 ? "COMMIT PREPARED 'wait$n'" : "ROLLBACK PREPARED 'wait$n'");
}
$t->let_write(100);
$t->finish_load('TRUNCATE and DDL', missing => 1);

# the writers may have removed any of those
$t->sql("INSERT INTO $_ SELECT g, 0, 0 FROM generate_series(1, 10) g ON CONFLICT DO NOTHING")
  for ('r', 'u', 'i');
$t->sql('INSERT INTO p SELECT g, 0, 0, g FROM generate_series(1, 10) g ON CONFLICT DO NOTHING');
$t->wait_applied;

# ---------- a prepared transaction across a crash ----------

cached('i:7', 'u:7', 'r:7', 'p:7');
my $category = $t->sql('SELECT category_id FROM p WHERE id = 7');
$t->redis->command('FCALL', 'mlc_get', 1, "category:$category", 'x', 1000, $t->ns);
$t->sql("BEGIN; UPDATE i SET n = 100 WHERE id = 7; UPDATE u SET n = 100 WHERE id = 7;"
	  . "UPDATE r SET n = 100 WHERE id = 7; UPDATE p SET n = 100 WHERE id = 7;"
	  . "PREPARE TRANSACTION 'crash'");
$t->wait_published;
$t->node->stop('immediate');
$t->node->start;
$t->wait_applied;
unlike($t->look_up('i:7'), qr/"n":100/, 'prepared: the old row is served');
like($t->look_up('u:7'), qr/"n"/, 'and still there');
my $events = $t->sql("SELECT events FROM mlcache.stat_rules WHERE key = 'category:{category_id}'");
$t->sql("COMMIT PREPARED 'crash'");
$t->wait_applied;
like($t->look_up('u:7'), qr/"n":100/, 'committed after the crash: updated');
like($t->look_up('r:7'), qr/"n":100/, 'replicated');
none_of('invalidated', 'i:7', 'p:7');
cmp_ok($t->sql("SELECT events FROM mlcache.stat_rules WHERE key = 'category:{category_id}'"),
	'>', $events, 'and the trigger had written its keys');

# ---------- each safeguard of decoding ----------

# Does the change remove or renew the copies?  And without the safeguard?
sub change
{
	my ($what, $fault, $sql, $restore, @keys) = @_;

	for my $skip (0, 1)
	{
		my @old = cached(@keys);

		if ($skip)
		{
			$t->set_fault("$fault=skip");
			$t->wait_applied;
			$t->wait_for('the setting', sub { $t->sql('SHOW mlcache.fault_points') =~ /skip/ });
			$t->wait_applied;
		}
		$t->sql($sql);
		$t->wait_applied;
		$t->clear_fault;
		for my $n (0 .. $#keys)
		{
			my $found = $t->look_up($keys[$n]);

			$skip
			  ? is($found, $old[$n], "$what: $keys[$n] is stale without $fault")
			  : isnt($found, $old[$n], "$what: $keys[$n] is not stale");
		}
		$t->wait_applied;
		$t->sql($restore);
		$t->wait_applied;
		$t->redis->command('DEL', map { ($_, "mlc:{$_}") } @keys);
	}
}

change('TRUNCATE', 'decode-truncate', 'TRUNCATE i',
	"INSERT INTO i SELECT g, 0, 0 FROM generate_series(1, 60) g", 'i:1', 'i:2');
change('renamed key', 'decode-old-key', 'UPDATE i SET id = 5001 WHERE id = 1',
	'UPDATE i SET id = 1 WHERE id = 5001', 'i:1');
change('detach', 'decode-rule', "SELECT mlcache.detach('i')",
	"SELECT mlcache.attach('i', key => 'i:{id}')", 'i:1', 'i:2');

# a change that the trigger has not seen; the loader's text is not compared
for my $skip (0, 1)
{
	my $key = 'category:' . (3 + $skip);
	my $category = 3 + $skip;
	my $lease;

	$t->sql("INSERT INTO p SELECT 900 + $skip, 0, 0, $category ON CONFLICT DO NOTHING");
	$t->sql('ALTER TABLE p DISABLE TRIGGER ALL');
	$t->wait_applied;
	$t->set_fault('decode-uncovered=skip') if $skip;
	$t->wait_applied;
	$lease = $t->lease($key);
	is($t->fill_lease($lease, { row => 'text', hi => $t->load_row('p:1')->{hi} }),
		'ok', "$key: cached");
	$t->sql("UPDATE p SET n = n + 1 WHERE category_id = $category");
	$t->wait_applied;
	is($t->look_up($key), $skip ? 'text' : 'lease',
		$skip ? 'trigger off: stale without that safeguard' : 'trigger off: the rule is purged');
	$t->clear_fault;
	$t->sql('ALTER TABLE p ENABLE TRIGGER ALL');
}

# ---------- a relay that starts after the fact ----------

# detached and attached again while no relay runs
$t->sql('INSERT INTO u VALUES (1, 0, 0) ON CONFLICT DO NOTHING');
$t->wait_applied;
my @old = cached('u:1');
$t->set_conf('mlcache.relay_enabled = off');
$t->wait_for('the relay to end', sub { $t->relay_pid eq '' });
$t->sql("SELECT mlcache.detach('u'); UPDATE u SET n = n + 1 WHERE id = 1");
$t->sql("TRUNCATE i");
$t->clear_fault;
$t->wait_applied;
none_of('TRUNCATE and detach while no relay runs', 'i:2', 'u:1');
$t->stop;
done_testing();
