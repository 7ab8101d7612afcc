//! What the README shows runs as shown; every public object is described; what is open to everybody is on a list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pg_tenancy_tests::{Cluster, Db, Session, World};

/// One ```sql block: who runs it, where it begins, its lines.
struct Block<'a> {
    login: Option<&'a str>,
    line: usize,
    body: Vec<&'a str>,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut fence: Option<(String, Option<Block>)> = None;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        match &mut fence {
            None => {
                let ticks = trimmed.len() - trimmed.trim_start_matches('`').len();
                if ticks >= 3 {
                    let mut words = trimmed[ticks..].split_whitespace();
                    let block = (words.next() == Some("sql")).then(|| Block {
                        login: words.find_map(|word| word.strip_prefix("as=")),
                        line: number + 1,
                        body: Vec::new(),
                    });
                    fence = Some(("`".repeat(ticks), block));
                }
            }
            Some((ticks, block)) => {
                if trimmed.trim_end() == ticks {
                    blocks.extend(block.take());
                    fence = None;
                } else if let Some(block) = block {
                    block.body.push(line);
                }
            }
        }
    }
    blocks
}

#[derive(Default)]
struct Step {
    line: usize,
    sql: String,
    error: Option<String>,
    rows: Option<Vec<String>>,
}

fn steps(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut open = false;
    for (offset, line) in block.body.iter().enumerate() {
        let trimmed = line.trim();
        if open {
            let step = steps.last_mut().expect("a statement that is open");
            step.sql += "\n";
            step.sql += line;
            open = !trimmed.ends_with(';');
        } else if let Some(comment) = trimmed.strip_prefix("--") {
            let Some(step) = steps.last_mut() else {
                continue;
            };
            let comment = comment.trim();
            if let Some(code) = comment.strip_prefix("ERROR:") {
                step.error = code.split_whitespace().next().map(String::from);
            } else if let Some(row) = comment.strip_prefix("=>") {
                let rows = step.rows.get_or_insert_with(Vec::new);
                if row.trim() != "(no rows)" {
                    rows.push(row.trim().to_string());
                }
            }
        } else if !trimmed.is_empty() {
            steps.push(Step {
                line: block.line + 1 + offset,
                sql: line.to_string(),
                ..Step::default()
            });
            open = !trimmed.ends_with(';');
        }
    }
    assert!(
        !open,
        "README.md, block at line {}: a statement without an end",
        block.line
    );
    steps
}

fn run(session: &mut Session, step: &Step) -> Result<(), String> {
    let place = format!("README.md line {}:\n{}\n", step.line, step.sql);
    match (session.try_rows(&step.sql), &step.error) {
        (Err(error), Some(code)) => {
            let found = error.as_db_error().map(|e| e.code().code().to_string());
            if found.as_deref() == Some(code) {
                Ok(())
            } else {
                Err(format!("{place}expected SQLSTATE {code}: {error:?}"))
            }
        }
        (Ok(_), Some(code)) => Err(format!("{place}expected SQLSTATE {code}, but it succeeded")),
        (Err(error), None) => Err(format!("{place}{error:?}")),
        (Ok(rows), None) => {
            let found: Vec<String> = rows
                .iter()
                .map(|row| {
                    let values: Vec<&str> =
                        row.iter().map(|v| v.as_deref().unwrap_or("")).collect();
                    values.join(" | ").trim().to_string()
                })
                .collect();
            match &step.rows {
                Some(expected) if *expected != found => {
                    Err(format!("{place}expected {expected:#?}, got {found:#?}"))
                }
                _ => Ok(()),
            }
        }
    }
}

