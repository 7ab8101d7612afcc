//! Tamper evidence: sealing, heads that are handed out, and what verify_audit() names when somebody who may write to the
//! tables has been there. Attacks F1 to F3, by a superuser.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pg_tenancy_audit_format::erase::erase;
use pg_tenancy_audit_format::head::{Signed, VerifyingKey, parse_verifier};
use pg_tenancy_audit_format::read::Reader;
use pg_tenancy_audit_format::tree;
use pg_tenancy_audit_format::{Author, Column, Digest, Layout, Moment, shape};
use pg_tenancy_tests::{Cluster, Db, Org, Session, Uuid, World, fails, quote, refused};
use serde_json::Value;

fn store(org: Org) -> String {
    format!("tenancy_audit.org_{}", org.id.simple())
}

/// Writes `n` lines in as many transactions, and seals them.
fn write(world: &World, n: usize) {
    let mut admin = world.session("acme.admin");
    for i in 0..n {
        admin.run(&format!(
            "UPDATE sites SET visits = visits + 1, name = 'acme-{i}' WHERE id = 1"
        ));
    }
}

fn seal(world: &World) {
    let org = world.acme.id;
    world
        .superuser()
        .rows(&format!("SELECT * FROM tenancy.seal_audit('{org}')"));
}

fn head(world: &World) -> String {
    let org = world.acme.id;
    world
        .superuser()
        .text(&format!("SELECT tenancy.audit_head('{org}')"))
}

/// What verify_audit() finds in acme's log: finding and number.
fn findings(world: &World, against: Option<&str>) -> Vec<String> {
    let against = against.map_or("NULL".into(), quote);
    world.superuser().column(&format!(
        "SELECT finding || coalesce(' ' || number, '') FROM tenancy.verify_audit('{}', against => {against})",
        world.acme.id
    ))
}

/// A superuser who may do with the audit tables what he likes.
fn vandal(world: &World) -> Session {
    let mut session = world.break_glass();
    for table in [
        store(world.acme).as_str(),
        "tenancy_audit.sealed",
        "tenancy_audit.heads",
    ] {
        session.run(&format!("ALTER TABLE {table} DISABLE TRIGGER USER"));
    }
    session
}

/// How many lines of acme are sealed.
fn size(world: &World) -> i64 {
    world.superuser().count(&format!(
        "SELECT sealed_lines FROM tenancy.list_seal_status('{}')",
        world.acme.id
    ))
}

/// The number of the first line of the chunk in which the key's n-th last update stands.
fn number_of_last(world: &World) -> i64 {
    size(world)
}

fn digest(value: &Value) -> Digest {
    let text = value.as_str().expect("hex");
    let bytes: Vec<u8> = (0..32)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex"))
        .collect();
    bytes.try_into().expect("32 bytes")
}

fn digests(value: &Value) -> Vec<Digest> {
    value
        .as_array()
        .expect("hashes")
        .iter()
        .map(digest)
        .collect()
}

fn key(world: &World) -> VerifyingKey {
    let text = world
        .superuser()
        .text("SELECT verifier FROM tenancy.list_audit_keys() WHERE retired_at IS NULL");
    parse_verifier(&text).expect("a key")
}

#[test]
fn sealing_numbers_every_line_once_and_signs() {
    let world = World::new();
    assert_eq!(size(&world), 0);
    write(&world, 5);
    let lines = world
        .session("acme.admin")
        .count("SELECT count(*) FROM tenancy.audit_log");
    let mut auditor = world.session("acme.owner");
    let sealed = auditor.rows("SELECT lines, size FROM tenancy.seal_audit()");
    assert_eq!(sealed, [[Some(lines.to_string()), Some(lines.to_string())]]);
    // Nothing new: nothing sealed, no new head.
    assert!(
        auditor
            .rows("SELECT * FROM tenancy.seal_audit()")
            .is_empty()
    );
    write(&world, 3);
    let status = auditor
        .json("SELECT * FROM tenancy.audit_seal_status")
        .remove(0);
    assert_eq!(status["sealed_lines"], lines);
    assert_eq!(status["unsealed_lines"], 3);
    assert!(status["oldest_unsealed"].is_string() && status["sealed_at"].is_string());
    assert_eq!(
        auditor.rows("SELECT lines, size FROM tenancy.seal_audit()"),
        [[Some("3".into()), Some((lines + 3).to_string())]]
    );
    let heads = auditor.json("SELECT * FROM tenancy.audit_heads ORDER BY number");
    assert_eq!(heads.len(), 2);
    let note = auditor.text("SELECT tenancy.audit_head()");
    assert_eq!(heads[1]["head"], note);
    let signed = Signed::parse(&note).expect("a note");
    assert!(signed.verify(&key(&world)));
    assert_eq!(signed.head.org, *world.acme.id.as_bytes());
    assert_eq!(signed.head.size, (lines + 3) as u64);
    let first = Signed::parse(heads[0]["head"].as_str().unwrap()).expect("a note");
    assert_eq!(signed.head.previous, Some(first.head.digest()));
    assert_eq!(findings(&world, Some(&note)), Vec::<String>::new());
    assert_eq!(
        findings(&world, Some(&format!("{}\n{note}", first.note()))),
        Vec::<String>::new()
    );
}

