//! What a run would cost before it costs: rows, calls, tokens, money and time of each node, as ranges, with their source.
//!
//! Nodes are walked in order. Where a node's rows are known (its inputs are finished, or came out of this very walk), the stage itself
//! is played through with kept replies: that tells exactly what is paid and which questions are new. What follows a question without
//! an answer, and nodes whose rows are not known, are measured by earlier work ([`measured`]), else by a stated assumption. Stages
//! that train or take long are never executed.

mod calls;
pub mod measured;
mod play;
pub mod range;

use crate::executor::artifacts::Trouble;
use crate::executor::looking::{self, Looking};
use crate::failure::Result;
use crate::manifest::{self, Known};
use crate::plan::{Decision, Planned, Planner, Wishes};
use crate::spec::Node;
use cache::{Manifest, Preimage, Store};
use calls::{Asked, Calls};
use measured::{Experience, Measured};
use play::{Played, Unanswered};
use range::{Each, Range};
use serde::Deserialize;
use stages::llm::{Egress, ModelSpec, Tally};
use stages::stage::{Artifact, Form, Inputs, NodeRef, Outlook, Outputs};
use std::collections::{HashMap, HashSet};

/// Kept replies of one play that are enough to be a measure themselves.
const ENOUGH: f64 = 30.0;

/// What is foreseen for one node.
#[derive(Debug, Clone, Default)]
pub struct Foreseen {
    /// Rows of its first input that is a table, and of its first output; `None` where there is no table.
    pub rows_in: Option<Range>,
    pub rows_out: Option<Range>,
    pub paid: Paid,
    /// Rows about which something is still to be asked.
    pub rows_to_ask: f64,
    /// Rows known by now that a rule of `egress:` keeps from one of its models; `None` where no rule looks at rows.
    pub rows_kept_back: Option<u64>,
    /// Calls to be made, with their tokens.
    pub calls: Range,
    pub tokens_in: Range,
    pub tokens_out: Range,
    /// US dollars; `None` where a price is not known.
    pub cost: Option<Range>,
    /// `None` where nothing like it has run before.
    pub seconds: Option<Range>,
    /// Where the numbers are from, as far as they are not exact.
    pub basis: Vec<String>,
    /// It has nothing to do if these give what they gave before.
    pub rests_if: Vec<String>,
}

/// What is kept and will be used again.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Paid {
    pub calls: u64,
    pub tokens_in: u64,
    pub tokens_out: u64,
    /// At today's prices; `None` where one is not known.
    pub cost_usd: Option<f64>,
}

/// All nodes together.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    pub paid: Paid,
    pub calls: Range,
    pub tokens_in: Range,
    pub tokens_out: Range,
    pub cost: Option<Range>,
    /// Of the nodes whose time is known, one after the other.
    pub seconds: Range,
    pub untimed: usize,
}

impl Totals {
    pub fn of(foreseen: &[Foreseen]) -> Totals {
        let total = |of: fn(&Foreseen) -> Range| foreseen.iter().map(of).sum::<Range>();
        let paid = |of: fn(&Paid) -> u64| foreseen.iter().map(|one| of(&one.paid)).sum::<u64>();
        Totals {
            paid: Paid {
                calls: paid(|paid| paid.calls),
                tokens_in: paid(|paid| paid.tokens_in),
                tokens_out: paid(|paid| paid.tokens_out),
                cost_usd: foreseen
                    .iter()
                    .map(|one| &one.paid)
                    .filter(|paid| paid.calls > 0)
                    .map(|paid| paid.cost_usd)
                    .sum(),
            },
            calls: total(|one| one.calls),
            tokens_in: total(|one| one.tokens_in),
            tokens_out: total(|one| one.tokens_out),
            cost: foreseen.iter().map(|one| one.cost).sum(),
            seconds: total(|one| one.seconds.unwrap_or_default()),
            untimed: foreseen.iter().filter(|one| one.seconds.is_none()).count(),
        }
    }
}

