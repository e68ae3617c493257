//! The closing table of a sweep.

use crate::families;
use crate::model::Family;
use crate::sweep::{Summary, Winner};
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write;
use std::path::Path;

/// Rows of the closing table for each family; the document has the rest.
const ROWS: usize = 8;

/// The closing table: some problems of each family with their winner, then the totals.
pub fn sweep(summary: &Summary) -> String {
    let mut text = String::new();
    for (family, outcome) in &summary.families {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{family}, {} problems: {}", outcome.problems, counts(outcome));
        let shown = spread(&outcome.winners, ROWS);
        let _ = writeln!(text, "{}", table(*family, &shown));
        for problem in &outcome.unworkable {
            let _ = writeln!(text, "no working config: {problem}");
        }
    }
    let statuses: Vec<_> = summary.statuses.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let statuses = if statuses.is_empty() { "nothing new".to_string() } else { statuses.join(", ") };
    let _ = writeln!(
        text,
        "{:.1} s: {statuses}; {} taken over; {:.1} verified/s, device busy {:.0} %, compiling {:.1} s",
        summary.wall_s,
        summary.resumed,
        summary.verified_per_s,
        summary.gpu_busy * 100.0,
        summary.compile_s
    );
    if summary.loaded > 0 {
        let _ =
            writeln!(text, "{} trials were measured while the device had other work, and are flagged", summary.loaded);
    }
    let _ = match &summary.document {
        Some(document) => write!(text, "wrote {}{}", document.display(), next(summary, document)),
        None => write!(text, "filled the journal alone; sweep derive --gpu {} merges what there is", summary.gpu),
    };
    text
}

/// What to do with a document that was just made: ask it of a problem that was measured, and look at all of it.
fn next(summary: &Summary, document: &Path) -> String {
    let measured = summary.families.iter().find_map(|(family, outcome)| Some((family, outcome.winners.first()?)));
    let Some((family, Winner { trial, .. })) = measured else { return String::new() };
    let output = document.parent().and_then(Path::parent).filter(|output| *output != Path::new("output"));
    let output = output.map_or_else(String::new, |output| format!(" --output {}", output.display()));
    let (gpu, shape) = (&summary.gpu, trial.problem);
    let dtype =
        if trial.dtype == trial.family.default_dtype() { String::new() } else { format!(" --dtype {}", trial.dtype) };
    format!(
        "\nnext: sweep lookup --gpu {gpu} --family {family} --shape {shape}{dtype}{output} --explain\n      \
         sweep report --gpu {gpu}{output} -o report.html"
    )
}

fn counts(outcome: &crate::sweep::FamilySummary) -> String {
    let mut parts = vec![format!("{} rules, {} fallbacks", outcome.rules, outcome.fallbacks)];
    if outcome.unfinished > 0 {
        parts.push(format!("{} problems not finished within the budget", outcome.unfinished));
    }
    parts.join("; ")
}

/// At most `count` of the items, evenly spread.
fn spread<T>(items: &[T], count: usize) -> Vec<&T> {
    let shown = items.len().min(count);
    (0..shown).map(|index| &items[index * items.len() / shown]).collect()
}

fn table(family: Family, winners: &[&Winner]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["problem", "median", "rate", "vs default", "vs served", "config"]);
    for winner in winners {
        let trial = &winner.trial;
        let time = trial.time().unwrap_or_default();
        let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x"));
        table.add_row([
            trial.problem().label(),
            time.to_string(),
            rate(family, winner),
            ratio(winner.default_ratio),
            ratio(winner.served_ratio),
            trial.config.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Arithmetic for the families of matrix products, memory traffic for the others.
fn rate(family: Family, winner: &Winner) -> String {
    /// A kernel that does more for each byte it moves is not told by its bytes; sums, softmaxes and the like do less.
    const FLOPS_A_BYTE: f64 = 4.0;
    let problem = winner.trial.problem();
    let seconds = winner.trial.time().unwrap_or_default().0 / 1e6;
    let spec = families::spec(family);
    let (bytes, flops) = (spec.bytes(&problem).0 as f64, spec.flops(&problem));
    if spec.domain().is_none() || flops > FLOPS_A_BYTE * bytes {
        return format!("{:.1} GFLOP/s", flops / seconds / 1e9);
    }
    format!("{:.1} GB/s", bytes / seconds / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Stage, Status, Trial};
    use crate::model::{Config, Dtype, Micros, Problem};

    fn winner(family: Family, shape: &str, dtype: Dtype) -> Winner {
        let problem = Problem::parse(family, shape, dtype).unwrap();
        let untimed = Trial::untimed(&problem, Config::default(), Stage::Final, Status::Ok);
        Winner { trial: Trial { time_us: Some(Micros(5.0)), ..untimed }, default_ratio: None, served_ratio: None }
    }

    #[test]
    fn problems_that_differ_in_their_type_alone_are_told_apart() {
        let rows = "rows=640,cols=2048";
        let of_both = [Dtype::Bf16, Dtype::F32].map(|dtype| winner(Family::RowSoftmax, rows, dtype));
        let text = table(Family::RowSoftmax, &of_both.iter().collect::<Vec<_>>()).to_string();
        assert!(text.contains("rows=640,cols=2048 bf16") && text.contains("rows=640,cols=2048 f32"), "{text}");
        let product = winner(Family::MatmulFp8, "m=1,n=2,k=3", Dtype::Fp8);
        let text = table(Family::MatmulFp8, &[&product]).to_string();
        assert!(text.contains("m=1,n=2,k=3") && !text.contains("fp8"), "a family of one type need not say it: {text}");
    }
}
