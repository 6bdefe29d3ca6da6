//! A suite's results, drawn.

use std::path::Path;

use plotters::{coord::Shift, prelude::*};

use crate::{
    ArenaError,
    report::{Pay, UNPAID, work_and_pay},
    suite::{Bar, Results, suite},
    tiny,
};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Pixels of one strategy's plot, and how many stand side by side.
const SMALL: (u32, u32) = (230, 170);
const COLUMNS: usize = 4;
/// Pixels of the others.
const LARGE: (u32, u32) = (900, 480);
const BLUE: RGBColor = RGBColor(31, 119, 180);
const COLORS: [RGBColor; 5] = [BLUE, RGBColor(255, 127, 14), GRAY, RGBColor(44, 160, 44), RGBColor(214, 39, 40)];
const GRAY: RGBColor = RGBColor(170, 170, 170);
/// The bouts whose losses are drawn.
const LOSSES: [&str; 5] = ["honest", "absent-15", "absent-15-2", "mixed", "coalition"];

/// Draws pay by round, loss by round, and pay by work into `folder`, as far as their bouts were held; the names of the files.
///
/// # Errors
/// [`ArenaError::Setup`] if a file cannot be written.
pub fn draw(folder: &Path, prefix: &str, results: &Results) -> Result<Vec<String>, ArenaError> {
    let steps = tiny()?.inner.steps;
    let pay: Vec<Panel> = panels(results);
    let losses: Vec<(&str, &[(u64, f64)])> =
        LOSSES.into_iter().filter_map(|name| Some((name, results.outcome(name)?.held_out.as_slice()))).collect();
    let work: Vec<(&str, Vec<(f64, f64)>)> = suite(&results.scale)
        .iter()
        .filter_map(|bout| results.outcomes.get_key_value(&bout.name).filter(|_| bout.bars.iter().any(|b| matches!(b, Bar::Order(_)))))
        .map(|(name, outcome)| (name.as_str(), work_and_pay(outcome, steps).into_iter().map(|w| (w.0, 100.0 * w.1)).collect()))
        .collect();
    let mut names = Vec::new();
    let mut plot = |name: &str, is_empty: bool, draw: &dyn Fn(&Path) -> Drawn| {
        if is_empty {
            return Ok(());
        }
        let name = format!("{prefix}-{name}.svg");
        let path = folder.join(&name);
        draw(&path).map_err(|e| ArenaError::Setup(format!("drawing {}: {e}", path.display())))?;
        names.push(name);
        Ok::<_, ArenaError>(())
    };
    plot("pay", pay.is_empty(), &|path| draw_pay(path, &pay))?;
    plot("loss", losses.is_empty(), &|path| draw_losses(path, &losses))?;
    plot("work", work.is_empty(), &|path| draw_work(path, &work))?;
    Ok(names)
}

/// One bout's adversaries: by round, what they are paid relative to honest miners in their places.
struct Panel {
    name: String,
    relative: Vec<(f64, f64)>,
    rounds: f64,
}

fn panels(results: &Results) -> Vec<Panel> {
    let panel = |bout: crate::suite::Bout| {
        let outcome = results.outcome(&bout.name).filter(|_| !bout.reference)?;
        let (pay, baseline) = (Pay::of(outcome), Pay::of(results.outcome(bout.baseline)?));
        let (places, rounds) = (pay.adversaries(), outcome.rounds.len() as f64);
        // workers are no adversaries
        if places.is_empty() || pay.honest().is_empty() {
            return None;
        }
        let relative = pay.relative(&places, &baseline).into_iter().map(|(round, share)| (round as f64 + 1.0, 100.0 * share)).collect();
        Some(Panel { name: bout.name, relative, rounds })
    };
    suite(&results.scale).into_iter().filter_map(panel).collect()
}