/// Foresees every node of a plan, in its order. `store` is absent where nothing was ever done.
///
/// # Errors
/// If replies cannot be read, or a shared store does not answer.
pub fn forecast(
    planner: &Planner,
    planned: &[Planned],
    known: &Known,
    wishes: &Wishes,
    store: Option<&Store>,
) -> Result<Vec<Foreseen>> {
    let looking = Looking::new(store);
    let runs = planned.iter().filter(|one| matches!(one.decision, Decision::Run { .. }));
    if runs.map(|one| planner.entry(one.node)).any(|node| looking::can_be_played(planner.recipe, node)) {
        looking.prepare();
    }
    let mut walk = Walk {
        planner,
        planned,
        known,
        wishes,
        store,
        looking,
        flows: HashMap::new(),
        played: HashMap::new(),
        askers: HashMap::new(),
        shared: vec![0.0; planned.len()],
    };
    let mut foreseen = Vec::with_capacity(planned.len());
    for index in 0..planned.len() {
        let rows_kept_back = walk.rows_kept_back(index);
        foreseen.push(Foreseen { rows_kept_back, ..walk.node(index)? });
    }
    for (one, shared) in foreseen.iter_mut().zip(&walk.shared) {
        // Another node may be the one that pays for these.
        one.calls.low = (one.calls.low - shared).max(0.0);
    }
    Ok(foreseen)
}

struct Walk<'a> {
    planner: &'a Planner<'a>,
    planned: &'a [Planned],
    known: &'a Known,
    wishes: &'a Wishes,
    store: Option<&'a Store>,
    looking: Looking,
    /// By node and output.
    flows: HashMap<(String, String), Flow>,
    /// What came out of nodes that were executed here, as far as their rows are known.
    played: HashMap<String, Outputs>,
    /// Who asks a question first, by its address.
    askers: HashMap<[u8; 32], usize>,
    /// By place in the plan: questions that a later node asks too.
    shared: Vec<f64>,
}

/// Rows of one output: so many are known and can be read, and so many more will come.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    known: f64,
    more: Range,
}

impl Flow {
    fn rows(&self) -> Range {
        Range::exactly(self.known) + self.more
    }
}

