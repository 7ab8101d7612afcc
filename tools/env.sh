# shellcheck shell=bash
# Sourced by every script here: which PostgreSQL server, which Rust, where the project's own tools are.
# Everything it sets lives in this process only; everything the tools write lives in the checkout.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1

say() { printf '==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# The server this version is developed on, where nothing else is asked for by PG_CONFIG.
default_major=15

pg_major() { "$1" --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p'; }

# PG_CONFIG as given, else a pg_config of the default version, else any; empty where there is none.
find_pg_config() {
  local candidate
  if [ -n "${PG_CONFIG:-}" ]; then
    command -v "$PG_CONFIG"
    return
  fi
  for candidate in pg_config "/usr/lib/postgresql/$default_major/bin/pg_config" "/usr/pgsql-$default_major/bin/pg_config"; do
    if candidate=$(command -v "$candidate") && [ "$(pg_major "$candidate")" = "$default_major" ]; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  command -v pg_config
}

# Called once the server is known to be there: tells cargo, pgrx and the tests about it.
use_server() {
  PG_CONFIG=$(find_pg_config) || die "no pg_config found; run: make setup"
  pg_feature=pg$(pg_major "$PG_CONFIG")
  case $pg_feature in
    pg15 | pg16 | pg17 | pg18) ;;
    *) die "$PG_CONFIG is $("$PG_CONFIG" --version); pg_tenancy builds for PostgreSQL 15 to 18" ;;
  esac
  # shellcheck disable=SC2034 # for the scripts that source this
  features=(--no-default-features --features "$pg_feature")
  export PG_CONFIG PGRX_PG_CONFIG_PATH=$PG_CONFIG PGRX_HOME=$root/.tools/pgrx
  export CARGO_TARGET_DIR=$root/target
  # A backtrace through PostgreSQL's error handling is slow and tells a client nothing.
  unset RUST_BACKTRACE
}

# rustup puts cargo where only login shells look.
command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
PATH=$root/.tools/bin:$PATH
export PATH