#[test]
fn sealing_and_proofs_need_the_right() {
    let world = World::new();
    write(&world, 1);
    seal(&world);
    let acme = world.acme.id;
    let note = head(&world);
    for who in ["acme.owner", "acme.admin", "agency"] {
        let mut session = world.session(who);
        session.run("SELECT * FROM tenancy.seal_audit()");
        assert_eq!(session.text("SELECT tenancy.audit_head()"), note);
        assert!(
            session
                .rows("SELECT * FROM tenancy.verify_audit()")
                .is_empty()
        );
        assert_eq!(session.count("SELECT count(*) FROM tenancy.audit_heads"), 1);
        assert_eq!(
            session.count("SELECT count(*) FROM tenancy.audit_seal_status"),
            1
        );
        session.run(&format!(
            "SELECT tenancy.audit_inclusion_proof('{acme}', 1), tenancy.audit_consistency_proof('{acme}', 1)"
        ));
        refused(
            session.attempt("SELECT tenancy.rotate_audit_key()"),
            "42501",
        );
    }
    for who in ["acme.member", "acme.viewer", "globex.owner", "stranger"] {
        let mut session = world.bound(who);
        if who.starts_with("acme") {
            session.run(&format!("SET app.current_org = '{acme}'"));
        }
        for call in [
            format!("seal_audit('{acme}')"),
            format!("audit_head('{acme}')"),
            format!("verify_audit('{acme}')"),
            format!("list_audit_heads('{acme}')"),
            format!("list_seal_status('{acme}')"),
            format!("audit_inclusion_proof('{acme}', 1)"),
            format!("audit_consistency_proof('{acme}', 1)"),
        ] {
            refused(session.attempt(&format!("SELECT tenancy.{call}")), "42501");
        }
        for path in [
            "SELECT * FROM tenancy.audit_heads",
            "SELECT * FROM tenancy.audit_seal_status",
            "SELECT tenancy.audit_head()",
            "SELECT tenancy.seal_audit()",
        ] {
            refused(session.attempt(path), "42501");
        }
        for table in [
            "tenancy.audit_keys",
            "tenancy_audit.heads",
            "tenancy_audit.sealed",
        ] {
            fails(session.attempt(&format!("SELECT * FROM {table}")), "42501");
        }
    }
    // Whoever may read all data reads neither the key nor the heads.
    let reader = world.db.role("reader");
    world.superuser().run(&format!(
        "CREATE ROLE {reader} LOGIN; GRANT pg_read_all_data TO {reader}"
    ));
    let mut reader = world.db.login(&reader);
    for table in [
        "tenancy.audit_keys",
        "tenancy_audit.heads",
        "tenancy_audit.sealed",
    ] {
        assert_eq!(reader.count(&format!("SELECT count(*) FROM {table}")), 0);
    }
    // Nobody appends by hand, not even a superuser.
    for table in ["tenancy_audit.heads", "tenancy_audit.sealed"] {
        let mut dba = world.superuser();
        refused(
            dba.attempt(&format!("INSERT INTO {table} SELECT * FROM {table}")),
            "42501",
        );
        refused(dba.attempt(&format!("DELETE FROM {table}")), "42501");
        refused(dba.attempt(&format!("TRUNCATE {table}")), "42501");
    }
}

