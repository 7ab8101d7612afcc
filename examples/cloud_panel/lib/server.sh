# shellcheck shell=bash
# A throwaway PostgreSQL server: a folder of its own, a Unix socket in it, no port, gone when the script ends,
# however it ends.

# Nothing of the caller's own connection settings may reach the walk.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGSERVICE PGOPTIONS PGAPPNAME PGCLIENTENCODING RUST_BACKTRACE
export LC_ALL=C.UTF-8 PSQLRC=/dev/null PSQL_PAGER='' PAGER=''

bin=$("$PG_CONFIG" --bindir)
home=

# PostgreSQL refuses to run as root; then it runs as the user that its package made.
as_server_user() {
  if [ "$(id -u)" = 0 ]; then
    setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
  else
    "$@"
  fi
}

start_server() {
  if [ "$(id -u)" = 0 ] && ! id postgres >/dev/null 2>&1; then
    echo "demo: running as root needs an operating-system user postgres for the server" >&2
    exit 1
  fi
  home=$(mktemp -d /tmp/pg_tenancy_demo.XXXXXX)
  trap stop_server EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  [ "$(id -u)" = 0 ] && chown postgres: "$home"
  (
    cd "$home" || exit 1
    as_server_user "$bin/initdb" --no-sync --auth=trust --username=postgres --encoding=UTF8 --locale=C \
      --pgdata="$home/data" &&
      as_server_user "$bin/pg_ctl" start --wait --silent --pgdata="$home/data" --log="$home/server.log" \
        --options="-c listen_addresses='' -c unix_socket_directories='$home' -c fsync=off -c max_connections=20"
  ) >"$home/start.log" 2>&1 || {
    cat "$home/start.log" "$home/server.log" >&2
    echo "demo: the throwaway server did not start" >&2
    exit 1
  }
}

stop_server() {
  local status=$?
  trap - EXIT INT TERM HUP
  if [ -n "$home" ]; then
    [ -f "$home/data/postmaster.pid" ] &&
      (cd "$home" && as_server_user "$bin/pg_ctl" stop --mode=immediate --silent --pgdata="$home/data") >/dev/null 2>&1
    rm -rf "$home"
  fi
  exit "$status"
}

# sql LOGIN [psql arguments]: one connection as that login.
sql() {
  local login=$1
  shift
  "$bin/psql" --no-psqlrc --quiet --host="$home" --username="$login" --dbname=cloud_panel \
    --set=ON_ERROR_STOP=1 --set=VERBOSITY=verbose "$@"
}
