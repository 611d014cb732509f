//! The rehearsal keeps its stated rates, repeats itself exactly, and reads the task, never the prompt.

use super::*;
use crate::chain::Chain;
use crate::llm::{ReplyFormat, Task};
use crate::tablets::Problem;
use crate::tablets::text::{answer, open_question, stem};
use serde_json::Map;

const NO_ERRORS: fn() -> RehearsalSettings = || RehearsalSettings {
    slip: 0.0,
    alias: 0.0,
    verifier_error: 0.0,
    label_error: 0.0,
    unparsable: 0.0,
    ..RehearsalSettings::default()
};

fn request(name: &'static str, row_id: &str, row: Value) -> Request {
    let row: Map<String, Value> = row.as_object().unwrap().clone();
    Request::new("any words".to_string(), ReplyFormat::Json, Task { name, row_id: row_id.to_string(), row })
}

fn say(settings: RehearsalSettings, request: &Request) -> String {
    Rehearsal::new(settings).answer(request).unwrap()
}

/// 90 70 60 mg for 290 mg: the third dead end is followed by the solution 1/2/1.
const PROBLEM: Problem = Problem { dose_mg: 290, strengths_mg: [90, 70, 60], tablets_max: 4 };

fn chain_at(sample: u32, settings: RehearsalSettings) -> Chain {
    let asked = request("chain", "r", json!({"problem": open_question(&PROBLEM)})).sample(sample);
    Chain::parse(&say(settings, &asked)).unwrap()
}

fn gone_on(chain: &Chain, strategy: &str, round: u32) -> Chain {
    let row =
        json!({"problem": open_question(&PROBLEM), "chain": chain.to_value(), "strategy": strategy, "round": round});
    chain.clone().continued(Chain::parse(&say(NO_ERRORS(), &request("search", "r", row))).unwrap())
}

#[test]
fn a_search_in_order_goes_through_the_attempts_and_a_rewrite_tells_them() {
    let first = chain_at(0, NO_ERRORS());
    assert_eq!(first.conclusion(), "3/0/0");
    let second = gone_on(&first, "verify", 1);
    assert_eq!(second.conclusion(), "2/1/0");
    let third = gone_on(&second, "correct", 2);
    assert_eq!(third.conclusion(), "2/0/1");
    let fourth = gone_on(&third, "backtrack", 3);
    assert_eq!(fourth.conclusion(), answer(&PROBLEM.solutions()[0]));
    let row = json!({"problem": open_question(&PROBLEM), "chain": fourth.to_value()});
    let told: Value = serde_json::from_str(&say(NO_ERRORS(), &request("rewrite", "r", row.clone()))).unwrap();
    let complex = "90*3 20\n70*0 20\n60*0 20\nHmm, wait\n90*2 110\n70*1 40\n60*0 40\nHmm, wait\n70*0 110\n60*1 50\nHmm, wait\n\
                   90*1 200\n70*2 60\n60*1 0";
    assert_eq!(told["NaturalReasoning"], complex);
    let told: Value = serde_json::from_str(&say(NO_ERRORS(), &request("rewrite_simple", "r", row))).unwrap();
    assert_eq!(told["NaturalReasoning"], "90*1 200\n70*2 60\n60*1 0");
}

#[test]
fn exploring_leaps_to_another_first_choice_and_says_so() {
    let chain = gone_on(&gone_on(&chain_at(0, NO_ERRORS()), "explore", 1), "explore", 2);
    let row = json!({"problem": open_question(&PROBLEM), "chain": chain.to_value()});
    let told = say(NO_ERRORS(), &request("rewrite", "r", row));
    assert_eq!(told.matches("Hmm, another way").count(), 2, "{told}");
}

#[test]
fn a_later_sample_looks_further_before_it_concludes() {
    let patient = || RehearsalSettings { patience: 1.0, ..NO_ERRORS() };
    for (sample, expected) in [(0, "3/0/0"), (1, "2/1/0"), (2, "2/0/1"), (3, "1/2/1"), (4, "1/2/1")] {
        assert_eq!(chain_at(sample, patient()).conclusion(), expected);
    }
}

