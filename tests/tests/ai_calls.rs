//! An AI actor neither governs an organization nor runs the DBA's functions (spec 8), whatever function there is: the list
//! below is held against the catalog, so one that is added must be put in it. Each call is one that succeeds for whom it is
//! meant, so that a refusal is for who asks and not for what.

use std::collections::BTreeMap;

use pg_tenancy_tests::stage::Stage;
use pg_tenancy_tests::{Error, Session, World};

/// For whom a call is meant.
#[derive(Clone, Copy, PartialEq)]
enum For {
    Owner,
    Stranger,
    Application,
    Dba,
}
use For::{Application, Dba, Owner};

/// What changes something, with a call that would.
const GOVERNS: &[(For, &str, &str)] = &[
    (For::Stranger, "accept_invitation(text)", "'{token}'"),
    (Owner, "revoke_invitation(uuid)", "'{invitation}'"),
    (
        Owner,
        "invite(uuid,text,text,interval,timestamp with time zone)",
        "'{org}', 'new@b.test', 'viewer'",
    ),
    // People and roles.
    (
        Owner,
        "add_member(uuid,uuid,text,timestamp with time zone)",
        "'{org}', '{stranger}', 'viewer'",
    ),
    (
        Owner,
        "set_member_role(uuid,uuid,text)",
        "'{org}', '{member}', 'viewer'",
    ),
    (
        Owner,
        "set_member_expiry(uuid,uuid,timestamp with time zone)",
        "'{org}', '{member}', now() + '1 day'",
    ),
    (
        Owner,
        "set_member_networks(uuid,uuid,cidr[])",
        "'{org}', '{member}', '{10.0.0.0/8}'",
    ),
    (Owner, "remove_member(uuid,uuid)", "'{org}', '{member}'"),
    (
        Owner,
        "set_scope(uuid,uuid,regclass,text,text)",
        "'{org}', '{member}', 'things', '1'",
    ),
    (
        Owner,
        "set_scopes(uuid,uuid,regclass,text[],text)",
        "'{org}', '{member}', 'things', '{1,2}'",
    ),
    (
        Owner,
        "remove_scope(uuid,uuid,regclass,text)",
        "'{org}', '{viewer}', 'things', '1'",
    ),
    (Owner, "unscope_member(uuid,uuid)", "'{org}', '{viewer}'"),
    (Owner, "transfer_ownership(uuid,uuid)", "'{org}', '{admin}'"),
    (Owner, "create_org(text,text,uuid,text)", "'More', 'more'"),
    (Owner, "delete_org(uuid,text)", "'{org}', 'Acme Hosting'"),
    (
        Owner,
        "create_role(uuid,text,text,text,text,boolean)",
        "'{org}', 'more'",
    ),
    (
        Owner,
        "grant_permission(uuid,text,text,text,text)",
        "'{org}', 'helper', 'site:read'",
    ),
    (
        Owner,
        "revoke_permission(uuid,text,text,text)",
        "'{org}', 'helper', 'server:read'",
    ),
    (Owner, "activate_role(uuid,text)", "'{org}', 'sleeper'"),
    (Owner, "deactivate_role(uuid,text)", "'{org}', 'helper'"),
    (Owner, "drop_role(uuid,text)", "'{org}', 'helper'"),
    // Services.
    (
        Owner,
        "create_service_account(uuid,text,text,text)",
        "'{org}', 'more', 'viewer'",
    ),
    (
        Owner,
        "set_service_role(uuid,text)",
        "'{service}', 'member'",
    ),
    (Owner, "adopt_service_account(uuid)", "'{service}'"),
    (Owner, "disable_service_account(uuid)", "'{service}'"),
    (Owner, "enable_service_account(uuid)", "'{disabled}'"),
    (Owner, "drop_service_account(uuid)", "'{service}'"),
    (
        Owner,
        "create_api_key(uuid,timestamp with time zone,cidr[])",
        "'{service}'",
    ),
    (Owner, "revoke_api_key(uuid)", "'{key}'"),
    // Projects.
    (
        Owner,
        "create_project(uuid,text,text,text)",
        "'{org}', 'more'",
    ),
    (Owner, "rename_project(uuid,text)", "'{project}', 'other'"),
    (
        Owner,
        "set_project_access(uuid,text)",
        "'{project}', 'restricted'",
    ),
    (
        Owner,
        "set_project_environment(uuid,text)",
        "'{project}', 'staging'",
    ),
    (Owner, "delete_project(uuid)", "'{empty}'"),
    (
        Owner,
        "create_cluster(uuid,text,text)",
        "'{project}', 'more'",
    ),
    (Owner, "rename_cluster(uuid,text)", "'{cluster}', 'other'"),
    (Owner, "delete_cluster(uuid)", "'{cluster}'"),
    (
        Owner,
        "add_project_member(uuid,uuid,text)",
        "'{project}', '{admin}'",
    ),
    (
        Owner,
        "set_project_role(uuid,uuid,text)",
        "'{project}', '{member}', 'project_admin'",
    ),
    (
        Owner,
        "remove_project_member(uuid,uuid)",
        "'{project}', '{member}'",
    ),
    (
        Owner,
        "set_strict_project_access(uuid,boolean)",
        "'{org}', true",
    ),
    // Environments.
    (
        Owner,
        "create_environment(uuid,text,text)",
        "'{org}', 'uat', 'staging'",
    ),
    (Owner, "drop_environment(uuid,text)", "'{org}', 'qa'"),
    (
        Owner,
        "set_production_protection(uuid,boolean)",
        "'{org}', false",
    ),
    (
        Owner,
        "confirm_production_delete(regclass,text,text)",
        "'boxes', '1', '1'",
    ),
    // Proposals.
    (Owner, "approve_proposal(uuid,text,text)", "'{pending}'"),
    (Owner, "reject_proposal(uuid,text)", "'{pending}'"),
    // The log.
    (
        Owner,
        "erase_audit(text,jsonb,text)",
        "'public.sites', '{\"id\": 1}', 'asked for'",
    ),
    (Owner, "set_audit_retention(integer)", "90"),
    (Owner, "set_legal_hold(boolean,text)", "true, 'a case'"),
    (Owner, "purge_audit()", ""),
    // Money.
    (
        Owner,
        "create_billing_account(text,text,uuid)",
        "'more', org => '{org}'",
    ),
    (Owner, "set_billing_account(uuid,uuid)", "'{org}', NULL"),
    (
        Owner,
        "set_payment_method(uuid,text)",
        "'{account}', 'card-2'",
    ),
    (
        Owner,
        "rename_billing_account(uuid,text)",
        "'{account}', 'other'",
    ),
    (Dba, "drop_billing_account(uuid)", "'{unused}'"),
    (
        Dba,
        "set_quota(uuid,regclass,bigint,text,text)",
        "'{org}', 'sites', 100",
    ),
    (Dba, "recount_quota(uuid,regclass)", ""),
    (
        Application,
        "record_usage(text,numeric,uuid,uuid,text,timestamp with time zone,text,uuid)",
        "'requests', 5",
    ),
    // The DBA's.
    (Dba, "create_user(text,text,text,text)", "'more@b.test'"),
    (Dba, "delete_user(uuid)", "'{stranger}'"),
    (Dba, "set_external_key(uuid,text)", "'{org}', 'customer-9'"),
    (Dba, "suspend_org(uuid,text)", "'{org}', 'unpaid'"),
    (Dba, "resume_org(uuid)", "'{asleep}'"),
    (Dba, "continue_deletion(uuid,integer)", "'{dying}'"),
    (Dba, "bind_login(text,uuid)", "'{login}', '{member}'"),
    (Dba, "unbind_login(text)", "'{bound}'"),
    (Dba, "trust_application(text,text,text)", "'{login}'"),
    (Dba, "distrust_application(text)", "'{app}'"),
    (Dba, "require_token(text,text)", "'{login}'"),
    (Dba, "waive_token(text)", "'{token_login}'"),
    (
        Dba,
        "add_signing_key(text,text,bytea,text,text,text)",
        "'k2', 'HS256', decode(repeat('ab', 32), 'hex'), 'aud'",
    ),
    (Dba, "retire_signing_key(text)", "'k1'"),
    (Dba, "grant_administration(text)", "'{login}'"),
    (Dba, "revoke_administration(text)", "'{administrator}'"),
    (
        Dba,
        "define_action(text,text,text,text,text,text)",
        "'robot:start'",
    ),
    (Dba, "drop_action(text)", "'robot:stop'"),
    (Dba, "rotate_audit_key()", ""),
    (Dba, "begin_migration(text)", "'work'"),
    (
        Dba,
        "protect(regclass,text,jsonb,boolean,text,text,text,text,text,text)",
        "'plain'",
    ),
    (Dba, "unprotect(regclass)", "'sites'"),
    (
        Dba,
        "protect_schema(text,text,jsonb,boolean,boolean)",
        "'expected'",
    ),
    (
        Dba,
        "set_audit(regclass,boolean,text[],text[])",
        "'sites', false",
    ),
    (Dba, "exempt(regclass,text)", "'plain', 'shared'"),
    (Dba, "unexempt(regclass)", "'left_out'"),
    (Dba, "watch_schema(text,text)", "'expected'"),
    (Dba, "unwatch_schema(text)", "'watched'"),
    (Dba, "vouch_leakproof(text)", "'~~(text,text)'"),
    (
        Dba,
        "vouch_leakproof(regoperator)",
        "'~~(text,text)'::regoperator",
    ),
    (Dba, "vouch_leakproof(text,text)", "'jsonb_ops', 'gin'"),
    (Dba, "withdraw_vouch(text)", "'@>(jsonb,jsonb)'"),
    (
        Dba,
        "withdraw_vouch(regoperator)",
        "'@>(jsonb,jsonb)'::regoperator",
    ),
    (Dba, "withdraw_vouch(text,text)", "'jsonb_ops', 'gin'"),
    (Dba, "uninstall()", ""),
];