#[test]
fn the_readme_runs_as_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(&path).expect("README.md beside tests/");
    let blocks = blocks(&text);
    assert!(!blocks.is_empty(), "README.md has no sql block");
    let db = Db::empty(Cluster::shared());
    let mut wrong = Vec::new();
    let mut checked = 0;
    for block in &blocks {
        let mut session = db.login(block.login.unwrap_or("postgres"));
        for step in steps(block) {
            checked += 1;
            wrong.extend(run(&mut session, &step).err());
        }
    }
    assert!(checked > 0);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn the_reader_of_the_readme_reads_it_right() {
    let text = "```text\nno\n```\n```sql as=app\n-- a comment\nSELECT 1,\n  2;\n-- => 1 | 2\nSELECT\n3; \n\n-- ERROR: 42501 because\n-- note\nx;\n-- => (no rows)\n```\n```sqlite\nno;\n```\n";
    let blocks = blocks(text);
    assert_eq!(blocks.len(), 1);
    assert_eq!(blocks[0].login, Some("app"));
    let steps = steps(&blocks[0]);
    assert_eq!(steps.len(), 3);
    assert_eq!(steps[0].sql, "SELECT 1,\n  2;");
    assert_eq!(steps[0].line, 6);
    assert_eq!(steps[0].rows.as_deref(), Some(&["1 | 2".to_string()][..]));
    assert_eq!(steps[1].error.as_deref(), Some("42501"));
    assert_eq!(steps[2].rows.as_deref(), Some(&[][..]));
}

#[test]
fn everything_in_the_schema_is_described() {
    let mut dba = Db::fresh().superuser();
    assert_eq!(
        dba.column(
            "SELECT 'function ' || oid::regprocedure FROM pg_proc
             WHERE pronamespace = 'tenancy'::regnamespace AND coalesce(obj_description(oid, 'pg_proc'), '') = ''
             UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class
             WHERE relnamespace = 'tenancy'::regnamespace AND relkind IN ('r', 'v', 'p', 'm', 'f')
               AND coalesce(obj_description(oid, 'pg_class'), '') = ''
             UNION ALL SELECT 'schema ' || nspname FROM pg_namespace
             WHERE nspname = 'tenancy' AND coalesce(obj_description(oid, 'pg_namespace'), '') = ''
             ORDER BY 1"
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        dba.column(
            "SELECT s.name FROM (VALUES ('app.current_org'), ('app.current_user_id'), ('app.current_project'),
                 ('app.current_cluster'), ('app.actor_type'), ('app.request_id'), ('app.client_addr'),
                 ('tenancy.one_org_per_transaction'), ('tenancy.dedicated_audit_limit'), ('tenancy.max_owned_orgs'),
                 ('tenancy.missing_context'), ('tenancy.token_leeway')) s(name)
             WHERE tenancy.current_org() IS NULL
               AND NOT EXISTS (SELECT FROM pg_settings p WHERE p.name = s.name AND p.short_desc <> '')"
        ),
        Vec::<String>::new()
    );
}

/// Issue 4.5: with who may set it.
#[test]
fn every_setting_stands_in_the_readme_with_who_may_set_it() {
    let readme = include_str!("../../README.md");
    let mut dba = Db::fresh().superuser();
    dba.run("SELECT tenancy.current_org()");
    let settings = dba.rows(
        "SELECT name, context FROM pg_settings WHERE name LIKE 'app.%' OR name LIKE 'tenancy.%'",
    );
    assert!(settings.len() > 12, "{settings:?}");
    for setting in settings {
        let [Some(name), Some(context)] = &setting[..] else {
            panic!("{setting:?}")
        };
        let row = readme
            .lines()
            .find(|line| {
                line.split('|')
                    .nth(1)
                    .is_some_and(|cell| cell.contains(&format!("`{name}`")))
            })
            .unwrap_or_else(|| panic!("README's settings leave {name} out"));
        let who = row.trim_end_matches([' ', '|']).rsplit('|').next();
        let only_superusers =
            who.is_some_and(|who| who.contains("superuser") && !who.contains("counts"));
        assert_eq!(only_superusers, context == "superuser", "{name}: {who:?}");
    }
}

#[test]
fn c4_definer_functions_are_closed_to_search_path_tricks() {
    let mut dba = Db::fresh().superuser();
    assert_eq!(
        dba.column(
            "SELECT oid::regprocedure FROM pg_proc
             WHERE pronamespace = 'tenancy'::regnamespace AND prosecdef
               AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false) ORDER BY 1"
        ),
        Vec::<String>::new()
    );
    // Views run with their owner's rights: only those that filter for themselves.
    assert_eq!(
        dba.column(
            "SELECT relname FROM pg_class WHERE relnamespace = 'tenancy'::regnamespace AND relkind = 'v'
               AND NOT coalesce(reloptions @> ARRAY['security_barrier=true'], false)
               AND NOT coalesce(reloptions @> ARRAY['security_invoker=true'], false)
               AND pg_get_viewdef(oid) !~ 'tenancy\\.' ORDER BY 1"
        ),
        Vec::<String>::new()
    );
}

