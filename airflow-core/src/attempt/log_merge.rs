//! Puts a log together whose parts are kept in several places: in the store, in a file here, in files on workers.
//!
//! Each place has its lines in order, and each line begins with its time. The same line of two places is one line; of
//! lines that are really there twice, as many are shown as the place has that has most. Pure: whoever reads the places
//! hands in what it has found.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::shipping::is_gap;

/// How a line begins: `[2026-01-01T00:00:00.000+0000]`.
const TIME: usize = "[2026-01-01T00:00:00.000+0000]".len();

/// The place that tells what it lost: the store.
pub(super) const STORE: usize = 0;

struct Line {
    /// Its time, or that of the one before if it goes on with it.
    at: String,
    text: String,
}

/// What is known of one place.
#[derive(Default)]
struct Feed {
    lines: VecDeque<Line>,
    /// The time of the last line that came.
    at: String,
    /// How often each line was there.
    seen: HashMap<u64, u32>,
    /// There is nothing more for now.
    is_dry: bool,
}

/// The lines of several places, of which the first is the store.
#[derive(Default)]
pub(super) struct Merge {
    feeds: Vec<Feed>,
    /// How often each line was given out, and as which one the last time.
    given: HashMap<u64, (u32, u64)>,
    /// How many lines were given out.
    count: u64,
    /// As which one the last line of the store was given out, counted from 1.
    last_of_store: u64,
    /// The store's word that it lost something, until it is known whether another place has that.
    gap: Option<String>,
}

impl Merge {
    /// With one more place; says its number.
    pub(super) fn add_place(&mut self) -> usize {
        self.feeds.push(Feed::default());
        self.feeds.len() - 1
    }

    /// Begins a new look at all places, if the last one is over.
    pub(super) fn look(&mut self) {
        if self.is_dry() {
            self.feeds.iter_mut().for_each(|feed| feed.is_dry = false);
        }
    }

    /// Whether a place has to be read before anything else can be given out.
    pub(super) fn is_wanted(&self, place: usize) -> bool {
        self.feeds[place].lines.is_empty() && !self.feeds[place].is_dry
    }

    /// Whether all places were read to their end.
    pub(super) fn is_dry(&self) -> bool {
        self.feeds.iter().all(|feed| feed.is_dry)
    }

    /// Takes whole lines of a place, and whether those were all for now.
    pub(super) fn add(&mut self, place: usize, text: &str, is_all: bool) {
        let feed = &mut self.feeds[place];
        for line in text.split_inclusive('\n') {
            if let Some(at) = time_of(line) {
                at.clone_into(&mut feed.at);
            }
            feed.lines.push_back(Line { at: feed.at.clone(), text: line.to_owned() });
        }
        feed.is_dry = is_all;
    }

    /// What can be given out, in the order of time.
    pub(super) fn take(&mut self) -> String {
        let mut text = String::new();
        while let Some((place, line)) = self.pop() {
            self.give(place, line, &mut text);
        }
        if self.is_dry() {
            text.extend(self.gap.take());
        }
        text
    }

    /// The earliest line; `None` if a place has to be read first, or there is none. Of lines of one moment those of the store
    /// come last.
    fn pop(&mut self) -> Option<(usize, Line)> {
        if (0..self.feeds.len()).any(|place| self.is_wanted(place)) {
            return None;
        }
        let heads = self.feeds.iter().enumerate();
        let heads = heads.filter_map(|(place, feed)| Some((&feed.lines.front()?.at, place == STORE, place)));
        let place = heads.min()?.2;
        Some((place, self.feeds[place].lines.pop_front()?))
    }

    fn give(&mut self, place: usize, line: Line, text: &mut String) {
        if place == STORE && is_gap(&line.text) {
            // Lines of elsewhere may stand there already.
            let next = self.next_of_store().and_then(|key| self.given.get(&key));
            let next = next.map_or(self.count + 1, |(_, number)| *number);
            if next <= self.last_of_store + 1 {
                self.gap = Some(line.text);
            }
            return;
        }
        let key = key(&line.text);
        let seen = self.feeds[place].seen.entry(key).or_default();
        *seen += 1;
        let seen = *seen;
        let given = self.given.get(&key).copied().unwrap_or_default();
        if place == STORE || (seen > given.0 && self.next_of_store() == Some(key)) {
            text.extend(self.gap.take());
        }
        if seen > given.0 {
            self.gap = None;
            self.count += 1;
            self.given.insert(key, (seen, self.count));
            text.push_str(&line.text);
        }
        if place == STORE {
            self.last_of_store = self.given.get(&key).map_or(self.count, |(_, number)| *number);
        }
    }

