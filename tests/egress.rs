//! What a recipe's `egress:` keeps back never stands in a request: neither rows nor columns, asked anew or answered long ago; and the
//! plan says beforehand what leaves.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "support/mod.rs"]
mod support;

use kitchen::Kitchen;
use serde_json::Value;
use support::model_server::{Behaviour, ModelServer};

const ROWS: usize = 20;
const RECIPE: &str = "\
version: 1
prompts: prompts
models:
  teacher: { provider: openai, model: large, base_url: \"FAR\" }
  judge:   { provider: openai, model: small, base_url: \"FAR\" }
  near:    { provider: openai, model: near, base_url: \"NEAR\" }
EGRESS
nodes:
  exam:     { kind: source, path: exam.jsonl }
  chains:   { kind: cot, input: exam, model: teacher }
  verdicts: { kind: verify, input: chains, model: judge }
";

/// Two servers: one that rules are about, one for what must stay.
struct Ward {
    kitchen: Kitchen,
    far: ModelServer,
    near: ModelServer,
}

impl Ward {
    fn new(egress: &str) -> Ward {
        let (far, near) = (ModelServer::start(Behaviour::default()), ModelServer::start(Behaviour::default()));
        let recipe = RECIPE.replace("FAR", &far.base_url()).replace("NEAR", &near.base_url()).replace("EGRESS", egress);
        let kitchen = Kitchen::new(&recipe);
        let line = |row: usize| {
            let (consent, told) = (["yes", "no"][row % 2], if row == 4 { "Patient 1000004 has" } else { "Who has" });
            format!(
                "{{\"patient\": \"{}\", \"consent\": \"{consent}\", \"problem\": \"{told} sign number {row} of ward 7?\", \"truth\": \"cause {row}\"}}\n",
                1_000_000 + row
            )
        };
        kitchen.write("exam.jsonl", &(0..ROWS).map(line).collect::<String>());
        std::fs::create_dir(kitchen.path("prompts")).unwrap();
        Ward { kitchen, far, near }
    }

    /// Everything that was sent to the far server.
    fn sent(&self) -> String {
        self.far.requests().iter().map(|request| request.body.to_string() + "\n").collect()
    }

    fn check(&self) -> String {
        let output = self.kitchen.decoct(&["check", "recipe.yaml"]);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    }

    fn dropped(&self, node: &str) -> Vec<Value> {
        let text = self.kitchen.says(&["show", "recipe.yaml", &format!("{node}.dropped"), "--format", "json"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn row_in(text: &str, row: usize) -> bool {
    text.contains(&format!("sign number {row} of"))
}

const CONSENTED: &str = "egress: { default: allow, rules: [{ to: [teacher, judge], rows: \"consent == 'yes'\" }] }";
const NO_PATIENT: &str = "egress: { default: allow, rules: [{ to: [\"127.*\"], columns: { deny: [patient] } }] }";

#[test]
fn a_row_that_may_not_leave_is_dropped_counted_and_planned() {
    let ward = Ward::new(CONSENTED);
    let plan = ward.kitchen.says(&["plan", "recipe.yaml"]);
    assert!(plan.contains("what leaves (`egress:`):"), "{plan}");
    let expected = format!("chains: `teacher` ({}) sees problem by rule 1; 10 rows may not leave", host(&ward.far));
    assert!(plan.contains(&expected), "{plan}");
    assert!(plan.contains("`judge` (") && plan.contains("sees conclusion, truth by rule 1"), "{plan}");
    let run = ward.kitchen.run(&[]).expect_done();
    assert_eq!((run.node("chains")["calls"].as_u64(), run.node("verdicts")["calls"].as_u64()), (Some(10), Some(10)));
    assert_eq!(run.node("chains")["rows"], 10);
    let sent = ward.sent();
    (0..ROWS).for_each(|row| assert_eq!(row_in(&sent, row), row % 2 == 0, "row {row}"));
    let dropped = ward.dropped("chains");
    assert_eq!(dropped.len(), 10);
    for row in &dropped {
        assert_eq!((&row["reason"], &row["marked"]), (&Value::from("may not leave: rule 1"), &Value::from(false)));
    }
    let report = ward.kitchen.says(&["show", "recipe.yaml", "chains"]);
    assert!(report.contains("may not leave: rule 1"), "{report}");
    let plan: Value = serde_json::from_str(&ward.kitchen.says(&["plan", "recipe.yaml", "--format", "json"])).unwrap();
    assert_eq!(
        (&plan["egress"][0]["sees"], &plan["egress"][0]["rows_kept_back"]),
        (&serde_json::json!(["problem"]), &10.into())
    );
    assert_eq!(ward.kitchen.plan(&[]), "exam:hit chains:hit verdicts:hit");
}

#[test]
fn a_rule_that_comes_later_holds_for_what_was_answered_before() {
    let ward = Ward::new("");
    ward.kitchen.run(&[]).expect_done();
    let (calls, free) = (ward.far.calls(), ward.kitchen.says(&["show", "recipe.yaml", "chains", "--format", "json"]));
    assert_eq!(free.lines().count(), ROWS);
    ward.kitchen.edit("recipe.yaml", "nodes:\n", &format!("{CONSENTED}\nnodes:\n"));
    let run = ward.kitchen.run(&[]).expect_done();
    assert_eq!((ward.far.calls(), run.node("chains")["rows"].as_u64()), (calls, Some(10)));
    assert_eq!(run.node("chains")["calls_reused"], 10, "the replies about rows that stay are not looked at");
    // Without rules everything is where it was.
    ward.kitchen.edit("recipe.yaml", &format!("{CONSENTED}\n"), "");
    assert_eq!(ward.kitchen.plan(&[]), "exam:hit chains:hit verdicts:hit");
}

#[test]
fn a_rule_that_says_nothing_about_rows_moves_no_key() {
    let ward = Ward::new("");
    ward.kitchen.run(&[]).expect_done();
    let only = "egress: { rules: [{ to: [teacher], columns: { allow: [problem] } }, { to: [judge] }] }\nnodes:\n";
    ward.kitchen.edit("recipe.yaml", "nodes:\n", only);
    assert_eq!(ward.kitchen.plan(&[]), "exam:hit chains:hit verdicts:hit");
}

/// The disaster: a trace of what was made under another rule tells it by the rule of now.
#[test]
fn an_earlier_generation_is_traced_under_the_rules_of_its_time() {
    let ward = Ward::new("");
    ward.kitchen.run(&[]).expect_done();
    ward.kitchen.edit("recipe.yaml", "nodes:\n", &format!("{CONSENTED}\nnodes:\n"));
    let trace = |node: &str| ward.kitchen.says(&["trace", "recipe.yaml", node, "0", "--format", "json"]);
    let (free, calls) = (trace("chains"), ward.far.calls());
    assert!(free.contains("sign number 0 of"), "{free}");
    ward.kitchen.run(&[]).expect_done();
    let kept = trace("chains.dropped");
    assert!(kept.contains("may not leave: rule 1"), "{kept}");
    ward.kitchen.edit("recipe.yaml", "consent == 'yes'", "consent == 'no'");
    let kept = trace("chains.dropped");
    assert!(kept.contains("may not leave: rule 1"), "it was dropped by the rule of then: {kept}");
    let told: Value = serde_json::from_str(&trace("chains")).unwrap();
    assert!(!told.to_string().contains("may not leave"), "it went on by the rule of then: {told}");
    assert_eq!(ward.far.calls(), calls);
}

/// The disaster: the number stands in the text, where no one looked for it.
#[test]
fn a_value_of_a_denied_column_stands_in_no_request_about_its_row() {
    let ward = Ward::new(NO_PATIENT);
    let run = ward.kitchen.run(&[]).expect_done();
    assert_eq!(run.node("chains")["rows"].as_u64(), Some(ROWS as u64 - 1));
    let sent = ward.sent();
    (0..ROWS).for_each(|row| assert!(!sent.contains(&(1_000_000 + row).to_string()), "patient of row {row}"));
    assert!(!row_in(&sent, 4) && row_in(&sent, 3));
    let dropped = ward.dropped("chains");
    assert_eq!(dropped[0]["reason"], "may not leave: rule 1, a prompt would show its `patient`");
}

#[test]
fn a_prompt_that_would_show_a_denied_column_is_a_mistake_and_so_is_what_is_made_from_one() {
    let deny = |columns: &str| format!("egress: {{ default: allow, rules: [{{ to: [judge], columns: {columns} }}] }}");
    for (columns, expected) in [
        ("{ deny: [truth] }", Some("would show `truth` to `judge`, from which rule 1 of `egress` keeps it")),
        (
            "{ deny: [problem] }",
            Some(
                "would show `conclusion` to `judge`, from which rule 1 of `egress` keeps it: it is made from `problem`",
            ),
        ),
        ("{ allow: [truth] }", Some("it is made from `problem`")),
        ("{ deny: [problem], release: [conclusion] }", None),
        ("{ allow: [problem, truth] }", None),
        ("{ deny: [patient, consent] }", None),
    ] {
        let ward = Ward::new(&deny(columns));
        match expected {
            Some(expected) => {
                let told = ward.check();
                assert!(told.contains("may-not-leave") && told.contains(expected), "{columns}: {told}");
                assert!(!told.contains("`chains`"), "the teacher is free: {told}");
            }
            None => _ = ward.kitchen.says(&["check", "recipe.yaml"]),
        }
        assert_eq!(ward.far.calls(), 0);
    }
}

#[test]
fn where_nothing_may_leave_only_what_a_rule_names_is_asked() {
    let ward = Ward::new("egress: { rules: [] }");
    let told = ward.check();
    assert!(told.contains("`chains` asks `teacher`, and no rule of `egress` lets anything go to"), "{told}");
    assert!(told.contains("- to: [teacher]"), "{told}");
    // Models that answer in this process need no rule.
    for model in ["teacher", "judge"] {
        ward.kitchen.edit(
            "recipe.yaml",
            &format!("  {model}:"),
            &format!("  {model}: {{ provider: rehearsal }}\n  far_{model}:"),
        );
    }
    ward.kitchen.says(&["check", "recipe.yaml"]);
    assert_eq!((ward.far.calls(), ward.near.calls()), (0, 0));
}

#[test]
fn a_judge_of_an_evaluation_stands_behind_the_gate_too() {
    let ward = Ward::new(CONSENTED);
    let more = "  student:  { kind: sft, input: exam, base: { architecture: qwen2, layers: 1, hidden: 16, heads: 2, kv_heads: 1, ffn: 32, tokenizer: { train: words, size: 300 } }, \
                response: truth, epochs: 1 }\n  score:    { kind: eval, input: exam, models: { sft: student }, modes: [greedy], max_new_tokens: 4, verifier: judge }\n";
    let recipe = ward.kitchen.read("recipe.yaml");
    ward.kitchen.write("recipe.yaml", &format!("{recipe}{more}"));
    let run = ward.kitchen.run(&["--until", "score"]).expect_done();
    assert_eq!(run.node("score")["rows"].as_u64(), Some(ROWS as u64));
    assert!(run.node("score")["calls"].as_u64().unwrap() <= 10 && ward.far.calls() > 0);
    let sent = ward.sent();
    (0..ROWS).filter(|row| row % 2 == 1).for_each(|row| {
        assert!(
            !sent.contains(&format!("cause {row}\"")) && !sent.contains(&format!("cause {row}\\n")),
            "row {row}: {sent}"
        )
    });
}

fn host(server: &ModelServer) -> String {
    server.base_url().trim_start_matches("http://").trim_end_matches("/v1").to_string()
}
