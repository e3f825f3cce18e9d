use airflow::prelude::*;

#[task]
struct SlackPost {
    text: String,
}

#[dag]
mod sales {}

struct Shop;

impl Shop {
    #[task]
    async fn extract(&self) -> Result<i64> {
        Ok(1)
    }
}

fn main() {}
