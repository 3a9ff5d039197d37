//! Results as pictures: for each workload and link a bar for each contestant, on a logarithmic axis.

use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::row::Measures;
use crate::statistics::{Block, Spread};

/// Pixels.
const HEIGHT: u32 = 420;
const BAR: u32 = 16;
const SPACE: u32 = 40;
const MARGINS: u32 = 120;
const LEGEND: u32 = 24;
/// How many names of contestants stand in one line of the legend.
const LEGEND_COLUMNS: u32 = 4;
/// Colours that people with colour blindness tell apart (Okabe and Ito), and two greys.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(240, 228, 66),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
    RGBColor(90, 90, 90),
];

/// What a picture shows.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// Its part of the file's name.
    pub name: &'static str,
    /// Its name for people, with its unit.
    pub title: &'static str,
    /// Where it is.
    pub of: fn(&Measures) -> f64,
}

/// What is drawn of each suite.
pub const QUANTITIES: [Quantity; 2] = [
    Quantity { name: "gap", title: "longest time without an answer, ms", of: |measures| measures.gap_ms },
    Quantity { name: "total", title: "total time, ms", of: |measures| measures.total_ms.max(measures.filled_ms) },
];

/// A picture that cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw {path}: {said}")]
pub struct PlotError {
    path: PathBuf,
    /// The library's error has the backend's type in it, which is of no interest here.
    said: String,
}

/// Draws a quantity of a suite into a file; without anything to show there is no picture.
pub fn draw(blocks: &[Block<'_>], quantity: Quantity, path: &Path) -> Result<bool, PlotError> {
    let mut names: Vec<&str> = Vec::new();
    for cell in blocks.iter().flat_map(|block| &block.cells) {
        if !names.contains(&cell.contestant) {
            names.push(cell.contestant);
        }
    }
    let spread = |block: &Block<'_>, name: &str| -> Option<Spread> {
        let cell = block.cells.iter().find(|cell| cell.contestant == name)?;
        cell.spread(|measures| Some((quantity.of)(measures))).filter(|spread| spread.least > 0.0)
    };
    let groups: Vec<Group> = blocks
        .iter()
        .map(|block| Group {
            titles: [block.workload.title(), block.link.title().to_owned()],
            bars: names.iter().map(|name| spread(block, name)).collect(),
        })
        .collect();
    let all: Vec<Spread> = groups.iter().flat_map(|group| group.bars.iter().flatten().copied()).collect();
    if all.is_empty() {
        return Ok(false);
    }
    let least = all.iter().fold(f64::MAX, |least, spread| least.min(spread.least));
    let most = all.iter().fold(0.0_f64, |most, spread| most.max(spread.most));
    let range = 10_f64.powf(least.log10().floor())..most * 1.5;
    let width = MARGINS + groups.len() as u32 * (names.len() as u32 * BAR + SPACE);
    let lines = (names.len() as u32).div_ceil(LEGEND_COLUMNS);
    let root = SVGBackend::new(path, (width.max(740), HEIGHT + lines * LEGEND)).into_drawing_area();
    let drawn = paint(&root, &groups, &names, quantity, range).and_then(|()| root.present());
    drawn.map(|()| true).map_err(|error| PlotError { path: path.to_owned(), said: error.to_string() })
}

/// One workload over one link.
struct Group {
    titles: [String; 2],
    bars: Vec<Option<Spread>>,
}

type Painted = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn paint(
    root: &DrawingArea<SVGBackend<'_>, Shift>,
    groups: &[Group],
    names: &[&str],
    quantity: Quantity,
    range: std::ops::Range<f64>,
) -> Painted {
    root.fill(&WHITE)?;
    let (picture, legend) = root.split_vertically(HEIGHT);
    let floor = range.start;
    let mut chart = ChartBuilder::on(&picture)
        .margin(12)
        .margin_bottom(56)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..groups.len() as f64, range.log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(quantity.title)
        .y_label_formatter(&|value| format!("{value}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    // Bars fill this part of a group.
    let share = 0.84;
    let width = share / names.len() as f64;
    for (number, group) in groups.iter().enumerate() {
        let left = number as f64 + (1.0 - share) / 2.0;
        for (place, spread) in group.bars.iter().enumerate() {
            let Some(spread) = spread else { continue };
            let (from, to) = (left + place as f64 * width, left + (place as f64 + 0.9) * width);
            let colour = COLOURS[place % COLOURS.len()];
            let bar = Rectangle::new([(from, floor), (to, spread.median)], colour.filled());
            // The thin line goes from the least to the most.
            let middle = (from + to) / 2.0;
            let line = PathElement::new([(middle, spread.least), (middle, spread.most)], BLACK.stroke_width(1));
            chart.draw_series(std::iter::once(bar))?;
            chart.draw_series(std::iter::once(line))?;
        }
        let (x, y) = chart.backend_coord(&(number as f64 + 0.5, floor));
        for (line, title) in group.titles.iter().enumerate() {
            let style = ("sans-serif", 13).into_font().color(&BLACK).pos(centred());
            root.draw(&Text::new(title.clone(), (x, y + 8 + 16 * line as i32), style))?;
        }
    }
    for (place, name) in names.iter().enumerate() {
        let (column, line) = (place as u32 % LEGEND_COLUMNS, place as u32 / LEGEND_COLUMNS);
        let (x, y) = (80 + 160 * column as i32, LEGEND as i32 * line as i32);
        let colour = COLOURS[place % COLOURS.len()];
        legend.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], colour.filled()))?;
        legend.draw(&Text::new((*name).to_owned(), (x + 18, y), ("sans-serif", 13).into_font()))?;
    }
    Ok(())
}

fn centred() -> plotters::style::text_anchor::Pos {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    Pos::new(HPos::Center, VPos::Top)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;
    use crate::statistics::blocks;
    use crate::suite::Suite;

    #[test]
    fn a_picture_names_its_contestants_and_nothing_makes_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("core.svg");
        assert!(!draw(&[], QUANTITIES[0], &path).unwrap());
        let rows = [row("drover", 1, 100.0), row("runc", 1, 5400.0)];
        assert!(draw(&blocks(&rows, Suite::Core), QUANTITIES[0], &path).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("<svg") && text.contains("runc") && text.contains("64 MiB"), "{text}");
    }
}