impl<'a> Walk<'a> {
    fn entry(&self, index: usize) -> &'a Node {
        self.planner.entry(self.planned[index].node)
    }

    fn node(&mut self, index: usize) -> Result<Foreseen> {
        if let Decision::Hit(manifest) = &self.planned[index].decision {
            return Ok(self.found(index, manifest));
        }
        let node = self.entry(index);
        let flows: Vec<Flow> = rows_of(node).iter().map(|from| self.flow(from)).collect();
        let rows_in: Vec<Range> = flows.iter().map(Flow::rows).collect();
        let first = flows.first().copied().unwrap_or_default();
        let mut experience = self.experience(index, &self.preimage(index));
        let mut foreseen =
            Foreseen { rows_in: rows_in.first().copied(), cost: Some(Range::ZERO), ..Foreseen::default() };
        if node.stage.is_quick() && flows.iter().all(|flow| flow.more.high == 0.0) {
            self.execute(node);
        } else if !node.stage.models().is_empty() {
            self.ask(index, first, &mut experience, &mut foreseen)?;
        }
        if !self.played.contains_key(&node.name) {
            self.expect_rows(node, &rows_in, experience.as_ref());
        }
        self.finish(index, &rows_in, experience.as_ref(), &mut foreseen);
        Ok(foreseen)
    }

    fn rows_kept_back(&self, index: usize) -> Option<u64> {
        let node = self.entry(index);
        let mut watched =
            node.passages.values().filter(|passages| passages.iter().any(|one| one.rows.is_some())).peekable();
        watched.peek()?;
        let inputs = self.inputs(node)?;
        let egresses: Vec<Egress> =
            watched.filter_map(|passages| Egress::of(passages, &inputs).ok().flatten()).collect();
        let rows: HashSet<&str> = egresses.iter().flat_map(Egress::kept_back).collect();
        Some(rows.len() as u64)
    }

    fn execute(&mut self, node: &Node) {
        if let Some(inputs) = self.inputs(node)
            && let Ok(outputs) = self.looking.execute(node, inputs)
        {
            self.keep(node, outputs, Range::ZERO, None);
        }
    }

    /// The calls of a node: played through as far as its rows are known, measured beyond.
    fn ask(
        &mut self,
        index: usize,
        first: Flow,
        experience: &mut Option<Experience>,
        foreseen: &mut Foreseen,
    ) -> Result<()> {
        let node = self.entry(index);
        let can_be_played = first.known > 0.0 && looking::can_be_played(self.planner.recipe, node);
        let Some(played) = (if can_be_played { self.play(index)? } else { None }) else {
            let asked = self.asked(index, &[], first.rows());
            self.add_calls(node, &asked, experience.as_ref(), foreseen);
            return Ok(());
        };
        let asked = self.asked(index, &played.unanswered, first.more);
        let waiting = played.unanswered.len() as f64;
        foreseen.paid = self.paid(node, &played.paid);
        if asked.had.is_empty() && most_rows(&played.paid) >= ENOUGH {
            *experience = Some(of_play(&played, first.known - waiting, experience.take()));
        }
        self.add_calls(node, &asked, experience.as_ref(), foreseen);
        self.keep(node, played.outputs, Range::exactly(waiting) + first.more, experience.as_ref());
        Ok(())
    }

    fn found(&mut self, index: usize, manifest: &Manifest) -> Foreseen {
        let node = self.entry(index);
        for (name, output) in &manifest.outputs {
            let flow = Flow { known: output.rows().unwrap_or(0) as f64, more: Range::ZERO };
            self.flows.insert((node.name.clone(), name.clone()), flow);
        }
        let provenance = &manifest.provenance;
        let measured = provenance.facts.get(measured::MEASURED).and_then(|fact| Measured::deserialize(fact).ok());
        let noted = Paid {
            calls: provenance.calls + provenance.calls_reused,
            tokens_in: provenance.tokens_in,
            tokens_out: provenance.tokens_out,
            cost_usd: Some(provenance.cost_usd),
        };
        let tallies = measured.map(|measured| measured.tallies).unwrap_or_default();
        Foreseen {
            rows_in: rows_of(node).first().map(|from| self.flow(from).rows()),
            rows_out: self.rows_out(node),
            paid: if tallies.is_empty() { noted } else { self.paid(node, &tallies) },
            cost: Some(Range::ZERO),
            seconds: Some(Range::ZERO),
            ..Foreseen::default()
        }
    }

    fn flow(&self, from: &NodeRef) -> Flow {
        let output = self.planner.recipe.nodes[&from.node].output(&from.output).expect("outputs were checked");
        self.flows.get(&(from.node.clone(), output.name)).copied().unwrap_or_default()
    }

    fn rows_out(&self, node: &Node) -> Option<Range> {
        let first = node.stage.outputs().into_iter().next().filter(|output| output.form == Form::Rows)?;
        Some(self.flows.get(&(node.name.clone(), first.name))?.rows())
    }

    /// The record that the node's key would be made from; contents that are not known yet are null.
    fn preimage(&self, index: usize) -> Preimage {
        match &self.planned[index].decision {
            Decision::Run { preimage, .. } => preimage.clone(),
            _ => manifest::draft(self.planner.recipe, self.entry(index), self.known).preimage,
        }
    }

    /// The node's own latest work; where there is none, that of another node of its kind.
    fn experience(&self, index: usize, now: &Preimage) -> Option<Experience> {
        if let Some(last) = &self.planned[index].last {
            return Some(Experience::of(last, now, "as last time".to_string()));
        }
        let others =
            (0..self.planned.len()).filter(|&other| self.entry(other).kind.name == self.entry(index).kind.name);
        let others = others.filter_map(|other| Some((self.entry(other), self.planned[other].finished()?)));
        let experiences = others.map(|(node, manifest)| Experience::of(manifest, now, format!("as `{}`", node.name)));
        experiences
            .filter(|experience| experience.rows_asked() > 0.0)
            .find(|experience| experience.other_models.is_empty())
    }

    /// All rows that the node reads and that are known; `None` where they cannot be had.
    fn inputs(&self, node: &Node) -> Option<Inputs> {
        let open = |from: &NodeRef| -> Result<Artifact, Trouble> {
            let output = self.planner.recipe.nodes[&from.node].output(&from.output).expect("outputs were checked");
            match self.played.get(&from.node) {
                Some(outputs) => Ok(outputs.artifacts[&output.name].clone()),
                None => looking::open(self.store, self.planner.recipe, from, |node| self.finished(node)),
            }
        };
        looking::inputs(node, open).ok()
    }

    fn finished(&self, node: &str) -> Option<&'a Manifest> {
        let place = (0..self.planned.len()).find(|&index| self.entry(index).name == node)?;
        match &self.planned[place].decision {
            Decision::Hit(manifest) => Some(manifest),
            _ => None,
        }
    }

    /// `None` where its inputs cannot be read, or its stage cannot take them: the run will say so.
    fn play(&mut self, index: usize) -> Result<Option<Played>> {
        let node = self.entry(index);
        let Some(inputs) = self.inputs(node) else { return Ok(None) };
        let retry_marked = self.wishes.retry_marked.contains(&node.name);
        match play::play(&self.looking, self.planner.recipe, node, inputs, retry_marked) {
            Ok(played) => Ok(Some(played)),
            Err(Trouble::Cache(error)) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Questions that are equal are asked once, in the whole plan.
    fn asked(&mut self, index: usize, unanswered: &[Unanswered], unknown: Range) -> Asked {
        let node = self.entry(index);
        let again = if self.wishes.retry_marked.contains(&node.name) { 2.0 } else { 1.0 };
        let mut asked = Asked { unknown, again, prompt_bytes: prompt_bytes(node), ..Asked::default() };
        for one in unanswered {
            match *self.askers.entry(one.address).or_insert(index) {
                owner if owner != index => {
                    self.shared[owner] += 1.0;
                    asked.pending += 1.0;
                    add_answers(&mut asked, one);
                    *asked.had.entry((one.port.to_string(), one.question.to_string())).or_default() += 1.0;
                }
                _ if asked.first.last().is_some_and(|last: &Unanswered| last.address == one.address) => {}
                _ => {
                    asked.pending += 1.0;
                    add_answers(&mut asked, one);
                    asked.first.push(one.clone());
                }
            }
        }
        asked
    }

    fn add_calls(&self, node: &Node, asked: &Asked, experience: Option<&Experience>, foreseen: &mut Foreseen) {
        let models = node.stage.models();
        let spec = |port: &str| self.spec(node, port);
        let outlook = |rows: f64| node.stage.calls(rows.round() as u64);
        let Calls { calls, tokens_in, tokens_out, cost, basis } =
            calls::forecast(asked, outlook, experience, spec, &models[0].0);
        let rows_to_ask = asked.pending + asked.unknown.expected;
        *foreseen = Foreseen { rows_to_ask, calls, tokens_in, tokens_out, cost, basis, ..foreseen.clone() };
    }

    fn spec(&self, node: &Node, port: &str) -> &'a ModelSpec {
        let models = node.stage.models();
        let named =
            models.iter().find(|(known, _)| known == port).or(models.first()).expect("a node that asks has a model");
        &self.planner.recipe.models[&named.1].spec
    }

    fn paid(&self, node: &Node, tallies: &[Tally]) -> Paid {
        let sum = |of: fn(&Tally) -> f64| tallies.iter().map(of).sum::<f64>() as u64;
        Paid {
            calls: sum(|tally| tally.calls.sum),
            tokens_in: sum(|tally| tally.tokens_in.sum),
            tokens_out: sum(|tally| tally.tokens_out.sum),
            cost_usd: calls::cost_of(tallies, |port| self.spec(node, port)),
        }
    }

    /// Rows that came out of a stage executed here, and what those that are missing will add.
    fn keep(&mut self, node: &Node, outputs: Outputs, missing: Range, experience: Option<&Experience>) {
        for (name, artifact) in &outputs.artifacts {
            let Some(rows) = artifact.row_count() else { continue };
            let more = share(missing, name, experience, 1.0);
            self.flows.insert((node.name.clone(), name.clone()), Flow { known: rows as f64, more });
        }
        self.played.insert(node.name.clone(), outputs);
    }

    /// Rows of a node that was not executed: by what the stage knows of itself, else as many of those that come in as before.
    fn expect_rows(&mut self, node: &Node, rows_in: &[Range], experience: Option<&Experience>) {
        let outlooks = |of: fn(&Range) -> f64| {
            let rows: Vec<u64> = rows_in.iter().map(|range| of(range).round() as u64).collect();
            node.stage.rows_out(&rows)
        };
        let all = [
            outlooks(|range| range.low),
            outlooks(|range| range.likely_low),
            outlooks(|range| range.expected),
            outlooks(|range| range.likely_high),
            outlooks(|range| range.high),
        ];
        let first = rows_in.first().copied().unwrap_or_default();
        for (place, output) in node.stage.outputs().into_iter().enumerate() {
            if output.form != Form::Rows {
                continue;
            }
            let at = |number: usize| &all[number][place];
            let likely = |outlook: &Outlook| outlook.likely.map_or(outlook.most as f64, |(likely, _)| likely);
            let (least, most) = (at(0).least as f64, at(4).most as f64);
            let rows = match (at(2).likely, at(2).least == at(2).most) {
                (None, false) => share(first, &output.name, experience, f64::INFINITY),
                _ => Range {
                    low: least,
                    likely_low: likely(at(1)),
                    expected: likely(at(2)),
                    likely_high: likely(at(3)),
                    high: most,
                },
            };
            let flow = Flow { known: 0.0, more: rows.within(least, most) };
            self.flows.insert((node.name.clone(), output.name), flow);
        }
    }

    fn finish(&self, index: usize, rows_in: &[Range], experience: Option<&Experience>, foreseen: &mut Foreseen) {
        let (node, planned) = (self.entry(index), &self.planned[index]);
        foreseen.rows_out = self.rows_out(node);
        foreseen.seconds = seconds(node, rows_in.first(), experience, foreseen);
        if let (Decision::Waits { on }, Some(_)) = (&planned.decision, &planned.last) {
            let is_certain = foreseen.calls.low > 0.0;
            let early =
                |range: &mut Range| *range = if is_certain { Range { low: 0.0, ..*range } } else { range.or_none() };
            let Foreseen { calls, tokens_in, tokens_out, cost, seconds, .. } = foreseen;
            [calls, tokens_in, tokens_out].into_iter().chain(cost).chain(seconds).for_each(early);
            foreseen.rests_if = on.clone();
        }
    }
}

