//! The wall clock. The only place of this crate that reads it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch; 0 when the clock stands before it.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

const MS_PER_DAY: u64 = 86_400_000;

/// The day of an instant in UTC, `YYYY-MM-DD`.
#[must_use]
pub fn day_of(ms: u64) -> String {
    // Days since 1 March of year 0: leap days then fall at the end of a year (the usual civil calendar arithmetic).
    let days = ms / MS_PER_DAY + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Minutes since midnight UTC.
#[must_use]
pub fn minute_of_day(ms: u64) -> u64 {
    ms % MS_PER_DAY / 60_000
}

#[cfg(test)]
mod tests {
    use super::{day_of, minute_of_day};

    /// Expected values: `date -u -d @SECONDS +%F`.
    #[test]
    fn days_are_those_of_the_civil_calendar() {
        for (seconds, day) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_735_689_599, "2024-12-31"),
            (1_795_600_000, "2026-11-25"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(day_of(seconds * 1_000), day);
        }
        assert_eq!(minute_of_day(951_782_400_000 + 3 * 3_600_000 + 61_000), 181);
    }
}