/// What everybody may call; each decides for itself what it answers to whom.
const OPEN_TO_EVERYBODY: &[&str] = &[
    // Who am I, where may I go.
    "current_org()",
    "current_org_key()",
    "current_org_key_integer()",
    "current_org_key_bigint()",
    "org_key_if(text)",
    "org_key_integer_if(text)",
    "org_key_bigint_if(text)",
    "current_user_id()",
    "current_role_name()",
    "org_if(text)",
    "whoami()",
    "my_orgs()",
    "enter(uuid,uuid,boolean,uuid,uuid)",
    "seal_context()",
    "leave()",
    // In the policies: says why a row is refused, and does nothing else.
    "check_row(oid,uuid,text)",
    "check_row(oid,text,text)",
    "check_row(oid,integer,text)",
    "check_row(oid,bigint,text)",
    "sees_user(uuid)",
    "is_unscoped()",
    "in_scope(oid,\"any\",\"any\")",
    "in_full_scope(oid,\"any\",\"any\")",
    "check_scope(oid,\"any\",\"any\")",
    "sees_bypasses()",
    // Tokens: whoever holds one; keys and who needs one are the DBA's.
    "authenticate(text,text)",
    "add_signing_key(text,text,bytea,text,text,text)",
    "retire_signing_key(text)",
    "list_signing_keys()",
    "require_token(text,text)",
    "waive_token(text)",
    // What may a role do.
    "has_permission(text)",
    "has_permission(text,text)",
    "has_permission(uuid,uuid,text,text)",
    "has_permission_in(text,text)",
    "permission_level(text,text,text)",
    // Acts that check the caller's right themselves.
    "create_user(text,text,text,text)",
    "create_org(text,text,uuid,text)",
    "set_external_key(uuid,text)",
    "create_role(uuid,text,text,text,text,boolean)",
    "grant_permission(uuid,text,text,text,text)",
    "revoke_permission(uuid,text,text,text)",
    "activate_role(uuid,text)",
    "deactivate_role(uuid,text)",
    "drop_role(uuid,text)",
    "access_matrix(uuid)",
    "access_matrix_csv(uuid)",
    "who_can(text,regclass,text,uuid)",
    "what_can(uuid,uuid,uuid)",
    "define_action(text,text,text,text,text,text)",
    "drop_action(text)",
    "add_member(uuid,uuid,text,timestamp with time zone)",
    "set_member_role(uuid,uuid,text)",
    "set_member_expiry(uuid,uuid,timestamp with time zone)",
    "set_member_networks(uuid,uuid,cidr[])",
    "remove_member(uuid,uuid)",
    "create_service_account(uuid,text,text,text)",
    "set_service_role(uuid,text)",
    "adopt_service_account(uuid)",
    "disable_service_account(uuid)",
    "enable_service_account(uuid)",
    "drop_service_account(uuid)",
    "list_service_accounts(uuid)",
    "create_api_key(uuid,timestamp with time zone,cidr[])",
    "revoke_api_key(uuid)",
    "list_api_keys(uuid)",
    "transfer_ownership(uuid,uuid)",
    "protect(regclass,text,jsonb,boolean,text,text,text,text,text,text)",
    // Of an organization's environments.
    "create_environment(uuid,text,text)",
    "drop_environment(uuid,text)",
    "set_production_protection(uuid,boolean)",
    "confirm_production_delete(regclass,text,text)",
    // What an AI actor may write.
    "propose(regclass,text,text,text,jsonb,text,text,interval)",
    "submit_proposal(uuid)",
    "approve_proposal(uuid,text,text)",
    "show_proposal(uuid)",
    "reject_proposal(uuid,text)",
    "execute_proposal(uuid)",
    "sees_proposal(oid,uuid,uuid[])",
    // Projects: what one sees and may do there, and acts that check the caller's right themselves.
    "sees_project(uuid)",
    "sees_project_member(uuid,uuid)",
    "has_project_permission(uuid,text)",
    "recommend_isolation(boolean,boolean)",
    "current_project()",
    "current_cluster()",
    "in_projects(uuid,uuid,text)",
    "check_lock(oid,record)",
    "check_project(oid,uuid,uuid,text)",
    "check_project_row(oid,uuid,uuid,text)",
    "project_from(text)",
    "project_to(text)",
    "project_ids(text)",
    "create_project(uuid,text,text,text)",
    "rename_project(uuid,text)",
    "set_project_access(uuid,text)",
    "set_project_environment(uuid,text)",
    "delete_project(uuid)",
    "create_cluster(uuid,text,text)",
    "rename_cluster(uuid,text)",
    "delete_cluster(uuid)",
    "add_project_member(uuid,uuid,text)",
    "set_project_role(uuid,uuid,text)",
    "remove_project_member(uuid,uuid)",
    "set_strict_project_access(uuid,boolean)",
    "invite(uuid,text,text,interval,timestamp with time zone)",
    "accept_invitation(text)",
    "revoke_invitation(uuid)",
    "list_invitations(uuid)",
    "set_scope(uuid,uuid,regclass,text,text)",
    "set_scopes(uuid,uuid,regclass,text[],text)",
    "remove_scope(uuid,uuid,regclass,text)",
    "unscope_member(uuid,uuid)",
    "list_scopes(uuid,uuid)",
    "scope_of(regclass,text)",
    "suspend_org(uuid,text)",
    "resume_org(uuid)",
    "delete_org(uuid,text)",
    "continue_deletion(uuid,integer)",
    "finish_deletion(uuid,integer)",
    "list_tombstones()",
    "delete_user(uuid)",
    "unprotect(regclass)",
    "begin_migration(text)",
    "watch_schema(text,text)",
    "unwatch_schema(text)",
    "protect_schema(text,text,jsonb,boolean,boolean,text,text,text)",
    "exempt(regclass,text)",
    "unexempt(regclass)",
    "add_org_column(regclass,text,text[],integer)",
    "read_audit(timestamp with time zone,timestamp with time zone,uuid,text,text,bigint)",
    // What is sealed of a log, for holders of org:audit there; the keys' public halves, for everybody.
    "seal_audit(uuid)",
    "audit_head(uuid)",
    "list_audit_heads(uuid)",
    "list_seal_status(uuid)",
    "audit_inclusion_proof(uuid,bigint,bigint)",
    "audit_consistency_proof(uuid,bigint,bigint)",
    "verify_audit(uuid,text)",
    "verify_completeness(regclass,uuid)",
    "list_audit_keys()",
    "rotate_audit_key()",
    "history(text,jsonb)",
    "as_of(text,jsonb,timestamp with time zone)",
    "export_audit(text,timestamp with time zone,timestamp with time zone,boolean)",
    "read_audit_dba(timestamp with time zone,timestamp with time zone,uuid,text,text,bigint,uuid)",
    "set_audit(regclass,boolean,text[],text[])",
    "erase_audit(text,jsonb,text)",
    "set_audit_retention(integer)",
    "set_legal_hold(boolean,text)",
    "purge_audit()",
    // The DBA's, which administrators who are no superusers run as well.
    "bind_login(text,uuid)",
    "unbind_login(text)",
    "trust_application(text,text,text)",
    "distrust_application(text)",
    // Superusers only; checked inside, so that the refusal says why.
    "grant_administration(text)",
    "revoke_administration(text)",
    "uninstall()",
    "vouch_leakproof(text)",
    "vouch_leakproof(regoperator)",
    "vouch_leakproof(text,text)",
    "withdraw_vouch(text)",
    "withdraw_vouch(regoperator)",
    "withdraw_vouch(text,text)",
    // The list that these go by, for everybody to read.
    "leakproof_list()",
    "leakproof_expression_reason()",
    // Who pays, and what is used.
    "create_billing_account(text,text,uuid)",
    "set_billing_account(uuid,uuid)",
    "set_payment_method(uuid,text)",
    "rename_billing_account(uuid,text)",
    "drop_billing_account(uuid)",
    "list_billed_orgs(uuid)",
    "record_usage(text,numeric,uuid,uuid,text,timestamp with time zone,text,uuid)",
    "usage_report(uuid,timestamp with time zone,timestamp with time zone,text,text[])",
    "measure_usage(uuid,boolean)",
    "set_quota(uuid,regclass,bigint,text,text)",
    "list_quotas(uuid)",
    "recount_quota(uuid,regclass)",
    // The policy of tenancy.billing_accounts.
    "sees_billing_account(uuid)",
    // In plans: answers its argument, and does nothing else.
    "with_room(tsquery)",
];

