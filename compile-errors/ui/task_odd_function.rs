use airflow::prelude::*;

#[task(blocking)]
async fn both() {}

#[task]
unsafe fn danger() {}

#[task]
async fn lent(cx: &TaskContext) -> Result<&str> {
    Ok(cx.task_id().as_str())
}

#[task]
fn later() -> impl Future<Output = Result<()>> {
    async { Ok(()) }
}

#[task]
async fn number() -> i64 {
    1
}

fn main() {}