/// They end transactions by themselves, so the calls that succeed are other tests' (add_column.rs, deletion.rs).
const PROCEDURES: &[(&str, &str)] = &[
    ("add_org_column(regclass,text,text[],integer)", "'leaves'"),
    ("finish_deletion(uuid,integer)", "'{dying}'"),
];

/// What is volatile and an AI actor may call, with the reason.
const HARMLESS: &[(&str, &str)] = &[
    (
        "propose(regclass,text,text,text,jsonb,text,text,interval)",
        "this is its way",
    ),
    ("submit_proposal(uuid)", "this is its way"),
    ("execute_proposal(uuid)", "this is its way"),
    ("show_proposal(uuid)", "reads what its user sees"),
    (
        "enter(uuid,uuid,boolean,uuid,uuid)",
        "where its user may go; the actor type stays",
    ),
    ("leave()", "shows nothing more"),
    ("seal_context()", "binds itself"),
    (
        "authenticate(text,text)",
        "with a token, which says the actor type",
    ),
    (
        "as_of(text,jsonb,timestamp with time zone)",
        "reads with org:audit",
    ),
    ("history(text,jsonb)", "reads with org:audit"),
    (
        "read_audit(timestamp with time zone,timestamp with time zone,uuid,text,text,bigint)",
        "reads with org:audit",
    ),
    (
        "read_audit_dba(timestamp with time zone,timestamp with time zone,uuid,text,text,bigint,uuid)",
        "reads; for administrators",
    ),
    (
        "export_audit(text,timestamp with time zone,timestamp with time zone,boolean)",
        "reads with org:audit_export, and is logged",
    ),
    ("audit_head(uuid)", "reads with org:audit"),
    (
        "audit_consistency_proof(uuid,bigint,bigint)",
        "reads with org:audit",
    ),
    (
        "audit_inclusion_proof(uuid,bigint,bigint)",
        "reads with org:audit",
    ),
    ("list_audit_heads(uuid)", "reads with org:audit"),
    ("list_seal_status(uuid)", "reads with org:audit"),
    ("verify_audit(uuid,text)", "reads with org:audit"),
    ("verify_completeness(regclass,uuid)", "reads with org:audit"),
    (
        "seal_audit(uuid)",
        "numbers what is there, as the sealer does; with org:audit",
    ),
    ("list_billed_orgs(uuid)", "reads with billing:read"),
    ("list_quotas(uuid)", "reads with org:read"),
    (
        "usage_report(uuid,timestamp with time zone,timestamp with time zone,text)",
        "reads with billing:read",
    ),
    (
        "measure_usage(uuid,boolean)",
        "counts what is there; with billing:read",
    ),
    ("in_projects_support(internal)", "cannot be called from SQL"),
    (
        "check_project_row(oid,uuid,uuid,text)",
        "says why a row may not be written",
    ),
    ("check_lock(oid,record)", "says why a row may not be locked"),
];

