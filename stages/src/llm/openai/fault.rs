//! Why an answer is none: which faults are worth another try, after what pause, in words that hold no secret.

use crate::llm::Fault;
use crate::llm::key::Key;
use hyper::HeaderMap;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A server's words are shown up to this length; some send whole pages.
const WORDS_SHOWN: usize = 400;

/// 408, 409, 425, 429 and 5xx pass; all else is lasting, and so is an exhausted quota, which comes as 429.
pub fn of_status(status: u16, body: &[u8], retry_after_ms: Option<u64>) -> Fault {
    let words = words_of(body);
    let elsewhere = match status {
        300..=399 => "; it sends us elsewhere, and rows and keys only go to the address under `base_url`",
        _ => "",
    };
    let message = format!("the server answered {status}: {words}{elsewhere}");
    match status {
        429 if words.contains("insufficient_quota") => Fault::Lasting(message),
        429 => Fault::Refused { message, retry_after_ms },
        503 | 529 => Fault::Crowded { message, retry_after_ms },
        408 | 409 | 425 | 500..=599 => Fault::Passing { message, retry_after_ms },
        _ => Fault::Lasting(message),
    }
}

/// `retry-after-ms`, or `retry-after` in seconds or as an HTTP date.
pub fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    if let Some(ms) = text("retry-after-ms").and_then(number) {
        return Some(ms as u64);
    }
    let after = text("retry-after")?;
    number(after).map(|seconds| (seconds * 1000.0) as u64).or_else(|| {
        let left = parse_http_date(after)?.duration_since(SystemTime::now()).unwrap_or_default();
        Some(left.as_millis() as u64)
    })
}

/// The same fault without the key, which some servers repeat in their words.
pub fn redact(fault: Fault, key: Option<&Key>) -> Fault {
    let Some(key) = key else { return fault };
    let clean = |message: String| key.hide(&message);
    match fault {
        Fault::Passing { message, retry_after_ms } => Fault::Passing { message: clean(message), retry_after_ms },
        Fault::Crowded { message, retry_after_ms } => Fault::Crowded { message: clean(message), retry_after_ms },
        Fault::Refused { message, retry_after_ms } => Fault::Refused { message: clean(message), retry_after_ms },
        Fault::Lasting(message) => Fault::Lasting(clean(message)),
    }
}

/// The message inside an error body (OpenAI's `error.message`, FastAPI's `detail`), or the body itself.
fn words_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let parsed: Option<Value> = serde_json::from_str(&text).ok();
    let words = parsed.as_ref().and_then(|value| {
        let (error, code) = (&value["error"], &value["error"]["code"]);
        let message =
            [&error["message"], error, &value["message"], &value["detail"]].into_iter().find(|v| !v.is_null())?;
        let message = message.as_str().map_or_else(|| message.to_string(), str::to_string);
        Some(code.as_str().map_or(message.clone(), |code| format!("{message} ({code})")))
    });
    shown(&words.unwrap_or_else(|| text.into_owned()))
}

/// A server's text on one line, and not too much of it.
pub fn shown(text: &str) -> String {
    cut(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn cut(words: &str) -> String {
    match words.char_indices().nth(WORDS_SHOWN) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words.to_string(),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7), the only form that servers may send.
fn parse_http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let parts: Vec<&str> = text.trim().split(' ').collect();
    let &[_, day, month, year, clock, "GMT"] = parts.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let clock: Vec<u64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let &[hour, minute, second] = clock.as_slice() else { return None };
    if !(1..=31).contains(&day) || !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Counts in years that begin in March, so that a leap day comes last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    const DAYS_FROM_MARCH_OF_YEAR_0: u64 = 719_468;
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - DAYS_FROM_MARCH_OF_YEAR_0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_sorted_by_whether_asking_again_can_help() {
        for status in [408, 409, 425, 500, 502, 504] {
            assert!(
                matches!(of_status(status, b"", Some(7)), Fault::Passing { retry_after_ms: Some(7), .. }),
                "{status}"
            );
        }
        for status in [503, 529] {
            assert!(
                matches!(of_status(status, b"", Some(7)), Fault::Crowded { retry_after_ms: Some(7), .. }),
                "{status}"
            );
        }
        assert!(matches!(of_status(429, b"", Some(7)), Fault::Refused { retry_after_ms: Some(7), .. }));
        for status in [400, 401, 403, 404, 413, 422] {
            assert!(matches!(of_status(status, b"", None), Fault::Lasting(_)), "{status}");
        }
        let quota = br#"{"error": {"message": "You ran out", "code": "insufficient_quota"}}"#;
        assert!(matches!(of_status(429, quota, None), Fault::Lasting(_)));
    }

    #[test]
    fn the_servers_words_are_found() {
        for (body, expected) in [
            (r#"{"error": {"message": "bad", "code": "c"}}"#, "bad (c)"),
            (r#"{"error": "bad"}"#, "bad"),
            (r#"{"detail": [{"loc": 1}]}"#, r#"[{"loc":1}]"#),
            (r#"{"message": "bad"}"#, "bad"),
            (r#"{"message": "bad:\n  at\n\n  here"}"#, "bad: at here"),
            ("<h1>\n Bad   gateway</h1>", "<h1> Bad gateway</h1>"),
        ] {
            assert_eq!(words_of(body.as_bytes()), expected);
        }
        assert!(words_of("ä".repeat(900).as_bytes()).chars().count() == WORDS_SHOWN + 1);
    }

    #[test]
    fn pauses_are_read_in_all_their_forms() {
        let read = |name: &'static str, value: &str| {
            retry_after_ms(&HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]))
        };
        assert_eq!(read("retry-after", "2"), Some(2000));
        assert_eq!(read("retry-after", "0.5"), Some(500));
        assert_eq!(read("retry-after-ms", "250"), Some(250));
        assert_eq!(read("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        for nonsense in ["soon", "-3", "NaN", "Sun, 32 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 8 GMT"] {
            assert_eq!(read("retry-after", nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn dates_are_counted_from_1970() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 29 Feb 2024 12:00:00 GMT", 1_709_208_000),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
        ] {
            assert_eq!(parse_http_date(text), Some(UNIX_EPOCH + Duration::from_secs(seconds)), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_date_panics(text in "\\PC*", day in 0u64..99, year in 0u64..99999, clock in "[0-9:]{0,12}") {
            parse_http_date(&text);
            parse_http_date(&format!("Sun, {day} Nov {year} {clock} GMT"));
        }
    }
}
