# Free keys and tags in L1: an invalidation makes void what has the tag, or may
# have it, and nothing else; and no copy from before it comes in after it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use MlcTest;
use Test::More;

my $t = MlcTest->new('tags', no_tables => 1);
my $redis = $t->redis;

$t->sql(<<'SQL');
CREATE TABLE fence (n int);
CREATE TABLE doc (id int PRIMARY KEY, v int);
INSERT INTO doc VALUES (1, 1);
SELECT mlcache.attach('doc', tag => 'doc');
SQL
$t->wait_armed;
$t->wait_applied;

sub quoted { my ($text) = @_; $text =~ s/'/''/g; return "'$text'" }

sub array { return 'ARRAY[' . join(',', map { quoted($_) } @_) . ']::text[]' }

# Sets keys, each to its own name, with tags.
sub set
{
	my (%tags) = @_;

	$t->sql(join ';', map { sprintf 'SELECT mlcache.set(%s, %s, tags => %s)', quoted($_), quoted($_),
			array(@{ $tags{$_} }) } sort keys %tags);
	$t->wait_applied;
}

# Where a key's value comes from, or "none".
sub source
{
	my ($key, $settings) = @_;

	my $answer = $t->sql(($settings // '') . 'SELECT mlcache.get(' . quoted($key)
		. "), coalesce((mlcache.last_read()).source, 'none')");
	return (split /\|/, $answer)[-1];
}

sub sources { return join ' ', map { source($_) } @_ }

# Until L1 has them.
sub read_in
{
	for my $key (@_) { $t->wait_for("$key in L1", sub { source($key) eq 'L1' }) }
}

sub invalidate
{
	$t->sql('SELECT mlcache.invalidate_tag(' . quoted($_[0]) . ')');
	$t->wait_applied;
}

# As the server counts tags.
sub number
{
	my ($tag) = @_;
	my $number = ord 't';

	$number = ($number * 257 + ord) % 65521 for split //, $tag;
	return $number;
}

# ---------- a tag, and no other ----------

my %keys = (a => ['A'], b => ['B'], ab => [ 'A', 'B' ], none => [], doc => ['doc']);

set(%keys);
read_in(sort keys %keys);
invalidate('A');
is(sources(qw(a ab)), 'none none', 'what has the tag is gone');
is(sources(qw(b none doc)), 'L1 L1 L1', 'what has it not is still in L1');
invalidate('unheard of');
is(sources(qw(b none doc)), 'L1 L1 L1', 'also when nothing has it');
$t->sql('UPDATE doc SET v = v + 1');
$t->wait_applied;
is(sources(qw(doc b none)), 'none L1 L1', 'so it is with a change of a table');
$t->sql("SELECT mlcache.fetch('f', 'SELECT 1', tags => '{F}') FROM generate_series(1, 2)");
invalidate('B');
is($t->sql("SELECT mlcache.fetch('f', 'SELECT 1', tags => '{F}') IS NOT NULL, (mlcache.last_read()).source"),
	't|L1', 'what fetch has cached with another tag stays');
is(sources(qw(b none)), 'none L1', 'and of the free keys what has another');

# set again: the last tags count, here and in Redis
set(again => ['A']);
read_in('again');
set(again => ['B']);
read_in('again');
invalidate('A');
is(source('again'), 'L1', 'a tag that a key had once');
is($redis->command('EXISTS', 'again'), 1, '...takes it from Redis neither');
invalidate('B');
is(source('again'), 'none', 'the tag that it has');
is($redis->command('EXISTS', 'again'), 0, '...takes it from both');

# ---------- any tag ----------

# Library and server must count alike, whatever is in it.
my @odd = ('{', '}', '%', '{%7D}', '%25', '%zz', ' ', ':', 't:', '|', '"', "'", '\\', "\t", 'ä', 'ÿ',
	'x' x 200, map { join '', map { chr 33 + int rand 94 } 1 .. 1 + int rand 12 } 1 .. 40);
my %odd = map { ("odd:$_" => [ $odd[$_] ]) } 0 .. $#odd;

set(%odd);
my $in_l1 = "SELECT count(*) FILTER (WHERE s = 'L1'), count(v) FROM (SELECT mlcache.get('odd:' || i) AS v,"
  . " (mlcache.last_read()).source AS s FROM generate_series(0, $#odd) i OFFSET 0) r";
$t->sql($in_l1);
is($t->sql($in_l1), @odd . '|' . @odd, 'keys with odd tags are in L1');
$t->sql('SELECT mlcache.invalidate_tag(tag) FROM unnest(' . array(@odd) . ') tag');
$t->wait_applied;
is($t->sql($in_l1), '0|0', '...and each is void with its own');

# ---------- tags that share a number ----------

my (%seen, @same, @alike);
for (my $i = 0; !@same || !@alike; $i++)
{
	my $n = number("c$i");

	@same = ($seen{$n}, "c$i") if defined $seen{$n} && !@same;
	@alike = ($seen{ 'of ' . $n % 1024 }, "c$i")
	  if defined $seen{ 'of ' . $n % 1024 } && number($seen{ 'of ' . $n % 1024 }) != $n;
	$seen{$n} //= $seen{ 'of ' . $n % 1024 } = "c$i";
}
for my $pair ([ \@same, 'none', 'in all of it' ], [ \@alike, 'L2', 'in L1' ])
{
	my ($tags, $where, $what) = @$pair;

	set(one => [ $tags->[0] ], other => [ $tags->[1] ]);
	read_in(qw(one other));
	invalidate($tags->[0]);
	is(sources(qw(one other)), "none L2", "two tags that share a number $what: the other is read again");
	read_in('other');
}

# ---------- tags that nobody knows ----------

# What a program outside fills, without tags and with.
sub fill
{
	my ($key, @tags) = @_;
	my @indexes = map { 'mlc:tag:' . $t->ns . ":t:$_" } @tags;
	my $answer = @tags
	  ? $redis->command('FCALL', 'mlc_get_tagged', 1 + @tags, $key, @indexes, 'x', 60000, $t->ns, 0)
	  : $redis->command('FCALL', 'mlc_get', 1, $key, 'x', 60000, $t->ns);

	return $redis->command('FCALL', 'mlc_fill', 1, $key, 'x', $key, 0, $answer->[1],
		$t->sql('SELECT mlcache.fill_version()'), 0, $t->ns);
}

is(fill('untold'), 'ok', 'a fill without tags');
is(fill('told', 'T'), 'ok', 'a fill with one');
read_in(qw(untold told none));
invalidate('A');
is(sources(qw(untold told none)), 'L2 L1 L1', 'who named no tags may have any');
invalidate('T');
is(sources(qw(told none)), 'none L1', 'who named some has these');

# An entry from before guards told of tags.
sub make_old
{
	my ($key) = @_;

	set($key => ['A']);
	my $guard = $redis->command('GET', "mlc:{$key}");
	$guard =~ s/G[0-9a-f]*// or die $guard;
	$redis->command('SET', "mlc:{$key}", $guard);
}

make_old('old');
read_in('old');
invalidate('A');
is(source('old'), 'none', 'what says nothing of tags may have any');

# A row's key is the row's, whoever fills it with tags.
$t->sql("SELECT mlcache.attach('doc', key => 'doc:{id}')");
$t->wait_applied;
my $row = $t->load_row('doc:1');
my $lease = $redis->command('FCALL', 'mlc_get_tagged', 2, 'doc:1', 'mlc:tag:' . $t->ns . ':t:T', 'x', 60000, $t->ns, 0);
$t->fill_lease({ key => 'doc:1', token => 'x', lo => $lease->[1] }, $row);
like($redis->command('GET', 'mlc:{doc:1}'), qr/\|\|G[0-9a-f]{4}\|/, 'a row that was filled with a tag');
is($t->sql("SELECT mlcache.get('doc:1'), (mlcache.last_read()).source"), "$row->{row}|L2", '...is a hit');
is($t->sql("SELECT count(*) FROM mlcache.audit('doc')"), 0, '...and as an audit wants it');
$t->sql("SELECT mlcache.detach('doc', 'doc:{id}')");
$t->wait_applied;

# ---------- the order of things ----------

# A reader that has its answer is stopped until the tag has been invalidated.
my $stop = "SET mlcache.fault_points = 'free-before-l1=wait%s'; ";

sub late
{
	my ($settings, $relay) = @_;
	my $reader = $t->node->background_psql('postgres', on_error_stop => 0);
	my ($holder, $held);

	set(late => ['A']);
	if ($relay)
	{
		# it reads while the tag is closed, before Redis is told
		$holder = $t->hold('relay-before-applying');
		$t->sql("SELECT mlcache.invalidate_tag('A')");
		$t->wait_held('relay-before-applying');
	}
	$held = $t->hold('free-before-l1');
	$reader->query_until(qr/begun/, sprintf($stop, $settings) . "\n\\echo begun\nSELECT mlcache.get('late');\n");
	$t->wait_held('free-before-l1');
	if ($relay) { $holder->quit; $t->wait_applied } else { invalidate('A') }
	$held->quit;
	$reader->quit;
	return source('late');
}

is(late(''), 'none', 'a copy from before does not come in after');
$t->set_fault('relay-before-applying=wait');
$t->wait_for('the relay to stop there', sub {
	my $holder = $t->hold('relay-before-applying');
	my $version = $t->sql("SELECT mlcache.invalidate_tag('x'); SELECT mlcache.last_commit_version()") =~ s/^\n//r;
	my $held;

	# a relay that has not read the setting yet passes by
	1 until ($held = $t->is_held('relay-before-applying'))
	  || $t->sql("SELECT mlcache.wait_applied('$version', '50 ms')") eq 't';
	$holder->quit;
	return $held;
});
is(late('', 1), 'none', 'nor one of who asked while it was closed');

# ---------- the same is seen to fail ----------

is(late(',l1-clock=skip'), 'L1', 'with a ticket that is no older than its fill, it does');
$t->set_fault('relay-before-applying=wait', 'l1-tick=skip');
$t->wait_for('a clock that stands still', sub { late('', 1) eq 'L1' });
pass('without a tick at the end, too');
$t->clear_fault;

for my $case (
	[ 'l1-close-tag', sub { set(s => ['A']) }, 'a tag that is not closed' ],
	[ 'l1-close-any-tag', sub { make_old('s') }, 'nor for all' ])
{
	my ($fault, $make, $what) = @$case;

	$t->set_fault("$fault=skip");
	$t->wait_for($fault, sub {
		$make->();
		source('s');
		invalidate('A');
		return source('s') eq 'L1';
	});
	pass("$what: seen");
	$t->clear_fault;
	$t->sql("SELECT mlcache.delete('s')");
	$t->wait_for('the relay to know', sub {
		$make->();
		source('s');
		invalidate('A');
		return source('s') eq 'none';
	});
}
make_old('s');
source('s', "SET mlcache.fault_points = 'free-any-tag=skip'; ");
invalidate('A');
is(source('s'), 'L1', 'a guard that says nothing taken for one without tags: seen');

# ---------- a relay that comes and goes ----------

set(%keys);
read_in(sort keys %keys);
my $old = $t->running_relay;

kill 'TERM', $old;
$t->wait_for('another relay', sub { $t->running_relay ne $old });
$t->wait_armed;
read_in(sort keys %keys);
invalidate('A');
is(sources(qw(a b ab none)), 'none L1 none L1', 'another relay does the same');
$t->stop;
done_testing();
