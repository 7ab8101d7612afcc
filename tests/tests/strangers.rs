//! Attack A12, over the whole catalog: who does not belong to an organization learns nothing of it from any function of
//! ours, neither that it is there nor in what state it is. All answer as for one that never was.

use std::collections::BTreeMap;

use pg_tenancy_tests::{Error, Rows, Session, Uuid, World, quote};

struct Function {
    name: String,
    procedure: bool,
    /// Name and type of each argument.
    arguments: Vec<(String, String)>,
}

/// Every function that takes an organization and that anybody may call.
fn functions(dba: &mut Session) -> Vec<Function> {
    let rows = dba.rows(
        "SELECT p.proname, p.prokind, array_to_string(p.proargnames[1:p.pronargs], ','),
             array_to_string(p.proargtypes::regtype[], ',')
         FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
         WHERE p.pronamespace = 'tenancy'::regnamespace AND a.grantee = 0 AND a.privilege_type = 'EXECUTE'
           AND EXISTS (SELECT FROM unnest(p.proargnames[1:p.pronargs], p.proargtypes::regtype[]) AS x (name, type)
                       WHERE x.name = 'org' AND x.type = 'uuid'::regtype)
         ORDER BY 1",
    );
    assert!(rows.len() > 50, "{}", rows.len());
    let list = |text: &Option<String>| -> Vec<String> {
        let text = text.as_deref().expect("a list");
        text.split(',').map(str::to_string).collect()
    };
    rows.iter()
        .map(|row| Function {
            name: row[0].clone().expect("a name"),
            procedure: row[1].as_deref() == Some("p"),
            arguments: list(&row[2]).into_iter().zip(list(&row[3])).collect(),
        })
        .collect()
}

/// What an argument may plausibly be; the first is what it is while others vary.
fn values(world: &World, name: &str, of: &str) -> Vec<String> {
    let texts: &[&str] = match name {
        "role" => &["member", "owner", "deployer", "no such role"],
        "kind" => &["development"],
        "access" => &["open", "full", "restricted"],
        "action" => &["server:read"],
        "level" => &["allow"],
        "slug" | "external_key" => &["customer-7", "customer-99"],
        "email" => &["acme@owner.test", "new@example.test"],
        "confirm" => &["Acme Hosting", "Initech", "something"],
        "name" => &["Acme Hosting", "deployer", "qa"],
        "environment" => &["production", "qa"],
        "metric" => &["requests"],
        "period" | "every" => &["month"],
        "clone_of" | "template" => &["viewer"],
        _ => &["1"],
    };
    match of {
        "text" => texts.iter().map(|text| quote(text)).collect(),
        "uuid" if name == "user_id" || name == "new_owner" || name == "actor" => {
            ["stranger", "acme.member", "acme.owner"]
                .map(|who| format!("'{}'::uuid", world.user(who)))
                .to_vec()
        }
        "uuid" => vec!["NULL".into(), format!("'{}'::uuid", Uuid::new_v4())],
        "regclass" => vec!["'servers'".into()],
        "boolean" => vec!["true".into(), "false".into()],
        "integer" | "bigint" | "numeric" => vec!["1".into()],
        "oid" => vec!["'servers'::regclass::oid".into()],
        "interval" => vec!["'1 day'".into()],
        "timestamp with time zone" => vec!["now() + interval '1 day'".into(), "now()".into()],
        "text[]" => vec!["'{1}'".into()],
        "cidr[]" => vec!["'{10.0.0.0/8}'".into()],
        _ => vec!["NULL".into()],
    }
}

/// The call, but for the organization, which is `ORG`: as usual, and with each other argument varied in turn.
fn calls(world: &World, function: &Function) -> Vec<String> {
    let arguments: Vec<(&str, Vec<String>)> = function
        .arguments
        .iter()
        .map(|(name, of)| {
            let values = if name == "org" && of == "uuid" {
                vec!["'ORG'::uuid".into()]
            } else {
                values(world, name, of)
            };
            (name.as_str(), values)
        })
        .collect();
    let call = |varied: usize, n: usize| {
        let said: Vec<String> = arguments
            .iter()
            .enumerate()
            .map(|(i, (name, values))| {
                let value = &values[if i == varied { n } else { 0 }];
                format!("{name} => {value}")
            })
            .collect();
        let call = format!("tenancy.{}({})", function.name, said.join(", "));
        if function.procedure {
            format!("CALL {call}")
        } else {
            format!("SELECT * FROM {call}")
        }
    };
    let mut all = vec![call(usize::MAX, 0)];
    for (i, (_, values)) in arguments.iter().enumerate() {
        all.extend((1..values.len()).map(|n| call(i, n)));
    }
    all
}

