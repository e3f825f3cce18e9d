//! One run with all that decisions need.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use uuid::Uuid;

use crate::id::{AttemptId, MapIndex, RunPk, TaskId};
use crate::state::{RunType, TaskState};
use crate::store::rules;
use crate::store::{Expansion, PastQuery, PastRun, RunSnapshot, StoreResult, TiData, TiRow};

use super::errors::corrupt;
use super::runs::run_row;
use super::{Conn, Row, query, written};

/// The task instances of a run as one JSON array: a row of its own for each costs more than the text.
macro_rules! tis_sql {
    ($run:literal) => {
        concat!(
            "SELECT CAST(json_group_array(json_array(task_id, map_index, state, epoch, try_number, max_tries, lost,
                lower(hex(attempt_id)), next_try_at, started_at, ended_at, has_result, map_length, reason, wait,
                holds) ORDER BY task_id, map_index) AS TEXT) FROM af_ti WHERE run = ",
            $run
        )
    };
}

/// One task instance in such an array.
type TiColumns = (
    TaskId,
    MapIndex,
    TaskState,
    u32,
    u32,
    u32,
    u32,
    Option<String>,
    Option<Moment>,
    Option<Moment>,
    Option<Moment>,
    Flag,
    Option<u32>,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// A time in JSON: a number of microseconds, or a text.
struct Moment(DateTime<Utc>);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Micros(i64),
            Text(DateTime<Utc>),
        }
        match Either::deserialize(deserializer)? {
            Either::Micros(micros) => super::json::time(micros).map(Self).map_err(serde::de::Error::custom),
            Either::Text(time) => Ok(Self(time)),
        }
    }
}

/// Yes or no in JSON: also as a number.
struct Flag(bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u8),
            Flag(bool),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::Number(number) => number != 0,
            Either::Flag(flag) => flag,
        }))
    }
}

/// Reads a column that holds a JSON array of arrays; nothing is an empty one.
fn column<T: serde::de::DeserializeOwned>(row: &Row, name: &str) -> StoreResult<Vec<T>> {
    Ok(row.maybe_json(name)?.unwrap_or_default())
}

fn ti_rows(row: &Row, name: &str) -> StoreResult<Vec<TiRow>> {
    column::<TiColumns>(row, name)?.into_iter().map(ti_row).collect()
}

#[rustfmt::skip]
fn ti_row(
    (task_id, map_index, state, epoch, try_number, max_tries, lost, attempt, next, started, ended, has_result,
     map_length, reason, wait, holds): TiColumns,
) -> StoreResult<TiRow> {
    // `hex` of nothing is an empty text.
    let attempt = attempt.filter(|text| !text.is_empty());
    let attempt_id = attempt.map(|text| Uuid::try_parse(&text)).transpose().map_err(corrupt)?.map(AttemptId);
    let data = TiData {
        try_number,
        max_tries,
        lost,
        attempt_id,
        next_try_at: next.map(|time| time.0),
        started_at: started.map(|time| time.0),
        ended_at: ended.map(|time| time.0),
        has_result: has_result.0,
        map_length,
        reason,
        wait: written::wait_of(wait.as_deref())?,
        holds: written::held_of(holds.as_deref())?,
    };
    Ok(TiRow { task_id, map_index, state, epoch, data })
}

/// The task instances of a run.
pub(in crate::store) async fn task_instances(conn: &mut Conn<'_>, run: RunPk) -> StoreResult<Vec<TiRow>> {
    const LIST: &str = concat!("SELECT (", tis_sql!("?1"), ") AS tis");
    #[cfg(feature = "mysql")]
    if !conn.kind().has_json_lists() {
        return query(plain::TIS).bind(run.0).fetch_all(conn).await?.iter().map(plain::ti_row).collect();
    }
    ti_rows(&query(LIST).bind(run.0).fetch_one(conn).await?, "tis")
}

