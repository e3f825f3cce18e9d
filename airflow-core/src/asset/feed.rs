//! A watcher for events that the program itself pushes.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use serde::Serialize;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use crate::operator::Result;

use super::{AssetWatcher, Seen, WatchContext};

/// How many events may wait to be written: whoever pushes more is told so, before memory runs out.
pub const MAX_FEED: usize = 10_000;

/// Events of an asset that the program pushes: the watcher for a host that hears of them itself, and for tests. Cheap to
/// clone; clones share what waits.
///
/// What waits is in the memory of this process only, and is written if this process is the one that runs the
/// watcher: [`Pushed`] tells when it is. To write an event from any process there is `airflow.asset_event(..)`.
///
/// ```
/// use airflow_core::asset::{Asset, AssetFeed};
///
/// let feed = AssetFeed::new();
/// let orders = Asset::new("s3://lake/orders").watcher("host", feed.clone());
/// // A dag that waits for `orders`, an application, `airflow.start()`; then:
/// let pushed = feed.push("order 7".to_owned())?;
/// // `pushed.await` returns once the event is written.
/// # drop((pushed, orders));
/// # Ok::<(), airflow_core::asset::FeedFull>(())
/// ```
#[derive(Debug)]
pub struct AssetFeed<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    waiting: Mutex<VecDeque<Waiting<T>>>,
    more: Notify,
}

#[derive(Debug)]
struct Waiting<T> {
    id: String,
    event: T,
    tell: Option<oneshot::Sender<()>>,
}

/// More events wait than a feed keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_FEED} events wait to be written already; is the watcher running here?")]
pub struct FeedFull;

/// Is done when the event is written. Dropping it changes nothing.
#[derive(Debug)]
pub struct Pushed(Option<oneshot::Receiver<()>>);

impl Future for Pushed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(told) = &mut self.0 else { return Poll::Pending };
        match Pin::new(told).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(_)) => {
                // The feed is gone, and the event with it: it will never be written.
                self.0 = None;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> Clone for AssetFeed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for AssetFeed<T> {
    fn default() -> Self {
        Self(Arc::new(Shared { waiting: Mutex::default(), more: Notify::new() }))
    }
}

impl<T> AssetFeed<T> {
    /// A feed in which nothing waits.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting<T>>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an event wait to be written.
    ///
    /// # Errors
    ///
    /// [`FeedFull`] if [`MAX_FEED`] events wait already: nothing was taken.
    pub fn push(&self, event: T) -> Result<Pushed, FeedFull> {
        self.push_as(Uuid::now_v7().simple().to_string(), event)
    }

    /// The same for an event with an id of your own: pushed again directly after itself, it is not written again.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn push_as(&self, id: impl Into<String>, event: T) -> Result<Pushed, FeedFull> {
        let mut waiting = self.lock();
        if waiting.len() >= MAX_FEED {
            return Err(FeedFull);
        }
        let (tell, told) = oneshot::channel();
        waiting.push_back(Waiting { id: id.into(), event, tell: Some(tell) });
        drop(waiting);
        self.0.more.notify_one();
        Ok(Pushed(Some(told)))
    }

    /// How many events wait to be written.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

impl<T: Serialize + Clone + Send + Sync + 'static> AssetWatcher for AssetFeed<T> {
    type Event = T;
    type Cursor = String;

    async fn next(&self, _: Option<String>, _: &WatchContext) -> Result<Seen<T, String>> {
        loop {
            let more = self.0.more.notified();
            // It stays until it is written: this future may be dropped, and another process may take over.
            if let Some(first) = self.lock().front() {
                return Ok(Seen::new(first.event.clone(), first.id.clone()));
            }
            more.await;
        }
    }

    async fn written(&self, cursor: &String, _: &WatchContext) -> Result<()> {
        let mut waiting = self.lock();
        if waiting.front().is_some_and(|first| first.id == *cursor)
            && let Some(mut first) = waiting.pop_front()
            && let Some(tell) = first.tell.take()
        {
            // Nobody may be waiting for it.
            let _ = tell.send(());
        }
        Ok(())
    }
}
