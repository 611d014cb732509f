//! Replies come from anywhere: no text makes a reader of replies panic.

use proptest::prelude::*;
use stages::chain::Chain;
use stages::kinds::verify;
use stages::tablets::text;

/// Arbitrary text, mixed with the pieces that replies are made of, so that readers get past their first check.
fn reply() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "{",
            "}",
            "{\"CoT\": [",
            "{\"action\": \"Inner Thinking\", \"content\": \"x\"}",
            ", ",
            "]}",
            "True",
            "false",
            "\n",
            "{\"action\": \"Final Conclusion\", \"content\": \"y\"}",
            "{\"action\": \"Verification\", \"content\": \"z\"}",
            "dose",
            "tablets",
            " 90 70 60 ",
            "5",
            "99999999999999999999",
            "4294967295",
            "1/2/1",
            "*",
            " mg",
        ])
        .prop_map(str::to_string),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_panics(text in reply()) {
        if let Ok(chain) = Chain::parse(&text) {
            prop_assert_eq!(Chain::parse(&Chain::to_reply(chain.steps())).unwrap(), chain.clone());
            prop_assert_eq!(Chain::from_value(&chain.to_value()).unwrap(), chain);
        }
        let _ = verify::parse(&text);
        let counts = text::read_counts(&text);
        if let Some(problem) = text::read_problem(&text) {
            let solved = problem.solutions();
            prop_assert!(solved.iter().all(|counts| problem.is_solved_by(counts)));
            prop_assert!(counts.is_none_or(|counts| !problem.is_solved_by(&counts) || solved.contains(&counts)));
        }
    }
}
