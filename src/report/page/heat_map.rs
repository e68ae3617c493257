//! What is served where: a map of the buckets of each family.
//!
//! A bucket has up to some four bins. The two with most bounds span a map, and there is one map for each combination of the
//! others, so that a map is small enough for a phone. Aspects tell buckets apart that share all bins: these share a cell.

use super::palette::{self, Paint};
use super::svg::{at, percent};
use super::{Section, short};
use crate::derive::{Source, Validation, config_text, problem};
use crate::heuristics::{Bucket, Document, Template, bucket_of};
use crate::measure::geomean;
use crate::model::Family;
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

/// Behind the best by more than this, a cell has a border that stands out.
const FAR: f64 = 1.1;
/// A cell's size.
const CELL: [f64; 2] = [32.0, 22.0];

/// Where a bucket lies along a field, and what that is called.
type Label = (u64, String);
/// What is served in a bucket, with its row in the table.
type Numbered<'s, 'd> = (usize, &'s Served<'d>);

/// What is served in one bucket.
struct Served<'d> {
    bucket: Bucket,
    template: &'d Template,
    /// The group whose fallback it is; none of a rule.
    group: Option<&'d str>,
    /// Geometric mean of its time over the best, on the bucket's problems; none where it was not measured there.
    regret: Option<f64>,
    problems: usize,
    ties: usize,
}

impl Served<'_> {
    fn is_rule(&self) -> bool {
        self.group.is_none()
    }

    /// `rule`, or `fallback rect`: buckets of one name may be served by the fallbacks of two groups.
    fn by(&self) -> String {
        self.group.map_or_else(|| "rule".to_owned(), |group| format!("fallback {group}"))
    }

    fn is_far(&self) -> bool {
        self.regret.is_some_and(|regret| regret > FAR)
    }
}

pub(super) fn section(document: &Document, own: &Markup) -> Section {
    let rules = document.rules.iter().map(|rule| rule.kernel_class.as_str());
    let classes: BTreeSet<&str> = rules.chain(document.fallbacks.keys().map(String::as_str)).collect();
    // Families in the order of the documentation, then what else a document holds.
    let place = |class: &&str| Family::known().iter().position(|family| family.name() == *class).unwrap_or(usize::MAX);
    let mut classes: Vec<&str> = classes.into_iter().collect();
    classes.sort_by_key(place);
    Section {
        id: "buckets",
        title: "What is served where",
        body: html! {
            p {
                "Each cell is a bucket of shapes that was measured; its number is the regret of the config served "
                "there: by how many per cent that is behind the best config "
                "of each problem, as a geometric mean." (own) " This is what rules and fallbacks serve; where a "
                "family has a model, the lookup asks that about exact shapes, and it "
                "mostly does better. Point at a cell, or follow it to its row."
            }
            (legend(document))
            @for class in classes {
                @let served = served(document, class);
                @if !served.is_empty() { (family(class, &served)) }
            }
        },
    }
}

/// The buckets of a class that hold a problem, with what is served there.
fn served<'d>(document: &'d Document, class: &str) -> Vec<Served<'d>> {
    let mut all = Vec::new();
    for rule in document.rules.iter().filter(|rule| rule.kernel_class == class) {
        let usable = rule.templates.iter().filter(|ranked| ranked.config().is_some());
        let Some(first) = usable.min_by(|one, other| crate::heuristics::by_rank(one, other)) else { continue };
        let source = Source::of_document(&rule.source);
        let slowdowns: Vec<f64> = source.problems.iter().filter_map(|problem| problem.slowdown).collect();
        all.push(Served {
            bucket: rule.shape_bucket.clone(),
            template: &first.template,
            group: None,
            regret: geomean(&slowdowns).or(first.geomean_slowdown),
            problems: source.problems.len(),
            ties: Validation::of_document(&rule.validation).ties.map_or(0, |ties| ties.configs.len()),
        });
    }
    let ruled: BTreeSet<Bucket> = all.iter().map(|served| served.bucket.clone()).collect();
    for (group, fallback) in document.fallbacks.get(class).into_iter().flatten() {
        let Some(template) = fallback.config() else { continue };
        let mut buckets: BTreeMap<Bucket, Vec<Option<f64>>> = BTreeMap::new();
        for of_source in Source::of_document(&fallback.source).problems {
            let Some(problem) = problem(class, &of_source.problem) else { continue };
            buckets.entry(bucket_of(&problem)).or_default().push(of_source.slowdown);
        }
        for (bucket, slowdowns) in buckets.into_iter().filter(|(bucket, _)| !ruled.contains(bucket)) {
            let measured: Vec<f64> = slowdowns.iter().copied().flatten().collect();
            all.push(Served {
                bucket,
                template,
                group: Some(group),
                regret: geomean(&measured),
                problems: slowdowns.len(),
                ties: 0,
            });
        }
    }
    all.sort_by_key(|served| order_of(&served.bucket));
    all
}

