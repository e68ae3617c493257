//! Plans: which problems to sweep, over which configs. `sweeps/<family>.toml` and a GPU profile make the ordered trials,
//! and the pruned ones with their reason.

mod domain;
mod kernels;
mod problem;
mod read;
mod space;

pub use domain::{Alignment, Limits, Purpose, draw, draw_plain, draw_variants, in_all_types};
pub use kernels::sample;
pub use problem::PlannedProblem;
pub use read::{MOST_RANDOM_PROBLEMS, read_shapes};
pub use space::Space;

use crate::error::{Context, Error, Result};
use crate::families::{self, KernelSpec, Launch, Rejection, manifest};
use crate::heuristics::Formula;
use crate::model::{Config, Family, GpuProfile, Mma, Problem};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A family's plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The family.
    pub family: Family,
    /// The problems of every space that brings none of its own.
    problems: Vec<PlannedProblem>,
    /// The spaces by kind: `mma_sync`, `simt`, `cpu`, …
    spaces: BTreeMap<String, Space>,
    /// Where it was read, but for a built-in one.
    file: Option<PathBuf>,
}

/// A config of the space, on one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The config.
    pub config: Config,
    /// The kernel and its launch, or why it cannot run. The cpu device's kernels need neither.
    pub program: Result<Option<(KernelSpec, Launch)>, Rejection>,
}

impl Candidate {
    /// Whether both run the same kernel with the same launch, so that their times are one.
    pub fn runs_as(&self, other: &Self) -> bool {
        match (&self.program, &other.program) {
            (Ok(Some(ours)), Ok(Some(theirs))) => ours == theirs,
            _ => self.config == other.config,
        }
    }
}

impl Plan {
    /// Loads a family's plan: from `path`, else from `sweeps/` in the working directory, else the embedded one.
    ///
    /// # Errors
    /// Where the file cannot be read or says something impossible; the message names file and line.
    pub fn load(family: Family, path: Option<&Path>) -> Result<Self> {
        let name = format!("{family}.toml");
        let own = manifest::path_of(family).or_else(|| manifest::local_path(family.name()));
        if let Some(path) = path.or(own.as_deref()) {
            let text = manifest::read_text(path).context(|| format!("plan {}", path.display()))?;
            let plan = Self::parse(family, &text, &path.display().to_string())?;
            return Ok(Self { file: Some(std::path::absolute(path)?), ..plan });
        }
        let text = manifest::embedded(&name)
            .ok_or_else(|| Error::failure(format!("no plan for {family} is built in; give one with --plan")))?;
        Self::parse(family, text, &format!("sweeps/{name} (built in)"))
    }

    /// Parses a plan; `name` is what messages call it.
    fn parse(family: Family, text: &str, name: &str) -> Result<Self> {
        let read::Contents { problems, spaces } = read::parse(family, text, name)?;
        Ok(Self { family, problems, spaces, file: None })
    }

    /// The file it was read from; none where it is built in.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The spaces this GPU can run, most capable instructions last.
    pub fn spaces(&self, profile: &GpuProfile) -> Vec<&Space> {
        if profile.is_cpu() {
            return self.spaces.get(GpuProfile::CPU).into_iter().collect();
        }
        let of_gpu = [Space::ANY_GPU, &profile.arch, &profile.name].into_iter();
        let kinds = of_gpu.chain(profile.mma.iter().map(|mma| mma.name()));
        kinds
            .filter_map(|kind| self.spaces.get(kind))
            .filter(|space| space.superseded_by.is_none_or(|mma| !profile.mma.contains(&mma)))
            .collect()
    }

    /// What is not worth trying on a problem of this GPU: each of these, of configs with that `mma`, where their space has one.
    pub fn untried(&self, profile: &GpuProfile) -> impl Iterator<Item = (Option<Mma>, &Formula)> {
        let spaces = self.spaces(profile).into_iter();
        spaces.flat_map(|space| space.exclusions.iter().map(|exclusion| (space.default.mma, exclusion)))
    }

