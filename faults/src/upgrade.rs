//! F24: tables are brought to the newest version while the migrator dies at each step, while two do it at once, and with
//! runs in them that are not over.

use std::collections::BTreeMap;
use std::path::Path;

use airflow_core::store::failpoint::POINTS;
use airflow_core::store::sqlite_migrations;
use airflow_core::testing::servers::Server;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use tokio::process::Child;

use crate::app::{ONLY_MIGRATE, Setup, open};
use crate::points::{environment, is_of_migration, trace};
use crate::stand::{Error, Options, Stand, Verdict};
use crate::workload::LOAD;

/// More steps than any migration has.
const MOST_STEPS: u32 = 60;

/// What the migrators did.
#[derive(Debug, Default)]
struct Log {
    killed: BTreeMap<String, u32>,
    beside: u32,
    wrong: Vec<String>,
}

/// Runs it.
pub(crate) async fn migrations(name: &'static str, options: &Options) -> Result<(Value, bool), Error> {
    let runs = options.runs(12, 4);
    let mut log = Log::default();
    let stand = Stand::new(options, 0).await?;
    let fresh = columns(options, &stand.setup.store).await?;
    // A few runs in the middle of their work.
    stand.trigger(LOAD, 0..runs / 2).await?;
    let mut fleet = stand.fleet(1)?;
    crowd(&stand).await?;
    fleet.kill(0).await?;
    fleet.end(0).await?;
    let from = match options.server() {
        None => from_each_version(&stand, options, &fresh, &mut log).await?,
        Some(kind) => from_nothing(&stand, options, kind, &fresh, &mut log).await?,
    };
    fleet.again(0)?;
    stand.trigger(LOAD, runs / 2..runs).await?;
    stand.wait(&mut fleet, runs).await?;
    let killed: u32 = log.killed.values().sum();
    let nemesis = json!({
        "from_versions": from, "migrators_killed_at": log.killed, "pairs_at_once": log.beside, "runs": runs,
    });
    let points = POINTS.iter().filter(|(point, place, _)| is_of_migration(point) && is_here(*place, options));
    let hit = killed > 0 && points.clone().all(|(point, ..)| log.killed.contains_key(*point));
    stand.close(fleet, Verdict::new(name, nemesis, hit, log.wrong)).await
}

fn is_here(place: airflow_core::store::failpoint::Place, options: &Options) -> bool {
    use airflow_core::store::failpoint::Place;
    place != Place::Mysql || options.server() == Some(Server::Mysql)
}