struct Stand {
    stage: Stage,
    words: BTreeMap<&'static str, String>,
}

impl Stand {
    fn new() -> Stand {
        let stage = Stage::new();
        let world = &stage.world;
        let mut words = BTreeMap::new();
        let org = world.acme.id.to_string();
        let role = |name: &str| world.db.role(name);
        let mut dba = world.superuser();
        for login in ["unused", "token_login", "administrator"] {
            dba.run(&format!("CREATE ROLE {} LOGIN", role(login)));
        }
        dba.run(&format!(
            "CREATE TABLE things (id int PRIMARY KEY, org_id uuid);
             CREATE TABLE boxes (id int PRIMARY KEY, org_id uuid, env text);
             CREATE TABLE plain (id int PRIMARY KEY, org_id uuid); CREATE TABLE left_out (id int PRIMARY KEY, org_id uuid);
             CREATE TABLE leaves (id int PRIMARY KEY, site int REFERENCES sites);
             CREATE SCHEMA expected; CREATE TABLE expected.t (id int PRIMARY KEY, org_id uuid); CREATE SCHEMA watched; GRANT ALL ON things, boxes TO PUBLIC;
             SELECT tenancy.protect('things', resource_type => 'thing'); SELECT tenancy.protect('boxes', environment_column => 'env');
             SELECT tenancy.exempt('left_out', 'shared'); SELECT tenancy.watch_schema('watched');
             SELECT tenancy.define_action('robot:stop');
             SELECT tenancy.require_token('{}'); SELECT tenancy.grant_administration('{}');
             SELECT tenancy.add_signing_key('k1', 'HS256', decode(repeat('cd', 32), 'hex'), 'aud');
             SELECT tenancy.vouch_leakproof('jsonb_ops', 'gin');
             SELECT tenancy.set_scope('{org}', '{}', 'things', '1')",
            role("token_login"),
            role("administrator"),
            world.user("acme.viewer")
        ));
        let mut owner = world.session("acme.owner");
        owner.run("INSERT INTO boxes VALUES (1, tenancy.current_org(), 'production')");
        owner.run(&format!(
            "SELECT tenancy.create_role('{org}', 'helper'); SELECT tenancy.grant_permission('{org}', 'helper', 'server:read');
             SELECT tenancy.create_role('{org}', 'sleeper', active => false); SELECT tenancy.create_environment('{org}', 'qa', 'staging');
             SELECT tenancy.set_production_protection('{org}', true); SELECT tenancy.set_audit_retention(60)"
        ));
        let mut put = |word, value: String| words.insert(word, value);
        put(
            "project",
            owner.text(&format!("SELECT tenancy.create_project('{org}', 'web')")),
        );
        put(
            "empty",
            owner.text(&format!("SELECT tenancy.create_project('{org}', 'empty')")),
        );
        let project = owner.text("SELECT id FROM tenancy.projects WHERE name = 'web'");
        put(
            "cluster",
            owner.text(&format!(
                "SELECT tenancy.create_cluster('{project}', 'one')"
            )),
        );
        owner.run(&format!(
            "SELECT tenancy.add_project_member('{project}', '{}')",
            world.user("acme.member")
        ));
        let service = owner.text(&format!(
            "SELECT tenancy.create_service_account('{org}', 'job', 'viewer')"
        ));
        owner.run(&format!("SELECT tenancy.create_api_key('{service}')"));
        put(
            "key",
            owner.text(&format!("SELECT id FROM tenancy.list_api_keys('{org}')")),
        );
        put("service", service);
        let disabled = owner.text(&format!(
            "SELECT tenancy.create_service_account('{org}', 'idle', 'viewer')"
        ));
        owner.run(&format!(
            "SELECT tenancy.disable_service_account('{disabled}')"
        ));
        put("disabled", disabled);
        put(
            "account",
            owner.text(&format!(
                "SELECT tenancy.create_billing_account('main', org => '{org}')"
            )),
        );
        put(
            "unused",
            dba.text("SELECT tenancy.create_billing_account('unused')"),
        );
        let invite =
            |email: &str| format!("SELECT token FROM tenancy.invite('{org}', '{email}', 'viewer')");
        put("token", owner.text(&invite("example@stranger.test")));
        owner.run(&invite("somebody@b.test"));
        put(
            "invitation",
            owner.text(&format!(
                "SELECT invitation FROM tenancy.list_invitations('{org}') WHERE email = 'somebody@b.test'"
            )),
        );
        for (word, name) in [("asleep", "Asleep"), ("dying", "Dying")] {
            let user = world.user("agency");
            put(
                word,
                dba.text(&format!(
                    "SELECT tenancy.create_org('{name}', '{word}', owner => '{user}')"
                )),
            );
        }
        let (asleep, dying) = ("asleep", "dying");
        let id = |dba: &mut Session, slug: &str| {
            dba.text(&format!(
                "SELECT id FROM tenancy.orgs WHERE slug = '{slug}'"
            ))
        };
        let (asleep, dying) = (id(&mut dba, asleep), id(&mut dba, dying));
        dba.run(&format!("SELECT tenancy.suspend_org('{asleep}', 'unpaid'); SELECT tenancy.delete_org('{dying}', 'Dying')"));
        for (word, who) in [
            ("member", "acme.member"),
            ("viewer", "acme.viewer"),
            ("admin", "acme.admin"),
            ("stranger", "stranger"),
        ] {
            put(word, world.user(who).to_string());
        }
        for (word, name) in [
            ("login", "unused"),
            ("bound", "acme.member"),
            ("app", "session_app"),
            ("token_login", "token_login"),
            ("administrator", "administrator"),
        ] {
            put(word, role(name));
        }
        put("org", org);
        put(
            "pending",
            stage.pending("acme.admin", pg_tenancy_tests::stage::RENAME),
        );
        Stand { stage, words }
    }

