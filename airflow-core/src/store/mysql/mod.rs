//! A store in a MySQL or MariaDB database: tables and connections. How it commits stands in
//! [`server`](crate::store::server).

mod options;
pub(super) mod schema;

pub use options::{MysqlOptions, MysqlStore};
