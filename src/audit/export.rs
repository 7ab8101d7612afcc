//! An organization's log in a form that others read: a line of text for each line, NDJSON or CSV.

use super::capture::{Act, record};
use super::layouts::Known;
use super::read::{Filter, may, read, require_primary};
use super::seal;
use super::seal::trailer::Exported;
use super::show::{Chunk, Entry};
use crate::context::authority::id_text;
use crate::pg::srf::Sink;
use crate::pg::{self, canonical, fail, horizon};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pg_tenancy_audit_format::read::Content;
use pg_tenancy_audit_format::{Column, LayoutId};
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;
use serde_json::{Value as Json, json};
use std::collections::HashSet;
use std::fmt::Write as _;

crate::pg::finfo!(pg_finfo_tenancy_export_audit);

/// `tenancy.export_audit(format, since, until, evidence)`: the current organization's log as lines of text, oldest first
/// (spec 6.3). `format`: ndjson, an object a line; csv (RFC 4180), whose first line names the columns. `evidence` (ndjson
/// only) adds what a line's leaf hash is computed from, and the layouts. Needs org:audit_export; the export itself is
/// written to the log. Errors: 42501 no organization or no right, 22023 unknown format, 25006 on a standby, XX001 the log
/// was damaged.
///
/// SAFETY: called by PostgreSQL's function manager with the four arguments that sql/50_audit.sql declares.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_export_audit(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own; each argument is read as the type it is declared with.
    let (format, filter, evidence, mut sink) = unsafe {
        let args = (*fcinfo).args.as_slice(4);
        (
            String::from_datum(args[0].value, args[0].isnull),
            Filter::of_times(&args[1], &args[2]),
            bool::from_datum(args[3].value, args[3].isnull).unwrap_or(false),
            Sink::of_values(fcinfo),
        )
    };
    export(format, &filter, evidence, &mut sink).unwrap_or_report();
    pg_sys::Datum::from(0)
}

fn export(
    format: Option<String>,
    filter: &Filter,
    evidence: bool,
    sink: &mut Sink,
) -> pg::Result<()> {
    let format = pg::given(format, "format")?;
    let csv = match format.as_str() {
        "ndjson" => false,
        "csv" => true,
        _ => {
            return Err(invalid(
                "unknown format of an audit export",
                "It is ndjson or csv.",
            ));
        }
    };
    if csv && evidence {
        return Err(invalid(
            "a CSV export holds no evidence",
            "Evidence is made of layouts, salts and values, which have no columns.",
        ));
    }
    let org = may("org:audit_export", "export an audit log")?;
    require_primary()?;
    let mut lines = 0_u64;
    let mut put = |line: &mut dyn FnMut() -> pg::Result<String>| {
        sink.put(|| line().map(|text| [text.into_datum()]))
    };
    if csv {
        put(&mut || record_of(&COLUMNS.map(Some)))?;
    }
    let mut told: HashSet<LayoutId> = HashSet::new();
    if evidence {
        seal::tables();
    }
    // Lines, numbers and the head of one moment.
    let done: pg::Result<()> = horizon::with_latest_snapshot(|_| {
        let mut exported = evidence.then(|| Exported::begin(&org)).transpose()?;
        read(&org, filter, |line| {
            lines += 1;
            if csv {
                return put(&mut || as_csv(line));
            }
            let (id, known) = line.layout();
            if evidence && told.insert(id) {
                put(&mut || Ok(layout(&id, known).to_string()))?;
            }
            let number = exported.as_mut().map(|e| e.number(line));
            put(&mut || as_json(line, number))
        })?;
        if let Some(exported) = exported
            && let Some(trailer) = exported.trailer()?
        {
            put(&mut || Ok(trailer.clone()))?;
        }
        Ok(())
    });
    done?;
    record(&Act {
        org,
        operation: "export_audit",
        object: "tenancy.audit_log",
        key: json!({}),
        old: None,
        new: Some(
            json!({ "format": format, "evidence": evidence, "lines": lines, "filter": filter.told() }),
        ),
    });
    Ok(())
}