    fn call(&self, signature: &str, arguments: &str) -> String {
        let name = signature.split('(').next().unwrap();
        let mut arguments = arguments.to_string();
        for (word, value) in &self.words {
            arguments = arguments.replace(&format!("{{{word}}}"), value);
        }
        format!("tenancy.{name}({arguments})")
    }

    /// What became of a call in a transaction that is rolled back. `claim`: what is set in it before.
    fn says(session: &mut Session, claim: &str, call: &str) -> Result<u64, Error> {
        session.run("BEGIN");
        session.run(claim);
        let said = session.attempt(call);
        session.run("ROLLBACK");
        said
    }

    /// The sessions in which an AI actor may try it, with what each sets.
    fn ais(&self, whom: For) -> Vec<(&'static str, Session, String)> {
        let World { acme, .. } = self.stage.world;
        let world = &self.stage.world;
        let claim = |who: &str| {
            format!(
                "{}; SET LOCAL app.actor_type = 'ai'",
                world.claim(acme, who)
            )
        };
        let dba = format!(
            "SET LOCAL app.current_org = '{}'; SET LOCAL app.actor_type = 'ai'",
            acme.id
        );
        let mut all = vec![("AI of the owner", world.app(), claim("acme.owner"))];
        match whom {
            For::Stranger => all.push((
                "AI of the one invited",
                world.app(),
                format!(
                    "SET LOCAL app.current_user_id = '{}'; SET LOCAL app.actor_type = 'ai'",
                    world.user("stranger")
                ),
            )),
            _ => {
                all.push(("AI as superuser", world.superuser(), dba));
                all.push((
                    "AI as superuser, for the owner",
                    world.superuser(),
                    claim("acme.owner"),
                ));
                all.push((
                    "AI of nobody",
                    world.app(),
                    format!(
                        "SET LOCAL app.current_org = '{}'; SET LOCAL app.actor_type = 'ai'",
                        acme.id
                    ),
                ));
            }
        }
        all
    }
}

