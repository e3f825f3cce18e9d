use airflow::prelude::*;

#[task("warehouse")]
async fn first() {}

#[task(retries = )]
async fn second() {}

#[task(retries = 3 pool = "x")]
async fn third() {}

#[task(retries(3))]
async fn fourth() {}

fn main() {}