/// Loads a run and all that decisions need, all of it of one moment.
pub(in crate::store) async fn load(
    conn: &mut Conn<'_>,
    run: RunPk,
    past: Option<&PastQuery>,
) -> StoreResult<Option<RunSnapshot>> {
    const LOAD: &str = concat!(
        "SELECT r.*, (",
        tis_sql!("r.pk"),
        ") AS tis,
        (SELECT CAST(json_group_array(json_array(owner, length) ORDER BY owner) AS TEXT) FROM af_expansion
            WHERE run = r.pk) AS expansions,
        (SELECT CAST(json_group_array(json_array(task_id, map_index, value) ORDER BY task_id, map_index) AS TEXT)
            FROM af_xcom WHERE run = r.pk AND \"key\" = 'skipmixin_key') AS skips,
        p.pk AS past_pk, (",
        tis_sql!("p.pk"),
        ") AS past_tis
        FROM af_run r LEFT JOIN af_run p ON p.pk =
            (SELECT b.pk FROM af_run b WHERE ?2 AND b.dag_id = r.dag_id AND b.logical_date < r.logical_date
                AND (NOT ?3 OR b.run_type IN (?4, ?5)) ORDER BY b.logical_date DESC, b.pk DESC LIMIT 1)
        WHERE r.pk = ?1"
    );
    #[cfg(feature = "mysql")]
    if !conn.kind().has_json_lists() {
        return plain::load(conn, run, past).await;
    }
    let query = query(LOAD)
        .bind(run.0)
        .bind(past.is_some())
        .bind(past.is_some_and(|query| query.scheduled_only))
        .bind(RunType::Scheduled.as_str())
        .bind(RunType::Backfill.as_str());
    let Some(row) = query.fetch_optional(conn).await? else { return Ok(None) };
    let expansions = column::<(TaskId, u32)>(&row, "expansions")?;
    let skips = column::<(TaskId, MapIndex, String)>(&row, "skips")?;
    let past = match row.maybe_num("past_pk")? {
        Some(pk) => Some(PastRun { pk: RunPk(pk), tis: ti_rows(&row, "past_tis")? }),
        None => None,
    };
    Ok(Some(RunSnapshot {
        run: run_row(&row)?,
        tis: ti_rows(&row, "tis")?,
        expansions: expansions.into_iter().map(|(owner, length)| Expansion { owner, length }).collect(),
        skips: skips.into_iter().filter_map(skip).collect(),
        past,
    }))
}

fn skip(
    (task, map_index, text): (TaskId, MapIndex, String),
) -> Option<(TaskId, MapIndex, crate::store::SkipRecord)> {
    let value: Value = serde_json::from_str(&text).ok()?;
    Some((task, map_index, rules::skip_record(&value)?))
}

/// The same where JSON lists are cut at a limit (MariaDB): one row for each, in one transaction that sees one moment.
#[cfg(feature = "mysql")]
mod plain {
    use super::{
        AttemptId, Conn, Expansion, MapIndex, PastQuery, PastRun, Row, RunPk, RunSnapshot, RunType,
        StoreResult, TiData, TiRow, query, run_row, skip, written,
    };

    pub(super) const TIS: &str = "SELECT * FROM af_ti WHERE run = ?1 ORDER BY task_id, map_index";

    /// The number of the run before, from the numbers of one run and what counts.
    macro_rules! past_sql {
        () => {
            "SELECT b.pk FROM af_run r JOIN af_run b ON ?2 AND b.dag_id = r.dag_id
                 AND b.logical_date < r.logical_date AND (NOT ?3 OR b.run_type IN (?4, ?5))
             WHERE r.pk = ?1 ORDER BY b.logical_date DESC, b.pk DESC LIMIT 1"
        };
    }

    pub(super) fn ti_row(row: &Row) -> StoreResult<TiRow> {
        let data = TiData {
            try_number: row.num("try_number")?,
            max_tries: row.num("max_tries")?,
            lost: row.num("lost")?,
            attempt_id: row.maybe_id("attempt_id")?.map(AttemptId),
            next_try_at: row.maybe_time("next_try_at")?,
            started_at: row.maybe_time("started_at")?,
            ended_at: row.maybe_time("ended_at")?,
            has_result: row.flag("has_result")?,
            map_length: row.maybe_num("map_length")?,
            reason: row.maybe_text("reason")?,
            wait: written::wait_of(row.maybe_text("wait")?.as_deref())?,
            holds: written::held_of(row.maybe_text("holds")?.as_deref())?,
        };
        Ok(TiRow {
            task_id: row.text("task_id")?.into(),
            map_index: MapIndex(row.num("map_index")?),
            state: row.word("state")?,
            epoch: row.num("epoch")?,
            data,
        })
    }

    pub(super) async fn load(
        conn: &mut Conn<'_>,
        run: RunPk,
        past: Option<&PastQuery>,
    ) -> StoreResult<Option<RunSnapshot>> {
        const RUN: &str = "SELECT * FROM af_run WHERE pk = ?1";
        const EXPANSIONS: &str = "SELECT owner, length FROM af_expansion WHERE run = ?1 ORDER BY owner";
        const SKIPS: &str = "
            SELECT task_id, map_index, value FROM af_xcom WHERE run = ?1 AND \"key\" = 'skipmixin_key'
            ORDER BY task_id, map_index";
        const PAST: &str = past_sql!();
        const PAST_TIS: &str = concat!(
            "SELECT t.* FROM (",
            past_sql!(),
            ") p JOIN af_ti t ON t.run = p.pk ORDER BY t.task_id, t.map_index"
        );
        let looking_back = |text: &'static str| {
            query(text)
                .bind(run.0)
                .bind(past.is_some())
                .bind(past.is_some_and(|query| query.scheduled_only))
                .bind(RunType::Scheduled.as_str())
                .bind(RunType::Backfill.as_str())
        };
        let of_run = |text: &'static str| query(text).bind(run.0);
        let mut batch = vec![
            query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"),
            query("START TRANSACTION READ ONLY"),
            of_run(RUN),
            of_run(TIS),
            of_run(EXPANSIONS),
            of_run(SKIPS),
        ];
        if past.is_some() {
            batch.extend([looking_back(PAST), looking_back(PAST_TIS)]);
        }
        batch.push(query("COMMIT"));
        let answers = conn.batch(batch).await?;
        let [_, _, runs, tis, expansions, skips, past @ ..] = answers.as_slice() else { return Ok(None) };
        let Some(row) = runs.first() else { return Ok(None) };
        let all = |rows: &[Row]| rows.iter().map(ti_row).collect::<StoreResult<Vec<_>>>();
        let past = match past {
            [pks, past_tis, _] if !pks.is_empty() => {
                Some(PastRun { pk: RunPk(pks[0].num("pk")?), tis: all(past_tis)? })
            }
            _ => None,
        };
        let expansion =
            |row: &Row| Ok(Expansion { owner: row.text("owner")?.into(), length: row.num("length")? });
        let value = |row: &Row| {
            Ok((row.text("task_id")?.into(), MapIndex(row.num("map_index")?), row.text("value")?))
        };
        let skips: Vec<_> = skips.iter().map(value).collect::<StoreResult<_>>()?;
        Ok(Some(RunSnapshot {
            run: run_row(row)?,
            tis: all(tis)?,
            expansions: expansions.iter().map(expansion).collect::<StoreResult<_>>()?,
            skips: skips.into_iter().filter_map(skip).collect(),
            past,
        }))
    }
}