fn add_answers(asked: &mut Asked, one: &Unanswered) {
    for (port, question, count) in &one.answers {
        *asked.had.entry((port.to_string(), question.to_string())).or_default() += *count as f64;
    }
}

fn rows_of(node: &Node) -> Vec<NodeRef> {
    let tables = node.stage.inputs().into_iter().filter(|input| input.form == Form::Rows);
    tables.map(|input| input.from).collect()
}

fn prompt_bytes(node: &Node) -> f64 {
    node.stage.prompts().iter().map(|(_, prompt)| prompt.text().len()).max().unwrap_or(0) as f64
}

fn most_rows(tallies: &[Tally]) -> f64 {
    tallies.iter().map(|tally| tally.calls.count).fold(0.0, f64::max)
}

/// Rows of these that reach an output, as many as before. `most` is what one row may become.
fn share(rows: Range, output: &str, experience: Option<&Experience>, most: f64) -> Range {
    let before = experience.filter(|experience| experience.same_settings);
    let share = before.and_then(|before| {
        let rows_in = before.rows_in.filter(|rows| *rows > 0.0)?;
        Some((rows_in, *before.rows_out.get(output)? as f64 / rows_in))
    });
    match share {
        Some((rows_in, share)) => {
            // Laplace's rule of succession: of few rows, none lost does not mean that none can be.
            let smooth = ((share * rows_in + 1.0) / (rows_in + 2.0)).clamp(0.0, 1.0);
            let out = rows.sum_of(&Each::measured(share, smooth * (1.0 - smooth), rows_in, most));
            Range { low: 0.0, high: out.high.min(rows.high * most.max(share)).max(out.likely_high), ..out }
        }
        None => Range::between(0.0, rows.expected, rows.high),
    }
}

