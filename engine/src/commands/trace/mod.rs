//! `decoct trace`: one row's way from its source to a node, with every call on it. Sends nothing, writes nothing.

mod text;

use super::show::failure;
use crate::cli::{EventFormat, TraceArgs};
use crate::executor::past::generations;
use crate::failure::{Exit, Failure, Result};
use crate::plan::{Decision, Planner, Wishes};
use crate::report::PlainReporter;
use crate::trace::{Numbered, Step, Story, Tracer, Wanted, Work, numbered};
use crate::workplace::Workplace;
use cache::{Manifest, Store};
use serde_json::{Map, Value, json};
use stages::rows::Rows;
use stages::stage::NodeRef;

pub fn run(arguments: &TraceArgs) -> Result<Exit> {
    let (name, key) = arguments.node.split_once('@').map_or((&*arguments.node, None), |(node, key)| (node, Some(key)));
    let reference = NodeRef::parse(name);
    let workplace = Workplace::open(&arguments.recipe, &arguments.store)?;
    workplace.check_node(&reference.node)?;
    super::show::named_output(&workplace, &reference)?;
    let store = workplace.store_if_any()?.ok_or_else(|| nothing(&workplace, &reference.node))?;
    let tracer = tracer(&workplace, &store, &reference.node)?;
    let root = root(&workplace, &store, &tracer, &reference.node, key)?;
    let show = format!("decoct show {} {name} --format json", arguments.recipe.recipe.display());
    let story = tracer.story(root, &Wanted { reference: &reference, row: &arguments.row, show })?;
    match arguments.format {
        EventFormat::Json => println!("{}", to_json(&story, name)),
        EventFormat::Plain => print!("{}", text::text(&story, name, arguments.full)),
    }
    Ok(Exit::Done)
}

fn nothing(workplace: &Workplace, node: &str) -> Failure {
    let command = format!("decoct run {} --until {node}", workplace.recipe.path.display());
    Failure::usage(format!("`{node}` has no finished output yet"), Some(format!("`{command}` makes it")))
}

/// With the finished work of the recipe as it stands.
fn tracer<'a>(workplace: &'a Workplace, store: &'a Store, node: &str) -> Result<Tracer<'a>> {
    let reporter = PlainReporter::new();
    let past = workplace.past(Some(store), &reporter);
    let wishes = Wishes { until: vec![node.to_string()], ..Wishes::default() };
    let planner = Planner::new(&workplace.recipe, &workplace.graph, &past, &wishes);
    let mut known = workplace.known(&planner)?;
    let planned = planner.plan(&mut known, &wishes)?;
    let hit = |decision| match decision {
        Decision::Hit(manifest) => Some(*manifest),
        Decision::Run { .. } | Decision::Waits { .. } => None,
    };
    let name = |node| workplace.graph.name(node).to_string();
    let current = planned.into_iter().filter_map(|one| Some((name(one.node), hit(one.decision)?))).collect();
    Tracer::new(&workplace.recipe, &workplace.graph, store, current, known).map_err(failure)
}

/// The generation that is asked for: by key, else of the recipe as it stands, else the newest there is.
fn root<'a>(
    workplace: &'a Workplace,
    store: &Store,
    tracer: &Tracer<'a>,
    node: &str,
    key: Option<&str>,
) -> Result<Work<'a>> {
    let mut earlier = generations(store, &workplace.recipe.name, node);
    let current = tracer.current.get(node).cloned();
    let manifest: Option<Manifest> = match key {
        Some(key) => {
            let is_wanted = |one: &Manifest| one.key.to_string().starts_with(key);
            let found = current.filter(is_wanted).or_else(|| earlier.find(is_wanted));
            let hint = Some("`decoct explain RECIPE NODE` names keys of earlier generations".to_string());
            let message = format!("no finished work of `{node}` has a key that begins with `{key}`");
            Some(found.ok_or_else(|| Failure::usage(message, hint))?)
        }
        None => current.or_else(|| earlier.next()),
    };
    let manifest = manifest.ok_or_else(|| nothing(workplace, node))?;
    Ok(tracer.work(&workplace.recipe.nodes[node], manifest))
}

fn to_json(story: &Story, asked: &str) -> Value {
    let calls = numbered(story);
    let steps: Vec<Value> = story.steps.iter().zip(&calls).map(|(step, calls)| step_json(step, calls)).collect();
    let first = calls.iter().flatten().filter(|one| !one.is_again);
    let (mut tokens_in, mut tokens_out, mut cost_usd, mut count) = (0, 0, 0.0, 0);
    for one in first {
        let usage = one.call.reply.as_ref().map(|reply| reply.usage).unwrap_or_default();
        count += 1;
        tokens_in += usage.tokens_in;
        tokens_out += usage.tokens_out;
        cost_usd += one.call.cost_usd.unwrap_or(0.0);
    }
    json!({"event": "trace", "node": asked, "row_id": story.row_id, "reached": story.end.is_none(), "end": story.end,
        "lost": story.lost, "calls": count, "tokens_in": tokens_in, "tokens_out": tokens_out, "cost_usd": cost_usd,
        "steps": steps})
}

fn step_json(step: &Step, calls: &[Numbered]) -> Value {
    let Work { node, manifest, stale } = &step.work;
    let rows = step.after.iter().map(|(output, rows)| {
        let changes = step.changes(rows).into_iter();
        let changes = changes.map(|one| json!({"column": one.column, "old": one.old, "new": one.new}));
        json!({"output": output, "row_id": rows.rows[0].id, "row": object(rows), "changes": changes.collect::<Vec<_>>()})
    });
    json!({"node": node.name, "kind": node.kind.name, "key": manifest.key.to_string(),
        "finished_at": manifest.provenance.finished_at, "labels": manifest.provenance.labels,
        "current": stale.is_none(), "stale": stale, "came_in_as": step.before.as_ref().map(|rows| rows.rows[0].id.clone()),
        "outcome": step.outcome, "remark": step.remark, "rows": rows.collect::<Vec<_>>(),
        "calls": calls.iter().map(call_json).collect::<Vec<_>>()})
}

fn object(rows: &Rows) -> Map<String, Value> {
    rows.object(&rows.rows[0])
}

fn call_json(one: &Numbered) -> Value {
    let (call, request, reply) = (one.call, &one.call.request, one.call.reply.as_ref());
    let state = match (reply, &call.unusable) {
        (None, _) => "gone",
        (Some(_), Some(_)) => "unusable",
        (Some(_), None) => "read",
    };
    json!({"number": one.number, "again": one.is_again, "question": request.task.as_ref().map(|task| task.name),
        "model": call.model, "identity": *call.identity, "label": call.label, "rehearsal": call.label == Some("rehearsal"),
        "strategy": one.place.strategy, "round": one.place.round, "attempt": one.place.attempt,
        "sample": request.sample, "ask": request.ask, "messages": request.messages,
        "state": state, "unusable": call.unusable, "reply": reply.map(|reply| &reply.text),
        "reasoning": reply.and_then(|reply| reply.reasoning.as_ref()),
        "finish_reason": reply.map(|reply| &reply.finish_reason), "served_by": reply.map(|reply| &reply.served_by),
        "tokens_in": reply.map(|reply| reply.usage.tokens_in), "tokens_cached": reply.map(|reply| reply.usage.tokens_cached),
        "tokens_out": reply.map(|reply| reply.usage.tokens_out), "cost_usd": call.cost_usd})
}
