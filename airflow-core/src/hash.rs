//! Hashes that tell texts apart: short names for what is too long to be one.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Takes texts and makes one hash of them; where one ends and the next begins counts.
#[derive(Debug, Default)]
pub(crate) struct Hash(Sha256);

impl Hash {
    /// Adds a text.
    pub(crate) fn add(&mut self, text: &str) {
        self.0.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    /// Adds a number: how many of something follow, or which one it is.
    pub(crate) fn count(&mut self, count: usize) {
        self.0.update(u64::try_from(count).unwrap_or(u64::MAX).to_le_bytes());
    }

    /// The first `digits` hexadecimal digits, at most 64.
    pub(crate) fn hex(self, digits: usize) -> String {
        let mut hex = String::with_capacity(64);
        for byte in self.0.finalize() {
            // Writing to a text does not fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex.truncate(digits);
        hex
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> String {
        let mut hash = Hash::default();
        texts.iter().for_each(|text| hash.add(text));
        hash.hex(64)
    }

    #[test]
    fn borders_between_texts_count() {
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert_eq!(of(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
