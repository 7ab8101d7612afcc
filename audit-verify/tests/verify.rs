//! audit-verify as it is run: a whole export passes, and each way to change one is found.

// Runs of lines are lists of ranges, often of one.
#![allow(clippy::single_range_in_vec_init)]

mod made_up;

use made_up::{Log, hex, verifier};
use pg_tenancy_audit_format::tree;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of this test's, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "audit-verify-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_string_lossy().into()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_audit-verify"))
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn says(arguments: &[&str], code: i32, word: &str) {
    let out = run(arguments);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!(out.status.code(), Some(code), "{said}");
    assert!(said.contains(word), "{word:?} in: {said}");
}

fn whole(log: &Log) -> String {
    log.export().join("\n") + "\n"
}

#[test]
fn a_whole_export_passes() {
    let (log, folder) = (Log::new(200), Folder::new());
    let export = folder.file("export", &whole(&log));
    let heads = folder.file(
        "heads",
        &format!("{}{}", log.head(60).note(), log.head(200).note()),
    );
    let key = verifier();
    says(&[&export], 0, "no head was given");
    says(&[&export, "--head", &heads], 0, "no key was given");
    says(&[&export, "--head", &heads, "--strict"], 1, "NOT whole");
    says(
        &[&export, "--head", &heads, "--key", &key, "--strict"],
        0,
        "goes on from the kept head of 60 lines",
    );
}

#[test]
fn every_change_of_a_line_is_found() {
    let (log, folder) = (Log::new(20), Folder::new());
    let heads = folder.file("heads", &log.head(20).note());
    // Line 5 (an INSERT), 3 (an UPDATE) and 4 (an act), each with what is put in the place of what.
    let text = whole(&log);
    let line = |i: usize| log.lines[i - 1].clone();
    for (i, from, to) in [
        (5, "\"operation\":\"INSERT\"", "\"operation\":\"DELETE\""),
        (5, "public.servers", "public.sites"),
        (5, "server \\\"4\\\"", "server \\\"5\\\""),
        (5, "\"cpus\": 4", "\"cpus\": 5"),
        (5, "\"price\": 2.50", "\"price\": 2.51"),
        (5, "[\"a\",\"web\"]", "[\"a\",\"wed\"]"),
        (5, "[\"a\",\"web\"]", "[\"a\"]"),
        (5, "\"live\": true", "\"live\": false"),
        (5, "\"load\": 1", "\"load\": 1.5"),
        (5, "\"n\": 4", "\"n\": 5"),
        (5, "\"ok\": true", "\"ok\": null"),
        (5, ", \"load\": 1", ""),
        (5, "\"load\": 1", "\"load\": 1, \"more\": 1"),
        (5, "00:00:04.000000", "00:00:05.000000"),
        (5, "\"old\":null", "\"old\":{}"),
        (5, "\"actor_id\":\"04", "\"actor_id\":\"05"),
        (5, "\"client_addr\":\"10.0.0.1\"", "\"client_addr\":null"),
        (5, "\"request_id\":\"req-0\"", "\"request_id\":\"req-1\""),
        (5, "\"db_role\":\"app\"", "\"db_role\":\"postgres\""),
        (5, "\"break_glass\":false", "\"break_glass\":true"),
        (5, "\"result\":\"completed\"", "\"result\":\"failed\""),
        (5, "\"xid\":\"700\"", "\"xid\":\"701\""),
        (5, "\"n\":4", "\"n\":5"),
        (5, "\"number\":5", "\"number\":6"),
        (5, "\"number\":5", "\"number\":null"),
        (
            5,
            "\"at\":\"2025-05-08T06:13:20.004",
            "\"at\":\"2025-05-08T06:13:20.005",
        ),
        (5, "0404\",\"body\"", "0405\",\"body\""),
        (5, "\"number\":5", "\"number\":5,\"number\":5"),
        (3, "\"cpus\": null", "\"cpus\": 1"),
        (3, "\"cpus\": 2", "\"cpus\": 3"),
        (3, "\"id\": 2", "\"id\": 3"),
        (4, "\"operation\":\"invite\"", "\"operation\":\"remove\""),
        (4, "\"role\": \"admin\"", "\"role\": \"owner\""),
        (4, "tenancy.memberships", "tenancy.orgs"),
    ] {
        let before = line(i);
        let after = before.replacen(from, to, 1);
        assert_ne!(before, after, "{from} in {before}");
        let export = folder.file("export", &text.replace(&before, &after));
        says(&[&export, "--head", &heads], 1, "FOUND");
    }
}

