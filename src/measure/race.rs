//! Interleaved rounds: which configs run on, so that time goes where the race is close.

/// Rounds whose median is no hiccup.
const FIRST_LOOK: usize = 3;
/// A config this many times slower than the best by then is out: it would take most of the time.
const HOPELESS: f64 = 3.0;
/// Rounds that show what is far behind.
const SECOND_LOOK: usize = 8;
/// A config this many times slower than the best by then is out: no other occasion will see it ahead.
const FAR_BEHIND: f64 = 1.1;

/// Whether a config that took `slowdown` times as long as the best after so many rounds runs on.
pub fn stays(rounds: usize, slowdown: f64) -> bool {
    let limit = match rounds {
        FIRST_LOOK => HOPELESS,
        SECOND_LOOK => FAR_BEHIND,
        _ => f64::INFINITY,
    };
    slowdown <= limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_behind_drops_out_once_that_is_sure() {
        let rounds = |slowdown| (1..=48).find(|rounds| !stays(*rounds, slowdown)).unwrap_or(48);
        assert_eq!([1.0, 1.09, 1.2, 4.0].map(rounds), [48, 48, 8, 3]);
    }
}
