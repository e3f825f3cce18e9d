use airflow::prelude::*;

struct NotCloneable;

#[derive(Operator)]
#[operator(colour = "red", blocking)]
struct First {
    #[input]
    total: i64,
    #[template]
    input: In<String>,
}

#[derive(Operator)]
#[operator(color = "#12", needs = Rates)]
struct Second {
    #[template]
    text: String,
    conn: NotCloneable,
}

#[derive(Operator)]
struct Third(String);

#[derive(Operator)]
enum Fourth {
    A,
}

#[derive(Operator)]
struct Fifth<'a> {
    text: &'a str,
}

macro_rules! execute {
    ($($name:ty),*) => { $(
        impl Execute for $name {
            type Output = ();

            async fn execute(&self, _: &TaskContext) -> Result<()> {
                Ok(())
            }
        }
    )* };
}

execute!(First, Second, Third, Fourth);

fn main() {}
