//! The tests' own ground: a cluster that is gone with the process that started it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pg_tenancy_tests::Cluster;

/// Not a test of its own: the process that the next one kills.
#[test]
#[ignore = "started by a_killed_process_leaves_nothing"]
fn victim() {
    let cluster = Cluster::start();
    println!("\ncluster {}", cluster.dir().display());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_process_leaves_nothing() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let dir = BufReader::new(victim.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("cluster ").map(String::from))
        .expect("a cluster");
    let dir = Path::new(&dir);
    let pid = std::fs::read_to_string(dir.join("data/postmaster.pid")).unwrap();
    let server = format!("/proc/{}", pid.lines().next().unwrap());
    let proc = Path::new("/proc/self").exists();
    assert!(!proc || Path::new(&server).exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    let start = Instant::now();
    while dir.exists() || (proc && Path::new(&server).exists()) {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{} is still there",
            dir.display()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
