//! How a call reaches the file: on which connection, and in which transaction. What the macros name is looked up where
//! they are used.

/// Writes in a transaction of its own.
macro_rules! writing {
    ($store:expr, |$conn:ident| $work:expr) => {
        $store
            .writer()
            .await?
            .write(move |conn| {
                Box::pin(async move {
                    let $conn = &mut Conn::sqlite(conn);
                    $work.await
                })
            })
            .await
    };
}

/// Reads on a connection of the readers.
macro_rules! reading {
    ($store:expr, |$conn:ident| $work:expr) => {{
        let mut reader = $store.reader().await?;
        let $conn = &mut Conn::sqlite(&mut reader);
        $work.await
    }};
}

pub(super) use {reading, writing};