#[test]
fn proofs_convince_who_has_only_the_heads() {
    let world = World::new();
    let mut heads = vec![];
    for n in [1, 6, 2] {
        write(&world, n);
        seal(&world);
        heads.push(Signed::parse(&head(&world)).unwrap().head);
    }
    let mut owner = world.session("acme.owner");
    let acme = world.acme.id;
    let last = heads.last().unwrap().clone();
    for head in &heads {
        for number in 1..=head.size {
            let proof: Value = serde_json::from_str(&owner.text(&format!(
                "SELECT tenancy.audit_inclusion_proof('{acme}', {number}, {})",
                head.size
            )))
            .unwrap();
            assert!(tree::includes(
                &digest(&proof["leaf"]),
                number - 1,
                head.size,
                &digests(&proof["proof"]),
                &head.root
            ));
        }
        let proof: Value = serde_json::from_str(&owner.text(&format!(
            "SELECT tenancy.audit_consistency_proof('{acme}', {})",
            head.size
        )))
        .unwrap();
        assert!(tree::extends(
            head.size,
            &head.root,
            last.size,
            &last.root,
            &digests(&proof["proof"])
        ));
    }
    for call in [
        "audit_inclusion_proof('{}', 0)",
        "audit_inclusion_proof('{}', 1000000)",
        "audit_inclusion_proof('{}', 1, 2)",
        "audit_consistency_proof('{}', 1000000)",
        "audit_consistency_proof('{}', -1)",
    ] {
        let call = call.replace("{}", &acme.to_string());
        refused(owner.attempt(&format!("SELECT tenancy.{call}")), "22023");
    }
}

#[test]
fn f1_an_altered_line_is_named() {
    let world = World::new();
    write(&world, 6);
    seal(&world);
    let note = head(&world);
    let last = number_of_last(&world);
    let mut vandal = vandal(&world);
    // The author of one transaction's lines, then a byte of another's values.
    vandal.run(&format!(
        "UPDATE {0} SET db_role = 'postgres' WHERE ctid = (SELECT ctid FROM {0} ORDER BY xid DESC, n LIMIT 1)",
        store(world.acme)
    ));
    assert_eq!(findings(&world, None), [format!("altered {last}")]);
    vandal.run(&format!(
        "UPDATE {0} SET payload = set_byte(payload, length(payload) - 1, get_byte(payload, length(payload) - 1) # 1)
         WHERE ctid = (SELECT ctid FROM {0} ORDER BY xid DESC, n OFFSET 2 LIMIT 1)",
        store(world.acme)
    ));
    let found = findings(&world, Some(&note));
    assert_eq!(
        found,
        [format!("altered {}", last - 2), format!("altered {last}")]
    );
    let row = world
        .superuser()
        .json(&format!(
            "SELECT * FROM tenancy.verify_audit('{}')",
            world.acme.id
        ))
        .remove(0);
    assert!(row["xid"].is_string() || row["xid"].is_number(), "{row}");
    assert!(row["at"].is_string() && row["n"].is_number() && row["detail"].is_string());
}

/// Also before it was sealed: what is sealed is what the writer hashed, not what stands there when the sealer comes.
#[test]
fn f1_a_line_altered_before_it_is_sealed_is_named() {
    let world = World::new();
    write(&world, 3);
    vandal(&world).run(&format!(
        "UPDATE {0} SET actor_id = NULL WHERE ctid = (SELECT ctid FROM {0} ORDER BY xid DESC, n LIMIT 1)",
        store(world.acme)
    ));
    assert_eq!(findings(&world, None), ["altered"]);
    seal(&world);
    assert_eq!(
        findings(&world, None),
        [format!("altered {}", number_of_last(&world))]
    );
}