    fn next_of_store(&self) -> Option<u64> {
        self.feeds.get(STORE)?.lines.front().map(|line| key(&line.text))
    }
}

fn key(line: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

/// The time at the beginning of a line. All are written in UTC with as many digits, so they are in order as texts.
fn time_of(line: &str) -> Option<&str> {
    let head = line.get(..TIME)?;
    let is_time = head.starts_with('[') && head.ends_with("+0000]") && head.as_bytes()[11] == b'T';
    is_time.then_some(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shipping::gap;

    fn line(second: u32, text: &str) -> String {
        format!("[2026-01-01T00:00:{second:02}.000+0000] {{t.rs:1}} INFO - {text}\n")
    }

    /// The whole log, if the places have these parts.
    fn merged(places: &[String]) -> String {
        let mut merge = Merge::default();
        for place in places {
            let number = merge.add_place();
            merge.add(number, place, true);
        }
        merge.take()
    }

    #[test]
    fn what_one_place_lacks_comes_from_another() {
        let [a, b, c, d] = [line(1, "a"), line(2, "b"), line(3, "c"), line(4, "d")];
        let store = [a.as_str(), &c].concat();
        let file = [b.as_str(), &c, &d].concat();
        assert_eq!(merged(&[store, file]), [a, b, c, d].concat());
    }

    #[test]
    fn lines_that_are_there_twice_stay() {
        let twice = [line(1, "a"), line(1, "a"), "  goes on\n".into(), line(2, "b")].concat();
        assert_eq!(merged(&[twice.clone(), twice.clone()]), twice);
        assert_eq!(merged(&[String::new(), twice.clone()]), twice);
    }

    /// Goal: the store's word for what it lost is shown if, and only if, it is lost.
    #[test]
    fn a_gap_that_another_place_fills_is_not_shown() {
        let store = [line(1, "a"), gap(2, 70), line(4, "d")].concat();
        assert_eq!(merged(std::slice::from_ref(&store)), store);
        let others = [line(4, "d"), line(5, "e")].concat();
        assert_eq!(merged(&[store.clone(), others]), [store.clone(), line(5, "e")].concat());
        for moment in [1, 2] {
            let file = [line(1, "a"), line(moment, "b"), line(moment, "c"), line(4, "d")].concat();
            assert_eq!(merged(&[store.clone(), file.clone()]), file);
        }
        let ends = [line(1, "a"), gap(1, 9)].concat();
        assert_eq!(merged(&[ends.clone(), line(1, "a")]), ends);
    }

    /// Goal: a place that has more is waited for. Method: the store is read in two parts, the file in one.
    #[test]
    fn nothing_is_given_out_before_its_turn() {
        let mut merge = Merge::default();
        let (store, file) = (merge.add_place(), merge.add_place());
        merge.add(store, &line(1, "a"), false);
        merge.add(file, &line(3, "c"), true);
        assert_eq!(merge.take(), line(1, "a"));
        assert!(merge.is_wanted(store) && !merge.is_wanted(file) && !merge.is_dry());
        merge.add(store, &line(2, "b"), true);
        assert_eq!(merge.take(), [line(2, "b"), line(3, "c")].concat());
        assert!(merge.is_dry());
        merge.look();
        assert!(merge.is_wanted(store) && merge.is_wanted(file));
        merge.add(store, &line(3, "c"), true);
        merge.add(file, "", true);
        assert_eq!(merge.take(), "", "it was given out before");
    }

    proptest! {
        /// Goal: whatever parts of a log two places have, all that one of them has is there, once and in order.
        #[test]
        fn parts_make_a_whole(kept in proptest::collection::vec(0..4_u8, 0..60), step in 1..3_u32) {
            let lines: Vec<String> =
                (0..kept.len()).map(|n| line(u32::try_from(n).unwrap() / step, &n.to_string())).collect();
            let part = |place: u8| {
                let mine = |(at, _): &(usize, &String)| kept[*at] & place != 0;
                lines.iter().enumerate().filter(mine).map(|(_, line)| line.as_str()).collect::<String>()
            };
            let got = merged(&[part(1), part(2)]);
            let mut got: Vec<&str> = got.split_inclusive('\n').collect();
            prop_assert!(got.is_sorted_by_key(|line| &line[..TIME]));
            let mut want: Vec<&str> = lines
                .iter()
                .zip(&kept)
                .filter(|(_, kept)| **kept != 0)
                .map(|(line, _)| line.as_str())
                .collect();
            got.sort_unstable();
            want.sort_unstable();
            prop_assert_eq!(got, want);
        }
    }
}
