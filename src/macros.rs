//! The macros with examples; what else there is to say of each stands where it is written.

/// Makes a function a task.
///
/// ```
/// use airflow::prelude::*;
///
/// struct Rates(i64);
///
/// /// Converts a price to cents.
/// #[task(retries = 3, retry_delay = "30s", timeout = "5m", pool = "warehouse")]
/// async fn price(euros: i64, rates: &Rates) -> Result<i64> {
///     Ok(euros * rates.0)
/// }
///
/// let sales = DagDef::new("sales").define(|d| {
///     let first = d.add(price::call(5));
///     d.add(price::call(first).retries(0));
/// });
/// # assert_eq!(sales.id(), "sales");
/// ```
pub use airflow_macros::task;

/// Makes a function a sensor: a task that waits until something is so.
///
/// ```
/// use airflow::prelude::*;
///
/// /// Returns the size of the file once it is there.
/// #[sensor(poke_interval = "30s", timeout = "6h", mode = "reschedule")]
/// async fn arrived(path: String) -> Result<Poke<u64>> {
///     match std::fs::metadata(path) {
///         Ok(file) => Ok(Poke::Ready(file.len())),
///         Err(_) => Ok(Poke::NotYet),
///     }
/// }
///
/// #[task]
/// async fn load(bytes: u64) -> Result<()> { Ok(()) }
///
/// #[dag]
/// fn imports(d: &Dag) {
///     let bytes = d.add(arrived::call("/in/orders.csv".to_owned()).poke_every(mins(1)));
///     d.add(load::call(bytes));
/// }
/// # assert_eq!(imports().id(), "imports");
/// ```
pub use airflow_macros::sensor;

/// Makes a function the definition of a dag.
///
/// ```
/// use airflow::prelude::*;
///
/// #[task] async fn extract() -> Result<Vec<i64>> { Ok(vec![1, 2]) }
/// #[task] async fn total(all: Vec<i64>) -> Result<i64> { Ok(all.iter().sum()) }
///
/// #[dag(schedule = "0 6 * * *", timezone = "Europe/Paris", start_date = "2026-01-01", tags = ["sales"])]
/// fn sales(d: &Dag) {
///     let all = d.add(extract::call());
///     d.add(total::call(all));
/// }
///
/// let sales: DagDef = sales();
/// # assert_eq!(sales.id(), "sales");
/// ```
pub use airflow_macros::dag;

/// Makes a struct a kind of task; what it does is in its `impl Execute`.
///
/// ```
/// use airflow::prelude::*;
///
/// #[derive(Operator)]
/// #[operator(color = "#4a154b", doc = "Posts a message.", retries = 2)]
/// struct SlackPost {
///     #[template]
///     text: String,
///     #[input]
///     total: In<i64>,
///     channel: String,
/// }
///
/// impl Execute for SlackPost {
///     type Output = String;
///
///     async fn execute(&self, cx: &TaskContext) -> Result<String> {
///         Ok(format!("{}: {} {}", self.channel, self.text, self.total.get(cx)?))
///     }
/// }
///
/// let dag = DagDef::new("sales").define(|d| {
///     d.add(SlackPost { text: "{{ ds }}".into(), total: 5.into_in(), channel: "#sales".into() });
/// });
/// # assert_eq!(dag.id(), "sales");
/// ```
pub use airflow_macros::Operator;

/// Makes an enum without data a branch: the value that a task returns decides which tasks run.
///
/// ```
/// use airflow::prelude::*;
///
/// #[derive(Serialize, Deserialize, Branch)]
/// enum Load {
///     Full,
///     Nothing,
/// }
///
/// #[task] async fn choose() -> Result<Load> { Ok(Load::Full) }
/// #[task] async fn load() -> Result<()> { Ok(()) }
///
/// #[dag]
/// fn nightly(d: &Dag) {
///     let load = d.add(load::call());
///     d.branch(d.add(choose::call()), |way| match way {
///         Load::Full => load.into(),
///         Load::Nothing => Nodes::none(),
///     });
/// }
/// # assert_eq!(nightly().id(), "nightly");
/// ```
pub use airflow_macros::Branch;
