//! One task instance for each element of a list that is known only when the run gets there.
//!
//! `cargo run --example 05_mapping`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use airflow::prelude::*;

#[task]
async fn words(text: String) -> Result<Vec<String>> {
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

#[task]
async fn count(word: String, letter: char) -> Result<usize> {
    Ok(word.chars().filter(|c| *c == letter).count())
}

#[task]
async fn total(counts: Vec<usize>) -> Result<usize> {
    Ok(counts.into_iter().sum())
}

#[task]
async fn capital(word: String) -> Result<String> {
    Ok(word.to_uppercase())
}

#[task]
async fn line(word: String, count: usize) -> Result<String> {
    Ok(format!("{word}: {count}"))
}

#[task]
async fn page(lines: Vec<String>) -> Result<String> {
    Ok(lines.join(", "))
}

#[dag]
fn letters(d: &Dag) {
    let words = d.add(words::call("three trees stood here"));

    // Each instance gets one element, and the same constant. A mapped result is a `Vec` again.
    let counts = d.map(words, |word| count::call(word, 'e'));
    d.add(total::call(counts));

    // Two lists side by side: also `product`, `concat` and `zip_longest`.
    let lines = d.map(zip(words, counts), |pair| {
        let (word, count) = pair.split();
        line::call(word, count)
    });
    d.add(page::call(lines));

    // A whole group for each element: instance `i` of one task feeds instance `i` of the next.
    let shouted = d.map_group("shout", words, |d, word| {
        let capital = d.add(capital::call(word));
        d.add(count::call(capital, 'E').id("count"))
    });
    d.add(total::call(shouted).id("total_shouted"));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::default())
        .dag(letters())
        .build()
        .await?;
    let running = airflow.start();
    let run = airflow.wait(&airflow.trigger("letters").await?).await?;
    running.stop(secs(5)).await?;

    let counts: Vec<usize> = airflow.results(&run, "count").await?;
    let total: usize = airflow.result(&run, "total").await?;
    let shouted: usize = airflow.result(&run, "total_shouted").await?;
    let page: String = airflow.result(&run, "page").await?;
    println!("{page}; {total} in all, {shouted} shouted");
    assert_eq!(counts, [2, 2, 0, 2]);
    assert_eq!((total, shouted), (6, 6));
    assert_eq!(page, "three: 2, trees: 2, stood: 0, here: 2");
    Ok(())
}
