//! The tests' own ground: a cluster that is gone with the process that started it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_killed_process_leaves_nothing() {
    let mut victim = Command::new(env!("CARGO_BIN_EXE_victim"))
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
