//! A bounded memory of answers that threads share.

use std::hash::{Hash, Hasher};
use std::sync::RwLock;

/// Keys whose hash is alike share a set, which has a lock of its own.
const SETS: usize = 256;
/// The most entries of a set; the oldest makes room for the next.
const WAYS: usize = 8;

/// Remembers a value for each of up to 2048 keys.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    sets: Box<[Set<K, V>]>,
}

/// The oldest first.
type Set<K, V> = RwLock<Vec<(K, V)>>;

impl<K: Hash + Eq, V: Copy> Cache<K, V> {
    /// The value of a key, if it is still remembered. Allocates nothing.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let set = self.set(key).read().ok()?;
        set.iter().find(|(known, _)| known == key).map(|(_, value)| *value)
    }

    /// Remembers the value of a key that had none.
    pub(super) fn insert(&self, key: K, value: V) {
        let Ok(mut set) = self.set(&key).write() else { return };
        // Another thread may have been faster.
        if set.iter().any(|(known, _)| *known == key) {
            return;
        }
        if set.len() == WAYS {
            set.remove(0);
        }
        set.push((key, value));
    }

    fn set(&self, key: &K) -> &Set<K, V> {
        let mut mixer = Mixer(0);
        key.hash(&mut mixer);
        &self.sets[mixer.finish() as usize % SETS]
    }
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self { sets: (0..SETS).map(|_| RwLock::default()).collect() }
    }
}

/// Mixes a few integers in a few nanoseconds; std's own hasher takes longer than all else together. Whoever chooses keys to
/// collide gains nothing but a slow answer of his own.
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        // 2^64 over the golden ratio: each bit moves many others above it.
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    /// The upper bits, which depend on every bit that came in.
    fn finish(&self) -> u64 {
        self.0 >> 32
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_and_memory_is_bounded() {
        let cache = Cache::default();
        assert_eq!(cache.get(&(0, 0)), None);
        for key in 0..100_000_i64 {
            cache.insert((key, 7), key * 3);
            cache.insert((key, 7), 0);
            assert_eq!(cache.get(&(key, 7)), Some(key * 3));
        }
        let sizes: Vec<_> = cache.sets.iter().map(|set| set.read().unwrap().len()).collect();
        assert!(sizes.iter().all(|size| *size == WAYS), "keys lie unevenly: {sizes:?}");
        assert_eq!(cache.get(&(0, 7)), None, "the oldest goes first");
    }

    #[test]
    fn shapes_as_they_are_asked_for_spread_over_the_sets() {
        let cache = Cache::default();
        for m in 0..32_i64 {
            for n in 1..33_i64 {
                cache.insert((Some(1 << (m % 14)), Some(n * 512), Some(m)), ());
            }
        }
        let used = cache.sets.iter().filter(|set| !set.read().unwrap().is_empty()).count();
        assert!(used > SETS / 2, "{used} sets for a thousand shapes");
    }
}