#[test]
fn what_everybody_may_call_is_on_the_list() {
    let mut dba = Db::fresh().superuser();
    let open: BTreeSet<String> = dba
        .column(
            "SELECT replace(p.oid::regprocedure::text, 'tenancy.', '') FROM pg_proc p,
                 aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
             WHERE p.pronamespace = 'tenancy'::regnamespace AND a.grantee = 0 AND a.privilege_type = 'EXECUTE'
               AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)",
        )
        .into_iter()
        .collect();
    let listed: BTreeSet<String> = OPEN_TO_EVERYBODY.iter().map(|s| s.to_string()).collect();
    assert_eq!(
        open.difference(&listed).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "open to PUBLIC and not on the list"
    );
    // What the list names is there.
    let all: BTreeSet<String> = dba
        .column(
            "SELECT replace(oid::regprocedure::text, 'tenancy.', '') FROM pg_proc
             WHERE pronamespace = 'tenancy'::regnamespace",
        )
        .into_iter()
        .collect();
    assert_eq!(
        listed.difference(&all).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "on the list and not there"
    );
}

#[test]
fn trigger_functions_are_nobodys_to_attach() {
    // Whoever may create a trigger with our function on a table of his own could feed it what he likes.
    let mut dba = Db::fresh().superuser();
    assert_eq!(
        dba.column(
            "SELECT p.oid::regprocedure FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
             WHERE p.pronamespace = 'tenancy'::regnamespace AND a.grantee = 0
               AND p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype) ORDER BY 1"
        ),
        Vec::<String>::new()
    );
}

