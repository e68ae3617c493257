//! Races: arms take one sample each a round, in a fresh random order each round, so that whatever drifts drifts for all.
//!
//! The first rounds choose: arms that are far behind drop out, and the best by them is the winner. The rounds after them report:
//! nobody has looked at these when the choice is made, so that luck that made the winner does not flatter it. The winner's
//! duplicate joins for them as null arm: how far it is from the winner is noise.

use super::{DurationClass, Sample, Summary, Throttling, location_us, median, sorted};
use crate::model::Micros;
use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

/// A number of rounds for each [`DurationClass`], the fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rounds(pub [u32; 5]);

impl Rounds {
    fn of(self, class: DurationClass) -> u32 {
        self.0[class as usize]
    }
}

/// No arm is so slow that it drops out. A finite number, since plans are sent as JSON, which has no other.
const NOBODY: f64 = f64::MAX;

/// How long a race runs and who drops out of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RacePlan {
    /// Rounds after which the hopeless drop out, whoever they are.
    pub first_look: u32,
    /// How many times as long as the best a hopeless arm takes.
    pub hopeless: f64,
    /// Rounds that choose, by the duration of the best arm.
    pub choosing: Rounds,
    /// How many times as long as the best an arm takes by the end of these that drops out, if it is no anchor.
    pub far_behind: f64,
    /// Rounds that report.
    pub reporting: Rounds,
    /// Whether the winner's duplicate joins the rounds that report.
    pub null_arm: bool,
}

impl RacePlan {
    /// Among a problem's finalists. In all, what tells one per cent by the spread of rounds on an H200: some 120 below 12 µs, 90 below
    /// 20 and 48 up to 50; above 200 µs paired rounds agree within 0.3 %, and a few are enough.
    pub const FINAL: Self = Self {
        first_look: 3,
        hopeless: 3.0,
        choosing: Rounds([30, 30, 16, 8, 4]),
        far_behind: 1.05,
        reporting: Rounds([90, 60, 32, 12, 8]),
        null_arm: true,
    };
    /// Of what other problems chose with the anchors of the problem's own final.
    pub const CROSS: Self = Self {
        choosing: Rounds([8, 8, 8, 6, 3]),
        reporting: Rounds([32, 32, 16, 8, 4]),
        null_arm: false,
        ..Self::FINAL
    };
    /// Of slow candidates with an incumbent, in place of samples of each alone: their clock changes from one to the next.
    pub const SCREEN: Self = Self {
        first_look: 1,
        hopeless: 2.0,
        choosing: Rounds([3; 5]),
        far_behind: NOBODY,
        reporting: Rounds([0; 5]),
        null_arm: false,
    };

    /// Of programs that were measured before: as many rounds as a final's for all of them.
    pub const RECHECK: Self = Self {
        first_look: 3,
        hopeless: NOBODY,
        choosing: Rounds([120, 90, 48, 20, 12]),
        far_behind: NOBODY,
        reporting: Rounds([0; 5]),
        null_arm: false,
    };

    /// So many times the rounds.
    #[must_use]
    pub fn longer(self, factor: u32) -> Self {
        let times = |rounds: Rounds| Rounds(rounds.0.map(|count| count * factor));
        Self { choosing: times(self.choosing), reporting: times(self.reporting), ..self }
    }
}

/// What the arms of a race did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Raced {
    /// Each arm's samples, one a round from the first; fewer of those that dropped out.
    pub arms: Vec<Vec<Sample>>,
    /// Rounds that chose the winner; 0 where nothing was chosen.
    pub chosen_by: u32,
    /// The winner and its duplicate's samples, one for each of the rounds after those.
    pub null_arm: Option<(usize, Vec<Sample>)>,
}