fn invalid(message: &str, detail: &str) -> ErrorReport {
    fail(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
        .set_detail(detail)
        .set_hint("Such as SELECT tenancy.export_audit('ndjson', since => '2026-01-01').")
}

const COLUMNS: [&str; 17] = [
    "at",
    "org_id",
    "actor_id",
    "actor_type",
    "approver_id",
    "db_role",
    "operation",
    "object",
    "key",
    "old",
    "new",
    "result",
    "client_addr",
    "request_id",
    "xid",
    "n",
    "break_glass",
];

fn as_csv(line: &Chunk) -> pg::Result<String> {
    let e = canonical::output(|| line.entry())?;
    let (xid, n) = (e.xid.to_string(), e.n.to_string());
    let fields = [
        Some(e.at.as_str()),
        Some(&e.org),
        e.actor.as_deref(),
        Some(e.author.actor_type.as_str()),
        e.approver.as_deref(),
        Some(&e.author.db_role),
        Some(e.operation),
        Some(e.object),
        e.key.as_deref(),
        e.old.as_deref(),
        e.new.as_deref(),
        Some(&e.author.result),
        e.author.client_addr.as_deref(),
        e.author.request_id.as_deref(),
        Some(&xid),
        Some(&n),
        Some(if e.author.break_glass {
            "true"
        } else {
            "false"
        }),
    ];
    record_of(&fields)
}

/// A record without its end of line, which whoever writes the lines adds. NULL is an empty field.
fn record_of(fields: &[Option<&str>]) -> pg::Result<String> {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::Any(b'\n'))
        .from_writer(vec![]);
    let written = writer.write_record(fields.iter().map(|f| f.unwrap_or("")));
    let bytes = match written.and_then(|()| writer.flush().map_err(Into::into)) {
        Ok(()) => writer.into_inner().unwrap_or_default(),
        Err(_) => vec![],
    };
    let mut text = String::from_utf8(bytes).unwrap_or_default();
    text.pop();
    Ok(text)
}

/// `number`: with evidence, and with the line's number where it is sealed.
fn as_json(line: &Chunk, number: Option<Option<u64>>) -> pg::Result<String> {
    let e = canonical::output(|| line.entry())?;
    let mut out = String::with_capacity(512);
    let text = |t: &str| Json::from(t).to_string();
    let optional = |t: Option<&str>| t.map_or("null".into(), text);
    let raw = |t: &Option<String>| t.clone().unwrap_or("null".into());
    let fields: [(&str, String); 17] = [
        ("at", text(&e.at)),
        ("org_id", text(&e.org)),
        ("actor_id", optional(e.actor.as_deref())),
        ("actor_type", text(&e.author.actor_type)),
        ("approver_id", optional(e.approver.as_deref())),
        ("db_role", text(&e.author.db_role)),
        ("operation", text(e.operation)),
        ("object", text(e.object)),
        ("key", raw(&e.key)),
        ("old", raw(&e.old)),
        ("new", raw(&e.new)),
        ("result", text(&e.author.result)),
        ("client_addr", optional(e.author.client_addr.as_deref())),
        ("request_id", optional(e.author.request_id.as_deref())),
        ("xid", text(&e.xid.to_string())),
        ("n", e.n.to_string()),
        ("break_glass", e.author.break_glass.to_string()),
    ];
    for (i, (name, value)) in fields.iter().enumerate() {
        let separator = if i == 0 { '{' } else { ',' };
        let _ = write!(out, "{separator}\"{name}\":{value}");
    }
    if line.is_erased() {
        out.push_str(",\"erased\":true");
    }
    if let Some(number) = number {
        if let Some(number) = number {
            let _ = write!(out, ",\"number\":{number}");
        }
        let _ = write!(
            out,
            ",\"leaf\":\"{}\",\"evidence\":{}",
            hex(&line.line().leaf),
            proof(line, &e)
        );
    }
    out.push('}');
    Ok(out)
}

/// What, with the fields beside it, makes the leaf.
fn proof(line: &Chunk, e: &Entry) -> Json {
    let (id, _) = line.layout();
    let mut proof = json!({ "layout": id_text(&id), "at": e.microseconds });
    match &line.line().content {
        Content::Body { salt, .. } => {
            proof["salt"] = hex(salt).into();
            proof["body"] = STANDARD.encode(line.body().unwrap_or_default()).into();
        }
        Content::Erased => {
            proof["operation"] = line.line().operation.into();
            proof["values"] = hex(&line.line().values).into();
        }
    }
    proof
}

fn layout(id: &LayoutId, known: &Known) -> Json {
    let columns = &known.format.columns;
    let names = |which: fn(&Column) -> bool| -> Vec<&str> {
        let chosen = columns.iter().filter(|c| which(c));
        chosen.map(|c| c.name.as_str()).collect()
    };
    json!({
        "layout": id_text(id),
        "object": known.format.object,
        "columns": names(|_| true),
        "encodings": columns.iter().map(|c| c.encoding.as_str()).collect::<Vec<_>>(),
        "org_column": names(|c| c.is_org).first(),
        "key": names(|c| c.is_key),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}
