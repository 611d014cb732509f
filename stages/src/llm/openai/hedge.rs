//! What a recipe may say of second copies of requests that take long.

use crate::llm::endpoint::{After, Hedge};
use crate::settings::{Reader, Setting, Step};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

crate::settings! {
    /// A request whose answer takes long is sent a second time; the first answer counts. Both may be billed.
    pub struct HedgeSettings {
        /// An answer takes long after this time.
        pub after_ms: Option<u64> = None,
        /// Or after this percentile of the recent answers, such as `p95`.
        pub after: Option<Percentile> = None,
        /// Copies for each request, from 0 to 1. This share of `concurrency` is kept free for them.
        pub at_most: f64 = 0.05,
    }
}

impl HedgeSettings {
    pub fn hedge(&self) -> Hedge {
        let after = match (self.after_ms, self.after) {
            (_, Some(Percentile(percent))) => After::Share(percent / 100.0),
            (after_ms, None) => After::Time(Duration::from_millis(after_ms.expect("a recipe without it is refused"))),
        };
        Hedge { after, at_most: self.at_most }
    }

    /// Notes what cannot be meant.
    pub fn check(&self, reader: &mut Reader) {
        match (self.after_ms, self.after) {
            (Some(_), Some(_)) => {
                let hint = Some("write one of them".to_string());
                reader.mistake("both-given", "`after_ms` and `after` exclude each other", hint);
            }
            (None, None) => {
                let hint = Some("write `after: p95`, or `after_ms:` with a time".to_string());
                reader.mistake("missing-key", "`after_ms` or `after` is missing", hint);
            }
            _ => {}
        }
        if self.after_ms == Some(0) {
            let message = "`after_ms` must be 1 or more, not 0";
            reader.within(Step::Key("after_ms".to_string()), |reader| reader.mistake("out-of-range", message, None));
        }
        if !(0.0..=1.0).contains(&self.at_most) {
            let message = format!("`at_most` must lie from 0 to 1, not {}", self.at_most);
            reader.within(Step::Key("at_most".to_string()), |reader| reader.mistake("out-of-range", message, None));
        }
    }
}

/// `p95`: what 95 of 100 stay below.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentile(f64);

impl Setting for Percentile {
    fn read(value: &Value, reader: &mut Reader) -> Option<Self> {
        let percent = value.as_str().and_then(|text| text.strip_prefix('p'));
        let digits = percent.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
        let percent = digits.and_then(|text| text.parse().ok()).filter(|percent| 0.0 < *percent && *percent < 100.0);
        if percent.is_none() {
            reader.wrong_type("a percentile such as `p95`, more than `p0` and less than `p100`", value);
        }
        percent.map(Percentile)
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": r"^p\d{1,2}(\.\d+)?$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> (Option<Hedge>, Vec<&'static str>) {
        let mut reader = Reader::default();
        let settings = HedgeSettings::read(&value, &mut reader);
        settings.iter().for_each(|settings| settings.check(&mut reader));
        let codes: Vec<&str> = reader.mistakes.iter().map(|mistake| mistake.code).collect();
        (settings.filter(|_| codes.is_empty()).map(|settings| settings.hedge()), codes)
    }

    #[test]
    fn both_forms_are_read() {
        let after_ms = Hedge { after: After::Time(Duration::from_millis(1500)), at_most: 0.05 };
        assert_eq!(read(json!({"after_ms": 1500})).0, Some(after_ms));
        let share = Hedge { after: After::Share(0.995), at_most: 0.5 };
        assert_eq!(read(json!({"after": "p99.5", "at_most": 0.5})).0, Some(share));
    }

    #[test]
    fn what_cannot_be_meant_is_a_mistake() {
        for (value, code) in [
            (json!({}), "missing-key"),
            (json!({"after_ms": 5, "after": "p95"}), "both-given"),
            (json!({"after_ms": -5}), "wrong-type"),
            (json!({"after_ms": 0}), "out-of-range"),
            (json!({"after_ms": 5, "at_most": 1.01}), "out-of-range"),
            (json!({"after_ms": 5, "at_most": -0.1}), "out-of-range"),
            (json!({"after": "p100"}), "wrong-type"),
            (json!({"after": "p0"}), "wrong-type"),
            (json!({"after": "pnan"}), "wrong-type"),
            (json!({"after": 95}), "wrong-type"),
        ] {
            assert_eq!(read(value.clone()), (None, vec![code]), "{value}");
        }
    }
}