#[test]
fn tables_are_readable_under_row_security_and_never_writable() {
    let mut dba = Db::fresh().superuser();
    assert_eq!(
        dba.column(
            "SELECT c.relname || ' ' || a.privilege_type FROM pg_class c, aclexplode(c.relacl) a
             WHERE c.relnamespace = 'tenancy'::regnamespace AND a.grantee = 0 AND c.relkind IN ('r', 'v')
             ORDER BY 1"
        ),
        [
            "actions SELECT",
            "audit_dba SELECT",
            "audit_heads SELECT",
            "audit_log SELECT",
            "audit_retention SELECT",
            "audit_seal_status SELECT",
            "billed_orgs SELECT",
            "billing_accounts SELECT",
            "bypass_ledger SELECT",
            "clusters SELECT",
            "custom_role_permissions SELECT",
            "custom_roles SELECT",
            "environments SELECT",
            "exempt_tables SELECT",
            "exemptions SELECT",
            "leakproof_vouched SELECT",
            "leakproof_vouchers SELECT",
            "measured_usage SELECT",
            "member_states SELECT",
            "members SELECT",
            "membership_scopes SELECT",
            "memberships SELECT",
            "org_environments SELECT",
            "orgs SELECT",
            "project_members SELECT",
            "project_role_permissions SELECT",
            "project_settings SELECT",
            "projects SELECT",
            "proposals SELECT",
            "protected_tables SELECT",
            "quotas SELECT",
            "role_permissions SELECT",
            "role_templates SELECT",
            "roles SELECT",
            "service_accounts SELECT",
            "usage_records SELECT",
            "users SELECT",
            "watched_schemas SELECT",
        ]
    );
    assert_eq!(
        dba.column(
            "SELECT relname FROM pg_class WHERE relnamespace = 'tenancy'::regnamespace AND relkind = 'r'
               AND NOT relrowsecurity ORDER BY 1"
        ),
        Vec::<String>::new()
    );
}