/// The rows that were played to their end as a measure for those that were not.
fn of_play(played: &Played, rows: f64, last: Option<Experience>) -> Experience {
    let tables = played.outputs.artifacts.iter();
    let tables = tables.filter_map(|(name, artifact)| Some((name.clone(), artifact.row_count()? as u64)));
    let last = last.as_ref();
    Experience {
        rows_in: Some(rows),
        rows_out: tables.collect(),
        tallies: played.paid.clone(),
        answers: played.paid.iter().map(|tally| tally.calls.sum).sum(),
        sent: last.map_or(0.0, |last| last.sent),
        sent_tokens: last.map_or([0.0; 2], |last| last.sent_tokens),
        seconds: last.map_or(0.0, |last| last.seconds),
        other_models: Vec::new(),
        same_settings: true,
        grown_bytes: Default::default(),
        source: "as the replies that are kept".to_string(),
    }
}

/// As long a call as before, or as long a row where nothing is asked.
fn seconds(
    node: &Node,
    rows: Option<&Range>,
    experience: Option<&Experience>,
    foreseen: &mut Foreseen,
) -> Option<Range> {
    let experience = experience?;
    if !node.stage.models().is_empty() && !node.stage.needs_device() {
        if foreseen.calls.high == 0.0 {
            return Some(Range::ZERO);
        }
        let is_timed = experience.sent > 0.0 && experience.other_models.is_empty();
        return is_timed.then(|| foreseen.calls.times(experience.seconds / experience.sent));
    }
    let before = experience.rows_in.filter(|rows| *rows > 0.0);
    match (rows, before) {
        (Some(rows), Some(before)) => Some(rows.times(experience.seconds / before)),
        _ => Some(Range::exactly(experience.seconds)),
    }
}
