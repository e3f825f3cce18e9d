//! Numbers from a seed. Each purpose has a stream of its own, so a new draw in one place does not shift the others.

/// `SplitMix64`.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        let mut random = Self(seed);
        for byte in purpose.bytes() {
            random.0 = random.0.wrapping_mul(0x0000_0100_0000_01b3) ^ u64::from(byte);
        }
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn draw(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// A number below `end`, of the type that is wanted.
    pub(crate) fn below<T: TryFrom<u64>>(&mut self, end: u64) -> T {
        let Ok(number) = T::try_from(self.draw(end)) else { panic!("{end} is too large") };
        number
    }

    pub(crate) fn between<T: TryFrom<u64>>(&mut self, first: u64, last: u64) -> T {
        let Ok(number) = T::try_from(first + self.draw(last - first + 1)) else {
            panic!("{last} is too large")
        };
        number
    }

    /// Between minus and plus `most`.
    pub(crate) fn signed(&mut self, most: i64) -> i64 {
        self.below::<i64>(most.unsigned_abs() * 2 + 1) - most
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.draw(100) < percent
    }
}

/// A running hash: equal if and only if the same things happened in the same order, for all we care.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hash(pub u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    pub(crate) fn add(&mut self, text: &str) {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
