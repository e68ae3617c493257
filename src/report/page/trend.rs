//! How nights compare: each family's times over those of the first night that is kept.

use super::sources::Sources;
use super::svg::{Frame, Scale, at, percent};
use super::{Inputs, Night, Section, file};
use crate::diff::{ClassShift, IncomparableTimes, SAME_CLASS, diff};
use crate::error::Result;
use crate::model::Family;
use maud::{Markup, html};

pub(super) fn section(inputs: &Inputs, sources: &mut Sources) -> Result<Section> {
    let body = match &inputs.nights[..] {
        [first, .., last] => {
            let source = sources.cite(&html! {
                "the documents of " (inputs.nights.len()) " nights, " (file(&first.when)) " to " (file(&last.when))
            });
            trend(first, &inputs.nights, &source)?
        }
        few => html! { p class="none" {
            @if let [only] = few { "One night is kept here, " code { (only.when) } ", and a trend needs two. " }
            @else { "No night is kept here. " }
            "Each " code { "sweep nightly --gpu " (inputs.gpu) } " keeps what it measured in " code { "nights/" } "; from the second on, this shows how each family's times change from night to night, "
            "within the band that nights without a change differ by."
        } },
    };
    Ok(Section { id: "nights", title: "Night by night", body })
}

fn trend(first: &Night, nights: &[Night], source: &Markup) -> Result<Markup> {
    // What was measured by another protocol has no times to compare.
    let shifts =
        |night: &Night| diff(&first.document, &night.document, IncomparableTimes::LeaveOut).map(|diff| diff.classes);
    let by_night: Vec<Vec<ClassShift>> = nights.iter().map(shifts).collect::<Result<_>>()?;
    let of_class = |class: &str| -> Vec<Option<&ClassShift>> {
        by_night.iter().map(|night| night.iter().find(|shift| shift.class == class)).collect()
    };
    let families: Vec<&str> = Family::ALL
        .into_iter()
        .map(Family::name)
        .filter(|class| of_class(class).iter().flatten().count() > 1)
        .collect();
    Ok(html! {
        p {
            "Each point is a night: the geometric mean of its times over those of the first night, on the problems "
            "that both have, with its 95 % interval." (source)
            " The band is the " (format!("±{:.1} %", SAME_CLASS * 100.0)) " that nights without a change differ by; "
            "a point beyond it is worth a look. "
            "A ring is a night whose document was kept out for a regression."
        }
        div class="charts" { @for family in &families { (chart(family, &of_class(family), nights)) } }
        @if families.is_empty() { p class="none" { "No two nights have problems of one family in common." } }
    })
}

fn chart(class: &str, shifts: &[Option<&ClassShift>], nights: &[Night]) -> Markup {
    const WIDTH: f64 = 400.0;
    const HEIGHT: f64 = 170.0;
    let reach =
        |shift: &&ClassShift| (shift.ratio * (1.0 + shift.noise)).max(1.0 / (shift.ratio * (1.0 - shift.noise)));
    let furthest = shifts.iter().flatten().map(reach).fold(1.0 + 2.0 * SAME_CLASS, f64::max);
    let x = Scale::linear([0.0, (nights.len() - 1) as f64], [56.0, WIDTH - 16.0]);
    let y = Scale::linear([1.0 / furthest, furthest], [HEIGHT - 36.0, 22.0]);
    // Month and day: the year would not fit.
    let day = |night: &Night| {
        let day = night.when.split('T').next().unwrap_or(&night.when);
        day.split_once('-').map_or(day, |(_, day)| day).to_owned()
    };
    let every = nights.len().div_ceil(5);
    let frame = Frame {
        // Nights have names in place of figures.
        x: Scale::linear([0.0, 0.0], [56.0, WIDTH - 16.0]),
        y,
        x_name: "",
        y_name: "times over the first night's",
        x_tick: &|_| String::new(),
        y_tick: &percent,
    };
    let points: Vec<(usize, &ClassShift)> =
        shifts.iter().enumerate().filter_map(|(night, shift)| Some((night, (*shift)?))).collect();
    let path: Vec<String> = points
        .iter()
        .enumerate()
        .map(|(place, (night, shift))| {
            format!("{}{} {}", if place == 0 { "M" } else { "L" }, at(x.place(*night as f64)), at(y.place(shift.ratio)))
        })
        .collect();
    let (top, bottom) = (y.place(1.0 + SAME_CLASS), y.place(1.0 - SAME_CLASS));
    html! {
        figure {
            h3 { (class) }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ "Times of " (class) " by night" } {
                rect class="band" x="56" width=(at(WIDTH - 72.0)) y=(at(top)) height=(at(bottom - top)) {}
                (frame.draw())
                line class="base" x1="56" x2=(at(WIDTH - 16.0)) y1=(at(y.place(1.0))) y2=(at(y.place(1.0))) {}
                @for (place, night) in nights.iter().enumerate().filter(|(place, _)| place % every == 0) {
                    text x=(at(x.place(place as f64))) y=(at(HEIGHT - 20.0)) text-anchor="middle" { (day(night)) }
                }
                path class="line la" d=(path.concat()) {}
                @for (night, shift) in &points {
                    @let is_out = (shift.ratio - 1.0).abs() > SAME_CLASS + shift.noise;
                    @let (middle, kept) = (at(x.place(*night as f64)), nights[*night].verdict == "kept");
                    @let ends = [1.0 - shift.noise, 1.0 + shift.noise].map(|end| at(y.place(shift.ratio * end)));
                    g class=(if is_out { "ss" } else { "sf" }) data-t=(tip(&nights[*night], shift)) {
                        line x1=(middle) x2=(middle) y1=(ends[0]) y2=(ends[1]) stroke-width="1.5" {}
                        circle cx=(middle) cy=(at(y.place(shift.ratio))) r="4" fill-opacity=(if kept { "0.15" } else { "1" }) {}
                    }
                }
            }
        }
    }
}

fn tip(night: &Night, shift: &ClassShift) -> String {
    let (change, noise) = (percent(shift.ratio), shift.noise * 100.0);
    let verdict = if night.verdict.is_empty() { String::new() } else { format!("\ndocument: {}", night.verdict) };
    format!("{}\n{change} ± {noise:.2} % on {} problems{verdict}", night.when, shift.problems)
}
