//! What was used last, and no more than so much of it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Values by what names them. What was used longest ago goes where there are too many, or where they weigh too much; whoever still
/// has a value keeps it. Finding one takes no lock that others wait for, but for while one is put in.
#[derive(Debug)]
pub struct Recent<K, V> {
    most: usize,
    most_weight: u64,
    /// Counts what was put in. Uses between two of them are equally recent.
    clock: AtomicU64,
    kept: RwLock<HashMap<K, Kept<V>>>,
}

#[derive(Debug)]
struct Kept<V> {
    value: Arc<V>,
    weight: u64,
    used: AtomicU64,
}

impl<K: Eq + Hash + Copy, V> Recent<K, V> {
    /// So many at most, of so much weight together. The last one that was put in stays, whatever it weighs.
    pub fn new(most: usize, most_weight: u64) -> Self {
        Self { most, most_weight, clock: AtomicU64::new(0), kept: RwLock::default() }
    }

    /// What is kept under that name, which is used now.
    pub fn get(&self, name: &K) -> Option<Arc<V>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get(name)?;
        let now = self.clock.load(Ordering::Relaxed);
        // Mostly it is so already, and then other threads' caches are left alone.
        if found.used.load(Ordering::Relaxed) != now {
            found.used.store(now, Ordering::Relaxed);
        }
        Some(Arc::clone(&found.value))
    }

    /// Keeps a value, and lets go of what there is no more room for. Where another thread was faster, the value is its.
    pub fn put(&self, name: K, value: V, weight: u64) -> Arc<V> {
        let (value, mut gone) = (Arc::new(value), Vec::new());
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let now = 1 + self.clock.fetch_add(1, Ordering::Relaxed);
        let new = || Kept { value: Arc::clone(&value), weight, used: AtomicU64::new(now) };
        let found = Arc::clone(&kept.entry(name).or_insert_with(new).value);
        while kept.len() > self.most.max(1) || kept.values().map(|kept| kept.weight).sum::<u64>() > self.most_weight {
            let others = kept.iter().filter(|(other, _)| **other != name);
            let oldest = others.min_by_key(|(_, kept)| kept.used.load(Ordering::Relaxed)).map(|(name, _)| *name);
            let Some(oldest) = oldest else { break };
            gone.extend(kept.remove(&oldest));
        }
        drop(kept);
        drop((value, gone)); // which may take time, and nobody else waits for it
        found
    }

    /// Lets go of all.
    pub fn clear(&self) {
        drop(std::mem::take(&mut *self.kept.write().unwrap_or_else(PoisonError::into_inner)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let recent = Recent::new(3, 100);
        let names = || {
            let mut names: Vec<&str> = recent.kept.read().unwrap().keys().copied().collect();
            names.sort_unstable();
            names.concat()
        };
        for name in ["a", "b", "c", "d"] {
            recent.put(name, name.to_uppercase(), 1);
        }
        assert_eq!(names(), "bcd");
        let held = recent.get(&"b").unwrap();
        recent.put("e", "E".to_owned(), 1);
        assert_eq!(names(), "bde", "it was used since the others were put in");
        for turn in 0..50 {
            assert!(recent.get(&"b").is_some(), "it is used all the time");
            recent.put(["x", "y", "z"][turn % 3], String::new(), 1);
        }
        assert_eq!(names(), "bxy", "the last two beside it");
        recent.clear();
        assert_eq!((names(), recent.get(&"b")), (String::new(), None));
        assert_eq!(*held, "B", "whoever has it keeps it");
    }

    #[test]
    fn weight_is_bounded_and_the_last_stays_whatever_it_weighs() {
        let recent = Recent::new(100, 10);
        for name in 0..20 {
            recent.put(name, (), 3);
            assert!(recent.get(&name).is_some());
            assert!((0..20).filter(|name| recent.kept.read().unwrap().contains_key(name)).count() <= 3);
        }
        recent.put(20, (), 1000);
        assert_eq!(recent.kept.read().unwrap().len(), 1);
        let first = recent.put(21, (), 1);
        assert!(Arc::ptr_eq(&first, &recent.put(21, (), 1)), "another thread was faster");
    }
}
