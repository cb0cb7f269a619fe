//! A longest-prefix table over keys of `N` bytes, compared bit by bit in the order of memory, as the kernel's does.

use std::collections::BTreeMap;

/// Prefixes and their values.
#[derive(Clone, Debug)]
pub(crate) struct Trie<const N: usize, V> {
    entries: BTreeMap<(u32, [u8; N]), V>,
    lengths: BTreeMap<u32, usize>,
}

impl<const N: usize, V> Default for Trie<N, V> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            lengths: BTreeMap::new(),
        }
    }
}

fn masked<const N: usize>(mut data: [u8; N], bits: u32) -> [u8; N] {
    for (i, byte) in data.iter_mut().enumerate() {
        let left = bits.saturating_sub(i as u32 * 8).min(8);
        *byte &= (0xff00u16 >> left) as u8;
    }
    data
}

impl<const N: usize, V> Trie<N, V> {
    /// Puts a prefix in, in place of an equal one.
    pub(crate) fn insert(&mut self, bits: u32, data: [u8; N], value: V) {
        if self
            .entries
            .insert((bits, masked(data, bits)), value)
            .is_none()
        {
            *self.lengths.entry(bits).or_default() += 1;
        }
    }

    /// Takes exactly this prefix out.
    pub(crate) fn remove(&mut self, bits: u32, data: [u8; N]) {
        if self.entries.remove(&(bits, masked(data, bits))).is_some()
            && let Some(n) = self.lengths.get_mut(&bits)
        {
            *n -= 1;
            if *n == 0 {
                self.lengths.remove(&bits);
            }
        }
    }

    /// The value of the longest prefix of at most `bits` bits that holds the data.
    pub(crate) fn longest(&self, bits: u32, data: [u8; N]) -> Option<&V> {
        self.lengths
            .range(..=bits)
            .rev()
            .find_map(|(len, _)| self.entries.get(&(*len, masked(data, *len))))
    }
}

#[cfg(test)]
mod tests {
    use super::Trie;

    #[test]
    fn the_longest_prefix_wins() {
        let mut t = Trie::<2, &str>::default();
        t.insert(0, [0, 0], "all");
        t.insert(9, [10, 0x80], "half");
        t.insert(16, [10, 0x81], "one");
        assert_eq!(t.longest(16, [10, 0x81]), Some(&"one"));
        assert_eq!(t.longest(15, [10, 0x81]), Some(&"half"));
        assert_eq!(t.longest(16, [10, 0x7f]), Some(&"all"));
        t.remove(16, [10, 0x81]);
        assert_eq!(t.longest(16, [10, 0x81]), Some(&"half"));
        t.remove(0, [9, 9]);
        assert_eq!(t.longest(16, [9, 9]), None);
    }
}
