//! The plot.

use plotters::{
    prelude::{
        ChartBuilder, Circle, IntoDrawingArea, IntoLogRange, LineSeries, PathElement, SVGBackend, SeriesLabelPosition,
    },
    style::{BLACK, Color, Palette, Palette99, WHITE},
};
use std::{error::Error, path::Path};

/// Rates by cores.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Both axes are logarithmic. Each three lines share a colour, and get stronger.
pub(crate) fn draw(file: &Path, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let rates = || lines.iter().flat_map(|line| &line.points).map(|point| point.1);
    let (least, most) = (rates().fold(f64::MAX, f64::min), rates().fold(0.0, f64::max));
    let area = SVGBackend::new(file, (1000, 600)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Simulated: tasks a second, EPYC 7R13, one submitter in each domain of 8 cores", ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(45)
        .y_label_area_size(80)
        .build_cartesian_2d((3.6f64..140.0).log_scale().base(2.0), (least * 0.8..most * 1.3).log_scale())?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("cores").y_desc("million tasks a second").draw()?;
    for (i, line) in lines.iter().enumerate() {
        let colour = Palette99::pick(i / 3).mix([0.3, 0.55, 1.0][i % 3]);
        let width = 1 + i as u32 % 3;
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(width)))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(width)));
        chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.2))
        .draw()?;
    area.present()?;
    Ok(())
}
