//! `decoct explain`: which ingredients of a node's result differ from an earlier time, up to the edit that began it.

use crate::cli::{EventFormat, ExplainArgs};
use crate::explain::{Change, Explainer, Story};
use crate::failure::{Exit, Failure, Result};
use crate::plan::{Decision, Planner, Wishes, describe, unquoted};
use crate::report::PlainReporter;
use crate::report::words::{ago, counted, shortened};
use crate::workplace::Workplace;
use cache::{Manifest, now_seconds};
use serde_json::{Value, json};
use similar::TextDiff;

/// Values in one line.
const VALUE_CHARACTERS: usize = 60;
/// Unchanged lines shown around each edit of a prompt.
const CONTEXT_LINES: usize = 1;
/// Digits of a key that tell generations apart.
const KEY_DIGITS: usize = 10;

pub fn run(arguments: &ExplainArgs) -> Result<Exit> {
    let reporter = PlainReporter::new();
    let workplace = Workplace::open(&arguments.recipe, &arguments.store)?;
    let node = workplace.reference(&arguments.node)?.node;
    let Some(store) = workplace.store_if_any()? else { return Err(never(&node)) };
    let past = workplace.past(Some(&store), &reporter);
    let wishes = Wishes { until: vec![node.clone()], ..Wishes::default() };
    let planner = Planner::new(&workplace.recipe, &workplace.graph, &past, &wishes);
    let mut known = workplace.known(&planner)?;
    let decision =
        planner.plan(&mut known, &wishes)?.pop().expect("a plan holds at least the node it is about").decision;
    let explainer = Explainer { recipe: &workplace.recipe, store: &store, known: &known };
    let story = explainer.story(&node, arguments.against.as_deref());
    let story = story.ok_or_else(|| no_generation(arguments))?;
    match arguments.format {
        EventFormat::Json => println!("{}", to_json(&story, decision.word())),
        EventFormat::Plain => print!("{}", text(&story, &decision)),
    }
    Ok(Exit::Done)
}

fn never(node: &str) -> Failure {
    Failure::Plain {
        exit: Exit::NodeFailed,
        message: format!("`{node}` has no finished work to compare with"),
        hint: Some("`decoct run` makes it".to_string()),
    }
}

fn no_generation(arguments: &ExplainArgs) -> Failure {
    let wanted = arguments.against.as_deref().unwrap_or_default();
    let hint = Some("`decoct explain RECIPE NODE` names the key it compares with".to_string());
    Failure::usage(format!("no finished work of `{}` has a key that begins with `{wanted}`", arguments.node), hint)
}

fn text(story: &Story, decision: &Decision) -> String {
    let verdict = match decision {
        Decision::Hit(_) => "is up to date".to_string(),
        Decision::Run { .. } => "will run".to_string(),
        Decision::Waits { on } => format!("waits for `{}`", on.join("`, `")),
    };
    let mut lines = vec![format!("`{}` ({}) {verdict}", story.node, story.kind)];
    match &story.against {
        None => lines.push("it has no earlier result to compare with".to_string()),
        Some(earlier) => lines.push(format!("compared with {}", dated(earlier))),
    }
    if story.against.is_some() && story.changes.is_empty() {
        lines.push("every ingredient is the same".to_string());
    }
    lines.push(String::new());
    tell(story, 0, &mut lines);
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.join("\n") + "\n"
}

fn dated(earlier: &Manifest) -> String {
    let key = &earlier.key.to_string()[..KEY_DIGITS];
    let made = ago(earlier.provenance.finished_at, now_seconds());
    let rows = earlier.outputs.values().find_map(cache::Output::rows);
    let rows = rows.map(|rows| format!(", {}", counted(rows, "row"))).unwrap_or_default();
    format!("its result made {made} (key {key}{rows})")
}

fn tell(story: &Story, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    for change in &story.changes {
        lines.push(format!("{indent}{}", headline(change)));
        let below = line_diff(&change.difference.path, &change.difference.old, &change.difference.new);
        lines.extend(below.iter().map(|line| format!("{indent}  {line}")));
        if let Some(cause) = &change.cause {
            if cause.against.is_none() {
                lines.push(format!("{indent}  `{}` has no earlier result to compare with", cause.node));
            }
            tell(cause, depth + 1, lines);
        }
    }
}

fn headline(change: &Change) -> String {
    let told = describe(&change.difference, VALUE_CHARACTERS);
    match &change.cause {
        Some(cause) if change.is_open => {
            format!("{} may change: `{}` ({}) runs first", input_name(change), cause.node, cause.kind)
        }
        Some(cause) => format!("{told}, made by `{}` ({})", cause.node, cause.kind),
        None if change.is_open => format!("{} is made again first", input_name(change)),
        None => told,
    }
}

fn input_name(change: &Change) -> String {
    let path = &change.difference.path;
    match path.strip_prefix("inputs.") {
        Some(port) => format!("input `{}`", unquoted(port)),
        None => {
            format!("the model `{}`", unquoted(path.trim_start_matches("models.").trim_end_matches(".weights")))
        }
    }
}

/// Texts of several lines, such as prompts, as edits of their lines.
fn line_diff(path: &str, old: &Option<Value>, new: &Option<Value>) -> Vec<String> {
    let (Some(Value::String(old)), Some(Value::String(new))) = (old, new) else { return Vec::new() };
    if !path.starts_with("prompts.") && !old.contains('\n') && !new.contains('\n') {
        return Vec::new();
    }
    let diff = TextDiff::from_lines(old.as_str(), new.as_str());
    let edits = diff.unified_diff().context_radius(CONTEXT_LINES).missing_newline_hint(false).to_string();
    edits.lines().map(|line| line.trim_end().to_string()).collect()
}

fn to_json(story: &Story, state: &str) -> Value {
    let roots = story.roots().into_iter().map(|(node, difference)| {
        json!({"node": node, "path": difference.path, "old": difference.old, "new": difference.new,
            "told": describe(difference, VALUE_CHARACTERS)})
    });
    let mut value = story_json(story);
    value["event"] = "explain".into();
    value["state"] = state.into();
    value["roots"] = roots.collect();
    value
}

fn story_json(story: &Story) -> Value {
    let against = story
        .against
        .as_ref()
        .map(|earlier| json!({"key": earlier.key.to_string(), "finished_at": earlier.provenance.finished_at}));
    let changes = story.changes.iter().map(|change| {
        let Change { difference, is_open, cause } = change;
        json!({"path": difference.path, "old": difference.old, "new": difference.new, "open": is_open,
            "told": shortened(&headline(change), 200), "cause": cause.as_ref().map(story_json)})
    });
    json!({"node": story.node, "kind": story.kind, "against": against, "changes": changes.collect::<Vec<_>>()})
}