#[test]
fn the_hot_functions_are_what_the_planner_needs() {
    let mut dba = Db::fresh().superuser();
    assert_eq!(
        dba.rows(
            "SELECT oid::regprocedure::text, provolatile, proparallel, proleakproof FROM pg_proc
             WHERE pronamespace = 'tenancy'::regnamespace AND proname ~ '^(org_|current_org)' ORDER BY 1"
        ),
        // org_if() raises and names its argument, so it must not be evaluated on rows that the policies withhold (C-1).
        [
            ("tenancy.current_org()", "t"),
            ("tenancy.current_org_key()", "t"),
            ("tenancy.current_org_key_bigint()", "t"),
            ("tenancy.current_org_key_integer()", "t"),
            ("tenancy.org_if(text)", "f"),
            ("tenancy.org_key_bigint_if(text)", "f"),
            ("tenancy.org_key_if(text)", "f"),
            ("tenancy.org_key_integer_if(text)", "f"),
        ]
        .map(|(name, leakproof)| [name, "s", "s", leakproof].map(|text| Some(text.to_string())))
    );
    // Whatever reads the context is stable and may run in a worker; nothing is immutable, since plans outlive contexts.
    assert_eq!(
        dba.column(
            "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'tenancy'::regnamespace
               AND proname IN ('current_user_id', 'current_role_name', 'has_permission', 'permission_level')
               AND (provolatile <> 's' OR proparallel <> 's') AND NOT (pronargs = 2 AND provolatile = 'i') ORDER BY 1"
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        dba.column(
            "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'tenancy'::regnamespace
               AND provolatile = 'i' AND proname IN ('org_if', 'current_org', 'current_user_id', 'current_role_name')"
        ),
        Vec::<String>::new()
    );
}

#[test]
fn arguments_have_the_names_of_the_contract() {
    let mut dba = Db::fresh().superuser();
    let names = |dba: &mut Session, function: &str| {
        dba.column(&format!(
            "SELECT unnest(proargnames[1:pronargs]) FROM pg_proc WHERE oid = 'tenancy.{function}'::regprocedure"
        ))
    };
    for (function, expected) in [
        (
            "create_user(text,text,text,text)",
            &["email", "name", "external_key", "sso_subject"][..],
        ),
        (
            "create_org(text,text,uuid,text)",
            &["name", "slug", "owner", "external_key"],
        ),
        (
            "add_member(uuid,uuid,text,timestamptz)",
            &["org", "user_id", "role", "expires_at"],
        ),
        (
            "set_member_role(uuid,uuid,text)",
            &["org", "user_id", "role"],
        ),
        ("set_external_key(uuid,text)", &["org", "external_key"]),
        (
            "set_member_expiry(uuid,uuid,timestamptz)",
            &["org", "user_id", "expires_at"],
        ),
        (
            "set_member_networks(uuid,uuid,cidr[])",
            &["org", "user_id", "networks"],
        ),
        ("remove_member(uuid,uuid)", &["org", "user_id"]),
        (
            "create_service_account(uuid,text,text,text)",
            &["org", "name", "role", "description"],
        ),
        (
            "create_api_key(uuid,timestamptz,cidr[])",
            &["service_account", "expires_at", "networks"],
        ),
        ("authenticate(text,text)", &["token", "scope"]),
        ("transfer_ownership(uuid,uuid)", &["org", "new_owner"]),
        (
            "enter(uuid,uuid,boolean,uuid,uuid)",
            &["org", "user_id", "seal", "project", "cluster"],
        ),
        (
            "has_permission(uuid,uuid,text,text)",
            &["user_id", "org", "action", "environment"],
        ),
        ("bind_login(text,uuid)", &["login", "user_id"]),
        (
            "trust_application(text,text,text)",
            &["login", "scope", "service_role"],
        ),
        (
            "protect(regclass,text,jsonb,boolean,text,text,text,text,text,text)",
            &[
                "table_name",
                "org_column",
                "permissions",
                "audit",
                "environment_column",
                "environment_from",
                "resource_type",
                "resource_parent",
                "project_column",
                "cluster_column",
            ],
        ),
        (
            "read_audit(timestamptz,timestamptz,uuid,text,text,bigint)",
            &["since", "until", "actor", "object", "operation", "max_rows"],
        ),
    ] {
        assert_eq!(names(&mut dba, function), expected, "{function}");
    }
}

#[test]
fn no_argument_makes_an_internal_error() {
    // NULL, empty, long, odd: an answer or an error in words, never XX000, and the connection lives.
    let world = World::new();
    let functions = world.superuser().rows(
        "SELECT oid::regprocedure, (SELECT string_agg(format_type(t, NULL), ',' ORDER BY n) FROM unnest(proargtypes) WITH ORDINALITY a(t, n))
         FROM pg_proc WHERE pronamespace = 'tenancy'::regnamespace AND prokind = 'f'
           AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) ORDER BY 1",
    );
    assert!(functions.len() > 20);
    let values = |kind: &str| -> Vec<String> {
        let own: &[&str] = match kind {
            "text" | "name" => &[
                "''",
                "'x'",
                "'ü'",
                "E'\\n'",
                "repeat('x', 5000)",
                "'owner'",
                "'server:read'",
                "'postgres'",
            ],
            "uuid" => &[
                "gen_random_uuid()",
                "'00000000-0000-0000-0000-000000000000'",
            ],
            "jsonb" => &[
                "'[]'",
                "'null'",
                "'{}'",
                "'1'",
                "'{\"select\": null}'",
                "'{\"columns\": []}'",
                "'{\"columns\": {\"\": \"\"}}'",
            ],
            "regclass" => &[
                "'servers'",
                "'pg_class'",
                "0::oid",
                "'tenancy.orgs'",
                "'pg_toast.pg_toast_1255'",
            ],
            "timestamp with time zone" => {
                &["'infinity'", "'-infinity'", "now()", "'0044-03-15 BC'"]
            }
            "numeric" => &["0", "-1.5", "'NaN'", "'-Infinity'", "1e400"],
            "bigint" => &["0", "-1", "9223372036854775807", "-9223372036854775808"],
            _ => &["true"],
        };
        own.iter()
            .map(|v| v.to_string())
            .chain(
                ["NULL".into(), format!("'{}'", world.acme.id)]
                    .into_iter()
                    .take(if kind == "uuid" { 2 } else { 1 }),
            )
            .map(|v| format!("({v})::{kind}"))
            .collect()
    };
    let mut wrong = BTreeMap::new();
    for who in ["dba", "owner", "app"] {
        let mut session = match who {
            "dba" => world.superuser(),
            "owner" => world.session("acme.owner"),
            _ => world.app(),
        };
        for function in &functions {
            let name = function[0].as_deref().unwrap().split('(').next().unwrap();
            let kinds: Vec<&str> = function[1].iter().flat_map(|t| t.split(',')).collect();
            let choices: Vec<Vec<String>> = kinds.iter().map(|kind| values(kind)).collect();
            let most = choices.iter().map(Vec::len).max().unwrap_or(1);
            for round in 0..most * 3 {
                // Walks through the values of each argument at a different pace; at first all are NULL.
                let arguments: Vec<&str> = choices
                    .iter()
                    .enumerate()
                    .map(|(i, all)| match round {
                        0 => all.last().map_or("", String::as_str),
                        _ => &all[(round + i * (round / most)) % all.len()],
                    })
                    .collect();
                let sql = format!("SELECT * FROM {name}({})", arguments.join(", "));
                session.run("BEGIN; SET LOCAL statement_timeout = '20s'");
                if let Err(error) = session.attempt(&sql) {
                    match error.as_db_error() {
                        Some(db) if !db.code().code().starts_with("XX") => {}
                        Some(db) => {
                            let what = format!("{name}: {} {}", db.code().code(), db.message());
                            wrong.entry(what).or_insert(sql);
                        }
                        None => panic!("{who}: {sql}: the connection is gone: {error:?}"),
                    }
                }
                session.run("ROLLBACK");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
