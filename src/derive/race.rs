//! Races: arms that ran in the same interleaved rounds, and who won them.

use super::evidence::Timing;
use super::noise::Draw;
use super::pair::raced;
use crate::journal::Stage;
use crate::measure::{DurationClass, location_us, mean, sorted};
use crate::model::Micros;

/// A config in a race.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arm<'e> {
    /// Index in the table's configs.
    pub(super) config: usize,
    pub(super) kernel: &'e str,
    pub(super) timing: &'e Timing,
}

impl Arm<'_> {
    /// The round of its race that it did not run any more.
    fn end(&self) -> usize {
        self.timing.joined as usize + self.timing.rounds_us.len()
    }
}

/// A ratio to some other race's winner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Logarithm of the ratio.
    pub(super) ln_ratio: f64,
    /// What the arms that it goes through add to the variance of a ratio within one race, as a share of it. Nothing where the
    /// winner is among them: what the others then say of it is off by as much less as they are themselves.
    pub(super) added_variance: f64,
    /// The rounds behind it.
    pub(super) rounds: usize,
}

/// One race on one problem, of the arms that work.
#[derive(Debug)]
pub(super) struct Race<'e> {
    pub(super) stage: Stage,
    pub(super) number: u64,
    /// Sorted by config, of which each is there once.
    pub(super) arms: Vec<Arm<'e>>,
    /// Duplicates of the winner.
    pub(super) null_arms: Vec<Arm<'e>>,
    /// The config that won.
    pub(super) winner: usize,
}

impl<'e> Race<'e> {
    /// The race of these arms; nothing without any. The winner is what the choosing rounds chose, which the null arm
    /// duplicates; where nothing tells, the least time over the rounds that chose, or over all where none did.
    pub(super) fn new((stage, number): (Stage, u64), arms: Vec<Arm<'e>>, null_arms: Vec<Arm<'e>>) -> Option<Self> {
        let mut race = Self { stage, number, arms, null_arms, winner: 0 };
        let chosen_by = race.arms.iter().map(|arm| arm.timing.chosen_by).max()?;
        let choosing_us = |arm: &&Arm| {
            let rounds = &arm.timing.rounds_us;
            let choosing = (chosen_by as usize).saturating_sub(arm.timing.joined as usize).min(rounds.len());
            let choosing = if choosing > 0 { &rounds[..choosing] } else { rounds };
            if choosing.is_empty() { arm.timing.time_us } else { location_us(&sorted(choosing.iter().copied())) }
        };
        let duplicated = race.null_arms.iter().filter(|duplicate| duplicate.timing.chosen_by > 0);
        let chosen = duplicated.filter_map(|duplicate| race.arm(duplicate.config)).next_back();
        let fastest = || race.arms.iter().min_by(|one, other| choosing_us(one).total_cmp(&choosing_us(other)));
        race.winner = chosen.or_else(fastest)?.config;
        Some(race)
    }

    /// A config's arm.
    pub(super) fn arm(&self, config: usize) -> Option<&Arm<'e>> {
        self.arms.binary_search_by_key(&config, |arm| arm.config).ok().map(|index| &self.arms[index])
    }

    /// The arms that ran to the race's last round, and so to those that report.
    pub(super) fn lasting(&self) -> impl Iterator<Item = &Arm<'e>> {
        let end = self.arms.iter().map(Arm::end).max().unwrap_or(0);
        self.arms.iter().filter(move |arm| arm.end() == end && !arm.timing.rounds_us.is_empty())
    }

    /// How much longer a config takes than what won `reference`, by the arms that lasted in both races: by paired rounds on
    /// either occasion, so that what changed for all kernels in between does not count.
    pub(super) fn link(&self, config: usize, reference: &Race) -> Option<Link> {
        let arm = self.arm(config)?;
        let winner = reference.arm(reference.winner)?;
        let lasting: Vec<&Arm> = self.lasting().collect();
        let through = |there: &Arm| {
            let here = lasting.iter().find(|here| here.config == there.config && here.kernel == there.kernel)?;
            let (here, rounds) = raced(arm.timing, here.timing)?;
            let (there, reported) = raced(there.timing, winner.timing)?;
            Some((here + there, rounds.min(reported)))
        };
        let anchors: Vec<(usize, (f64, usize))> = reference
            .lasting()
            .filter(|there| there.config != config)
            .filter_map(|there| Some((there.config, through(there)?)))
            .collect();
        let with_winner = anchors.iter().any(|(config, _)| *config == reference.winner);
        Some(Link {
            ln_ratio: mean(&anchors.iter().map(|(_, (ln_ratio, _))| *ln_ratio).collect::<Vec<_>>())?,
            added_variance: if with_winner { 0.0 } else { 1.0 / anchors.len() as f64 },
            rounds: anchors.iter().map(|(_, (_, rounds))| *rounds).min()?,
        })
    }

    /// How far the winner's duplicates are from it.
    pub(super) fn null_draws(&self) -> impl Iterator<Item = Draw> {
        self.null_arms.iter().filter_map(|duplicate| {
            let original = self.arm(duplicate.config).filter(|original| original.kernel == duplicate.kernel)?;
            let (ln_ratio, rounds) = raced(duplicate.timing, original.timing)?;
            Some(Draw { duration: DurationClass::of(Micros(original.timing.time_us)), ln_ratio, rounds })
        })
    }

    /// What the ratios of each two arms that lasted in both races changed by.
    pub(super) fn changes(&self, other: &Self) -> Vec<Draw> {
        let lasting: Vec<&Arm> = other.lasting().collect();
        let both: Vec<(&Arm, &Arm)> = self
            .lasting()
            .filter_map(|ours| {
                let theirs = lasting.iter().find(|arm| arm.config == ours.config && arm.kernel == ours.kernel)?;
                Some((ours, *theirs))
            })
            .collect();
        let pairs =
            both.iter().enumerate().flat_map(|(index, one)| both[index + 1..].iter().map(move |two| (one, two)));
        let change = |(one, two): (&(&Arm, &Arm), &(&Arm, &Arm))| {
            let (ours, rounds) = raced(one.0.timing, two.0.timing)?;
            let (theirs, others) = raced(one.1.timing, two.1.timing)?;
            let duration = DurationClass::of(Micros(one.0.timing.time_us));
            Some(Draw { duration, ln_ratio: ours - theirs, rounds: rounds.min(others) })
        };
        pairs.filter_map(change).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_drops_out_does_not_last_whenever_it_began() {
        let timing = |joined: u32, rounds: usize| Timing {
            time_us: 10.0,
            quartiles_us: None,
            samples: rounds as u32,
            race: 1,
            joined,
            chosen_by: 4,
            rounds_us: vec![10.0; rounds],
            throttled: false,
            loaded: false,
        };
        // To the end, to the end but later begun, dropped out, later begun and dropped out, and never run.
        let timings = [timing(0, 8), timing(3, 5), timing(0, 5), timing(3, 4), timing(8, 0)];
        let arms = timings.iter().enumerate().map(|(config, timing)| Arm { config, kernel: "one", timing });
        let race = Race::new((Stage::Final, 1), arms.collect(), Vec::new());
        let lasting: Vec<usize> = race.iter().flat_map(Race::lasting).map(|arm| arm.config).collect();
        assert_eq!(lasting, [0, 1]);
    }
}
