//! Whether a Redis can serve.

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value, cmd};

use super::link::explain;
use super::stream::{self, Keys};
use crate::remote::{BrokerFacts, TransportError};

/// The oldest version that has all commands.
const OLDEST: (u32, u32) = (6, 2);

/// What `INFO` says.
struct Info(String);

impl Info {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}

/// Looks at the settings, then does once what will be done later.
pub(super) async fn check(
    place: &str,
    keys: &Keys,
    conn: &mut MultiplexedConnection,
) -> Result<BrokerFacts, TransportError> {
    let told = |error: RedisError| explain(place, &error);
    let info = Info(cmd("INFO").query_async(conn).await.map_err(told)?);
    let mut facts = judge(&info).map_err(|why| TransportError::Unfit { place: place.into(), why })?;
    match rehearse(keys, conn).await {
        // Whoever is to make room must be able to start.
        Err(error) if stream::is_full(&error) => facts.warnings.push(
            "its memory is full, so it takes no messages until workers have taken some out; raise maxmemory if \
             that lasts"
                .into(),
        ),
        done => done.map_err(told)?,
    }
    Ok(facts)
}

/// What the settings mean.
fn judge(info: &Info) -> Result<BrokerFacts, String> {
    let get = |name| info.get(name).unwrap_or("unknown");
    let version = get("redis_version");
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version_number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version != "unknown" && version_number < OLDEST {
        return Err(format!("it is Redis {version}; 6.2 or newer is needed"));
    }
    if get("cluster_enabled") == "1" {
        return Err("it is a node of a cluster; give a server of its own, or sentinels".into());
    }
    if get("role") == "slave" {
        return Err("it is a replica and only reads; give the address of the master, or of sentinels".into());
    }
    let policy = get("maxmemory_policy");
    if policy.starts_with("allkeys") {
        return Err(format!(
            "its maxmemory-policy is {policy}, by which it deletes queues when memory is short; set it to noeviction"
        ));
    }
    let mut warnings = Vec::new();
    if policy.starts_with("volatile") {
        warnings.push(format!(
            "maxmemory-policy is {policy}: queues do not expire and stay, but noeviction is what is meant"
        ));
    }
    let (appended, saved) = (get("aof_enabled") == "1", get("rdb_last_bgsave_status"));
    if !appended {
        warnings.push(
            "appendonly is off: a restart loses queued messages, which are sent again when they are overdue"
                .into(),
        );
    }
    if saved == "err" {
        warnings.push("the last snapshot failed: Redis may refuse all writes until the disk is well".into());
    }
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let settings = vec![
        setting("maxmemory", get("maxmemory_human")),
        setting("maxmemory-policy", policy),
        setting("appendonly", if appended { "yes" } else { "no" }),
        setting("role", get("role")),
        setting("connected_slaves", get("connected_slaves")),
    ];
    Ok(BrokerFacts { server: format!("redis {version}"), settings, warnings })
}

/// Does everything once on a queue of its own: what is not allowed is better known before there is work.
async fn rehearse(keys: &Keys, conn: &mut MultiplexedConnection) -> RedisResult<()> {
    // Not a queue of a user: theirs are not that long.
    let queue = format!("check-{}", uuid::Uuid::new_v4().simple());
    let key = keys.stream(&queue);
    let all = async {
        stream::ensure(conn, keys, &queue).await?;
        cmd("XADD").arg(&key).arg("*").arg("b").arg("check").query_async::<Value>(conn).await?;
        let queues = std::slice::from_ref(&queue);
        let entries = stream::read(conn, keys, "check", queues, 1, None).await?;
        stream::put_back(conn, keys, &entries).await?;
        let limits = (std::time::Duration::ZERO, 1);
        stream::take_over(conn, keys, "check", &queue, limits, |_| false).await?;
        let entries = stream::read(conn, keys, "check", queues, 1, None).await?;
        let ids: Vec<String> = entries.into_iter().map(|entry| entry.id).collect();
        stream::done(conn, keys, &queue, &ids).await?;
        stream::return_unknown(conn, keys, "check", &queue, |_| false).await?;
        stream::group(conn, keys, &queue).await?;
        stream::consumers(conn, keys, &queue).await?;
        stream::remove_if_idle(conn, keys, &queue, "check").await?;
        cmd("TIME").query_async::<Value>(conn).await?;
        cmd("PUBLISH").arg(format!("{}topic:check", keys.prefix)).arg("").query_async::<Value>(conn).await?;
        RedisResult::Ok(())
    }
    .await;
    let removed = cmd("DEL").arg(&key).query_async::<Value>(conn).await;
    all?;
    removed.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(lines: &str) -> Result<BrokerFacts, String> {
        judge(&Info(lines.replace('|', "\r\n")))
    }

    #[test]
    fn what_loses_work_is_refused_and_what_delays_it_is_told() {
        let good = "redis_version:7.0.15|role:master|maxmemory_policy:noeviction|aof_enabled:1";
        assert_eq!(facts(good).unwrap().server, "redis 7.0.15");
        assert!(facts(good).unwrap().warnings.is_empty());
        for (from, to, cure) in [
            ("noeviction", "allkeys-lru", "noeviction"),
            ("role:master", "role:slave", "the master"),
            ("7.0.15", "6.0.9", "6.2 or newer"),
            ("role:master", "role:master|cluster_enabled:1", "cluster"),
        ] {
            let why = facts(&good.replace(from, to)).unwrap_err();
            assert!(why.contains(cure), "{why}");
        }
        for (from, to, warning) in [
            ("noeviction", "volatile-ttl", "volatile-ttl"),
            ("aof_enabled:1", "aof_enabled:0", "appendonly is off"),
            ("aof_enabled:1", "aof_enabled:1|rdb_last_bgsave_status:err", "snapshot failed"),
        ] {
            let warnings = facts(&good.replace(from, to)).unwrap().warnings;
            assert!(warnings.len() == 1 && warnings[0].contains(warning), "{warnings:?}");
        }
    }
}