#[test]
fn f1_a_missing_an_added_and_a_moved_line_are_named() {
    let world = World::new();
    write(&world, 6);
    seal(&world);
    let (note, last) = (head(&world), size(&world));
    let table = store(world.acme);
    let mut vandal = vandal(&world);
    let nth = |n: i32| {
        format!("ctid = (SELECT ctid FROM {table} ORDER BY xid DESC, n OFFSET {n} LIMIT 1)")
    };
    vandal.run(&format!(
        "BEGIN; CREATE TABLE kept AS SELECT * FROM {table} WHERE {}; DELETE FROM {table} WHERE {}; COMMIT",
        nth(1),
        nth(1)
    ));
    assert_eq!(
        findings(&world, Some(&note)),
        [format!("missing {}", last - 1)]
    );
    // Put back it is whole again.
    vandal.run(&format!("INSERT INTO {table} SELECT * FROM kept"));
    assert_eq!(findings(&world, Some(&note)), Vec::<String>::new());
    // A copy of it is one too many, under its own name or another old one.
    vandal.run(&format!("INSERT INTO {table} SELECT * FROM kept"));
    assert_eq!(findings(&world, Some(&note)), ["added"]);
    vandal.run(&format!("DELETE FROM {table} WHERE {}", nth(1)));
    vandal.run(&format!(
        "CREATE TABLE forged AS SELECT * FROM kept; UPDATE forged SET n = n + 7; INSERT INTO {table} SELECT * FROM forged"
    ));
    assert_eq!(findings(&world, Some(&note)), ["added"]);
    // Sealing goes on and does not take it in.
    write(&world, 1);
    seal(&world);
    assert_eq!(size(&world), last + 1);
    assert_eq!(findings(&world, Some(&note)), ["added"]);
    vandal.run(&format!(
        "DELETE FROM {table} WHERE (xid, n) IN (SELECT xid, n FROM forged)"
    ));
    assert_eq!(findings(&world, Some(&note)), Vec::<String>::new());
    // Moved to another time, or another transaction: the old place is empty, the new one nobody's.
    vandal.run(&format!(
        "UPDATE {table} SET at = at - interval '1 day' WHERE {}",
        nth(2)
    ));
    assert_eq!(
        findings(&world, Some(&note)),
        [format!("reordered {}", last - 1)]
    );
}

/// Lines of one chunk that changed places.
#[test]
fn f1_reordered_lines_are_named() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run("UPDATE sites SET visits = 7");
    seal(&world);
    let last = size(&world);
    let table = store(world.acme);
    // The sealed hashes of the last two change places, as the lines would: it is the same to the eye that compares.
    vandal(&world).run(
        "UPDATE tenancy_audit.sealed s SET leaves =
             overlay(overlay(leaves PLACING substring(leaves FROM length(leaves) - 63 FOR 32) FROM length(leaves) - 31)
                     PLACING substring(leaves FROM length(leaves) - 31) FROM length(leaves) - 63)
         WHERE first = (SELECT max(first) FROM tenancy_audit.sealed WHERE org_id = s.org_id)
           AND lines >= 6",
    );
    let found = findings(&world, None);
    assert_eq!(
        found,
        [
            format!("seal altered {last}"),
            format!("reordered {}", last - 1),
            format!("reordered {last}")
        ],
        "{table}"
    );
}

/// Who has the key and every table can make the database agree with itself, and not with a head that was handed out.
#[test]
fn f1_a_cut_tail_and_a_history_signed_anew_are_found_by_a_head_handed_out() {
    let world = World::new();
    write(&world, 3);
    seal(&world);
    let early = head(&world);
    write(&world, 4);
    seal(&world);
    let note = head(&world);
    let last = size(&world);
    let org = world.acme.id;
    let mut vandal = vandal(&world);
    let cut = |vandal: &mut Session, lines: i64| {
        let keep = last - lines;
        vandal.run(&format!(
            "DELETE FROM {} WHERE (xid, n) IN (SELECT xid, n FROM tenancy_audit.sealed WHERE org_id = '{org}' AND first >= {keep});
             DELETE FROM tenancy_audit.sealed WHERE org_id = '{org}' AND first >= {keep};
             DELETE FROM tenancy_audit.heads WHERE org_id = '{org}' AND size > {keep}",
            store(world.acme)
        ));
    };
    cut(&mut vandal, 4);
    assert_eq!(findings(&world, None), Vec::<String>::new());
    assert_eq!(findings(&world, Some(&early)), Vec::<String>::new());
    assert_eq!(findings(&world, Some(&note)), [format!("cut {}", last - 3)]);
    // Grown again, and signed with the very key.
    write(&world, 5);
    seal(&world);
    assert_eq!(findings(&world, None), Vec::<String>::new());
    assert_eq!(
        findings(&world, Some(&format!("{note}\n{early}"))),
        [format!("rewritten {}", last - 3)]
    );
    let rows = world.superuser().column(&format!(
        "SELECT detail FROM tenancy.verify_audit('{org}', {})",
        quote(&format!("{early}\n{note}"))
    ));
    assert!(
        rows[0].contains(&format!("Lines {} to {last}", last - 3)),
        "{rows:?}"
    );
    // The key exchanged for one of the vandal's own.
    vandal.run("DELETE FROM tenancy.audit_keys");
    assert!(
        findings(&world, Some(&early)).contains(&"head forged 1".to_string()) || {
            let found = findings(&world, Some(&early));
            found.iter().any(|f| f.starts_with("head forged"))
        }
    );
}

