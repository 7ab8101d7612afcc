//! What was measured, as lines of the table and as JSON.

use serde_json::{Value, json};

use crate::rounds::{Samples, Stat};

pub struct Report {
    lines: Vec<Line>,
    measures: Vec<Value>,
}

/// One line of the table.
struct Line {
    part: &'static str,
    measure: String,
    against: String,
    bound: Option<f64>,
    value: Option<Stat>,
    unit: &'static str,
    verdict: &'static str,
}

impl Report {
    pub fn new() -> Report {
        Report {
            lines: Vec::new(),
            measures: Vec::new(),
        }
    }

    /// Keeps the times behind the ratios: microseconds per operation or row.
    pub fn samples(&mut self, part: &'static str, measure: &str, samples: &Samples, extra: Value) {
        let sides: Vec<Value> = samples
            .sides
            .iter()
            .map(|(name, times)| {
                let t = Stat::of(times.clone());
                json!({"side": name, "microseconds": number(t.median), "q1": number(t.q1), "q3": number(t.q3),
                       "rounds": times.len()})
            })
            .collect();
        self.measures
            .push(json!({"part": part, "measure": measure, "sides": sides, "also": extra}));
    }

    /// A ratio that a bound of the specification holds to.
    pub fn bound(
        &mut self,
        part: &'static str,
        measure: &str,
        against: &str,
        value: Stat,
        bound: f64,
    ) {
        self.absolute(part, measure, against, value, "", bound);
    }

    /// A figure with a unit of its own that a bound holds to.
    pub fn absolute(
        &mut self,
        part: &'static str,
        measure: &str,
        against: &str,
        value: Stat,
        unit: &'static str,
        bound: f64,
    ) {
        // As the table shows it: 1.0549 is 1.05.
        let pass = (value.median * 100.0).round() <= (bound * 100.0).round();
        let verdict = if pass { "pass" } else { "short" };
        self.line(
            part,
            measure,
            against,
            Some(bound),
            Some(value),
            unit,
            verdict,
        );
    }

    /// A ratio to an alternative without a bound: are we ahead of it?
    pub fn rival(&mut self, part: &'static str, measure: &str, against: &str, value: Stat) {
        let verdict = match value.median {
            m if m < 0.95 => "ahead",
            m if m <= 1.05 => "level",
            _ => "behind",
        };
        self.line(part, measure, against, None, Some(value), "", verdict);
    }

    /// A figure that is reported only.
    pub fn figure(
        &mut self,
        part: &'static str,
        measure: &str,
        against: &str,
        value: Stat,
        unit: &'static str,
    ) {
        self.line(part, measure, against, None, Some(value), unit, "");
    }

    /// A row of the specification's table whose subject does not exist so far.
    pub fn not_yet(&mut self, part: &'static str, measure: &str, against: &str, bound: f64) {
        self.line(part, measure, against, Some(bound), None, "", "not yet");
    }

    #[allow(clippy::too_many_arguments, reason = "the columns of the table")]
    fn line(
        &mut self,
        part: &'static str,
        measure: &str,
        against: &str,
        bound: Option<f64>,
        value: Option<Stat>,
        unit: &'static str,
        verdict: &'static str,
    ) {
        self.lines.push(Line {
            part,
            measure: measure.into(),
            against: against.into(),
            bound,
            value,
            unit,
            verdict,
        });
    }

    pub fn json(&self, about: Value) -> Value {
        let lines: Vec<Value> = self
            .lines
            .iter()
            .map(|l| {
                json!({"part": l.part, "measure": l.measure, "against": l.against, "bound": l.bound,
                       "unit": if l.unit.is_empty() { "ratio" } else { l.unit },
                       "value": l.value.map(|v| number(v.median)), "q1": l.value.map(|v| number(v.q1)),
                       "q3": l.value.map(|v| number(v.q3)), "verdict": l.verdict})
            })
            .collect();
        json!({"about": about, "lines": lines, "measures": self.measures})
    }

    /// Every line.
    pub fn table(&self) -> String {
        table(self.lines.iter())
    }

    /// The lines that a bound holds to.
    pub fn bounds(&self) -> String {
        table(self.lines.iter().filter(|l| l.bound.is_some()))
    }

    /// The alternatives that are faster.
    pub fn behind(&self) -> String {
        table(self.lines.iter().filter(|l| l.verdict == "behind"))
    }

    pub fn count(&self, verdict: &str) -> usize {
        self.lines.iter().filter(|l| l.verdict == verdict).count()
    }
}

fn table<'a>(lines: impl Iterator<Item = &'a Line>) -> String {
    let lines: Vec<&Line> = lines.collect();
    let width = |cell: fn(&Line) -> &str| {
        let widths = lines.iter().map(|l| cell(l).chars().count());
        widths.fold(7, usize::max)
    };
    let (m, a) = (width(|l| &l.measure), width(|l| &l.against));
    let mut out = String::new();
    let mut row = |cells: [&str; 6]| {
        let [measure, against, bound, ratio, spread, verdict] = cells;
        let text = format!(
            "{measure:<m$}  {against:<a$}  {bound:>7}  {ratio:>7}  {spread:>14}  {verdict}"
        );
        out.push_str(text.trim_end());
        out.push('\n');
    };
    row(["measure", "against", "bound", "ratio", "spread", "verdict"]);
    let mut part = "";
    for l in lines {
        if l.part != part {
            part = l.part;
            row([&format!("-- {part}"), "", "", "", "", ""]);
        }
        let show = |v: f64| shown(v, l.unit);
        row([
            &l.measure,
            &l.against,
            &l.bound.map_or(String::new(), show),
            &l.value.map_or("-".into(), |v| show(v.median)),
            &l.value.map_or(String::new(), |v| {
                format!("{} .. {}", shown(v.q1, ""), shown(v.q3, ""))
            }),
            l.verdict,
        ]);
    }
    out
}

fn shown(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    let space = if unit.is_empty() { "" } else { " " };
    format!("{value:.digits$}{space}{unit}")
}

/// Four significant digits: what the spread leaves of them is less.
fn number(value: f64) -> Value {
    let rounded: f64 = format!("{value:.3e}").parse().expect("a number");
    json!(rounded)
}
