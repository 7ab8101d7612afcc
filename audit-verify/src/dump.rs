//! Reads the audit tables themselves, as a dump of them in JSON: what is left of a log where the extension is not there
//! any more. Every line is compared with the hash that its writer stored beside it.

use crate::json::Json;
use crate::line::{Layouts, Result, bad, hex, id, layout_named, optional, optional_id, text};
use crate::value::{instant, shown};
use crate::{Unusable, json};
use pg_tenancy_audit_format::head::uuid;
use pg_tenancy_audit_format::read::{self, Body, Content, Fields, Line, Reader};
use pg_tenancy_audit_format::{Author, Layout, Moment, Operation, iso_time};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

/// What was read of some dumps.
#[derive(Default)]
pub struct Read {
    pub lines: u64,
    pub erased: u64,
    /// Where, and what is wrong there.
    pub bad: Vec<(String, String)>,
}

/// Writes every line of the chunks in these files to `out`, as JSON. The layouts that they are read by may stand in any.
pub fn read(paths: &[PathBuf], out: &mut impl Write) -> std::result::Result<Read, Unusable> {
    let mut layouts = Layouts::new();
    let acts = Layout::of_acts();
    layouts.insert(acts.id(), acts);
    let mut done = Read::default();
    rows(paths, |place, row| {
        if row.get("payload") == Ok(&Json::Null) {
            match layout_named(row, "id") {
                Ok((id, layout)) => drop(layouts.insert(id, layout)),
                Err(why) => done.bad.push((place, why)),
            }
        }
        Ok(())
    })?;
    rows(paths, |place, row| {
        if row.get("payload") != Ok(&Json::Null)
            && let Err(why) = chunk(row, &layouts, &place, &mut done, out)
        {
            done.bad.push((place, why));
        }
        Ok(())
    })?;
    Ok(done)
}

/// Gives `see` each row of the files, and where it stands.
fn rows(
    paths: &[PathBuf],
    mut see: impl FnMut(String, &Json) -> std::result::Result<(), Unusable>,
) -> std::result::Result<(), Unusable> {
    for path in paths {
        let why = |error| format!("{}: {error}", path.display());
        let file = BufReader::new(File::open(path).map_err(why)?);
        for (number, text) in file.lines().enumerate() {
            let text = text.map_err(why)?;
            let place = format!("{}, line {}", path.display(), number + 1);
            match json::parse(&text) {
                Some(row @ Json::Object(_)) => see(place, &row)?,
                _ => {
                    return Err(format!(
                        "{place}: this is no row of an audit table as to_jsonb() shows it"
                    ));
                }
            }
        }
    }
    Ok(())
}

fn chunk(
    row: &Json,
    layouts: &Layouts,
    place: &str,
    done: &mut Read,
    out: &mut impl Write,
) -> Result<()> {
    let org = id(row, "org_id")?;
    let author = Author {
        actor: optional_id(row, "actor_id")?,
        approver: optional_id(row, "approver_id")?,
        break_glass: *row.get("break_glass")? == Json::Bool(true),
        actor_type: text(row, "actor_type")?.into(),
        db_role: text(row, "db_role")?.into(),
        result: text(row, "result")?.into(),
        client_addr: optional(row, "client_addr")?,
        request_id: optional(row, "request_id")?,
    };
    let first = Moment {
        at: instant(text(row, "at")?).ok_or_else(|| bad("at"))?,
        xid: row.get("xid")?.integer().ok_or_else(|| bad("xid"))?,
        n: row.get("n")?.integer().ok_or_else(|| bad("n"))?,
    };
    let lines = row.get("lines")?.integer().ok_or_else(|| bad("lines"))?;
    let payload = text(row, "payload")?.strip_prefix("\\x").and_then(bytes);
    let payload = payload.ok_or_else(|| bad("payload"))?;
    let mut reader = Reader::new(&payload, first, lines).map_err(|what| what.0.to_string())?;
    let known: Vec<&Layout> = reader
        .layouts
        .iter()
        .map(|id| layouts.get(id).ok_or("its layout is in none of the files"))
        .collect::<std::result::Result<_, _>>()?;
    let contexts: Vec<_> = known
        .iter()
        .map(|layout| author.context(&layout.digest, &org))
        .collect();
    while let Some((line, matches)) = reader
        .compare(&payload, &contexts)
        .map_err(|what| what.0.to_string())?
    {
        done.lines += 1;
        if !matches {
            let which = format!("line {} of transaction {}", line.moment.n, first.xid);
            done.bad.push((
                place.to_string(),
                format!("{which} does not match its hash"),
            ));
        }
        done.erased += u64::from(line.content == Content::Erased);
        let shown = one(&line, known[line.layout], &payload, &author, &org, matches)?;
        writeln!(out, "{shown}").map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| hex::<1>(std::str::from_utf8(pair).ok()?).map(|[byte]| byte))
        .collect()
}