/// Runs a race of as many arms as `anchors` has entries. `sample` takes one of an arm in a round; a round with a throttled sample
/// spoils the pairing and is run again, as long as `throttling` says so.
///
/// # Errors
/// Where `sample` fails, which ends the race.
pub fn race<E>(
    anchors: &[bool],
    plan: &RacePlan,
    throttling: &mut Throttling,
    random: &mut impl Rng,
    sample: &mut dyn FnMut(usize, u32) -> Result<Sample, E>,
) -> Result<Raced, E> {
    let count = anchors.len();
    let mut raced = Raced { arms: vec![Vec::new(); count], ..Raced::default() };
    let mut running: Vec<usize> = (0..count).collect();
    let (mut turn, mut done, mut null_arm, mut class) = (0, 0, None, None);
    while !running.is_empty() {
        let (choosing, reporting) = class.map_or((plan.first_look, 1), |class| {
            let choosing = plan.choosing.of(class).max(plan.first_look);
            (choosing, plan.reporting.of(class))
        });
        if class.is_some() && done == choosing {
            let best = running
                .iter()
                .copied()
                .min_by(|one, other| time_us(&raced.arms[*one]).total_cmp(&time_us(&raced.arms[*other])));
            let best_us = best.map_or(f64::NAN, |best| time_us(&raced.arms[best]));
            running.retain(|arm| anchors[*arm] || time_us(&raced.arms[*arm]) <= plan.far_behind * best_us);
            if let Some(best) = best.filter(|_| plan.null_arm) {
                raced.chosen_by = done;
                null_arm = Some(best);
            }
        }
        if class.is_some() && done >= choosing + reporting {
            break;
        }
        // The duplicate runs as an arm of its own behind the others.
        let mut order: Vec<usize> = running.iter().copied().chain(null_arm.map(|_| count)).collect();
        order.shuffle(random);
        let mut round = Vec::with_capacity(order.len());
        for arm in order {
            let runs_as = if arm == count { null_arm.unwrap_or(0) } else { arm };
            round.push((arm, sample(runs_as, turn)?));
        }
        turn += 1;
        if throttling.drops(round.iter().any(|(_, sample)| sample.throttled)) {
            continue;
        }
        done += 1;
        for (arm, sample) in round {
            match raced.arms.get_mut(arm) {
                Some(samples) => samples.push(sample),
                None => raced.null_arm.get_or_insert_with(|| (null_arm.unwrap_or(0), Vec::new())).1.push(sample),
            }
        }
        if done == plan.first_look && class.is_none() {
            let middle_us =
                |arm: &usize| median(raced.arms[*arm].iter().map(|sample| sample.time.0)).unwrap_or(f64::NAN);
            let best_us = running.iter().map(middle_us).fold(f64::INFINITY, f64::min);
            running.retain(|arm| middle_us(arm) <= plan.hopeless * best_us);
            class = Some(DurationClass::of(Micros(best_us)));
        }
    }
    Ok(raced)
}

fn time_us(samples: &[Sample]) -> f64 {
    location_us(&sorted(samples.iter().map(|sample| sample.time.0)))
}

