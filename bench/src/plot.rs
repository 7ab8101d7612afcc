//! The results as a picture, made from their JSON: every ratio on one logarithmic scale, with its bound.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

use crate::Result;

const ROW: u32 = 18;
const LABELS: u32 = 430;
const HEAD: u32 = 74;

/// What stands on one row: a measure with all it was held against, or the title of a part.
struct Entry<'a> {
    label: &'a str,
    lines: Vec<&'a Value>,
}

fn entries(results: &Value) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut part = "";
    let lines = results["lines"].as_array().into_iter().flatten();
    for line in lines.filter(|l| matches!(l["unit"].as_str(), Some("ratio" | "x"))) {
        if line["value"].is_null() {
            continue;
        }
        let text = |key: &str| line[key].as_str().unwrap_or_default();
        if text("part") != part {
            part = text("part");
            entries.push(Entry {
                label: part,
                lines: Vec::new(),
            });
        }
        match entries.last_mut() {
            Some(last) if last.label == text("measure") => last.lines.push(line),
            _ => entries.push(Entry {
                label: text("measure"),
                lines: vec![line],
            }),
        }
    }
    entries
}

pub fn svg(results: &Value) -> Result<String> {
    let entries = entries(results);
    let values = entries.iter().flat_map(|e| &e.lines).flat_map(|l| {
        ["value", "bound"]
            .into_iter()
            .filter_map(|key| l[key].as_f64())
    });
    let (low, high) = values.fold((0.5, 2.0), |(low, high): (f64, f64), v| {
        (low.min(v), high.max(v))
    });

    let mut picture = String::new();
    let size = (1100, HEAD + ROW * entries.len() as u32 + 40);
    {
        let area = SVGBackend::with_string(&mut picture, size).into_drawing_area();
        area.fill(&WHITE)?;
        let about = &results["about"];
        let text = |size: i32| ("sans-serif", size).into_font();
        let title =
            "pg_tenancy: its time / the time of what it is held against (left of 1 is faster)";
        area.draw(&Text::new(title, (12, 10), text(16).color(&BLACK)))?;
        let small = text(12).color(&BLACK.mix(0.7));
        let by = format!(
            "{}, pg_tenancy {}, {}, {} cores.  Green: within its bound.  Red: short of it.  Tick: the bound.  Ring: an alternative without bound.  Bar: quartiles.",
            about["date"].as_str().unwrap_or_default(),
            about["pg_tenancy"].as_str().unwrap_or_default(),
            about["postgresql"]
                .as_str()
                .unwrap_or_default()
                .split(" (")
                .next()
                .unwrap_or_default(),
            about["machine"]["cores"],
        );
        area.draw(&Text::new(by, (12, 34), small.clone()))?;

        let mut chart = ChartBuilder::on(&area)
            .margin_top(HEAD - 20)
            .margin_right(20)
            .x_label_area_size(40)
            .margin_left(LABELS)
            .build_cartesian_2d(
                (low * 0.8..high * 1.25).log_scale(),
                entries.len() as f64..0.0,
            )?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12))
            .x_labels(12)
            .x_label_formatter(&|v| format!("{v}"))
            .x_label_style(small.clone())
            .draw()?;
        chart.draw_series([PathElement::new(
            vec![(1.0, 0.0), (1.0, entries.len() as f64)],
            BLACK.mix(0.5),
        )])?;
        for (i, entry) in entries.iter().enumerate() {
            let y = i as f64 + 0.5;
            let (_, pixel) = chart.plotting_area().map_coordinate(&(1.0, y));
            let right = Pos::new(HPos::Right, VPos::Center);
            let style = if entry.lines.is_empty() {
                text(13).color(&BLUE.mix(0.8)).pos(right)
            } else {
                small.clone().pos(right)
            };
            area.draw(&Text::new(entry.label, (LABELS as i32 - 10, pixel), style))?;
            for line in &entry.lines {
                let number = |key: &str| line[key].as_f64();
                let value = number("value").unwrap_or(1.0);
                let color = match line["verdict"].as_str() {
                    Some("pass") => RGBColor(20, 140, 60),
                    Some("short") => RGBColor(200, 30, 30),
                    _ => RGBColor(90, 110, 150),
                };
                if let (Some(q1), Some(q3)) = (number("q1"), number("q3")) {
                    let bar = vec![(q1.max(low * 0.8), y), (q3.min(high * 1.25), y)];
                    chart.draw_series([PathElement::new(bar, color.stroke_width(2))])?;
                }
                if let Some(bound) = number("bound") {
                    let tick = vec![(bound, y - 0.4), (bound, y + 0.4)];
                    chart.draw_series([PathElement::new(tick, BLACK.stroke_width(2))])?;
                    chart.draw_series([Circle::new((value, y), 4, color.filled())])?;
                } else {
                    chart.draw_series([Circle::new((value, y), 4, color.stroke_width(1))])?;
                }
            }
        }
        area.present()?;
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_ratio_gets_a_mark_and_every_bound_a_tick() {
        let line = |measure: &str, bound: Value, verdict: &str| {
            json!({"part": "reads", "measure": measure, "unit": "ratio", "bound": bound, "value": 1.02, "q1": 1.0,
                   "q3": 1.1, "verdict": verdict})
        };
        let results = json!({"about": {"date": "today"}, "lines": [
            line("point read", json!(1.05), "pass"), line("point read", Value::Null, "ahead"),
            json!({"part": "other", "measure": "m", "unit": "ms", "value": 3.0, "verdict": "pass"})]});
        let picture = svg(&results).unwrap();
        assert_eq!(picture.matches("<circle").count(), 2);
        assert!(picture.contains("point read") && picture.contains("today"));
        assert!(!picture.contains(">m<"));
    }
}