#[test]
fn every_function_that_changes_something_is_listed() {
    let stage = Stage::new();
    let mut dba = stage.world.superuser();
    // By name, and as often as there are functions of that name.
    let mut there = dba.column(
        "SELECT proname FROM pg_proc
         WHERE pronamespace = 'tenancy'::regnamespace AND provolatile = 'v'
           AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)",
    );
    let listed = GOVERNS.iter().map(|(_, name, _)| *name);
    let listed = listed.chain(PROCEDURES.iter().map(|(name, _)| *name));
    let listed = listed.chain(HARMLESS.iter().map(|(name, _)| *name));
    let mut listed: Vec<String> = listed
        .map(|name| name.split('(').next().unwrap().to_string())
        .collect();
    there.sort();
    listed.sort();
    let without = |all: &[String], some: &[String]| {
        let mut rest = all.to_vec();
        for name in some {
            if let Some(at) = rest.iter().position(|one| one == name) {
                rest.remove(at);
            }
        }
        rest
    };
    assert_eq!(
        without(&there, &listed),
        Vec::<String>::new(),
        "not listed: may an AI call it?"
    );
    assert_eq!(
        without(&listed, &there),
        Vec::<String>::new(),
        "listed and not there"
    );
    // What is not volatile cannot write: PostgreSQL says so, and so does what each of them is.
    let quiet = dba.column(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'tenancy'::regnamespace AND provolatile <> 'v'
           AND proname ~ '^(set|create|add|drop|delete|remove|grant|revoke|rename|bind|trust|approve|execute)_'",
    );
    assert_eq!(quiet, Vec::<String>::new());
}

