//! A screen that is drawn again and again, and its key to end it.

use tokio::sync::mpsc;

use crate::host::Host;

/// The other screen of the terminal, without a cursor; back to the first one.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// To the upper left corner; from here to the end of the line, of the screen.
const HOME: &str = "\u{1b}[H";
const CLEAR_LINE: &str = "\u{1b}[K";
const CLEAR_REST: &str = "\u{1b}[J";

/// What is assumed of a terminal that does not tell.
const SIZE: (usize, usize) = (80, 24);

/// The screen of a terminal. Without one, pictures follow each other as text.
pub(crate) struct Screen {
    is_terminal: bool,
    keys: mpsc::Receiver<u8>,
    #[cfg(unix)]
    before: Option<rustix::termios::Termios>,
}

impl Screen {
    pub(crate) fn enter(host: &mut Host) -> std::io::Result<Self> {
        let is_terminal = host.is_process() && host.out_is_terminal();
        let (sender, keys) = mpsc::channel(16);
        let screen = Self {
            is_terminal,
            keys,
            #[cfg(unix)]
            before: if is_terminal { single_keys() } else { None },
        };
        if is_terminal {
            host.raw(ENTER)?;
            read_keys(sender);
        }
        Ok(screen)
    }

    pub(crate) fn draw(&mut self, host: &mut Host, text: &str) -> std::io::Result<()> {
        if !self.is_terminal {
            return host.raw(&format!("{text}\n"));
        }
        host.raw(&picture(text, size()))
    }

    /// Returns when somebody has pressed `q`.
    pub(crate) async fn quit(&mut self) {
        while let Some(key) = self.keys.recv().await {
            if matches!(key, b'q' | b'Q') {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    pub(crate) fn leave(self, host: &mut Host) -> std::io::Result<()> {
        if self.is_terminal { host.raw(LEAVE) } else { Ok(()) }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(before) = &self.before {
            // A terminal that is gone needs nothing.
            let _ =
                rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, before);
        }
    }
}

/// As much of the text as fits.
fn picture(text: &str, (columns, rows): (usize, usize)) -> String {
    let mut picture = HOME.to_owned();
    for line in text.lines().take(rows.saturating_sub(1)) {
        picture.extend(line.chars().take(columns));
        picture.push_str(CLEAR_LINE);
        picture.push_str("\r\n");
    }
    picture + CLEAR_REST
}

/// Lets keys come one by one and unseen. Says how the terminal was before.
#[cfg(unix)]
fn single_keys() -> Option<rustix::termios::Termios> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let before = tcgetattr(std::io::stdin()).ok()?;
    let mut changed = before.clone();
    changed.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    tcsetattr(std::io::stdin(), OptionalActions::Now, &changed).ok()?;
    Some(before)
}

/// Reads keys on a thread of its own, which ends with the process: nothing else can stop it.
fn read_keys(sender: mpsc::Sender<u8>) {
    std::thread::spawn(move || {
        let mut byte = [0];
        while matches!(std::io::Read::read(&mut std::io::stdin(), &mut byte), Ok(1)) {
            if sender.blocking_send(byte[0]).is_err() {
                return;
            }
        }
    });
}

#[cfg(unix)]
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => SIZE,
    }
}

#[cfg(not(unix))]
fn size() -> (usize, usize) {
    SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_keeps_to_its_screen() {
        let text = "one long line\ntwo\nthree\n";
        assert_eq!(picture(text, (5, 3)), "\u{1b}[Hone l\u{1b}[K\r\ntwo\u{1b}[K\r\n\u{1b}[J");
    }
}
