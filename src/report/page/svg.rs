//! Drawing: scales, ticks and numbers for people. What is drawn scales with the page's width, so a unit is about a pixel.

use maud::{Markup, html};

/// From values to places along an axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// The values at both ends.
    domain: [f64; 2],
    /// The places at both ends.
    range: [f64; 2],
    is_log: bool,
}

impl Scale {
    pub(super) fn linear(domain: [f64; 2], range: [f64; 2]) -> Self {
        Self { domain, range, is_log: false }
    }

    /// For positive values.
    pub(super) fn log(domain: [f64; 2], range: [f64; 2]) -> Self {
        Self { domain: domain.map(|value| value.max(f64::MIN_POSITIVE)), range, is_log: true }
    }

    /// The place of a value; values beyond the domain are put at its ends.
    pub(super) fn place(&self, value: f64) -> f64 {
        let along = |value: f64| if self.is_log { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let [start, end] = self.domain.map(along);
        let share = if end > start { (along(value) - start) / (end - start) } else { 0.5 };
        self.range[0] + share.clamp(0.0, 1.0) * (self.range[1] - self.range[0])
    }

    /// Some five round values within the domain; of a log scale powers of ten, with some between where these are few.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let [start, end] = self.domain;
        if !(end > start && start.is_finite() && end.is_finite()) {
            return vec![start];
        }
        if self.is_log {
            let (first, last) = (start.log10().floor() as i32, end.log10().ceil() as i32);
            let steps: &[f64] = match end / start {
                ratio if ratio > 150.0 => &[1.0],
                ratio if ratio > 8.0 => &[1.0, 2.0, 5.0],
                _ => &[1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0],
            };
            let every = ((last - first) / 6).max(1);
            let powers = (first..=last).filter(|power| (power - first) % every == 0);
            let ticks = powers.flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
            return ticks.filter(|tick| (start * 0.999..=end * 1.001).contains(tick)).collect();
        }
        let raw = (end - start) / 5.0;
        let magnitude = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * magnitude).into_iter().find(|step| *step >= raw);
        let step = step.unwrap_or(raw);
        let first = (start / step - 1e-9).ceil() as i64;
        let last = (end / step + 1e-9).floor() as i64;
        (first..=last).map(|count| count as f64 * step).collect()
    }
}

/// A place with a tenth of a unit, without what a reader does not see.
pub(super) fn at(place: f64) -> String {
    let text = format!("{place:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A number with its unit's prefix: `4.62 T`, `850 G`, `12 k`.
pub(super) fn si(value: f64) -> String {
    let prefixes = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match prefixes.into_iter().find(|(size, _)| value.abs() >= *size) {
        Some((size, prefix)) => format!("{} {prefix}", significant(value / size)),
        None => format!("{} ", significant(value)),
    }
}

/// Three digits that matter.
pub(super) fn significant(value: f64) -> String {
    let text = match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A whole number with a thin space each three digits.
pub(super) fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// How far a ratio is from 1: `+2.5 %`; a large one as a factor: `×53.6`.
pub(super) fn percent(ratio: f64) -> String {
    if ratio >= 3.0 {
        return format!("×{}", significant(ratio));
    }
    let percent = (ratio - 1.0) * 100.0;
    if percent.abs() < 0.05 { "±0 %".to_owned() } else { format!("{percent:+.1} %").replace('-', "−") }
}

/// The frame of a chart: its grid with what the lines stand for, and the axes' names.
pub(super) struct Frame<'a> {
    pub(super) x: Scale,
    pub(super) y: Scale,
    pub(super) x_name: &'a str,
    pub(super) y_name: &'a str,
    pub(super) x_tick: &'a dyn Fn(f64) -> String,
    pub(super) y_tick: &'a dyn Fn(f64) -> String,
}

impl Frame<'_> {
    /// The grid's lines and texts, to be drawn first.
    pub(super) fn draw(&self) -> Markup {
        let ([left, right], [bottom, top]) = (self.x.range, self.y.range);
        html! {
            g class="grid" {
                @for tick in self.x.ticks() {
                    @let x = at(self.x.place(tick));
                    line x1=(x) x2=(x) y1=(at(top)) y2=(at(bottom)) {}
                    text x=(x) y=(at(bottom + 14.0)) text-anchor="middle" { ((self.x_tick)(tick)) }
                }
                @for tick in self.y.ticks() {
                    @let y = at(self.y.place(tick));
                    line x1=(at(left)) x2=(at(right)) y1=(y) y2=(y) {}
                    text x=(at(left - 5.0)) y=(at(self.y.place(tick) + 3.5)) text-anchor="end" { ((self.y_tick)(tick)) }
                }
            }
            text class="axis" x=(at(f64::midpoint(left, right))) y=(at(bottom + 29.0))
            text-anchor="middle" { (self.x_name) }
            text class="axis" x=(at(left - 36.0)) y=(at(top - 8.0)) { (self.y_name) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_domain() {
        assert_eq!(Scale::linear([0.0, 50.0], [0.0, 100.0]).ticks(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!(Scale::log([3.0, 4e4], [0.0, 1.0]).ticks(), [10.0, 100.0, 1000.0, 10000.0]);
        assert_eq!(Scale::log([1.0, 4.0], [0.0, 1.0]).ticks(), [1.0, 1.2, 1.5, 2.0, 3.0]);
        assert_eq!(Scale::log([1.0, 40.0], [0.0, 1.0]).ticks(), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(Scale::linear([1.0, 1.0], [0.0, 1.0]).ticks(), [1.0], "a domain of one value");
    }

    #[test]
    fn places_stay_on_the_paper() {
        let scale = Scale::log([1.0, 100.0], [0.0, 200.0]);
        assert_eq!(
            [scale.place(1.0), scale.place(10.0), scale.place(1e9), scale.place(0.0)].map(at),
            ["0", "100", "200", "0"]
        );
        assert!(Scale::linear([5.0, 5.0], [0.0, 10.0]).place(5.0).is_finite());
    }

    #[test]
    fn numbers_are_short_and_say_their_size() {
        assert_eq!([si(4.62e12), si(850e9), si(12.0), si(0.0)], ["4.62 T", "850 G", "12 ", "0 "]);
        let percents = [percent(1.025), percent(0.9), percent(1.0001), percent(53.5557)];
        assert_eq!(percents, ["+2.5 %", "−10.0 %", "±0 %", "×53.6"]);
        assert_eq!(grouped(312_716), "312\u{202f}716");
        assert_eq!(grouped(16), "16");
    }
}
