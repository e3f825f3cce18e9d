//! Progress of something that takes its time: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::host::Host;

/// Shows how far something has come.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    last: String,
}

impl Progress {
    pub(crate) fn new(host: &Host, length: u64) -> Self {
        let bar = host.draws_progress().then(|| {
            let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, last: String::new() }
    }

    /// Shows the new position, and what is going on.
    pub(crate) fn update(&mut self, host: &mut Host, done: u64, length: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(length);
            bar.set_position(done);
            bar.set_message(message.to_owned());
            return;
        }
        let line = format!("{done}/{length} {message}");
        if line != self.last {
            host.note(&line);
            self.last = line;
        }
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