#[test]
fn f1_forged_heads_and_seals_are_named() {
    let world = World::new();
    write(&world, 2);
    seal(&world);
    write(&world, 2);
    seal(&world);
    let note = head(&world);
    let last = size(&world);
    let mut vandal = vandal(&world);
    let mut tried = |change: &str, undo: &str, expected: &[String]| {
        vandal.run(change);
        assert_eq!(findings(&world, None), expected, "{change}");
        vandal.run(undo);
        assert_eq!(
            findings(&world, Some(&note)),
            Vec::<String>::new(),
            "{undo}"
        );
    };
    vandal_backup(&world);
    let restore = "DELETE FROM tenancy_audit.heads; INSERT INTO tenancy_audit.heads SELECT * FROM old_heads;
                   DELETE FROM tenancy_audit.sealed; INSERT INTO tenancy_audit.sealed SELECT * FROM old_sealed";
    tried(
        "UPDATE tenancy_audit.heads SET root = sha256('x') WHERE number = 2",
        restore,
        &[
            format!("head forged {last}"),
            format!("seal altered {last}"),
        ],
    );
    tried(
        "UPDATE tenancy_audit.heads SET purged = 1 WHERE number = 2",
        restore,
        &[format!("head forged {last}")],
    );
    tried(
        "DELETE FROM tenancy_audit.heads WHERE number = 1",
        restore,
        &[format!("head missing {last}")],
    );
    tried(
        "DELETE FROM tenancy_audit.heads WHERE number = 2",
        restore,
        &[format!("head missing {}", last - 1)],
    );
    tried(
        "UPDATE tenancy_audit.heads SET signature = '' WHERE number = 2",
        restore,
        &[format!("head missing {}", last - 1), "head forged".into()],
    );
    // What the sealer goes on from does not lead it astray.
    vandal.run("UPDATE tenancy_audit.heads SET peaks = overlay(peaks PLACING '\\x00' FROM 1) WHERE number = 2");
    write(&world, 1);
    fails(
        world
            .superuser()
            .attempt(&format!("SELECT tenancy.seal_audit('{}')", world.acme.id)),
        "XX001",
    );
}

fn vandal_backup(world: &World) {
    world.break_glass().run(
        "CREATE TABLE old_heads AS TABLE tenancy_audit.heads; CREATE TABLE old_sealed AS TABLE tenancy_audit.sealed",
    );
}

#[test]
fn what_one_verifies_against_must_be_a_head_of_the_log() {
    let world = World::new();
    write(&world, 1);
    seal(&world);
    let note = head(&world);
    let mut dba = world.superuser();
    for bad in ["", "head", &note[..40], &note.replace('\n', " ")] {
        refused(
            dba.attempt(&format!(
                "SELECT * FROM tenancy.verify_audit('{}', {})",
                world.acme.id,
                quote(bad)
            )),
            "22023",
        );
    }
    refused(
        dba.attempt(&format!(
            "SELECT * FROM tenancy.verify_audit('{}', {})",
            world.globex.id,
            quote(&note)
        )),
        "22023",
    );
    // One whose size somebody changed.
    let size = size(&world);
    let forged = note.replacen(&format!("\n{size}\n"), &format!("\n{}\n", size - 1), 1);
    assert_eq!(
        findings(&world, Some(&forged)),
        [
            format!("head forged {}", size - 1),
            "rewritten 1".to_string()
        ]
    );
}

