//! Other work on the device, as a canary kernel shows it: one that is always the same, timed again and again and compared with
//! its own best times.

use super::mean;
use std::time::Duration;

/// A canary that takes so many times as long as it did at its best tells of other work. Alone, its mean is within 7 % of that on a
/// virtual machine of two cores, and 1.6 to 6 times of it where a core is shared.
const DISTURBED: f64 = 1.5;
/// The share of a device's places that must be disturbed: kernels run on some of the cores of a large host.
const PLACES: f64 = 0.25;
/// Looks are so many times as far apart as one takes, whatever is asked for: on a busy machine they take long themselves.
const LOOK_APART: u32 = 8;
/// What waiting for a quiet moment and measuring again may take, in all, beside [`PATIENCE_SHARE`].
const PATIENCE: Duration = Duration::from_secs(1);
/// The share of the time since the first look that may go to it: under a load that stays, most is measured once.
const PATIENCE_SHARE: f64 = 0.1;

/// Watches a device for other work. Moments are times since any fixed one.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// The least time by place.
    least_us: Vec<f64>,
    began: Option<Duration>,
    looked: Duration,
    /// How long the last look took.
    look: Duration,
    disturbed: bool,
    /// Spent on waiting and on measuring again.
    spent: Duration,
}

impl Watch {
    /// Whether the last look is so long ago.
    pub fn is_due(&self, now: Duration, interval: Duration) -> bool {
        self.is_new() || now.saturating_sub(self.looked) >= interval.max(LOOK_APART * self.look)
    }

    /// Whether nothing was seen of the device yet: its best times need some looks.
    pub fn is_new(&self) -> bool {
        self.began.is_none()
    }

    /// Takes note of the canary's times by place in a look from `since` to `now`, and tells whether other work disturbs it.
    pub fn look(&mut self, times_us: &[Vec<f64>], since: Duration, now: Duration) -> bool {
        self.began.get_or_insert(now);
        (self.looked, self.look) = (now, now.saturating_sub(since));
        self.least_us.resize(times_us.len(), f64::INFINITY);
        let mut disturbed = 0;
        for (least_us, times_us) in self.least_us.iter_mut().zip(times_us) {
            *least_us = times_us.iter().copied().fold(*least_us, f64::min);
            disturbed += usize::from(mean(times_us).is_some_and(|mean_us| mean_us > DISTURBED * *least_us));
        }
        self.disturbed = disturbed > 0 && disturbed as f64 >= PLACES * times_us.len() as f64;
        self.disturbed
    }

    /// What the last look found.
    pub fn is_disturbed(&self) -> bool {
        self.disturbed
    }

    /// How long a quiet moment may still be waited for, and what was disturbed be measured again.
    pub fn patience(&self, now: Duration) -> Duration {
        let watched = now.saturating_sub(self.began.unwrap_or(now));
        (PATIENCE + watched.mul_f64(PATIENCE_SHARE)).saturating_sub(self.spent)
    }

    /// So long was waited and measured again.
    pub fn spend(&mut self, time: Duration) {
        self.spent += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_canary_alone_is_quiet_and_one_that_shares_a_core_is_not() {
        let mut watch = Watch::default();
        assert!(watch.is_new() && watch.is_due(at(0), at(100)));
        assert!(!watch.look(&[vec![450.0, 460.0, 455.0], vec![452.0, 470.0, 454.0]], at(0), at(0)));
        assert!(!watch.is_due(at(50), at(100)) && watch.is_due(at(100), at(100)));
        assert!(!watch.look(&[vec![450.0, 490.0, 520.0], vec![452.0, 470.0, 454.0]], at(100), at(100)), "noise");
        assert!(
            watch.look(&[vec![450.0, 3450.0, 455.0], vec![452.0, 470.0, 454.0]], at(200), at(200)),
            "one core of two"
        );
        assert!(!watch.look(&[vec![451.0; 3], vec![452.0; 3]], at(300), at(300)), "it passed");
    }

    #[test]
    fn one_and_a_half_times_the_best_is_still_quiet() {
        let mut watch = Watch::default();
        assert!(!watch.look(&[vec![400.0, 800.0]], at(0), at(0)));
        assert!(watch.look(&[vec![400.0, 801.0]], at(100), at(100)));
    }

    #[test]
    fn a_load_that_was_there_from_the_start_shows_by_the_times_that_got_through() {
        let mut watch = Watch::default();
        assert!(watch.look(&[vec![450.0, 3450.0, 3400.0]], at(0), at(0)));
        assert!(watch.look(&[vec![900.0; 3]], at(100), at(100)), "half as fast throughout");
    }

    #[test]
    fn a_few_busy_cores_of_many_leave_room() {
        let mut times_us = vec![vec![450.0; 3]; 16];
        let mut watch = Watch::default();
        watch.look(&times_us, at(0), at(0));
        times_us[..3].fill(vec![2000.0; 3]);
        assert!(!watch.look(&times_us, at(100), at(100)));
        times_us[3].fill(2000.0);
        assert!(watch.look(&times_us, at(200), at(200)));
    }

    #[test]
    fn a_device_that_has_no_canary_is_quiet() {
        assert!(!Watch::default().look(&[], at(0), at(0)));
    }

    #[test]
    fn long_looks_are_far_apart() {
        let mut watch = Watch::default();
        watch.look(&[vec![450.0; 3]], at(100), at(140));
        assert!(!watch.is_due(at(300), at(100)) && watch.is_due(at(460), at(100)));
    }

    #[test]
    fn patience_ends() {
        let mut watch = Watch::default();
        watch.look(&[vec![450.0; 3]], at(0), at(0));
        assert_eq!(watch.patience(at(0)), at(1000));
        watch.spend(at(900));
        assert_eq!(watch.patience(at(0)), at(100));
        watch.spend(at(900));
        assert_eq!(watch.patience(at(0)), at(0));
        assert_eq!(watch.patience(at(10_000)), at(200));
    }
}
