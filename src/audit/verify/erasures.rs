//! Erased lines, and the acts that say who erased them. A line without its values is as the format allows, so whoever
//! writes to the tables could take the values of any line away: without an act in the log, which is sealed like all
//! others, that is a finding.

use super::{Place, Report};
use crate::audit::show::Chunk;
use crate::pg;
use pg_tenancy_audit_format::read::{self, Body, Content, Line};
use pg_tenancy_audit_format::{Layout, Moment, Operation};
use serde_json::Value as Json;
use std::collections::HashSet;

/// How the act is called.
const ACT: &str = "erase_audit";

#[derive(Default)]
pub struct Erasures {
    /// With the line's number, where it is sealed.
    erased: Vec<(Option<u64>, Moment)>,
    /// Transaction and number in it of the lines that acts name.
    recorded: HashSet<(u64, i32)>,
}

impl Erasures {
    /// Looks at the line that the chunk stands at.
    pub fn see(&mut self, chunk: &Chunk, number: Option<u64>) {
        let line: &Line = chunk.line();
        if line.content == Content::Erased {
            self.erased.push((number, line.moment));
        } else if line.operation == Operation::Act as u8
            && let Some(body) = chunk.body()
        {
            self.record(body);
        }
    }

    fn record(&mut self, body: &[u8]) {
        if !read::act_names(body).is_ok_and(|(operation, _)| operation == ACT) {
            return;
        }
        let Ok(Body::Act { new: Some(new), .. }) = read::body(&Layout::of_acts(), body) else {
            return;
        };
        let new: Json = serde_json::from_str(new).unwrap_or_default();
        for line in new["lines"].as_array().into_iter().flatten() {
            // An id of 64 bits is a text in JSON.
            let xid = match &line["xid"] {
                Json::String(text) => text.parse().ok(),
                number => number.as_u64(),
            };
            let n = line["n"].as_i64().and_then(|n| i32::try_from(n).ok());
            self.recorded.extend(xid.zip(n));
        }
    }

    pub fn report(self, report: &mut Report) -> pg::Result<()> {
        for (number, moment) in self.erased {
            if !self.recorded.contains(&(moment.xid, moment.n)) {
                let place = Place {
                    number,
                    moment: Some(moment),
                };
                report.put(
                    "erased",
                    place,
                    "The line's values are gone, and the log does not say who erased them.",
                )?;
            }
        }
        Ok(())
    }
}
