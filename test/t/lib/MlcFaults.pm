# MlcFaults.pm
#	  Everything that can go wrong with one relay and one Redis, one after the
#	  other, under load that the caller has started.
package MlcFaults;

use strict;
use warnings;
use Exporter 'import';

our @EXPORT = qw(everything_goes_wrong);

# go_on->(n): waits until n more changes have been made; many of them after
# each fault, few while nobody answers.
sub everything_goes_wrong
{
	my ($t, $go_on, $many, $few) = @_;
	my $position;

	for my $point (qw(relay-before-applying relay-before-send relay-after-send relay-before-applied))
	{
		$t->exit_relay($point);
		$go_on->($many);
	}
	$position = $t->log_position;
	$t->redis->command('FLUSHALL');
	$t->wait_log(qr/server "redis" is armed/, $position);
	$go_on->($many);
	kill 'KILL', $t->running_relay;			# a crash of the whole server
	$go_on->($many);
	$t->wait_armed;
	$go_on->($many);
	$t->redis->kill9;
	$go_on->($many);
	$t->redis->start;
	$t->wait_armed;
	$go_on->($many);
	$t->redis->freeze;
	$go_on->($few);
	$t->redis->thaw;
	$t->wait_armed;
	$go_on->($many);
}

1;
