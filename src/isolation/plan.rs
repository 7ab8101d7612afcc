//! A protected table as plain data: what was asked for, what the table looks like, and the statements that lead from
//! the one to the other. No server in here; names arrive quoted by PostgreSQL.

use super::by_environment;
pub use super::options::{Before, Options, Permissions};
use super::place_columns::{self, PlaceColumns};
use super::resource::{self};
use crate::pg::key::KeyType;

/// The row trigger's name sorts before PostgreSQL's own "RI_ConstraintTrigger_*" (triggers fire by name): the
/// foreign-key guard must answer before the key's own check waits for a lock.
pub const ROW_TRIGGER: &str = "0_tenancy_row";
pub const STATEMENT_TRIGGER: &str = "0_tenancy_statement";
pub const TRUNCATE_TRIGGER: &str = "0_tenancy_truncate";
pub const TRIGGERS: [&str; 3] = [STATEMENT_TRIGGER, ROW_TRIGGER, TRUNCATE_TRIGGER];

/// Names and literals of the table, quoted by PostgreSQL's own functions.
pub struct Quoted<'a> {
    pub table: &'a str,
    pub org_column: &'a str,
    pub kind: KeyType,
    /// `literal(text)` is PostgreSQL's quote_literal.
    pub literal: &'a dyn Fn(&str) -> String,
    /// A partitioned table stores no rows: they are its partitions'.
    pub partitioned: bool,
    /// What the scope of a row is found by, where the table has resources: the arguments of in_scope().
    pub scope: Option<String>,
    /// The project and cluster columns, where the table has them.
    pub place: Option<PlaceColumns>,
}

/// The function that fills a column of the kind, as an expression.
pub fn current(kind: KeyType) -> &'static str {
    match kind {
        KeyType::Uuid => "tenancy.current_org()",
        KeyType::Text => "tenancy.current_org_key()",
        KeyType::Integer => "tenancy.current_org_key_integer()",
        KeyType::Bigint => "tenancy.current_org_key_bigint()",
    }
}

/// The function that policies compare a column of the kind with: in the column's own type, since a cast of the column
/// would cost the index.
fn org_if(kind: KeyType) -> &'static str {
    match kind {
        KeyType::Uuid => "tenancy.org_if",
        KeyType::Text => "tenancy.org_key_if",
        KeyType::Integer => "tenancy.org_key_integer_if",
        KeyType::Bigint => "tenancy.org_key_bigint_if",
    }
}