/// Waits until some tasks run.
async fn crowd(stand: &Stand) -> Result<(), Error> {
    while stand.bodies()?.len() < 20 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A process that only migrates.
fn migrator(setup: &Setup, more: &[(String, String)]) -> Result<Child, Error> {
    let mut command = setup.command()?;
    command.env(ONLY_MIGRATE, "1").envs(more.iter().cloned());
    Ok(command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?)
}

/// Lets migrators die at each step they come to, then two finish it at once.
async fn migrate(setup: &Setup, folder: &Path, points: &[&str], log: &mut Log) -> Result<(), Error> {
    for point in points {
        for number in 1..=MOST_STEPS {
            let path = folder.join("migration-trace");
            std::fs::remove_file(&path).ok();
            // Where a step that is done stays done, the next migrator comes to the step of the one before, and then to
            // the next one.
            let number = if stays(setup) { number.min(2) } else { number };
            let status = migrator(setup, &environment(point, number, "abort", &path))?.wait().await?;
            if trace(&path).is_empty() {
                if !status.success() {
                    log.wrong.push(format!("a migrator ended with {status} by itself"));
                }
                break;
            }
            *log.killed.entry((*point).to_owned()).or_insert(0) += 1;
        }
    }
    let (mut one, mut other) = (migrator(setup, &[])?, migrator(setup, &[])?);
    for status in [one.wait().await?, other.wait().await?] {
        if !status.success() {
            log.wrong.push(format!("one of two migrators at once ended with {status}"));
        }
    }
    log.beside += 1;
    Ok(())
}

/// Whether steps are done one by one, for good.
fn stays(setup: &Setup) -> bool {
    setup.store.starts_with("mysql")
}

/// SQLite: with the data of now in tables of each older version.
async fn from_each_version(
    stand: &Stand,
    options: &Options,
    fresh: &[String],
    log: &mut Log,
) -> Result<Vec<usize>, Error> {
    let now = stand.folder.path().join("airflow.db");
    let newest = sqlite_migrations().len();
    let versions: Vec<usize> = if options.is_quick { vec![1, newest - 1] } else { (1..newest).collect() };
    for version in &versions {
        let path = stand.folder.path().join(format!("version-{version}.db"));
        age(&now, &path, *version).await?;
        let setup = Setup { store: format!("sqlite://{}", path.display()), ..stand.setup.clone() };
        let before = contents(&path).await?;
        migrate(&setup, stand.folder.path(), &["migrate.step", "migrate.done"], log).await?;
        if columns(options, &setup.store).await? != fresh {
            log.wrong.push(format!("the tables of version {version} are other ones than fresh ones"));
        }
        if contents(&path).await?.iter().zip(&before).any(|(after, before)| after < before) {
            log.wrong.push(format!("rows of version {version} are gone"));
        }
        let kept = same_rows(&now, &path).await?;
        if !kept.is_empty() {
            log.wrong.push(format!("from version {version} these tables have other rows: {kept:?}"));
        }
    }
    // Work goes on in what was the oldest.
    put_in_place(&stand.folder.path().join(format!("version-{}.db", versions[0])), &now).await?;
    Ok(versions)
}

/// Puts the content of one file into another one that somebody has open.
async fn put_in_place(from: &Path, to: &Path) -> Result<(), Error> {
    let mut conn = sqlite(to).await?;
    run(&mut conn, "PRAGMA foreign_keys = OFF").await?;
    run(&mut conn, &format!("ATTACH '{}' AS old", from.display())).await?;
    run(&mut conn, "BEGIN IMMEDIATE").await?;
    for table in tables(&mut conn, "old").await? {
        run(&mut conn, &format!("DELETE FROM main.{table}")).await?;
        let list = names(&mut conn, "old", &table).await?.join(", ");
        run(&mut conn, &format!("INSERT INTO main.{table} ({list}) SELECT {list} FROM old.{table}")).await?;
    }
    run(&mut conn, "COMMIT").await?;
    Ok(conn.close().await?)
}

async fn sqlite(path: &Path) -> Result<SqliteConnection, Error> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    Ok(SqliteConnection::connect_with(&options.foreign_keys(false)).await?)
}

async fn run(conn: &mut SqliteConnection, sql: &str) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await?;
    Ok(())
}

async fn tables(conn: &mut SqliteConnection, of: &str) -> Result<Vec<String>, Error> {
    let sql = format!(
        "SELECT name FROM {of}.sqlite_schema WHERE type = 'table' AND name LIKE 'af\\_%' ESCAPE '\\' ORDER BY name"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(conn).await?)
}

async fn names(conn: &mut SqliteConnection, of: &str, table: &str) -> Result<Vec<String>, Error> {
    let sql = format!("SELECT name FROM pragma_table_info('{table}', '{of}') ORDER BY cid");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(conn).await?)
}

/// Makes a file with the tables of an old version, and all that they can hold of the file of now.
async fn age(now: &Path, path: &Path, version: usize) -> Result<(), Error> {
    let mut conn = sqlite(path).await?;
    run(&mut conn, "CREATE TABLE airflow_schema (version INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT")
        .await?;
    for (number, sql) in sqlite_migrations().iter().take(version).enumerate() {
        run(&mut conn, sql).await?;
        run(&mut conn, &format!("INSERT INTO airflow_schema (version, at) VALUES ({}, 0)", number + 1))
            .await?;
    }
    run(&mut conn, &format!("ATTACH '{}' AS now", now.display())).await?;
    for table in tables(&mut conn, "main").await? {
        let list = names(&mut conn, "main", &table).await?.join(", ");
        run(&mut conn, &format!("INSERT INTO main.{table} ({list}) SELECT {list} FROM now.{table}")).await?;
    }
    Ok(conn.close().await?)
}

/// How many rows each table has.
async fn contents(path: &Path) -> Result<Vec<i64>, Error> {
    let mut conn = sqlite(path).await?;
    let mut counts = Vec::new();
    for table in ["af_run", "af_ti", "af_event", "af_attempt", "af_xcom", "af_slot", "af_incarnation"] {
        let sql = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        counts.push(sqlx::query_scalar(sql).fetch_one(&mut conn).await?);
    }
    conn.close().await?;
    Ok(counts)
}