#[test]
fn the_prompt_is_never_read_and_the_task_always_is() {
    let asked = |prompt: &str, row_id: &str, ask: u32| {
        let mut request = request("label", row_id, json!({"question": "Which vessel is it?"}));
        request.messages[0].content = prompt.to_string();
        request.ask = ask;
        say(RehearsalSettings { label_error: 1.0, ..NO_ERRORS() }, &request)
    };
    assert_eq!(asked("a", "r", 0), asked("b", "r", 0));
    let different = (0..20).filter(|row| asked("a", &row.to_string(), 0) != asked("a", &row.to_string(), 1)).count();
    assert!(different > 5, "{different}");
}

#[test]
fn every_task_holds_its_stated_rate() {
    let foreign = json!({"problem": "Which vessel?", "truth": "Aorta", "answer": "Aorta", "answer_idx": "A", "conclusion": "Aorta",
        "options": {"A": "Aorta", "B": "Vena cava"}, "strategy": "correct"});
    let right = |text: &str| text.contains("\"action\":\"Final Conclusion\",\"content\":\"Aorta\"");
    let share = |name: &'static str, settings: RehearsalSettings, holds: &dyn Fn(&str) -> bool| {
        let rehearsal = Rehearsal::new(settings);
        let reply = |row: u32| rehearsal.answer(&request(name, &row.to_string(), foreign.clone())).unwrap();
        (0..2_000).filter(|&row| holds(&reply(row))).count() as f64 / 2_000.0
    };
    let unparsable = RehearsalSettings { unparsable: 0.2, ..NO_ERRORS() };
    for (what, found, expected) in [
        ("first", share("chain", NO_ERRORS(), &right), 0.4),
        ("repair", share("search", NO_ERRORS(), &right), 0.45),
        ("reveal", share("reveal", NO_ERRORS(), &right), 1.0),
        (
            "verify",
            share("verify", RehearsalSettings { verifier_error: 0.1, ..NO_ERRORS() }, &|text| text == "False"),
            0.1,
        ),
        ("broken", share("chain", unparsable.clone(), &|text| Chain::parse(text).is_err()), 0.2),
        ("no verdict", share("verify", unparsable, &|text| text.contains("cannot")), 0.2),
        ("unsure", share("solve", NO_ERRORS(), &|text| text.contains("not sure")), 0.02),
    ] {
        assert!((found - expected).abs() < 0.04, "{what}: {found} for {expected}");
    }
}

#[test]
fn exam_questions_get_the_label_that_they_deserve() {
    let simple = Problem { dose_mg: 90, ..PROBLEM };
    // 240 = 3*80 = 60 + 2*90, so two ways are open.
    let ambiguous = Problem { dose_mg: 240, strengths_mg: [90, 80, 60], tablets_max: 4 };
    for (question, expected) in [
        (stem(&PROBLEM), "pass"),
        (stem(&simple), "too_simple"),
        (stem(&ambiguous), "ambiguous_answer"),
        (stem(&Problem { dose_mg: 291, ..PROBLEM }), "ambiguous_answer"),
        (crate::tablets::text::nearest_stem(&PROBLEM), "not_reformulatable"),
        ("All of these hold except one. Which?".to_string(), "ambiguous_answer"),
    ] {
        let reply = say(NO_ERRORS(), &request("label", "r", json!({"question": question})));
        assert!(reply.contains(&format!("\"label\":\"{expected}\"")), "{question}: {reply}");
    }
}

#[test]
fn a_free_question_is_refused_with_a_reason() {
    let mut free = request("chain", "r", json!({}));
    free.task = None;
    assert!(matches!(Rehearsal::new(NO_ERRORS()).answer(&free), Err(Fault::Lasting(_))));
    let unknown = request("poem", "r", json!({}));
    assert!(matches!(Rehearsal::new(NO_ERRORS()).answer(&unknown), Err(Fault::Lasting(_))));
}

#[test]
fn any_row_gets_an_answer() {
    let odd = [json!({}), json!({"problem": 7, "chain": "x", "options": []}), json!({"problem": "tablets 3 2 1 0 0"})];
    for name in
        ["solve", "label", "reformat", "chain", "verify", "search", "reveal", "rewrite", "rewrite_simple", "respond"]
    {
        for row in &odd {
            say(NO_ERRORS(), &request(name, "r", row.clone()));
        }
    }
}
