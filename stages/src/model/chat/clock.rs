//! The date that templates ask for by `strftime_now`. It stands still unless a caller sets it, so that the same work gives the same
//! prompts on another day.

/// 26 Jul 2024, which Llama's templates take where there is no clock.
const STILL: i64 = 1_721_952_000;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment, in seconds since 1970 on the clock of whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock(pub i64);

impl Default for Clock {
    fn default() -> Clock {
        Clock(STILL)
    }
}

impl Clock {
    /// As C's `strftime` with English names; `%-d` and its like write no leading zero. Unknown codes are left as they are.
    pub fn strftime(self, format: &str) -> String {
        let (mut out, mut characters) = (String::new(), format.chars());
        while let Some(character) = characters.next() {
            if character != '%' {
                out.push(character);
                continue;
            }
            let code: String = match characters.next() {
                Some('-') => ['-'].into_iter().chain(characters.next()).collect(),
                code => code.into_iter().collect(),
            };
            out.push_str(&self.field(&code).unwrap_or_else(|| format!("%{code}")));
        }
        out
    }

    fn field(self, code: &str) -> Option<String> {
        let (days, seconds) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        let [year, month, day] = civil(days);
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        let (weekday, month_name) = (DAYS[(days + 4).rem_euclid(7) as usize], MONTHS[month as usize - 1]);
        let half = |hour: i64| (hour + 11) % 12 + 1;
        let (number, width) = match code.trim_start_matches('-') {
            "Y" => (year, 4),
            "y" => (year % 100, 2),
            "m" => (month, 2),
            "d" => (day, 2),
            "H" => (hour, 2),
            "I" => (half(hour), 2),
            "M" => (minute, 2),
            "S" => (second, 2),
            "j" => (days - days_until(year) + 1, 3),
            "A" => return Some(weekday.into()),
            "a" => return Some(weekday[..3].into()),
            "B" => return Some(month_name.into()),
            "b" => return Some(month_name[..3].into()),
            "p" => return Some(if hour < 12 { "AM" } else { "PM" }.into()),
            "F" => return Some(self.strftime("%Y-%m-%d")),
            "T" => return Some(self.strftime("%H:%M:%S")),
            "%" => return Some("%".into()),
            _ => return None,
        };
        Some(if code.starts_with('-') { number.to_string() } else { format!("{number:0width$}") })
    }
}

/// Days from 1970 to the first of January of a year.
fn days_until(year: i64) -> i64 {
    let before = year - 1;
    365 * (year - 1970) + (before.div_euclid(4) - 492) - (before.div_euclid(100) - 19) + (before.div_euclid(400) - 4)
}

/// Year, month and day of a day since 1970.
fn civil(days: i64) -> [i64; 3] {
    let mut year = 1970 + days.div_euclid(366);
    while days_until(year + 1) <= days {
        year += 1;
    }
    let leap = (year % 4 == 0 && year % 100 != 0 || year % 400 == 0) as i64;
    let mut day = days - days_until(year);
    for (month, length) in (1..).zip([31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
        if day < length {
            return [year, month, day + 1];
        }
        day -= length;
    }
    unreachable!("a year has as many days as its months")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let check = |seconds: i64, expected: &str| assert_eq!(Clock(seconds).strftime("%a %Y-%m-%d %T %j"), expected);
        check(0, "Thu 1970-01-01 00:00:00 001");
        check(951_782_399, "Mon 2000-02-28 23:59:59 059");
        check(951_782_400, "Tue 2000-02-29 00:00:00 060");
        check(1_735_689_599, "Tue 2024-12-31 23:59:59 366");
        check(4_107_542_400, "Mon 2100-03-01 00:00:00 060");
        check(-86_400, "Wed 1969-12-31 00:00:00 365");
        assert_eq!(Clock::default().strftime("%d %b %Y, %-I %p, %q %"), "26 Jul 2024, 12 AM, %q %");
    }
}
