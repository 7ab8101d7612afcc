//! A line of an export: that its evidence leads to its leaf hash, and that what it shows is what the evidence says.

use crate::json::Json;
use crate::value;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pg_tenancy_audit_format::head::parse_uuid;
use pg_tenancy_audit_format::read::{self, Body, Fields};
use pg_tenancy_audit_format::{
    self as format, Author, Column, Digest, Layout, LayoutId, Moment, Operation, shape,
};
use std::collections::HashMap;

pub type Layouts = HashMap<LayoutId, Layout>;

/// What is wrong with a line, in words.
pub type Result<T> = std::result::Result<T, String>;

pub struct Checked {
    /// Its place in the tree; None where it is not sealed.
    pub index: Option<u64>,
    pub org: [u8; 16],
    pub leaf: Digest,
    /// Values of types that this program does not read.
    pub uncompared: u64,
    pub erased: bool,
}

fn field<'a, 'b>(json: &'b Json<'a>, name: &str) -> Result<&'b Json<'a>> {
    json.get(name)
}

pub fn bad(name: &str) -> String {
    format!("\"{name}\" is not what it should be")
}

pub fn text<'b>(json: &'b Json, name: &str) -> Result<&'b str> {
    field(json, name)?.text().ok_or_else(|| bad(name))
}

pub fn optional(json: &Json, name: &str) -> Result<Option<String>> {
    match field(json, name)? {
        Json::Null => Ok(None),
        Json::Text(text) => Ok(Some(text.to_string())),
        _ => Err(bad(name)),
    }
}

pub fn id(json: &Json, name: &str) -> Result<[u8; 16]> {
    parse_uuid(text(json, name)?).ok_or_else(|| bad(name))
}

pub fn optional_id(json: &Json, name: &str) -> Result<Option<[u8; 16]>> {
    match optional(json, name)? {
        None => Ok(None),
        Some(text) => parse_uuid(&text).map(Some).ok_or_else(|| bad(name)),
    }
}

pub fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

fn texts(json: &Json, name: &str) -> Result<Vec<String>> {
    let Json::List(list) = field(json, name)? else {
        return Err(bad(name));
    };
    list.iter()
        .map(|t| t.text().map(String::from).ok_or_else(|| bad(name)))
        .collect()
}

/// A layout that lines are read by. Its name is its hash, so nothing need be believed.
pub fn layout(json: &Json) -> Result<(LayoutId, Layout)> {
    layout_named(json, "layout")
}

