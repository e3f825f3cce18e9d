//! The logs of attempts, and messages that were set aside.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::id::AttemptId;
use crate::store::rules::{micros, storable};
use crate::store::{DeadLetter, LogChunk, LogFilter, LogPlace};

use super::State;

/// The rows.
#[derive(Debug, Default)]
pub(super) struct TaskLogs {
    pub(super) chunks: BTreeMap<(AttemptId, i64), LogChunk>,
    letters: BTreeMap<String, DeadLetter>,
}

impl State {
    pub(in crate::store::memory) fn add_log_chunks(&mut self, chunks: Vec<LogChunk>) {
        for mut chunk in chunks {
            if self.attempt_keys.contains_key(&chunk.attempt_id) {
                (chunk.at, chunk.text) = (micros(chunk.at), storable(&chunk.text).into_owned());
                self.task_logs.chunks.entry((chunk.attempt_id, chunk.chunk)).or_insert(chunk);
            }
        }
    }

    pub(in crate::store::memory) fn log_chunks(&self, filter: &LogFilter) -> Vec<(LogPlace, LogChunk)> {
        let task = Some((&filter.task_id, filter.map_index));
        let attempts = self.attempts(filter.run, task).into_iter();
        let attempts = attempts.filter(|row| row.start.try_number == filter.try_number);
        let chunks = attempts.flat_map(|row| {
            let (id, attempt) = (row.start.attempt_id, row.start.number);
            let chunks = self.task_logs.chunks.range((id, i64::MIN)..=(id, i64::MAX));
            chunks.map(move |((_, chunk), row)| (LogPlace { attempt, chunk: *chunk }, row.clone()))
        });
        let news = chunks.filter(|(place, _)| filter.after.is_none_or(|after| *place > after));
        news.take(filter.limit as usize).collect()
    }

    pub(in crate::store::memory) fn keep_dead_letter(&mut self, mut letter: DeadLetter, most: u32) -> bool {
        let letters = &mut self.task_logs.letters;
        if letters.contains_key(&letter.id) {
            return false;
        }
        letter.at = micros(letter.at);
        letters.insert(letter.id.clone(), letter);
        let excess: Vec<String> =
            self.dead_letters(u32::MAX).into_iter().skip(most as usize).map(|letter| letter.id).collect();
        self.delete_dead_letters(&excess);
        true
    }

    pub(in crate::store::memory) fn dead_letters(&self, limit: u32) -> Vec<DeadLetter> {
        let mut letters: Vec<DeadLetter> = self.task_logs.letters.values().cloned().collect();
        letters.sort_by_key(|letter| (Reverse(letter.at), letter.id.clone()));
        letters.truncate(limit as usize);
        letters
    }

    pub(in crate::store::memory) fn delete_dead_letters(&mut self, ids: &[String]) -> u64 {
        ids.iter().filter(|id| self.task_logs.letters.remove(*id).is_some()).count() as u64
    }
}
