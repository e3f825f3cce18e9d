//! Marks the places of [`failpoint`](super::failpoint); nothing is left of them without the feature `failpoints`.

/// A point at which an error can come up: returns it from the function around.
macro_rules! reach_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::store::failpoint::reach($name).await?;
    };
}

/// A point at which there is nobody to tell of an error.
macro_rules! pass_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::store::failpoint::pass($name).await;
    };
}

pub(crate) use {pass_point, reach_point};
