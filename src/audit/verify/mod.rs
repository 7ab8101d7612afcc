//! verify_audit(): an organization's log against what was sealed of it, and that against the signed heads, those in the
//! database and those that somebody kept elsewhere (spec 6.4).
//!
//! Three things are compared, and each is somebody's to forge who may write to the tables: the lines with the leaf hashes
//! that were sealed apart from them (which names the line), the leaf hashes with the roots in the heads, and the heads
//! with their signatures. Against a head that was handed out none of it helps him.

mod erasures;
mod heads;
mod lines;

use super::seal;
use crate::context::authority::Id;
use crate::pg::srf::Sink;
use crate::pg::{self, fail, horizon};
use pg_tenancy_audit_format::Moment;
use pg_tenancy_audit_format::head::Signed;
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

crate::pg::finfo!(pg_finfo_tenancy_verify_audit);

/// `tenancy.verify_audit(org, against)`: a row for everything that is wrong with an organization's log (spec 6.4), none
/// where it is whole. `org`: NULL: the current one. `against`: heads that audit_head() handed out, one or several after
/// each other; NULL: only what the database holds itself, which whoever may write to its files can make agree. Needs
/// org:audit. Errors: 42501 no right, 22023 `against` is no head of this organization.
///
/// SAFETY: called by PostgreSQL's function manager with the two arguments that sql/60_audit_seal.sql declares.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_verify_audit(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own; each argument is read as the type it is declared with.
    let (org, against, mut sink) = unsafe {
        let args = (*fcinfo).args.as_slice(2);
        (
            Uuid::from_datum(args[0].value, args[0].isnull),
            String::from_datum(args[1].value, args[1].isnull),
            Sink::new(fcinfo),
        )
    };
    let run = |sink: &mut Sink| {
        let org = seal::api::audited(org)?;
        let held = against.map_or(Ok(vec![]), |text| held(&org, &text))?;
        seal::tables();
        super::flush();
        let mut report = Report { sink };
        horizon::with_latest_snapshot(|_| verify(&org, held, &mut report))
    };
    run(&mut sink).unwrap_or_report();
    pg_sys::Datum::from(0)
}

/// The heads that the caller holds, the smallest first.
fn held(org: &Id, text: &str) -> pg::Result<Vec<Signed>> {
    let invalid = |detail: String| {
        fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "what the log is to be verified against is no head of it",
        )
        .set_detail(detail)
        .set_hint(
            "Pass the text that tenancy.audit_head() handed out for this organization, unchanged.",
        )
    };
    let mut heads = Signed::parse_all(text).map_err(|what| invalid(what.0.into()))?;
    if heads.iter().any(|h| h.head.org != *org) {
        return Err(invalid("It is of another organization.".into()));
    }
    heads.sort_by_key(|h| h.head.size);
    Ok(heads)
}

/// Where findings go.
struct Report<'a> {
    sink: &'a mut Sink,
}

/// Which line a finding is about, as far as it is known.
#[derive(Clone, Copy, Default)]
struct Place {
    /// From 1.
    number: Option<u64>,
    moment: Option<Moment>,
}

impl Report<'_> {
    fn put(&mut self, finding: &str, place: Place, detail: &str) -> pg::Result<()> {
        pgrx::check_for_interrupts!();
        let moment = place.moment;
        self.sink.put(|| {
            Ok([
                finding.into_datum(),
                place.number.map(|n| n.into()),
                moment.map(|m| m.at.into()),
                moment.map(|m| m.xid.into()),
                moment.map(|m| m.n.into()),
                detail.into_datum(),
            ])
        })
    }
}

fn verify(org: &Id, held: Vec<Signed>, report: &mut Report) -> pg::Result<()> {
    let last = heads::compare(org, held, report)?;
    lines::compare(org, last.as_ref(), report)
}