#[test]
fn lines_that_are_gone_added_or_moved_are_found() {
    let (log, folder) = (Log::new(20), Folder::new());
    let heads = folder.file("heads", &log.head(20).note());
    let lines = log.export();
    let mut without = lines.clone();
    without.remove(9);
    let mut doubled = lines.clone();
    doubled.insert(9, lines[9].clone());
    let mut swapped = lines.clone();
    // Numbers exchanged, lines as they were.
    swapped[5] = lines[5].replace("\"number\":4", "\"number\":9");
    swapped[10] = lines[10].replace("\"number\":9", "\"number\":4");
    for changed in [without, doubled, swapped] {
        let export = folder.file("export", &changed.join("\n"));
        says(&[&export, "--head", &heads], 1, "FOUND");
    }
    // Their order in the file is nobody's promise.
    let mut reversed = lines.clone();
    reversed[2..22].reverse();
    let export = folder.file("export", &reversed.join("\n"));
    says(&[&export, "--head", &heads], 0, "whole");
    // Cut: the head is gone with the end.
    let export = folder.file("export", &lines[..15].join("\n"));
    says(&[&export, "--head", &heads], 1, "ends without a head");
}

/// A history made anew, signed with the very key: only what was kept elsewhere tells.
#[test]
fn a_history_signed_anew_is_found_by_a_kept_head() {
    let (log, folder) = (Log::new(50), Folder::new());
    let kept = folder.file("kept", &log.head(30).note());
    let mut forged = Log::new(50);
    forged.lines.remove(10);
    forged.leaves.remove(10);
    for (i, line) in forged.lines.iter_mut().enumerate() {
        *line = line.replace(
            &format!("\"number\":{}", i + 2),
            &format!("\"number\":{}", i + 1),
        );
    }
    let export = folder.file("export", &whole(&forged));
    let key = verifier();
    says(&[&export, "--key", &key], 0, "no head was given");
    says(
        &[&export, "--key", &key, "--head", &kept],
        1,
        "lines 1 to 30 are not those of the kept head",
    );
    // Cut shorter than what was kept.
    let export = folder.file("export", &whole(&Log::new(20)));
    says(
        &[&export, "--key", &key, "--head", &kept],
        1,
        "the end of the log was cut off",
    );
    // Another's key, another's head.
    let other = pg_tenancy_audit_format::head::verifier(
        &pg_tenancy_audit_format::head::SigningKey::from_bytes(&[8; 32]).verifying_key(),
    );
    let export = folder.file("export", &whole(&log));
    says(
        &[&export, "--key", &other, "--head", &kept],
        1,
        "no good signature",
    );
}

#[test]
fn a_part_of_the_log_is_proved_with_the_hashes_of_the_rest() {
    let (log, folder) = (Log::new(100), Folder::new());
    let part = |held: &[std::ops::Range<u64>]| {
        let mut export = log.layouts();
        for range in held {
            export.extend(
                log.lines[range.start as usize..range.end as usize]
                    .iter()
                    .cloned(),
            );
        }
        export.push(log.trailer(held));
        export.join("\n")
    };
    let last = folder.file("last", &log.head(100).note());
    let early = folder.file("early", &log.head(37).note());
    for held in [&[40..60][..], &[0..1, 50..52, 99..100], &[]] {
        let export = folder.file("export", &part(held));
        says(
            &[&export, "--head", &last],
            0,
            "has the root of the kept head",
        );
        says(
            &[&export, "--head", &early, "--strict"],
            1,
            "needs --consistency",
        );
    }
    let proof = log.hashes(&tree::consistency(37, 100).unwrap());
    let json = |proof: &[String]| {
        format!("{{\"old_size\": 37, \"new_size\": 100, \"proof\": {proof:?}, \"head\": \"\"}}")
    };
    let export = folder.file("export", &part(&[40..60]));
    let good = folder.file("good", &json(&proof));
    says(
        &[&export, "--head", &early, "--consistency", &good],
        0,
        "goes on from the kept head of 37",
    );
    let mut wrong = proof.clone();
    wrong[0] = hex(&[1; 32]);
    let bad = folder.file("bad", &json(&wrong));
    says(
        &[&export, "--head", &early, "--consistency", &bad],
        1,
        "does not go on from",
    );
    let text = part(&[40..60]).replace("\"cpus\": 45", "\"cpus\": 46");
    let export = folder.file("export", &text);
    says(&[&export, "--head", &last], 1, "FOUND");
}

#[test]
fn what_cannot_be_checked_is_said_so() {
    let (log, folder) = (Log::new(3), Folder::new());
    let text = whole(&log);
    says(&["/nowhere/at/all"], 2, "/nowhere/at/all");
    says(&[], 2, "Usage");
    let export = folder.file("export", &text);
    says(&[&export, "--key", "nonsense"], 2, "this is no key");
    let head = folder.file("head", "nonsense");
    says(&[&export, "--head", &head], 2, "no head");
    for (content, why) in [
        ("", "empty"),
        ("hello\n", "no JSON"),
        ("{\"at\": \"2026\"}\n", "evidence => true"),
    ] {
        let export = folder.file("export", content);
        says(&[&export], 2, why);
    }
    // A layout that says other than its id.
    let export = folder.file("export", &text.replacen("\"cpus\"", "\"gpus\"", 1));
    says(&[&export], 2, "not what its id says");
    let out = run(&["--help"]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("Exit codes"));
}