fn draw_pay(path: &Path, panels: &[Panel]) -> Drawn {
    let rows = panels.len().div_ceil(COLUMNS);
    let title = 40;
    let root = SVGBackend::new(path, (SMALL.0 * COLUMNS as u32, SMALL.1 * rows as u32 + title)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(title);
    head.titled("Pay by round, in % of what honest miners in the same places are paid", ("sans-serif", 18))?;
    for (area, panel) in body.split_evenly((rows, COLUMNS)).iter().zip(panels) {
        draw_panel(area, panel)?;
    }
    Ok(root.present()?)
}

fn draw_panel(area: &Area<'_>, panel: &Panel) -> Drawn {
    let most = panel.relative.iter().map(|(_, share)| *share).fold(120.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.name, ("sans-serif", 14))
        .margin(6)
        .x_label_area_size(20)
        .y_label_area_size(32)
        .build_cartesian_2d(0.0..panel.rounds, 0.0..most)?;
    let whole = |value: &f64| format!("{value:.0}");
    let mut mesh = chart.configure_mesh();
    mesh.disable_mesh().x_labels(4).y_labels(4).x_label_formatter(&whole).y_label_formatter(&whole).draw()?;
    let level = |height: f64| LineSeries::new([(0.0, height), (panel.rounds, height)], GRAY);
    chart.draw_series(level(100.0))?;
    chart.draw_series(level(100.0 * UNPAID))?;
    chart.draw_series(LineSeries::new(panel.relative.iter().copied(), BLUE.stroke_width(2)))?;
    Ok(())
}

fn draw_losses(path: &Path, bouts: &[(&str, &[(u64, f64)])]) -> Drawn {
    let rounds = bouts.iter().flat_map(|(_, curve)| curve.iter()).map(|(round, _)| *round).max().unwrap_or(1);
    // what is learnt first is much; beside it, no difference would show
    let late = |curve: &[(u64, f64)]| -> Vec<(f64, f64)> {
        curve.iter().filter(|(round, _)| *round >= rounds.div_ceil(6)).map(|(round, loss)| (*round as f64, *loss)).collect()
    };
    let curves: Vec<Vec<(f64, f64)>> = bouts.iter().map(|(_, curve)| late(curve)).collect();
    let (x, y) = (bounds(&curves, |p| p.0), bounds(&curves, |p| p.1));
    let root = SVGBackend::new(path, LARGE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Held-out loss by round", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
    let (round, loss) = (|round: &f64| format!("{round:.0}"), |loss: &f64| format!("{loss:.2}"));
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(WHITE).x_desc("round").y_desc("bits per byte").x_label_formatter(&round).y_label_formatter(&loss).draw()?;
    for (((name, _), curve), color) in bouts.iter().zip(curves).zip(COLORS) {
        let legend = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2));
        chart.draw_series(LineSeries::new(curve, color.stroke_width(2)))?.label(*name).legend(legend);
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperRight).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    Ok(root.present()?)
}

fn draw_work(path: &Path, bouts: &[(&str, Vec<(f64, f64)>)]) -> Drawn {
    let most = bouts.iter().flat_map(|(_, workers)| workers).map(|(_, pay)| *pay).fold(f64::EPSILON, f64::max);
    let root = SVGBackend::new(path, LARGE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Pay at the end by work done", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..1.05, 0.0..1.05 * most)?;
    let (share, percent) = (|share: &f64| format!("{share:.2}"), |share: &f64| format!("{share:.0}"));
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(WHITE).x_desc("share of the work").y_desc("% of all pay");
    mesh.x_label_formatter(&share).y_label_formatter(&percent).draw()?;
    for ((name, workers), color) in bouts.iter().zip(COLORS) {
        let dot = move |place| Circle::new(place, 4, color.filled());
        chart
            .draw_series(workers.iter().map(|worker| dot(*worker)))?
            .label(*name)
            .legend(move |(x, y)| Circle::new((x + 10, y), 4, color.filled()));
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    Ok(root.present()?)
}

/// Least and most of what is drawn, with a margin.
fn bounds(curves: &[Vec<(f64, f64)>], of: fn(&(f64, f64)) -> f64) -> (f64, f64) {
    let values = || curves.iter().flatten().map(of);
    let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
    let margin = 0.02 * (most - least).max(1e-6);
    (least - margin, most + margin)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::report::tests::results;

    #[test]
    fn every_bout_is_drawn_where_it_belongs() {
        let folder = tempfile::tempdir().unwrap();
        let names = draw(folder.path(), "arena", &results()).unwrap();
        assert_eq!(names, ["arena-pay.svg", "arena-loss.svg", "arena-work.svg"]);
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let (pay, loss, work) = (read("arena-pay.svg"), read("arena-loss.svg"), read("arena-work.svg"));
        let has = |svg: &str, word: &str| svg.lines().any(|line| line.trim() == word);
        assert!(has(&pay, "noise") && has(&pay, "mixed") && !has(&pay, "work-1") && !has(&pay, "absent-15"), "{pay}");
        assert!(has(&loss, "mixed") && has(&loss, "absent-15") && !has(&loss, "coalition"), "{loss}");
        assert!(has(&work, "work-1") && work.matches("<circle").count() == 3 + 1, "three workers and the legend:\n{work}");
    }

    #[test]
    fn nothing_held_is_nothing_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let none = Results { outcomes: [].into(), ..results() };
        assert_eq!(draw(folder.path(), "arena", &none).unwrap(), [] as [&str; 0]);
    }
}