fn one(
    line: &Line,
    layout: &Layout,
    payload: &[u8],
    author: &Author,
    org: &[u8; 16],
    matches: bool,
) -> Result<Json<'static>> {
    let given = |text: &str| Json::Text(text.to_string().into());
    let maybe = |text: &Option<String>| text.as_deref().map_or(Json::Null, given);
    let person = |id: &Option<[u8; 16]>| id.as_ref().map_or(Json::Null, |id| given(&uuid(id)));
    let mut operation = Operation::of(line.operation)
        .and_then(Operation::name)
        .unwrap_or_default()
        .to_string();
    let mut object = layout.object.clone();
    let (mut key, mut old, mut new) = (Json::Null, Json::Null, Json::Null);
    if let Content::Body { body, .. } = &line.content {
        let row = |fields: &Fields| {
            let shown = fields.iter().map(|(i, field)| {
                let column = &layout.columns[*i];
                (
                    column.name.clone().into(),
                    shown(&column.encoding, field, org),
                )
            });
            Json::Object(shown.collect())
        };
        let act = |text: &str| json::parse(text).map_or(Json::Null, |json| json.owned());
        match read::body(layout, &payload[body.clone()]).map_err(|what| what.0.to_string())? {
            Body::Row {
                key: of,
                old: was,
                new: is,
                ..
            } => {
                key = row(&of);
                old = was.as_ref().map_or(Json::Null, row);
                new = is.as_ref().map_or(Json::Null, row);
            }
            Body::Truncate => {}
            Body::Act {
                operation: what,
                object: which,
                key: of,
                old: was,
                new: is,
            } => {
                (operation, object) = (what.into(), which.into());
                key = act(of);
                old = was.map_or(Json::Null, act);
                new = is.map_or(Json::Null, act);
            }
        }
    }
    let number = |n: String| Json::Number(n.into());
    let fields = [
        ("at", given(&iso_time(line.moment.at))),
        ("xid", given(&line.moment.xid.to_string())),
        ("n", number(line.moment.n.to_string())),
        ("org_id", given(&uuid(org))),
        ("actor_id", person(&author.actor)),
        ("actor_type", given(&author.actor_type)),
        ("approver_id", person(&author.approver)),
        ("db_role", given(&author.db_role)),
        ("operation", given(&operation)),
        ("object", given(&object)),
        ("key", key),
        ("old", old),
        ("new", new),
        ("result", given(&author.result)),
        ("client_addr", maybe(&author.client_addr)),
        ("request_id", maybe(&author.request_id)),
        ("break_glass", Json::Bool(author.break_glass)),
        ("erased", Json::Bool(line.content == Content::Erased)),
        ("matches", Json::Bool(matches)),
    ];
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value));
    Ok(Json::Object(fields.collect()))
}

/// So many of what is wrong are printed.
const SHOWN: usize = 100;

/// The command: lines to standard output, what is wrong with them and how many there are to standard error. Whether all
/// is whole.
pub fn run(paths: &[PathBuf]) -> std::result::Result<bool, Unusable> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let done = read(paths, &mut out)?;
    out.flush().map_err(|error| error.to_string())?;
    for (place, why) in done.bad.iter().take(SHOWN) {
        eprintln!("FOUND: {place}: {why}");
    }
    eprintln!(
        "{} lines of the log, {} erased, {}",
        done.lines,
        done.erased,
        match done.bad.len() {
            0 => "each matches its hash".to_string(),
            n => format!("{n} findings"),
        }
    );
    Ok(done.bad.is_empty())
}
