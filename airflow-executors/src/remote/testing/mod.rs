//! What tests of brokers need: the servers, a network that can be broken, and the suite that holds a
//! [`Transport`](super::Transport) to its contract.

mod letters;
mod link;
mod servers;
pub mod suite;

pub use link::BadLink;
pub use servers::{BrokerServer, PrivateServer, free_port};
