# shellcheck shell=bash
# test/lib/servers.sh
#	  Private servers for tests: PostgreSQL with mlcache loaded, and Redis.
#
# Source test/lib/env.sh first, and call mlc_work.  A server lives in a
# directory below $MLC_WORK that names it, listens on a unix socket there, and
# is stopped at exit at the latest.  A name may be started again after a stop,
# with its data.
#
#	  start_postgres DIR [LINE...]	initdb if need be; LINEs are appended to
#	                 postgresql.conf.  Exports PGHOST, PGPORT, PGUSER, PGDATABASE
#	                 for the server started last
#	  stop_postgres DIR [fast|immediate|smart]
#	  start_redis DIR [ARG...]	ARGs go to MLC_REDIS_SERVER.  Exports
#	                 MLC_REDIS_SOCKET and MLC_REDIS_URL
#	  stop_redis DIR [SIGNAL]
#	  redis DIR ARG...	MLC_REDIS_CLI on that server
#
# DIR is a plain name ("primary") or a path.  Neither listens on TCP unless
# asked to: start_postgres x "listen_addresses = '127.0.0.1'" "port = $(mlc_free_port)",
# start_redis x --port "$(mlc_free_port)".

# Sockets are told apart by directory, so one port number serves all of them.
MLC_PGPORT=65432

mlc_postgres_running=()
declare -A mlc_redis_pid=()

mlc_server_dir()
{
	[ -n "${MLC_WORK:-}" ] || mlc_die "mlc_work comes before a server"
	case $1 in
		/*) printf '%s\n' "$1" ;;
		*) printf '%s\n' "$MLC_WORK/$1" ;;
	esac
}

# output_plugin_libraries came with the minor releases that check it; an older
# server would refuse to start with it.
mlc_knows_setting()
{
	"$MLC_PG_BINDIR/postgres" --describe-config | grep "^$1	" >/dev/null
}

# The lines a server needs for mlcache, also used for pg_regress --temp-config.
mlc_postgres_conf()
{
	cat <<-CONF
		shared_preload_libraries = 'mlcache'
		wal_level = logical
		max_wal_senders = 10
		max_replication_slots = 10
		max_worker_processes = 16
		max_prepared_transactions = 10
		max_connections = 100
		fsync = off
		log_line_prefix = '%m [%p] %q%a '
		mlctest.redis_url = '${MLC_REDIS_URL:-}'
	CONF
	if mlc_knows_setting output_plugin_libraries; then
		echo "output_plugin_libraries = 'pgoutput, test_decoding, mlcache, wal2json'"
	fi
}

start_postgres()
{
	local dir line

	[ -n "${MLC_PG_BINDIR:-}" ] || mlc_die "no PostgreSQL server found: run test/setup"
	dir=$(mlc_server_dir "$1") || return 1
	shift
	if [ ! -d "$dir/data" ]; then
		mkdir -p "$dir"
		[ -z "$MLC_RUN_AS" ] || chown "$MLC_RUN_AS:" "$dir"
		mlc_as "$MLC_PG_BINDIR/initdb" -D "$dir/data" -U postgres -A trust -N \
			--no-locale -E UTF8 >"$dir/initdb.log" 2>&1 ||
			{ cat "$dir/initdb.log" >&2; return 1; }
		{
			mlc_postgres_conf
			echo "unix_socket_directories = '$dir'"
			echo "listen_addresses = ''"
			echo "port = $MLC_PGPORT"
		} >>"$dir/data/postgresql.conf"
	fi
	for line in "$@"; do
		printf '%s\n' "$line" >>"$dir/data/postgresql.conf"
	done
	# the last port line is the one that counts
	PGPORT=$(sed -n 's/^port *= *//p' "$dir/data/postgresql.conf" | tail -n 1)
	mlc_postgres_running+=("$dir")
	# not the script's stdin, and no file descriptor a server could keep open
	if ! mlc_as "$MLC_PG_BINDIR/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 -s start \
		</dev/null; then
		tail -n 50 "$dir/log" >&2
		return 1
	fi
	PGHOST=$dir PGUSER=postgres PGDATABASE=postgres
	export PGHOST PGPORT PGUSER PGDATABASE
}

stop_postgres()
{
	local dir

	dir=$(mlc_server_dir "$1") || return 1
	[ -f "$dir/data/postmaster.pid" ] || return 0
	mlc_as "$MLC_PG_BINDIR/pg_ctl" -D "$dir/data" -m "${2:-fast}" -w -t 60 -s stop
}

