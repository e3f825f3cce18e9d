//! The function of the database by which a commit is one message.
//!
//! It is made of the same statements that write judged units ([`STEPS`]), with what compares and counts around them. Its
//! name ends in a number that grows when its text does, so that an older version of this library beside a newer one
//! finds its own.

use crate::store::sql::apply::{self, List, STEPS};
use crate::store::sql::text::Dialect;

/// The name, with the number.
macro_rules! name {
    () => {
        "af_commit_units_1"
    };
}

/// Settings by which rows are found through their keys. What is written comes as short lists, whose length the database
/// does not know; on tables that have no statistics yet it would read all rows to join them with such a list, and the
/// function would keep that plan while the tables grow.
pub(super) const PLANNING: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
    ("jit", "off"),
];

/// What a stale unit is refused with.
pub(super) const STALE: &str = "AF001";

/// What a full limit is refused with.
pub(super) const FULL: &str = "AF002";

/// The call: the mark, the marks to take away, whether runs themselves stay as they are, and the lists in the order of
/// [`List::ALL`].
pub(super) const CALL: &str =
    concat!("SELECT ", name!(), "(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)");

/// Drops the function.
pub(super) fn drop_sql() -> String {
    format!("DROP FUNCTION IF EXISTS {}(uuid, text, boolean{})", name!(), ", text".repeat(List::ALL.len()))
}

/// The names of the parameters, without their first letters.
const fn parameter(list: List) -> &'static str {
    match list {
        List::Runs => "runs",
        List::Tis => "tis",
        List::Expansions => "expansions",
        List::Clears => "clears",
        List::XComs => "xcoms",
        List::Starts => "starts",
        List::Ends => "ends",
        List::Notices => "notices",
        List::AssetEvents => "asset_events",
        List::AssetRefs => "asset_refs",
        List::Logs => "logs",
        List::Slots => "slots",
    }
}

/// A statement of ours on a list that stands in a variable.
fn on_list(dialect: &Dialect, sql: &str, variable: &str) -> String {
    let sql = dialect.translate(sql);
    sql.sql().replace("CAST($1 AS text)::jsonb", &format!("v_{variable}")).trim().to_owned()
}

/// Runs of a commit, locked in the order of their numbers if they are as they were seen.
///
/// Commits that leave runs themselves as they are (their instances change, each compared by its own epoch) go on beside
/// each other: workers claim attempts of one run at the same time. All others are alone with their runs.
macro_rules! lock_runs {
    ($lock:literal) => {
        concat!(
            "SELECT count(*) INTO n FROM (
                SELECT 1 FROM ROWS(?1, id INT, seen INT, bump INT, origin NAME) j
                JOIN af_run r ON r.pk = j.id AND r.generation = j.seen AND (j.origin IS NULL OR r.state = j.origin)
                ORDER BY r.pk ",
            $lock,
            " OF r) locked"
        )
    };
}
const LOCK_RUNS: &str = lock_runs!("FOR NO KEY UPDATE");
const SHARE_RUNS: &str = lock_runs!("FOR SHARE");

const LOCK_SLOTS: &str = concat!(
    "PERFORM 1 FROM ",
    apply::slots!(),
    " JOIN af_slot s ON s.kind = j.sort AND s.name = j.who AND s.task_id = j.task
      ORDER BY j.ord FOR NO KEY UPDATE OF s"
);

const MISSING_SLOTS: &str = concat!(
    "INSERT INTO af_slot (kind, name, task_id, used) SELECT j.sort, j.who, j.task, 0 FROM ",
    apply::slots!(),
    " ORDER BY j.ord ON CONFLICT DO NOTHING"
);

