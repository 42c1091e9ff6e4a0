//! The plots, as SVG.

use crate::{
    Result, plan,
    results::{Measured, Results, Row},
};
use plotters::{
    coord::Shift,
    element::{PathElement, Text},
    prelude::{ChartBuilder, DrawingArea, IntoDrawingArea, IntoLogRange, LineSeries, SVGBackend},
    style::{BLACK, Color, HSLColor, RED, ShapeStyle, WHITE},
};
use shmworker_benches::Unit;
use std::path::Path;

/// A file that was drawn.
pub(crate) struct Plot {
    pub(crate) letter: &'static str,
    pub(crate) title: String,
    pub(crate) file: String,
}

/// A line: whose it is, the table that it is from, and its points.
type Line<'r> = (&'r Row, &'r Measured, Vec<(f64, f64)>);

pub(crate) fn draw(results: &Results, into: &Path) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    let mut add = |letter,
                   file: &str,
                   title: &str,
                   axes: [&str; 2],
                   show: fn(f64) -> String,
                   lines: Vec<Line<'_>>|
     -> Result<()> {
        let lines: Vec<_> = lines.into_iter().filter(|(_, _, points)| points.len() > 1).collect();
        if !lines.is_empty() {
            chart(&into.join(file), title, axes, show, &lines)?;
            plots.push(Plot { letter, title: title.to_owned(), file: file.to_owned() });
        }
        Ok(())
    };
    for (case, file) in [("two-cores", "busy.svg"), ("asleep", "asleep.svg"), ("one-core", "one-core.svg")] {
        if let Some(table) = results.table(&format!("round_trip placement={case}")) {
            let title = format!("Round trip, {}: share of trips that took longer", table.title);
            add(
                "a",
                file,
                &title,
                ["time of a trip", "trips that took longer"],
                ns,
                table.rows.iter().map(|row| (row, table, slower(row))).collect(),
            )?;
        }
    }
    let rates = across(results.section("b"), |case| value(case, "workers="));
    add("b", "throughput.svg", "Tasks a second, 1,024 outstanding", ["workers", "tasks a second"], plain, rates)?;
    for (mode, file) in [("copied", "copied.svg"), ("in-place", "in-place.svg")] {
        let tables = results.section("c").filter(|t| t.case.contains(&format!("mode={mode} ")));
        let costs = across(tables, |case| value(case, "bytes="));
        add("c", file, &format!("A payload there, {mode}, and a digest back"), ["bytes", "time"], plain, costs)?;
    }
    Ok(plots)
}

fn value(case: &str, key: &str) -> Option<f64> {
    case.split(' ').find_map(|word| word.strip_prefix(key))?.parse().ok()
}

/// For each time the share of trips that took longer.
fn slower(row: &Row) -> Vec<(f64, f64)> {
    let n = row.distribution.len();
    // A few hundred points, close together towards the slow end.
    let ranks = (0..300).map(|i| n - (n as f64).powf(1.0 - f64::from(i) / 300.0) as usize);
    let mut points: Vec<_> =
        ranks.filter(|r| *r < n).map(|r| (row.distribution[r], (n - r) as f64 / n as f64)).collect();
    points.dedup();
    points
}

/// The medians of several tables, by what tells them apart.
fn across<'r>(tables: impl Iterator<Item = &'r Measured>, x: impl Fn(&str) -> Option<f64>) -> Vec<Line<'r>> {
    let mut lines: Vec<Line<'r>> = Vec::new();
    for table in tables {
        for row in table.rows.iter().filter(|r| r.unit.is_some()) {
            let (Some(x), Some(spread)) = (x(&table.case), row.spread(0)) else { continue };
            let point = (x, spread.median);
            match lines.iter_mut().find(|(r, _, _)| r.peer == row.peer) {
                Some((_, _, points)) => points.push(point),
                None => lines.push((row, table, vec![point])),
            }
        }
    }
    lines
}

fn ns(x: f64) -> String {
    Unit::Ns.show(x)
}

fn plain(x: f64) -> String {
    if x >= 1024.0 { plan::size(x as usize) } else { format!("{x}") }
}

/// Both axes are logarithmic.
fn chart(
    file: &Path,
    title: &str,
    [x_axis, y_axis]: [&str; 2],
    show_x: fn(f64) -> String,
    lines: &[Line<'_>],
) -> Result<()> {
    let area = SVGBackend::new(file, (1120, 600)).into_drawing_area();
    draw_on(&area, title, [x_axis, y_axis], show_x, lines).map_err(|e| format!("{}: {e}", file.display()))?;
    area.present().map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(())
}

fn draw_on(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    [x_axis, y_axis]: [&str; 2],
    show_x: fn(f64) -> String,
    lines: &[Line<'_>],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE).map_err(|e| e.to_string())?;
    let is_share = y_axis.starts_with("trips");
    let points = || lines.iter().flat_map(|line| &line.2);
    // Workers and bytes double.
    let base = if is_share { 10.0 } else { 2.0 };
    let range = |of: fn(&(f64, f64)) -> f64, base| {
        let (least, most) = points().map(of).fold((f64::INFINITY, 0.0f64), |(a, b), v| (a.min(v), b.max(v)));
        (least * 0.9..most * 1.1).log_scale().base(base)
    };
    let unit = lines[0].0.unit.unwrap_or(Unit::Ns);
    let (left, legend) = area.split_horizontally(800);
    let mut chart = ChartBuilder::on(&left)
        .caption(title, ("sans-serif", 20))
        .margin(10)
        .margin_right(25)
        .x_label_area_size(45)
        .y_label_area_size(95)
        .build_cartesian_2d(range(|p| p.0, base), range(|p| p.1, 10.0))
        .map_err(|e| e.to_string())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 16))
        .x_desc(x_axis)
        .y_desc(y_axis)
        .x_label_formatter(&|x| show_x(*x))
        .y_label_formatter(&|y| {
            if is_share { format!("{} %", shmworker_benches::Digits(y * 100.0)) } else { unit.show(*y) }
        })
        .draw()
        .map_err(|e| e.to_string())?;
    for (i, (row, table, points)) in lines.iter().enumerate() {
        // Ours, and the limit, are to be found at once.
        let style: ShapeStyle = match row.peer.as_str() {
            "pool" => RED.stroke_width(4),
            "raw" | "futex" => BLACK.stroke_width(4),
            "raw_line" | "read" => BLACK.stroke_width(2),
            // The same in each plot. From yellow over green and blue to purple, neighbours far apart (by the golden ratio):
            // all but the red of ours.
            name => {
                let place = plan::PEERS.iter().position(|p| p.name == name).unwrap_or_default();
                let hue = 0.12 + 0.75 * (place as f64 * 0.618).fract();
                HSLColor(hue, 0.8, [0.42, 0.28, 0.58][place % 3]).stroke_width(2)
            }
        };
        chart.draw_series(LineSeries::new(points.iter().copied(), style)).map_err(|e| e.to_string())?;
        let y = 50 + 22 * i as i32;
        legend.draw(&PathElement::new([(0, y), (25, y)], style)).map_err(|e| e.to_string())?;
        let name = row.title(&table.case).replace(['*', '`'], "");
        // What it does, behind a colon, is for tables.
        let name = name.split(':').next().unwrap_or_default().to_owned();
        legend.draw(&Text::new(name, (32, y - 6), ("sans-serif", 14))).map_err(|e| e.to_string())?;
    }
    Ok(())
}