# PING's answer: an error reply that asks for a password comes from a live
# server, too; LOADING does not count.
mlc_redis_answers()
{
	case $("$MLC_REDIS_CLI" -s "$1" PING 2>/dev/null) in
		PONG | NOAUTH*) return 0 ;;
	esac
	return 1
}

mlc_redis_up_or_dead()
{
	mlc_redis_answers "$1" || ! kill -0 "$2" 2>/dev/null
}

start_redis()
{
	local dir pid

	dir=$(mlc_server_dir "$1") || return 1
	shift
	mkdir -p "$dir"
	[ -z "$MLC_RUN_AS" ] || chown "$MLC_RUN_AS:" "$dir"
	# a benchmark gives priorities to sessions
	mlc_exec ${BENCH_NICE:+setsid} "$MLC_REDIS_SERVER" --port 0 --unixsocket "$dir/redis.sock" --unixsocketperm 777 \
		--dir "$dir" --daemonize no --save '' --appendonly no "$@" \
		>>"$dir/log" 2>&1 </dev/null &
	pid=$!
	disown "$pid"
	mlc_redis_pid[$dir]=$pid
	if ! mlc_wait_for 30 mlc_redis_up_or_dead "$dir/redis.sock" "$pid" ||
		! kill -0 "$pid" 2>/dev/null; then
		tail -n 50 "$dir/log" >&2
		return 1
	fi
	MLC_REDIS_SOCKET=$dir/redis.sock
	MLC_REDIS_URL=unix://$MLC_REDIS_SOCKET
	export MLC_REDIS_SOCKET MLC_REDIS_URL
}

mlc_is_gone() { ! kill -0 "$1" 2>/dev/null; }

stop_redis()
{
	local dir pid

	dir=$(mlc_server_dir "$1") || return 1
	pid=${mlc_redis_pid[$dir]:-}
	[ -n "$pid" ] || return 0
	# a stopped process hears TERM only once it goes on
	kill -s "${2:-TERM}" "$pid" 2>/dev/null || true
	kill -s CONT "$pid" 2>/dev/null || true
	mlc_wait_for 20 mlc_is_gone "$pid" || kill -s KILL "$pid" 2>/dev/null
	mlc_wait_for 10 mlc_is_gone "$pid" || return 1
	unset "mlc_redis_pid[$dir]"
	rm -f "$dir/redis.sock"
}

redis()
{
	local dir

	dir=$(mlc_server_dir "$1") || return 1
	shift
	"$MLC_REDIS_CLI" -s "$dir/redis.sock" "$@"
}

mlc_stop_servers()
{
	local dir

	for dir in "${mlc_postgres_running[@]}"; do
		stop_postgres "$dir" fast || stop_postgres "$dir" immediate
	done
	for dir in "${!mlc_redis_pid[@]}"; do
		stop_redis "$dir"
	done
}
mlc_on_exit mlc_stop_servers

# What pg_regress needs, with a Redis of its own.  Tests find it as
#	  \getenv redis_url MLC_REDIS_URL			(psql)
#	  current_setting('mlctest.redis_url')	(anywhere)
regress_prepare()
{
	tree=$MLC_WORK/tree
	out=$MLC_WORK/out
	mkdir "$tree" "$out"
	mlc_copy_tree "$tree"
	start_redis redis
	mlc_postgres_conf >"$MLC_WORK/temp.conf"
	[ -z "$MLC_RUN_AS" ] || chown -R "$MLC_RUN_AS:" "$tree" "$out"
	cd "$out"
}

# Runs prove with what PostgreSQL's test modules ask for, after regress_prepare
# (TESTDIR up to 15, the two after it since 16).
# Cluster.pm appends TEMP_CONFIG to each node's configuration; what a test
# appends itself comes after and counts.
mlc_tap()						# prove ARGUMENT...
{
	MLC_TOP=$tree TESTDIR=$out TESTDATADIR=$out/tmp_check TESTLOGDIR=$out/tmp_check/log \
		PG_TEST_PORT_DIR=$out TEMP_CONFIG=$MLC_WORK/temp.conf \
		PG_REGRESS=$MLC_PGXS_DIR/src/test/regress/pg_regress \
		PATH=$MLC_PG_BINDIR:$PATH TMPDIR=$MLC_WORK \
		mlc_as "$@" -I "$MLC_PGXS_DIR/src/test/perl" -I "$tree/test/t"
}
