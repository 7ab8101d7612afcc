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

/// The time of so many commits of every writer, at once.
pub fn together(writers: &mut [(Client, Statement)], commits: usize) -> Result<Duration> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let running: Vec<_> = writers
            .iter_mut()
            .map(|(client, insert)| {
                scope.spawn(move || -> Result<()> {
                    for _ in 0..commits {
                        let id = ID.fetch_add(1, Ordering::Relaxed);
                        client.execute(&*insert, &[&id, &None::<i64>])?;
                    }
                    Ok(())
                })
            })
            .collect();
        running
            .into_iter()
            .try_for_each(|w| w.join().expect("it does not panic"))
    })?;
    Ok(start.elapsed())
}
