//! The main job: for each family, search every problem, cross the finalists, derive, write the document.

mod ahead;
mod bench;
mod clock;
mod document;
mod effort;
mod family;
mod lab;
mod memory;
mod options;
mod races;
mod same_code;
mod schedule;
mod summary;

pub(crate) use ahead::Ahead;
pub(crate) use bench::{DeviceBench, Turn};
pub(crate) use document::derive_journals;
pub use effort::Effort;
pub(crate) use family::on_all_devices;
pub use lab::Counts;
pub(crate) use lab::Lab;
pub use options::Options;
pub(crate) use races::Reraced;
pub use same_code::{Renewed, renew};
pub use summary::{FamilySummary, Summary, Winner};

use crate::compile::Compiler;
use crate::derive;
use crate::error::{Context, Result};
use crate::heuristics::Document;
use crate::model::Family;
use crate::paths;
use crate::plan::{self, Plan};
use crate::process;
use crate::site::{self, Site};
use family::{Previous, Swept};
use std::collections::BTreeMap;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

/// Runs the sweep.
///
/// # Errors
/// Where the device is absent, a plan is wrong, the output folder cannot be written, or the user interrupts; everything
/// measured by then is in the journal.
pub fn run(options: &Options) -> Result<Summary> {
    let started = Instant::now();
    run_at(&Site::open(&options.site)?, options, started)
}

/// Families that were cut have another turn where more than this share of the budget is left: others did not need theirs.
const ANOTHER_TURN_SHARE: f64 = 0.05;

/// Runs the sweep on devices that are held already. The budget and the wall time are counted from `started`.
///
/// # Errors
/// As [`run`].
pub fn run_at(site: &Site, options: &Options, started: Instant) -> Result<Summary> {
    let (found, progress) = (site.found(), &site.progress);
    let plans = plan::load_all(&options.families, options.plan.as_deref())?;
    let (plans, left_out) = plan::with_a_space(plans, &found.profile);
    for why in &left_out {
        progress.say(why);
    }
    let document = site.folder.document();
    let mut summary = Summary {
        gpu: found.profile.name.clone(),
        device: found.name.clone(),
        document: options.makes_document().then(|| document.clone()),
        journals: plans.iter().map(|plan| site.folder.journal(plan.family, options.site.shard)).collect(),
        families: BTreeMap::new(),
        verified_per_s: 0.0,
        gpu_busy: 0.0,
        compile_s: 0.0,
        wall_s: 0.0,
        statuses: BTreeMap::new(),
        resumed: 0,
        loaded: 0,
        cut_short: false,
    };
    let previous = if document.is_file() { Some(Document::load(&document)?) } else { None };
    if let Some(previous) = &previous {
        derive::refuse_other_device(previous, &found.identity()).context(|| document.display())?;
    }
    let previous = previous.map(Previous::new);
    plans.iter().try_for_each(|plan| plan.problems(&found.profile).map(drop))?;
    if let Some(compiler) = &site.compiler {
        plans.iter().try_for_each(|plan| site::check_kernels(plan, &found.profile, compiler))?;
    }
    paths::check_outputs(summary.document.as_deref(), &summary.journals)?;
    progress.plans(&plans);
    let busy_s = sweep_plans(site, options, &plans, previous.as_ref(), started, &mut summary)?;
    summary.cut_short = summary.families.values().any(|family| family.unfinished > 0);
    summary.wall_s = started.elapsed().as_secs_f64();
    summary.compile_s = site.compiler.as_ref().map_or(0.0, Compiler::compile_s);
    summary.gpu_busy = busy_s / summary.wall_s / site.devices.len() as f64;
    summary.verified_per_s = summary.statuses.get("ok").copied().unwrap_or(0) as f64 / summary.wall_s;
    progress.finish();
    Effort::add(&site.folder, &summary, options, busy_s)?;
    Ok(summary)
}

/// Sweeps each plan in its share of the budget; returns the seconds the devices were busy. What a family's journal makes of the
/// document is derived while the next one is swept.
fn sweep_plans(
    site: &Site,
    options: &Options,
    plans: &[Plan],
    previous: Option<&Previous>,
    started: Instant,
    summary: &mut Summary,
) -> Result<f64> {
    let left = || options.budget.map(|budget| budget.saturating_sub(started.elapsed()));
    let mut busy_s = 0.0;
    let mut turn = options.clone();
    let mut to_do: Vec<&Plan> = plans.iter().collect();
    std::thread::scope(|scope| {
        let mut deriving: Option<Deriving<'_>> = None;
        while !to_do.is_empty() {
            let mut cut = Vec::new();
            for (index, plan) in to_do.iter().copied().enumerate() {
                if deriving.as_ref().is_some_and(|deriving| deriving.reads(plan.family)) {
                    end(deriving.take(), summary)?; // the journal goes on now, or is set aside
                }
                let share = left().map(|left| left / (to_do.len() - index) as u32);
                let swept = family::sweep_family(site, &turn, plan, previous, share);
                let Swept { summary: family, counts } = swept.context(|| format!("family {}", plan.family))?;
                busy_s += counts.busy_s;
                summary.loaded += counts.loaded;
                if !summary.families.contains_key(&plan.family) {
                    summary.resumed += counts.resumed;
                }
                for (status, count) in counts.statuses {
                    *summary.statuses.entry(status).or_default() += count;
                }
                if family.unfinished > 0 {
                    cut.push(plan);
                }
                summary.families.insert(plan.family, family);
                end(deriving.take(), summary)?;
                if options.makes_document() {
                    let before = previous.map(|previous| &previous.document);
                    let derive = move || document::update(site, options, plan, before);
                    let thread = process::spawn_in(scope, "the deriving thread", derive)?;
                    deriving = Some(Deriving { family: plan.family, thread });
                    if site.found().profile.is_cpu() {
                        end(deriving.take(), summary)?; // it would take the time of what is measured next
                    }
                }
            }
            let worthwhile = |(left, budget): (Duration, Duration)| left > budget.mul_f64(ANOTHER_TURN_SHARE);
            to_do = if left().zip(options.budget).is_some_and(worthwhile) { cut } else { Vec::new() };
            turn.fresh = false;
        }
        end(deriving, summary)
    })?;
    Ok(busy_s)
}

/// A family's part of the document in the making.
struct Deriving<'scope> {
    family: Family,
    thread: ScopedJoinHandle<'scope, Result<(usize, usize)>>,
}

impl Deriving<'_> {
    /// Whether it is made of this family's journal, too.
    fn reads(&self, family: Family) -> bool {
        family == self.family || Some(family) == self.family.sister()
    }
}

/// Waits for a part of the document and notes what is in it.
fn end(deriving: Option<Deriving<'_>>, summary: &mut Summary) -> Result<()> {
    let Some(Deriving { family, thread }) = deriving else { return Ok(()) };
    let (rules, fallbacks) = process::join(thread).context(|| format!("family {family}"))?;
    if let Some(summary) = summary.families.get_mut(&family) {
        (summary.rules, summary.fallbacks) = (rules, fallbacks);
    }
    Ok(())
}
