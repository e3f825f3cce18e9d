//! The commands: one stream and one group for each queue.
//!
//! An entry has the message in `b` and in `n` how often it was put back. Entries are deleted when they are settled, so a
//! stream is as long as there is work; it is never trimmed, which would delete work that nobody has seen.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{
    StreamAutoClaimReply, StreamId, StreamInfoConsumersReply, StreamInfoGroupsReply, StreamPendingCountReply,
    StreamRangeReply, StreamReadReply,
};
use redis::{Cmd, RedisError, RedisResult, Value, cmd, pipe};

/// All workers are one group: a message is for one of them.
pub(super) const GROUP: &str = "workers";

/// How many entries one command names at most.
pub(super) const BATCH: usize = 500;

/// A message that is in nobody's hands but ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) queue: String,
    pub(super) id: String,
    pub(super) body: Vec<u8>,
    pub(super) redeliveries: u32,
}

/// The names of keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub(super) prefix: String,
}

impl Keys {
    pub(super) fn stream(&self, queue: &str) -> String {
        format!("{}queue:{{{queue}}}", self.prefix)
    }

    fn queue(&self, key: &str) -> Option<String> {
        let inner = key.strip_prefix(&self.prefix)?.strip_prefix("queue:{")?.strip_suffix('}')?;
        Some(inner.to_owned())
    }
}

fn bytes(value: Option<&Value>) -> Vec<u8> {
    match value {
        Some(Value::BulkString(bytes)) => bytes.clone(),
        Some(Value::SimpleString(text)) => text.as_bytes().to_vec(),
        _ => Vec::new(),
    }
}

fn entry(queue: &str, found: &StreamId) -> Entry {
    let before = String::from_utf8(bytes(found.map.get("n"))).ok().and_then(|text| text.parse().ok());
    Entry {
        queue: queue.to_owned(),
        id: found.id.clone(),
        // A stranger's entry without it is an empty message, which the receiver sets aside.
        body: bytes(found.map.get("b")),
        redeliveries: before.unwrap_or(0),
    }
}

/// The command that makes the stream and its group. The group begins with the oldest entry.
pub(super) fn create(keys: &Keys, queue: &str) -> Cmd {
    let mut create = cmd("XGROUP");
    create.arg("CREATE").arg(keys.stream(queue)).arg(GROUP).arg("0").arg("MKSTREAM");
    create
}

/// Makes the stream and its group, if they are not there.
pub(super) async fn ensure(conn: &mut MultiplexedConnection, keys: &Keys, queue: &str) -> RedisResult<()> {
    match create(keys, queue).query_async::<()>(conn).await {
        Err(error) if error.code() == Some("BUSYGROUP") => Ok(()),
        // Then it does not look whether there is one; whoever reads will see.
        Err(error) if is_full(&error) => Ok(()),
        other => other,
    }
}

/// Reads what nobody has; at most `count` of each queue. Waits up to `block` for something to come.
pub(super) async fn read(
    conn: &mut MultiplexedConnection,
    keys: &Keys,
    who: &str,
    queues: &[String],
    count: usize,
    block: Option<Duration>,
) -> RedisResult<Vec<Entry>> {
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg(GROUP).arg(who).arg("COUNT").arg(count);
    if let Some(block) = block {
        read.arg("BLOCK").arg(u64::try_from(block.as_millis()).unwrap_or(1000).max(1));
    }
    read.arg("STREAMS");
    for queue in queues {
        read.arg(keys.stream(queue));
    }
    for _ in queues {
        read.arg(">");
    }
    let reply: Option<StreamReadReply> = read.query_async(conn).await?;
    let streams = reply.map(|reply| reply.keys).unwrap_or_default();
    let mut entries = Vec::new();
    for stream in streams {
        let Some(queue) = keys.queue(&stream.key) else { continue };
        entries.extend(stream.ids.iter().map(|id| entry(&queue, id)));
    }
    Ok(entries)
}