fn legend(document: &Document) -> Markup {
    let templates = document.rules.iter().flat_map(|rule| &rule.templates).map(|ranked| &ranked.template);
    let used: BTreeSet<&str> = templates.filter_map(|template| template.get("mma")?.as_str()).collect();
    let swatch =
        |fill: &str| html! { svg width="26" height="14" { rect width="26" height="14" rx="2" fill=(fill) {} } };
    html! {
        div class="legend" {
            span {
                @for tile in [0.0, 0.33, 0.67, 1.0] { (swatch(&palette::of_config(Some("wgmma"), tile, 0, 1).fill)) }
                "colour: the instructions of the config, darker with a larger tile"
            }
            @for mma in used {
                span { (swatch(&palette::of_config(Some(mma), 0.45, 0, 1).fill)) (mma) }
            }
            span {
                svg width="26" height="14" { rect class="cell fallback" width="26" height="14" {} }
                "grey: left to the fallback"
            }
            span {
                svg width="26" height="14" {
                    (hatch())
                    rect width="26" height="14" fill=(palette::of_config(Some("wgmma"), 0.3, 0, 1).fill) {}
                    rect class="hatch" width="26" height="14" {}
                }
                "hatched: another config ties with it"
            }
            span {
                svg width="26" height="14" { rect class="far" x="1" y="1" width="24" height="12" {} }
                "framed: more than 10 % behind"
            }
        }
    }
}

/// The pattern of ties, once for the page.
fn hatch() -> Markup {
    html! { defs { pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
        line x1="0" y1="0" x2="0" y2="6" stroke="#000" stroke-opacity="0.22" stroke-width="1.6" {}
    } } }
}

/// The fields that span the maps, and those that there is a map for each combination of.
struct Layout {
    x: Option<String>,
    y: Option<String>,
    others: Vec<String>,
}

impl Layout {
    fn of(served: &[Served]) -> Self {
        let mut labels: BTreeMap<&str, BTreeSet<Option<&String>>> = BTreeMap::new();
        let fields: BTreeSet<&str> =
            served.iter().flat_map(|served| served.bucket.keys().map(String::as_str)).collect();
        for field in fields {
            labels.insert(field, served.iter().map(|served| served.bucket.get(field)).collect());
        }
        labels.retain(|field, labels| *field != "aspect" && (labels.len() > 1 || field.ends_with("_bin")));
        let mut fields: Vec<(&str, usize)> = labels.iter().map(|(field, labels)| (*field, labels.len())).collect();
        fields.sort_by_key(|(field, count)| (!field.ends_with("_bin"), std::cmp::Reverse(*count), *field));
        let mut fields = fields.into_iter().map(|(field, _)| field.to_owned()).peekable();
        let first = fields.next();
        // A type is no extent, and its names are long: it is read from top to bottom.
        if fields.peek().is_some_and(|second| !second.ends_with("_bin")) {
            return Self { x: first, y: fields.next(), others: fields.collect() };
        }
        Self { y: first, x: fields.next(), others: fields.collect() }
    }

    /// What the buckets of one map have in common.
    fn title(&self, labels: &[Label]) -> String {
        let common = self.others.iter().zip(labels).map(|(field, (_, label))| format!("{} {label}", name_of(field)));
        common.collect::<Vec<_>>().join(", ")
    }
}

fn family(class: &str, served: &[Served]) -> Markup {
    let layout = Layout::of(served);
    let paints = paints(served);
    let mut maps: BTreeMap<Vec<Label>, Vec<Numbered>> = BTreeMap::new();
    for (row, of_bucket) in served.iter().enumerate() {
        let key = layout.others.iter().map(|field| key_of(field, &of_bucket.bucket)).collect();
        maps.entry(key).or_default().push((row, of_bucket));
    }
    let rules = served.iter().filter(|served| served.is_rule()).count();
    let regrets = |of: bool| {
        geomean(
            &served
                .iter()
                .filter(|served| served.is_rule() == of)
                .filter_map(|served| served.regret)
                .collect::<Vec<_>>(),
        )
    };
    html! {
        h3 { (class) " " span class="count" {
            (rules) " buckets with a rule" @if let Some(regret) = regrets(true) {
            " (" (percent(regret)) " on average)" }
            ", " (served.len() - rules) " left to fallbacks" @if let Some(regret) = regrets(false) {
            " (" (percent(regret)) ")" }
        } }
        div class="row" {
            @for (key, cells) in &maps {
                (map(class, &layout, &layout.title(key), cells, &paints))
            }
        }
        details { summary { "All " (served.len()) " buckets of " (class) " as a table" } (table(class, served)) }
    }
}