/// Commands with the action that each needs, and whether its policy has USING and WITH CHECK.
fn commands(o: &Options) -> [(&'static str, &str, bool, bool); 4] {
    [
        ("select", &o.select, true, false),
        ("insert", &o.insert, false, true),
        ("update", &o.update, true, true),
        ("delete", &o.delete, true, false),
    ]
}

pub fn policy_names() -> impl Iterator<Item = String> {
    ["select", "insert", "update", "delete"]
        .into_iter()
        .flat_map(|c| [format!("tenancy_{c}"), format!("tenancy_{c}_boundary")])
}

/// Every policy that a table of ours may have.
pub fn all_policy_names() -> impl Iterator<Item = String> {
    policy_names()
        .chain(place_columns::policy_names())
        .chain([resource::POLICY.to_string()])
}

/// The statements that protect the table, in order.
///
/// Per command a permissive policy grants and a restrictive twin on the same predicate keeps any later policy from
/// widening it. One predicate carries boundary and right: a second conjunct would cost the planner its estimate.
pub fn protect(o: &Options, q: &Quoted, needs_index: bool) -> Vec<String> {
    let (table, org) = (q.table, q.org_column);
    let mut sql = vec![format!(
        "ALTER TABLE ONLY {table} ALTER COLUMN {org} SET DEFAULT {}, \
         ALTER COLUMN {org} SET NOT NULL, ALTER COLUMN {org} SET STATISTICS 1000",
        current(q.kind)
    )];
    if needs_index {
        sql.push(format!("CREATE INDEX ON {table} ({org})"));
    }
    sql.extend(q.place.as_ref().map(|place| place.fill(table)));
    for (command, action, using, check) in commands(o) {
        let action = by_environment::asking(o, command, action);
        let in_row = match q.scope {
            Some(_) => resource::within_scope(&action),
            None => action.into_owned(),
        };
        if let Some(place) = &q.place {
            sql.push(place.policy(table, command, &(q.literal)(&in_row)));
        }
        let action = (q.literal)(&match q.place {
            Some(_) => place_columns::in_projects(&in_row),
            None => in_row,
        });
        let predicate = format!("({org} = {}({action}))", org_if(q.kind));
        let mut clauses = String::new();
        if using {
            clauses.push_str(&format!(" USING {predicate}"));
        }
        let verb = command.to_uppercase();
        // The same predicate, as one function: it refuses a row with detail and hint instead of PostgreSQL's bare
        // sentence, and a statement has a third of the calls to prepare.
        if check {
            clauses.push_str(&format!(
                " WITH CHECK (tenancy.check_row(tableoid, {org}, {action}))"
            ));
        }
        for (suffix, kind) in [("", "PERMISSIVE"), ("_boundary", "RESTRICTIVE")] {
            sql.push(format!(
                "CREATE POLICY tenancy_{command}{suffix} ON {table} AS {kind} FOR {verb} TO PUBLIC{clauses}"
            ));
        }
    }
    sql.extend(q.scope.as_ref().map(|scope| resource::policy(table, scope)));
    sql.push(format!(
        "ALTER TABLE ONLY {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    ));
    sql.extend(record(o, q, "CREATE"));
    sql.push(format!(
        "CREATE TRIGGER \"{TRUNCATE_TRIGGER}\" BEFORE TRUNCATE ON {table} \
         FOR EACH STATEMENT EXECUTE FUNCTION tenancy.guard_truncate()"
    ));
    // A session in replica mode must not slip past them.
    for trigger in TRIGGERS {
        if trigger != ROW_TRIGGER || !q.partitioned {
            sql.push(always(table, trigger));
        }
    }
    sql
}

fn always(table: &str, trigger: &str) -> String {
    format!("ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER \"{trigger}\"")
}

/// The statements that change the record of protection of a protected table.
pub fn change_record(o: &Options, q: &Quoted) -> Vec<String> {
    let mut sql = record(o, q, "CREATE OR REPLACE");
    sql.push(always(q.table, STATEMENT_TRIGGER));
    if !q.partitioned {
        sql.push(always(q.table, ROW_TRIGGER));
    }
    sql
}

/// The triggers on rows and statements; one of them carries the record.
fn record(o: &Options, q: &Quoted, create: &str) -> Vec<String> {
    let table = q.table;
    let mut sql = vec![];
    // A row trigger on a partitioned table would be cloned to each partition, drop off when one is detached and stand
    // in the way of attaching a table that has its own. So each table of a tree has its own triggers, and the record of
    // protection is the argument of the statement trigger where there is no row trigger.
    let argument = (q.literal)(&serde_json::to_string(o).expect("plain data"));
    let (of_statement, of_row) = if q.partitioned {
        (argument.as_str(), "")
    } else {
        ("", argument.as_str())
    };
    sql.push(format!(
        "{create} TRIGGER \"{STATEMENT_TRIGGER}\" BEFORE INSERT OR UPDATE OR DELETE ON {table} \
         FOR EACH STATEMENT EXECUTE FUNCTION tenancy.guard_statement({of_statement})"
    ));
    if !q.partitioned {
        sql.push(format!(
            "{create} TRIGGER \"{ROW_TRIGGER}\" AFTER INSERT OR UPDATE OR DELETE ON {table} \
             FOR EACH ROW EXECUTE FUNCTION tenancy.guard_row({of_row})"
        ));
    }
    sql
}

/// The statements that take the protection away again; `policies` and `triggers` are those of ours that are there.
pub fn unprotect(o: &Options, q: &Quoted, policies: &[String], triggers: &[String]) -> Vec<String> {
    let (table, org) = (q.table, q.org_column);
    let mut sql: Vec<String> = triggers
        .iter()
        .map(|t| format!("DROP TRIGGER \"{t}\" ON {table}"))
        .chain(
            policies
                .iter()
                .map(|p| format!("DROP POLICY {p} ON {table}")),
        )
        .collect();
    let mut changes = vec![];
    // Empty where somebody dropped the column.
    if !o.org_column.is_empty() {
        changes.push(match &o.before.default {
            Some(expression) => format!("ALTER COLUMN {org} SET DEFAULT {expression}"),
            None => format!("ALTER COLUMN {org} DROP DEFAULT"),
        });
        changes.push(format!(
            "ALTER COLUMN {org} SET STATISTICS {}",
            o.before.statistics
        ));
    }
    if let Some(place) = &q.place {
        changes.extend(place.restore(o));
    }
    if !o.before.force {
        changes.push("NO FORCE ROW LEVEL SECURITY".into());
    }
    if !o.before.row_security {
        changes.push("DISABLE ROW LEVEL SECURITY".into());
    }
    if !changes.is_empty() {
        sql.push(format!("ALTER TABLE ONLY {table} {}", changes.join(", ")));
    }
    // A partitioned table gives NOT NULL up together with its partitions; those that had it before get it back.
    if !o.org_column.is_empty() && !o.before.not_null {
        let only = if q.partitioned { "" } else { "ONLY " };
        sql.push(format!(
            "ALTER TABLE {only}{table} ALTER COLUMN {org} DROP NOT NULL"
        ));
    }
    if let Some(place) = &q.place
        && o.before.project.as_ref().is_some_and(|b| !b.not_null)
    {
        sql.push(place.give_not_null_up(table, q.partitioned));
    }
    if let Some(index) = &o.before.index {
        sql.push(format!("DROP INDEX IF EXISTS {index}"));
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let permissions: Permissions = serde_json::from_str(
            r#"{"insert":"server:create","columns":{"firewall_rules":"server:firewall"}}"#,
        )
        .unwrap();
        Options::new("org_id", permissions, true, Before::default())
    }

    fn quoted<'a>(literal: &'a dyn Fn(&str) -> String) -> Quoted<'a> {
        Quoted {
            table: "public.servers",
            org_column: "org_id",
            kind: KeyType::Uuid,
            literal,
            partitioned: false,
            scope: None,
            place: None,
        }
    }

    fn literal(text: &str) -> String {
        format!("'{}'", text.replace('\'', "''"))
    }

    #[test]
    fn unnamed_actions_are_the_data_defaults() {
        let o = options();
        assert_eq!(
            (o.select.as_str(), o.insert.as_str()),
            ("data:read", "server:create")
        );
        assert_eq!(o.actions().count(), 5);
    }

    #[test]
    fn a_table_of_resources_has_one_more_boundary_and_asks_for_rights_within_scope() {
        let o = options();
        let mut q = quoted(&literal);
        q.scope = Some("tableoid, id, NULL::pg_catalog.text".into());
        let sql = protect(&o, &q, false);
        let scope: Vec<&String> = sql.iter().filter(|s| s.contains("in_scope")).collect();
        assert_eq!(scope.len(), 1);
        assert!(scope[0].contains("AS RESTRICTIVE FOR ALL TO PUBLIC"));
        // PostgreSQL puts the boundaries to a row by their names: the organization's comes first.
        assert!(policy_names().all(|name| *name < *resource::POLICY));
        let marked = sql.join(";").matches(resource::WITHIN_SCOPE).count();
        assert_eq!(marked, 10);
        let plain = protect(&o, &quoted(&literal), false).join(";");
        assert!(!plain.contains("scope"));
    }

    #[test]
    fn a_table_of_projects_has_a_boundary_for_each_command_and_asks_for_rights_in_some_project() {
        let o = options();
        let mut q = quoted(&literal);
        q.place = Some(PlaceColumns {
            project: "project_id".into(),
            cluster: None,
        });
        let sql = protect(&o, &q, false);
        let places: Vec<&String> = sql.iter().filter(|s| s.contains("in_projects(")).collect();
        assert_eq!(places.len(), 3, "select, update, delete");
        for policy in places {
            assert!(
                policy.contains("AS RESTRICTIVE") && policy.contains("(project_id, project_id, ")
            );
        }
        let sql = sql.join(";");
        assert!(
            sql.contains("tenancy_insert_project")
                && sql.contains("SET DEFAULT tenancy.current_project()")
        );
        assert_eq!(sql.matches(" in projects'").count(), 10);
        // PostgreSQL puts the boundaries to a row by their names: the organization's comes first.
        let all: Vec<String> = policy_names()
            .filter(|name| name.ends_with("_boundary"))
            .collect();
        for (boundary, place) in all.iter().zip(place_columns::policy_names()) {
            assert!(*boundary < place, "{place}");
        }
        q.scope = Some("tableoid, id, NULL::pg_catalog.text".into());
        let both = protect(&o, &q, false).join(";");
        assert_eq!(both.matches(" within scope in projects'").count(), 10);
        assert_eq!(both.matches(" within scope'").count(), 5);
        assert!(
            !protect(&o, &quoted(&literal), false)
                .join(";")
                .contains("project")
        );
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<Permissions>(r#"{"selct":"data:read"}"#).is_err());
    }

    #[test]
    fn every_command_has_a_grant_and_a_boundary_with_one_predicate() {
        let o = options();
        let sql = protect(&o, &quoted(&literal), true);
        for command in ["SELECT", "INSERT", "UPDATE", "DELETE"] {
            let policies: Vec<&String> = sql
                .iter()
                .filter(|s| {
                    s.starts_with("CREATE POLICY") && s.contains(&format!("FOR {command} "))
                })
                .collect();
            assert_eq!(policies.len(), 2, "{command}");
            for policy in &policies {
                let reads = policy.contains("USING (org_id = tenancy.org_if('");
                let writes = policy.contains("WITH CHECK (tenancy.check_row(tableoid, org_id, '");
                assert_eq!(reads, command != "INSERT", "{policy}");
                assert_eq!(writes, ["INSERT", "UPDATE"].contains(&command), "{policy}");
            }
            assert!(policies[0].contains("PERMISSIVE") && policies[1].contains("RESTRICTIVE"));
        }
        assert!(
            sql.iter()
                .any(|s| s == "CREATE INDEX ON public.servers (org_id)")
        );
        assert!(
            !protect(&o, &quoted(&literal), false)
                .iter()
                .any(|s| s.starts_with("CREATE INDEX"))
        );
    }

    #[test]
    fn default_and_predicate_are_of_the_columns_own_type() {
        let o = options();
        for (kind, default, predicate) in [
            (KeyType::Text, "current_org_key()", "org_key_if("),
            (
                KeyType::Integer,
                "current_org_key_integer()",
                "org_key_integer_if(",
            ),
            (
                KeyType::Bigint,
                "current_org_key_bigint()",
                "org_key_bigint_if(",
            ),
        ] {
            let mut q = quoted(&literal);
            q.kind = kind;
            let sql = protect(&o, &q, false).join(";");
            assert!(sql.contains(&format!("SET DEFAULT tenancy.{default},")));
            assert_eq!(
                sql.matches(&format!("USING (org_id = tenancy.{predicate}"))
                    .count(),
                6
            );
            assert!(!sql.contains("tenancy.org_if("));
        }
    }

    #[test]
    fn a_partitioned_table_has_no_row_trigger_and_carries_its_record_elsewhere() {
        let o = options();
        let mut q = quoted(&literal);
        q.partitioned = true;
        let sql = protect(&o, &q, false).join(";");
        assert!(!sql.contains(ROW_TRIGGER));
        assert!(sql.contains("guard_statement('{"));
        let plain = protect(&o, &quoted(&literal), false).join(";");
        assert!(plain.contains("guard_row('{") && plain.contains("guard_statement()"));
    }

    #[test]
    fn the_trigger_argument_reads_back() {
        let o = options();
        let argument = serde_json::to_string(&o).unwrap();
        assert_eq!(Options::parse(&argument), o);
        let mut other = o.clone();
        other.before.not_null = true;
        assert!(o.same_protection(&other) && o != other);
    }

    #[test]
    fn unprotect_restores_what_was() {
        let mut o = options();
        o.before = Before {
            row_security: true,
            force: false,
            not_null: true,
            default: Some("gen_random_uuid()".into()),
            statistics: -1,
            index: Some("public.servers_org_id_idx".into()),
            ..Before::default()
        };
        let sql = unprotect(
            &o,
            &quoted(&literal),
            &["tenancy_select".into()],
            &[ROW_TRIGGER.into()],
        )
        .join(";");
        assert!(sql.contains("SET DEFAULT gen_random_uuid()") && sql.contains("NO FORCE"));
        assert!(!sql.contains("DROP NOT NULL") && !sql.contains("DISABLE ROW"));
        assert!(sql.contains("DROP INDEX IF EXISTS public.servers_org_id_idx"));
    }
}