impl Raced {
    /// What an arm's rounds come to: those that report, where it was still there; else all it had.
    pub fn summary(&self, arm: usize) -> Summary {
        let times_us: Vec<f64> = self.arms[arm].iter().map(|sample| sample.time.0).collect();
        let held_out = times_us.get(self.chosen_by as usize..).filter(|held_out| !held_out.is_empty());
        Summary::of(held_out.unwrap_or(&times_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prop_assert, prop_assert_eq, proptest};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn steady(us: f64) -> Sample {
        Sample { time: Micros(us), sm_mhz: None, throttled: false }
    }

    /// A race on a device whose arms take as long as `time_us` says of an arm in a round.
    fn run(anchors: &[bool], plan: &RacePlan, mut time_us: impl FnMut(usize, u32) -> f64) -> Raced {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut sample = |arm, turn| Ok::<_, ()>(steady(time_us(arm, turn)));
        race(anchors, plan, &mut Throttling::default(), &mut random, &mut sample).unwrap()
    }

    fn rounds(raced: &Raced) -> Vec<usize> {
        raced.arms.iter().map(Vec::len).collect()
    }

    #[test]
    fn what_is_behind_drops_out_once_that_is_sure_but_anchors_stay() {
        let times = [15.0, 15.6, 18.0, 18.0, 60.0, 60.0];
        let raced = run(&[false, false, false, true, false, true], &RacePlan::FINAL, |arm, _| times[arm]);
        assert_eq!(rounds(&raced), [90, 90, 30, 90, 3, 3]);
        assert_eq!(
            (raced.chosen_by, raced.null_arm.as_ref().map(|(arm, rounds)| (*arm, rounds.len()))),
            (30, Some((0, 60)))
        );
    }

    #[test]
    fn what_is_just_as_far_behind_as_it_may_be_stays() {
        let times = [20.0, 21.0, 60.0, 60.1];
        let raced = run(&[false; 4], &RacePlan::FINAL, |arm, _| times[arm]);
        assert_eq!(
            rounds(&raced),
            [48, 48, 16, 3],
            "5 % behind at the end, three times as long after the first rounds"
        );
    }

    #[test]
    fn slow_arms_have_fewer_rounds() {
        let total = |us: f64| rounds(&run(&[false], &RacePlan::FINAL, |_, _| us))[0];
        assert_eq!([11.0, 19.0, 21.0, 60.0, 300.0].map(total), [120, 90, 48, 20, 12]);
        let screened = run(&[true, false, false], &RacePlan::SCREEN, |arm, _| [300.0, 500.0, 700.0][arm]);
        assert_eq!(rounds(&screened), [3, 3, 1]);
        assert_eq!(screened.null_arm, None);
    }

    /// A kernel of each duration class, in microseconds.
    const OF_EACH_CLASS: [f64; DurationClass::ALL.len()] = [11.0, 19.0, 21.0, 60.0, 300.0];

    /// The rounds that choose and those that report, of a race whose arms take so long each.
    fn choosing_and_reporting(plan: &RacePlan) -> [(usize, usize); DurationClass::ALL.len()] {
        OF_EACH_CLASS.map(|us| {
            // The second is too far behind to report.
            let raced = run(&[true, false], plan, |arm, _| us * [1.0, 1.5][arm]);
            (raced.arms[1].len(), raced.arms[0].len() - raced.arms[1].len())
        })
    }

    #[test]
    fn a_final_tells_more_than_a_crossing_and_both_report_more_than_they_choose() {
        let finals = choosing_and_reporting(&RacePlan::FINAL);
        let crossings = choosing_and_reporting(&RacePlan::CROSS);
        assert_eq!(finals, [(30, 90), (30, 60), (16, 32), (8, 12), (4, 8)]);
        assert_eq!(crossings, [(8, 32), (8, 32), (8, 16), (6, 8), (3, 4)]);
        for ((choosing, reporting), (fewer, less)) in finals.into_iter().zip(crossings) {
            assert!(reporting > choosing && less > fewer && choosing + reporting > fewer + less && less > 3);
        }
    }

    #[test]
    fn a_recheck_has_as_many_rounds_as_a_final_in_all_and_for_all() {
        for us in OF_EACH_CLASS {
            let rechecked = rounds(&run(&[false; 2], &RacePlan::RECHECK, |arm, _| us * [1.0, 5.0][arm]));
            let finished = rounds(&run(&[false], &RacePlan::FINAL, |_, _| us))[0];
            assert_eq!(rechecked, [finished; 2], "at {us} µs");
        }
    }

    #[test]
    fn a_longer_race_has_so_many_times_the_rounds_that_choose_and_that_report() {
        let once = choosing_and_reporting(&RacePlan::FINAL);
        for factor in [1, 3, 4] {
            let longer = choosing_and_reporting(&RacePlan::FINAL.longer(factor as u32));
            assert_eq!(longer, once.map(|(choosing, reporting)| (factor * choosing, factor * reporting)));
        }
    }

    #[test]
    fn the_duplicate_is_the_winners_and_runs_in_the_rounds_that_report_alone() {
        // The third is the luckiest while choosing, and no better than the others after.
        let raced = run(&[false; 3], &RacePlan::FINAL, |arm, turn| if arm == 2 && turn < 30 { 15.0 } else { 15.5 });
        let (winner, duplicate) = raced.null_arm.clone().unwrap();
        assert_eq!((winner, duplicate.len()), (2, 60));
        assert_eq!(raced.summary(2).time_us, Micros(15.5), "what chose it does not report it");
        assert_eq!(raced.summary(2).samples, 60);
    }

    #[test]
    fn every_round_of_an_arm_is_on_the_same_turn_as_the_others() {
        let mut turns = vec![Vec::new(); 3];
        run(&[false; 3], &RacePlan::FINAL, |arm, turn| {
            turns[arm].push(turn);
            15.0
        });
        assert_eq!(turns[1], turns[2]);
        assert_eq!(turns[0].len(), 150, "the winner runs twice in the rounds that report");
    }

    #[test]
    fn a_throttled_round_is_run_again_for_all() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut sample =
            |arm: usize, turn: u32| Ok::<_, ()>(Sample { throttled: turn == 5 && arm == 0, ..steady(300.0) });
        let raced = race(&[false; 2], &RacePlan::FINAL, &mut Throttling::default(), &mut random, &mut sample).unwrap();
        assert_eq!(rounds(&raced), [12, 12]);
        assert!(raced.arms.iter().flatten().all(|sample| !sample.throttled));
    }

    #[test]
    fn a_plan_comes_out_of_json_as_it_went_in() {
        for plan in [RacePlan::FINAL, RacePlan::CROSS, RacePlan::SCREEN, RacePlan::RECHECK, RacePlan::FINAL.longer(4)] {
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<RacePlan>(&text).unwrap(), plan);
        }
    }

