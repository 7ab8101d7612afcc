//! Many writers on the table of one organization at once.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use postgres::{Client, Statement};

use crate::world::World;
use crate::{Result, items};

/// How many they are.
pub const CROWD: usize = 16;

/// Above the ids of every other part.
static ID: AtomicI64 = AtomicI64::new(1_000_000_000);

/// The writers of a table: connections of the application to the large organization, with a statement that inserts a row.
pub fn crowd(world: &World, schema: &str, table: &str) -> Result<Vec<(Client, Statement)>> {
    (0..CROWD)
        .map(|_| {
            let mut client = world.app(schema, &world.large())?;
            let statement = client.prepare(&items::insert_one(table, &world.large()))?;
            Ok((client, statement))
        })
        .collect()
}

/// The time of a commit, where all of them write at once for so long.
pub fn together(writers: &mut [(Client, Statement)], lasting: Duration) -> Result<Duration> {
    let start = Instant::now();
    let commits = std::thread::scope(|scope| {
        let running: Vec<_> = writers
            .iter_mut()
            .map(|(client, insert)| {
                scope.spawn(move || -> Result<u32> {
                    let mut commits = 0;
                    while start.elapsed() < lasting {
                        let id = ID.fetch_add(1, Ordering::Relaxed);
                        client.execute(&*insert, &[&id, &None::<i64>])?;
                        commits += 1;
                    }
                    Ok(commits)
                })
            })
            .collect();
        running.into_iter().try_fold(0, |sum, writer| {
            let commits = writer.join().expect("it does not panic")?;
            Ok::<u32, Box<dyn std::error::Error + Send + Sync>>(sum + commits)
        })
    })?;
    Ok(start.elapsed() / commits.max(1))
}
