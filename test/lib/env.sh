# shellcheck shell=bash
# test/lib/env.sh
#	  What every test script sources first: where things are, who the servers
#	  run as, one work directory, one clean-up.
#
# Sets
#	  MLC_TOP       root of the checkout
#	  PG_CONFIG     pg_config in use (the caller's, else the newest installed)
#	  MLC_PG_BINDIR, MLC_PGXS_DIR	its programs; .../lib/pgxs
#	  MLC_REDIS_SERVER, MLC_REDIS_CLI	Redis, or Valkey where there is no Redis (or the
#	                caller says so)
#	  MLC_RUN_AS    whom servers run as: postgres for root, else empty
# and defines
#	  mlc_work      makes MLC_WORK, a private directory that servers can write
#	  mlc_as CMD    runs CMD as MLC_RUN_AS, with this environment
#	  mlc_exec CMD  the same instead of this shell
#	  mlc_on_exit F	runs function F at exit, the last registered first; MLC_WORK
#	                is removed after all of them
#	  mlc_free_port	prints a loopback port nobody listens on just now
#	  mlc_wait_for SECONDS CMD	until CMD succeeds; fails when the time is up
#	  mlc_copy_tree DIR	copies the checkout
#	  mlc_pg_of SUITE	prints the PostgreSQL that a Debian carries
#	  mlc_mirror [-security]	prints where apt gets this system's Debian from
#	  mlc_log, mlc_die
#
# A script that sources this file must not set an EXIT trap of its own.
# Written for bash.

MLC_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export MLC_TOP

mlc_log() { printf '%s\n' "$*" >&2; }

mlc_die()
{
	mlc_log "${0##*/}: $*"
	exit 1
}

# Debian keeps the servers' programs out of PATH, and python3 may be one that
# does not see the packages' modules: the tests ask for these by variable.
MLC_PYTHON=${MLC_PYTHON:-/usr/bin/python3}
export MLC_PYTHON

mlc_find_pg_config()
{
	local found

	found=${PG_CONFIG:-$(command -v pg_config)}
	# Debian's /usr/bin/pg_config falls back to libpq-dev's, which knows no server
	if [ -z "$found" ] || [ ! -x "$("$found" --bindir)/initdb" ]; then
		found=$(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -V | tail -n 1)
	fi
	printf '%s\n' "$found"
}

# Done by every script at its start, and again by test/setup's callers once the
# packages are there.
mlc_find_programs()
{
	MLC_REDIS_SERVER=${MLC_REDIS_SERVER:-$(command -v redis-server || command -v valkey-server)}
	MLC_REDIS_CLI=${MLC_REDIS_CLI:-${MLC_REDIS_SERVER%-server}-cli}
	export MLC_REDIS_SERVER MLC_REDIS_CLI
	PG_CONFIG=$(mlc_find_pg_config)
	[ -n "$PG_CONFIG" ] || return 1
	MLC_PG_BINDIR=$("$PG_CONFIG" --bindir)
	MLC_PGXS_DIR=$(cd "$(dirname "$("$PG_CONFIG" --pgxs)")/../.." 2>/dev/null && pwd)
	export PG_CONFIG MLC_PG_BINDIR MLC_PGXS_DIR
}
mlc_find_programs || true

# PostgreSQL refuses to run as root.
if [ "$(id -u)" -eq 0 ]; then
	MLC_RUN_AS=${MLC_RUN_AS:-postgres}
else
	MLC_RUN_AS=
fi
export MLC_RUN_AS

# setpriv and not runuser or su: it becomes the command instead of waiting for
# it.  mlc_exec replaces the shell, for "mlc_exec server &": $! is then the
# server's own pid.
mlc_exec()
{
	[ -n "$MLC_RUN_AS" ] || exec "$@"
	HOME=${MLC_WORK:-/nonexistent} USER=$MLC_RUN_AS LOGNAME=$MLC_RUN_AS \
		exec setpriv --reuid="$MLC_RUN_AS" --regid="$MLC_RUN_AS" --init-groups -- "$@"
}
mlc_as() { (mlc_exec "$@"); }

mlc_exit_functions=()

mlc_on_exit() { mlc_exit_functions=("$1" "${mlc_exit_functions[@]}"); }

mlc_cleanup()
{
	local status=$? f

	trap - EXIT
	trap '' INT TERM HUP
	for f in "${mlc_exit_functions[@]}"; do
		"$f" || true
	done
	[ "${mlc_work_owner:-}" != $$ ] || mlc_remove_work
	exit "$status"
}
trap mlc_cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

mlc_remove_work()
{
	if [ -n "${MLC_KEEP:-}" ]; then
		mlc_log "kept: $MLC_WORK"
	else
		# a process of ours may still be writing its last line
		rm -rf "$MLC_WORK" || rm -rf "$MLC_WORK"
	fi
}

# A short path: a unix socket's name must fit into 107 bytes.  MLC_KEEP=1 keeps
# the directory.  Made once a process; a script started by another makes its own.
mlc_work()
{
	[ -z "${mlc_work_owner:-}" ] || return 0
	MLC_WORK=$(mktemp -d "${TMPDIR:-/tmp}/mlc.XXXXXX") || mlc_die "no work directory"
	mlc_work_owner=$$
	chmod 755 "$MLC_WORK"
	[ -z "$MLC_RUN_AS" ] || chown "$MLC_RUN_AS:" "$MLC_WORK"
	export MLC_WORK
}

# Each Debian carries one PostgreSQL.
mlc_pg_of()
{
	case $1 in
		bookworm) echo 15 ;;
		trixie) echo 17 ;;
		forky) echo 18 ;;
		*) return 1 ;;
	esac
}

# What apt is configured with; the archive is the same for every suite.
mlc_mirror()					# "" or "-security"
{
	local codename

	codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
	apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' \
		"Codename: $codename$1" 'Component: main' | grep -m 1 .
}

mlc_free_port()
{
	"$MLC_PYTHON" -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])'
}

mlc_wait_for()
{
	local deadline=$((SECONDS + $1))

	shift
	until "$@"; do
		[ "$SECONDS" -lt "$deadline" ] || return 1
		sleep 0.05
	done
}

# Copies the checkout, without history and without what a build left, into a
# directory that is there; readable by everybody.
mlc_copy_tree()
{
	tar -C "$MLC_TOP" --exclude=./.git --exclude=./build --exclude='*.o' --exclude='*.d' --exclude='*.so' \
		--exclude=__pycache__ -cf - . | tar -C "$1" --no-same-owner -xf -
	chmod -R u+rwX,go+rX "$1"
}
