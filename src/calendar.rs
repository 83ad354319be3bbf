//! Days and dates (Gregorian, UTC). Pure.

/// Seconds of a day.
pub const SECONDS_PER_DAY: i64 = 86_400;

/// A date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// The year.
    pub year: i64,
    /// From 1 to 12.
    pub month: i64,
    /// From 1 on.
    pub day: i64,
}

impl Date {
    /// The date of a day, counted from 1970-01-01. Years are counted from March, so that the day that leap years add is
    /// the last of its year.
    pub fn of_day(day: i64) -> Self {
        let day = day + DAYS_FROM_MARCH_0000;
        let (era, day_of_era) = (day.div_euclid(DAYS_OF_ERA), day.rem_euclid(DAYS_OF_ERA));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self { year: era * 400 + year_of_era + i64::from(month <= 2), month, day }
    }

    /// The day, counted from 1970-01-01.
    pub fn to_day(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let month_from_march = (self.month + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * DAYS_OF_ERA + day_of_era - DAYS_FROM_MARCH_0000
    }

    /// Reads `2027-01-31`; none for a day that does not exist, or a year before 1970 or after 9999.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-').map(|part| {
            let is_number = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| part.parse::<i64>().ok()).flatten()
        });
        let date = Self { year: parts.next()??, month: parts.next()??, day: parts.next()?? };
        let exists = (1970..=9999).contains(&date.year) && Self::of_day(date.to_day()) == date;
        (exists && parts.next().is_none() && text.len() == 10).then_some(date)
    }
}

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// Days of 400 years, after which the calendar repeats itself.
const DAYS_OF_ERA: i64 = 146_097;
/// From the first of March of the year 0 to the epoch.
const DAYS_FROM_MARCH_0000: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates() {
        let cases = [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_454, "2026-01-01"),
            (20_512, "2026-02-28"),
            (20_513, "2026-03-01"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ];
        for (day, expected) in cases {
            let date = Date::of_day(day);
            assert_eq!(date.to_string(), expected);
            assert_eq!(date.to_day(), day, "{expected}");
            assert_eq!(Date::parse(expected), (day >= 0).then_some(date), "{expected}");
        }
    }

    #[test]
    fn what_is_no_date() {
        for text in
            ["", "2026", "2026-02-29", "2026-13-01", "2026-00-10", "2026-1-1", "2026-01-01-", "02026-01-1", "x-01-01"]
        {
            assert_eq!(Date::parse(text), None, "{text}");
        }
    }
}
