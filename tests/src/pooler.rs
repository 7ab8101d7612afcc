//! A real PgBouncer in front of a throwaway cluster: a process of its own with a configuration of its own, never the
//! machine's service. It goes away as the cluster does, when the test process ends, however it ends.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use postgres::{Config, NoTls};

use crate::{Cluster, Session};

/// $1 the program, $2 the cluster's directory, $3 the lines of [pgbouncer], $4 the users' file.
const KEEPER: &str = r#"
trap '' INT TERM HUP PIPE
dir=$(mktemp -d "$2/pool.XXXXXX") || exit 1
printf '%s\n' "$4" >"$dir/users"
cat >"$dir/ini" <<INI
[databases]
* = host=$2 port=5432
[pgbouncer]
listen_addr =
listen_port = 5432
unix_socket_dir = $dir
auth_type = trust
auth_file = $dir/users
logfile = $dir/log
max_client_conn = 200
$3
INI
"$1" -q "$dir/ini" >"$dir/start" 2>&1 &
pid=$!
for _ in $(seq 200); do
    [ -S "$dir/.s.PGSQL.5432" ] && break
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
done
if [ -S "$dir/.s.PGSQL.5432" ]; then
    echo "ready $dir"
else
    echo failed
    cat "$dir/start" "$dir/log" 2>&1
fi
cat >/dev/null
kill -KILL "$pid" 2>/dev/null
rm -rf "$dir"
"#;

pub struct Pooler {
    dir: PathBuf,
    keeper: Child,
    stdin: Option<ChildStdin>,
    _cluster: Arc<Cluster>,
}

impl Pooler {
    /// `mode`: transaction or session. `settings`: more lines of its configuration. `users`: who may connect.
    pub fn start(
        cluster: &Arc<Cluster>,
        mode: &str,
        settings: &[&str],
        users: &[String],
    ) -> Pooler {
        let mut lines = format!("pool_mode = {mode}");
        for setting in settings {
            lines = format!("{lines}\n{setting}");
        }
        let users: Vec<String> = users.iter().map(|u| format!("\"{u}\" \"\"")).collect();
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "keeper"])
            .arg(program())
            .arg(cluster.dir())
            .arg(&lines)
            .arg(users.join("\n"))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        cluster.as_its_user(&mut command);
        let mut keeper = command.spawn().expect("sh starts");
        let stdin = keeper.stdin.take();
        let mut out = BufReader::new(keeper.stdout.take().expect("a piped stdout"));
        let mut line = String::new();
        out.read_line(&mut line).expect("the keeper speaks");
        let Some(dir) = line.trim_end().strip_prefix("ready ") else {
            drop(stdin);
            let mut rest = String::new();
            out.read_to_string(&mut rest).ok();
            panic!("no PgBouncer: {line}{rest}");
        };
        Pooler {
            dir: dir.into(),
            keeper,
            stdin,
            _cluster: cluster.clone(),
        }
    }

    /// The directory of its socket; the port is 5432 there.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn config(&self, user: &str, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(&self.dir)
            .port(5432)
            .user(user)
            .dbname(database);
        config
    }

    #[track_caller]
    pub fn login(&self, user: &str, database: &str) -> Session {
        Session::new(
            self.config(user, database)
                .connect(NoTls)
                .unwrap_or_else(|e| panic!("{user} through the pooler: {e:?}")),
        )
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.keeper.wait().ok();
    }
}

/// Debian puts it where only root's PATH leads.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("PGBOUNCER") {
        return path.into();
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join("pgbouncer"))
        .find(|path| path.is_file())
        .expect("pgbouncer is missing; make setup installs it, PGBOUNCER=/path/to/pgbouncer names another")
}