/// Limits without room: the highest that `used` comes to is over the size of the pool, or over what the units say.
const FULL_SLOTS: &str = concat!(
    "EXISTS (SELECT 1 FROM ",
    apply::slots!(),
    " JOIN af_slot s ON s.kind = j.sort AND s.name = j.who AND s.task_id = j.task
      LEFT JOIN af_pool p ON j.sort = 0 AND p.name = j.who
      LEFT JOIN af_slot d ON p.include_deferred AND d.kind = 4 AND d.name = p.name AND d.task_id = ''
      LEFT JOIN ",
    apply::slots!("k"),
    " ON p.include_deferred AND k.sort = 4 AND k.who = p.name
      WHERE greatest(s.used + j.most, CASE WHEN j.most IS NULL THEN NULL ELSE j.low END) >
            CASE WHEN j.sort <> 0 THEN j.cap WHEN p.slots IS NULL THEN 0 WHEN p.slots >= 0
            THEN p.slots - coalesce(d.used, 0) - greatest(coalesce(k.total, 0), 0) END)"
);

/// Makes the function.
pub(super) fn create_sql(dialect: &Dialect) -> String {
    let lists = List::ALL.map(parameter);
    let parameters = lists.map(|name| format!(", p_{name} text")).concat();
    let variables = lists.map(|name| format!("    v_{name} jsonb := p_{name}::jsonb;\n")).concat();
    let on = |sql: &str, list: List| on_list(dialect, sql, parameter(list));
    let plain = |sql: &str| dialect.translate(sql).sql().to_owned();
    let stale = format!("RAISE EXCEPTION 'stale' USING ERRCODE = '{STALE}'");
    let mut body = String::new();
    let mut add = |lines: &[&str]| {
        for line in lines {
            body.push_str("    ");
            body.push_str(line);
            body.push('\n');
        }
    };
    // First the mark: a transaction that was given up must not do anything more.
    add(&[
        &plain("INSERT INTO af_commit (nonce, fenced) VALUES (p_nonce, false);"),
        "IF p_spent IS NOT NULL THEN",
        &plain(
            "DELETE FROM af_commit WHERE nonce IN (SELECT e::uuid FROM jsonb_array_elements_text(p_spent::jsonb) e);",
        ),
        "END IF;",
        &format!("IF p_shared THEN {};", on(SHARE_RUNS, List::Runs)),
        &format!("ELSE {}; END IF;", on(LOCK_RUNS, List::Runs)),
        &format!("IF n <> jsonb_array_length(v_runs) THEN {stale}; END IF;"),
    ]);
    for list in List::ALL {
        let name = parameter(list);
        add(&[&format!("IF v_{name} IS NOT NULL THEN"), "n := 0;"]);
        if list == List::Slots {
            let lock = format!("{};", on(LOCK_SLOTS, list));
            add(&[
                &lock,
                "GET DIAGNOSTICS n = ROW_COUNT;",
                "IF n < jsonb_array_length(v_slots) THEN",
                &format!("{};", on(MISSING_SLOTS, list)),
                &lock,
                "END IF;",
                &format!("IF {} THEN", on(FULL_SLOTS, list)),
                &format!("RAISE EXCEPTION 'full' USING ERRCODE = '{FULL}'; END IF;"),
            ]);
        }
        for (_, sql) in STEPS.iter().filter(|(of, _)| *of == list) {
            add(&[&format!("{};", on(sql, list))]);
            if [apply::FIRST, apply::NEXT, apply::CLAIM, apply::START].contains(sql) {
                add(&["GET DIAGNOSTICS m = ROW_COUNT;", "n := n + m;"]);
            }
        }
        if matches!(list, List::Tis | List::Starts) {
            add(&[&format!("IF n <> jsonb_array_length(v_{name}) THEN {stale}; END IF;")]);
        }
        add(&["END IF;"]);
    }
    let planning = PLANNING.map(|(name, value)| format!(" SET {name} = {value}")).concat();
    format!(
        "CREATE OR REPLACE FUNCTION {}(p_nonce uuid, p_spent text, p_shared boolean{parameters}) RETURNS void LANGUAGE plpgsql{planning} \
         SET plan_cache_mode = force_generic_plan AS $af$\n\
         DECLARE\n{variables}    n bigint;\n    m bigint;\nBEGIN\n{body}END\n$af$",
        name!()
    )
}
