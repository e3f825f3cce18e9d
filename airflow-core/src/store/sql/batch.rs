//! Many statements in one message to MySQL.
//!
//! Prepared statements cannot share a message, so values stand in the text: texts and ids as hexadecimal literals, which
//! cannot end early whatever they contain and whatever the server's mode is.

use std::fmt::Write as _;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Either, MySqlConnection};

use crate::store::rules::micros;

use super::text::{Dialect, Translated};
use super::{Arg, Query, Row};

/// How long a message becomes before the next begins. Servers accept 16 MiB (MariaDB) or more unless set otherwise, and
/// one statement may add more than its share.
const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Runs the statements and gives the rows of each; stops at the first that fails.
pub(super) async fn run(
    conn: &mut MySqlConnection,
    dialect: &Dialect,
    queries: Vec<Query<'_>>,
) -> Result<Vec<Vec<Row>>, sqlx::Error> {
    let mut answers = Vec::with_capacity(queries.len());
    let mut text = String::new();
    for query in &queries {
        if text.len() > MESSAGE_BYTES {
            send(conn, std::mem::take(&mut text), &mut answers).await?;
        }
        write_statement(&mut text, &dialect.translate(&query.text), &query.args);
    }
    send(conn, text, &mut answers).await?;
    Ok(answers)
}

/// Sends a message and takes the answers to its statements.
async fn send(
    conn: &mut MySqlConnection,
    text: String,
    answers: &mut Vec<Vec<Row>>,
) -> Result<(), sqlx::Error> {
    let mut rows = Vec::new();
    let sql = sqlx::raw_sql(AssertSqlSafe(text));
    let mut stream = sql.fetch_many(conn);
    while let Some(next) = stream.try_next().await? {
        match next {
            Either::Left(_) => answers.push(std::mem::take(&mut rows)),
            Either::Right(row) => rows.push(Row::Mysql(row)),
        }
    }
    Ok(())
}

fn write_statement(out: &mut String, translated: &Translated, args: &[Arg<'_>]) {
    let mut places = translated.order(args.len());
    for (at, part) in translated.sql.split('?').enumerate() {
        if at > 0
            && let Some(arg) = places.next().and_then(|index| args.get(index))
        {
            write_literal(out, arg);
        }
        out.push_str(part);
    }
    out.push_str(";\n");
}

fn write_literal(out: &mut String, arg: &Arg<'_>) {
    let done = match arg {
        Arg::Int(Some(number)) => write!(out, "{number}"),
        Arg::Flag(flag) => write!(out, "{}", u8::from(*flag)),
        Arg::Time(Some(time)) => write!(out, "'{}'", micros(*time).naive_utc()),
        Arg::Id(Some(id)) => write!(out, "X'{}'", id.simple()),
        Arg::Text(Some(text)) if text.is_empty() => write!(out, "''"),
        Arg::Text(Some(text)) => {
            out.push_str("_utf8mb4 X'");
            out.reserve(text.len() * 2);
            write_hex(out, text.as_bytes());
            write!(out, "'")
        }
        Arg::Int(None) | Arg::Time(None) | Arg::Id(None) | Arg::Text(None) => write!(out, "NULL"),
    };
    done.expect("writing to a string never fails");
}

fn write_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}