/// What a consumer holds of a queue, by the broker's books: the id and how often it was delivered.
async fn held(
    conn: &mut MultiplexedConnection,
    keys: &Keys,
    who: &str,
    queue: &str,
) -> RedisResult<Vec<(String, u32)>> {
    let mut pending = cmd("XPENDING");
    pending.arg(keys.stream(queue)).arg(GROUP).arg("-").arg("+").arg(BATCH).arg(who);
    let reply: StreamPendingCountReply = pending.query_async(conn).await?;
    let times = |times: usize| u32::try_from(times).unwrap_or(u32::MAX);
    Ok(reply.ids.into_iter().map(|held| (held.id, times(held.times_delivered))).collect())
}

/// Puts back what the broker says `who` holds and `knows` does not: its delivery was lost with a connection.
pub(super) async fn return_unknown(
    conn: &mut MultiplexedConnection,
    keys: &Keys,
    who: &str,
    queue: &str,
    knows: impl Fn(&str) -> bool,
) -> RedisResult<()> {
    let lost: Vec<_> = held(conn, keys, who, queue).await?.into_iter().filter(|(id, _)| !knows(id)).collect();
    for (id, _) in lost {
        let mut range = cmd("XRANGE");
        range.arg(keys.stream(queue)).arg(&id).arg(&id);
        let reply: StreamRangeReply = range.query_async(conn).await?;
        match reply.ids.first() {
            Some(found) => match put_back(conn, keys, &[entry(queue, found)]).await {
                // It stays where it is, until it has been idle for long enough to be taken over.
                Err(error) if is_full(&error) => {}
                told => told?,
            },
            None => done(conn, keys, queue, &[id]).await?,
        }
    }
    Ok(())
}

