//! A simulation, drawn: prices above, earnings by role below.

use std::path::Path;

use chain::{
    RAO_PER_TAO,
    simulation::{History, Role},
};
use plotters::{coord::Shift, prelude::*};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

const SIZE: (u32, u32) = (900, 760);
const COLORS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(127, 127, 127),
];

/// A named curve over days.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Draws the run into `path`.
pub fn draw(path: &Path, history: &History) -> Drawn {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (above, below) = root.split_vertically(SIZE.1 / 2);
    let over_days = |value: &dyn Fn(&chain::simulation::Day) -> f64| history.days.iter().map(|day| (day.day as f64, value(day))).collect();
    let price = |(s, name): (usize, &String)| {
        let points: Vec<(f64, f64)> = over_days(&|day| day.subnets[s].price);
        let (first, last) = (points.first().map_or(0.0, |p| p.1), points.last().map_or(0.0, |p| p.1));
        let relative = points.into_iter().map(|(day, price)| (day, 100.0 * price / first)).collect();
        Curve { name: format!("{name}: {first:.4} to {last:.4} TAO"), points: relative }
    };
    let prices: Vec<Curve> = history.subnets.iter().enumerate().map(price).collect();
    let tao = |rao: u64| rao as f64 / RAO_PER_TAO as f64;
    let earned = |(r, role): (usize, &Role)| Curve { name: role.name().to_owned(), points: over_days(&|day| tao(day.earned[r])) };
    let earned: Vec<Curve> = Role::ALL.iter().enumerate().map(earned).collect();
    chart(&above, "Price of alpha", "% of the price at the start", SeriesLabelPosition::LowerRight, &prices)?;
    chart(&below, "Earned since the start, at the day's prices", "TAO", SeriesLabelPosition::UpperLeft, &earned)?;
    Ok(root.present()?)
}

fn chart(area: &Area<'_>, title: &str, unit: &str, legend_at: SeriesLabelPosition, curves: &[Curve]) -> Drawn {
    let most = |of: fn(&(f64, f64)) -> f64| curves.iter().flat_map(|curve| &curve.points).map(of).fold(0.0, f64::max);
    // never empty, even where nothing was earned
    let (days, top) = (most(|point| point.0).max(1.0), 1.05 * most(|point| point.1).max(1e-9));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..days, 0.0..top)?;
    let (day, value) = (|day: &f64| format!("{day:.0}"), |value: &f64| short(*value));
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(WHITE).x_desc("day").y_desc(unit).y_labels(6).x_label_formatter(&day).y_label_formatter(&value).draw()?;
    for (curve, color) in curves.iter().zip(COLORS.into_iter().cycle()) {
        let legend = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2));
        chart.draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?.label(&curve.name).legend(legend);
    }
    let mut labels = chart.configure_series_labels();
    labels.position(legend_at).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    Ok(())
}

/// A number for an axis: thousands grouped, small ones with three places that count.
fn short(value: f64) -> String {
    if value >= 1_000.0 {
        let digits = format!("{value:.0}");
        let split: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
        return split.join(",");
    }
    match value {
        0.0 => "0".to_owned(),
        10.0.. => format!("{value:.0}"),
        1.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_labelled_with_few_digits() {
        for (value, label) in [(0.0, "0"), (0.0626, "0.063"), (2.5, "2.5"), (50.0, "50"), (1_250_000.0, "1,250,000")] {
            assert_eq!(short(value), label);
        }
    }
}
