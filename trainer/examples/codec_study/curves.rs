//! The held-out loss by round, drawn.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};

use crate::{
    comparison::{Comparison, Series},
    tables,
};

/// Pixels of one comparison.
const SIZE: (u32, u32) = (900, 560);

/// One for each variant, in turn.
const COLORS: [RGBColor; 10] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(127, 127, 127),
    RGBColor(188, 189, 34),
    RGBColor(23, 190, 207),
];

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws comparisons below each other, a line for each variant.
pub fn draw(path: &Path, comparisons: &[Comparison]) -> Result<()> {
    let draw = || -> Drawn {
        let root = SVGBackend::new(path, (SIZE.0, SIZE.1 * comparisons.len().max(1) as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, comparison) in root.split_evenly((comparisons.len(), 1)).iter().zip(comparisons) {
            draw_one(area, comparison)?;
        }
        Ok(root.present()?)
    };
    draw().map_err(|e| anyhow!("{}: {e}", path.display()))
}

fn draw_one(area: &DrawingArea<SVGBackend<'_>, Shift>, comparison: &Comparison) -> Drawn {
    // the first third goes from a uniform guess to most of what is learnt: beside it, no difference would show
    let start = comparison.rounds.div_ceil(3) as f64;
    let late = |series: &Series| -> Vec<(f64, f64)> {
        series.curve().into_iter().map(|(round, loss)| (round as f64, loss)).filter(|(round, _)| *round >= start).collect()
    };
    let curves: Vec<Vec<(f64, f64)>> = comparison.variants.iter().map(late).collect();
    let losses = || curves.iter().flatten().map(|(_, loss)| *loss);
    let (least, most) = (losses().fold(f64::MAX, f64::min), losses().fold(f64::MIN, f64::max));
    let margin = 0.03 * (most - least).max(f64::EPSILON);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}: held-out loss by round", comparison.setting.config), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(start..comparison.rounds as f64, least - margin..most + margin)?;
    let (x, y) = (|round: &f64| format!("{round:.0}"), |loss: &f64| format!("{loss:.2}"));
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(WHITE).x_desc("round").y_desc("bits per byte").x_label_formatter(&x).y_label_formatter(&y).draw()?;
    for ((series, curve), color) in comparison.variants.iter().zip(curves).zip(COLORS.into_iter().cycle()) {
        let label = format!("{} ({:.0} bits per chunk, {})", series.name, series.mean(|run| run.bits_per_chunk), tables::seeds(series));
        let legend = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2));
        chart.draw_series(LineSeries::new(curve, color.stroke_width(2)))?.label(label).legend(legend);
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::{compare, tests::run};

    #[test]
    fn each_variant_has_a_line_and_a_label() -> Result<()> {
        let runs = vec![run("sign2-k64", 0, &[8.0, 4.0, 3.0]), run("sign2-k64", 1, &[8.0, 4.0, 3.5]), run("dense", 0, &[8.0, 3.0, 2.5])];
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("curves.svg");
        draw(&path, &compare(runs)?)?;
        let svg = std::fs::read_to_string(&path)?;
        for label in ["sign2-k64 (7200 bits per chunk, 2 seeds)", "dense (4000 bits per chunk, 1 seed)"] {
            assert!(svg.contains(label), "no {label} in\n{svg}");
        }
        assert!(COLORS[..2].iter().all(|c| svg.contains(&format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2))));
        Ok(())
    }
}