fn map(class: &str, layout: &Layout, title: &str, cells: &[Numbered], paints: &[Paint]) -> Markup {
    let label_of =
        |field: Option<&String>, bucket: &Bucket| field.map_or((0, String::new()), |field| key_of(field, bucket));
    let labels = |field: Option<&String>| -> Vec<Label> {
        cells.iter().map(|(_, served)| label_of(field, &served.bucket)).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let (columns, rows) = (labels(layout.x.as_ref()), labels(layout.y.as_ref()));
    let mut by_place: BTreeMap<(usize, usize), Vec<Numbered>> = BTreeMap::new();
    for (row, served) in cells {
        let place = |labels: &[Label], field: Option<&String>| {
            let label = label_of(field, &served.bucket);
            labels.iter().position(|known| *known == label).unwrap_or_default()
        };
        by_place
            .entry((place(&rows, layout.y.as_ref()), place(&columns, layout.x.as_ref())))
            .or_default()
            .push((*row, served));
    }
    let longest = rows.iter().map(|(_, label)| label.chars().count()).max().unwrap_or_default() as f64;
    let (left, top) = (longest.max(4.0) * 6.0 + 8.0, 16.0);
    let width = (left + columns.len() as f64 * CELL[0] + 4.0).max(70.0);
    let height = top + rows.len() as f64 * CELL[1] + 18.0;
    let name = |field: Option<&String>| field.map(|field| name_of(field)).unwrap_or_default();
    let place_of = |(row, column): (usize, usize), nth: usize, count: usize| {
        let width = CELL[0] / count as f64;
        Place { x: left + column as f64 * CELL[0] + nth as f64 * width, y: top + row as f64 * CELL[1], width }
    };
    let mut cells: Vec<(usize, &Served, Place)> = Vec::new();
    for (place, here) in &by_place {
        for (nth, (index, served)) in here.iter().enumerate() {
            cells.push((*index, served, place_of(*place, nth, here.len())));
        }
    }
    html! {
        div class="map" {
            @if !title.is_empty() { b { (title) } }
            svg viewBox={ "0 0 " (at(width)) " " (at(height)) } width=(at(width)) role="img" aria-label={ (class) " " (title) } {
                text class="axis" x="0" y=(at(top - 6.0)) {
                    @if layout.y.is_some() { (name(layout.y.as_ref())) " ↓ " } @if layout.x.is_some() {
                    (name(layout.x.as_ref())) " →" }
                }
                @for (row, (_, label)) in rows.iter().enumerate() {
                    text x=(at(left - 5.0)) y=(at(top + (row as f64 + 0.5) * CELL[1] + 3.5)) text-anchor="end" { (label) }
                }
                @for (column, (_, label)) in columns.iter().enumerate() {
                    text x=(at(left + (column as f64 + 0.5) * CELL[0])) y=(at(height - 6.0)) text-anchor="middle" { (label) }
                }
                @for (index, served, place) in &cells { (cell(class, *index, served, &paints[*index], place)) }
                @for (_, _, place) in cells.iter().filter(|(_, served, _)| served.is_far()) {
                    rect class={ "far" @if place.width < CELL[0] { " thin" } } x=(at(place.x + 1.0)) y=(at(place.y + 1.0))
                        width=(at(place.width - 2.0)) height=(at(CELL[1] - 2.0)) {}
                }
            }
        }
    }
}

/// Where a cell is drawn.
struct Place {
    x: f64,
    y: f64,
    width: f64,
}

fn cell(class: &str, index: usize, served: &Served, paint: &Paint, place: &Place) -> Markup {
    let number =
        served.regret.map_or_else(|| "?".to_owned(), |regret| format!("{:.0}", ((regret - 1.0) * 100.0).max(0.0)));
    // A cell that several buckets share has room for short numbers alone.
    let fits = place.width >= 6.0 * number.len() as f64;
    let (x, y, width, height) = (at(place.x), at(place.y), at(place.width), at(CELL[1]));
    html! {
        a href={ "#" (class) "-" (index) } tabindex="-1" data-t=(tip(served)) {
            rect class={ "cell" @if !served.is_rule() { " fallback" } } x=(x) y=(y) width=(width) height=(height)
                fill=[served.is_rule().then_some(&paint.fill)] {}
            @if served.ties > 0 { rect class="hatch" x=(x) y=(y) width=(width) height=(height) {} }
            @if fits {
                text class={ "on" @if !served.is_rule() { " grey" } @else if paint.text == palette::LIGHT { " light" } }
                    x=(at(place.x + place.width / 2.0)) y=(at(place.y + 14.5)) text-anchor="middle" { (number) }
            }
        }
    }
}

fn tip(served: &Served) -> String {
    let by = served.by();
    let regret = served
        .regret
        .map_or_else(|| "not measured here".to_owned(), |regret| format!("{} behind the best", percent(regret)));
    let ties = if served.ties > 0 { format!(", ties with {}", served.ties) } else { String::new() };
    format!(
        "{}\n{by}: {}\n{regret} on {} problems{ties}",
        spelled(&served.bucket),
        config_of(served.template),
        served.problems
    )
}

fn table(class: &str, served: &[Served]) -> Markup {
    html! {
        div class="scroll" { table class="sortable" {
            thead { tr {
                th { "Bucket" } th { "By" } th { "Config" } th class="n" { "regret" } th class="n" { "problems" }
                    th class="n" { "ties" }
            } }
            tbody { @for (index, served) in served.iter().enumerate() {
                tr id={ (class) "-" (index) } {
                    td { (spelled(&served.bucket)) }
                    td { (served.by()) }
                    td { (config_of(served.template)) }
                    td class="n" data-v=(served.regret.unwrap_or(f64::MAX)) { (served.regret.map_or_else(||
                    "?".to_owned(), percent)) }
                    td class="n" data-v=(served.problems) { (served.problems) }
                    td class="n" data-v=(served.ties) { (served.ties) }
                }
            } }
        } }
    }
}

/// A paint for each: that of its config.
fn paints(served: &[Served]) -> Vec<Paint> {
    let mma = |template: &Template| template.get("mma").and_then(|mma| mma.as_str()).map(str::to_owned);
    let ln_tile = |template: &Template| palette::tile(template).ln();
    let tiles = served.iter().map(|served| ln_tile(served.template));
    let (least, most) = (tiles.clone().fold(f64::INFINITY, f64::min), tiles.fold(f64::NEG_INFINITY, f64::max));
    // Configs that share instruction and tile, in a fixed order.
    let mut alike: BTreeMap<(Option<String>, u64), BTreeSet<String>> = BTreeMap::new();
    let key = |template: &Template| (mma(template), palette::tile(template) as u64);
    for served in served {
        alike.entry(key(served.template)).or_default().insert(config_text(served.template));
    }
    let paint = |served: &Served| {
        let known = &alike[&key(served.template)];
        let text = config_text(served.template);
        let nth = known.iter().position(|known| *known == text).unwrap_or_default();
        let tile = if most > least { (ln_tile(served.template) - least) / (most - least) } else { 0.4 };
        palette::of_config(mma(served.template).as_deref(), tile, nth, known.len())
    };
    served.iter().map(paint).collect()
}

fn config_of(template: &Template) -> String {
    serde_json::from_value(template.clone().into()).map_or_else(|_| config_text(template), |config| short(&config))
}

/// Bins in the order in which people say dimensions; others come after them.
const BINS: [&str; 5] = ["m_bin", "n_bin", "k_bin", "rows_bin", "cols_bin"];

/// A bucket's bins in words, its type and aspect last.
fn spelled(bucket: &Bucket) -> String {
    let (mut bins, rest): (Vec<_>, Vec<_>) = bucket.iter().partition(|(field, _)| field.ends_with("_bin"));
    bins.sort_by_key(|(field, _)| BINS.iter().position(|bin| bin == field).unwrap_or(BINS.len()));
    let bins = bins.iter().map(|(field, label)| format!("{} {}", name_of(field), spaced(label)));
    bins.chain(rest.iter().map(|(_, label)| (*label).clone())).collect::<Vec<_>>().join(", ")
}

/// `m_bin` → `m`.
fn name_of(field: &str) -> String {
    field.strip_suffix("_bin").unwrap_or(field).replace('_', " ")
}

/// `<=16` → `≤ 16`.
fn spaced(label: &str) -> String {
    label.replace("<=", "≤ ").replace('>', "> ")
}

/// A bound in binary thousands: 4096 is `4k`.
fn tight(bound: u64) -> String {
    match bound {
        _ if bound >= 1 << 20 && bound.is_multiple_of(1 << 20) => format!("{}M", bound >> 20),
        _ if bound >= 1 << 10 && bound.is_multiple_of(1 << 10) => format!("{}k", bound >> 10),
        _ => bound.to_string(),
    }
}

/// Where a bucket lies along a field, with its label.
fn key_of(field: &str, bucket: &Bucket) -> Label {
    let Some(label) = bucket.get(field) else {
        // Attention's buckets name the keys' length only where it is not the queries'.
        return (0, if field == "kv_seq_bin" { "= seq" } else { "none" }.to_owned());
    };
    let (sign, bound) =
        match label.strip_prefix("<=").map(|bound| ("≤", bound)).or_else(|| Some((">", label.strip_prefix('>')?))) {
            Some((sign, bound)) => (sign, bound.parse::<u64>().ok()),
            None => ("", None),
        };
    let place = |bound: u64| bound.saturating_mul(2).saturating_add(u64::from(sign == ">"));
    bound.map_or_else(|| (u64::MAX, label.clone()), |bound| (place(bound), format!("{sign}{}", tight(bound))))
}

/// What a document's entries are called in a diff, as the page calls buckets: `m_bin <=4, n_bin >4096` is `m ≤ 4, n > 4096`.
pub(super) fn spelled_place(place: &str) -> String {
    let fields: Option<Bucket> = place
        .split(", ")
        .map(|field| field.split_once(' ').map(|(name, label)| (name.to_owned(), label.to_owned())))
        .collect();
    fields.map_or_else(|| place.to_owned(), |bucket| spelled(&bucket))
}

/// Buckets in the order of their bins.
fn order_of(bucket: &Bucket) -> Vec<(String, u64, String)> {
    bucket
        .keys()
        .map(|field| {
            let (place, label) = key_of(field, bucket);
            (field.clone(), place, label)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(fields: &[(&str, &str)]) -> Bucket {
        fields.iter().map(|(field, label)| ((*field).to_owned(), (*label).to_owned())).collect()
    }

    #[test]
    fn bins_are_in_the_order_of_their_bounds() {
        let labels = [">4096", "<=4", "<=128", "<=4096", "<=16"];
        let mut keys: Vec<_> = labels.iter().map(|label| key_of("m_bin", &bucket(&[("m_bin", label)]))).collect();
        keys.sort();
        let labels: Vec<&str> = keys.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["≤4", "≤16", "≤128", "≤4k", ">4k"]);
        assert_eq!(key_of("kv_seq_bin", &bucket(&[])).1, "= seq");
    }

    #[test]
    fn places_of_a_diff_are_spelled_as_buckets_are() {
        assert_eq!(
            spelled_place("aspect skinny_m, dtype fp16_bf16, m_bin <=4, n_bin >4096"),
            "m ≤ 4, n > 4096, skinny_m, fp16_bf16"
        );
        assert_eq!(spelled_place("small_m"), "small_m");
    }

    #[test]
    fn the_bins_with_most_bounds_span_a_map() {
        let template = Template::new();
        let served = |fields: &[(&str, &str)]| Served {
            bucket: bucket(fields),
            template: &template,
            group: None,
            regret: None,
            problems: 1,
            ties: 0,
        };
        let all = [
            served(&[("aspect", "skinny_m"), ("dtype", "int"), ("k_bin", "<=4"), ("m_bin", "<=4"), ("n_bin", "<=4")]),
            served(&[("aspect", "skinny_n"), ("dtype", "int"), ("k_bin", "<=8"), ("m_bin", "<=8"), ("n_bin", "<=4")]),
            served(&[("aspect", "skinny_n"), ("dtype", "int"), ("k_bin", "<=8"), ("m_bin", ">8"), ("n_bin", "<=4")]),
        ];
        let layout = Layout::of(&all);
        assert_eq!((layout.y.as_deref(), layout.x.as_deref()), (Some("m_bin"), Some("k_bin")));
        assert_eq!(layout.others, ["n_bin"], "one type need not be told, and aspects share a cell");
        let two =
            [served(&[("dtype", "fp32"), ("numel_bin", "<=4")]), served(&[("dtype", "int"), ("numel_bin", "<=8")])];
        let layout = Layout::of(&two);
        assert_eq!((layout.y.as_deref(), layout.x.as_deref()), (Some("dtype"), Some("numel_bin")));
    }
}
