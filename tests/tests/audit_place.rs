//! The sealer reads only the pages of an organization's table that can hold something new. Whatever makes pages old and
//! new differ from what it remembers, no line is left out: not a late one of a transaction that began before, not one of
//! a session that still has an old page at hand, and none where space became free or the file was exchanged.

use pg_tenancy_tests::{Session, World};

/// Pages that one bulk() fills, at least: more than lines are ever put before the table's end.
const PAGES: i64 = 40;

/// Writes lines on many pages in one statement.
fn bulk(session: &mut Session) {
    session.run(
        "INSERT INTO sites (id, server_id, name) SELECT 1000 + n, 1, 'acme-' || repeat(n::text, 20) FROM generate_series(1, 3000) n",
    );
    session.run("DELETE FROM sites WHERE id > 1000");
}

fn table(world: &World) -> String {
    format!("tenancy_audit.org_{}", world.acme.id.simple())
}

fn pages(world: &World) -> i64 {
    let sql = format!("SELECT pg_relation_size('{}') / 8192", table(world));
    world.superuser().count(&sql)
}

fn seal(world: &World) {
    let sql = format!("SELECT * FROM tenancy.seal_audit('{}')", world.acme.id);
    world.superuser().rows(&sql);
}

/// From which page on the sealer will read.
fn from_page(world: &World) -> i64 {
    let sql = format!(
        "SELECT coalesce(from_page, 0) FROM tenancy_audit.heads WHERE org_id = '{}' ORDER BY number DESC LIMIT 1",
        world.acme.id
    );
    world.superuser().count(&sql)
}

/// Everything that is committed is sealed, and nothing is wrong.
fn assert_all_sealed(world: &World) {
    seal(world);
    let org = world.acme.id;
    let mut dba = world.superuser();
    let lines = "SELECT count(*) FROM tenancy.audit_log";
    let lines = world.session("acme.owner").count(lines);
    let sealed = format!("SELECT sealed_lines FROM tenancy.list_seal_status('{org}')");
    assert_eq!(dba.count(&sealed), lines);
    let status = format!("SELECT unsealed_lines FROM tenancy.list_seal_status('{org}')");
    assert_eq!(dba.count(&status), 0);
    let verify = format!("SELECT finding || detail FROM tenancy.verify_audit('{org}')");
    assert_eq!(dba.column(&verify), Vec::<String>::new());
}

fn one(session: &mut Session) {
    session.run("UPDATE sites SET visits = visits + 1 WHERE id = 1");
}

#[test]
fn only_new_pages_are_read() {
    let world = World::new();
    let mut writer = world.session("acme.owner");
    bulk(&mut writer);
    seal(&world);
    let (from, pages) = (from_page(&world), pages(&world));
    assert!(pages >= PAGES, "{pages}");
    assert!(from > 0 && from < pages, "{from} of {pages}");
    one(&mut writer);
    assert_all_sealed(&world);
}

#[test]
fn lines_of_a_transaction_that_began_before_are_sealed() {
    let world = World::new();
    let mut early = world.session("acme.owner");
    let mut writer = world.session("acme.owner");
    early.run("BEGIN");
    one(&mut early);
    // Another row: the first is locked.
    let other = "UPDATE sites SET visits = visits + 1 WHERE id = 2";
    for _ in 0..3 {
        writer.run(
            "INSERT INTO sites (id, server_id, name) SELECT 1000 + n, 1, 'acme-' || repeat(n::text, 20) FROM generate_series(1, 3000) n",
        );
        writer.run("DELETE FROM sites WHERE id > 1000");
        writer.run(other);
        seal(&world);
        // A transaction that began later than all of these, and ends before the first one does.
        writer.run(&format!("BEGIN; {other}; COMMIT"));
        seal(&world);
    }
    early.run("COMMIT");
    assert_all_sealed(&world);
    assert!(from_page(&world) > 0);
}

#[test]
fn a_session_that_has_an_old_page_at_hand_writes_to_the_end() {
    let world = World::new();
    let mut idle = world.session("acme.owner");
    one(&mut idle);
    let mut writer = world.session("acme.owner");
    bulk(&mut writer);
    assert_all_sealed(&world);
    assert!(from_page(&world) > 0);
    one(&mut idle);
    assert_all_sealed(&world);
}

#[test]
fn space_that_became_free_is_not_filled_again() {
    let world = World::new();
    let mut writer = world.session("acme.owner");
    writer.run("BEGIN");
    bulk(&mut writer);
    writer.run("ROLLBACK");
    bulk(&mut writer);
    assert_all_sealed(&world);
    let from = from_page(&world);
    assert!(from > PAGES, "{from}");
    world
        .superuser()
        .run(&format!("VACUUM (ANALYZE) {}", table(&world)));
    // A session that has no page at hand asks where there is room.
    one(&mut world.session("acme.owner"));
    assert_all_sealed(&world);
}

#[test]
fn an_exchanged_file_is_read_from_its_beginning() {
    let world = World::new();
    let mut writer = world.session("acme.owner");
    writer.run("BEGIN");
    bulk(&mut writer);
    bulk(&mut writer);
    writer.run("ROLLBACK");
    one(&mut writer);
    assert_all_sealed(&world);
    let (from, before) = (from_page(&world), pages(&world));
    assert!(from > PAGES, "{from}");
    // Without what was rolled back the lines come to lie in front, and what is written next behind them.
    world
        .superuser()
        .run(&format!("VACUUM FULL {}", table(&world)));
    assert!(pages(&world) < from);
    one(&mut writer);
    while pages(&world) < before {
        bulk(&mut writer);
    }
    assert_all_sealed(&world);
}

#[test]
fn a_file_whose_end_was_cut_off_is_read_from_its_beginning() {
    let world = World::new();
    let mut writer = world.session("acme.owner");
    bulk(&mut writer);
    assert_all_sealed(&world);
    // A purge's head: what it removed may have been the last pages.
    let org = world.acme.id;
    let mut dba = world.superuser();
    dba.run("SET row_security = off");
    dba.run(&format!(
        "ALTER TABLE {0} DISABLE TRIGGER USER; CREATE TABLE kept AS TABLE {0}; DELETE FROM {0}",
        table(&world)
    ));
    dba.run(&format!("VACUUM (TRUNCATE) {}", table(&world)));
    assert_eq!(pages(&world), 0);
    dba.run(&format!("INSERT INTO {0} SELECT * FROM kept ORDER BY xid, n LIMIT 10; ALTER TABLE {0} ENABLE ALWAYS TRIGGER tenancy_append_only", table(&world)));
    one(&mut writer);
    let count = |dba: &mut Session| {
        let sql = format!("SELECT sealed_lines FROM tenancy.list_seal_status('{org}')");
        dba.count(&sql)
    };
    let before = count(&mut dba);
    seal(&world);
    assert_eq!(count(&mut dba), before + 1);
}

#[test]
fn what_was_erased_is_sealed_where_it_stands_now() {
    let world = World::new();
    let mut writer = world.session("acme.owner");
    bulk(&mut writer);
    assert_all_sealed(&world);
    // Not sealed when it is erased, by a transaction that ends later.
    let mut open = world.session("acme.owner");
    open.run("BEGIN");
    open.run("UPDATE sites SET visits = visits + 1 WHERE id = 3");
    one(&mut writer);
    writer.run("SELECT tenancy.erase_audit('sites', '1', reason => 'asked for')");
    bulk(&mut writer);
    open.run("COMMIT");
    assert_all_sealed(&world);
}
