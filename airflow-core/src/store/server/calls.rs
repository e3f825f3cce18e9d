//! How a call reaches the server: on which connection, in which transaction, and how often it is tried. What the macros
//! name is looked up where they are used.

/// Reads on a connection; tried again if the connection breaks.
macro_rules! reading {
    ($store:expr, |$conn:ident| $work:expr) => {{
        schema::ready(&$store.core).await?;
        let mut tries = Tries::new();
        loop {
            let result = match $store.core.lease().await {
                Ok(mut lease) => {
                    let result = {
                        let mut held = lease.conn(&$store.core.dialect);
                        let $conn = &mut held;
                        $work.await
                    };
                    if result.is_ok() {
                        drop(lease.clean());
                    }
                    result
                }
                Err(error) => Err(error),
            };
            match result {
                Err(error) if class(&error) != Class::Other && tries.again(&error).await => {}
                result => break result,
            }
        }
    }};
}

/// Reads in a transaction that leaves nothing behind, with statements that may take long; tried again if the connection
/// breaks.
macro_rules! patiently {
    ($store:expr, |$conn:ident| $work:expr) => {{
        schema::ready(&$store.core).await?;
        let mut tries = Tries::new();
        loop {
            let result = match $store.core.begin().await {
                Ok(mut tx) => {
                    let result = match tx.be_patient().await {
                        Ok(()) => {
                            let mut held = tx.conn();
                            held.be_patient(STEP_DEADLINE);
                            let $conn = &mut held;
                            $work.await
                        }
                        Err(error) => Err(error),
                    };
                    tx.leave().await;
                    result
                }
                Err(error) => Err(error),
            };
            match result {
                Err(error) if class(&error) != Class::Other && tries.again(&error).await => {}
                result => break result,
            }
        }
    }};
}

/// Writes in a transaction; tried again if it was taken back.
macro_rules! writing {
    ($store:expr, |$conn:ident| $work:expr) => {
        writing!($store, false, |$conn| $work)
    };
    ($store:expr, $is_long:literal, |$conn:ident| $work:expr) => {{
        schema::ready(&$store.core).await?;
        let mut tries = Tries::new();
        loop {
            let error = match $store.core.begin().await {
                Ok(mut tx) => {
                    let result = if $is_long { tx.be_patient().await } else { Ok(()) };
                    let result = match result {
                        Ok(()) => {
                            let mut held = tx.conn();
                            if $is_long {
                                held.be_patient(STEP_DEADLINE);
                            }
                            let $conn = &mut held;
                            $work.await
                        }
                        Err(error) => Err(error),
                    };
                    match tx.end(result).await {
                        Done::Over(result, _) => break result,
                        Done::Undone(error) => error,
                    }
                }
                Err(error) => error,
            };
            if class(&error) == Class::Other || !tries.again(&error).await {
                break Err(error);
            }
        }
    }};
}

pub(super) use {patiently, reading, writing};
