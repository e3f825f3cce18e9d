use airflow::prelude::*;

#[task]
async fn extract() {}

fn main() {
    let mut kept = None;
    let _ = DagDef::new("sales").define(|d| {
        kept = Some(d.add(extract::call()));
    });
}
