//! Which file is asked for, and which part of it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path};

use super::PART;

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// From this byte on, up to and with the other one if there is one.
    From(u64, Option<u64>),
    /// So many last bytes.
    Last(u64),
}

impl std::str::FromStr for Range {
    type Err = ();

    /// Reads the header `Range` with one part: `bytes=0-`, `bytes=10-99`, `bytes=-500`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (from, to) = text.trim().strip_prefix("bytes=").and_then(|part| part.split_once('-')).ok_or(())?;
        let number = |text: &str| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u64>().ok().filter(|_| is_number).ok_or(())
        };
        match (from, to) {
            ("", last) => Ok(Self::Last(number(last)?)),
            (from, "") => Ok(Self::From(number(from)?, None)),
            (from, to) => {
                let (from, to) = (number(from)?, number(to)?);
                if from <= to { Ok(Self::From(from, Some(to))) } else { Err(()) }
            }
        }
    }
}

/// A part of a file that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) from: u64,
    /// How long the file is.
    pub(super) length: u64,
    /// Empty if the file ends before.
    pub(super) bytes: Vec<u8>,
}

/// Reads a part of a file, at most [`PART`] bytes of it. `None` if there is no such file in the folder.
///
/// # Errors
///
/// If the file cannot be read.
pub(super) fn read(folder: &Path, path: &str, range: Range) -> io::Result<Option<Part>> {
    let Some(mut file) = open(folder, path) else { return Ok(None) };
    let length = file.metadata()?.len();
    let (from, most) = match range {
        Range::From(from, to) => (from, to.map_or(PART, |to| (to - from).saturating_add(1))),
        Range::Last(last) => (length.saturating_sub(last), last),
    };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(most.min(PART)).read_to_end(&mut bytes)?;
    Ok(Some(Part { from, length, bytes }))
}

/// Opens a file of the folder; nothing else, also not by `..` or by a link that leads out of it.
fn open(folder: &Path, path: &str) -> Option<File> {
    let is_name = |part: Component<'_>| matches!(part, Component::Normal(_));
    if path.contains('\0') || !Path::new(path).components().all(is_name) {
        return None;
    }
    let folder = folder.canonicalize().ok()?;
    let file = folder.join(path).canonicalize().ok()?;
    // A pipe would never end, and a folder has nothing to read.
    let is_fit = file.starts_with(&folder) && file.is_file();
    File::open(file).ok().filter(|_| is_fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        for (text, range) in [
            ("bytes=0-", Range::From(0, None)),
            ("bytes=10-99", Range::From(10, Some(99))),
            ("bytes=-500", Range::Last(500)),
        ] {
            assert_eq!(text.parse(), Ok(range), "{text}");
        }
        for text in ["", "bytes=", "bytes=-", "bytes=9-1", "bytes=+1-", "bytes=0-1,3-4", "lines=0-"] {
            assert_eq!(text.parse::<Range>(), Err(()), "{text}");
        }
    }

    /// Goal: parts are those asked for, and no path leads out of the folder. Method: paths that try, and links that do.
    #[test]
    fn only_files_of_the_folder_are_read() {
        let outside = tempfile::tempdir().unwrap();
        let folder = outside.path().join("logs");
        std::fs::create_dir_all(folder.join("dag_id=a")).unwrap();
        std::fs::write(folder.join("dag_id=a/x:y+1.log"), b"0123456789").unwrap();
        std::fs::write(outside.path().join("secret"), b"secret").unwrap();
        let get = |path: &str, range| read(&folder, path, range).unwrap().map(|part| (part.from, part.bytes));
        for (range, from, bytes) in [
            (Range::From(0, None), 0, &b"0123456789"[..]),
            (Range::From(7, Some(8)), 7, b"78"),
            (Range::From(99, None), 99, b""),
            (Range::Last(2), 8, b"89"),
            (Range::Last(99), 0, b"0123456789"),
        ] {
            assert_eq!(get("dag_id=a/x:y+1.log", range), Some((from, bytes.to_vec())), "{range:?}");
        }
        let absolute = outside.path().join("secret");
        for path in [
            "../secret",
            "dag_id=a/../../secret",
            "dag_id=a",
            "",
            "/",
            ".",
            "no",
            "a\0b",
            absolute.to_str().unwrap(),
        ] {
            assert_eq!(get(path, Range::Last(9)), None, "{path}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&absolute, folder.join("link")).unwrap();
            std::os::unix::fs::symlink(outside.path(), folder.join("up")).unwrap();
            assert_eq!((get("link", Range::Last(9)), get("up/secret", Range::Last(9))), (None, None));
        }
    }
}