#[test]
fn an_ai_actor_governs_nothing_whatever_it_calls() {
    let stand = Stand::new();
    let mut wrong = vec![];
    for (whom, signature, arguments) in GOVERNS {
        let call = format!("SELECT * FROM {}", stand.call(signature, arguments));
        let mut meant = match whom {
            Owner => stand.stage.world.session("acme.owner"),
            For::Stranger => stand.stage.world.bound("stranger"),
            Application => stand.stage.world.app(),
            Dba => stand.stage.world.superuser(),
        };
        let org = stand.stage.world.acme.id;
        let claim = match whom {
            Application => format!("SET LOCAL app.current_org = '{org}'"),
            _ => "SELECT 1".into(),
        };
        if let Err(error) = Stand::says(&mut meant, &claim, &call) {
            wrong.push(format!("{signature} for whom it is meant: {error:?}"));
        }
        for (who, mut ai, claim) in stand.ais(*whom) {
            if whom == &Owner && who == "AI as superuser" {
                continue;
            }
            match Stand::says(&mut ai, &claim, &call) {
                Ok(_) => wrong.push(format!("{signature} as {who}: succeeded")),
                Err(error) => {
                    let error = error
                        .as_db_error()
                        .unwrap_or_else(|| panic!("{call}: {error:?}"))
                        .clone();
                    if !is_refusal(signature, error.code().code()) {
                        wrong.push(format!("{signature} as {who}: {error:?}"));
                    }
                }
            }
        }
    }
    for (signature, arguments) in PROCEDURES {
        let call = format!("CALL {}", stand.call(signature, arguments));
        for (who, mut ai, claim) in stand.ais(Dba) {
            match Stand::says(&mut ai, &claim, &call) {
                Err(error) if error.code().is_some_and(|c| c.code() == "42501") => {}
                other => wrong.push(format!("{signature} as {who}: {other:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is named by a secret of its own is not there for who does not belong to the organization, and protect_schema() tells
/// of each table why not.
fn is_refusal(signature: &str, code: &str) -> bool {
    match signature.split('(').next() {
        Some("revoke_invitation") => matches!(code, "42501" | "P0002"),
        Some("protect_schema") => matches!(code, "42501" | "55000"),
        _ => code == "42501",
    }
}

/// The same calls by who may nothing in the organization but look, and by who is not in it: refused alike.
#[test]
fn nor_do_a_viewer_and_a_stranger() {
    let stand = Stand::new();
    let world = &stand.stage.world;
    let acme = world.acme.id;
    let mut wrong = vec![];
    for (whom, signature, arguments) in GOVERNS {
        // Anybody makes an organization of his own.
        if *whom == For::Stranger || signature.starts_with("create_org(") {
            continue;
        }
        let call = format!("SELECT * FROM {}", stand.call(signature, arguments));
        for who in ["acme.viewer", "stranger", "globex.owner"] {
            let mut session = world.bound(who);
            session.run(&format!("SET app.current_org = '{acme}'"));
            match Stand::says(&mut session, "SELECT 1", &call) {
                Err(error)
                    if error
                        .code()
                        .is_some_and(|c| is_refusal(signature, c.code())) => {}
                other => wrong.push(format!("{signature} as {who}: {other:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