/// What a trusted application may do for every organization, whoever it names: carry a deletion out, and name somebody else.
const OF_APPLICATIONS: [&str; 3] = ["continue_deletion", "finish_deletion", "enter"];

/// All that the client is told.
fn told(result: Result<Rows, Error>, org: &str) -> String {
    let said = match result {
        Ok(rows) => format!("{rows:?}"),
        Err(error) => {
            let e = error.as_db_error().expect("an answer of the server's");
            format!(
                "{} {} / {:?} / {:?} / {:?}",
                e.code().code(),
                e.message(),
                e.detail(),
                e.hint(),
                e.where_()
            )
        }
    };
    said.replace(org, "ORG")
}

#[test]
fn a12_a_stranger_learns_of_no_organization_and_of_no_state_of_one() {
    let world = World::new();
    let mut dba = world.superuser();
    let mut third = |slug: &str| {
        dba.text(&format!(
            "SELECT tenancy.create_org('Initech', '{slug}', owner => '{}')",
            world.user("agency")
        ))
    };
    let (ending, ended) = (third("ending"), third("ended"));
    dba.run(&format!(
        "SELECT tenancy.create_role('{acme}', 'deployer'); SELECT tenancy.create_environment('{acme}', 'qa', 'staging');
         SELECT tenancy.suspend_org('{acme}', 'unpaid');
         SELECT tenancy.delete_org('{ending}', 'Initech'); SELECT tenancy.delete_org('{ended}', 'Initech')",
        acme = world.acme.id
    ));
    dba.run(&format!("CALL tenancy.finish_deletion('{ended}')"));
    let orgs = [
        ("suspended", world.acme.id.to_string()),
        ("open", world.globex.id.to_string()),
        ("being deleted", ending),
        ("deleted", ended),
    ];
    let nowhere = Uuid::new_v4().to_string();
    let functions = functions(&mut dba);

    let mut callers = [
        ("a user of no organization", world.bound("stranger"), None),
        ("a login that is nobody", world.nobody(), None),
        (
            "an application for such a user",
            world.app(),
            Some(format!(
                "SET LOCAL app.current_user_id = '{}'",
                world.user("stranger")
            )),
        ),
    ];
    let mut wrong: BTreeMap<String, String> = BTreeMap::new();
    let (mut calls_made, mut refused) = (0, 0);
    for (who, session, claim) in &mut callers {
        for function in &functions {
            if claim.is_some() && OF_APPLICATIONS.contains(&function.name.as_str()) {
                continue;
            }
            for call in calls(&world, function) {
                let mut ask = |org: &str| {
                    session.run("BEGIN");
                    if let Some(claim) = claim {
                        session.run(claim);
                    }
                    let result = session.try_rows(&call.replace("ORG", org));
                    let answer = told(result, org);
                    session.run("ROLLBACK");
                    answer
                };
                let expected = ask(&nowhere);
                refused += usize::from(expected.contains("42501"));
                for (state, org) in &orgs {
                    calls_made += 1;
                    let answer = ask(org);
                    if answer != expected {
                        wrong.entry(format!("{} {state}", function.name)).or_insert_with(|| {
                            format!("{who}, organization {state}: {call}\n  says   {answer}\n  not    {expected}")
                        });
                    }
                }
            }
        }
    }
    println!(
        "{calls_made} calls of {} functions, {refused} refused where there is no organization",
        functions.len()
    );
    // Most are refused for that the organization is not there, and not for an argument that was looked at before.
    assert!(refused * orgs.len() * 10 > calls_made * 9);
    assert!(
        wrong.is_empty(),
        "{}",
        wrong.into_values().collect::<Vec<_>>().join("\n")
    );
}