#[test]
fn an_unfinished_transaction_is_waited_for_by_the_sealer_alone() {
    let world = World::new();
    write(&world, 1);
    seal(&world);
    let before = size(&world);
    let mut slow = world.session("acme.admin");
    slow.run("BEGIN; UPDATE sites SET visits = 100 WHERE id = 2");
    write(&world, 2);
    seal(&world);
    // The later ones could be numbered before the slow one, so they wait with it.
    assert_eq!(size(&world), before);
    let status = world
        .superuser()
        .json(&format!(
            "SELECT * FROM tenancy.audit_seal_status WHERE org_id = '{}'",
            world.acme.id
        ))
        .remove(0);
    assert_eq!(status["unsealed_lines"], 2);
    assert!(
        status["waiting_for"].as_str().unwrap().contains("process"),
        "{status}"
    );
    slow.run("PREPARE TRANSACTION 'slow'");
    seal(&world);
    assert_eq!(size(&world), before);
    let waiting = world.superuser().text(&format!(
        "SELECT waiting_for FROM tenancy.audit_seal_status WHERE org_id = '{}'",
        world.acme.id
    ));
    assert!(waiting.contains("'slow'"), "{waiting}");
    world.superuser().run("COMMIT PREPARED 'slow'");
    seal(&world);
    assert_eq!(size(&world), before + 3);
    assert_eq!(findings(&world, Some(&head(&world))), Vec::<String>::new());
}

#[test]
fn sealing_within_a_transaction_is_rolled_back_with_it() {
    let world = World::new();
    write(&world, 2);
    let mut owner = world.session("acme.owner");
    owner.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM sites");
    // Sealed meanwhile by another session: this one's old snapshot does not make it seal again.
    seal(&world);
    let before = size(&world);
    owner.run("SELECT * FROM tenancy.seal_audit()");
    write(&world, 1);
    owner.run("SELECT * FROM tenancy.seal_audit()");
    let note = owner.text("SELECT tenancy.audit_head()");
    owner.run("ROLLBACK");
    assert_eq!(size(&world), before);
    write(&world, 2);
    seal(&world);
    assert_eq!(size(&world), before + 3);
    // What was handed out of it holds all the same: the order of lines is nobody's choice.
    assert_eq!(findings(&world, Some(&note)), Vec::<String>::new());
}

