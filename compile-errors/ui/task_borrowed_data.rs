use airflow::prelude::*;

use std::path::Path;

#[task]
async fn load(name: &str, rows: &[i64], cx: &TaskContext, file: &Path) -> Result<i64> {
    let _ = (name, cx, file);
    Ok(rows.len() as i64)
}

#[task]
async fn count(seen: &mut u64) {
    *seen += 1;
}

#[task]
async fn all(_: TaskContext, _: In<i64>, _: std::borrow::Cow<'_, str>, _: impl Send, _: &dyn Send) {}

#[dag]
fn sales(d: &Dag) {
    d.add(load::call("orders", [1].as_slice(), "/tmp"));
}

fn main() {}
