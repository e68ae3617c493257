//! Interleaved rounds: which configs run on, so that time goes where the race is close.

/// Rounds whose median is no hiccup.
const FIRST_LOOK: usize = 3;
/// A config this many times slower than the best by then is out: it would take most of the time.
const HOPELESS: f64 = 3.0;
/// Rounds that show what is far behind.
const SECOND_LOOK: usize = 8;
/// A config this many times slower than the best by then is out: no other occasion will see it ahead.
const FAR_BEHIND: f64 = 1.1;

/// After so many rounds, how many times as long as the best a config may take that runs on; nothing where none drops out.
pub fn slowest_that_stays(rounds: usize) -> Option<f64> {
    match rounds {
        FIRST_LOOK => Some(HOPELESS),
        SECOND_LOOK => Some(FAR_BEHIND),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_behind_drops_out_once_that_is_sure() {
        let drops = |rounds: usize, slowdown: f64| slowest_that_stays(rounds).is_some_and(|limit| slowdown > limit);
        let rounds = |slowdown| (1..=48).find(|rounds| drops(*rounds, slowdown)).unwrap_or(48);
        assert_eq!([1.0, 1.09, 1.2, 4.0].map(rounds), [48, 48, 8, 3]);
    }
}
