//! What stands in a value for something else: variables of the environment, `~`, the output of a command.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long a command of an option `…_cmd` may take: it only fetches a password.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// How often a value is expanded again, and how long it may become: a variable may name itself.
const MAX_ROUNDS: u32 = 32;
const MAX_EXPANDED: usize = 64 * 1024;

/// Replaces `$NAME`, `${NAME}` and a leading `~` until nothing changes any more. Unknown names stay.
pub(super) fn expand(value: &str, env: &BTreeMap<String, String>) -> Option<String> {
    let mut value = value.to_owned();
    for _ in 0..MAX_ROUNDS {
        let next = home(variables(&value, env), env);
        if next == value {
            return Some(value);
        }
        if next.len() > MAX_EXPANDED {
            return None;
        }
        value = next;
    }
    None
}

fn variables(value: &str, env: &BTreeMap<String, String>) -> String {
    let mut done = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, tail) = match after.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            Some(braced) => braced,
            None => after.split_at(
                after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len()),
            ),
        };
        match env.get(name) {
            Some(found) => done.push_str(found),
            None => done.push_str(&rest[at..rest.len() - tail.len()]),
        }
        rest = tail;
    }
    done.push_str(rest);
    done
}

fn home(value: String, env: &BTreeMap<String, String>) -> String {
    let rest = value.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    match (rest, env.get("HOME")) {
        (Some(rest), Some(home)) => match format!("{}{rest}", home.trim_end_matches('/')) {
            path if path.is_empty() => "/".to_owned(),
            path => path,
        },
        _ => value,
    }
}

/// Runs a command without a shell and returns all that it wrote to its standard output.
pub(super) fn run(command: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let words = words(command)?;
    let (program, arguments) = words.split_first().ok_or("it is empty")?;
    let mut child = Command::new(program)
        .args(arguments)
        .envs(env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    let (output, errors) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
    let Ok(output) = output.recv_timeout(COMMAND_LIMIT) else {
        // It may have ended just now.
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("`{program}` took longer than {COMMAND_LIMIT:?}"));
    };
    let status = child.wait().map_err(|error| format!("`{program}` was lost: {error}"))?;
    if !status.success() {
        let errors = errors.recv_timeout(COMMAND_LIMIT).unwrap_or_default();
        return Err(format!("`{program}` failed with {status}: {}", errors.trim()));
    }
    Ok(output)
}

/// Reads a stream to its end on a thread of its own; bytes that are no UTF-8 are left out.
fn read_all(stream: Option<impl std::io::Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error counts.
            let _ = stream.read_to_end(&mut bytes);
        }
        // Nobody waits any more after the limit.
        let _ = sender.send(String::from_utf8_lossy(&bytes).replace('\u{fffd}', ""));
    });
    receiver
}

/// Splits a command into words as a shell does, with quotes and backslashes; nothing else is special.
fn words(command: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\'' | '"' => quoted(c, &mut chars, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(chars.next().ok_or("it ends with a backslash")?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn quoted(quote: char, chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    let open = || format!("a {quote} is not closed");
    loop {
        match chars.next().ok_or_else(open)? {
            c if c == quote => return Ok(()),
            '\\' if quote == '"' => {
                let next = chars.next().ok_or_else(open)?;
                if next != '"' && next != '\\' {
                    word.push('\\');
                }
                word.push(next);
            }
            c => word.push(c),
        }
    }
}