    #[test]
    fn a_failing_sample_ends_the_race() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut sample = |_, turn| if turn < 4 { Ok(steady(15.0)) } else { Err("lost") };
        let raced = race(&[false], &RacePlan::FINAL, &mut Throttling::default(), &mut random, &mut sample);
        assert_eq!(raced, Err("lost"));
        assert_eq!(run(&[], &RacePlan::FINAL, |_, _| 1.0), Raced::default());
    }

    proptest! {
        /// However an arm's times jump between two states, drift or have late rounds, all that stay have as many rounds, and what the
        /// rounds that report say is theirs alone.
        #[test]
        fn a_race_ends_with_as_many_rounds_for_all_that_stay(
            seed in 0u64..1000,
            base in 2.0f64..2000.0,
            jump in 0.0f64..0.2,
            drift in -0.01f64..0.01,
        ) {
            let mut noise = ChaCha8Rng::seed_from_u64(seed);
            let raced = run(&[true, false, false, false], &RacePlan::FINAL, |arm, turn| {
                let state = if noise.random_bool(0.3) { 1.0 + jump } else { 1.0 };
                base * (1.0 + 0.01 * arm as f64) * state * (1.0 + drift * f64::from(turn) / 30.0)
            });
            let total = *rounds(&raced).iter().max().unwrap();
            let chosen_by = raced.chosen_by as usize;
            prop_assert!([120, 90, 48, 20, 12].contains(&total));
            prop_assert!(rounds(&raced).iter().all(|count| *count == total || *count <= chosen_by));
            let (winner, duplicate) = raced.null_arm.clone().unwrap();
            prop_assert_eq!(duplicate.len(), total - chosen_by);
            prop_assert_eq!(raced.summary(winner).samples as usize, total - chosen_by);
        }
    }
}
