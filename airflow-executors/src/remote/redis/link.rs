//! One connection to Redis that is made when it is needed, and made anew when it broke.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, ServerErrorKind};

use super::options::Target;
use crate::remote::TransportError;
use crate::remote::slot::Slot;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take. Redis answers in less than a millisecond; a second is a disk that hangs.
pub(super) const ANSWER: Duration = Duration::from_secs(4);
/// How long a call to Redis may take altogether.
pub(super) const DEADLINE: Duration = Duration::from_secs(8);

/// A shared connection. No command that blocks may go over it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) target: Arc<Target>,
    pub(super) slot: Slot<MultiplexedConnection>,
}

impl Link {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, slot: Slot::default() }
    }

    /// Asks Redis, with a deadline, once more if the connection was dead before we knew: all we ask for may be done
    /// twice.
    pub(super) async fn ask<T, F>(&self, ask: impl Fn(MultiplexedConnection) -> F) -> RedisResult<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let asked = tokio::time::timeout(DEADLINE, async {
            let mut last = None;
            for _ in 0..2 {
                let (made, connection) = self.slot.get(connect(&self.target, ANSWER)).await?;
                match ask(connection).await {
                    Err(error) if is_broken(&error) => {
                        self.slot.forget(made).await;
                        let again = error.is_connection_dropped();
                        last = Some(error);
                        if !again {
                            break;
                        }
                    }
                    answer => return answer,
                }
            }
            Err(last.expect("it was asked"))
        });
        let answer = asked.await.unwrap_or_else(|_| Err(late()));
        match &answer {
            Ok(_) => self.slot.health.worked(),
            Err(error) => self.slot.health.failed(error.to_string()),
        }
        answer
    }
}

fn late() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {} s", DEADLINE.as_secs()))
        .into()
}

/// A connection of its own. An answer may take as long as `answer`.
pub(super) async fn connect(target: &Target, answer: Duration) -> RedisResult<MultiplexedConnection> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(answer));
    let connecting =
        async { target.client().await?.get_multiplexed_async_connection_with_config(&config).await };
    // Asking sentinels has times of its own, which add up.
    tokio::time::timeout(CONNECT * 2, connecting).await.unwrap_or_else(|_| Err(late()))
}

/// Whether a connection is of no more use after this.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
}

/// What it means, and the cure.
pub(super) fn explain(place: &str, error: &RedisError) -> TransportError {
    let detail = error.detail().map_or_else(|| error.to_string(), str::to_owned);
    let unfit = |why: String| TransportError::Unfit { place: place.into(), why };
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
            unfit(format!("it refuses the user or password ({error}); correct them in the address"))
        }
        (ErrorKind::Server(ServerErrorKind::NoPerm), _) => unfit(format!(
            "{detail}; allow it: ACL SETUSER <user> ~<prefix>* &<prefix>* +@stream +@pubsub +@connection +@transaction \
             +info +time +del +eval"
        )),
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => {
            unfit("it is a replica and only reads; give the address of the master, or of sentinels".into())
        }
        (
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::ClusterDown),
            _,
        ) => unfit("it is a node of a cluster; give a server of its own, or sentinels".into()),
        (ErrorKind::MasterNameNotFoundBySentinel, _) => {
            unfit(format!("no sentinel knows that master ({error}); correct `master=` in the address"))
        }
        (ErrorKind::InvalidClientConfig, _) => unfit(error.to_string()),
        _ if detail.contains("DB index") => {
            unfit(format!("{detail}; choose another number at the end of the address, or raise `databases`"))
        }
        _ => TransportError::Unreachable { place: place.into(), why: error.to_string() },
    }
}