    /// The problems to sweep on this GPU, in the plan's order.
    ///
    /// # Errors
    /// Where the plan has no space for this GPU, or no problem.
    pub fn problems(&self, profile: &GpuProfile) -> Result<&[PlannedProblem]> {
        if profile.is_cpu() && !families::spec(self.family).has_host_kernels() {
            return Err(Error::usage(format!(
                "{} has no kernel for the host: sweep it on a GPU, or compile it for one with sweep compile",
                self.family
            )));
        }
        let spaces = self.spaces(profile);
        if spaces.is_empty() {
            let kinds: Vec<_> = self.spaces.keys().map(String::as_str).collect();
            let kinds = if kinds.is_empty() { "none at all".to_owned() } else { kinds.join(", ") };
            return Err(Error::usage(format!(
                "the plan of {} has no config space for {}; it has {kinds}",
                self.family, profile.name
            )));
        }
        let problems = spaces.iter().find_map(|space| space.problems.as_deref()).unwrap_or(&self.problems);
        if problems.is_empty() {
            return Err(Error::usage(format!("the plan of {} has no [[problem]]", self.family)));
        }
        if !self.family.ships() {
            self.check_some_run(problems, profile)?;
        }
        Ok(problems)
    }

    /// Refuses a plan none of whose configs runs on any of its problems, with what each of the first is refused for.
    fn check_some_run(&self, problems: &[PlannedProblem], profile: &GpuProfile) -> Result<()> {
        let mut reasons = BTreeSet::new();
        for planned in problems {
            for candidate in self.candidates(&planned.problem, profile) {
                match candidate.program {
                    Ok(_) => return Ok(()),
                    Err(Rejection(reason)) if reasons.len() < MOST_REASONS => drop(reasons.insert(reason)),
                    Err(_) => {}
                }
            }
        }
        let reasons: Vec<String> = reasons.into_iter().collect();
        let file = self.file.as_deref().unwrap_or(Path::new("its plan")).display();
        Err(Error::usage(format!(
            "{file}: no config of {} runs on any of its problems: {}",
            self.family,
            reasons.join("; ")
        )))
    }

    /// The default config of each space this GPU can run.
    pub fn defaults(&self, profile: &GpuProfile) -> Vec<Config> {
        self.spaces(profile).into_iter().map(|space| space.default.clone()).collect()
    }

    /// The configs worth trying on one problem, defaults first, then in the order of the axes.
    pub fn configs(&self, problem: &Problem, profile: &GpuProfile) -> Vec<&Config> {
        let spaces = self.spaces(profile);
        let suits = |space: &Space, config: &Config| {
            *config != space.default && space.suits(&families::values(config, problem, profile))
        };
        let mut configs: Vec<&Config> = spaces.iter().map(|space| &space.default).collect();
        for space in spaces {
            configs.par_extend(space.configs.par_iter().filter(|config| suits(space, config)));
        }
        configs
    }

    /// Those of them that run.
    pub fn legal_configs(&self, problem: &Problem, profile: &GpuProfile) -> Vec<&Config> {
        if fits(problem).is_err() {
            return Vec::new();
        }
        let spec = families::spec(problem.family);
        let is_own = runs_own_kernels(problem.family, profile);
        let runs = |config: &&Config| {
            let verdict = if is_own { spec.check_host(config, problem) } else { spec.legal(config, problem, profile) };
            verdict.is_ok()
        };
        self.configs(problem, profile).into_par_iter().filter(runs).collect()
    }

    /// All that are worth trying on one problem, in the same order, with how they run or why they do not.
    pub fn candidates(&self, problem: &Problem, profile: &GpuProfile) -> Vec<Candidate> {
        let fits = fits(problem);
        let configs = self.configs(problem, profile).into_par_iter();
        configs.map(|config| candidate_if(&fits, config.clone(), problem, profile)).collect()
    }
}

