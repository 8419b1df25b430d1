//! Three pictures beside each other, as SVG: latency by percentile, throughput through a change, stall by sessions.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Of one picture, in pixels.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 50.0;
const COLOURS: [&str; 8] =
    ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f"];

/// One line.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// How a picture is labelled, and how its values become distances.
struct Axes {
    title: &'static str,
    x: &'static str,
    y: &'static str,
    scale_x: fn(f64) -> f64,
    scale_y: fn(f64) -> f64,
    ticks_x: &'static [f64],
    ticks_y: &'static [f64],
}

/// Percentiles are drawn by how rare what is above them is.
fn rareness(share: f64) -> f64 {
    -(1.0 - share).max(1e-4).log10()
}

fn same(value: f64) -> f64 {
    value
}

fn logarithm(value: f64) -> f64 {
    value.max(0.01).log10()
}

/// All of it.
pub(crate) fn draw(curves: &Map<String, Value>) -> String {
    let pictures = [
        (
            "latency",
            Axes {
                title: "latency, changes included",
                x: "share of transactions",
                y: "ms",
                scale_x: rareness,
                scale_y: logarithm,
                ticks_x: &[0.0, 0.9, 0.99, 0.999, 0.9999],
                ticks_y: &[0.1, 1.0, 10.0, 100.0, 1000.0],
            },
        ),
        (
            "throughput",
            Axes {
                title: "throughput through a change",
                x: "s since the gate was shut",
                y: "1/s",
                scale_x: same,
                scale_y: same,
                ticks_x: &[-0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
                ticks_y: &[0.0, 500.0, 1000.0, 2000.0, 4000.0],
            },
        ),
        (
            "stall",
            Axes {
                title: "stall by number of sessions",
                x: "sessions",
                y: "ms",
                scale_x: same,
                scale_y: same,
                ticks_x: &[0.0, 50.0, 100.0, 150.0, 200.0],
                ticks_y: &[0.0, 100.0, 200.0, 500.0, 1000.0, 1500.0],
            },
        ),
    ];
    let (width, height) = (pictures.len() as f64 * (WIDTH + MARGIN), HEIGHT + 220.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, (group, axes)) in pictures.iter().enumerate() {
        let left = number as f64 * (WIDTH + MARGIN) + MARGIN;
        picture(&mut svg, left, axes, &read(&curves.get(*group).cloned().unwrap_or_default()));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Curves of one name that came from several runs are one curve.
fn read(group: &Value) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for curve in group.as_array().into_iter().flatten() {
        let name = curve["name"].as_str().unwrap_or_default();
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let points = curve["points"].as_array().into_iter().flatten();
        let points = points.map(|point| (number(&point[0]), number(&point[1])));
        match curves.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.extend(points),
            None => curves.push(Curve { name: name.to_owned(), points: points.collect() }),
        }
    }
    curves.iter_mut().for_each(|curve| curve.points.sort_by(|one, other| one.0.total_cmp(&other.0)));
    curves
}

fn picture(svg: &mut String, left: f64, axes: &Axes, curves: &[Curve]) {
    let top = 30.0;
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let bound = |values: &mut dyn Iterator<Item = f64>| {
        values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (left_x, right_x) = bound(&mut all().map(|point| (axes.scale_x)(point.0)));
    let (mut low_y, high_y) = bound(&mut all().map(|point| (axes.scale_y)(point.1)));
    if (axes.scale_y)(0.0) == 0.0 {
        low_y = 0.0;
    }
    let spread = |value: f64, low: f64, high: f64| (value - low) / (high - low).max(1e-9);
    let place_x = |x: f64| left + spread((axes.scale_x)(x), left_x, right_x) * (WIDTH - MARGIN);
    let place_y = |y: f64| top + HEIGHT - spread((axes.scale_y)(y), low_y, high_y) * HEIGHT;
    let mut text = |x: f64, y: f64, words: &str| {
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>").expect("room");
    };
    text(left, 18.0, &format!("{} ({})", axes.title, axes.y));
    text(left, top + HEIGHT + 32.0, axes.x);
    for tick in axes.ticks_x.iter().filter(|tick| (left_x..=right_x).contains(&(axes.scale_x)(**tick))) {
        text(place_x(*tick), top + HEIGHT + 14.0, &tick.to_string());
    }
    for tick in axes.ticks_y.iter().filter(|tick| (low_y..=high_y).contains(&(axes.scale_y)(**tick))) {
        text(left - 36.0, place_y(*tick) + 4.0, &tick.to_string());
    }
    for (number, curve) in curves.iter().enumerate() {
        text(left + 14.0, top + HEIGHT + 54.0 + 15.0 * number as f64, &curve.name);
    }
    writeln!(
        svg,
        "<path d=\"M{left:.1} {top:.1}v{HEIGHT}h{:.1}\" fill=\"none\" stroke=\"#999\"/>",
        WIDTH - MARGIN
    )
    .expect("room");
    for (number, curve) in curves.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<String> =
            curve.points.iter().map(|(x, y)| format!("{:.1},{:.1}", place_x(*x), place_y(*y))).collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            points.join(" ")
        )
        .expect("room");
        let y = top + HEIGHT + 45.0 + 15.0 * number as f64;
        writeln!(svg, "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"9\" height=\"9\" fill=\"{colour}\"/>")
            .expect("room");
    }
}
