//! The known word that looks most like an unknown one, for "did you mean".

/// Returns the candidate with the fewest edits from `word`, if that is few enough to be a slip.
///
/// Case does not count. The first of several equals wins, so the answer depends on the order given.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters: more than that and the suggestion is a guess.
    let limit = (word.chars().count() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let edits = edits(word, candidate);
        if edits <= limit && best.is_none_or(|(fewest, _)| edits < fewest) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The Levenshtein distance without regard to case.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_a_stranger_finds_none() {
        let words = ["@hourly", "@daily", "@weekly"];
        assert_eq!(nearest("@dayly", words), Some("@daily"));
        assert_eq!(nearest("@HOURLY", words), Some("@hourly"));
        assert_eq!(nearest("@fortnightly", words), None);
    }
}