/// The same where its id is called otherwise.
pub fn layout_named(json: &Json, name: &str) -> Result<(LayoutId, Layout)> {
    let (names, encodings) = (texts(json, "columns")?, texts(json, "encodings")?);
    let (org, key) = (optional(json, "org_column")?, texts(json, "key")?);
    if names.len() != encodings.len() {
        return Err(bad("encodings"));
    }
    let columns = names
        .into_iter()
        .zip(encodings)
        .map(|(name, encoding)| {
            Ok(Column {
                shape: shape(&encoding).ok_or_else(|| bad("encodings"))?,
                is_org: org.as_ref() == Some(&name),
                is_key: key.contains(&name),
                encoding,
                name,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let layout = Layout::new(text(json, "object")?, columns);
    if layout.id() != id(json, name)? {
        return Err("a layout is not what its id says".into());
    }
    Ok((layout.id(), layout))
}

pub fn check(json: &Json, layouts: &Layouts) -> Result<Checked> {
    let org = id(json, "org_id")?;
    let moment = Moment {
        at: value::instant(text(json, "at")?).ok_or_else(|| bad("at"))?,
        xid: field(json, "xid")?.integer().ok_or_else(|| bad("xid"))?,
        n: field(json, "n")?.integer().ok_or_else(|| bad("n"))?,
    };
    let author = Author {
        actor: optional_id(json, "actor_id")?,
        approver: optional_id(json, "approver_id")?,
        break_glass: *field(json, "break_glass")? == Json::Bool(true),
        actor_type: text(json, "actor_type")?.into(),
        db_role: text(json, "db_role")?.into(),
        result: text(json, "result")?.into(),
        client_addr: optional(json, "client_addr")?.map(|a| {
            // As inet shows one host.
            let host = a.strip_suffix("/32").or_else(|| a.strip_suffix("/128"));
            host.unwrap_or(&a).to_string()
        }),
        request_id: optional(json, "request_id")?,
    };
    let evidence = field(json, "evidence")?;
    let layout_id = id(evidence, "layout")?;
    let layout = layouts
        .get(&layout_id)
        .ok_or("its layout does not stand in the export")?;
    let body = optional(evidence, "body")?
        .map(|body| STANDARD.decode(body).map_err(|_| bad("body")))
        .transpose()?;
    let (operation, values) = match &body {
        Some(body) => {
            let salt = hex(text(evidence, "salt")?).ok_or_else(|| bad("salt"))?;
            let operation = *body.first().ok_or_else(|| bad("body"))?;
            (operation, format::values(&salt, body))
        }
        None => {
            let values = hex(text(evidence, "values")?).ok_or_else(|| bad("values"))?;
            let operation = field(evidence, "operation")?;
            (operation.integer().ok_or_else(|| bad("operation"))?, values)
        }
    };
    let leaf = format::leaf(
        &author.context(&layout.digest, &org),
        moment,
        operation,
        &values,
    );
    if let Some(said) = optional(json, "leaf")?
        && hex(&said) != Some(leaf)
    {
        return Err("it does not match its hash".into());
    }
    let index = match field(json, "number")? {
        Json::Null => None,
        number => Some(
            number
                .integer::<u64>()
                .and_then(|n| n.checked_sub(1))
                .ok_or_else(|| bad("number"))?,
        ),
    };
    let uncompared = match &body {
        Some(body) => compare(json, layout, body, &org)?,
        None => {
            shown_as(json, layout, operation)?;
            for name in ["key", "old", "new"] {
                if *field(json, name)? != Json::Null {
                    return Err(format!("it was erased and shows \"{name}\""));
                }
            }
            0
        }
    };
    Ok(Checked {
        index,
        org,
        leaf,
        uncompared,
        erased: body.is_none(),
    })
}

fn shown_as(json: &Json, layout: &Layout, operation: u8) -> Result<()> {
    if operation == Operation::Act as u8 {
        return Ok(());
    }
    let name = Operation::of(operation).and_then(Operation::name);
    if name.is_none() || field(json, "operation")?.text() != name {
        return Err(differs("operation"));
    }
    if field(json, "object")?.text() != Some(&layout.object) {
        return Err(differs("object"));
    }
    Ok(())
}

fn differs(name: &str) -> String {
    format!("what it shows as \"{name}\" is not what was written")
}

/// What the line shows with what its body says; answers how many values could not be compared.
fn compare(json: &Json, layout: &Layout, body: &[u8], org: &[u8; 16]) -> Result<u64> {
    let parsed = read::body(layout, body).map_err(|what| what.0.to_string())?;
    shown_as(json, layout, body[0])?;
    match parsed {
        Body::Row { key, old, new, .. } => {
            let key = (!key.is_empty()).then_some(key);
            Ok(row(json, "key", layout, key.as_ref(), org)?
                + row(json, "old", layout, old.as_ref(), org)?
                + row(json, "new", layout, new.as_ref(), org)?)
        }
        Body::Truncate => {
            for name in ["key", "old", "new"] {
                row(json, name, layout, None, org)?;
            }
            Ok(0)
        }
        Body::Act {
            operation,
            object,
            key,
            old,
            new,
        } => {
            for (name, own) in [("operation", operation), ("object", object)] {
                if text(json, name)? != own {
                    return Err(differs(name));
                }
            }
            for (name, own) in [("key", Some(key)), ("old", old), ("new", new)] {
                let shown = field(json, name)?;
                let own = match own {
                    Some(own) => crate::json::parse(own).ok_or_else(|| bad(name))?,
                    None => Json::Null,
                };
                if !own.same(shown) {
                    return Err(differs(name));
                }
            }
            Ok(0)
        }
    }
}

fn row(
    json: &Json,
    name: &str,
    layout: &Layout,
    fields: Option<&Fields>,
    org: &[u8; 16],
) -> Result<u64> {
    let (shown, fields) = match (field(json, name)?, fields) {
        (Json::Null, None) => return Ok(0),
        (Json::Object(shown), Some(fields)) => (shown, fields),
        _ => return Err(differs(name)),
    };
    if shown.len() != fields.len() {
        return Err(differs(name));
    }
    let mut uncompared = 0;
    for (i, own) in fields {
        let column = &layout.columns[*i];
        let mut of_name = shown.iter().filter(|(n, _)| *n == column.name);
        let (Some((_, value)), None) = (of_name.next(), of_name.next()) else {
            return Err(differs(name));
        };
        match value::same(&column.encoding, own, org, value) {
            Some(true) => {}
            Some(false) => {
                return Err(format!("{}: column \"{}\"", differs(name), column.name));
            }
            None => uncompared += 1,
        }
    }
    Ok(uncompared)
}