/// The tables whose rows differ between two files, in what version 1 knows of them.
async fn same_rows(now: &Path, path: &Path) -> Result<Vec<String>, Error> {
    let mut conn = sqlite(path).await?;
    run(&mut conn, &format!("ATTACH '{}' AS now", now.display())).await?;
    let mut other = Vec::new();
    for table in [
        "af_dag",
        "af_run",
        "af_ti",
        "af_event",
        "af_attempt",
        "af_xcom",
        "af_expansion",
        "af_slot",
        "af_pool",
    ] {
        let known = names(&mut conn, "now", table).await?;
        // What came later begins with its default.
        let list: Vec<_> =
            known.into_iter().filter(|name| !["wait", "holds", "queue"].contains(&name.as_str())).collect();
        let list = list.join(", ");
        let sql = format!(
            "SELECT count(*) FROM (SELECT {list} FROM main.{table} EXCEPT SELECT {list} FROM now.{table})"
        );
        if sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).fetch_one(&mut conn).await? > 0 {
            other.push(table.to_owned());
        }
    }
    conn.close().await?;
    Ok(other)
}

/// Lets MySQL forget which steps were done.
const FORGET: &str = "DELETE FROM airflow_schema; DELETE FROM airflow_schema_step";

/// Servers: there is one version. Its steps are done in an empty database; then once more in one full of data whose
/// marks say that they were not done, where a server has marks.
async fn from_nothing(
    stand: &Stand,
    options: &Options,
    kind: Server,
    fresh: &[String],
    log: &mut Log,
) -> Result<Vec<usize>, Error> {
    let empty =
        airflow_core::testing::servers::TestDatabase::on(kind).await.ok_or("there is no such server")?;
    let setup = Setup { store: empty.url(), ..stand.setup.clone() };
    migrate(&setup, stand.folder.path(), &["migrate.step", "migrate.done"], log).await?;
    if columns(options, &setup.store).await? != fresh {
        log.wrong.push("the tables are other ones than fresh ones".to_owned());
    }
    if kind == Server::Mysql {
        for point in ["migrate.between", "migrate.done"] {
            let mut conn = sqlx::MySqlConnection::connect(&stand.setup.store).await?;
            sqlx::raw_sql(FORGET).execute(&mut conn).await?;
            migrate(&stand.setup, stand.folder.path(), &[point], log).await?;
        }
    }
    Ok(vec![0])
}

/// What tells the columns, indexes and functions of a database.
const IN_SQLITE: &str = "
    SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || c.pk
    FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name LIKE 'af%'
    UNION ALL SELECT name FROM sqlite_schema WHERE type = 'index' ORDER BY 1";
const IN_POSTGRES: &str = "
    SELECT concat(table_name, '.', column_name, ' ', data_type, ' ', is_nullable)
    FROM information_schema.columns WHERE table_schema = 'airflow'
    UNION ALL SELECT indexname::text FROM pg_indexes WHERE schemaname = 'airflow'
    UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'airflow'::regnamespace ORDER BY 1";
const IN_MYSQL: &str = "
    SELECT concat(table_name, '.', column_name, ' ', column_type, ' ', is_nullable)
    FROM information_schema.columns WHERE table_schema = DATABASE()
    UNION ALL SELECT concat(table_name, ' ', index_name, ' ', column_name)
    FROM information_schema.statistics WHERE table_schema = DATABASE() ORDER BY 1";

/// All columns of all tables, with their types, and what else there is.
async fn columns(options: &Options, store: &str) -> Result<Vec<String>, Error> {
    open(store).await?.migrate().await?;
    Ok(match options.server() {
        None => {
            let mut conn = sqlite(Path::new(store.trim_start_matches("sqlite://"))).await?;
            sqlx::query_scalar(IN_SQLITE).fetch_all(&mut conn).await?
        }
        Some(Server::Postgres) => {
            let mut conn = sqlx::PgConnection::connect(store).await?;
            sqlx::query_scalar(IN_POSTGRES).fetch_all(&mut conn).await?
        }
        Some(Server::Mysql) => {
            let mut conn = sqlx::MySqlConnection::connect(store).await?;
            sqlx::query_scalar(IN_MYSQL).fetch_all(&mut conn).await?
        }
    })
}