/// Takes over what others have held for `idle` without settling it: they are dead, or nearly. At most `count`, and
/// nothing that `knows` knows, as that is ours already.
pub(super) async fn take_over(
    conn: &mut MultiplexedConnection,
    keys: &Keys,
    who: &str,
    queue: &str,
    (idle, count): (Duration, usize),
    knows: impl Fn(&str) -> bool,
) -> RedisResult<Vec<Entry>> {
    let mut taken: Vec<Entry> = Vec::new();
    let mut cursor = "0-0".to_owned();
    let key = keys.stream(queue);
    // One call looks at a part of the list only.
    while taken.len() < count {
        let mut claim = cmd("XAUTOCLAIM");
        claim.arg(&key).arg(GROUP).arg(who).arg(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
        claim.arg(&cursor).arg("COUNT").arg(count - taken.len());
        let reply: StreamAutoClaimReply = claim.query_async(conn).await?;
        taken.extend(reply.claimed.iter().filter(|found| !knows(&found.id)).map(|found| entry(queue, found)));
        cursor = reply.next_stream_id;
        if cursor == "0-0" {
            break;
        }
    }
    // How often it was delivered tells apart what kills its receivers.
    for entry in &mut taken {
        let mut pending = cmd("XPENDING");
        pending.arg(&key).arg(GROUP).arg(&entry.id).arg(&entry.id).arg(1);
        let reply: StreamPendingCountReply = pending.query_async(conn).await?;
        let times = reply.ids.first().map_or(1, |held| held.times_delivered);
        let before = u32::try_from(times.saturating_sub(1)).unwrap_or(u32::MAX);
        entry.redeliveries = entry.redeliveries.saturating_add(before);
    }
    Ok(taken)
}

/// Forgets entries that are done with.
pub(super) async fn done(
    conn: &mut MultiplexedConnection,
    keys: &Keys,
    queue: &str,
    ids: &[String],
) -> RedisResult<()> {
    let key = keys.stream(queue);
    for ids in ids.chunks(BATCH) {
        let mut both = pipe();
        both.atomic();
        both.cmd("XACK").arg(&key).arg(GROUP).arg(ids).ignore();
        both.cmd("XDEL").arg(&key).arg(ids).ignore();
        match both.query_async::<()>(conn).await {
            // Redis refuses any transaction then, also one that frees memory. Without one the entry goes first: what
            // is left of it after a crash between the two is an id that whoever takes over removes.
            Err(error) if is_full(&error) => {
                cmd("XDEL").arg(&key).arg(ids).query_async::<()>(conn).await?;
                cmd("XACK").arg(&key).arg(GROUP).arg(ids).query_async::<()>(conn).await?;
            }
            told => told?,
        }
    }
    Ok(())
}

/// Whether the memory of Redis is full.
pub(super) fn is_full(error: &RedisError) -> bool {
    error.code() == Some("OOM") || error.to_string().contains("\"OOM\"")
}

/// Gives entries to others: as new ones, since nobody is given a held entry before it has been idle for long.
pub(super) async fn put_back(
    conn: &mut MultiplexedConnection,
    keys: &Keys,
    entries: &[Entry],
) -> RedisResult<()> {
    for entries in entries.chunks(BATCH) {
        let mut all = pipe();
        all.atomic();
        for entry in entries {
            let key = keys.stream(&entry.queue);
            let times = entry.redeliveries.saturating_add(1);
            all.cmd("XADD").arg(&key).arg("*").arg("b").arg(&entry.body).arg("n").arg(times).ignore();
            all.cmd("XACK").arg(&key).arg(GROUP).arg(&entry.id).ignore();
            all.cmd("XDEL").arg(&key).arg(&entry.id).ignore();
        }
        all.query_async::<()>(conn).await?;
    }
    Ok(())
}

/// Removes a consumer that holds nothing. In one step: with what it held between two steps, entries would be lost.
pub(super) async fn remove_if_idle(
    conn: &mut MultiplexedConnection,
    keys: &Keys,
    queue: &str,
    who: &str,
) -> RedisResult<()> {
    const SCRIPT: &str = "if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then \
                          return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end return 0";
    let mut eval = cmd("EVAL");
    eval.arg(SCRIPT).arg(1).arg(keys.stream(queue)).arg(GROUP).arg(who);
    eval.query_async::<Value>(conn).await.map(|_| ())
}

/// Removes consumers that have been silent for `gone` and hold nothing.
pub(super) async fn clean(
    conn: &mut MultiplexedConnection,
    keys: &Keys,
    queue: &str,
    gone: Duration,
) -> RedisResult<()> {
    for consumer in consumers(conn, keys, queue).await? {
        if consumer.1 >= gone {
            remove_if_idle(conn, keys, queue, &consumer.0).await?;
        }
    }
    Ok(())
}

/// Who is in the group, and for how long each has been silent. Nobody, if there is no such stream.
pub(super) async fn consumers(
    conn: &mut MultiplexedConnection,
    keys: &Keys,
    queue: &str,
) -> RedisResult<Vec<(String, Duration)>> {
    let mut info = cmd("XINFO");
    info.arg("CONSUMERS").arg(keys.stream(queue)).arg(GROUP);
    let reply: StreamInfoConsumersReply = info.query_async(conn).await?;
    let idle = |idle: usize| Duration::from_millis(u64::try_from(idle).unwrap_or(u64::MAX));
    Ok(reply.consumers.into_iter().map(|consumer| (consumer.name, idle(consumer.idle))).collect())
}

/// How many entries are held, and the id of the last one that was ever delivered; `None` without the group.
pub(super) async fn group(
    conn: &mut MultiplexedConnection,
    keys: &Keys,
    queue: &str,
) -> RedisResult<Option<(u64, String)>> {
    let mut info = cmd("XINFO");
    info.arg("GROUPS").arg(keys.stream(queue));
    let reply: StreamInfoGroupsReply = match info.query_async(conn).await {
        // There is no such key.
        Err(error) if error.code() == Some("ERR") => return Ok(None),
        reply => reply?,
    };
    let ours = reply.groups.into_iter().find(|group| group.name == GROUP);
    Ok(ours.map(|group| (u64::try_from(group.pending).unwrap_or(u64::MAX), group.last_delivered_id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_found_by_its_key() {
        let keys = Keys { prefix: "p:{}".into() };
        for queue in ["default", "a}b{c", "ä"] {
            assert_eq!(keys.queue(&keys.stream(queue)).as_deref(), Some(queue));
        }
        assert_eq!(keys.queue("other"), None);
    }
}
