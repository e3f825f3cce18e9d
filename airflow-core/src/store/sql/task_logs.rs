//! The logs of attempts, and messages that were set aside.

use crate::id::AttemptId;
use crate::store::{DeadLetter, LogChunk, LogFilter, LogPlace, StoreResult};

use super::json::Rows;
use super::{Conn, Row, query};

macro_rules! add_chunks {
    ($list:literal) => {
        concat!(
            "INSERT INTO af_log_chunk (attempt_id, chunk, at, body)
             SELECT a.attempt_id, j.nth, j.made, j.text FROM ROWS(",
            $list,
            ", id ID, nth INT, made TIME, text TEXT) j CROSS JOIN af_attempt a ON a.attempt_id = j.id
             WHERE true
             ON CONFLICT (attempt_id, chunk) DO NOTHING"
        )
    };
}
#[cfg(feature = "postgres")]
pub(super) use add_chunks;

/// Keeps pieces of logs; those that are there already, or whose attempt is not, are passed over.
pub(super) const ADD: &str = add_chunks!("?1");

/// Adds a piece to the list that [`ADD`] reads.
pub(super) fn write_chunk(rows: &mut Rows, chunk: &LogChunk) {
    rows.row().maybe_id(Some(chunk.attempt_id.0)).int(chunk.chunk).time(chunk.at).text(&chunk.text).end();
}

/// Keeps pieces of logs; see [`ADD`].
pub(in crate::store) async fn add(conn: &mut Conn<'_>, chunks: &[LogChunk]) -> StoreResult<()> {
    let mut rows = conn.rows();
    chunks.iter().for_each(|chunk| write_chunk(&mut rows, chunk));
    let Some(list) = rows.finish() else { return Ok(()) };
    query(ADD).bind(list).execute(conn).await.map(|_| ())
}

/// Pieces of the log of a try, in order.
pub(in crate::store) async fn list(
    conn: &mut Conn<'_>,
    filter: &LogFilter,
) -> StoreResult<Vec<(LogPlace, LogChunk)>> {
    const LIST: &str = "
        SELECT a.number, c.* FROM af_attempt a JOIN af_log_chunk c ON c.attempt_id = a.attempt_id
        WHERE a.run = ?1 AND a.task_id = ?2 AND a.map_index = ?3 AND a.try_number = ?4
            AND (a.number > ?5 OR (a.number = ?5 AND c.chunk > ?6))
        ORDER BY a.number, c.chunk LIMIT ?7";
    let after = filter.after.map_or((-1, -1), |place| (i64::from(place.attempt), place.chunk));
    let query = query(LIST).bind(filter.run.0).bind(filter.task_id.as_str()).bind(filter.map_index.0);
    let query = query.bind(filter.try_number).bind(after.0).bind(after.1).bind(filter.limit);
    let row = |row: &Row| {
        let chunk = chunk(row)?;
        Ok((LogPlace { attempt: row.num("number")?, chunk: chunk.chunk }, chunk))
    };
    query.fetch_all(conn).await?.iter().map(row).collect()
}

/// A piece of a log.
pub(super) fn chunk(row: &Row) -> StoreResult<LogChunk> {
    Ok(LogChunk {
        attempt_id: AttemptId(row.id("attempt_id")?),
        chunk: row.num("chunk")?,
        at: row.time("at")?,
        text: row.text("body")?,
    })
}

/// Keeps a message, unless it is kept already, and forgets the oldest of more than `most`. Says whether it is new.
pub(in crate::store) async fn keep_letter(
    conn: &mut Conn<'_>,
    letter: &DeadLetter,
    most: u32,
) -> StoreResult<bool> {
    const KNOWN: &str = "SELECT count(*) AS n FROM af_dead_letter WHERE id = ?1";
    const KEEP: &str = "
        INSERT INTO af_dead_letter (id, at, queue, reason, error, key_id, size, head, set_by)
        SELECT j.id, j.made, j.queue, j.reason, j.error, j.key_id, j.size, j.head, j.set_by
        FROM ROWS(?1, id NAME, made TIME, queue NAME, reason NAME, error TEXT, key_id TEXT, size INT, head TEXT, set_by TEXT) j
        WHERE true
        ON CONFLICT (id) DO NOTHING";
    const EXCESS: &str = "SELECT id FROM af_dead_letter ORDER BY at DESC, id LIMIT 1000 OFFSET ?1";
    if query(KNOWN).bind(&*letter.id).fetch_one(conn).await?.num::<i64>("n")? > 0 {
        return Ok(false);
    }
    let mut rows = conn.rows();
    let row = rows.row().text(&letter.id).time(letter.at).text(&letter.queue).text(&letter.reason);
    let row = row.text(&letter.error).maybe_text(letter.key_id.as_deref());
    row.int(i64::try_from(letter.size).unwrap_or(i64::MAX)).text(&letter.head).text(&letter.by).end();
    query(KEEP).bind(rows.finish().unwrap_or_default()).execute(conn).await?;
    let excess = query(EXCESS).bind(most).fetch_all(conn).await?;
    let excess: Vec<String> = excess.iter().map(|row| row.text("id")).collect::<StoreResult<_>>()?;
    delete_letters(conn, &excess).await?;
    Ok(true)
}

/// Messages that were set aside, newest first.
pub(in crate::store) async fn letters(conn: &mut Conn<'_>, limit: u32) -> StoreResult<Vec<DeadLetter>> {
    const LIST: &str = "SELECT l.* FROM af_dead_letter l ORDER BY l.at DESC, l.id LIMIT ?1";
    let letter = |row: &Row| {
        Ok(DeadLetter {
            id: row.text("id")?,
            at: row.time("at")?,
            queue: row.text("queue")?,
            reason: row.text("reason")?,
            error: row.text("error")?,
            key_id: row.maybe_text("key_id")?,
            size: row.num("size")?,
            head: row.text("head")?,
            by: row.text("set_by")?,
        })
    };
    query(LIST).bind(limit).fetch_all(conn).await?.iter().map(letter).collect()
}

/// Forgets messages; says how many.
pub(in crate::store) async fn delete_letters(conn: &mut Conn<'_>, ids: &[String]) -> StoreResult<u64> {
    const DELETE: &str = "DELETE FROM af_dead_letter WHERE id IN (SELECT j.id FROM ROWS(?1, id NAME) j)";
    if ids.is_empty() {
        return Ok(0);
    }
    let list = conn.list(ids.iter().map(String::as_str));
    query(DELETE).bind(list).execute(conn).await
}