fn fits(problem: &Problem) -> Result<(), Rejection> {
    families::spec(problem.family).check_problem(problem)
}

/// Looks up how `config` runs on `problem`.
pub fn candidate(config: Config, problem: &Problem, profile: &GpuProfile) -> Candidate {
    candidate_if(&fits(problem), config, problem, profile)
}

/// The same, where it is known whether the problem `fits`: whether kernels can be verified on it.
fn candidate_if(fits: &Result<(), Rejection>, config: Config, problem: &Problem, profile: &GpuProfile) -> Candidate {
    let program = program(fits, &config, problem, profile);
    Candidate { config, program }
}

/// The kernel and launch that `config` comes to on `problem`, or why it cannot run; nothing where the device has kernels of its own.
fn program(
    fits: &Result<(), Rejection>,
    config: &Config,
    problem: &Problem,
    profile: &GpuProfile,
) -> Result<Option<(KernelSpec, Launch)>, Rejection> {
    fits.clone()?;
    let spec = families::spec(problem.family);
    if runs_own_kernels(problem.family, profile) {
        spec.check_host(config, problem).map(|()| None)
    } else {
        spec.program(config, problem, profile).map(Some)
    }
}

/// Whether the device runs a family's problems by kernels of its own: the host does, but for those that are called.
fn runs_own_kernels(family: Family, profile: &GpuProfile) -> bool {
    profile.is_cpu() && families::spec(family).callable().is_none()
}

/// Reasons that are told of a plan that nothing of runs.
const MOST_REASONS: usize = 3;

/// The problems of one shard out of `count`: disjoint, and together all of them.
pub fn shard<T>(problems: impl IntoIterator<Item = T>, index: usize, count: usize) -> Vec<T> {
    problems.into_iter().skip(index).step_by(count).collect()
}

/// The plans of several families; `path` is for a single one.
///
/// # Errors
/// As [`Plan::load`], and where one path is to serve several families.
pub fn load_all(families: &[Family], path: Option<&Path>) -> Result<Vec<Plan>> {
    if path.is_some() && families.len() != 1 {
        return Err(Error::usage("--plan is the plan of one family; name that one with --family"));
    }
    let load = |family: &Family| Plan::load(*family, path).context(|| format!("family {family}"));
    let plans: Vec<Result<Plan>> = families.par_iter().map(load).collect();
    plans.into_iter().collect()
}

