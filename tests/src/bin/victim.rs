//! Starts a cluster, says where it is, and waits to be killed: tests/harness.rs sees that nothing of it is left then.

use pg_tenancy_tests::Cluster;
use std::time::Duration;

fn main() {
    let cluster = Cluster::start();
    println!("cluster {}", cluster.dir().display());
    std::thread::sleep(Duration::from_secs(60));
}
