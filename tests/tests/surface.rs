//! What a newcomer finds with `\df tenancy.*` and `\dt tenancy.*`: every function that is his to call is explained where it
//! is written and in the README, arguments are named alike everywhere, and every table either rings the bell or need not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pg_tenancy_tests::{Db, Session};

/// The functions that PUBLIC may call, triggers left out: name, symbol in the library, volatility.
fn public_functions(dba: &mut Session) -> Vec<[String; 3]> {
    let rows = dba.rows(
        "SELECT DISTINCT p.proname, p.prosrc, p.provolatile FROM pg_proc p,
             aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
         WHERE p.pronamespace = 'tenancy'::regnamespace AND a.grantee = 0
           AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)",
    );
    assert!(rows.len() > 150, "{}", rows.len());
    rows.into_iter()
        .map(|row| {
            let texts: Vec<String> = row.into_iter().map(|text| text.expect("a text")).collect();
            texts.try_into().expect("three columns")
        })
        .collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a folder above")
        .to_path_buf()
}

fn sources(folder: &Path, all: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(fs::read_to_string(&path).expect("a source file"));
        }
    }
}

/// The doc comment in a paragraph of the sources for which `is_it` says so.
fn doc(files: &[String], is_it: impl Fn(&[&str]) -> bool) -> Option<String> {
    files.iter().find_map(|text| {
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        let found = lines
            .split(|line| line.is_empty())
            .find(|part| is_it(part))?;
        let said: Vec<&str> = found
            .iter()
            .filter_map(|line| line.strip_prefix("///"))
            .collect();
        (!said.is_empty()).then(|| said.join(" "))
    })
}

#[test]
fn every_function_is_explained_where_it_is_written() {
    let mut files = vec![];
    sources(&repository().join("src"), &mut files);
    let mut wrong = vec![];
    for [name, symbol, volatility] in public_functions(&mut Db::fresh().superuser()) {
        let rust = symbol.trim_end_matches("_wrapper");
        let found = doc(&files, |part| {
            let declared = part.iter().any(|line| {
                let line = line.strip_prefix("pub ").unwrap_or(line);
                line.strip_prefix("fn ")
                    .and_then(|rest| rest.strip_prefix(rust))
                    .is_some_and(|rest| rest.starts_with(['(', '<']))
            });
            declared && part.iter().any(|line| line.starts_with("#[pg_extern"))
        });
        // Those on the C ABI say what they are called in SQL.
        let called = format!("/// `tenancy.{name}(");
        let found = found.or_else(|| {
            doc(&files, |part| {
                part.iter().any(|line| line.starts_with(&called))
            })
        });
        let Some(said) = found else {
            wrong.push(format!("{name}: no doc comment"));
            continue;
        };
        if !said.contains("(spec ") {
            wrong.push(format!("{name}: no section of the specification: {said}"));
        }
        // What changes something can fail.
        if volatility == "v" && !said.contains("rrors") {
            wrong.push(format!("{name}: does not say its errors: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_readme_names_every_function() {
    let readme = fs::read_to_string(repository().join("README.md")).expect("README.md");
    let missing: BTreeSet<String> = public_functions(&mut Db::fresh().superuser())
        .into_iter()
        .map(|[name, ..]| name)
        .filter(|name| {
            !readme.contains(&format!("{name}(")) && !readme.contains(&format!("`{name}`"))
        })
        .collect();
    assert_eq!(missing, BTreeSet::new());
}

/// One thing has one name.
#[test]
fn arguments_are_named_and_named_alike() {
    let mut dba = Db::fresh().superuser();
    let arguments = "SELECT p.oid::regprocedure AS f, coalesce(p.proargnames[a.n], '') AS name, a.type::regtype AS type
         FROM pg_proc p, unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (type, n)
         WHERE p.pronamespace = 'tenancy'::regnamespace AND a.type <> 'internal'::regtype";
    assert_eq!(
        dba.column(&format!(
            "SELECT f || ': ' || name || ' ' || type FROM ({arguments}) a WHERE
                 name = ''
                 OR (type = 'regclass'::regtype) AND name <> 'table_name'
                 OR (type = 'uuid'::regtype) AND name NOT IN
                     ('org', 'user_id', 'owner', 'new_owner', 'created_by', 'actor', 'project', 'cluster', 'account',
                      'service_account', 'invitation', 'key', 'id')
                 OR (type = 'timestamptz'::regtype) AND name NOT IN
                     ('at', 'since', 'until', 'expires_at', 'membership_expires_at')
                 OR name IN ('schema', 'table', 'relation', 'org_id', 'user', 'expires', 'project_id',
                             'cluster_id', 'env', 'batch', 'max', 'row_limit')
             ORDER BY 1"
        )),
        Vec::<String>::new()
    );
}

/// A change of these is heard by every session: authority rests on them, or guards know them by heart.
const RING: [&str; 22] = [
    "actions",
    "administrators",
    "api_keys",
    "clusters",
    "custom_role_permissions",
    "custom_roles",
    "leakproof_vouched",
    "login_bindings",
    "membership_scopes",
    "memberships",
    "org_environments",
    "orgs",
    "project_members",
    "project_role_permissions",
    "project_settings",
    "projects",
    "quota_limits",
    "role_permissions",
    "roles",
    "service_accounts",
    "signing_keys",
    "users",
];

/// These are looked up where they are needed, so nobody remembers what stood there.
const SILENT: [(&str, &str); 13] = [
    ("audit_keys", "looked up by who seals"),
    ("audit_retention", "looked up by who purges"),
    ("authority", "the bell itself"),
    ("billed_orgs", "looked up by the functions about bills"),
    ("billing_accounts", "the same"),
    ("bypass_ledger", "a record"),
    ("exemptions", "looked up by protect_schema()"),
    ("invitations", "looked up by who accepts one"),
    ("proposal_records", "looked up by who decides or executes"),
    ("quota_counters", "read under lock"),
    ("tombstones", "looked up by who deletes"),
    ("usage_records", "a record"),
    ("watched_schemas", "looked up by DDL"),
];

#[test]
fn every_table_rings_the_bell_or_says_why_it_need_not() {
    let mut dba = Db::fresh().superuser();
    // ALWAYS: a replica's session hears it as well.
    let ringing = dba.column(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'tenancy'::regnamespace AND c.relkind IN ('r', 'p')
           AND (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgenabled = 'A'
                  AND t.tgfoid = 'tenancy.authority_changed'::regproc
                  AND t.tgname IN ('authority_changed', 'authority_truncated')) = 2
         ORDER BY 1",
    );
    assert_eq!(ringing, RING);
    let silent = dba.column(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'tenancy'::regnamespace AND c.relkind IN ('r', 'p')
           AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname LIKE 'authority%')
         ORDER BY 1",
    );
    assert_eq!(silent, SILENT.map(|(table, _)| table));
}
