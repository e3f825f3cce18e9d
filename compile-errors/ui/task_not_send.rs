use airflow::prelude::*;

use std::rc::Rc;

async fn pause() {}

#[task]
async fn extract() -> Result<i64> {
    let shared = Rc::new(1);
    pause().await;
    Ok(*shared)
}

fn main() {}
