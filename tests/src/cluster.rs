//! A throwaway cluster that cannot outlive the test process.
//!
//! A small shell child owns it: it runs initdb and the server, then waits for the end of its standard input, which
//! comes when the test process ends, however it ends; then it stops the server and removes every file.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, OnceLock};

use postgres::{Config, NoTls};

/// The signals are ignored so that an interrupt at the terminal reaches the tests and not their tidying up.
const KEEPER: &str = r#"
bin=$1 base=$2 port=$3 addresses=$4
trap '' INT TERM HUP PIPE
dir=$(mktemp -d "$base/pgten.XXXXXX") || exit 1
mkdir -m 777 "$dir/files"
start() {
    "$bin/initdb" --no-sync -A trust -U postgres -E UTF8 --no-locale -D "$dir/data" || return 1
    cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '$addresses'
unix_socket_directories = '$dir'
port = $port
max_connections = 200
max_prepared_transactions = 10
wal_level = logical
fsync = off
full_page_writes = off
autovacuum = off
lc_messages = 'C'
log_line_prefix = '%p %u@%d '
CONF
    echo 'host all all samehost trust' >>"$dir/data/pg_hba.conf"
    "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 start
}
if start >"$dir/start" 2>&1 </dev/null; then
    echo "ready $dir"
else
    echo failed
    cat "$dir/start" "$dir/log" 2>&1
fi
cat >/dev/null
"$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1
rm -rf "$dir"
"#;

pub struct Cluster {
    dir: PathBuf,
    port: u16,
    bin: PathBuf,
    /// Whom the server runs as where we are root, who may not run one.
    user: Option<(u32, u32)>,
    keeper: Child,
    /// Never written to. Its closing is the message.
    stdin: Option<ChildStdin>,
}

impl Cluster {
    /// The cluster that all tests of this binary share.
    pub fn shared() -> Arc<Cluster> {
        static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
        SHARED.get_or_init(|| Arc::new(Cluster::start())).clone()
    }

    pub fn start() -> Cluster {
        Cluster::start_at(5432, "")
    }

    /// A cluster that also listens on TCP/IP, at the loopback addresses given.
    pub fn start_listening(addresses: &str) -> Cluster {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        Cluster::start_at(port, addresses)
    }

    fn start_at(port: u16, addresses: &str) -> Cluster {
        let bin = bindir();
        let temp = std::env::temp_dir();
        let root = id("-u", None) == 0;
        let user = root.then(|| (id("-u", Some("postgres")), id("-g", Some("postgres"))));
        // A socket's path has 107 bytes at most; and a private TMPDIR of root is closed to the server's own user.
        let base = if root || temp.as_os_str().len() > 60 {
            Path::new("/tmp")
        } else {
            &temp
        };

        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "keeper"])
            .args([&bin, base])
            .args([&port.to_string(), addresses])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            // Makes each error through a hook 190 us, and prints frames to the client.
            .env_remove("RUST_BACKTRACE")
            .env_remove("RUST_LIB_BACKTRACE");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        become_user(&mut command, user);
        let mut keeper = command.spawn().expect("sh starts");
        let stdin = keeper.stdin.take();
        let mut out = BufReader::new(keeper.stdout.take().expect("a piped stdout"));
        let mut line = String::new();
        out.read_line(&mut line).expect("the keeper speaks");
        let Some(dir) = line.trim_end().strip_prefix("ready ") else {
            drop(stdin);
            let mut rest = String::new();
            out.read_to_string(&mut rest).ok();
            panic!("no throwaway cluster: {line}{rest}");
        };
        Cluster {
            dir: dir.into(),
            port,
            bin,
            user,
            keeper,
            stdin,
        }
    }

    /// How to reach a database of the cluster.
    pub fn config(&self, user: &str, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(&self.dir)
            .port(self.port)
            .user(user)
            .dbname(database);
        config
    }

    /// How to reach it by TCP/IP, at one of the addresses it listens at.
    pub fn tcp_config(&self, address: &str, user: &str, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host(address)
            .port(self.port)
            .user(user)
            .dbname(database);
        config
    }

    pub fn superuser(&self, database: &str) -> postgres::Client {
        self.config("postgres", database)
            .connect(NoTls)
            .unwrap_or_else(|e| panic!("cannot connect to {database}: {e:?}"))
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("log")).expect("the server's log")).into()
    }

    /// Where everything of the cluster is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path for a file that goes away with the cluster.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join("files").join(name)
    }

    /// Has a program run as whom the server runs as.
    pub(crate) fn as_its_user(&self, command: &mut Command) {
        become_user(command, self.user);
    }

    /// One of PostgreSQL's own programs, as a user to whom the cluster's files belong.
    pub fn program(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        become_user(&mut command, self.user);
        command.current_dir("/").env("PGOPTIONS", "");
        command
    }

    /// Runs one of PostgreSQL's own programs against a database of this cluster, as superuser.
    pub fn client_program(&self, program: &str, database: &str, args: &[&str]) -> String {
        // What it writes is the keeper's to remove.
        let out = self
            .program(program)
            .arg("--host")
            .arg(&self.dir)
            .args([
                "--port",
                &self.port.to_string(),
                "--username",
                "postgres",
                "--dbname",
                database,
            ])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{program} {args:?}: {said}");
        String::from_utf8_lossy(&out.stdout).into()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.keeper.wait().ok();
    }
}

/// Setting the user as root also clears the supplementary groups.
fn become_user(command: &mut Command, user: Option<(u32, u32)>) {
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
}

fn bindir() -> PathBuf {
    let pg_config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into());
    output(Command::new(pg_config).arg("--bindir")).into()
}

fn id(what: &str, user: Option<&str>) -> u32 {
    output(Command::new("id").arg(what).args(user))
        .parse()
        .expect("a number")
}

fn output(command: &mut Command) -> String {
    let out = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {out:?}");
    String::from_utf8(out.stdout)
        .expect("text")
        .trim()
        .to_string()
}