#[test]
fn writers_and_sealers_at_once_leave_no_hole_and_no_double() {
    let world = Arc::new(World::new());
    let done = Arc::new(AtomicBool::new(false));
    let sealers: Vec<_> = (0..3)
        .map(|_| {
            let (world, done) = (world.clone(), done.clone());
            std::thread::spawn(move || {
                let mut heads = vec![];
                while !done.load(Ordering::Relaxed) {
                    seal(&world);
                    heads.push(head(&world));
                    world.superuser().rows("SELECT * FROM tenancy.seal_audit()");
                }
                heads
            })
        })
        .collect();
    let writers: Vec<_> = (0..6)
        .map(|w| {
            let world = world.clone();
            std::thread::spawn(move || {
                let mut admin = world.session(if w % 2 == 0 { "acme.admin" } else { "agency" });
                for i in 0..60 {
                    let id = 1000 + w * 100 + i;
                    admin.run("BEGIN");
                    admin.run(&format!(
                        "INSERT INTO sites (id, name) VALUES ({id}, 'acme-{id}')"
                    ));
                    admin.run(&format!(
                        "SAVEPOINT s; UPDATE sites SET visits = 1 WHERE id = {id}"
                    ));
                    admin.run(match i % 3 {
                        0 => "ROLLBACK TO s; COMMIT",
                        1 => "COMMIT",
                        _ => "ROLLBACK",
                    });
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let heads: Vec<String> = sealers
        .into_iter()
        .flat_map(|s| s.join().unwrap())
        .collect();
    seal(&world);
    let mut dba = world.session("acme.owner");
    let lines = dba.count("SELECT count(*) FROM tenancy.audit_log");
    assert_eq!(size(&world), lines);
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.audit_log WHERE object LIKE '%sites'"),
        6 * (40 + 20)
    );
    // Every head that was ever handed out is one of the log.
    assert_eq!(
        findings(&world, Some(&heads.join("\n"))),
        Vec::<String>::new()
    );
}

#[test]
fn organizations_that_share_tables_are_sealed_apart() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "SET tenancy.dedicated_audit_limit = 0;
         CREATE TABLE notes (id int PRIMARY KEY, org_id uuid); SELECT tenancy.protect('notes'); GRANT ALL ON notes TO PUBLIC",
    );
    let orgs: Vec<String> = (0..3)
        .map(|i| {
            dba.text(&format!(
                "SELECT tenancy.create_org('Shared {i}', 'shared-{i}', owner => '{}')",
                world.user("stranger")
            ))
        })
        .collect();
    let mut session = world.bound("stranger");
    for round in 0..3 {
        for (i, org) in orgs.iter().enumerate() {
            session.run(&format!("SET app.current_org = '{org}'"));
            session.run(&format!(
                "INSERT INTO notes VALUES ({}, '{org}')",
                round * 10 + i
            ));
        }
        dba.run("SELECT * FROM tenancy.seal_audit()");
    }
    for org in &orgs {
        assert_eq!(
            dba.column(&format!(
                "SELECT sealed_lines - unsealed_lines FROM tenancy.list_seal_status('{org}')"
            )),
            [dba.text(&format!(
                "SELECT sum(lines) FROM tenancy_audit.sealed WHERE org_id = '{org}'"
            ))]
        );
        assert!(
            dba.count(&format!(
                "SELECT sealed_lines FROM tenancy.list_seal_status('{org}')"
            )) >= 4
        );
        assert!(
            dba.rows(&format!("SELECT * FROM tenancy.verify_audit('{org}')"))
                .is_empty()
        );
    }
    // A line that changed hands is missing in one log and one too many in the other.
    dba.run(&format!(
        "SET row_security = off; DO $$ DECLARE t text; BEGIN
             SELECT c.oid::regclass::text INTO t FROM pg_class c WHERE relname LIKE 'shared\\_%' AND relkind = 'r'
                 AND pg_relation_size(c.oid) > 0;
             EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', t);
             EXECUTE format('UPDATE %s SET org_id = ''{}'' WHERE ctid = (SELECT max(ctid) FROM %s WHERE org_id = ''{}'')', t, t);
         END $$",
        orgs[0], orgs[1]
    ));
    let found = |dba: &mut Session, org: &str| {
        dba.column(&format!(
            "SELECT finding FROM tenancy.verify_audit('{org}')"
        ))
    };
    assert_eq!(found(&mut dba, &orgs[0]), ["added"]);
    assert_eq!(found(&mut dba, &orgs[1]), ["missing"]);
    assert_eq!(found(&mut dba, &orgs[2]), Vec::<String>::new());
}

#[test]
fn a_new_key_signs_and_the_old_one_still_verifies() {
    let world = World::new();
    write(&world, 1);
    seal(&world);
    let old = head(&world);
    world.superuser().run("SELECT tenancy.rotate_audit_key()");
    write(&world, 1);
    seal(&world);
    let note = head(&world);
    assert_ne!(
        Signed::parse(&old).unwrap().key,
        Signed::parse(&note).unwrap().key
    );
    assert_eq!(
        findings(&world, Some(&format!("{old}{note}"))),
        Vec::<String>::new()
    );
    assert_eq!(
        world
            .superuser()
            .count("SELECT count(*) FROM tenancy.audit_keys WHERE secret IS NOT NULL"),
        1
    );
}

/// A line whose values somebody took away leaves its hash as it was: only the act tells an erasure from a theft.
#[test]
fn f1_values_taken_away_without_a_record_are_named() {
    let world = World::new();
    write(&world, 3);
    seal(&world);
    let (note, last) = (head(&world), size(&world));
    let table = store(world.acme);
    let mut vandal = vandal(&world);
    let layouts: Vec<Layout> = vandal
        .json("SELECT object, columns, encodings, org_column, key FROM tenancy_audit.layouts")
        .iter()
        .map(|l| {
            let texts = |name: &str| -> Vec<String> {
                serde_json::from_value(l[name].clone()).expect("texts")
            };
            let columns = texts("columns").into_iter().zip(texts("encodings"));
            let columns = columns.map(|(name, encoding)| Column {
                shape: shape(&encoding).expect("known"),
                encoding,
                is_org: l["org_column"] == name.as_str(),
                is_key: texts("key").contains(&name),
                name,
            });
            Layout::new(l["object"].as_str().unwrap(), columns.collect())
        })
        .collect();
    let chunk = format!("(SELECT ctid FROM {table} ORDER BY xid DESC, n LIMIT 1)");
    let row = vandal
        .query_one(
            &format!(
                "SELECT payload, (extract(epoch FROM at) * 1000000)::bigint - 946684800000000, xid::text, n, lines, actor_id,
                     actor_type, db_role, result, request_id
                 FROM {table} WHERE ctid = {chunk}"
            ),
            &[],
        )
        .unwrap();
    let payload: Vec<u8> = row.get(0);
    let first = Moment {
        at: row.get(1),
        xid: row.get::<_, String>(2).parse().unwrap(),
        n: row.get(3),
    };
    let author = Author {
        actor: row.get::<_, Option<Uuid>>(5).map(|u| *u.as_bytes()),
        actor_type: row.get(6),
        db_role: row.get(7),
        result: row.get(8),
        request_id: row.get(9),
        ..Author::default()
    };
    let reader = Reader::new(&payload, first, row.get(4)).unwrap();
    let contexts: Vec<Digest> = reader
        .layouts
        .iter()
        .map(|id| layouts.iter().find(|l| l.id() == *id).expect("recorded"))
        .map(|layout| author.context(&layout.digest, world.acme.id.as_bytes()))
        .collect();
    let erased = erase(&payload, first, row.get(4), &contexts, |_| true)
        .unwrap()
        .expect("something to erase");
    vandal
        .execute(
            &format!("UPDATE {table} SET payload = $1 WHERE ctid = {chunk}"),
            &[&erased],
        )
        .unwrap();
    assert_eq!(findings(&world, Some(&note)), [format!("erased {last}")]);
}

/// In another cluster transactions are numbered anew, from far below or above: what was sealed stays sealed, what was not is
/// sealed once, and heads handed out before still hold.
#[test]
fn a_log_restored_in_another_cluster_goes_on() {
    let world = World::new();
    // Numbers of transactions that the other cluster meets again soon.
    write(&world, 5);
    seal(&world);
    let note = head(&world);
    write(&world, 4);
    let unsealed = size(&world) + 4;
    let dump = world.db.cluster.file("world.dump");
    world.db.cluster.client_program(
        "pg_dump",
        &world.db.name,
        &["--format", "custom", "--file", dump.to_str().unwrap()],
    );
    let other = Arc::new(Cluster::start());
    let roles = world.superuser().column(&format!(
        "SELECT format('CREATE ROLE %I LOGIN', rolname) FROM pg_roles WHERE rolname LIKE '{}\\_%'",
        world.db.prefix
    ));
    let mut admin = Session::new(other.superuser("postgres"));
    for role in roles {
        admin.run(&role);
    }
    let restored = Db::empty(other.clone());
    // The dump lies where the first cluster's user can read it.
    let mut from = std::fs::File::open(&dump).expect("the dump");
    let copy = other.file("world.dump");
    std::io::copy(
        &mut from,
        &mut std::fs::File::create(&copy).expect("a file"),
    )
    .expect("a copy");
    other.client_program("pg_restore", &restored.name, &[copy.to_str().unwrap()]);
    let there = world.moved_to(restored);
    assert_eq!(findings(&there, Some(&note)), Vec::<String>::new());
    seal(&there);
    assert_eq!(size(&there), unsealed);
    for i in 0..3 {
        write(&there, 2);
        seal(&there);
        assert_eq!(size(&there), unsealed + 2 * (i + 1));
        assert_eq!(
            findings(&there, Some(&format!("{note}{}", head(&there)))),
            Vec::<String>::new()
        );
    }
    // A line that is taken away there is named as ever.
    let mut thief = vandal(&there);
    thief.run(&format!(
        "DELETE FROM {} WHERE (xid, n) = (SELECT xid, n FROM tenancy_audit.sealed WHERE org_id = '{}' AND first = 3)",
        store(there.acme),
        there.acme.id
    ));
    assert_eq!(findings(&there, Some(&note)), ["missing 4"]);
}
