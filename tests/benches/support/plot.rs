//! Figures over time as an SVG with no script in it: one panel a figure, one below the other.

use std::fmt::Write as _;

/// One figure.
pub struct Panel {
    /// What it is, with its unit.
    pub name: &'static str,
    /// Where it was looked at, and how it stood.
    pub points: Vec<(f64, f64)>,
}

/// How what goes from left to right is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// From 0, evenly.
    Even,
    /// By powers of ten; all values are above 0.
    Powers,
}

/// Where values of one axis stand, from 0 to 1.
struct Axis {
    spread: Spread,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(spread: Spread, values: impl Iterator<Item = f64> + Clone) -> Self {
        let to = values.clone().fold(1e-9, f64::max);
        match spread {
            Spread::Even => Self { spread, from: 0.0, to },
            // One place at least, so that a single value has somewhere to stand.
            Spread::Powers => {
                let from = values.fold(to, f64::min).log10().floor();
                Self { spread, from, to: to.log10().max(from + 1.0) }
            }
        }
    }

    fn place(&self, value: f64) -> f64 {
        let value = if self.spread == Spread::Powers { value.log10() } else { value };
        (value - self.from) / (self.to - self.from)
    }

    fn marks(&self) -> Vec<f64> {
        match self.spread {
            Spread::Even => (0..=4).map(|quarter| self.to * f64::from(quarter) / 4.0).collect(),
            Spread::Powers => {
                let powers = self.from as i32..=self.to.floor() as i32;
                powers.map(|power| 10_f64.powi(power)).collect()
            }
        }
    }
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 60.0;
const GAP: f64 = 46.0;

/// The drawing. `x_name` names what goes from left to right, with its unit.
pub fn svg(title: &str, x_name: &str, spread: Spread, panels: &[Panel]) -> String {
    let height = GAP + (HEIGHT + GAP) * panels.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n",
        LEFT + WIDTH + 20.0
    );
    let points = || panels.iter().flat_map(|panel| &panel.points);
    let axis = Axis::of(spread, points().map(|point| point.0));
    for (n, panel) in panels.iter().enumerate() {
        let top = GAP + (HEIGHT + GAP) * n as f64;
        draw(&mut svg, panel, top, &axis);
    }
    let bottom = height - 8.0;
    writeln!(svg, "<text x=\"{}\" y=\"{bottom}\" text-anchor=\"end\">{x_name}</text>\n</svg>", LEFT + WIDTH)
        .expect("a text can grow");
    svg
}

fn draw(svg: &mut String, panel: &Panel, top: f64, axis: &Axis) {
    let highest = panel.points.iter().map(|point| point.1).fold(1e-9, f64::max);
    let step = round_step(highest);
    let ceiling = (highest / step).ceil() * step;
    let x = |value: f64| LEFT + axis.place(value) * WIDTH;
    let y = |value: f64| top + HEIGHT - value / ceiling * HEIGHT;
    let mut line = |text: String| writeln!(svg, "{text}").expect("a text can grow");
    line(format!("<text x=\"{LEFT}\" y=\"{}\">{}</text>", top - 8.0, panel.name));
    let mut mark = 0.0;
    while mark <= ceiling * 1.001 {
        let (x, y) = (LEFT - 6.0, y(mark));
        line(format!("<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#ddd\"/>", LEFT + WIDTH));
        line(format!("<text x=\"{x}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", y + 4.0, short(mark)));
        mark += step;
    }
    for value in axis.marks() {
        let (x, y) = (x(value), top + HEIGHT + 16.0);
        line(format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>", short(value)));
    }
    let path: Vec<String> = panel.points.iter().map(|&(at, value)| format!("{:.1},{:.1}", x(at), y(value))).collect();
    line(format!("<polyline points=\"{}\" fill=\"none\" stroke=\"#1f5fbf\" stroke-width=\"1.5\"/>", path.join(" ")));
    if panel.points.len() <= FEW {
        for &(at, value) in &panel.points {
            line(format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"#1f5fbf\"/>", x(at), y(value)));
        }
    }
}

/// Points so few that each is marked: a single one has no line.
const FEW: usize = 20;

/// A step of 1, 2 or 5 times a power of ten that gives three to six marks.
fn round_step(highest: f64) -> f64 {
    let power = 10_f64.powf(highest.log10().floor());
    [0.2, 0.5, 1.0, 2.0].map(|factor| factor * power).into_iter().find(|step| highest / step <= 6.0).unwrap_or(power)
}

fn short(value: f64) -> String {
    if value >= 1000.0 {
        return super::stats::thousands(value);
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