/// Those of several plans that have a space for this GPU, and of the others why they are left out, in a line each. Where none has
/// one all stay: whoever asks for their problems is told.
pub fn with_a_space(plans: Vec<Plan>, profile: &GpuProfile) -> (Vec<Plan>, Vec<String>) {
    let has_a_space = |plan: &Plan| !plan.spaces(profile).is_empty();
    if !plans.iter().any(has_a_space) {
        return (plans, Vec::new());
    }
    let (with, without): (Vec<Plan>, Vec<Plan>) = plans.into_iter().partition(has_a_space);
    let why = |plan: &Plan| format!("{} is left out: its plan has no config space for {}", plan.family, profile.name);
    (with, without.iter().map(why).collect())
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Dtype;

    #[test]
    fn a_space_gives_way_to_the_instructions_that_supersede_it() {
        let plan = Plan::load(Family::MatmulFp4, None).unwrap();
        let kinds = |gpu| {
            let defaults = plan.defaults(&GpuProfile::by_name(gpu).unwrap());
            defaults.into_iter().map(|config| config.mma.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(kinds("h200"), [Mma::MmaSyncTma, Mma::Wgmma]);
        assert_eq!(kinds("b200"), [Mma::MmaSync, Mma::Tcgen05, Mma::Tcgen05Tmem]);
        assert_eq!(kinds("a100"), [Mma::MmaSync]);
    }

    const HALVES: &str = r#"
        [space.simt]
        default = { block_sizes = [1024], num_warps = 4, pid_type = "flat" }
        axes = { block_sizes = [[256, 1024, 4096]], num_warps = [1, 4, 8], pid_type = ["flat"] }
        [[space.simt.exclude]]
        when = "block_sizes[0] < num_warps * 256"
        reason = "too little for a thread"
        [[space.simt.exclude]]
        when = "block_sizes[0] > 256 && block_sizes[0] / 2 >= numel"
        reason = "half of it is all there is"
    "#;

    #[test]
    fn what_an_exclusion_says_of_knobs_holds_everywhere_and_what_it_says_of_dimensions_on_those_problems() {
        let plan = Plan::parse(Family::Elementwise, HALVES, "plan").unwrap();
        let h200 = GpuProfile::by_name("h200").unwrap();
        let configs = |numel| {
            let problem = Problem::parse(Family::Elementwise, &format!("numel={numel}"), Dtype::Bf16).unwrap();
            let legal = plan.legal_configs(&problem, &h200);
            let candidates = plan.candidates(&problem, &h200);
            assert!(candidates.iter().map(|candidate| &candidate.config).eq(legal.iter().copied()));
            let blocks = |config: &&Config| (config.block_sizes[0], config.num_warps.unwrap());
            legal.iter().map(blocks).collect::<Vec<_>>()
        };
        assert_eq!(configs(1 << 20), [(1024, 4), (256, 1), (1024, 1), (4096, 1), (4096, 4), (4096, 8)]);
        assert_eq!(configs(1000), [(1024, 4), (256, 1), (1024, 1)]);
        assert_eq!(configs(500), [(1024, 4), (256, 1)], "the default is always tried");
    }

    #[test]
    fn a_plan_knows_its_file_from_wherever_one_asks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("halves.toml");
        std::fs::write(&path, HALVES).unwrap();
        assert_eq!(Plan::load(Family::Elementwise, Some(&path)).unwrap().file(), Some(path.as_path()));
    }

    #[test]
    fn a_space_may_list_its_configs_beside_axes_or_in_their_place() {
        let listed = |axes: &str| {
            let text = format!(
                "[space.simt]\ndefault = {{ block_sizes = [1024], num_warps = 4, pid_type = 'flat' }}\n{axes}\n\
                 configs = [{{ block_sizes = [512], num_warps = 2, pid_type = 'flat' }}]"
            );
            let plan = Plan::parse(Family::Elementwise, &text, "plan")?;
            let configs = plan.spaces(&GpuProfile::by_name("h200")?)[0].configs.clone();
            Ok::<_, Error>(configs.into_iter().map(|config| config.block_sizes[0]).collect::<Vec<_>>())
        };
        assert_eq!(listed("").unwrap(), [512]);
        let axes = "axes = { block_sizes = [[256, 512]], num_warps = [2], pid_type = ['flat'] }";
        assert_eq!(listed(axes).unwrap(), [512, 256], "each once");
        let neither = "[space.simt]\ndefault = { block_sizes = [1024], num_warps = 4, pid_type = 'flat' }";
        let error = Plan::parse(Family::Elementwise, neither, "plan").unwrap_err().to_string();
        assert!(error.starts_with("plan:2") && error.contains("neither axes nor configs"), "{error}");
    }

    #[test]
    fn an_exclusion_that_cannot_be_read_is_named_with_its_line() {
        let error = Plan::parse(Family::Elementwise, &HALVES.replace("numel", "rows"), "plan").unwrap_err();
        assert!(error.to_string().contains("plan:8") && error.to_string().contains("rows"), "{error}");
    }

    #[test]
    fn a_random_design_stands_beside_the_problems_that_are_written() {
        let read = |random: &str| {
            let written = "[[problem]]\nnumel = 5000\nfrom = 'a model'\n";
            Plan::parse(Family::Elementwise, &format!("{written}[random]\n{random}\n"), "plan")
        };
        let problems = read("problems = 10\nseed = 3").unwrap().problems;
        assert_eq!((problems.len(), problems[0].from.as_deref()), (11, Some("a model")));
        assert!(problems[1..].iter().all(|planned| planned.from.as_deref() == Some("random, seed 3")));
        assert_eq!(
            read("problems = 5\nseed = 3").unwrap().problems,
            problems[..6],
            "a larger design keeps the smaller one"
        );
        assert_ne!(read("problems = 10\nseed = 4").unwrap().problems[1], problems[1]);
        for (wrong, named) in [("problems = 10", "seed"), ("problems = -1\nseed = 3", "-1"), ("count = 10", "count")] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.starts_with("plan:") && error.contains(named), "{error}");
        }
    }

    #[test]
    fn variants_are_drawn_for_families_that_have_some() {
        let read = |family, variants| {
            Plan::parse(family, &format!("[random]\nproblems = 4\nvariants = {variants}\nseed = 3"), "plan")
        };
        let plain = |plan: Plan| plan.problems.iter().filter(|planned| planned.problem.shape.is_plain()).count();
        let attention = read(Family::Attention, 6).unwrap();
        assert_eq!((attention.problems.len(), plain(attention)), (10, 4));
        assert_eq!(read(Family::Matmul, 0).unwrap().problems.len(), 4);
        let error = read(Family::Matmul, 1).unwrap_err().to_string();
        assert!(error.starts_with("plan:1") && error.contains("matmul has none"), "{error}");
        let most = |count| Plan::parse(Family::Elementwise, &format!("[random]\nproblems = {count}\nseed = 3"), "plan");
        let error = most(MOST_RANDOM_PROBLEMS + 1).unwrap_err().to_string();
        assert!(error.contains("more than"), "{error}");
    }

    #[test]
    fn a_file_of_shapes_is_a_plans_problems_without_its_spaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shapes.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_shapes(Family::Elementwise, &path)
        };
        let shapes = read("[[problem]]\nnumel = 5000\nfrom = 'a model'\n[[problem]]\nnumel = 7").unwrap();
        let told: Vec<(String, Option<&str>)> =
            shapes.iter().map(|planned| (planned.problem.shape.to_string(), planned.from.as_deref())).collect();
        assert_eq!(told, [("numel=5000".to_owned(), Some("a model")), ("numel=7".to_owned(), None)]);
        for (wrong, said) in [("", "it has no [[problem]]"), ("[[problem]]\nrows = 5", "rows")] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("shapes.toml") && error.contains(said), "{error}");
        }
        assert!(read_shapes(Family::Elementwise, &folder.path().join("none.toml")).is_err());
    }

    #[test]
    fn plans_without_a_space_for_a_gpu_are_left_out_unless_all_are() {
        let [a100, h200] = ["a100", "h200"].map(|gpu| GpuProfile::by_name(gpu).unwrap());
        let plans = |families: &[Family]| load_all(families, None).unwrap();
        let left = |families: &[Family], profile: &GpuProfile| {
            let (with, without) = with_a_space(plans(families), profile);
            (with.iter().map(|plan| plan.family).collect::<Vec<_>>(), without)
        };
        let both = [Family::Matmul, Family::MatmulFp8];
        assert_eq!(left(&both, &h200), (both.to_vec(), Vec::new()));
        let (with, without) = left(&both, &a100);
        assert_eq!(with, [Family::Matmul]);
        assert_eq!(without, ["matmul_fp8 is left out: its plan has no config space for a100"]);
        assert_eq!(left(&both[1..], &a100), (both[1..].to_vec(), Vec::new()), "whoever asks for its problems is told");
    }

    #[test]
    fn what_supersedes_a_space_must_be_known() {
        let text = "[space.mma_sync]\nsuperseded_by = 'hgmma'\ndefault = { block_sizes = [16, 32, 64] }\naxes = { block_sizes = [[16], [32], [64]] }";
        let error = Plan::parse(Family::Matmul, text, "plan").unwrap_err().to_string();
        assert!(error.contains("plan:2") && error.contains("hgmma"), "{error}");
    }
}
