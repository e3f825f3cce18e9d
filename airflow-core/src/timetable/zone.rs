//! Names of time zones, with a suggestion for a wrong one.

use chrono_tz::{TZ_VARIANTS, Tz};

use super::nearest::nearest;

/// A name that is no time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{name}` is no time zone{}",
    .suggestion.map_or("; write a name such as `Europe/Paris` or `UTC`".to_owned(), |zone| format!("; did you mean `{zone}`?"))
)]
pub struct UnknownZone {
    /// The name, as it was written.
    pub name: String,
    /// The zone that looks most like it.
    pub suggestion: Option<Tz>,
}

/// Reads the name of a time zone, such as `Europe/Paris`.
///
/// # Errors
///
/// [`UnknownZone`] suggests the nearest name; a city alone finds its zone.
pub fn parse_zone(name: &str) -> Result<Tz, UnknownZone> {
    name.parse().map_err(|_| UnknownZone { name: name.to_owned(), suggestion: suggest(name) })
}

fn suggest(name: &str) -> Option<Tz> {
    let name = name.trim().replace(' ', "_");
    let find = |is: &dyn Fn(&str) -> bool| TZ_VARIANTS.iter().find(|zone| is(zone.name())).copied();
    find(&|zone| zone.eq_ignore_ascii_case(&name))
        .or_else(|| {
            find(&|zone| zone.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(&name)))
        })
        .or_else(|| nearest(&name, TZ_VARIANTS.iter().map(|zone| zone.name()))?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_zone_gets_the_nearest_name() {
        let table = [
            ("Europe/Pari", "`Europe/Pari` is no time zone; did you mean `Europe/Paris`?"),
            ("europe/paris", "`europe/paris` is no time zone; did you mean `Europe/Paris`?"),
            ("New York", "`New York` is no time zone; did you mean `America/New_York`?"),
            ("utc", "`utc` is no time zone; did you mean `UTC`?"),
            (
                "Mars/Olympus_Mons",
                "`Mars/Olympus_Mons` is no time zone; write a name such as `Europe/Paris` or `UTC`",
            ),
            ("", "`` is no time zone; write a name such as `Europe/Paris` or `UTC`"),
        ];
        for (name, text) in table {
            assert_eq!(parse_zone(name).expect_err(name).to_string(), text);
        }
    }
}
